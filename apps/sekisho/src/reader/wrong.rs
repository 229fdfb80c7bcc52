//! What a reader says when no right answer comes. Nothing of it is proved: whoever stands between reader and card can have made it.

use core::fmt;

use sekisho_messaging::SmError;
use sekisho_messaging::reader::MAX_WRONG_ANSWERS;
use sekisho_transport::TransportError;

/// What came in place of a right answer.
pub(super) enum Wrong {
    /// No answer, or none with a status word.
    Silence(TransportError),
    /// An answer in the clear, or one that is not protected as it should be.
    Answer(SmError),
}

/// Whether the way to the card is still there after this, so that the same bytes can go out again.
pub(super) const fn is_silence(error: &TransportError) -> bool {
    matches!(
        error,
        TransportError::Timeout
            | TransportError::ShortResponse(_)
            | TransportError::EndlessResponse
            | TransportError::Pcsc(_)
            | TransportError::Unknown(_)
            | TransportError::NotRun(_)
    )
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silence(TransportError::Timeout) => f.write_str("no answer in time"),
            Self::Silence(TransportError::ShortResponse(len)) => write!(f, "an answer of {len} bytes"),
            Self::Silence(error) => error.fmt(f),
            Self::Answer(SmError::Unprotected(sw)) if sw.0 == 0x9000 => f.write_str("9000 in the clear"),
            Self::Answer(SmError::Unprotected(sw)) => {
                write!(f, "{:04X} in the clear ({})", sw.0, sw.meaning())
            }
            Self::Answer(error) => error.fmt(f),
        }
    }
}

/// All that came for one command.
#[derive(Default)]
pub(super) struct WrongAnswers {
    /// In words, and how often; in the order in which they came.
    seen: Vec<(String, u32)>,
    in_the_clear: bool,
    changed: bool,
}

impl WrongAnswers {
    pub(super) fn note(&mut self, wrong: &Wrong) {
        match wrong {
            Wrong::Silence(_) => {}
            Wrong::Answer(SmError::Unprotected(_)) => self.in_the_clear = true,
            Wrong::Answer(_) => self.changed = true,
        }
        let words = wrong.to_string();
        match self.seen.iter_mut().find(|(seen, _)| *seen == words) {
            Some((_, times)) => *times += 1,
            None => self.seen.push((words, 1)),
        }
    }
}

impl fmt::Display for WrongAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "no right answer to a command that was sent {MAX_WRONG_ANSWERS} times:"
        )?;
        for (at, (words, times)) in self.seen.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma} {times} x {words}")?;
        }
        f.write_str(match (self.in_the_clear, self.changed) {
            (true, _) => {
                "; a card that has closed secure messaging answers in the clear, and so can whoever stands between reader and card"
            }
            (false, true) => "; something stands between reader and card",
            (false, false) => "; the card is silent, or something keeps its answers",
        })?;
        f.write_str(". Whether the command was carried out is not known")
    }
}
