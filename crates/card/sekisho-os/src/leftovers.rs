//! Records that belong to nobody: those of an application that is being installed or deleted (`content`).

use sekisho_nvm::{Key, Op};

use crate::interface::ContainerId;
use crate::nvm::{Kind, Nvm, RECORDS_AT_A_TIME, Records, application_key, record_key};
use crate::refusal::Refusal;

/// From here on the records of this registry index belong to nobody.
pub(crate) fn set(records: &mut Records<'_>, index: u8) -> Result<(), Refusal> {
    records.put(Kind::Leftovers, 0, &[index])
}

/// Removes leftovers, if there are any.
pub(crate) fn sweep(records: &mut Records<'_>) -> Result<(), Refusal> {
    let mut index = [0];
    if records.get(Kind::Leftovers, 0, &mut index)?.is_none() {
        return Ok(());
    }
    let [index] = index;
    let container = records.container;
    while remove_some(&mut records.nvm, container, index)? {}
    let leftovers = record_key(container, Kind::Leftovers, 0);
    let Nvm { flash, store, .. } = &mut records.nvm;
    Ok(store.commit(flash, &[Op::Remove(leftovers)])?)
}

/// Removes some records of an application; whether there may be more.
fn remove_some(nvm: &mut Nvm<'_>, container: ContainerId, index: u8) -> Result<bool, Refusal> {
    let (first, last) = (
        application_key(container, index, 0),
        application_key(container, index, u16::MAX),
    );
    let mut ops = [Op::Remove(first); RECORDS_AT_A_TIME];
    let mut count = 0;
    let mut after = Key(first.0.saturating_sub(1));
    for op in &mut ops {
        match nvm.store.next_key(&nvm.flash, Some(after))? {
            Some(key) if key <= last => (*op, after) = (Op::Remove(key), key),
            _ => break,
        }
        count += 1;
    }
    let ops = ops.get(..count).unwrap_or_default();
    nvm.store.commit(&mut nvm.flash, ops)?;
    Ok(count == RECORDS_AT_A_TIME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvm::tests::Bench;
    use std::vec::Vec;

    /// Which of the records are there, by container and application.
    fn there(bench: &mut Bench, records: &[(u8, u8, u16)]) -> Vec<(u8, u8, u16)> {
        let is_there = |bench: &mut Bench, (container, application, index)| {
            let found = bench.records(container).get_own(application, index, &mut [0; 4]);
            found.unwrap().is_some()
        };
        let all = records.iter().copied();
        all.filter(|record| is_there(bench, *record)).collect()
    }

    /// Three containers in which the same application stands at the same index, between two others: what is swept is one application's of one
    /// container, from its first record to its last.
    #[test]
    fn one_applications_records_go_and_nobody_elses() {
        let mut bench = Bench::new();
        let mut all = Vec::new();
        for container in 1..=3 {
            for application in 4..=6 {
                for index in [0, 1, 2, 3, 4, 5, 6, 7, 8, 0xFFFE, 0xFFFF] {
                    let value = [container, application, 0, 0];
                    bench
                        .records(container)
                        .put_own(application, index, &value)
                        .unwrap();
                    all.push((container, application, index));
                    bench.commit();
                }
            }
        }
        set(&mut bench.records(2), 5).unwrap();
        bench.commit();
        sweep(&mut bench.records(1)).unwrap();
        sweep(&mut bench.records(3)).unwrap();
        assert_eq!(there(&mut bench, &all), all, "other containers have no leftovers");
        sweep(&mut bench.records(2)).unwrap();
        let left: Vec<_> = all
            .iter()
            .copied()
            .filter(|(container, application, _)| (*container, *application) != (2, 5))
            .collect();
        assert_eq!(there(&mut bench, &all), left);
        // And only once.
        bench.records(2).put_own(5, 0, &[1]).unwrap();
        bench.commit();
        sweep(&mut bench.records(2)).unwrap();
        assert_eq!(there(&mut bench, &all).len(), left.len() + 1);
    }
}
