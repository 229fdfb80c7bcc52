//! Byte transports to secure elements (SEs): PC/SC, sockets, and the virtual reader of pcscd (vpcd).
//!
//! * The reader's side is a [`Card`]: whole C-APDUs out, whole R-APDUs back, nothing known of their meaning but the procedure bytes of T=0
//!   ([`exchange`]). [`PcscCard`] speaks to a real or virtual reader, [`SocketCard`] to an SE that listens on a TCP port,
//!   [`InProcessCard`] to a closure.
//! * The SE's side is a [`CardSide`]: [`serve_vpcd`] offers it to pcscd, [`serve_listener`] to whoever connects.
//!
//! Sockets carry vpcd's framing in both roles ([`frame`]), or a protocol's own frames by link records: [`LinkCard`] and [`serve_link`]. Every wait is bounded, and so is everything that a peer can make us store.

mod card;
mod error;
mod exchange;
pub mod frame;
mod link;
mod pcsc_card;
mod serve;
mod socket_card;
mod stream;
mod winscard;

pub use card::{Card, InProcessCard, Request};
pub use error::{PcscError, TransportError};
pub use exchange::{Response, exchange, exchange_again};
pub use link::{
    CardLine, Chip, DeviceLine, Lines, LinkAddress, LinkCard, LinkListener, NodeAddress, Seen, Tap,
    serve_link,
};
pub use pcsc_card::PcscCard;
pub use serve::{CardSide, Served, Stop, Transaction, serve_listener, serve_vpcd};
pub use socket_card::SocketCard;
