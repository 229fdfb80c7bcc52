//! Commands that come on a pipe, one at a time, and their answers.

use super::packet::{Buffer, Kind, Passing, Taken};

const NO_ANSWER: [u8; 2] = [0x6F, 0x00];
const WRONG_LENGTH: [u8; 2] = [0x67, 0x00];

/// What a packet was to whoever takes commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Took {
    /// A piece of a command, or of one that is passed over since another one is here.
    Piece,
    /// The last piece: `Side::message` has it.
    Whole,
    /// The last piece of one that is longer than the buffer.
    TooLong,
    /// Nothing of a command: something else on this pipe.
    Nothing,
}

/// One command, from its first packet to the last one of its answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Side<const LEN: usize> {
    pub(super) heard: Buffer<LEN>,
    pub(super) out: Buffer<LEN>,
    /// A command that is passed over.
    passing: Passing,
    has_command: bool,
    taken: bool,
    abandoned: bool,
}

impl<const LEN: usize> Side<LEN> {
    /// The link stands anew: nothing of before is here.
    pub(super) fn restart(&mut self) {
        self.drop_command();
        self.out.clear();
        self.passing = Passing::default();
    }

    /// The command goes, and its answer; but what has been begun goes to its end, or it would run together with what follows.
    pub(super) fn drop_command(&mut self) {
        self.abandoned |= self.taken;
        self.has_command = false;
        self.passing.rest_of(&mut self.heard);
        if !self.out.is_begun() {
            self.out.clear();
        }
    }

    /// Takes a packet of a pipe on which commands begin with this header. While one is here another is an error of the other end, and passed over.
    pub(super) fn hear(&mut self, packet: &[u8], header: u8) -> Took {
        let [first, rest @ ..] = packet else {
            return Took::Nothing;
        };
        let (pipe, is_last) = (first & 0x7F, first & 0x80 != 0);
        if self.passing.takes(pipe, is_last) {
            return Took::Piece;
        }
        let begins = rest.first() == Some(&header);
        if !self.has_command && self.heard.is_partial(pipe) || begins && self.is_free() {
            return match self.heard.put_together(packet) {
                Taken::Whole => Took::Whole,
                Taken::TooLong => Took::TooLong,
                Taken::Piece => Took::Piece,
            };
        }
        if begins {
            self.passing.begin(pipe, is_last);
            return Took::Piece;
        }
        Took::Nothing
    }

    fn is_free(&self) -> bool {
        !self.has_command && self.out.is_empty()
    }

    /// What has come whole is a command, or none.
    pub(super) fn keep(&mut self, is_command: bool) {
        self.has_command = is_command;
        if !is_command {
            self.heard.clear();
        }
    }

    /// What has come whole has no length that a command can have: it is answered, and nothing runs.
    pub(super) fn refuse(&mut self, pipe: u8, event: u8) {
        self.keep(false);
        self.out.put(pipe, Kind::Event.header(event), &WRONG_LENGTH);
    }

    /// A command waits to be run.
    pub(super) const fn waits(&self) -> bool {
        self.has_command && !self.taken
    }

    pub(super) const fn take(&mut self) {
        self.taken = true;
    }

    /// The pipe of the command that is here.
    pub(super) fn pipe(&self) -> Option<u8> {
        let message = self.heard.message().filter(|_| self.has_command);
        message.map(|message| message.pipe)
    }

    /// Whoever sent the command that is being run still waits for its answer.
    pub(super) const fn is_awaited(&self) -> bool {
        self.has_command && !self.abandoned
    }

    /// The answer goes out, if whoever asked still waits for it.
    pub(super) fn answer(&mut self, event: u8, answer: &[u8]) {
        self.taken = false;
        if core::mem::take(&mut self.abandoned) {
            return;
        }
        let Some(pipe) = self.pipe() else { return };
        let header = Kind::Event.header(event);
        let short = answer.len() < 2;
        if short || !self.out.put(pipe, header, answer) {
            self.out
                .put(pipe, header, if short { &NO_ANSWER } else { &WRONG_LENGTH });
        }
        self.keep(false);
    }
}
