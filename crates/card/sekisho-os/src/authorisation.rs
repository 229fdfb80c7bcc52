//! What a command orders of the card's content, and who has authorised it (GPC 9.1.3).
//!
//! An [`Authorisation`] is made in two places: of the proof that a command brought, and for the product that holds the SE as a value. Nothing is installed,
//! deleted or given to another security domain without one (`content`).

use sekisho_apdu::gp::{ApplicationLifeCycle, Privileges};
use sekisho_apdu::{Aid, StatusWord};

use crate::container::Container;
use crate::interface::Place;
use crate::names::EntryId;
use crate::nvm::Quota;
use crate::refusal::Refusal;
use crate::registry::{Entry, ImplicitSelection, Instance, InterfaceAccess};
use crate::secure::{Authenticated, KeyRef};

/// Who has authorised a change of content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Authority {
    /// The provider of a security domain with the privilege Authorized Management, by this key set.
    OwnManagement(KeyRef),
    /// The provider of a security domain with the privilege Delegated Management, by this key set, for what a token of the container's issuer is over.
    Delegated(KeyRef),
    /// The provider of a security domain with the privilege Global Delete, by this key set: for what is deleted, wherever in the container.
    GlobalDelete(KeyRef),
    /// Whoever holds the SE as a value: the product that it is built into.
    Product,
}

/// The number of a token, as it says it: the identifier that a receipt has of it (GPC 11.1.6); none where it says none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenNumber {
    bytes: [u8; 4],
    len: u8,
}

impl TokenNumber {
    pub(crate) const NONE: Self = Self {
        bytes: [0; 4],
        len: 0,
    };

    /// Of one to four bytes.
    pub(crate) fn new(number: &[u8]) -> Option<Self> {
        let mut bytes = [0; 4];
        bytes.get_mut(..number.len())?.copy_from_slice(number);
        let len = u8::try_from(number.len()).ok().filter(|len| *len > 0)?;
        Some(Self { bytes, len })
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len.into()).unwrap_or_default()
    }

    pub(crate) fn value(self) -> u32 {
        self.as_bytes()
            .iter()
            .fold(0, |n, byte| n << 8 | u32::from(*byte))
    }
}

/// That content may be installed under a security domain, and be deleted or given away where it is under it. Its fields are nobody's to fill in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authorisation {
    domain: Instance,
    authority: Authority,
    token: TokenNumber,
}

impl Authorisation {
    /// By the off-card entity that has sent a command to a security domain.
    ///
    /// # Errors
    /// As of [`proved`]; 6985 with neither of the privileges Authorized Management and Delegated Management. Where it is delegated its token is to be verified.
    pub(crate) fn management(
        proof: Option<Authenticated<'_>>,
        container: &Container,
        domain: &Entry,
    ) -> Result<Self, Refusal> {
        let key = proved(proof, container, domain)?;
        let authority = if has(domain, Privileges::AUTHORIZED_MANAGEMENT).is_ok() {
            Authority::OwnManagement(key)
        } else {
            has(domain, Privileges::DELEGATED_MANAGEMENT)?;
            Authority::Delegated(key)
        };
        Ok(Self {
            domain: Instance {
                container: container.id,
                entry: domain.id,
            },
            authority,
            token: TokenNumber::NONE,
        })
    }

    /// Of deletions, by the off-card entity that has sent a command to a security domain: as if it were under the issuer security domain.
    ///
    /// # Errors
    /// As of [`proved`]; 6985 without the privilege Global Delete.
    pub(crate) fn global_delete(
        proof: Option<Authenticated<'_>>,
        container: &Container,
        domain: &Entry,
    ) -> Result<Self, Refusal> {
        let key = proved(proof, container, domain)?;
        has(domain, Privileges::GLOBAL_DELETE)?;
        let of_root = Self::of_product(container);
        of_root
            .map(|root| Self {
                authority: Authority::GlobalDelete(key),
                ..root
            })
            .ok_or(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED))
    }

    /// By the product, under the issuer security domain; `None` for a container that has not been made.
    pub(crate) fn of_product(container: &Container) -> Option<Self> {
        Some(Self {
            domain: Instance {
                container: container.id,
                entry: container.root()?,
            },
            authority: Authority::Product,
            token: TokenNumber::NONE,
        })
    }

    /// The security domain under which it holds.
    pub const fn domain(&self) -> Instance {
        self.domain
    }

    /// Whether it is by a token.
    pub const fn is_delegated(&self) -> bool {
        matches!(self.authority, Authority::Delegated(_))
    }

    /// The same by a token with this number.
    pub(crate) const fn by_token(self, token: TokenNumber) -> Self {
        Self { token, ..self }
    }

    /// The number of its token.
    pub(crate) const fn token(&self) -> TokenNumber {
        self.token
    }

    /// Who has given it.
    pub const fn authority(&self) -> Authority {
        self.authority
    }
}

/// The key set by which the sender of a command has proved himself to a security domain: one of it, or of a domain above it, whose keys it is opened with
/// while it has none.
///
/// # Errors
/// 6982 unless the command came through the domain's secure channel, with a C-MAC.
pub(crate) fn proved(
    proof: Option<Authenticated<'_>>,
    container: &Container,
    domain: &Entry,
) -> Result<KeyRef, Refusal> {
    let registry = &container.registry;
    let index = |id| registry.entry(id).map(|(index, _)| index);
    let is_above = |id| {
        index(domain.id)
            .zip(index(id))
            .is_some_and(|(below, above)| registry.is_within(below, above))
    };
    let key = proof.filter(|proof| {
        let of = proof.domain();
        proof.level().c_mac() && of.container == container.id && is_above(of.entry)
    });
    key.map(|proof| proof.key())
        .ok_or(Refusal(StatusWord::SECURITY_STATUS_NOT_SATISFIED))
}

/// 6985 without a privilege.
pub(crate) fn has(entry: &Entry, privilege: Privileges) -> Result<(), Refusal> {
    if entry.privileges.contains(privilege) {
        Ok(())
    } else {
        Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED))
    }
}

/// What a command orders; it is done when the application has processed the command, and the command is refused if it is not.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    /// An application is to come, with the parameters of the command that orders it.
    Install {
        by: Authorisation,
        /// Registry index of the load file that it comes from.
        load_file: u8,
        aid: Aid,
        privileges: Privileges,
        access: InterfaceAccess,
        implicit: ImplicitSelection,
        life_cycle: ApplicationLifeCycle,
        quota: Quota,
        secure_only: bool,
    },
    /// An application is to go, or a load file, with what comes from it or without.
    Delete {
        by: Authorisation,
        entry: EntryId,
        related: bool,
    },
    /// A load file is to come, from this place, for a security domain; its AID and digest stand in the command that orders it.
    BeginLoad {
        by: Authorisation,
        place: Place,
        domain: EntryId,
    },
    /// Its next block has come: of this number, and whether it is the last.
    Load {
        by: Authorisation,
        place: Place,
        number: u8,
        is_last: bool,
    },
}
