//! Keys of secure elements renewed over their own sessions (`docs/guide/tls.md`): requests go into a folder, certificates come from it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sekisho_gateway::{Gateway, Identity, Outcome, check_request};

use super::tls_script::{Command, sw};
use super::tls_server::{Objection, Played};
use crate::files;

/// SELECT of the TLS Manager (docs/spec/tls-manager.md, 1).
const SELECT: &[u8] = b"\x00\xA4\x04\x00\x07\xF0SKOS\x05\x01\x00";
/// GENERATE ASYMMETRIC KEY PAIR (7): the request that waits, and a new pair.
const PRESENT: &[u8] = &[0x00, 0x47, 0x81, 0x00, 0x00, 0x00, 0x00];
const NEW: &[u8] = &[0x00, 0x47, 0x80, 0x00, 0x00, 0x00, 0x00];
/// No pair waits; a certificate is of a key that the SE has not (7, 3).
const NOT_THERE: u16 = 0x6A88;
/// Number of the object that is a chain (2).
const CHAIN: u8 = 2;
/// Longest chain that makes a new key live (7).
const CHAIN_MAX: usize = 992;

/// A certificate that cannot be read, a request that cannot be written.
fn of_files(error: &anyhow::Error) -> Objection {
    Objection {
        word: "file",
        text: format!("{error:#}"),
    }
}

/// What came is no request that an authority may be shown.
fn of_request(error: sekisho_gateway::RequestError) -> Objection {
    Objection {
        word: "request",
        text: format!("the request is not to be certified: {error}"),
    }
}

/// Where requests and certificates stand.
pub(super) struct Renewal(PathBuf);

impl Renewal {
    /// # Errors
    /// It is no folder.
    pub(super) fn in_folder(folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            bail!("{} is no folder", folder.display());
        }
        Ok(Self(folder.to_owned()))
    }

    /// A file of a secure element: its name says which key it has now.
    fn file(&self, identity: &Identity, end: &str) -> PathBuf {
        let key = identity.key.first_chunk::<8>().map(hex::encode_upper);
        self.0.join(key.unwrap_or_default()).with_extension(end)
    }

    /// What is asked first.
    pub(super) fn begin(
        &self,
        gateway: &Gateway,
        identity: &Identity,
        played: &mut Played,
    ) -> Option<Vec<Command>> {
        let select = Command::made("SELECT of the TLS Manager", SELECT.to_vec(), Some("...9000"));
        let next = match self.file(identity, "pem") {
            chain if chain.exists() => store(gateway, &chain),
            _ => Ok(Command::made("the request that waits", PRESENT.to_vec(), None)),
        };
        match next {
            Ok(next) => Some(vec![select, next]),
            Err(error) => {
                played.why = Some(of_files(&error));
                None
            }
        }
    }

    /// What is asked behind it; what came is written.
    pub(super) fn go_on(&self, identity: &Identity, played: &mut Played) -> Option<Vec<Command>> {
        let (sent, outcome) = played.outcomes.last()?;
        let (Outcome::Done(answer), None) = (outcome, &played.why) else {
            return None;
        };
        let is_request = matches!(&sent[..], PRESENT | NEW);
        match (sw(answer).0, answer.split_last_chunk::<2>()) {
            (NOT_THERE, _) if sent == PRESENT => {
                return Some(vec![Command::made("a new key", NEW.to_vec(), Some("...9000"))]);
            }
            (0x9000, Some((request, _))) if is_request => {
                let path = self.file(identity, "der");
                let written = check_request(request, identity).map_err(of_request);
                match written
                    .and_then(|()| files::write_public(&path, request).map_err(|error| of_files(&error)))
                {
                    Ok(()) => played.renewed = Some(format!("request in {}", path.display())),
                    Err(objection) => played.why = Some(objection),
                }
            }
            (NOT_THERE, _) if !is_request => {
                let file = self.file(identity, "pem");
                played.why = Some(Objection::answer(format!(
                    "{} is of a key that the secure element has not: without it its present request is asked for",
                    file.display()
                )));
            }
            (0x9000, _) => played.renewed = Some("the new key has its certificate".to_owned()),
            (word, _) => {
                played.why = Some(Objection::answer(
                    sekisho_apdu::StatusWord(word).meaning().to_string(),
                ))
            }
        }
        None
    }
}

/// STORE DATA of the certificates of a file, if a session with them would come about: with its chain the secure element's new key is its only one.
fn store(gateway: &Gateway, path: &Path) -> Result<Command> {
    let pem = files::read(path)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .with_context(|| format!("{} is no PEM", path.display()))?;
    let mut object = vec![CHAIN];
    for certificate in &chain {
        object.extend(u16::try_from(certificate.len())?.to_be_bytes());
        object.extend_from_slice(certificate);
    }
    if object.len() == 1 || object.len() > 1 + CHAIN_MAX {
        bail!("{}: a chain has 1 to {CHAIN_MAX} bytes", path.display());
    }
    gateway
        .would_take(&chain)
        .with_context(|| format!("{} is not sent: this server would not take it", path.display()))?;
    let len = u16::try_from(object.len())?.to_be_bytes();
    let bytes = [&[0x80, 0xE2, 0x80, 0x00, 0x00][..], &len, &object].concat();
    Ok(Command::made("the new certificate", bytes, None))
}
