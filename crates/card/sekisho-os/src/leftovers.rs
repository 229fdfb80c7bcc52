//! Records that belong to nobody: those of an application that is being installed or deleted (`content`).

use sekisho_apdu::Writer;
use sekisho_nvm::{Op, Prefix};

use crate::bulk;
use crate::container::name;
use crate::interface::ContainerId;
use crate::names::{EntryId, RecordKey, RecordKind};
use crate::nvm::{Nvm, Records};
use crate::refusal::Refusal;
use crate::registry::ENTRIES_MAX;

/// The record that names who has gone, or has not come yet.
pub(crate) const fn leftovers(container: ContainerId) -> RecordKey {
    name(container, RecordKind::Leftovers, 0)
}

/// Bytes of an identity.
const ID: usize = 2;
/// Longest record: of all that a registry can lose at once.
const LEFTOVERS_MAX: usize = ID * ENTRIES_MAX;

/// From here on the records of these identities belong to nobody.
pub(crate) fn set(
    records: &mut Records<'_>,
    container: ContainerId,
    entries: impl Iterator<Item = EntryId>,
) -> Result<(), Refusal> {
    let mut bytes = [0; LEFTOVERS_MAX];
    let mut w = Writer::new(&mut bytes);
    for entry in entries {
        w.u16(entry.number())?;
    }
    match w.written() {
        [] => Ok(()),
        all => records.put(leftovers(container), all),
    }
}

/// Removes leftovers, if there are any.
pub(crate) fn sweep(records: &mut Records<'_>, container: ContainerId) -> Result<(), Refusal> {
    let mut bytes = [0; LEFTOVERS_MAX];
    let Some(len) = records.get(leftovers(container), &mut bytes)? else {
        return Ok(());
    };
    let mut ops = [Op::Remove(leftovers(container).key()); ENTRIES_MAX + 1];
    let mut all = ops.iter_mut();
    let ids = bytes.get(..len).unwrap_or_default().chunks(ID);
    for (id, op) in ids.zip(&mut all) {
        let entry = match id {
            // By registry index, as it was once written.
            [index] => Some(EntryId::of_0_1(*index)),
            id => id
                .try_into()
                .ok()
                .and_then(|number| EntryId::new(u16::from_be_bytes(number))),
        };
        if let Some(entry) = entry {
            bulk::forget(&mut records.nvm, entry)?;
            *op = Op::RemoveAll(Prefix::Owner(entry.number()));
        }
    }
    let left = all.len();
    let done = ops.len() - left + 1;
    let Nvm { flash, store, .. } = &mut records.nvm;
    Ok(store.commit(flash, ops.get(..done).unwrap_or(&ops))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvm::tests::Bench;
    use std::vec::Vec;

    fn entry(number: u16) -> EntryId {
        EntryId::new(number).unwrap()
    }

    /// Which of the records are there, by application.
    fn there(bench: &mut Bench, records: &[(u16, u16)]) -> Vec<(u16, u16)> {
        let is_there = |bench: &mut Bench, (application, index)| {
            let found = bench.records().get_own(entry(application), index, 0, &mut [0; 4]);
            found.unwrap().is_some()
        };
        let all = records.iter().copied();
        all.filter(|record| is_there(bench, *record)).collect()
    }

    /// Three containers with three applications each: what is swept is one application's of one container, from its first record to its last.
    #[test]
    fn one_applications_records_go_and_nobody_elses() {
        let mut bench = Bench::new();
        let mut all = Vec::new();
        for application in [
            0x0103_u16, 0x0104, 0x0105, 0x01A0, 0x01A1, 0x01A2, 0x0203, 0x0204, 0x0205,
        ] {
            for index in [0, 1, 2, 3, 4, 5, 6, 7, 8, 0xFFFE, 0xFFFF] {
                let value = application.to_be_bytes();
                bench
                    .records()
                    .put_own(entry(application), index, 0, &value)
                    .unwrap();
                all.push((application, index));
                bench.commit();
            }
        }
        for gone in [0x01A1, 0x0104] {
            set(&mut bench.records(), ContainerId(2), [entry(gone)].into_iter()).unwrap();
            bench.commit();
            sweep(&mut bench.records(), ContainerId(1)).unwrap();
            sweep(&mut bench.records(), ContainerId(3)).unwrap();
            assert_eq!(there(&mut bench, &all), all, "other containers have no leftovers");
            sweep(&mut bench.records(), ContainerId(2)).unwrap();
            all.retain(|(application, _)| *application != gone);
            assert_eq!(there(&mut bench, &all), all);
            // And only once.
            bench.records().put_own(entry(gone), 0, 0, &[1]).unwrap();
            bench.commit();
            sweep(&mut bench.records(), ContainerId(2)).unwrap();
            assert_eq!(there(&mut bench, &[(gone, 0)]).len(), 1);
        }
    }

    /// The record as it was written when identities were registry indices.
    #[test]
    fn leftovers_of_before_are_swept() {
        let mut bench = Bench::new();
        for application in [0x0104, 0x0105] {
            bench.records().put_own(entry(application), 7, 0, &[1]).unwrap();
        }
        bench.records().put(leftovers(ContainerId::ESE), &[5]).unwrap();
        bench.commit();
        sweep(&mut bench.records(), ContainerId::ESE).unwrap();
        assert_eq!(there(&mut bench, &[(0x0104, 7), (0x0105, 7)]), [(0x0104, 7)]);
        assert_eq!(
            bench.records().get(leftovers(ContainerId::ESE), &mut [0; 2]),
            Ok(None)
        );
    }
}
