//! The secure element's operating system.
//!
//! [`SecureElement`] is the secure element (SE): [`boot`](SecureElement::boot) starts one, [`manufacture`](SecureElement::manufacture) makes
//! one, [`transmit`](SecureElement::transmit) is the only way in. It always answers, whatever the bytes.
//!
//! # What happens to a command
//!
//! 1. **Routing agent**: the interface on which the command came names its [container](ContainerId) (`interface`).
//! 2. **Logical channel**: the class byte names one; it must be open (`channels`).
//! 3. **GET RESPONSE** fetches what waits (`response`): it belongs to the transport, and nothing below sees it, but for an application that
//!    answers in pieces and is asked for the next one.
//! 4. **Chaining**: segments are put together (`chaining`). From here on there are only whole commands.
//! 5. **The operating system's own commands**, SELECT by name and MANAGE CHANNEL, are done here (`select`).
//! 6. **Secure channel**, or ISO 7816-4 **secure messaging**, of which a logical channel has one at most: MAC, then decryption; what comes
//!    out is a plain command and the proof of how its sender is authenticated (`process`, `secure`, `messaging`).
//! 7. **Application**: the dispatcher calls the [`Application`] of the selected registry entry, the OS part like any other, with a [`Context`].
//!    Its writes are kept back. It may send a command to another application, whose writes join its own (`dispatch`).
//! 8. **Commit**: all writes of a command that succeeded, in one transaction, or none (`nvm`).
//! 9. **Protection**: R-ENCRYPTION and R-MAC, or data objects 87, 99 and 8E, and the answer goes out, with GET RESPONSE if it is longer than Ne.
//!
//! An error at any step is a status word, and no step after it happens. In broadcast mode it also ends the secure channel, and the
//! individual one that was saved in it.
//!
//! # Who may do what
//!
//! * An application has its own records and no others: [`Context::get`] takes no name of an application.
//! * What it remembers belongs to its [`Instance`] ([`Pool`]): the same code in another instance, in this container or another, finds nothing of it.
//! * Who asks is a value, the [`Caller`]: an interface, or another application, which brings no proof of anything but that it is that one.
//! * [`SecurityDomain`], its own keys and data, is found by security domains alone, when an interface asks; [`Open`], life cycles, by one whose provider has proved
//!   himself, and [`ContentManagement`] with the privilege for it: what it orders takes an [`Authorisation`], which is made of that proof.
//! * [`PlatformServices`], what is the whole SE's, is found by the issuer security domain of the eSE alone.
//! * The proof of authentication, [`Authenticated`], names security domain, off-card entity, key and level; what it borrows is made by
//!   `sekisho-scp` alone and lives in the secure channel: when that ends, there is nothing left to borrow.
//!
//! # Memory
//!
//! No heap, but for the wasm engine that runs the OS part, within [`Profile::ram`]. The state of an SE is one value of fixed size; what does not fit is
//! answered with 6A84.
//!
//! # Features
//!
//! `os-part` (default): the wasm engine. Without it there is no heap at all, and no OS part: its manifest is refused with 9505, its commands with 6D00.
//!
//! `tls`: the class of TLS sessions (`tls`). Without it that class is answered 6E00.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]

#[cfg(test)]
extern crate std;

#[cfg(feature = "os-part")]
mod announcement;
mod application;
mod authorisation;
mod broadcast;
mod buffers;
mod bulk;
mod call;
mod carrier;
mod chaining;
mod channels;
mod code;
mod container;
mod content;
mod dispatch;
mod element;
mod flash;
mod hosted;
mod identification;
mod interface;
mod issuer;
mod key_pair;
mod keys;
mod leftovers;
mod load;
mod loaded;
pub mod loader;
mod loading;
mod manufacture;
mod memory;
mod messaging;
mod names;
mod not_zero;
pub mod nvm;
mod os_part;
mod pairing;
mod pairing_record;
#[cfg(feature = "os-part")]
mod part;
#[cfg(not(feature = "os-part"))]
#[path = "no_part.rs"]
mod part;
mod process;
mod profile;
mod receipt;
mod refusal;
mod registry;
mod response;
mod routing;
mod secure;
mod select;
mod stack;
mod start;
mod state;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tls")]
mod tls_inside;
#[cfg_attr(
    not(feature = "os-part"),
    allow(dead_code, reason = "there is nothing to keep")
)]
mod transient;

#[cfg(feature = "os-part")]
pub use announcement::{ANNOUNCEMENT_MAX, Announcement};
#[cfg(feature = "tls")]
pub use application::Tls;
pub use application::{Application, Applications, Context, MESSAGING_POLICY};
pub use authorisation::{Authorisation, Authority};
pub use buffers::{AllInterfaces, InterfaceState, Interfaces};
pub use call::{CALL_ANSWER_MAX, CALL_COMMAND_MAX, CALLS_MAX, Call, Caller, Next, Resume};
pub use chaining::COMMAND_DATA_MAX;
pub use container::{Container, ContainerMemory, Containers};
pub use content::LoadFile;
pub use element::SecureElement;
pub use identification::{CIN, IIN};
pub use interface::{ContainerId, Interface, Place, Protocol, WithoutLe};
pub use issuer::{
    ContentManagement, NewApplication, NewLoadFile, Open, PlatformServices, RegistryUpdate, SecurityDomain,
    Token,
};
pub use key_pair::KeyPair;
pub use keys::{KVN_DESIGNER, KVN_INITIAL, KVN_K_AUT, KVN_K_MAC, KVN_KOS, KVN_PAIRING, KeyRecord};
pub use loaded::Loaded;
pub use loader::PartState;
pub use loading::Loading;
pub use manufacture::{FactoryApplication, OwnRecord, Personalisation};
pub use memory::{Pool, State};
pub use messaging::{MessagingMemory, MessagingPlaces, Messagings};
pub use names::EntryId;
pub use not_zero::NotZero;
pub use nvm::Quota;
pub use os_part::OsPart;
pub use pairing::{PROPRIETARY_ROWS_MAX, Pairing, Row, Rule};
pub use part::PartFailure;
#[cfg(feature = "os-part")]
pub use part::{
    ABI as PART_ABI, BUFFER as PART_BUFFER, FUEL as PART_FUEL, FUEL_OF_A_NUMBER as PART_FUEL_OF_A_NUMBER,
    NoPart, check as check_part,
};
pub use profile::{Product, Profile};
pub use refusal::{Outcome, Refusal};
pub use registry::{
    ENTRIES_MAX, Entry, EntryKind, ImplicitSelection, Instance, InterfaceAccess, Module, Registry,
    RegistryView,
};
pub use response::RESPONSE_DATA_MAX;
pub use secure::{Authenticated, KeyRef, OffCardEntity};
pub use sekisho_link::ResetCounts;
pub use sekisho_scp::ScpParameter;
pub use start::BootError;
pub use state::Platform;
#[cfg(feature = "tls")]
pub use tls::TLS_MANAGER;
#[cfg(feature = "tls")]
pub use tls_inside::{InsideRoom, InterfacesWithTls, Peer, REACH_MAX, Speaker, TlsHeard};
pub use transient::TRANSIENT;
