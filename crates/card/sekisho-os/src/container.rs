//! A container: a card of its own within the SE, with a registry, a life cycle and an issuer security domain (seed 2).

use sekisho_apdu::gp::CardLifeCycle;
use sekisho_apdu::{DecodeError, Reader, StatusWord, Writer};
use sekisho_nvm::Flash;

use crate::interface::ContainerId;
use crate::nvm::{Kind, Records};
use crate::refusal::Refusal;
use crate::registry::{ENTRIES_MAX, ENTRY_RECORD_MAX, Entry, Registry};

/// Registry index of the issuer security domain, which is selected where nothing else is.
pub(crate) const ISD_INDEX: u8 = 0;

/// Length of the card record: format, life cycle, SE-id.
const CARD_RECORD_LEN: usize = 12;

/// Format of the card record.
const FORMAT: u8 = 1;

/// What the card record holds. It is written last when an SE is made, so that an SE without it has not been made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CardRecord {
    pub(crate) life_cycle: CardLifeCycle,
    /// SE-id: key diversification data and GET DATA 00CF.
    pub(crate) se_id: [u8; 10],
}

impl CardRecord {
    pub(crate) fn load<F: Flash>(records: &mut Records<'_, F>) -> Result<Option<Self>, Refusal> {
        let mut bytes = [0; CARD_RECORD_LEN];
        match records.get(Kind::Card, 0, &mut bytes)? {
            None => Ok(None),
            // What the store gives back it has checked: a record that does not decode is from an SE of another make.
            Some(_) => Self::decode(&bytes)
                .map(Some)
                .map_err(|_| Refusal(StatusWord::MEMORY_FAILURE)),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let [format, life_cycle] = r.array()?;
        let life_cycle = CardLifeCycle::from_byte(life_cycle).filter(|_| format == FORMAT);
        Ok(Self {
            life_cycle: life_cycle.ok_or(DecodeError::Value)?,
            se_id: r.array()?,
        })
    }

    pub(crate) fn store<F: Flash>(&self, records: &mut Records<'_, F>) -> Result<(), Refusal> {
        let mut bytes = [0; CARD_RECORD_LEN];
        let mut w = Writer::new(&mut bytes);
        w.bytes(&[FORMAT, self.life_cycle.to_byte()])?;
        w.bytes(&self.se_id)?;
        records.put(Kind::Card, 0, w.written())
    }
}

/// A container's state, as far as it stands in RAM.
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    pub(crate) card: CardRecord,
    pub(crate) registry: Registry,
}

impl Container {
    /// Reads a container from NVM; `None` when it has not been made.
    pub(crate) fn load<F: Flash>(records: &mut Records<'_, F>) -> Result<Option<Self>, Refusal> {
        let Some(card) = CardRecord::load(records)? else {
            return Ok(None);
        };
        let mut registry = Registry::empty();
        for index in (0..).take(ENTRIES_MAX) {
            let mut bytes = [0; ENTRY_RECORD_MAX];
            let Some(len) = records.get(Kind::Registry, index.into(), &mut bytes)? else {
                continue;
            };
            let entry = Entry::decode(bytes.get(..len).unwrap_or_default());
            registry.set(
                index,
                Some(entry.map_err(|_| Refusal(StatusWord::MEMORY_FAILURE))?),
            );
        }
        Ok(Some(Self {
            id: records.container,
            card,
            registry,
        }))
    }
}

/// Writes a registry entry.
pub(crate) fn store_entry<F: Flash>(
    records: &mut Records<'_, F>,
    index: u8,
    entry: &Entry,
) -> Result<(), Refusal> {
    let mut bytes = [0; ENTRY_RECORD_MAX];
    let mut w = Writer::new(&mut bytes);
    entry.encode(&mut w)?;
    records.put(Kind::Registry, index.into(), w.written())
}
