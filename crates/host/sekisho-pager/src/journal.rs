//! The journal of scheme `random`: entries that are durable before their answers leave. One file for each worker, so that none waits for another.
//!
//! ```text
//! frame: sequence (8) | index (4) | entry (49), sealed with ChaCha20-Poly1305 under the nonce: file's nonce (4) | frame number (8)
//! file:  magic "SKPJRN01" | nonce (4) | frames of 61 + 16 bytes
//! ```
//!
//! The sequence is one over all workers, so that the newest entry of a device wins. A torn frame at the end fails its seal and ends the reading.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
use sekisho_paging::server::{ENTRY, Entry};

const MAGIC: &[u8; 8] = b"SKPJRN01";
const PLAIN: usize = 12 + ENTRY;
const FRAME: usize = PLAIN + 16;

pub(crate) struct Journal {
    file: File,
    cipher: ChaCha20Poly1305,
    nonce: [u8; 4],
    frames: u64,
    buffer: Vec<u8>,
    /// A write failed: nothing may be written any more, as nobody knows what the file ends with.
    broken: bool,
}

fn nonce(file: [u8; 4], frame: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&file);
    nonce[4..].copy_from_slice(&frame.to_be_bytes());
    nonce
}

fn cipher(key: &[u8; 32]) -> ChaCha20Poly1305 {
    ChaCha20Poly1305::new(key.into())
}

/// The name of a journal: its generation grows with each snapshot.
fn name(directory: &Path, generation: u64, worker: usize) -> PathBuf {
    directory.join(format!("paging.journal.{generation:016x}.{worker}"))
}

impl Journal {
    pub(crate) fn create(
        directory: &Path,
        key: &[u8; 32],
        generation: u64,
        worker: usize,
    ) -> io::Result<Self> {
        let mut nonce = [0; 4];
        getrandom::fill(&mut nonce).map_err(|error| io::Error::other(error.to_string()))?;
        let path = name(directory, generation, worker);
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(MAGIC)?;
        file.write_all(&nonce)?;
        file.sync_all()?;
        File::open(directory)?.sync_all()?;
        Ok(Self {
            file,
            cipher: cipher(key),
            nonce,
            frames: 0,
            buffer: Vec::new(),
            broken: false,
        })
    }

    /// Takes an entry, to be durable after the next [`Journal::sync`].
    pub(crate) fn append(&mut self, sequence: u64, index: u32, entry: &Entry) {
        let at = self.buffer.len();
        self.buffer.extend(sequence.to_be_bytes());
        self.buffer.extend(index.to_be_bytes());
        self.buffer.extend(entry.0);
        let nonce = nonce(self.nonce, self.frames);
        self.frames += 1;
        if let Some(frame) = self.buffer.get_mut(at..) {
            match self
                .cipher
                .encrypt_inout_detached(&nonce.into(), &[], frame.into())
            {
                Ok(tag) => self.buffer.extend(tag),
                Err(_) => self.broken = true,
            }
        }
    }

    /// Makes what was taken durable.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("an earlier write to the journal failed"));
        }
        let done = self
            .file
            .write_all(&self.buffer)
            .and_then(|()| self.file.sync_data());
        self.broken = done.is_err();
        self.buffer.clear();
        done
    }
}

/// What the journals hold.
#[derive(Default)]
pub(crate) struct Found {
    /// The newest entry of each device, with its sequence.
    pub(crate) newest: HashMap<u32, (u64, Entry)>,
    /// The highest sequence.
    pub(crate) last: u64,
    /// The highest generation.
    pub(crate) generation: u64,
}

/// Reads all journals.
pub(crate) fn read(directory: &Path, key: &[u8; 32]) -> io::Result<Found> {
    let mut found = Found::default();
    for item in fs::read_dir(directory)? {
        let item = item?;
        let name = item.file_name();
        let Some(rest) = name
            .to_str()
            .and_then(|name| name.strip_prefix("paging.journal."))
        else {
            continue;
        };
        if let Some(number) = rest
            .get(..16)
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        {
            found.generation = found.generation.max(number);
        }
        read_one(&item.path(), key, &mut |sequence, index, entry| {
            found.last = found.last.max(sequence);
            let held = found
                .newest
                .entry(index)
                .or_insert_with(|| (sequence, entry.clone()));
            if sequence >= held.0 {
                *held = (sequence, entry);
            }
        })?;
    }
    Ok(found)
}

fn read_one(path: &Path, key: &[u8; 32], each: &mut dyn FnMut(u64, u32, Entry)) -> io::Result<()> {
    let mut file = io::BufReader::with_capacity(1 << 20, File::open(path)?);
    let mut head = [0; 12];
    if file.read_exact(&mut head).is_err() || head[..8] != *MAGIC {
        // Killed while it was made: nothing depends on it.
        return Ok(());
    }
    let file_nonce = [head[8], head[9], head[10], head[11]];
    let cipher = cipher(key);
    let mut frame = [0; FRAME];
    for number in 0.. {
        if file.read_exact(&mut frame).is_err() {
            break;
        }
        let (plain, tag) = frame.split_at_mut(PLAIN);
        let tag: [u8; 16] = tag.as_ref().try_into().unwrap_or([0; 16]);
        let nonce = nonce(file_nonce, number);
        if cipher
            .decrypt_inout_detached(&nonce.into(), &[], plain.into(), &tag.into())
            .is_err()
        {
            break;
        }
        let (sequence, rest) = plain.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
        let (index, entry) = rest.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
        if let Ok(entry) = entry.try_into() {
            each(
                u64::from_be_bytes(*sequence),
                u32::from_be_bytes(*index),
                Entry(entry),
            );
        }
    }
    Ok(())
}

/// Removes the journals before a generation: a snapshot holds what they held.
pub(crate) fn remove_before(directory: &Path, generation: u64) -> io::Result<()> {
    for item in fs::read_dir(directory)? {
        let item = item?;
        let name = item.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix("paging.journal."))
            .and_then(|rest| u64::from_str_radix(rest.get(..16)?, 16).ok());
        if number.is_some_and(|number| number < generation) {
            fs::remove_file(item.path())?;
        }
    }
    Ok(())
}
