//! What a reset leaves behind it.
//!
//! A board keeps one [`Resets`] in RAM that its start does not touch. It is believed when its check value is right; power-on gives it none.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use sekisho_os::{Interface, ResetCounts};

/// Why a chip reset itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// The code came to a place that cannot be.
    Panic = 0,
    /// An access that the chip refuses.
    Fault = 1,
    /// The stack has no room left.
    Stack = 2,
    /// The random source is not random.
    Random = 3,
}

impl Cause {
    /// Number of causes.
    pub const COUNT: usize = 4;
}

/// Starts in a row that may fail before a chip stops trying.
const TRIES: u32 = 3;
/// What a record that is believed is made with.
const MARK: u32 = 0x5345_4B31;
/// Added to a command's interface, so that zero is none.
const COMMAND: u32 = 0x80;

/// Counts of resets by cause since power-on, and the command that runs. All zero is as good as any other content. The counts come first, for who looks from outside.
#[derive(Debug)]
#[repr(C)]
pub struct Resets {
    counts: [AtomicU32; Cause::COUNT],
    /// Interface of the command that runs, with [`COMMAND`].
    running: AtomicU32,
    /// Starts that have not come to a first command.
    tries: AtomicU32,
    check: AtomicU32,
}

/// How a chip has come to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The interface whose command ended in a reset.
    pub broken_off: Option<Interface>,
    /// It has failed to start so often that it is to stay as it is.
    pub is_hopeless: bool,
    /// The RAM has kept nothing: the chip got its power, and has not reset itself.
    pub is_power_on: bool,
}

impl Resets {
    /// As it is linked; what counts is what the RAM holds.
    pub const fn new() -> Self {
        Self {
            counts: [const { AtomicU32::new(0) }; Cause::COUNT],
            running: AtomicU32::new(0),
            tries: AtomicU32::new(0),
            check: AtomicU32::new(0),
        }
    }

    fn words(&self) -> impl Iterator<Item = &AtomicU32> {
        self.counts.iter().chain([&self.running, &self.tries])
    }

    fn sum(&self) -> u32 {
        self.words().fold(MARK, |sum, word| {
            sum.rotate_left(5).wrapping_mul(0x9E37_79B1) ^ word.load(Relaxed)
        })
    }

    fn seal(&self) {
        self.check.store(self.sum(), Relaxed);
    }

    /// At the chip's start: what the last one has left, and that this one is a try.
    pub fn start(&self) -> Start {
        let is_power_on = self.check.load(Relaxed) != self.sum();
        if is_power_on {
            self.words().for_each(|word| word.store(0, Relaxed));
        }
        let broken_off = self.running.load(Relaxed).checked_sub(COMMAND);
        let broken_off = broken_off.and_then(|index| Interface::ALL.get(index as usize).copied());
        let tries = self.tries.load(Relaxed).saturating_add(1);
        self.tries.store(tries, Relaxed);
        self.seal();
        Start {
            broken_off,
            is_hopeless: tries > TRIES,
            is_power_on,
        }
    }

    /// The chip has started, and has answered what was broken off.
    pub fn started(&self) {
        self.tries.store(0, Relaxed);
        self.running.store(0, Relaxed);
        self.seal();
    }

    /// A command begins.
    pub fn began(&self, interface: Interface) {
        self.running
            .store(COMMAND + u32::try_from(interface.index()).unwrap_or(0), Relaxed);
        self.seal();
    }

    /// It has ended.
    pub fn ended(&self) {
        self.running.store(0, Relaxed);
        self.seal();
    }

    /// The chip is about to reset itself.
    pub fn count(&self, cause: Cause) {
        if let Some(count) = self.counts.get(cause as usize) {
            count.store(count.load(Relaxed).saturating_add(1), Relaxed);
        }
        self.seal();
    }

    /// How often it has since power-on.
    pub fn counts(&self) -> ResetCounts {
        let [panics, faults, stack, random] = self
            .counts
            .each_ref()
            .map(|count| u16::try_from(count.load(Relaxed)).unwrap_or(u16::MAX));
        ResetCounts {
            panics,
            faults,
            stack,
            random,
        }
    }
}

impl Default for Resets {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_did_it_is_known_once() {
        let resets = Resets::new();
        assert_eq!(resets.start().broken_off, None, "power-on");
        resets.started();
        resets.began(Interface::Spi);
        resets.count(Cause::Panic);
        assert_eq!(resets.start().broken_off, Some(Interface::Spi));
        resets.started();
        assert_eq!(resets.start().broken_off, None);
        let one_panic = ResetCounts {
            panics: 1,
            ..ResetCounts::default()
        };
        assert_eq!(resets.counts(), one_panic);
        resets.began(Interface::Iso7816Contact);
        resets.ended();
        assert_eq!(resets.start().broken_off, None);
    }

    #[test]
    fn what_the_ram_holds_at_power_on_is_not_believed() {
        let resets = Resets::new();
        resets.start();
        resets.began(Interface::Spi);
        resets.count(Cause::Fault);
        resets.running.store(COMMAND, Relaxed);
        assert_eq!(resets.start().broken_off, None, "a bit has changed");
        assert_eq!(resets.counts(), ResetCounts::default());
    }

    #[test]
    fn it_stops_trying() {
        let resets = Resets::new();
        for _ in 0..TRIES {
            assert!(!resets.start().is_hopeless);
            resets.count(Cause::Random);
        }
        assert!(resets.start().is_hopeless);
        resets.started();
        assert!(!resets.start().is_hopeless);
    }
}
