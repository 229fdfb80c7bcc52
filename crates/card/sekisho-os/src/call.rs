//! What the dispatcher and an application say to each other: who calls, what comes next, and the room in which a command goes to another application
//! and its answer comes back.

use sekisho_apdu::{CApdu, StatusWord, Writer};
use zeroize::Zeroize;

use crate::interface::Place;
use crate::names::EntryId;
use crate::refusal::Refusal;

/// Longest command of one application to another: a short one.
pub const CALL_COMMAND_MAX: usize = 5 + 255 + 1;
/// Longest data field of its answer.
pub const CALL_ANSWER_MAX: usize = 256;
/// Calls that one command may lead to, one after the other.
pub const CALLS_MAX: usize = 4;

/// Who calls an application: from where a command comes, and with what proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Whoever is at an interface. What he has proved is [`Context::authenticated`](crate::Context::authenticated) and [`Context::is_messaging`](crate::Context::is_messaging).
    Interface(Place),
    /// Another application of the container, which has proved nothing but that it is that one.
    Application {
        /// Its identity.
        entry: EntryId,
    },
    /// The SE itself, which installs or deletes the application; the [place](crate::Context::place) says nothing then.
    Platform,
}

/// What comes after a call of an application.
#[derive(Debug)]
pub enum Next {
    /// The answer is whole.
    Done(StatusWord),
    /// Another application is to process a command first: [`Context::forward`](crate::Context::forward) makes it.
    Forward(Call),
    /// The answer goes on: what has been written is a piece of it, and the application is [resumed](crate::Application::resume) when all of that has been fetched.
    /// 6A84 where [no pieces](crate::Context::may_answer_in_pieces) can be fetched.
    More,
}

impl From<StatusWord> for Next {
    fn from(sw: StatusWord) -> Self {
        Self::Done(sw)
    }
}

/// A command to another application. It stands in the dispatcher's own room.
#[derive(Debug)]
pub struct Call {
    /// Who is called.
    pub(crate) to: EntryId,
}

/// Why an application is called again.
#[derive(Clone, Copy, Debug)]
pub enum Resume<'a> {
    /// The answer of the application that was called.
    Answer {
        /// Its data; none with an error.
        data: &'a [u8],
        /// Its status word; 6581, with which the SE stops, does not come back.
        sw: StatusWord,
    },
    /// The piece before has been fetched: the next one is wanted. What is put into records now is not written.
    Piece,
}

/// The command of a call.
pub(crate) struct CallCommand {
    pub(crate) bytes: [u8; CALL_COMMAND_MAX],
    pub(crate) len: usize,
}

impl CallCommand {
    pub(crate) const fn new() -> Self {
        Self {
            bytes: [0; CALL_COMMAND_MAX],
            len: 0,
        }
    }

    pub(crate) fn set(&mut self, command: &CApdu<'_>) -> Result<(), Refusal> {
        let mut writer = Writer::new(&mut self.bytes);
        let written = command.encode(&mut writer);
        self.len = writer.len();
        written.map_err(|_| Refusal(StatusWord::NOT_ENOUGH_MEMORY))
    }
}

/// Room for what applications say to each other during one command.
pub(crate) struct CallRoom {
    pub(crate) command: CallCommand,
    pub(crate) answer: [u8; CALL_ANSWER_MAX],
    /// Bytes of the answer that count.
    pub(crate) answered: usize,
    pub(crate) is_used: bool,
}

impl CallRoom {
    pub(crate) const fn new() -> Self {
        Self {
            command: CallCommand::new(),
            answer: [0; CALL_ANSWER_MAX],
            answered: 0,
            is_used: false,
        }
    }

    /// Wipes both, if there has been a call.
    pub(crate) fn clear(&mut self) {
        if self.command.len > 0 || self.is_used {
            self.command.bytes.zeroize();
            self.command.len = 0;
            self.answer.zeroize();
            self.answered = 0;
            self.is_used = false;
        }
    }
}
