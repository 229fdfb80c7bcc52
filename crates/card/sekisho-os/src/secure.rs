//! The secure channels: which one is open on a logical channel, and how far its opening has come.

use sekisho_keys::AesKey;
use sekisho_link::Custody;
use sekisho_scp::SecurityLevel;
use sekisho_scp::card::{
    BroadcastChannel, BroadcastCheckpoint, BroadcastStart, Initiated, Proof, SecureChannel,
};

use crate::channels::Channels;
use crate::interface::{Interface, Place};
use crate::registry::Instance;
use crate::stack::Stack;

/// A key set of a security domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRef {
    /// The security domain.
    pub domain: Instance,
    /// The key version.
    pub kvn: u8,
}

/// Whom a secure channel authenticates (GPC 10.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OffCardEntity {
    /// The provider of the security domain, who alone has its keys.
    Provider,
}

/// Who has sent a command: an off-card entity that has proved a key of a security domain. It is borrowed from the secure channel, whose
/// [`Proof`] nothing but `sekisho-scp` makes, and ends with it.
#[derive(Clone, Copy, Debug)]
pub struct Authenticated<'p> {
    domain: Instance,
    proof: &'p Proof,
}

impl Authenticated<'_> {
    /// The security domain whose secure channel it is.
    pub const fn domain(&self) -> Instance {
        self.domain
    }

    /// The off-card entity. SCP03 knows one.
    pub const fn entity(&self) -> OffCardEntity {
        OffCardEntity::Provider
    }

    /// The key set that it has proved.
    pub const fn key(&self) -> KeyRef {
        KeyRef {
            domain: self.domain,
            kvn: self.proof.kvn(),
        }
    }

    /// The security level of the secure channel.
    pub const fn level(&self) -> SecurityLevel {
        self.proof.level()
    }

    /// The sequence counter with which the secure channel was opened, 24 bits; 0 where the card challenge is random.
    pub const fn sequence_counter(&self) -> u32 {
        self.proof.sequence_counter()
    }
}

/// Secure channels of the whole SE at one moment, opening or open: one of each interface, which no other takes from it, and three more. One that is
/// open is closed in favour of no other (GPC 10.2.3); one that is being opened has proved nothing, and makes room.
const SLOTS: usize = Interface::COUNT + 3;

/// An open individual secure channel.
pub(crate) struct OpenChannel {
    pub(crate) channel: SecureChannel,
    /// Key-DEK of the key set that opened it: the host goes on using it when PUT KEY replaces that very key set.
    pub(crate) dek: AesKey,
    /// The broadcast key set of a CHANGE MODE of its own, until the one that uses it.
    pub(crate) kept: Kept,
}

/// A broadcast key set, its keys unwrapped, and what it is for.
pub(crate) struct KeptKeySet {
    pub(crate) custody: Custody,
    /// The campaign's number, in bytes, which need no room to be aligned.
    pub(crate) campaign: [u8; 8],
    pub(crate) start: BroadcastStart,
}

/// A key set that is kept, or zeros that are as long.
pub(crate) enum Kept {
    /// None.
    Nothing(#[allow(dead_code)] [u8; size_of::<KeptKeySet>()]),
    /// One.
    Set(KeptKeySet),
}

impl Kept {
    pub(crate) const NOTHING: Self = Self::Nothing([0; size_of::<KeptKeySet>()]);

    pub(crate) const fn set(&self) -> Option<&KeptKeySet> {
        match self {
            Self::Set(set) => Some(set),
            Self::Nothing(_) => None,
        }
    }
}

/// What the secure channel does at CHANGE MODE.
pub(crate) enum ModeChange {
    /// After the answer: saves the individual channel and goes to broadcast mode, at a checkpoint if there is one.
    Broadcast {
        start: BroadcastStart,
        resume: Option<BroadcastCheckpoint>,
    },
    /// After the answer: returns to the saved individual channel.
    Saved,
    /// Before the answer, which is the saved individual channel's: returns to it.
    Left,
}

/// Room for the longest slot, its place and its age.
const LONGEST: usize = {
    let (open, broadcast) = (
        size_of::<OpenChannel>(),
        size_of::<BroadcastChannel>() + size_of::<AesKey>(),
    );
    let longest = if open > broadcast { open } else { broadcast };
    longest + 16
};

/// At least as long as the longest slot: a slot without keys that is written over one with keys leaves nothing of it. A value without contents would
/// leave what it is shorter by, or bring along what stood where it was made.
#[allow(dead_code)] // written, never read
pub(crate) struct Zeros([u8; LONGEST]);

/// The secure channel of one logical channel.
#[allow(dead_code)] // zeros are written, never read
pub(crate) enum Slot {
    /// Nobody's.
    Free(Zeros),
    /// INITIALIZE UPDATE has been answered, and nothing proved yet.
    Initiated {
        place: Place,
        /// The key set that opens it.
        key: KeyRef,
        /// When, by the count of openings.
        opened: u32,
        initiated: Initiated,
        dek: AesKey,
    },
    /// Open.
    Open {
        place: Place,
        key: KeyRef,
        session: OpenChannel,
    },
    /// Broadcast mode; the individual channel is saved inside.
    Broadcast {
        place: Place,
        key: KeyRef,
        channel: BroadcastChannel,
        dek: AesKey,
    },
}

impl Slot {
    /// Nobody's.
    pub(crate) const FREE: Self = Self::Free(Zeros([0; LONGEST]));

    /// Whose it is, and the key set that opens it.
    const fn owner(&self) -> Option<(Place, KeyRef)> {
        match self {
            Self::Free(_) => None,
            Self::Initiated { place, key, .. }
            | Self::Open { place, key, .. }
            | Self::Broadcast { place, key, .. } => Some((*place, *key)),
        }
    }

    fn is_of(&self, place: Place) -> bool {
        self.owner().is_some_and(|(owner, _)| owner == place)
    }

    fn is_on(&self, interface: Interface) -> bool {
        self.owner()
            .is_some_and(|(owner, _)| owner.interface == interface)
    }

    /// Takes the contents away; none are left, nor any byte of their keys, which stay where they were when a value is merely moved.
    pub(crate) fn take(&mut self) -> Self {
        let taken = match self {
            Self::Free(_) => Self::FREE,
            Self::Initiated {
                place,
                key,
                opened,
                initiated,
                dek,
            } => Self::Initiated {
                place: *place,
                key: *key,
                opened: *opened,
                initiated: initiated.take(),
                dek: dek.clone(),
            },
            // A key set that was kept is used before, or not at all.
            Self::Open {
                place,
                key,
                session: OpenChannel { channel, dek, .. },
            } => Self::Open {
                place: *place,
                key: *key,
                session: OpenChannel {
                    channel: channel.take(),
                    dek: dek.clone(),
                    kept: Kept::NOTHING,
                },
            },
            Self::Broadcast {
                place,
                key,
                channel,
                dek,
            } => Self::Broadcast {
                place: *place,
                key: *key,
                channel: channel.take(),
                dek: dek.clone(),
            },
        };
        *self = Self::FREE;
        taken
    }

    /// Saves the individual channel and goes to broadcast mode, at a checkpoint if there is one.
    pub(crate) fn enter_broadcast(&mut self, start: BroadcastStart, resume: Option<&BroadcastCheckpoint>) {
        if let Self::Open {
            place,
            key,
            session: OpenChannel { channel, dek, .. },
        } = self.take()
        {
            let mut channel = channel.enter_broadcast(start);
            if let Some(checkpoint) = resume {
                channel.resume_at(checkpoint);
            }
            *self = Self::Broadcast {
                place,
                key,
                channel,
                dek,
            };
        }
    }

    /// Returns to the saved individual channel; `stack` is what holds what has been moved.
    ///
    /// [`Slot::Open`] is shorter than [`Slot::Broadcast`], and a value that is moved may take with it what stood behind its end: the broadcast
    /// keys, were the stack below this function not wiped before the value is made.
    #[inline(never)]
    pub(crate) fn leave_broadcast(&mut self, stack: Stack) {
        if let Self::Broadcast {
            place,
            key,
            channel,
            dek,
        } = self.take()
        {
            let open = OpenChannel {
                channel: channel.return_to_saved(),
                dek,
                kept: Kept::NOTHING,
            };
            stack.wipe();
            self.settle(place, key, open);
        }
    }

    #[inline(never)]
    fn settle(&mut self, place: Place, key: KeyRef, session: OpenChannel) {
        *self = Self::Open { place, key, session };
    }

    pub(crate) const fn is_broadcast(&self) -> bool {
        matches!(self, Self::Broadcast { .. })
    }
}

/// The secure channels of all logical channels.
pub(crate) struct SecureChannels {
    slots: [Slot; SLOTS],
    /// How many have been begun.
    openings: u32,
    /// By interface, a bit for each logical channel whose secure channel was open and met a security error: every command but INITIALIZE UPDATE is
    /// refused until the application session ends (GPC 10.2.3, Amd D 5.6). It has no keys, and takes nobody's room.
    aborted: [u32; Interface::COUNT],
}

impl SecureChannels {
    pub(crate) const fn new() -> Self {
        Self {
            slots: [const { Slot::FREE }; SLOTS],
            openings: 0,
            aborted: [0; Interface::COUNT],
        }
    }

    /// The slot of a logical channel, if it has one.
    pub(crate) fn get(&mut self, place: Place) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.is_of(place))
    }

    /// Whether a logical channel has a secure channel, is opening one, or has one that met a security error.
    pub(crate) fn is_known(&self, place: Place) -> bool {
        self.is_aborted(place) || self.slots.iter().any(|slot| slot.is_of(place))
    }

    /// The key set with which the secure channel of a logical channel is open, or being opened.
    pub(crate) fn key(&self, place: Place) -> Option<KeyRef> {
        let owners = self.slots.iter().filter_map(Slot::owner);
        owners
            .filter(|(owner, _)| *owner == place)
            .map(|(_, key)| key)
            .next()
    }

    /// The proof of a logical channel's open individual secure channel.
    pub(crate) fn authenticated(&self, place: Place) -> Option<Authenticated<'_>> {
        match self.slots.iter().find(|slot| slot.is_of(place))? {
            Slot::Open { key, session, .. } => Some(Authenticated {
                domain: key.domain,
                proof: session.channel.authenticated()?,
            }),
            _ => None,
        }
    }

    /// Whether a logical channel has an open secure channel, or one that is saved in broadcast mode.
    pub(crate) fn is_proved(&self, place: Place) -> bool {
        let is_proved = |slot: &Slot| matches!(slot, Slot::Open { .. } | Slot::Broadcast { .. });
        self.slots.iter().any(|slot| slot.is_of(place) && is_proved(slot))
    }

    /// Whether the secure channel of a logical channel met a security error.
    pub(crate) fn is_aborted(&self, place: Place) -> bool {
        let row = self.aborted.get(place.interface.index());
        row.is_some_and(|row| row & bit(place) != 0)
    }

    /// Ends the secure channel of a logical channel by a security error.
    pub(crate) fn abort(&mut self, place: Place) {
        self.end(|p| p == place);
        if let Some(row) = self.aborted.get_mut(place.interface.index()) {
            *row |= bit(place);
        }
    }

    /// Begins the secure channel of a logical channel, which has none; false when there is no room.
    pub(crate) fn begin(&mut self, place: Place, key: KeyRef, initiated: Initiated, dek: AesKey) -> bool {
        let opened = self.openings;
        let Some(slot) = self.room(place.interface).and_then(|at| self.slots.get_mut(at)) else {
            return false;
        };
        // What makes room leaves nothing behind the end of a shorter one.
        *slot = Slot::FREE;
        *slot = Slot::Initiated {
            place,
            key,
            opened,
            initiated,
            dek,
        };
        self.openings = opened.wrapping_add(1);
        true
    }

    /// Where a logical channel of the interface can have one: a free slot, of which one is left for each interface that has none; else that of the
    /// oldest opening of the interface itself; else of one that has more than its own.
    fn room(&self, interface: Interface) -> Option<usize> {
        let count = |interface| self.slots.iter().filter(|slot| slot.is_on(interface)).count();
        let free = |(at, slot): (usize, &Slot)| matches!(slot, Slot::Free(_)).then_some(at);
        let mut free = self.slots.iter().enumerate().filter_map(free);
        let reserved = Interface::ALL
            .into_iter()
            .filter(|other| *other != interface && count(*other) == 0);
        let kept_free = if count(interface) == 0 {
            0
        } else {
            reserved.count()
        };
        free.nth(kept_free)
            .or_else(|| self.oldest_opening(|owner| owner == interface))
            .or_else(|| self.oldest_opening(|owner| count(owner) > 1))
    }

    /// The opening that has waited longest on the interfaces that `counts` names.
    fn oldest_opening(&self, counts: impl Fn(Interface) -> bool) -> Option<usize> {
        let age = |slot: &Slot| match slot {
            Slot::Initiated { place, opened, .. } if counts(place.interface) => {
                Some(self.openings.wrapping_sub(*opened))
            }
            _ => None,
        };
        let ages = self
            .slots
            .iter()
            .enumerate()
            .filter_map(|(at, slot)| Some((age(slot)?, at)));
        ages.max().map(|(_, at)| at)
    }

    /// Ends the secure channels of the logical channels that `is_gone` names; tells whether one was in broadcast mode.
    pub(crate) fn end(&mut self, is_gone: impl Fn(Place) -> bool) -> bool {
        let mut was_broadcast = false;
        for slot in &mut self.slots {
            if slot.owner().is_some_and(|(place, _)| is_gone(place)) {
                was_broadcast |= slot.is_broadcast();
                *slot = Slot::FREE;
            }
        }
        if self.aborted != [0; Interface::COUNT] {
            for place in Channels::places().filter(|place| is_gone(*place)) {
                if let Some(row) = self.aborted.get_mut(place.interface.index()) {
                    *row &= !bit(place);
                }
            }
        }
        was_broadcast
    }

    /// A logical channel other than `own` with a secure channel of this key set, or one that is being opened.
    pub(crate) fn opened_with(&self, key: KeyRef, own: Place) -> Option<Place> {
        let owners = self.slots.iter().filter_map(Slot::owner);
        owners
            .filter(|(place, with)| *with == key && *place != own)
            .map(|(place, _)| place)
            .next()
    }

    /// Whether no logical channel has any, nor is opening one.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.iter().all(|slot| matches!(slot, Slot::Free(_)))
    }

    /// Wipes the broadcast key sets that are kept.
    pub(crate) fn forget_key_sets(&mut self) {
        for slot in &mut self.slots {
            if let Slot::Open { session, .. } = slot {
                session.kept = Kept::NOTHING;
            }
        }
    }

    /// Whether a logical channel is in broadcast mode: there can be one at a time, as there is one loader.
    pub(crate) fn any_broadcast(&self) -> bool {
        self.slots.iter().any(Slot::is_broadcast)
    }
}

/// A logical channel's bit in the row of its interface; there are 20 at most.
const fn bit(place: Place) -> u32 {
    1 << (place.logical_channel & 31)
}
