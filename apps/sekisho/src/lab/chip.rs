//! The device of the lab whose SE is on an emulated chip.

use anyhow::{Context, Result};
use sekisho_apdu::gp::ins;
use sekisho_os::{Interface, Personalisation, Profile};
use sekisho_transport::{Card, CardSide, TransportError};
use std::path::Path;

use super::device::{ANSWER_MAX, lost};
use super::faults::Fault;
use crate::card::board::{self, Board, OnBoard};
use crate::card::element::{self, FleetSe};
use crate::card::ram_flash::RamFlash;

/// The block of the update in which the power goes, if it does.
const CUT_IN: u8 = 5;

/// A chip in its socket.
pub(super) struct Socket {
    board: Board,
    side: OnBoard,
    fault: Option<Fault>,
    answer: Vec<u8>,
}

impl Socket {
    /// Makes the SE in this process, as whoever makes cards does, and starts the chip on what it has written. The chip's flash becomes a file in `folder`.
    pub(super) fn new(
        personalisation: &Personalisation<'_>,
        profile: &Profile,
        fault: Option<Fault>,
        (firmware, folder): (&Path, &Path),
    ) -> Result<Self> {
        let flash = RamFlash::for_profile(profile);
        let (se, _): (FleetSe<_>, _) = element::start_as(flash, profile, &[personalisation])?;
        let path = folder.join("chip.flash");
        board::make(&path, se.flash(), profile)?;
        let board = Board::start(firmware, &path, false).context("the emulated chip")?;
        Ok(Self {
            side: board.on(Interface::Spi),
            board,
            fault,
            answer: vec![0; ANSWER_MAX],
        })
    }
}

impl Card for Socket {
    fn transmit(&mut self, capdu: &[u8]) -> Result<Vec<u8>, TransportError> {
        let is_cut = matches!(capdu, [_, ins::WRITE, _, CUT_IN, ..]) && self.fault == Some(Fault::PowerCut);
        if is_cut {
            self.fault = None;
            self.board.cut_power(Interface::Spi, capdu);
            self.side.reset();
            return Err(lost("the power was cut"));
        }
        match self.side.transmit(capdu, &mut self.answer) {
            0 => Err(lost("the chip does not answer")),
            len => Ok(self.answer[..len].to_vec()),
        }
    }

    fn reset(&mut self) -> Result<Vec<u8>, TransportError> {
        self.side.reset();
        Ok(self.side.atr())
    }
}
