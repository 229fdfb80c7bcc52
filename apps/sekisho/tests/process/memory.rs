//! What stands in the memory of a process, looked at from outside.

use core::ops::Range;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use memchr::memmem::Finder;

/// Bytes of a secret that are looked for at a time: half of a key is half of the work.
const PIECE: usize = 8;

/// All memory of a process that it can write: heap, stacks, data. The RAM of a card is in it, and its flash, which is a file that it has read.
pub struct Memory(Vec<(u64, Vec<u8>)>);

/// A secret by its name.
pub struct Secret {
    pub name: String,
    pub bytes: Vec<u8>,
}

impl Secret {
    pub fn new(name: impl Into<String>, bytes: &[u8]) -> Self {
        Self {
            name: name.into(),
            bytes: bytes.to_vec(),
        }
    }
}

/// The runs of pages that are not all zero, each with what a piece of a secret can reach of its neighbours: most of a process's memory was
/// never written, and nothing is looked for there.
fn written(bytes: &[u8]) -> impl Iterator<Item = Range<usize>> {
    const PAGE: usize = 4096;
    const REACH: usize = 64;
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (number, page) in bytes.chunks(PAGE).enumerate() {
        if *page == [0; PAGE][..page.len()] {
            continue;
        }
        let start = (number * PAGE).saturating_sub(REACH);
        let end = (number * PAGE + page.len() + REACH).min(bytes.len());
        match runs.last_mut() {
            Some(last) if start <= last.end => last.end = end,
            _ => runs.push(start..end),
        }
    }
    runs.into_iter()
}

impl Memory {
    pub fn of(process: u32) -> Self {
        let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
        let memory = File::open(format!("/proc/{process}/mem")).unwrap();
        let mut regions = Vec::new();
        for line in maps.lines().filter(|line| line.contains(" rw")) {
            let (range, _) = line.split_once(' ').unwrap();
            let (from, to) = range.split_once('-').unwrap();
            let [from, to] = [from, to].map(|hex| u64::from_str_radix(hex, 16).unwrap());
            let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
            // A guard page or a region of the kernel's cannot be read.
            if memory.read_exact_at(&mut bytes, from).is_ok() {
                regions.extend(written(&bytes).map(|run| (from + run.start as u64, bytes[run].to_vec())));
            }
        }
        assert!(
            !regions.is_empty(),
            "the memory of a child process cannot be read here: see kernel.yama.ptrace_scope"
        );
        Self(regions)
    }

    /// The regions' bytes.
    pub fn regions(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|(_, bytes)| &bytes[..])
    }

    /// Where the flash of a card stands: the one place that is the content of its file, which holds the complement of each byte behind its first
    /// page (`apps/sekisho/src/card/file_flash.rs`).
    pub fn flash(&self, file: &Path) -> Range<u64> {
        let mut content = std::fs::read(file).unwrap().split_off(4096);
        content.iter_mut().for_each(|byte| *byte = !*byte);
        let content = Finder::new(&content[..]);
        let mut places = self.0.iter().flat_map(|(from, bytes)| {
            let found = content.find_iter(bytes);
            found.map(move |at| from + at as u64)
        });
        let start = places.next().unwrap();
        assert_eq!(places.next(), None, "the flash stands in memory twice");
        start..start + content.needle().len() as u64
    }

    /// The names of the secrets of which a piece stands anywhere but in `left_out`, each with where.
    pub fn holds(&self, secrets: &[Secret], left_out: &Range<u64>) -> Vec<String> {
        let mut found: Vec<(&String, Vec<u64>)> = Vec::new();
        for secret in secrets {
            let mut places = Vec::new();
            for piece in secret.bytes.chunks_exact(PIECE).map(Finder::new) {
                for (from, bytes) in &self.0 {
                    let at = piece.find_iter(bytes).map(|at| from + at as u64);
                    places.extend(at.filter(|address| !left_out.contains(address)));
                }
            }
            if !places.is_empty() {
                found.push((&secret.name, places));
            }
        }
        let tell = |(name, places): (&String, Vec<u64>)| format!("{name} at {places:x?}");
        found.into_iter().map(tell).collect()
    }
}
