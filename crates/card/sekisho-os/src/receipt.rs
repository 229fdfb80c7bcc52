//! Receipts of delegated management (GPC 9.6, C.5; `docs/spec/loading.md`, 3.2): the container's root says that what a token was for has been done.
//!
//! A receipt's number is counted up by the transaction that does what the receipt is about. So there is one receipt for a number at most, and a number whose receipt has not come says that
//! something was done.

use sekisho_apdu::{StatusWord, Writer};
use sekisho_keys::{AesKey, cmac};

use crate::authorisation::Authorisation;
use crate::container::Container;
use crate::identification::{self, CIN, IIN};
use crate::keys::{KVN_RECEIPT, KeyStore};
use crate::names::{EntryId, Owner, RecordKey, RecordKind};
use crate::nvm::Records;
use crate::refusal::Refusal;

/// The data object of a root that has the number of its last receipt (GET DATA 00C2).
const COUNTER: u16 = 0x00C2;

/// Nothing to say (GPC 11.2.3.1, 11.5.3.1).
pub(crate) const NO_RECEIPT: u8 = 0x00;

/// Length of a receipt: an AES-CMAC.
const RECEIPT_LEN: usize = 16;

const fn counter_of(root: EntryId) -> RecordKey {
    RecordKey::new(Owner::Entry(root), RecordKind::DataObject, COUNTER)
}

/// The root, and its key for receipts: `None` where nobody asks for one, or it has no key.
fn generator(
    by: Authorisation,
    container: &Container,
    records: &mut Records<'_>,
) -> Result<Option<(EntryId, AesKey)>, Refusal> {
    let Some(domain) = container.root().filter(|_| by.is_delegated()) else {
        return Ok(None);
    };
    match (KeyStore { records, domain }).single_aes(KVN_RECEIPT) {
        Ok(key) => Ok(Some((domain, key))),
        Err(refusal @ Refusal(StatusWord::MEMORY_FAILURE)) => Err(refusal),
        Err(_) => Ok(None),
    }
}

/// Counts a receipt, with the writes that do what it is about.
///
/// # Errors
/// 6985 when all numbers have been used; 6A84, 6581.
#[inline(never)]
pub(crate) fn count(
    by: Authorisation,
    container: &Container,
    records: &mut Records<'_>,
) -> Result<(), Refusal> {
    let Some((root, _)) = generator(by, container, records)? else {
        return Ok(());
    };
    let mut last = [0; 2];
    records.get(counter_of(root), &mut last)?;
    let next = u16::from_be_bytes(last).checked_add(1);
    let next = next.ok_or(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED))?;
    records.put(counter_of(root), &next.to_be_bytes())
}

/// Answers what has been done, and counted: with a receipt over confirmation data and `context`, each part of it with its length before it, or with none.
///
/// # Errors
/// 6581; 6A84 when it does not fit.
#[inline(never)]
pub(crate) fn write(
    by: Authorisation,
    container: &Container,
    records: &mut Records<'_>,
    context: &[&[u8]],
    out: &mut Writer<'_>,
) -> Result<(), Refusal> {
    let Some((root, key)) = generator(by, container, records)? else {
        return Ok(out.u8(NO_RECEIPT)?);
    };
    let mut counter = [0; 2];
    records.get(counter_of(root), &mut counter)?;
    let start = out.len();
    out.lv_with(|w| -> Result<(), Refusal> {
        w.lv(&[0; RECEIPT_LEN])?;
        w.lv(&counter)?;
        w.lv_with(|w| -> Result<(), Refusal> {
            let mut identify = |tag| identification::append(records, root, tag, &container.card.se_id, w);
            identify(IIN).and_then(|()| identify(CIN))
        })?;
        match by.token().as_bytes() {
            [] => Ok(()),
            number => Ok(w.lv(number)?),
        }
    })?;
    let end = out.len();
    // What is not said stands behind what is, to be signed with it.
    for part in context {
        out.lv(part)?;
    }
    // Behind the length of all and its own; what is signed is behind it.
    let answer = out.written_mut().get_mut(start + 2..).unwrap_or_default();
    if let Some((receipt, signed)) = answer.split_first_chunk_mut::<RECEIPT_LEN>() {
        *receipt = cmac(&key, &[signed]);
    }
    out.truncate(end);
    Ok(())
}
