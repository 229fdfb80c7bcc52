//! Gates to which a secure element's host makes pipes of its own: the controller's card gates, and the terminal's connectivity gate.

use super::SESSION_LEN;
use super::ids::{
    APPLICATION_DATA, ATQA, GATE_CARD_A, GATE_CARD_B, GATE_CONNECTIVITY, HOST_CONTROLLER, HOST_TERMINAL,
    MODE, MODE_ON, SAK,
};
use crate::atr;

/// How many there are.
pub(super) const OWN: usize = 3;
/// In this order they are asked for.
pub(super) const GATES: [u8; OWN] = [GATE_CARD_A, GATE_CARD_B, GATE_CONNECTIVITY];
/// SAK and ATQA of a card of ISO/IEC 14443-4.
const SAK_VALUE: u8 = 0x20;
const ATQA_VALUE: [u8; 2] = [0x04, 0x00];
/// A parameter with its value.
pub(super) const PARAMETER_MAX: usize = 1 + 15;

/// Which gates a host asks for beside those that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gates {
    /// Contactless readers of type A.
    pub type_a: bool,
    /// Of type B.
    pub type_b: bool,
    /// The terminal is told of contactless transactions.
    pub connectivity: bool,
}

impl Gates {
    /// The APDU gate alone.
    pub const NONE: Self = Self {
        type_a: false,
        type_b: false,
        connectivity: false,
    };
    /// All of them.
    pub const ALL: Self = Self {
        type_a: true,
        type_b: true,
        connectivity: true,
    };

    pub(super) const fn wants(self, index: usize) -> bool {
        match index {
            0 => self.type_a,
            1 => self.type_b,
            2 => self.connectivity,
            _ => false,
        }
    }

    pub(super) fn list(self) -> impl Iterator<Item = u8> {
        GATES
            .into_iter()
            .enumerate()
            .filter(move |(index, _)| self.wants(*index))
            .map(|(_, gate)| gate)
    }
}

/// Whose gate it is.
pub(super) const fn host_of(gate: u8) -> u8 {
    if gate == GATE_CONNECTIVITY {
        HOST_TERMINAL
    } else {
        HOST_CONTROLLER
    }
}

/// What is being asked of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    Create,
    Open,
    /// The parameter of this number is out.
    Set(u8),
}

/// What is written to a gate's registry, in this order; MODE last, for it lets readers in. The UID is the controller's to make, anew for each field.
pub(super) fn parameter(gate: u8, number: u8, atr: &[u8], out: &mut [u8; PARAMETER_MAX]) -> Option<usize> {
    let historical = atr::parse(atr).map_or(&[][..], |atr| atr.historical);
    let (id, value): (u8, &[u8]) = match (gate, number) {
        (GATE_CARD_A, 0) => (SAK, &[SAK_VALUE]),
        (GATE_CARD_A, 1) => (ATQA, &ATQA_VALUE),
        (GATE_CARD_A, 2) => (APPLICATION_DATA, historical),
        (GATE_CARD_A, 3) | (GATE_CARD_B, 0) => (MODE, &[MODE_ON]),
        _ => return None,
    };
    let (first, rest) = out.split_first_mut()?;
    *first = id;
    rest.get_mut(..value.len())?.copy_from_slice(value);
    Some(1 + value.len())
}

/// What a card says of itself, kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own {
    pub(super) gates: Gates,
    pub(super) fresh: [u8; SESSION_LEN],
    atr: [u8; atr::LEN_MAX],
    atr_len: usize,
}

impl Own {
    pub(super) fn new(gates: Gates, fresh: [u8; SESSION_LEN], atr: &[u8]) -> Self {
        let mut bytes = [0; atr::LEN_MAX];
        let atr_len = atr.len().min(atr::LEN_MAX);
        for (to, from) in bytes.iter_mut().zip(atr) {
            *to = *from;
        }
        Self {
            gates,
            fresh,
            atr: bytes,
            atr_len,
        }
    }

    pub(super) fn atr(&self) -> &[u8] {
        self.atr.get(..self.atr_len).unwrap_or_default()
    }
}
