//! What waits on an interface from one command to the next, and which interfaces a platform has.

use crate::chaining::Chain;
use crate::interface::Interface;
use crate::messaging::{MessagingMemory, MessagingPlaces};
use crate::response::WaitingAnswer;

/// What waits on one interface: the chain that it receives, and the answer that GET RESPONSE fetches. Nothing that comes on another interface
/// reaches it.
pub struct InterfaceState {
    pub(crate) chain: Chain,
    pub(crate) waiting: WaitingAnswer,
}

impl InterfaceState {
    /// Nothing waits.
    pub const NEW: Self = Self {
        chain: Chain::new(),
        waiting: WaitingAnswer::new(),
    };

    /// Nothing waits any more.
    pub(crate) fn clear(&mut self) {
        self.chain.clear_at(|_| true);
        self.waiting.drop_at(|_| true);
    }
}

/// The interfaces of a platform, with RAM for what waits on each ([`InterfaceState`]; `docs/spec/card.md`, 1.1). A product with fewer than
/// [all](AllInterfaces) writes its own.
pub trait Interfaces: Sized {
    /// As they are at power-on.
    const NEW: Self;

    /// Memory for secure messaging: [`MessagingPlaces`], one more than there are interfaces.
    type Messagings: MessagingMemory;

    /// An interface; `None` when the platform has it not, and every command on it is answered 6881. Two interfaces never have the same state.
    fn get(&mut self, interface: Interface) -> Option<&mut InterfaceState>;

    /// An interface, and the room in which what comes out of its TLS sessions is processed; `None` where the platform has none for it, and the interface has
    /// no TLS sessions. [`InterfacesWithTls`](crate::InterfacesWithTls) has one for all its interfaces.
    #[cfg(feature = "tls")]
    fn inside(&mut self, _: Interface) -> Option<(&mut InterfaceState, &mut crate::InsideRoom)> {
        None
    }
}

/// All that there are.
pub struct AllInterfaces([InterfaceState; Interface::COUNT]);

impl Interfaces for AllInterfaces {
    const NEW: Self = Self([const { InterfaceState::NEW }; Interface::COUNT]);

    type Messagings = MessagingPlaces<{ Interface::COUNT + 1 }>;

    fn get(&mut self, interface: Interface) -> Option<&mut InterfaceState> {
        self.0.get_mut(interface.index())
    }
}

/// They say nothing of what waits.
impl core::fmt::Debug for InterfaceState {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("InterfaceState").finish_non_exhaustive()
    }
}

impl core::fmt::Debug for AllInterfaces {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("AllInterfaces").finish_non_exhaustive()
    }
}
