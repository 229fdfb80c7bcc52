//! The snapshot: every device in a file that is written behind and replaced whole. It holds keys of rolling devices and SE-ids, so it is sealed.
//!
//! ```text
//! magic "SKPAGE01" | nonce (8) | then chunks: length (4) | ChaCha20-Poly1305 of up to 4096 entries, nonce = file's nonce | chunk number (4)
//! entry: index (4) se_id (10) group (2) flags (1) order (4) seen (4) kind (1) | 0: keyspace (4) counter (4) | 1: the same, key (16), UID (16) | 2: entry (49)
//! an empty chunk ends the file
//! ```

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
use sekisho_paging::Uid;
use sekisho_paging::keys::{Keyspace, PollKey};
use sekisho_paging::server::{ENTRY, Entry, RandomRecord, TicketRecord};
use zeroize::Zeroizing;

use crate::table::{Slot, State, Table};

const MAGIC: &[u8; 8] = b"SKPAGE01";
const ENTRIES: usize = 4096;
const NAME: &str = "paging.snapshot";

/// Why a snapshot cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file cannot be read or written.
    #[error("the snapshot cannot be read or written: {0}")]
    Io(#[from] io::Error),
    /// It was sealed with another key, or is damaged.
    #[error("the snapshot was sealed with another key, or is damaged")]
    Damaged,
}

fn cipher(key: &[u8; 32]) -> ChaCha20Poly1305 {
    ChaCha20Poly1305::new(key.into())
}

fn nonce(file: [u8; 8], chunk: u32) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&file);
    nonce[8..].copy_from_slice(&chunk.to_be_bytes());
    nonce
}

fn put(out: &mut Vec<u8>, index: u32, se_id: &[u8; 10], slot: &Slot) {
    out.extend(index.to_be_bytes());
    out.extend(se_id);
    out.extend(slot.group.to_be_bytes());
    out.push(slot.flags);
    out.extend(slot.order.to_be_bytes());
    out.extend(slot.seen.to_be_bytes());
    if let State::Random(record) = &slot.state {
        out.push(2);
        out.extend(record.entry().0);
    } else if let Some(checkpoint) = slot.checkpoint() {
        out.push(u8::from(checkpoint.rolling.is_some()));
        out.extend(checkpoint.keyspace.to_u32().to_be_bytes());
        out.extend(checkpoint.counter.to_be_bytes());
        if let Some((key, uid)) = &checkpoint.rolling {
            out.extend(key.as_bytes());
            out.extend(uid.0);
        }
    }
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(SnapshotError::Damaged)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u32(&mut self) -> Result<u32, SnapshotError> {
        self.array().map(u32::from_be_bytes)
    }
}

fn take(fields: &mut Fields<'_>, table: &Table) -> Result<(), SnapshotError> {
    let index = fields.u32()?;
    let se_id = fields.array()?;
    let group = u16::from_be_bytes(fields.array()?);
    let [flags] = fields.array()?;
    let order = fields.u32()?;
    let seen = fields.u32()?;
    let [kind] = fields.array()?;
    let state = if kind == 2 {
        let entry = Entry(fields.array::<ENTRY>()?);
        State::Random(RandomRecord::restore(&entry).map_err(|_| SnapshotError::Damaged)?)
    } else {
        let keyspace = Keyspace::from_u32(fields.u32()?);
        let counter = fields.u32()?;
        if kind == 1 {
            let key = PollKey::new(fields.array()?);
            let uid = Uid(fields.array()?);
            State::Ticket(TicketRecord::rolling(keyspace, counter, key, uid))
        } else {
            State::Cold { keyspace, counter }
        }
    };
    table.set(index, se_id, |slot| {
        slot.state = state;
        slot.group = group;
        slot.flags = flags;
        slot.order = order;
        slot.seen = seen;
    });
    Ok(())
}

/// Writes a snapshot: whole or not at all. Gives its length in bytes.
pub(crate) fn write(directory: &Path, key: &[u8; 32], table: &Table) -> Result<u64, SnapshotError> {
    let temporary = directory.join("paging.snapshot.new");
    let mut file_nonce = [0; 8];
    getrandom::fill(&mut file_nonce).map_err(|error| io::Error::other(error.to_string()))?;
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&temporary)?);
    out.write_all(MAGIC)?;
    out.write_all(&file_nonce)?;
    let cipher = cipher(key);
    let mut number = 0;
    let mut length = 16;
    let mut seal = |out: &mut BufWriter<File>, chunk: &mut Zeroizing<Vec<u8>>| -> Result<(), SnapshotError> {
        cipher
            .encrypt_in_place(&nonce(file_nonce, number).into(), &[], &mut **chunk)
            .map_err(|_| SnapshotError::Damaged)?;
        number += 1;
        length += 4 + chunk.len() as u64;
        out.write_all(&u32::try_from(chunk.len()).unwrap_or(u32::MAX).to_be_bytes())?;
        out.write_all(chunk)?;
        chunk.clear();
        Ok(())
    };
    let mut chunk = Zeroizing::new(Vec::with_capacity(ENTRIES * 80));
    let mut entries = 0;
    let mut failed = Ok(());
    table.each(|index, se_id, slot| {
        put(&mut chunk, index, se_id, slot);
        entries += 1;
        if entries == ENTRIES && failed.is_ok() {
            failed = seal(&mut out, &mut chunk);
            entries = 0;
        }
    });
    failed?;
    if !chunk.is_empty() {
        seal(&mut out, &mut chunk)?;
    }
    seal(&mut out, &mut chunk)?;
    let file = out.into_inner().map_err(|error| error.into_error())?;
    file.sync_all()?;
    fs::rename(&temporary, directory.join(NAME))?;
    File::open(directory)?.sync_all()?;
    Ok(length)
}

/// Reads the snapshot into the table, if there is one.
pub(crate) fn read(directory: &Path, key: &[u8; 32], table: &Table) -> Result<bool, SnapshotError> {
    let file = match File::open(directory.join(NAME)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let mut file = BufReader::with_capacity(1 << 20, file);
    let mut head = [0; 16];
    file.read_exact(&mut head)?;
    let (magic, file_nonce) = head.split_at(8);
    if magic != MAGIC {
        return Err(SnapshotError::Damaged);
    }
    let mut file_nonce_bytes = [0; 8];
    file_nonce_bytes.copy_from_slice(file_nonce);
    let cipher = cipher(key);
    let mut chunk = Zeroizing::new(Vec::new());
    for number in 0.. {
        let mut length = [0; 4];
        file.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > ENTRIES * 128 {
            return Err(SnapshotError::Damaged);
        }
        chunk.resize(length, 0);
        file.read_exact(&mut chunk)?;
        cipher
            .decrypt_in_place(&nonce(file_nonce_bytes, number).into(), &[], &mut *chunk)
            .map_err(|_| SnapshotError::Damaged)?;
        if chunk.is_empty() {
            break;
        }
        let mut fields = Fields(&chunk);
        while !fields.0.is_empty() {
            take(&mut fields, table)?;
        }
    }
    Ok(true)
}
