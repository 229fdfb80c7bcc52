//! What the secure element says of itself, in the clear.

use sekisho_apdu::tlv::{self, Tag, TlvReader};
use sekisho_link::{
    Campaign, DecodeError, LoaderState, Receipt, Refusal, ResetCounts, SeId, Staging, States,
};
use sekisho_transport::{Card, Response, exchange};

use crate::error::AgentError;

/// SELECT of the issuer security domain: by an empty AID (GPC 11.9.2.3).
const SELECT_ISD: [u8; 5] = [0x00, 0xA4, 0x04, 0x00, 0x00];
/// CARD LOCKED, with which SELECT succeeds (GPC 11.9.3.2).
const CARD_LOCKED: u16 = 0x6283;
/// Referenced data not found: there is no such data object.
const NOT_FOUND: u16 = 0x6A88;

/// Key version numbers of SCP03 key sets (Amd D 7.1.1: 30 to 3F); FF are the initial keys of an SE that nobody owns yet.
const SCP03_KVNS: core::ops::RangeInclusive<u8> = 0x30..=0x3F;
/// Tag of the key information template, and P1P2 of the first one.
const KEY_INFORMATION: u16 = 0x00E0;
/// KVN 00 asks for the default key set (GPC 11.3.2).
const DEFAULT_KVN: u8 = 0x00;
/// OID of the secure channel protocol up to its last two bytes: 1.2.840.114283.4.scp.i (GPC H.2).
const SCP_OID: [u8; 7] = [0x2A, 0x86, 0x48, 0x86, 0xFC, 0x6B, 0x04];
/// Number of SCP03 in that OID.
const SCP03: u8 = 0x03;

/// What the secure element says of itself, in the clear. Nothing of it is proved but the receipt, and that to the server alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// SE-id (GET DATA 00CF).
    pub se_id: SeId,
    /// Version of its SCP03 key set (GET DATA 00E0).
    pub kvn: u8,
    /// SCP03 parameter "i" (GET DATA 0066).
    pub scp_parameter: u8,
    /// The last sequence counter used (GET DATA 00C1).
    pub sequence_counter: u32,
    /// What its loader holds of the OS part (GET DATA DF20).
    pub state: LoaderState,
    /// What it holds of the design system's keys (GET DATA DF22); an SE that cannot change them has none.
    pub keys: Option<LoaderState>,
    /// What it did last (GET DATA DF21).
    pub receipt: Option<Receipt>,
    /// What it refused last (GET DATA DF23).
    pub refusal: Option<Refusal>,
    /// How often it has reset itself (GET DATA DF25); only a chip counts that.
    pub resets: Option<ResetCounts>,
}

impl Facts {
    /// Selects the issuer security domain and asks.
    ///
    /// # Errors
    /// [`AgentError::Card`]; [`AgentError::Answer`] and [`AgentError::Data`] when it is no SE that takes broadcast updates.
    pub fn read(card: &mut dyn Card) -> Result<Self, AgentError> {
        let selected = exchange(card, &SELECT_ISD)?;
        if !selected.is_ok() && selected.sw != CARD_LOCKED {
            return Err(AgentError::Answer {
                command: "SELECT",
                sw: selected.sw,
            });
        }
        let se_id = required(card, 0x00CF, "SE-id (00CF)")?;
        let counter = required(card, 0x00C1, "sequence counter (00C1)")?;
        let state = required(card, 0xDF20, "loader state (DF20)")?;
        let keys = key_information(card)?;
        let card_data = required(card, 0x0066, "card data (0066)")?;
        Ok(Self {
            se_id: SeId(se_id.try_into().map_err(|_| AgentError::Data("SE-id"))?),
            kvn: scp03_kvn(&keys).unwrap_or(DEFAULT_KVN),
            scp_parameter: scp03_parameter(&card_data).ok_or(AgentError::Data("SCP03 parameter"))?,
            sequence_counter: match counter[..] {
                [a, b, c] => u32::from_be_bytes([0, a, b, c]),
                _ => return Err(AgentError::Data("sequence counter")),
            },
            state: LoaderState::decode(&state).map_err(|_| AgentError::Data("loader state"))?,
            keys: optional(card, 0xDF22, "loader state (DF22)", LoaderState::decode)?,
            receipt: optional(card, 0xDF21, "receipt (DF21)", Receipt::decode)?,
            refusal: optional(card, 0xDF23, "refusal (DF23)", Refusal::decode)?,
            resets: optional(card, 0xDF25, "resets (DF25)", ResetCounts::decode)?,
        })
    }

    /// Counts the sequence counter up with one INITIALIZE UPDATE, which goes no further, and reads it again.
    ///
    /// # Errors
    /// As of [`Facts::read`].
    pub fn count_up(&self, card: &mut dyn Card) -> Result<Self, AgentError> {
        // S16 has challenges of 16 bytes, S8 of 8 (Amd D 6.2.2); what they contain does not matter here.
        let length: u8 = if self.scp_parameter & 1 == 0 { 8 } else { 16 };
        let mut command = vec![0x80, 0x50, self.kvn, 0x00, length];
        command.extend((0..length).map(|_| 0));
        command.push(0x00);
        let answer = exchange(card, &command)?;
        if !answer.is_ok() {
            return Err(AgentError::Answer {
                command: "INITIALIZE UPDATE",
                sw: answer.sw,
            });
        }
        Self::read(card)
    }

    /// What it says of its targets; `None` when it says the same of one twice.
    pub fn states(&self) -> Option<States> {
        let all = [Some(self.state), self.keys];
        States::new(&all.into_iter().flatten().collect::<Vec<_>>())
    }

    /// What is staged for a target, if it belongs to the campaign.
    pub fn staged(&self, target: u8, campaign: Campaign) -> Option<LoaderState> {
        self.states()?
            .of(target)
            .filter(|state| state.staging != Staging::Nothing && state.campaign == campaign)
    }

    /// The receipt, if it says that the campaign's part was activated.
    pub fn activation(&self, campaign: Campaign) -> Option<Receipt> {
        self.receipt
            .filter(|r| r.campaign == campaign && r.action == sekisho_link::codes::ACTION_ACTIVATE)
    }
}

fn optional<T>(
    card: &mut dyn Card,
    tag: u16,
    name: &'static str,
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
) -> Result<Option<T>, AgentError> {
    let value = get_data(card, tag, name)?;
    value
        .map(|bytes| decode(&bytes).map_err(|_| AgentError::Data(name)))
        .transpose()
}

fn required(card: &mut dyn Card, tag: u16, name: &'static str) -> Result<Vec<u8>, AgentError> {
    get_data(card, tag, name)?.ok_or(AgentError::Answer {
        command: name,
        sw: NOT_FOUND,
    })
}

/// Key information: templates 00E0, 01E0 and so on, until there is none (GPC 11.3.3.1.1).
fn key_information(card: &mut dyn Card) -> Result<Vec<u8>, AgentError> {
    let mut all = required(card, KEY_INFORMATION, "key information (00E0)")?;
    for index in 1..=u8::MAX {
        let [_, p2] = KEY_INFORMATION.to_be_bytes();
        let Response { data, sw } = exchange(card, &[0x80, 0xCA, index, p2, 0x00])?;
        match single(&data, KEY_INFORMATION) {
            Some(more) if sw == 0x9000 => all.extend(more),
            // Whatever a card says of a template that it has not.
            _ => break,
        }
    }
    Ok(all)
}

/// GET DATA: the value of a data object; `None` when there is none.
fn get_data(card: &mut dyn Card, tag: u16, name: &'static str) -> Result<Option<Vec<u8>>, AgentError> {
    let [p1, p2] = tag.to_be_bytes();
    let Response { data, sw } = exchange(card, &[0x80, 0xCA, p1, p2, 0x00])?;
    match sw {
        0x9000 => match single(&data, tag) {
            Some(value) => Ok(Some(value.to_vec())),
            None => Err(AgentError::Data(name)),
        },
        NOT_FOUND => Ok(None),
        sw => Err(AgentError::Answer { command: name, sw }),
    }
}

/// The value of the one data object that `bytes` is.
fn single(bytes: &[u8], tag: u16) -> Option<&[u8]> {
    let mut objects = TlvReader::new(bytes);
    let object = objects.next()?.ok()?;
    (object.tag == Tag(tag.into()) && objects.next().is_none()).then_some(object.value)
}

/// The first SCP03 key version among key information objects `C0 (KID KVN type length ...)` (GPC 11.3.3.1).
fn scp03_kvn(key_information: &[u8]) -> Option<u8> {
    let of_object = |value: &[u8]| match value {
        [_, kvn, ..] if SCP03_KVNS.contains(kvn) => Some(*kvn),
        _ => None,
    };
    TlvReader::new(key_information)
        .flatten()
        .filter(|o| o.tag == Tag(0xC0))
        .find_map(|o| of_object(o.value))
}

/// "i" out of card recognition data (GPC H.2): `73 { .. 64 { 06 OID } .. }`; a card may name several protocols.
fn scp03_parameter(card_data: &[u8]) -> Option<u8> {
    let template = tlv::find(card_data, 0x73).ok()??;
    TlvReader::new(template)
        .flatten()
        .filter(|o| o.tag == Tag(0x64))
        .find_map(|scp| {
            let oid = tlv::find(scp.value, 0x06).ok()??;
            match oid.strip_prefix(&SCP_OID)? {
                [SCP03, i] => Some(*i),
                _ => None,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameter_is_that_of_scp03() {
        // Two protocols, SCP02 i=15 before SCP03 i=70.
        let data = [
            &[0x73, 0x1A][..],
            &[
                0x64, 0x0B, 0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xFC, 0x6B, 0x04, 0x02, 0x15,
            ],
            &[
                0x64, 0x0B, 0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xFC, 0x6B, 0x04, 0x03, 0x70,
            ],
        ]
        .concat();
        assert_eq!(scp03_parameter(&data), Some(0x70));
        assert_eq!(scp03_parameter(&data[..15]), None, "cut short");
        assert_eq!(scp03_parameter(&[]), None);
    }

    #[test]
    fn the_key_version_is_that_of_a_secure_channel() {
        let information = [
            [0xC0, 4, 1, 0x60, 0x88, 16],
            [0xC0, 4, 1, 0x31, 0x88, 16],
            [0xC0, 4, 2, 0x31, 0x88, 16],
        ]
        .concat();
        assert_eq!(scp03_kvn(&information), Some(0x31));
        assert_eq!(
            scp03_kvn(&[0xC0, 4, 1, 0xFF, 0x88, 16]),
            None,
            "initial keys are the default"
        );
        assert_eq!(scp03_kvn(&[0xC0, 1, 1, 0xC0]), None);
    }

    #[test]
    fn a_data_object_is_exact() {
        assert_eq!(single(&[0xDF, 0x20, 1, 7], 0xDF20), Some(&[7][..]));
        assert_eq!(single(&[0xCF, 1, 7], 0x00CF), Some(&[7][..]));
        for wrong in [
            &[0xDF, 0x20, 1][..],
            &[0xDF, 0x20, 1, 7, 0],
            &[0xDF, 0x21, 1, 7],
            &[],
        ] {
            assert_eq!(single(wrong, 0xDF20), None, "{wrong:02x?}");
        }
    }
}
