//! The other end of TLS sessions that end in secure elements (SEs): a TLS server that gives commands instead of serving requests.
//!
//! An SE that connects is proved by its certificate; then one record carries one C-APDU, and the record that answers it one R-APDU
//! (`docs/spec/tls-apdu.md`, section 6). What has become of a command is always one of three: done, with its answer; not sent; or unknown,
//! when the session ended behind it. Nothing unknown is repeated here.
//!
//! * [`Gateway`]: certificates, bounds, and the door.
//! * [`Session`]: an SE that has been proved; commands go in, answers come out.
//! * [`Identity`]: who it is.
//! * [`check_request`]: whether a request that comes out of a session may be certified.
//! * [`Refusals`]: connections that became no session, counted by why.
//!
//! There is no store: who runs what on which SE is the caller's to know.

#![forbid(unsafe_code)]

mod gateway;
mod identity;
mod refusals;
mod request;
mod rooms;
mod session;

pub use gateway::{AcceptError, Credentials, Gateway, GatewayError, Settings};
pub use identity::Identity;
pub use refusals::{Reason, Refusals};
pub use request::{RequestError, check_request};
pub use rooms::Room;
pub use session::{Counts, Lost, Outcome, SendError, Session};
