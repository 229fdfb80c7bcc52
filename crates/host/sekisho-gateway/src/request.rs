//! Requests for certificates that come out of sessions (PKCS #10, RFC 2986), looked at before an authority sees them: who has one SE's key says what it wants.

use sekisho_keys::p256sig::VerifyingKey;
use x509_cert::Certificate;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::Extension;
use x509_cert::request::{CertReq, ExtensionReq};

use crate::identity::Identity;

/// `id-ecPublicKey` and `secp256r1` (RFC 5480, 2.1.1), `ecdsa-with-SHA256` (RFC 5758, 3.2).
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
/// `extensionRequest` (RFC 2985, 5.4.2).
const EXTENSION_REQUEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.14");
/// `subjectAltName` (RFC 5280, 4.2.1.6).
const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
/// What a client's certificate is for, as `docs/spec/tls-manager.md`, 7 has it: `keyUsage` digitalSignature, critical, and `extendedKeyUsage` clientAuth (RFC 5280, 4.2.1.3 and 4.2.1.12).
const USAGES: [(ObjectIdentifier, bool, &[u8]); 2] = [
    (
        ObjectIdentifier::new_unwrap("2.5.29.15"),
        true,
        &[0x03, 0x02, 0x07, 0x80],
    ),
    (
        ObjectIdentifier::new_unwrap("2.5.29.37"),
        false,
        b"\x30\x0A\x06\x08\x2B\x06\x01\x05\x05\x07\x03\x02",
    ),
];

/// Why a request is not to be certified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It is no `CertificationRequest` in DER.
    #[error("it is no PKCS #10 in DER")]
    NoRequest,
    /// Its key is not on P-256, or its point is compressed.
    #[error("its key is not on P-256")]
    Key,
    /// Its signature is not that of its key, with ECDSA and SHA-256.
    #[error("its signature is not its key's")]
    Signature,
    /// Its subject is not that of the certificate which the session has proved.
    #[error("its subject is not the secure element's")]
    Subject,
    /// It asks for other names than those of that certificate, or for anything that a client does not need.
    #[error("it asks for what the secure element's certificate does not have")]
    Extensions,
}

/// Looks at a request that has come out of a session with this SE: signed with its own key on P-256, for the subject and the names of the present certificate, for a client and nothing else.
///
/// # Errors
/// [`RequestError`].
pub fn check_request(request: &[u8], identity: &Identity) -> Result<(), RequestError> {
    let read = CertReq::from_der(request).map_err(|_| RequestError::NoRequest)?;
    if read.to_der().ok().as_deref() != Some(request) {
        return Err(RequestError::NoRequest);
    }
    let key = key(&read).ok_or(RequestError::Key)?;
    is_signed(&read, &key).ok_or(RequestError::Signature)?;
    let present = Certificate::from_der(&identity.certificate).map_err(|_| RequestError::Subject)?;
    let present = present.tbs_certificate();
    if &read.info.subject != present.subject() {
        return Err(RequestError::Subject);
    }
    let mut names = present.extensions().into_iter().flatten();
    let names = names.find(|one| one.extn_id == SUBJECT_ALT_NAME);
    if !asks_for(&read, names) {
        return Err(RequestError::Extensions);
    }
    Ok(())
}

fn key(request: &CertReq) -> Option<VerifyingKey> {
    let info = &request.info.public_key;
    let curve: ObjectIdentifier = info.algorithm.parameters.as_ref()?.decode_as().ok()?;
    if (info.algorithm.oid, curve) != (EC_PUBLIC_KEY, P256) {
        return None;
    }
    VerifyingKey::from_sec1(info.subject_public_key.as_bytes()?.try_into().ok()?).ok()
}

fn is_signed(request: &CertReq, key: &VerifyingKey) -> Option<()> {
    let algorithm = &request.algorithm;
    if algorithm.oid != ECDSA_SHA256 || algorithm.parameters.is_some() {
        return None;
    }
    let signed = request.info.to_der().ok()?;
    key.verify_der(&signed, request.signature.as_bytes()?).ok()
}

/// Whether it asks for a client's usages and these names, and for nothing more.
fn asks_for(request: &CertReq, names: Option<&Extension>) -> bool {
    let mut attributes = request.info.attributes.iter();
    let (Some(attribute), None) = (attributes.next(), attributes.next()) else {
        return false;
    };
    let mut values = attribute.values.iter();
    let (EXTENSION_REQUEST, Some(value), None) = (attribute.oid, values.next(), values.next()) else {
        return false;
    };
    let Ok(ExtensionReq(asked)) = value.decode_as() else {
        return false;
    };
    let parts = |one| {
        let Extension {
            extn_id,
            critical,
            extn_value,
        }: &Extension = one;
        (*extn_id, *critical, extn_value.as_bytes())
    };
    let mut wanted: Vec<_> = USAGES.into_iter().chain(names.map(parts)).collect();
    let mut asked: Vec<_> = asked.iter().map(parts).collect();
    wanted.sort_unstable();
    asked.sort_unstable();
    asked == wanted
}
