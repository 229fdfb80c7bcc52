//! OPEN for a security domain: the card's life cycle and locks ([`Open`]), and content management ([`ContentManagement`]).

use sekisho_apdu::gp::{ApplicationLifeCycle, CardLifeCycle, Privileges};
use sekisho_apdu::{Aid, StatusWord, Writer};
use sekisho_nvm::Flash as _;

use super::privileges::{may_have, put_with_reset};
use super::{SecurityDomain, object_of};
use crate::application::{Context, MESSAGING_POLICY};
use crate::authorisation::{Authorisation, Order, TokenNumber, has, proved};
use crate::container::{CardRecord, store_entry};
use crate::identification::{self, STORED_MAX};
use crate::interface::ContainerId;
use crate::keys::{self, KVN_TOKEN, KeyStore};
use crate::names::EntryId;
use crate::nvm::Quota;
use crate::receipt;
use crate::refusal::Refusal;
use crate::registry::{Entry, FACTORY_INDEX, ISD_INDEX, ImplicitSelection, InterfaceAccess, Module, answers};
use crate::secure::KeyRef;

/// The data objects that a terminated card goes on answering: IIN, CIN and the policy for readers; none is longer than this.
const KEPT: [u16; 3] = [0x0042, 0x0045, MESSAGING_POLICY];
const KEPT_MAX: usize = 32;

/// The data object of the root that has the number of the last token that had one; no command shows it.
const TOKEN_NUMBER: u16 = 0x0093;

/// Life cycle of card and applications, during one command's processing, with who has proved himself.
pub struct Open<'c, 'a> {
    context: &'c mut Context<'a>,
    by: KeyRef,
}

/// Content management, during one command's processing, with who has authorised it.
pub struct ContentManagement<'c, 'a> {
    pub(super) context: &'c mut Context<'a>,
    by: Authorisation,
}

/// A command and its token (GPC C.4).
#[derive(Clone, Copy, Debug)]
pub struct Token<'d> {
    /// P1 of the command, without the bit of a part.
    pub p1: u8,
    /// P2 of the command.
    pub p2: u8,
    /// Its data field up to the token's tag or length.
    pub data: &'d [u8],
    /// `r || s`, or none.
    pub signature: &'d [u8],
}

impl Token<'_> {
    /// Verifies it with the key of the container's root, over P1, P2, length and data field.
    ///
    /// # Errors
    /// 6985 when there is none, or no key on P-256; 6A80 for another length than that of a signature on P-256; 6982 for a wrong one; 6581.
    fn verify(&self, context: &mut Context<'_>) -> Result<(), Refusal> {
        let signature = match self.signature {
            [] => return Err(refused()),
            signature => signature
                .try_into()
                .map_err(|_| Refusal(StatusWord::INCORRECT_DATA))?,
        };
        let domain = context.system.container.root().ok_or(refused())?;
        let records = &mut context.records;
        let key = KeyStore { records, domain }.verifier(KVN_TOKEN)?;
        let [.., high, low] = self.data.len().to_be_bytes();
        let (long, short) = ([self.p1, self.p2, 0, high, low], [self.p1, self.p2, low]);
        let header: &[u8] = if high == 0 { &short } else { &long };
        key.verify_parts(&[header, self.data], signature)
            .map_err(|_| no_token())
    }
}

/// An application that is to come, as INSTALL names it.
#[derive(Clone, Copy, Debug)]
pub struct NewApplication<'d> {
    /// AID of its executable load file.
    pub load_file: &'d [u8],
    /// AID of its executable module.
    pub module: &'d [u8],
    /// Its own AID.
    pub aid: &'d [u8],
    /// Its privileges.
    pub privileges: Privileges,
    /// Where it answers.
    pub access: InterfaceAccess,
    /// Where it is selected without being named.
    pub implicit: ImplicitSelection,
    /// INSTALLED or SELECTABLE.
    pub life_cycle: ApplicationLifeCycle,
    /// What room its records have.
    pub quota: Quota,
    /// Reached inside TLS sessions alone.
    pub secure_only: bool,
}

/// A load file that is to come, as INSTALL `[for load]` names it.
#[derive(Clone, Copy, Debug)]
pub struct NewLoadFile<'d> {
    /// Its AID.
    pub aid: &'d [u8],
    /// AID of the security domain that is to have it; none: the one that is asked.
    pub domain: &'d [u8],
    /// SHA-256 digest of its load file data block, or none.
    pub hash: &'d [u8],
    /// Bytes of the area that it needs at least.
    pub code: u32,
}

pub(super) const fn refused() -> Refusal {
    Refusal(StatusWord::CONDITIONS_NOT_SATISFIED)
}

const fn no_token() -> Refusal {
    Refusal(StatusWord::SECURITY_STATUS_NOT_SATISFIED)
}

const fn not_found() -> Refusal {
    Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND)
}

impl<'a> SecurityDomain<'_, 'a> {
    /// Life cycles, as who has sent the command may change them.
    ///
    /// # Errors
    /// 6982 unless the command came through the domain's secure channel, with a C-MAC.
    pub fn open(&mut self) -> Result<Open<'_, 'a>, Refusal> {
        let context = &mut *self.context;
        let by = proved(context.authenticated(), context.system.container, context.entry)?;
        Ok(Open { context, by })
    }

    /// Content management, as who has sent the command has authorised it: with the privilege Authorized Management he may, with Delegated Management what a token is over.
    ///
    /// # Errors
    /// 6982 unless the command came through the domain's secure channel, with a C-MAC, and for a wrong token; 6985 without either privilege, a token that is needed, or a key for it; 6A80
    /// for one that nobody has asked for, and one that is no signature on P-256.
    pub fn content(&mut self, token: &Token<'_>) -> Result<ContentManagement<'_, 'a>, Refusal> {
        let content = self.content_under_way()?;
        if content.by.is_delegated() {
            token.verify(content.context)?;
        } else if !token.signature.is_empty() {
            return Err(Refusal(StatusWord::INCORRECT_DATA));
        }
        Ok(content)
    }

    /// DELETE, as who has sent the command has authorised it: with the privilege Global Delete whatever is in the container, where no token says something else.
    ///
    /// # Errors
    /// As of [`SecurityDomain::content`].
    pub fn deletion(&mut self, token: &Token<'_>) -> Result<ContentManagement<'_, 'a>, Refusal> {
        let context = &*self.context;
        let is_own = has(context.entry, Privileges::AUTHORIZED_MANAGEMENT).is_ok();
        if is_own || !token.signature.is_empty() || has(context.entry, Privileges::GLOBAL_DELETE).is_err() {
            return self.content(token);
        }
        let by =
            Authorisation::global_delete(context.authenticated(), context.system.container, context.entry)?;
        let context = &mut *self.context;
        Ok(ContentManagement { context, by })
    }

    /// Content management that goes on with what was authorised when it began.
    ///
    /// # Errors
    /// As of [`SecurityDomain::content`], but for what is about tokens.
    pub fn content_under_way(&mut self) -> Result<ContentManagement<'_, 'a>, Refusal> {
        let context = &mut *self.context;
        let by = Authorisation::management(context.authenticated(), context.system.container, context.entry)?;
        Ok(ContentManagement { context, by })
    }
}

impl SecurityDomain<'_, '_> {
    /// INSTALL `[for personalization]`: the application whose personalisation comes by STORE DATA.
    ///
    /// # Errors
    /// 6982 unless the command came through the domain's secure channel, with a C-MAC; 6A88 when there is no such application within the domain; 6985 for one that is not associated with the
    /// domain itself, is a domain, or cannot be selected.
    pub fn to_personalise(&mut self, aid: &[u8]) -> Result<EntryId, Refusal> {
        let context = &*self.context;
        proved(context.authenticated(), context.system.container, context.entry)?;
        let (index, entry) = within(context, aid)?;
        let container = context.system.container;
        if !container.registry.shows(index, context.place) {
            return Err(not_found());
        }
        self.check_own(entry.id)?;
        let is_domain = entry.privileges.contains(Privileges::SECURITY_DOMAIN);
        if is_domain || container.usable(entry.id, context.place).is_none() {
            return Err(refused());
        }
        Ok(entry.id)
    }

    /// Whether the application is the domain's own still.
    ///
    /// # Errors
    /// 6A88 when it has gone, 6985 when it is another domain's.
    pub fn check_own(&self, application: EntryId) -> Result<(), Refusal> {
        let registry = &self.context.system.container.registry;
        let own = registry.entry(self.context.entry.id).map(|(index, _)| index);
        let (_, entry) = registry.entry(application).ok_or(not_found())?;
        if entry.security_domain == own {
            Ok(())
        } else {
            Err(refused())
        }
    }

    /// Whether who sends the command is told of the application at a registry index: of all whoever has proved himself, else of what SELECT finds at his place.
    pub fn tells_of(&self, index: u8, entry: &Entry) -> bool {
        let (context, registry) = (&*self.context, &self.context.system.container.registry);
        let is_found = registry.shows(index, context.place) && answers(index, entry, context.place.interface);
        is_found || context.authenticated().is_some()
    }
}

impl SecurityDomain<'_, '_> {
    /// Makes the security domain and all that is within it secure-only, for ever: of the issuer security domain all but itself.
    ///
    /// # Errors
    /// 6982 unless the command came through the domain's secure channel, with a C-MAC; 6985 in a container without a TLS Manager, where nothing would reach it.
    pub fn make_secure_only(&mut self) -> Result<(), Refusal> {
        let context = &mut *self.context;
        proved(context.authenticated(), context.system.container, context.entry)?;
        let registry = &context.system.container.registry;
        let found = registry.entry(context.entry.id);
        let (index, entry) = found.filter(|_| registry.has_tls_manager()).ok_or(refused())?;
        let marked = Entry {
            secure_only: true,
            ..*entry
        };
        put_entry(context, index, &marked)
    }
}

/// What a transition of the card's life cycle takes (GPC Table 6-1).
const fn privilege_for(present: CardLifeCycle, next: CardLifeCycle) -> Privileges {
    match (present, next) {
        (_, CardLifeCycle::Terminated) => Privileges::CARD_TERMINATE,
        (CardLifeCycle::CardLocked, _) | (_, CardLifeCycle::CardLocked) => Privileges::CARD_LOCK,
        _ => Privileges::AUTHORIZED_MANAGEMENT,
    }
}

/// Writes an entry of the registry of a command's container.
pub(super) fn put_entry(context: &mut Context<'_>, index: u8, entry: &Entry) -> Result<(), Refusal> {
    let container = context.system.container.id;
    store_entry(&mut context.records, container, index, entry)?;
    context.system.effects.reload = true;
    Ok(())
}

/// The application with this AID, and its registry index, if it is within the security domain whose command it is.
pub(super) fn within(context: &Context<'_>, aid: &[u8]) -> Result<(u8, Entry), Refusal> {
    let registry = &context.system.container.registry;
    let (own, _) = registry.entry(context.entry.id).ok_or(refused())?;
    let (index, entry) = registry.application(aid).ok_or(not_found())?;
    if registry.is_within(index, own) {
        Ok((index, *entry))
    } else {
        Err(not_found())
    }
}

impl Open<'_, '_> {
    /// The key set that its sender has proved.
    pub const fn by(&self) -> KeyRef {
        self.by
    }

    /// Changes the card's life cycle state. On the way to TERMINATED all keys of all security domains of the container go, and with the eSE's those of the
    /// platform: nothing can use them any more.
    ///
    /// # Errors
    /// 6985 without the privilege for it, for a transition that GPC 5.1.1 does not allow, or one to the present state (GPC 11.10.2.2).
    pub fn set_life_cycle(&mut self, next: CardLifeCycle) -> Result<(), Refusal> {
        let present = self.context.system.container.card.life_cycle;
        has(self.context.entry, privilege_for(present, next))?;
        if !present.may_become(next) {
            return Err(refused());
        }
        if next == CardLifeCycle::Terminated {
            self.delete_all_keys()?;
        }
        let card = CardRecord {
            life_cycle: next,
            ..self.context.system.container.card
        };
        card.store(&mut self.context.records, self.context.system.container.id)?;
        self.context.system.effects.reload = true;
        self.context.system.effects.essential = true;
        Ok(())
    }

    /// Removes all that the security domains of the container keep, but for what GET DATA goes on answering (GPC 5.1.1.5).
    fn delete_all_keys(&mut self) -> Result<(), Refusal> {
        let container = self.context.system.container;
        let records = &mut self.context.records;
        let mut kept = [(0, [0; KEPT_MAX], None); KEPT.len()];
        for ((tag, value, len), object) in kept.iter_mut().zip(KEPT) {
            *tag = object;
            *len = match records.get(object_of(self.context.entry.id, object), value) {
                // Too long for GET DATA as well.
                Err(Refusal(StatusWord::NOT_ENOUGH_MEMORY)) => None,
                found => found?,
            };
        }
        let is_domain = |entry: &Entry| entry.privileges.contains(Privileges::SECURITY_DOMAIN);
        let all = container.registry.applications();
        for (_, domain) in all.filter(|(_, entry)| is_domain(entry)) {
            records.remove_all_of(domain.id)?;
        }
        records.remove(keys::gone(container.id))?;
        if container.id == ContainerId::ESE {
            let domain = self.context.entry.id;
            KeyStore { records, domain }.delete_platforms()?;
        }
        for (tag, value, len) in &kept {
            if let Some(value) = len.and_then(|len| value.get(..len)) {
                let object = object_of(self.context.entry.id, *tag);
                self.context.records.put(object, value)?;
            }
        }
        Ok(())
    }

    /// Locks or unlocks an application (GPC 11.10.2.2): any with the privilege Global Lock; without it a domain locks itself and what is its own, and unlocks
    /// nothing, since who has locked it may have been a domain above.
    ///
    /// # Errors
    /// 6A88 when there is no such application within the domain; 6985 without the privilege to unlock, when it is in that state already, or is the issuer
    /// security domain.
    pub fn set_locked(&mut self, aid: &[u8], locked: bool) -> Result<(), Refusal> {
        let (index, entry) = self.lockable(aid, locked)?;
        if index == ISD_INDEX || !self.lock(index, &entry, locked)? {
            return Err(refused());
        }
        Ok(())
    }

    /// Locks or unlocks a security domain and all that is within it (GPC 11.10.2.1), in one step; what is in that state already stays as it is.
    ///
    /// # Errors
    /// As of [`Open::set_locked`]: 6A88 also for what is no security domain, 6985 when all of them are in that state already.
    pub fn set_all_locked(&mut self, aid: &[u8], locked: bool) -> Result<(), Refusal> {
        let (domain, entry) = self.lockable(aid, locked)?;
        if !entry.privileges.contains(Privileges::SECURITY_DOMAIN) {
            return Err(not_found());
        }
        let registry = &self.context.system.container.registry;
        let mut has_changed = false;
        for (index, entry) in registry.applications() {
            if domain != ISD_INDEX && registry.is_within(index, domain) {
                has_changed |= self.lock(index, entry, locked)?;
            }
        }
        if has_changed { Ok(()) } else { Err(refused()) }
    }

    /// The application with this AID, if the domain may lock or unlock it.
    fn lockable(&self, aid: &[u8], locked: bool) -> Result<(u8, Entry), Refusal> {
        if has(self.context.entry, Privileges::GLOBAL_LOCK).is_ok() {
            let registry = &self.context.system.container.registry;
            let (index, entry) = registry.application(aid).ok_or(not_found())?;
            return Ok((index, *entry));
        }
        let found = within(self.context, aid)?;
        if locked { Ok(found) } else { Err(refused()) }
    }

    /// Locks or unlocks an entry; false when it is so already.
    fn lock(&mut self, index: u8, entry: &Entry, locked: bool) -> Result<bool, Refusal> {
        let life_cycle = ApplicationLifeCycle(entry.life_cycle);
        if life_cycle.is_locked() == locked {
            return Ok(false);
        }
        let entry = Entry {
            life_cycle: life_cycle.with_locked(locked).0,
            ..*entry
        };
        self.context.system.effects.essential = true;
        put_entry(self.context, index, &entry)?;
        Ok(true)
    }
}

impl ContentManagement<'_, '_> {
    /// Who has authorised it.
    pub const fn authorisation(&self) -> Authorisation {
        self.by
    }

    /// A token is for the SE whose root has this IIN or CIN.
    ///
    /// # Errors
    /// 6982 when it has another one; 6581.
    pub fn check_issuer(&mut self, tag: u16, value: &[u8]) -> Result<(), Refusal> {
        let container = self.context.system.container;
        let root = container.root().ok_or(refused())?;
        let mut own = [0; STORED_MAX];
        let mut own = Writer::new(&mut own);
        identification::append(
            &mut self.context.records,
            root,
            tag,
            &container.card.se_id,
            &mut own,
        )?;
        if own.written() == value {
            Ok(())
        } else {
            Err(no_token())
        }
    }

    /// Answers what the command does: with a receipt over `context`, where it is by a token and the root makes one.
    pub(super) fn confirm(&mut self, context: &[&[u8]], out: &mut Writer<'_>) -> Result<(), Refusal> {
        let container = self.context.system.container;
        receipt::count(self.by, container, &mut self.context.records)?;
        receipt::write(self.by, container, &mut self.context.records, context, out)
    }

    /// A token has a number, which is used up with it.
    ///
    /// # Errors
    /// 6A80 unless it has one to four bytes; 6982 unless it is above that of the last token of the container that had one; 6A84, 6581.
    pub fn use_number(&mut self, number: &[u8]) -> Result<(), Refusal> {
        let number = TokenNumber::new(number).ok_or(Refusal(StatusWord::INCORRECT_DATA))?;
        let root = self.context.system.container.root().ok_or(refused())?;
        let (name, mut last) = (object_of(root, TOKEN_NUMBER), [0; 4]);
        self.context.records.get(name, &mut last)?;
        if number.value() <= u32::from_be_bytes(last) {
            return Err(no_token());
        }
        self.by = self.by.by_token(number);
        self.context.records.put(name, &number.value().to_be_bytes())
    }

    /// INSTALL `[for install]`, with `[for make selectable]` or without: it is done when the command has been processed, or the command is refused.
    ///
    /// # Errors
    /// 6A88 when there is no such load file within the domain, or no such module in it; 6A80 for an AID that is there already or is none, and for privileges that
    /// the module cannot have; 6985 for the OS part, of which there is one, where another application is selected without being named already, and for secure-only in a container without a TLS Manager. Then, and with the command's status word: 6A84 when the registry, the memory of
    /// instances or NVM have no room; what the application [refuses](crate::Application::install).
    pub fn install(&mut self, new: &NewApplication<'_>) -> Result<(), Refusal> {
        let wrong = Refusal(StatusWord::INCORRECT_DATA);
        let registry = &self.context.system.container.registry;
        let (own, _) = registry.entry(self.context.entry.id).ok_or(refused())?;
        let (load_file, file, module) = registry.load_file(new.load_file).ok_or(not_found())?;
        if module.as_bytes() != new.module || !registry.is_within(load_file, own) {
            return Err(not_found());
        }
        if file.module == Module::OS_PART {
            return Err(refused());
        }
        let aid = Aid::new(new.aid).ok_or(wrong)?;
        if !may_have(file.module, new.privileges) || registry.iter().any(|(_, entry)| entry.aid == aid) {
            return Err(wrong);
        }
        // No entry has this index. What nothing reaches is not installed.
        if registry.is_taken(u8::MAX, new.implicit) || new.secure_only && !registry.has_tls_manager() {
            return Err(refused());
        }
        self.context.system.effects.order = Some(Order::Install {
            by: self.by,
            load_file,
            aid,
            privileges: new.privileges,
            access: new.access,
            implicit: new.implicit,
            life_cycle: new.life_cycle,
            quota: new.quota,
            secure_only: new.secure_only,
        });
        Ok(())
    }

    /// INSTALL `[for make selectable]`, and its answer.
    ///
    /// # Errors
    /// 6A88 when there is no such application within the domain; 6985 when it is not INSTALLED, unless it gets the privilege Card Reset, which it has not; 6A80 for any other privilege that it
    /// has not.
    pub fn make_selectable(
        &mut self,
        aid: &[u8],
        privileges: Privileges,
        implicit: Option<ImplicitSelection>,
        out: &mut Writer<'_>,
    ) -> Result<(), Refusal> {
        let (index, entry) = within(self.context, aid)?;
        let implicit = implicit.unwrap_or(entry.implicit);
        if implicit != entry.implicit && !self.may_be_selected(index, implicit) {
            return Err(refused());
        }
        let life_cycle = ApplicationLifeCycle(entry.life_cycle);
        let gains_reset = index >= FACTORY_INDEX
            && !entry.privileges.contains(Privileges::CARD_RESET)
            && privileges.contains(Privileges::CARD_RESET);
        let is_installed = life_cycle == ApplicationLifeCycle::INSTALLED;
        if !(is_installed || gains_reset && life_cycle.is_selectable()) {
            return Err(refused());
        }
        let all = if gains_reset {
            entry.privileges.union(Privileges::CARD_RESET)
        } else {
            entry.privileges
        };
        if !all.contains(privileges) {
            return Err(Refusal(StatusWord::INCORRECT_DATA));
        }
        let life_cycle = if is_installed {
            ApplicationLifeCycle::SELECTABLE
        } else {
            life_cycle
        };
        let entry = Entry {
            life_cycle: life_cycle.0,
            privileges: all,
            implicit,
            ..entry
        };
        put_with_reset(self.context, index, &entry)?;
        let load_file = self.aid_of(entry.load_file)?;
        self.confirm(&[load_file.as_bytes(), aid], out)
    }

    /// Whether what is at an index may be selected without being named where this says: it did not come with the operating system, and nobody else is.
    pub(super) fn may_be_selected(&self, index: u8, implicit: ImplicitSelection) -> bool {
        let registry = &self.context.system.container.registry;
        index >= FACTORY_INDEX && !registry.is_taken(index, implicit)
    }

    /// The AID of what an entry names.
    pub(super) fn aid_of(&self, index: Option<u8>) -> Result<Aid, Refusal> {
        let registry = &self.context.system.container.registry;
        registry.whole().aid_of(index).ok_or(refused())
    }

    /// INSTALL `[for extradition]`, and its answer: an application is associated with another security domain.
    ///
    /// # Errors
    /// 6A88 when there is no such application within the domain, or no such domain; 6985 for a locked one, for an application that is itself a domain, came with
    /// the operating system, or is associated with it already.
    pub fn extradite(&mut self, to: &[u8], aid: &[u8], out: &mut Writer<'_>) -> Result<(), Refusal> {
        let (index, before) = within(self.context, aid)?;
        let entry = self.moved(index, &before, to)?;
        put_entry(self.context, index, &entry)?;
        let from = self.aid_of(before.security_domain)?;
        let to = self.aid_of(entry.security_domain)?;
        self.confirm(&[from.as_bytes(), aid, to.as_bytes()], out)
    }

    /// An application's entry as it is associated with another security domain.
    pub(super) fn moved(&self, index: u8, entry: &Entry, to: &[u8]) -> Result<Entry, Refusal> {
        let registry = &self.context.system.container.registry;
        let is_domain = |entry: &Entry| entry.privileges.contains(Privileges::SECURITY_DOMAIN);
        let (to, domain) = registry
            .application(to)
            .filter(|(_, entry)| is_domain(entry))
            .ok_or(not_found())?;
        let may_not = ApplicationLifeCycle(domain.life_cycle).is_locked()
            || is_domain(entry)
            || index < FACTORY_INDEX
            || entry.security_domain == Some(to);
        if may_not {
            return Err(refused());
        }
        Ok(Entry {
            security_domain: Some(to),
            // What a domain has marked stays so when it goes.
            secure_only: registry.is_secure_only(index),
            ..*entry
        })
    }

    /// INSTALL `[for load]`: from here on the load file's blocks are taken that come from the same place.
    ///
    /// # Errors
    /// 6A88 when there is no such security domain within this one; 6985 for a locked one; 6A80 for an AID that is there already or is none, and for a hash that is not of SHA-256. Then, and
    /// with the command's status word: 6A84 when the registry, the memory for load files or the area have no room, or another load is under way in the container; 6581.
    pub fn begin_load(&mut self, new: &NewLoadFile<'_>) -> Result<(), Refusal> {
        let domain = match new.domain {
            [] => *self.context.entry,
            aid => within(self.context, aid)?.1,
        };
        if !domain.privileges.contains(Privileges::SECURITY_DOMAIN) {
            return Err(not_found());
        }
        if ApplicationLifeCycle(domain.life_cycle).is_locked() && domain.id != self.context.entry.id {
            return Err(refused());
        }
        let registry = &self.context.system.container.registry;
        let is_free = |aid: Aid| {
            registry.root_name() != Some(aid) && !registry.iter().any(|(_, entry)| entry.aid == aid)
        };
        if !Aid::new(new.aid).is_some_and(is_free) || !matches!(new.hash.len(), 0 | 32) {
            return Err(Refusal(StatusWord::INCORRECT_DATA));
        }
        let nvm = &self.context.records.nvm;
        let largest = nvm.largest_bulk(self.context.system.container.id) * nvm.flash.page_size();
        if usize::try_from(new.code).is_ok_and(|code| code > largest) {
            return Err(Refusal(StatusWord::NOT_ENOUGH_MEMORY));
        }
        self.context.system.effects.order = Some(Order::BeginLoad {
            by: self.by,
            place: self.context.place,
            domain: domain.id,
        });
        Ok(())
    }

    /// LOAD: a block of the load file that is being loaded; the last one makes it whole.
    ///
    /// # Errors
    /// With the command's status word: 6985 when none is being loaded from here; 6A86 for another number than the next one; 6A80 for what is no load file, is not the one that was announced,
    /// or does not run on this SE; 6A84 when there is no room; 6581. Nothing of it stays then.
    pub fn load(&mut self, number: u8, is_last: bool) {
        self.context.system.effects.order = Some(Order::Load {
            by: self.by,
            place: self.context.place,
            number,
            is_last,
        });
    }

    /// DELETE of an application, whose load file stays, or of a load file that has been loaded, with the applications that come from it if they are meant: it is done when the command has been
    /// processed, or the command is refused.
    ///
    /// # Errors
    /// 6A82 when there is nothing of this AID within the domain; 6985 for a load file from which an application comes that is not meant or not within the domain, the domain itself, what came
    /// with the operating system, and a domain with which others are associated; what an application [refuses](crate::Application::delete).
    pub fn delete(&mut self, aid: &[u8], related: bool) -> Result<(), Refusal> {
        let registry = &self.context.system.container.registry;
        let (own, _) = registry.entry(self.by.domain().entry).ok_or(refused())?;
        let file = || registry.load_file(aid).map(|(index, file, _)| (index, file));
        let found = registry.application(aid).or_else(file);
        let (_, entry) = found
            .filter(|(index, _)| registry.is_within(*index, own))
            .ok_or(Refusal(StatusWord::FILE_NOT_FOUND))?;
        if entry.id == self.context.entry.id {
            return Err(refused());
        }
        self.context.system.effects.essential = true;
        self.context.system.effects.order = Some(Order::Delete {
            by: self.by,
            entry: entry.id,
            related,
        });
        Ok(())
    }
}
