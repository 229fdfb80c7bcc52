//! The secure channels: which one is open on a logical channel, and how far its opening has come.

use sekisho_keys::AesKey;
use sekisho_link::Custody;
use sekisho_scp::card::{
    Authenticated, BroadcastChannel, BroadcastCheckpoint, BroadcastStart, Initiated, SecureChannel,
};

use crate::interface::Place;
use crate::stack;

/// Secure channels of the whole SE at one moment. One more is refused (6A84); none is closed in favour of another (GPC 10.2.3).
pub(crate) const SECURE_CHANNELS_MAX: usize = 4;

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

/// Bytes of the longest state.
const LONGEST: usize = {
    let (open, broadcast) = (
        size_of::<OpenChannel>(),
        size_of::<BroadcastChannel>() + size_of::<AesKey>(),
    );
    if open > broadcast { open } else { broadcast }
};

/// As long as the longest state: a state without keys that is written over one with keys leaves nothing of it. A value without contents would
/// leave what it is shorter by, or bring along what stood where it was made.
#[allow(dead_code)] // written, never read
pub(crate) struct Zeros([u8; LONGEST]);

const ZEROS: Zeros = Zeros([0; LONGEST]);

/// The secure channel of one logical channel.
#[allow(dead_code)] // zeros are written, never read
pub(crate) enum State {
    /// None; commands come in the clear and are not authenticated.
    None(Zeros),
    /// It was open and met a security error: every command but INITIALIZE UPDATE is refused until the application session ends
    /// (GPC 10.2.3, Amd D 5.6).
    Aborted(Zeros),
    /// INITIALIZE UPDATE has been answered.
    Initiated { initiated: Initiated, dek: AesKey },
    /// Open.
    Open(OpenChannel),
    /// Broadcast mode; the individual channel is saved inside.
    Broadcast { channel: BroadcastChannel, dek: AesKey },
}

impl State {
    /// No secure channel.
    pub(crate) const NONE: Self = Self::None(ZEROS);
    /// One that met a security error.
    pub(crate) const ABORTED: Self = Self::Aborted(ZEROS);

    /// Takes the state away; none is left, nor any byte of its keys, which stay where they were when a value is merely moved.
    pub(crate) fn take(&mut self) -> Self {
        let taken = match self {
            Self::None(_) => Self::NONE,
            Self::Aborted(_) => Self::ABORTED,
            Self::Initiated { initiated, dek } => Self::Initiated {
                initiated: initiated.take(),
                dek: dek.clone(),
            },
            // A key set that was kept is used before, or not at all.
            Self::Open(OpenChannel { channel, dek, .. }) => Self::Open(OpenChannel {
                channel: channel.take(),
                dek: dek.clone(),
                kept: Kept::NOTHING,
            }),
            Self::Broadcast { channel, dek } => Self::Broadcast {
                channel: channel.take(),
                dek: dek.clone(),
            },
        };
        *self = Self::NONE;
        taken
    }

    /// Saves the individual channel and goes to broadcast mode, at a checkpoint if there is one.
    pub(crate) fn enter_broadcast(&mut self, start: BroadcastStart, resume: Option<&BroadcastCheckpoint>) {
        if let Self::Open(OpenChannel { channel, dek, .. }) = self.take() {
            let mut channel = channel.enter_broadcast(start);
            if let Some(checkpoint) = resume {
                channel.resume_at(checkpoint);
            }
            *self = Self::Broadcast { channel, dek };
        }
    }

    /// Returns to the saved individual channel; `stack` is how much of the stack holds what has been moved.
    ///
    /// [`State::Open`] is shorter than [`State::Broadcast`], and a value that is moved may take with it what stood behind its end: the broadcast
    /// keys, were the stack below this function not wiped before the value is made.
    #[inline(never)]
    pub(crate) fn leave_broadcast(&mut self, stack: usize) {
        if let Self::Broadcast { channel, dek } = self.take() {
            let open = OpenChannel {
                channel: channel.return_to_saved(),
                dek,
                kept: Kept::NOTHING,
            };
            stack::wipe(stack);
            self.settle(open);
        }
    }

    #[inline(never)]
    fn settle(&mut self, open: OpenChannel) {
        *self = Self::Open(open);
    }

    pub(crate) const fn is_broadcast(&self) -> bool {
        matches!(self, Self::Broadcast { .. })
    }
}

struct Slot {
    owner: Option<Place>,
    /// Version of the key set that opens it.
    kvn: u8,
    state: State,
}

/// The secure channels of all logical channels.
pub(crate) struct SecureChannels([Slot; SECURE_CHANNELS_MAX]);

impl SecureChannels {
    pub(crate) const fn new() -> Self {
        Self(
            [const {
                Slot {
                    owner: None,
                    kvn: 0,
                    state: State::NONE,
                }
            }; SECURE_CHANNELS_MAX],
        )
    }

    /// The state of a logical channel, if it has any but "none".
    pub(crate) fn get(&mut self, place: Place) -> Option<&mut State> {
        self.0
            .iter_mut()
            .find(|slot| slot.owner == Some(place))
            .map(|slot| &mut slot.state)
    }

    /// The proof of a logical channel's open individual secure channel.
    pub(crate) fn authenticated(&self, place: Place) -> Option<&Authenticated> {
        match &self.0.iter().find(|slot| slot.owner == Some(place))?.state {
            State::Open(open) => open.channel.authenticated(),
            _ => None,
        }
    }

    /// Whether a logical channel has an open secure channel, or one that is saved in broadcast mode.
    pub(crate) fn is_proved(&self, place: Place) -> bool {
        self.0.iter().any(|slot| {
            slot.owner == Some(place) && matches!(slot.state, State::Open(_) | State::Broadcast { .. })
        })
    }

    /// The state of a logical channel, to be set; `None` when there are too many.
    pub(crate) fn claim(&mut self, place: Place, kvn: u8) -> Option<&mut State> {
        let at = self
            .0
            .iter()
            .position(|slot| slot.owner == Some(place))
            .or_else(|| {
                self.0
                    .iter()
                    .position(|slot| matches!(slot.state, State::None(_)))
            })?;
        let slot = self.0.get_mut(at)?;
        slot.owner = Some(place);
        slot.kvn = kvn;
        Some(&mut slot.state)
    }

    /// Ends the secure channels of the logical channels that `is_gone` names; tells whether one was in broadcast mode.
    pub(crate) fn end(&mut self, is_gone: impl Fn(Place) -> bool) -> bool {
        let mut was_broadcast = false;
        for slot in &mut self.0 {
            if slot.owner.is_some_and(&is_gone) {
                was_broadcast |= slot.state.is_broadcast();
                *slot = Slot {
                    owner: None,
                    kvn: 0,
                    state: State::NONE,
                };
            }
        }
        was_broadcast
    }

    /// A logical channel other than `own` with a secure channel of this key version, or one that is being opened.
    pub(crate) fn opened_with(&self, kvn: u8, own: Place) -> Option<Place> {
        let is_it = |slot: &&Slot| slot.kvn == kvn && slot.owner != Some(own);
        self.0.iter().filter(is_it).find_map(|slot| slot.owner)
    }

    /// Whether no logical channel has any, nor is opening one.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|slot| matches!(slot.state, State::None(_)))
    }

    /// Wipes the broadcast key sets that are kept.
    pub(crate) fn forget_key_sets(&mut self) {
        for slot in &mut self.0 {
            if let State::Open(open) = &mut slot.state {
                open.kept = Kept::NOTHING;
            }
        }
    }

    /// Whether a logical channel is in broadcast mode: there can be one at a time, as there is one loader.
    pub(crate) fn any_broadcast(&self) -> bool {
        self.0.iter().any(|slot| slot.state.is_broadcast())
    }
}
