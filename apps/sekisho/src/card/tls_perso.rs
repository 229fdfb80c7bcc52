//! What a TLS Manager is made with, read from a folder (`docs/guide/card.md`).

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use p256::pkcs8::{DecodePrivateKey as _, DecodePublicKey as _};
use p256::{PublicKey, SecretKey};
use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use sekisho_apdu::Aid;
use sekisho_applets::tls_manager::{CHAIN_RECORD, KEY_RECORD, ROWS_MAX, is_chain, is_row, row_record};
use sekisho_os::{OwnRecord, REACH_MAX};
use zeroize::{Zeroize as _, Zeroizing};

use crate::files;

/// Records of a TLS Manager.
pub(crate) struct TlsRecords {
    key: Zeroizing<[u8; 32]>,
    chain: Vec<u8>,
    /// Record and value of each row.
    rows: Vec<(u16, Vec<u8>)>,
}

impl TlsRecords {
    /// Reads `key.pem` or `key.der`, `chain.pem` and `peers/NNNN/`.
    ///
    /// # Errors
    /// A file is missing, or is not what it is to be; its name is said.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let of = |name: &str| folder.join(name);
        let path = match (of("key.pem"), of("key.der")) {
            (pem, der) if pem.exists() && der.exists() => {
                bail!("{} and {}: which is the key?", pem.display(), der.display())
            }
            (_, der) if der.exists() => der,
            (pem, _) => pem,
        };
        let key = private_key(&path)?;
        Ok(Self {
            key: Zeroizing::new(key.to_bytes().into()),
            chain: chain(&of("chain.pem"), &key, &path)?,
            rows: rows(&of("peers"))?,
        })
    }

    /// A key in PKCS#8, a chain, and the peer of row 0001, as whoever certifies secure elements has them.
    pub(crate) fn of(key: &[u8], certificates: &[CertificateDer<'_>], peer: &Peer<'_>) -> Result<Self> {
        let key = SecretKey::from_pkcs8_der(key).map_err(|_| anyhow!("no key of the curve P-256"))?;
        let (chain, row) = (chain_of(certificates)?, peer.row()?);
        if !is_chain(&chain) || !is_row(&row) {
            bail!("chain or row are longer than a TLS Manager keeps");
        }
        Ok(Self {
            key: Zeroizing::new(key.to_bytes().into()),
            chain,
            rows: vec![(row_record(1).context("row 0001")?, row)],
        })
    }

    /// As the secure element takes them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = OwnRecord<'_>> {
        let rows = self.rows.iter().map(|(record, row)| (*record, 0, &row[..]));
        [(KEY_RECORD, 0, &self.key[..]), (CHAIN_RECORD, 0, &self.chain[..])]
            .into_iter()
            .chain(rows)
    }
}

/// The private key in a file: in PEM the first there is, else DER.
fn private_key(path: &Path) -> Result<SecretKey> {
    let bytes = files::read_secret_bytes(path)?;
    if path.extension().is_some_and(|end| end == "der") {
        return of_der(&bytes, path);
    }
    let mut der = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
        pem::Error::NoItemsFound => anyhow!(
            "{} has no private key in the clear (BEGIN PRIVATE KEY or BEGIN EC PRIVATE KEY)",
            path.display()
        ),
        error => anyhow!("{} is no PEM: {error}", path.display()),
    })?;
    let key = of_der(der.secret_der(), path);
    der.zeroize();
    key
}

/// PKCS#8, or SEC 1.
fn of_der(der: &[u8], path: &Path) -> Result<SecretKey> {
    let key = SecretKey::from_pkcs8_der(der).ok();
    key.or_else(|| SecretKey::from_sec1_der(der).ok())
        .with_context(|| {
            format!(
                "{}: no private key of the curve P-256, the only one that a TLS Manager has",
                path.display()
            )
        })
}

/// The certificates of a file in PEM, one at least.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_slice_iter(&files::read(path)?).collect::<Result<Vec<_>, _>>();
    let read = read.map_err(|error| anyhow!("{} is no PEM: {error}", path.display()))?;
    if read.is_empty() {
        bail!("{} has no certificate (BEGIN CERTIFICATE)", path.display());
    }
    Ok(read)
}

fn chain(path: &Path, key: &SecretKey, key_path: &Path) -> Result<Vec<u8>> {
    let certificates = certificates(path)?;
    let [first, ..] = &certificates[..] else {
        bail!("{} has no certificate", path.display())
    };
    let chain = chain_of(&certificates).with_context(|| path.display().to_string())?;
    if !is_chain(&chain) {
        bail!(
            "{}: {} certificates of {} bytes together; a TLS Manager keeps 4 of 1,000 bytes together, with the length of each in 2",
            path.display(),
            certificates.len(),
            chain.len()
        );
    }
    let own = ParsedCertificate::try_from(first).map_err(|error| {
        anyhow!(
            "{}: the first certificate cannot be used: {error}",
            path.display()
        )
    })?;
    let its = PublicKey::from_public_key_der(&own.subject_public_key_info());
    if its.ok() != Some(key.public_key()) {
        bail!(
            "the first certificate of {} is not that of {}",
            path.display(),
            key_path.display()
        );
    }
    Ok(chain)
}

/// The length of each certificate and itself.
fn chain_of(certificates: &[CertificateDer<'_>]) -> Result<Vec<u8>> {
    let mut chain = Vec::new();
    for certificate in certificates {
        let len = u16::try_from(certificate.len()).context("a certificate is too long")?;
        chain.extend(len.to_be_bytes());
        chain.extend_from_slice(certificate);
    }
    Ok(chain)
}

/// A peer: its name, what it reaches, who vouches for it.
pub(crate) struct Peer<'a> {
    pub(crate) name: &'a str,
    pub(crate) applications: &'a [&'a [u8]],
    pub(crate) anchor: &'a CertificateDer<'a>,
    /// What it may write over its session, by bits (`docs/spec/tls-manager.md`, 2).
    pub(crate) rights: u8,
    /// What the applications are told of it.
    pub(crate) level: u8,
    /// SHA-256 of its public key; without one its name says who it is.
    pub(crate) pin: Option<[u8; 32]>,
}

impl Peer<'_> {
    /// As a row has it: in the form with level and pin where it needs that.
    fn row(&self) -> Result<Vec<u8>> {
        let mut row = Vec::new();
        match (self.rights, self.level, &self.pin) {
            (0, 0, None) => {}
            (rights, 0, None) => row.extend([0, rights]),
            (rights, level, pin) => {
                row.extend([0, 0x81, rights, level]);
                let pin = pin.as_ref().map_or(&[][..], |pin| &pin[..]);
                row.push(u8::try_from(pin.len())?);
                row.extend(pin);
            }
        }
        row.push(u8::try_from(self.name.len()).context("the name is too long")?);
        row.extend(self.name.as_bytes());
        row.push(u8::try_from(self.applications.len()).context("too many applications")?);
        for aid in self.applications {
            row.push(u8::try_from(aid.len()).context("an AID is too long")?);
            row.extend_from_slice(aid);
        }
        row.extend_from_slice(self.anchor);
        Ok(row)
    }
}

/// The rows in a folder, each a folder of its number.
fn rows(folder: &Path) -> Result<Vec<(u16, Vec<u8>)>> {
    let cannot = || format!("cannot look into {}", folder.display());
    let mut rows = Vec::new();
    for entry in fs::read_dir(folder).with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let number = Some(&name).filter(|name| name.len() == 4 && !name.starts_with('+'));
        let number = number.and_then(|name| u16::from_str_radix(name, 16).ok());
        let Some(record) = number.and_then(row_record) else {
            bail!(
                "{}: a peer's row is a folder 0001 to {ROWS_MAX:04X}",
                path.display()
            );
        };
        rows.push((record, row(&path)?));
    }
    if rows.is_empty() {
        bail!(
            "{} has no peer: a folder 0001 with the files name, anchor.pem, applications",
            folder.display()
        );
    }
    rows.sort_unstable();
    Ok(rows)
}

/// What a row's server may write over its session: words of a file, if there is one.
fn rights(path: &Path) -> Result<u8> {
    if !path.exists() {
        return Ok(0);
    }
    let text = files::read_text(path)?;
    text.split_whitespace().try_fold(0, |rights, word| match word {
        "renew" => Ok(rights | 1),
        "anchor" => Ok(rights | 2),
        _ => bail!(
            "{}: {word:?} is no right; there are renew and anchor",
            path.display()
        ),
    })
}

/// What the applications are told of a row's server: a number, if there is one.
fn level(path: &Path) -> Result<u8> {
    if !path.exists() {
        return Ok(0);
    }
    let text = files::read_text(path)?;
    let level = text.trim().parse();
    level.map_err(|_| anyhow!("{}: {:?} is no level of 0 to 255", path.display(), text.trim()))
}

/// The key that a row's server has, if it is pinned: SHA-256 of it, as `openssl pkey -pubin -outform DER` writes it.
fn pin(path: &Path) -> Result<Option<[u8; 32]>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = files::read_text(path)?;
    let pin = hex::decode(text.trim())
        .ok()
        .and_then(|bytes| bytes.try_into().ok());
    let pin = pin.with_context(|| format!("{}: a pin has 64 hexadecimal digits", path.display()))?;
    Ok(Some(pin))
}

/// A row: who the server is, what it reaches, the anchor.
fn row(folder: &Path) -> Result<Vec<u8>> {
    let pin = pin(&folder.join("pin"))?;
    let path = folder.join("name");
    let text = if pin.is_some() && !path.exists() {
        String::new()
    } else {
        files::read_text(&path)?
    };
    let name = text.trim();
    if pin.is_none() || !name.is_empty() {
        ServerName::try_from(name)
            .map_err(|_| anyhow!("{}: {name:?} is no name of a server", path.display()))?;
    }
    let path = folder.join("applications");
    let listed = files::read_text(&path)?;
    let aids = listed.lines().map(str::trim).filter(|line| !line.is_empty());
    let aids = aids.map(|line| {
        let aid = hex::decode(line).ok().filter(|bytes| Aid::new(bytes).is_some());
        aid.with_context(|| format!("{}: {line:?} is no AID of 5 to 16 bytes", path.display()))
    });
    let aids = aids.collect::<Result<Vec<_>>>()?;
    if aids.is_empty() || aids.len() > REACH_MAX {
        bail!(
            "{}: a peer reaches 1 to {REACH_MAX} applications, one AID a line",
            path.display()
        );
    }
    let path = folder.join("anchor.pem");
    let [anchor] = &certificates(&path)?[..] else {
        bail!(
            "{} has several certificates; a peer has one anchor",
            path.display()
        );
    };
    RootCertStore::empty()
        .add(anchor.clone())
        .map_err(|error| anyhow!("{}: {error}", path.display()))?;
    let applications: Vec<_> = aids.iter().map(Vec::as_slice).collect();
    let peer = Peer {
        name,
        applications: &applications,
        anchor,
        rights: rights(&folder.join("rights"))?,
        level: level(&folder.join("level"))?,
        pin,
    };
    let row = peer.row().with_context(|| folder.display().to_string())?;
    if !is_row(&row) {
        bail!(
            "{}: {} bytes with name, AIDs and anchor; a TLS Manager keeps 1,000 of a row",
            folder.display(),
            row.len()
        );
    }
    Ok(row)
}
