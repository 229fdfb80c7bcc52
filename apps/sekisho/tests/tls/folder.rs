//! What `sekisho card --tls` reads.

use std::fs;
use std::path::Path;

use crate::pki::Pki;

/// The folder of `--tls`, whose row 0001 is this authority's localhost.
pub(crate) fn write_folder(folder: &Path, pki: &Pki) {
    let row = folder.join("peers/0001");
    fs::create_dir_all(&row).unwrap();
    fs::write(folder.join("key.pem"), pki.element.key.serialize_pem()).unwrap();
    fs::write(folder.join("chain.pem"), &pki.element.pem).unwrap();
    fs::write(row.join("name"), "localhost\n").unwrap();
    fs::write(row.join("anchor.pem"), &pki.authority.pem).unwrap();
    fs::write(row.join("applications"), "F0534B4F530401\n").unwrap();
}
