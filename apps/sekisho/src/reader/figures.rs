//! The sequences of the patent's figures 3 to 6, 9 to 12 and 15 to 18 (JP 7206869 B2) with a card.

use anyhow::{Result, bail};
use sekisho_apdu::StatusWord;
use sekisho_keys::AesKey;
use sekisho_messaging::schedule::{Lanes, Selector};
use sekisho_messaging::setup::{DEFAULT_REFRESH_EVERY, Mode};
use sekisho_transport::Card;

use super::trace::Trace;
use super::{Session, Setup};

/// A figure after the opening: number, first and last step, what it does, and the command.
const STEPS: [(u8, &str, &[u8]); 3] = [
    (
        1,
        "a file is selected",
        &[0x00, 0xA4, 0x02, 0x0C, 0x02, 0x00, 0x11],
    ),
    (
        2,
        "data is written",
        &[0x00, 0xD0, 0x00, 0x00, 0x04, 0xDE, 0xAD, 0xBE, 0xEF],
    ),
    (3, "data is read", &[0x00, 0xB0, 0x00, 0x00, 0x04]),
];

/// List numbers of the figures: of the next keys that the reader names in its three commands.
const NUMBERS: [[u8; 2]; 3] = [[12, 3], [5, 9], [17, 18]];

/// The embodiment of a figure: its mode, the figure in which it opens, and the steps of the opening.
const fn embodiment(figure: u8) -> Option<(Mode, u8, &'static str, u8)> {
    match figure {
        3..=6 => Some((Mode::LegacyXor, 3, "S1 to S3", 11)),
        9..=12 => Some((Mode::LegacyList, 9, "S41 to S43", 51)),
        15..=18 => Some((Mode::LegacyOperations, 15, "S81 to S85", 91)),
        _ => None,
    }
}

/// A figure with a sequence, for the command line.
pub(crate) fn figure(text: &str) -> Result<u8, String> {
    text.parse()
        .ok()
        .filter(|figure| embodiment(*figure).is_some())
        .ok_or_else(|| "the figures with a sequence are 3 to 6, 9 to 12 and 15 to 18".to_owned())
}

/// Runs the embodiment of `figure`, from its opening to the figure's end.
pub(crate) fn run(
    card: &mut dyn Card,
    trace: &mut Trace,
    mkey: &AesKey,
    figure: u8,
    lanes: Lanes,
) -> Result<()> {
    let Some((mode, opening, steps, first)) = embodiment(figure) else {
        bail!("no such figure");
    };
    trace.say(&format!(
        "figure {opening}, steps {steps}: the reader's keys go to the card under MKEY ({})",
        mode.name()
    ));
    let setup = Setup {
        mode,
        lanes,
        refresh_every: DEFAULT_REFRESH_EVERY,
    };
    let mut session = Session::open(card, trace, mkey, setup)?;
    for ((after, what, command), [one, other]) in STEPS.into_iter().zip(NUMBERS) {
        if opening + after > figure {
            break;
        }
        let step = first + 10 * (after - 1);
        trace.say(&format!(
            "figure {}, steps S{step} to S{}: {what}",
            opening + after,
            step + 9
        ));
        let selector = match (mode, lanes) {
            (Mode::LegacyXor, _) => Selector::NONE,
            (_, Lanes::Shared) => Selector::one(one),
            (_, Lanes::Separate) => Selector::pair(one, other),
        };
        let answer = session.send_with(card, trace, command, selector)?;
        if !answer.is_ok() {
            bail!(
                "the card answers {:04X}, {}",
                answer.sw,
                StatusWord(answer.sw).meaning()
            );
        }
    }
    Ok(())
}
