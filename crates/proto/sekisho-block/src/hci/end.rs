//! How an exchange ended, kept until it is asked for.

use super::packet::Buffer;
use crate::{Ended, Fault};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Answer,
    NotRun(Fault),
    Unknown(Fault),
}

impl End {
    /// Without an answer: it is unknown what became of a command of which the card may have something.
    pub(super) const fn without_answer(fault: Fault, may_have_reached: bool) -> Self {
        if may_have_reached {
            Self::Unknown(fault)
        } else {
            Self::NotRun(fault)
        }
    }

    /// The same, with the answer that has been heard.
    pub(super) fn told<const LEN: usize>(self, heard: &Buffer<LEN>) -> Ended<'_> {
        match self {
            Self::Answer => Ended::Answer(heard.message().map_or(&[][..], |message| message.data)),
            Self::NotRun(fault) => Ended::NotRun(fault),
            Self::Unknown(fault) => Ended::Unknown(fault),
        }
    }
}
