//! The card's role.

mod broadcast;
mod channel;
mod initiation;
mod protection;

pub use broadcast::{BroadcastChannel, BroadcastCheckpoint, BroadcastStart};
pub use channel::{Proof, SecureChannel};
pub use initiation::{InitializeUpdate, Initiated, initiate};
