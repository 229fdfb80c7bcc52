//! The platform's record of pairing data, which overrides the profile's, and how it changes (`docs/spec/routing.md`, 5).

use sekisho_apdu::{StatusWord, Writer};
use sekisho_keys::{AesKey, cmac, ct_eq};

use crate::loader::status;
use crate::names::{RecordKey, RecordKind};
use crate::nvm::Records;
use crate::pairing::{PAIRING_MAX, Pairing};
use crate::refusal::Refusal;

/// Where the pairing data come from that an SE works with (seed 2: inside the operating system, or outside).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The profile.
    Profile,
    /// The platform's record.
    Record,
    /// The profile, because the record cannot be read or does not fit this SE.
    Damaged,
}

/// The pairing data that an SE works with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PairingState {
    pub(crate) rows: Pairing,
    pub(crate) source: Source,
    /// The number of the pairing data that were taken last; 0: none ever.
    pub(crate) number: u32,
}

/// Format of the record, and of what is signed.
const FORMAT: u8 = 1;
const RECORD: RecordKey = RecordKey::platform(RecordKind::Pairing, 0);
const NUMBER: RecordKey = RecordKey::platform(RecordKind::PairingNumber, 0);
/// What the code of SET PAIRING is made over begins with this.
const CODE_LABEL: &[u8] = b"SKPD";
const CODE_LEN: usize = 16;

impl PairingState {
    /// Of a profile, and nothing else.
    pub(crate) const fn of(profile: Pairing) -> Self {
        Self {
            rows: profile,
            source: Source::Profile,
            number: 0,
        }
    }

    /// Reads the platform's record, if there is one; one that is damaged stops no start.
    pub(crate) fn load(records: &mut Records<'_>, profile: &Pairing, made: u8) -> Self {
        let mut number = [0; 4];
        let known = matches!(records.get(NUMBER, &mut number), Ok(Some(4)));
        let number = if known { u32::from_be_bytes(number) } else { 0 };
        let mut bytes = [0; 1 + PAIRING_MAX];
        let (rows, source) = match records.get(RECORD, &mut bytes) {
            Ok(None) if number == 0 => (*profile, Source::Profile),
            Ok(Some(len)) => match bytes.get(..len) {
                Some([FORMAT, rows @ ..]) => match profile.decode(rows, made) {
                    Ok(rows) => (rows, Source::Record),
                    Err(_) => (*profile, Source::Damaged),
                },
                _ => (*profile, Source::Damaged),
            },
            // Pairing data have been taken, and are gone.
            Ok(None) | Err(_) => (*profile, Source::Damaged),
        };
        Self { rows, source, number }
    }

    /// The value of GET DATA DF24.
    pub(crate) fn object(&self, out: &mut Writer<'_>) -> Result<(), Refusal> {
        out.u8(match self.source {
            Source::Profile => 0,
            Source::Record => 1,
            Source::Damaged => 2,
        })?;
        out.bytes(&self.number.to_be_bytes())?;
        self.rows.encode(out)
    }

    /// SET PAIRING: checks what came against the platform's key, and puts it into the records of the command. What is there from its commit on.
    ///
    /// # Errors
    /// 6700, 9503, 9502, 6A80, in this order (`docs/spec/routing.md`, 5).
    pub(crate) fn change(
        &self,
        data: &[u8],
        (key, se_id): (&AesKey, [u8; 10]),
        records: &mut Records<'_>,
        made: u8,
    ) -> Result<Self, Refusal> {
        let wrong_length = Refusal(StatusWord::WRONG_LENGTH);
        let (signed, code) = data.split_last_chunk::<CODE_LEN>().ok_or(wrong_length)?;
        let (number, rows) = signed.split_first_chunk::<4>().ok_or(wrong_length)?;
        if rows.len() > PAIRING_MAX {
            return Err(wrong_length);
        }
        let expected = cmac(key, &[CODE_LABEL, &[FORMAT], &se_id, signed]);
        if !ct_eq(&expected, code) {
            return Err(Refusal(status::INTEGRITY));
        }
        let next = u32::from_be_bytes(*number);
        if next <= self.number {
            return Err(Refusal(status::ROLLBACK));
        }
        let read = self.rows.decode(rows, made);
        let read = read.map_err(|_| Refusal(StatusWord::INCORRECT_DATA))?;
        let mut bytes = [0; 1 + PAIRING_MAX];
        let mut record = Writer::new(&mut bytes);
        record.u8(FORMAT)?;
        record.bytes(rows)?;
        records.put(RECORD, record.written())?;
        records.put(NUMBER, number)?;
        Ok(Self {
            rows: read,
            source: Source::Record,
            number: next,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::ContainerId;
    use crate::nvm::tests::Bench;
    use std::vec::Vec;

    fn id(number: u8) -> ContainerId {
        ContainerId::new(number).unwrap()
    }

    fn bytes(pairing: &Pairing) -> Vec<u8> {
        let mut bytes = [0; PAIRING_MAX];
        let mut w = Writer::new(&mut bytes);
        pairing.encode(&mut w).unwrap();
        w.written().to_vec()
    }

    /// Whatever stands in the record: the SE starts, with what is right or with the default, and says which.
    #[test]
    fn a_damaged_record_falls_back_to_the_default_and_says_so() {
        let profile = Pairing::contacts_to(id(2));
        let others = Pairing::all_to(id(1));
        let good = [&[FORMAT][..], &bytes(&others)].concat();
        let load = |record: Option<&[u8]>, number: Option<&[u8]>| {
            let mut bench = Bench::new();
            for (name, value) in [(RECORD, record), (NUMBER, number)] {
                if let Some(value) = value {
                    bench.records().put(name, value).unwrap();
                    bench.commit();
                }
            }
            let state = PairingState::load(&mut bench.records(), &profile, 2);
            (state.rows, state.source, state.number)
        };
        let seven = Some(&[0, 0, 0, 7][..]);
        assert_eq!(load(None, None), (profile, Source::Profile, 0));
        assert_eq!(load(Some(&good), seven), (others, Source::Record, 7));
        let damaged = (profile, Source::Damaged, 7);
        for at in 0..good.len() {
            assert_eq!(load(Some(&good[..at]), seven), damaged);
            let mut changed = good.clone();
            changed[at] ^= 0x80;
            assert_eq!(load(Some(&changed), seven), damaged, "{at}");
        }
        let longer = [&good[..], &[0; 30]].concat();
        assert_eq!(load(Some(&longer), seven), damaged);
        assert_eq!(load(None, seven), damaged);
        // A number that is none is none taken: the record has its say all the same.
        assert_eq!(load(Some(&good), Some(&[1])), (others, Source::Record, 0));
    }
}
