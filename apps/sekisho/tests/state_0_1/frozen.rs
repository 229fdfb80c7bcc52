//! The frozen folder: its digests, and copies of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sekisho_keys::sha256;
use tempfile::TempDir;

use crate::process::{repository, scratch};

/// SHA-256 of `SHA256SUMS`. It changes when a file is added, and never otherwise.
const SUMS: &str = "fc4b79986c99acbb7ad2d25b5f7a41cee23d8cd2a3836217258aa21cbf6fe163";

/// Passphrase of everything that is sealed, but for the local server's.
pub(crate) const PASSPHRASE: &str = "frozen at 17de677";
/// Passphrase of the local server.
pub(crate) const EDGE_PASSPHRASE: &str = "edge at 17de677";

/// The folder of frozen files.
pub(crate) fn folder() -> PathBuf {
    repository("tests/state/0.1")
}

/// A frozen file.
pub(crate) fn read(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A frozen file that is text.
pub(crate) fn text(name: &str) -> String {
    String::from_utf8(read(name)).unwrap()
}

/// Copies of the whole folder, to work with.
pub(crate) fn copy() -> TempDir {
    let to = scratch();
    copy_folder(&folder(), to.path());
    to
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Every file below `folder`, by its path from there.
pub(crate) fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fn add(found: &mut BTreeMap<String, Vec<u8>>, root: &Path, folder: &Path) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                add(found, root, &path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    add(&mut found, folder, folder);
    found
}

#[test]
fn nothing_has_been_changed() {
    let sums = read("SHA256SUMS");
    assert_eq!(hex::encode(sha256(&[&sums])), SUMS, "SHA256SUMS");
    let listed: BTreeMap<String, String> = String::from_utf8(sums)
        .unwrap()
        .lines()
        .map(|line| {
            let (digest, name) = line.split_once("  ").unwrap();
            (name.to_owned(), digest.to_owned())
        })
        .collect();
    let mut there = files(&folder());
    // The page about the files may be improved.
    there.retain(|name, _| name != "SHA256SUMS" && name != "README.md");
    let there: BTreeMap<String, String> = there
        .into_iter()
        .map(|(name, bytes)| (name, hex::encode(sha256(&[&bytes]))))
        .collect();
    assert_eq!(there, listed);
}
