//! The secure channels: which one is open on a logical channel, and how far its opening has come.

use sekisho_keys::AesKey;
use sekisho_scp::card::{Authenticated, BroadcastChannel, Initiated, SecureChannel};

use crate::interface::Place;

/// Secure channels of the whole SE at one moment. One more is refused (6A84); none is closed in favour of another (GPC 10.2.3).
pub(crate) const SECURE_CHANNELS_MAX: usize = 4;

/// An open individual secure channel.
pub(crate) struct OpenChannel {
    pub(crate) channel: SecureChannel,
    /// Key-DEK of the key set that opened it: the host goes on using it when PUT KEY replaces that very key set.
    pub(crate) dek: AesKey,
}

/// The secure channel of one logical channel.
pub(crate) enum State {
    /// None; commands come in the clear and are not authenticated.
    None,
    /// It was open and met a security error: every command but INITIALIZE UPDATE is refused until the application session ends
    /// (GPC 10.2.3, Amd D 5.6).
    Aborted,
    /// INITIALIZE UPDATE has been answered.
    Initiated { initiated: Initiated, dek: AesKey },
    /// Open.
    Open(OpenChannel),
    /// Broadcast mode; the individual channel is saved inside.
    Broadcast { channel: BroadcastChannel, dek: AesKey },
}

impl State {
    /// Takes the state away; none is left.
    pub(crate) fn take(&mut self) -> Self {
        core::mem::replace(self, Self::None)
    }

    pub(crate) const fn is_broadcast(&self) -> bool {
        matches!(self, Self::Broadcast { .. })
    }
}

struct Slot {
    owner: Option<Place>,
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
                    state: State::None,
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

    /// The state of a logical channel, to be set; `None` when there are too many.
    pub(crate) fn claim(&mut self, place: Place) -> Option<&mut State> {
        let at = self
            .0
            .iter()
            .position(|slot| slot.owner == Some(place))
            .or_else(|| self.0.iter().position(|slot| matches!(slot.state, State::None)))?;
        let slot = self.0.get_mut(at)?;
        slot.owner = Some(place);
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
                    state: State::None,
                };
            }
        }
        was_broadcast
    }

    /// Whether a logical channel is in broadcast mode: there can be one at a time, as there is one loader.
    pub(crate) fn any_broadcast(&self) -> bool {
        self.0.iter().any(|slot| slot.state.is_broadcast())
    }
}
