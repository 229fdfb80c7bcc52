//! ISO 7816-4 secure messaging on logical channels, beside the secure channels of SCP03. An application opens it with keys of its own; from
//! the answer to that command on, the logical channel takes protected commands alone.

use sekisho_apdu::{CApdu, Cla, SecureMessaging, StatusWord};
use sekisho_messaging::SmError;
use sekisho_messaging::card::CardMessaging;
use sekisho_messaging::schedule::Schedule;
use sekisho_messaging::setup::Opened;

use crate::interface::{ContainerId, Interface, Place};
use crate::registry::Instance;
use crate::response::RESPONSE_ROOM;
use crate::secure::KeyRef;

/// Logical channels that can have secure messaging at one moment: two readers, or two devices and what stands between them.
pub(crate) const MESSAGINGS_MAX: usize = 2;

/// A protected answer with its status word.
const ANSWER_MAX: usize = RESPONSE_ROOM + 2;

type Messaging = CardMessaging<Schedule, ANSWER_MAX>;

/// What opened secure messaging: a key of an application, by the number that the application gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Credential {
    /// The application.
    pub(crate) application: Instance,
    /// The application's own number.
    pub(crate) number: u16,
}

/// What opens a session no longer, so that what it opened ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Revoked {
    /// One credential.
    One(Credential),
    /// Whatever secure messaging was opened in a container, under the policy as it was.
    All(ContainerId),
    /// A key set of SCP03. The channel through which its keys were changed goes on (`docs/spec/keys.md`, 3).
    KeySet(KeyRef),
}

impl Revoked {
    /// The container in which it is.
    pub(crate) const fn container(self) -> ContainerId {
        match self {
            Self::One(credential) => credential.application.container,
            Self::All(container) => container,
            Self::KeySet(key) => key.domain.container,
        }
    }
}

/// Whether a class byte says that the command is protected, with its header (ISO/IEC 7816-4, 5.4.1: 0C on logical channels 0 to 3, 20 on 4 to 19).
pub(crate) fn is_meant_by(cla: Cla) -> bool {
    match cla.secure_messaging() {
        SecureMessaging::IsoHeader => true,
        SecureMessaging::Proprietary => cla.logical_channel() > 3,
        _ => false,
    }
}

struct Slot {
    owner: Place,
    /// When, by the count of openings.
    opened: u32,
    credential: Credential,
    messaging: Messaging,
}

/// As long as a slot. A value without contents would bring along what stood where it was made: keys of the command that is being processed.
#[allow(dead_code)] // written, never read
struct Zeros([u8; size_of::<Slot>()]);

#[allow(
    clippy::large_enum_variant,
    reason = "both are as long, so that the one wipes the other"
)]
enum Entry {
    Free(#[allow(dead_code)] Zeros),
    Taken(Slot),
}

impl Entry {
    const FREE: Self = Self::Free(Zeros([0; size_of::<Slot>()]));

    const fn slot(&self) -> Option<&Slot> {
        match self {
            Self::Taken(slot) => Some(slot),
            Self::Free(_) => None,
        }
    }
}

/// The secure messaging of all logical channels.
pub(crate) struct Messagings {
    entries: [Entry; MESSAGINGS_MAX],
    /// How many have been opened.
    openings: u32,
}

impl Messagings {
    pub(crate) const fn new() -> Self {
        Self {
            entries: [const { Entry::FREE }; MESSAGINGS_MAX],
            openings: 0,
        }
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.entries.iter().filter_map(Entry::slot)
    }

    fn get(&mut self, place: Place) -> Option<&mut Messaging> {
        self.entries.iter_mut().find_map(|entry| match entry {
            Entry::Taken(slot) if slot.owner == place => Some(&mut slot.messaging),
            _ => None,
        })
    }

    /// Whether no logical channel has any.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots().next().is_none()
    }

    pub(crate) fn is_open(&self, place: Place) -> bool {
        self.slots().any(|slot| slot.owner == place)
    }

    /// Whether a logical channel has secure messaging in which a right command has come.
    pub(crate) fn is_proved(&self, place: Place) -> bool {
        self.slots()
            .any(|slot| slot.owner == place && slot.messaging.is_proved())
    }

    /// Where a logical channel of the interface can open one more: a free place, or one whose reader has proved nothing yet, so that nobody keeps
    /// others out without a key. Of these first one of the interface itself, and the oldest first.
    fn room(&self, interface: Interface) -> Option<usize> {
        let rank = |entry: &Entry| match entry.slot() {
            None => Some((2, 0)),
            Some(slot) if slot.messaging.is_proved() => None,
            Some(slot) => {
                let is_own = slot.owner.interface == interface;
                Some((i32::from(is_own), self.openings.wrapping_sub(slot.opened)))
            }
        };
        let ranks = (0..)
            .zip(&self.entries)
            .filter_map(|(at, entry)| Some((rank(entry)?, at)));
        ranks.max().map(|(_, at)| at)
    }

    /// Whether one more can be opened on the interface.
    pub(crate) fn has_room(&self, interface: Interface) -> bool {
        self.room(interface).is_some()
    }

    /// Opens; gives the logical channel that had to make room, if one had to.
    pub(crate) fn open(&mut self, place: Place, credential: Credential, opened: Opened) -> Option<Place> {
        let at = self.room(place.interface)?;
        let number = self.openings;
        let entry = self.entries.get_mut(at)?;
        let before = entry.slot().map(|before| before.owner);
        *entry = Entry::Taken(Slot {
            owner: place,
            opened: number,
            credential,
            messaging: Messaging::new(opened.schedule, opened.ssc),
        });
        self.openings = number.wrapping_add(1);
        before
    }

    /// A logical channel whose secure messaging was opened by what has been revoked.
    pub(crate) fn opened_by(&self, revoked: Revoked) -> Option<Place> {
        let is_gone = |slot: &&Slot| match revoked {
            Revoked::One(credential) => slot.credential == credential,
            Revoked::All(container) => slot.credential.application.container == container,
            Revoked::KeySet(_) => false,
        };
        self.slots().find(is_gone).map(|slot| slot.owner)
    }

    /// Takes a command: the plain one, or `None` when it is the last command once more.
    ///
    /// # Errors
    /// The messaging is closed then, but for [`SmError::TooLong`], which is answered with protection.
    pub(crate) fn receive<'p>(
        &mut self,
        place: Place,
        command: &CApdu<'_>,
        plain: &'p mut [u8],
    ) -> Result<Option<CApdu<'p>>, SmError> {
        let messaging = self.get(place).ok_or(SmError::Closed)?;
        messaging.receive_parsed(command, plain)
    }

    /// Mixes fresh randomness in, between command and answer.
    pub(crate) fn refresh(&mut self, place: Place, secret: &[u8]) -> Result<(), SmError> {
        self.get(place).ok_or(SmError::Closed)?.refresh(secret)
    }

    /// Protects an answer; one that does not fit becomes 6F00.
    pub(crate) fn answer(&mut self, place: Place, data: &[u8], sw: StatusWord) -> Result<&[u8], SmError> {
        let messaging = self.get(place).ok_or(SmError::Closed)?;
        if messaging.fits(data.len()) {
            messaging.answer(data, sw)
        } else {
            messaging.answer(&[], StatusWord::UNKNOWN)
        }
    }

    /// The protected answer that went out last.
    pub(crate) fn last_answer(&mut self, place: Place) -> &[u8] {
        self.get(place).map_or(&[], |messaging| messaging.last_answer())
    }

    /// Ends the secure messaging of the logical channels that `is_gone` names, and wipes its keys.
    pub(crate) fn end(&mut self, is_gone: impl Fn(Place) -> bool) {
        for entry in &mut self.entries {
            if entry.slot().is_some_and(|slot| is_gone(slot.owner)) {
                *entry = Entry::FREE;
            }
        }
    }
}
