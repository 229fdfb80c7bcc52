//! MSG: what the server tells a device (`docs/spec/paging.md`, 5).

use core::fmt;

use sekisho_apdu::{DecodeError, Reader};

use crate::keys::Keyspace;

/// The longest interval that a device accepts, in seconds: 31 days.
pub const INTERVAL_MAX: u32 = 31 * 24 * 3600;
/// The shortest, in seconds.
pub const INTERVAL_MIN: u32 = 1;

/// MSG with its order number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Message {
    /// Grows with each message to a device. A device acts on an order once, however often it comes; 0 is no order: there is nothing.
    pub order: u32,
    /// What to do.
    pub action: Action,
}

/// What a device is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Action {
    /// No updates.
    #[default]
    Nothing,
    /// An update is available: begin its download after so many seconds.
    Update(u32),
    /// Open an HTTPS session to the management server after so many seconds.
    OpenHttps(u32),
    /// Poll at this interval, in seconds: less or more often than before.
    PollEvery(u32),
    /// Make a new key pair in the SE, of this type, and have its public part certified.
    GenerateKeys(u32),
    /// Use the transport identity of this number from now on.
    TransportIdentity(u32),
    /// The identity in this answer belongs to another keyspace.
    MoveTo(Keyspace),
    /// A kind that this version does not know, with its argument.
    Unknown(u8, u32),
}

impl Action {
    /// KIND and ARG.
    pub const fn parts(self) -> (u8, u32) {
        match self {
            Self::Nothing => (0x00, 0),
            Self::Update(delay) => (0x01, delay),
            Self::OpenHttps(delay) => (0x02, delay),
            Self::PollEvery(seconds) => (0x03, seconds),
            Self::GenerateKeys(kind) => (0x04, kind),
            Self::TransportIdentity(number) => (0x05, number),
            Self::MoveTo(to) => (0x06, to.to_u32()),
            Self::Unknown(kind, argument) => (kind, argument),
        }
    }

    /// The action of these values. An argument that makes no sense makes the action unknown: the device does nothing then.
    pub const fn from_parts(kind: u8, argument: u32) -> Self {
        match (kind, argument) {
            (0x00, 0) => Self::Nothing,
            (0x01, delay) => Self::Update(delay),
            (0x02, delay) => Self::OpenHttps(delay),
            (0x03, seconds @ INTERVAL_MIN..=INTERVAL_MAX) => Self::PollEvery(seconds),
            (0x04, kind) => Self::GenerateKeys(kind),
            (0x05, number) => Self::TransportIdentity(number),
            (0x06, keyspace) => Self::MoveTo(Keyspace::from_u32(keyspace)),
            _ => Self::Unknown(kind, argument),
        }
    }
}

/// Why a name and an argument are no action to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAction {
    /// There is no action of this name.
    Name,
    /// The argument makes no sense for it.
    Argument,
}

impl fmt::Display for NoAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => {
                "the actions are update, open-https, poll-every, generate-keys, transport-identity and move"
            }
            Self::Argument => {
                "the argument is out of range: an interval has 1 to 2678400 seconds, a domain is 0 to 255"
            }
        })
    }
}

impl core::error::Error for NoAction {}

impl Action {
    /// The action that an operator names. `move` takes a domain; the generation is the one after the device's, whichever that is when it hears
    /// of it.
    ///
    /// # Errors
    /// [`NoAction`].
    pub fn named(name: &str, argument: u32) -> Result<Self, NoAction> {
        let (kind, argument) = match name {
            "update" => (0x01, argument),
            "open-https" => (0x02, argument),
            "poll-every" => (0x03, argument),
            "generate-keys" => (0x04, argument),
            "transport-identity" => (0x05, argument),
            "move" => {
                let domain = u8::try_from(argument).map_err(|_| NoAction::Argument)?;
                let to = Keyspace {
                    domain,
                    generation: 0,
                };
                (0x06, to.to_u32())
            }
            _ => return Err(NoAction::Name),
        };
        match Self::from_parts(kind, argument) {
            Self::Unknown(..) => Err(NoAction::Argument),
            action => Ok(action),
        }
    }
}

impl Message {
    /// Nothing to say.
    pub const NOTHING: Self = Self {
        order: 0,
        action: Action::Nothing,
    };

    /// KIND | ORDER | ARG: 9 bytes, as the device keeps a message that it has yet to act on.
    pub(crate) fn to_bytes(self) -> [u8; 9] {
        let (kind, argument) = self.action.parts();
        let [o0, o1, o2, o3] = self.order.to_be_bytes();
        let [a0, a1, a2, a3] = argument.to_be_bytes();
        [kind, o0, o1, o2, o3, a0, a1, a2, a3]
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let kind = reader.u8()?;
        let order = reader.u32()?;
        let argument = reader.u32()?;
        Ok(Self {
            order,
            action: Action::from_parts(kind, argument),
        })
    }
}
