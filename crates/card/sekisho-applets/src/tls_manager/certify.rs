//! Who writes objects, keys that are made here and the requests for their certificates (`docs/spec/tls-manager.md`, 3 and 7; `docs/decisions/0031-keys-made-here.md`).

use alloc::vec::Vec;

use sekisho_apdu::{StatusWord, Writer};
use sekisho_os::{Context, Refusal};
use sekisho_tls::{Subject, is_certificate, public_key, request};

use super::objects::{
    CHAIN, CHAIN_RECORD, KEY, KEY_PAIR, OBJECT_MAX, Object, PENDING_RECORD, REQUEST_MAX, REQUEST_RECORD, ROW,
    Rights, Row, SUBJECT, TIME, chain, is_name, row_record,
};
use super::{NOT_ALLOWED, WRONG_DATA, time};

/// A subject that is nobody's: the SE says whose the request is.
const NOBODY: &[u8] = &[0x30, 0];

/// Whose command it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Author {
    /// The root of the container, which forwards it.
    Root,
    /// The server of a row, in a session of its own, with the rights of the row.
    Peer(u16, Rights),
}

impl Author {
    /// # Errors
    /// 6985 for everybody else; 6581.
    pub(super) fn of(context: &mut Context<'_>) -> Result<Self, Refusal> {
        if context.is_root_calling() {
            return Ok(Self::Root);
        }
        let row = context.peer().ok_or(NOT_ALLOWED)?.row;
        let mut bytes = [0; OBJECT_MAX];
        let found = read_row(context, row, &mut bytes)?;
        Ok(Self::Peer(row, found.ok_or(NOT_ALLOWED)?.0.rights))
    }

    /// Whether the blocks of an object may begin, this its number: what is not a peer's to write takes no room of another peer's.
    ///
    /// # Errors
    /// 6985 when it is not; 6A80 for a number that there is not.
    pub(super) const fn begins(self, number: Option<&u8>) -> Result<(), Refusal> {
        match (self, number) {
            (Self::Root, _) => Ok(()),
            (Self::Peer(..), Some(&CHAIN)) => self.needs(Rights::RENEW),
            (Self::Peer(..), Some(&ROW)) => self.needs(Rights::ANCHOR),
            (Self::Peer(..), Some(&(KEY | TIME | SUBJECT))) => Err(NOT_ALLOWED),
            (Self::Peer(..), _) => Err(WRONG_DATA),
        }
    }

    /// # Errors
    /// 6985 for a peer whose row does not say so.
    pub(super) const fn needs(self, right: Rights) -> Result<(), Refusal> {
        match self {
            Self::Root => Ok(()),
            Self::Peer(_, rights) if rights.have(right) => Ok(()),
            Self::Peer(..) => Err(NOT_ALLOWED),
        }
    }
}

/// A row as it is written, beside its bytes.
fn read_row<'b>(
    context: &mut Context<'_>,
    row: u16,
    bytes: &'b mut [u8; OBJECT_MAX],
) -> Result<Option<(Row<'b>, &'b [u8])>, Refusal> {
    let record = row_record(row).ok_or(NOT_ALLOWED)?;
    let len = context.get(record, 0, bytes)?;
    let bytes: &[u8] = bytes;
    let value = len.and_then(|len| bytes.get(..len));
    Ok(value.and_then(|value| Some((Row::parse(value)?, value))))
}

/// Makes a key pair that waits for its certificate, and the request for that.
///
/// # Errors
/// 6A80 for a subject that is none, 6A84 when the request is too long, 6581 when the generator or the flash fails.
pub(super) fn make(context: &mut Context<'_>, subject: &[u8]) -> Result<Vec<u8>, Refusal> {
    let subject = match subject {
        [] | NOBODY => own_subject(context)?,
        name if is_name(name) => Subject::of_name(name),
        _ => None,
    };
    let subject = subject.ok_or(WRONG_DATA)?;
    let key = KEY_PAIR.make(context)?;
    let made = request(&subject, &key).ok_or(WRONG_DATA)?;
    if made.len() > REQUEST_MAX {
        return Err(Refusal(StatusWord::NOT_ENOUGH_MEMORY));
    }
    context.put(REQUEST_RECORD, 0, &made)?;
    Ok(made)
}

/// Whoever the present certificate is of; before there is one, the SE by its number.
fn own_subject(context: &mut Context<'_>) -> Result<Option<Subject>, Refusal> {
    let mut bytes = [0; OBJECT_MAX];
    let len = context.get(CHAIN_RECORD, 0, &mut bytes)?;
    let first = len.and_then(|len| first(bytes.get(..len)?));
    let of_certificate = first.and_then(Subject::of_certificate);
    Ok(of_certificate.or_else(|| Subject::of_serial(&context.se_id())))
}

/// The first certificate of a chain.
fn first(bytes: &[u8]) -> Option<&[u8]> {
    chain(bytes)?.0.first().copied()
}

/// Answers the request whose certificate has not come.
///
/// # Errors
/// 6A88 when there is none; 6A84 when it does not fit the answer; 6581.
pub(super) fn present(context: &mut Context<'_>, out: &mut Writer<'_>) -> Result<(), Refusal> {
    let mut bytes = [0; REQUEST_MAX];
    let len = context.get(REQUEST_RECORD, 0, &mut bytes)?;
    let len = len.ok_or(Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND))?;
    Ok(out.bytes(bytes.get(..len).unwrap_or_default())?)
}

/// Writes an object, or removes it where there is no value.
///
/// # Errors
/// 6985 when it is not the author's to write; 6A80, 6A84, 6A88, 6581 as the page says.
pub(super) fn write(context: &mut Context<'_>, author: Author, object: &Object<'_>) -> Result<(), Refusal> {
    let (record, value) = object.record();
    match (author, object) {
        (Author::Root, _) => {}
        (Author::Peer(..), Object::Chain([_, ..])) => author.needs(Rights::RENEW)?,
        (Author::Peer(row, _), Object::Row(of, [_, ..])) if row == *of => {
            author.needs(Rights::ANCHOR)?;
            only_the_anchor(context, row, value)?;
        }
        _ => return Err(NOT_ALLOWED),
    }
    match object {
        Object::Chain(bytes @ [_, ..]) => belongs(context, bytes)?,
        Object::Subject([]) => context.remove(PENDING_RECORD, 0)?,
        Object::Subject(name) => return make(context, name).map(|_| ()),
        // A server that writes its own anchor has proved its time; the root's word is a new one.
        Object::Row(row, _) if author == Author::Root => time::forget(context, *row)?,
        Object::Time(_) => time::forget_all(context)?,
        _ => {}
    }
    if value.is_empty() {
        context.remove(record, 0)
    } else {
        context.put(record, 0, value)
    }
}

/// Whether a row is as it was but for its anchor, and that is a certificate.
fn only_the_anchor(context: &mut Context<'_>, row: u16, value: &[u8]) -> Result<(), Refusal> {
    let new = Row::parse(value).ok_or(WRONG_DATA)?;
    let mut bytes = [0; OBJECT_MAX];
    let (old, before) = read_row(context, row, &mut bytes)?.ok_or(NOT_ALLOWED)?;
    if new.head(value) != old.head(before) {
        return Err(NOT_ALLOWED);
    }
    is_certificate(new.anchor).then_some(()).ok_or(WRONG_DATA)
}

/// The first certificate of a chain is of a key that the SE has: of the pending one, which becomes the live one with the chain, or of the live one.
///
/// # Errors
/// 6A80 for what is no certificate of such a key; 6A88 when the SE has not its key.
fn belongs(context: &mut Context<'_>, bytes: &[u8]) -> Result<(), Refusal> {
    // An OPEN with what is no certificate behind the first would fail, whatever the row.
    let (certificates, count) = chain(bytes).ok_or(WRONG_DATA)?;
    let mut all = certificates.into_iter().take(count);
    let key = all.next().and_then(public_key).ok_or(WRONG_DATA)?;
    all.all(is_certificate).then_some(()).ok_or(WRONG_DATA)?;
    let no_key = Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND);
    let or_none = |found: Result<_, Refusal>| match found {
        Err(refusal) if refusal == no_key => Ok(None),
        found => found.map(Some),
    };
    if let Some(pending) = or_none(KEY_PAIR.pending(context))?
        && pending.verifying_key() == key
    {
        context.remove(REQUEST_RECORD, 0)?;
        return KEY_PAIR.adopt(context, &pending);
    }
    let live = or_none(KEY_PAIR.live(context))?.ok_or(no_key)?;
    (live.verifying_key() == key).then_some(()).ok_or(no_key)
}
