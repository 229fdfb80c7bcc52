//! ISO 7816-4 secure messaging on logical channels, beside the secure channels of SCP03. An application opens it with keys of its own; from
//! the answer to that command on, the logical channel takes protected commands alone.

use core::ops::{Deref, DerefMut};

use sekisho_apdu::{CApdu, Cla, SecureMessaging, StatusWord};
use sekisho_messaging::SmError;
use sekisho_messaging::card::CardMessaging;
use sekisho_messaging::schedule::Schedule;
use sekisho_messaging::setup::Opened;

use crate::interface::{ContainerId, Interface, Place};
use crate::registry::Instance;
use crate::secure::KeyRef;

/// The interface keeps the last answer ([`crate::response::WaitingAnswer`]).
type Messaging = CardMessaging<Schedule, 0>;

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
enum Contents {
    Free(#[allow(dead_code)] Zeros),
    Taken(Slot),
}

/// Room for the secure messaging of one logical channel.
pub struct Entry(Contents);

impl Entry {
    const FREE: Self = Self(Contents::Free(Zeros([0; size_of::<Slot>()])));

    const fn slot(&self) -> Option<&Slot> {
        match &self.0 {
            Contents::Taken(slot) => Some(slot),
            Contents::Free(_) => None,
        }
    }
}

/// The secure messaging of all logical channels: [`MessagingPlaces`] of the platform's, whatever their number.
pub struct Messagings<E: ?Sized = [Entry]> {
    /// How many have been opened.
    openings: u32,
    entries: E,
}

/// Memory for secure messaging on so many logical channels at one moment: one for each interface of the platform, which no other takes from it, and those
/// beyond for whoever comes.
pub struct MessagingPlaces<const N: usize>(Messagings<[Entry; N]>);

/// [`MessagingPlaces`].
pub trait MessagingMemory: Deref<Target = Messagings> + DerefMut {
    /// No logical channel has any.
    const NEW: Self;
}

impl<const N: usize> MessagingMemory for MessagingPlaces<N> {
    const NEW: Self = Self(Messagings {
        openings: 0,
        entries: [const { Entry::FREE }; N],
    });
}

impl<const N: usize> Deref for MessagingPlaces<N> {
    type Target = Messagings;

    fn deref(&self) -> &Messagings {
        &self.0
    }
}

impl<const N: usize> DerefMut for MessagingPlaces<N> {
    fn deref_mut(&mut self) -> &mut Messagings {
        &mut self.0
    }
}

impl Messagings {
    fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.entries.iter().filter_map(Entry::slot)
    }

    fn get(&mut self, place: Place) -> Option<&mut Messaging> {
        self.entries.iter_mut().find_map(|entry| match &mut entry.0 {
            Contents::Taken(slot) if slot.owner == place => Some(&mut slot.messaging),
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

    /// Where a logical channel of the interface can open one more: a free place, of which one is left for each interface that has none; else that of
    /// the oldest opening of the interface itself whose reader has proved nothing yet, so that nobody keeps others out without a key; else that of the youngest such opening of an
    /// interface that has more than its own.
    fn room(&self, interface: Interface) -> Option<usize> {
        let count = |interface| {
            self.slots()
                .filter(|slot| slot.owner.interface == interface)
                .count()
        };
        let served = Interface::ALL
            .into_iter()
            .filter(|other| count(*other) > 0)
            .count();
        // The last place is nobody's own.
        let kept_free = match count(interface) {
            0 => 0,
            _ => self.entries.len().saturating_sub(1 + served),
        };
        let all = (0..).zip(&self.entries);
        let mut free = all
            .filter(|(_, entry)| entry.slot().is_none())
            .map(|(at, _)| (0, at));
        free.nth(kept_free)
            .or_else(|| self.openings(|owner| owner == interface).max())
            .or_else(|| self.openings(|owner| count(owner) > 1).min())
            .map(|(_, at)| at)
    }

    /// The openings in which nothing has been proved yet, on the interfaces that `counts` names: each with its age.
    fn openings(&self, counts: impl Fn(Interface) -> bool) -> impl Iterator<Item = (u32, usize)> {
        let all = (0..).zip(self.entries.iter());
        all.filter_map(move |(at, entry)| {
            let slot = entry.slot().filter(|slot| !slot.messaging.is_proved())?;
            counts(slot.owner.interface).then_some((self.openings.wrapping_sub(slot.opened), at))
        })
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
        *entry = Entry(Contents::Taken(Slot {
            owner: place,
            opened: number,
            credential,
            messaging: Messaging::new(opened.schedule, opened.ssc),
        }));
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

    /// Protects an answer into `out` and gives its length; one that does not fit becomes 6F00.
    pub(crate) fn answer(
        &mut self,
        place: Place,
        data: &[u8],
        sw: StatusWord,
        out: &mut [u8],
    ) -> Result<usize, SmError> {
        let messaging = self.get(place).ok_or(SmError::Closed)?;
        match messaging.answer_to(data, sw, out) {
            Err(SmError::BufferTooSmall) => messaging.answer_to(&[], StatusWord::UNKNOWN, out),
            done => done,
        }
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
