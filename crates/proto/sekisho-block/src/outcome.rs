//! What both ends of every protocol share.

/// Microseconds of a clock that never goes back, since whenever it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Micros(pub u64);

impl Micros {
    /// The moment so many microseconds later.
    #[must_use]
    pub const fn after(self, micros: u64) -> Self {
        Self(self.0.saturating_add(micros))
    }
}

/// What a device does to a card's power and reset line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// Power on and reset: a cold reset, from whatever state.
    On,
    /// Power off: whatever is not kept is gone.
    Off,
    /// A reset under power: a warm reset.
    Reset,
}

/// How an exchange ended, for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended<'a> {
    /// The card ran the command once; this is its R-APDU, status word included.
    Answer(&'a [u8]),
    /// The card has not run the command and will not: it may be sent again.
    NotRun(Fault),
    /// The card has run the command, or has not, and its answer is lost. Selection, channels and secure sessions may be gone, counters may have moved: ask, do not repeat.
    Unknown(Fault),
}

/// Why an exchange ended without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Nothing came within the protocol's waiting time, as often as it allows.
    Silent,
    /// What came was damaged or out of order, as often as the protocol allows.
    Garbled,
    /// The card broke the protocol, or does not stop asking for time.
    Protocol,
    /// One of the ends gave the exchange up (ABORT).
    Aborted,
    /// The card was reset, or the link was set up again, within the exchange.
    Reset,
    /// The command, or the answer, is longer than the buffers here.
    TooLong,
}
