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
