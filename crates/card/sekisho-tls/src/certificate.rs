//! What the SE has to read of certificates, and the request for one (RFC 2986).

use alloc::vec::Vec;

use sekisho_keys::p256sig::{SigningKey, VerifyingKey};
use x509_cert::Certificate;
use x509_cert::attr::{Attribute, AttributeTypeAndValue, Attributes};
use x509_cert::der::asn1::{Any, BitString, ObjectIdentifier, OctetString};
use x509_cert::der::{Decode as _, Encode as _, Tag};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{ExtendedKeyUsage, KeyUsage, KeyUsages};
use x509_cert::name::{Name, RdnSequence, RelativeDistinguishedName};
use x509_cert::request::{CertReq, CertReqInfo, ExtensionReq, Version};
use x509_cert::spki::{AlgorithmIdentifier, SubjectPublicKeyInfo};

/// `id-ecPublicKey` (RFC 5480, 2.1.1).
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// `secp256r1` (RFC 5480, 2.1.1.1).
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
/// `ecdsa-with-SHA256` (RFC 5758, 3.2).
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
/// `id-ce-keyUsage`, `id-ce-extKeyUsage` and `id-ce-subjectAltName` (RFC 5280, 4.2.1).
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
/// `id-at-serialNumber` (X.520, 5.2.9; RFC 5280, A.1: a `PrintableString`).
const SERIAL_NUMBER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.5");
/// `id-kp-clientAuth` (RFC 5280, 4.2.1.12).
const CLIENT_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2");

/// The key of a certificate; `None` for what is no certificate in DER, and for one of another curve or with a compressed point.
pub fn public_key(certificate: &[u8]) -> Option<VerifyingKey> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let info = certificate.tbs_certificate().subject_public_key_info();
    let curve: ObjectIdentifier = info.algorithm.parameters.as_ref()?.decode_as().ok()?;
    if (info.algorithm.oid, curve) != (EC_PUBLIC_KEY, P256) {
        return None;
    }
    let point = info.subject_public_key.as_bytes()?.try_into().ok()?;
    VerifyingKey::from_sec1(point).ok()
}

/// Whether this is one certificate in DER, with nothing behind it.
pub fn is_certificate(bytes: &[u8]) -> bool {
    Certificate::from_der(bytes).is_ok()
}

/// For whom a certificate is requested.
#[derive(Debug)]
pub struct Subject {
    name: Name,
    /// `subjectAltName`, as it stands in a certificate.
    names: Option<Extension>,
}

impl Subject {
    /// A `Name` in DER, with an attribute at least.
    pub fn of_name(der: &[u8]) -> Option<Self> {
        let name = Name::from_der(der).ok().filter(|name| !name.is_empty())?;
        // What is not as DER has it would be another name in the certificate.
        let is_der = name.to_der().is_ok_and(|again| again == der);
        is_der.then_some(Self { name, names: None })
    }

    /// Whoever has this certificate: its subject and its other names.
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        let certificate = Certificate::from_der(der).ok()?;
        let certificate = certificate.tbs_certificate();
        let mut extensions = certificate.extensions().into_iter().flatten();
        Some(Self {
            name: certificate.subject().clone(),
            names: extensions.find(|one| one.extn_id == SUBJECT_ALT_NAME).cloned(),
        })
    }

    /// A `serialNumber` (X.520, 5.2.9): hexadecimal digits of these bytes.
    pub fn of_serial(bytes: &[u8]) -> Option<Self> {
        let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0x0F]);
        let digits = digits.filter_map(|digit| char::from_digit(digit.into(), 16));
        let text: Vec<u8> = digits
            .map(|digit| digit.to_ascii_uppercase())
            .filter_map(|digit| u8::try_from(digit).ok())
            .collect();
        // Not from text: with it all names of attributes that the crate knows come into the image.
        let one = AttributeTypeAndValue {
            oid: SERIAL_NUMBER,
            value: Any::new(Tag::PrintableString, text).ok()?,
        };
        let names = RelativeDistinguishedName::try_from(Vec::from([one])).ok()?;
        Self::of_name(&RdnSequence::from(Vec::from([names])).to_der().ok()?)
    }
}

/// A `CertificationRequest` (RFC 2986, 4) for the key, signed with it: for a client of TLS (`digitalSignature`, `clientAuth`). `None` when it cannot be made, or its signature is not right.
pub fn request(subject: &Subject, key: &SigningKey) -> Option<Vec<u8>> {
    let usage = KeyUsage(KeyUsages::DigitalSignature.into());
    let extension = |extn_id, critical, value: Vec<u8>| {
        Some(Extension {
            extn_id,
            critical,
            extn_value: OctetString::new(value).ok()?,
        })
    };
    let mut extensions = Vec::from([
        extension(KEY_USAGE, true, usage.to_der().ok()?)?,
        extension(
            EXTENDED_KEY_USAGE,
            false,
            ExtendedKeyUsage(Vec::from([CLIENT_AUTH])).to_der().ok()?,
        )?,
    ]);
    extensions.extend(subject.names.clone());
    let attribute = Attribute::try_from(ExtensionReq(extensions)).ok()?;
    let mut attributes = Attributes::new();
    attributes.insert(attribute).ok()?;
    let info = CertReqInfo {
        version: Version::V1,
        subject: subject.name.clone(),
        public_key: SubjectPublicKeyInfo {
            algorithm: AlgorithmIdentifier {
                oid: EC_PUBLIC_KEY,
                parameters: Some(Any::from(&P256)),
            },
            subject_public_key: BitString::from_bytes(&key.verifying_key().to_sec1()).ok()?,
        },
        attributes,
    };
    let signed = info.to_der().ok()?;
    let mut der = [0; 72];
    let len = key.sign_der(&signed, &mut der);
    let signature = der.get(..len)?;
    // A signature that a fault has made could tell of the key.
    key.verifying_key().verify_der(&signed, signature).ok()?;
    let request = CertReq {
        info,
        algorithm: AlgorithmIdentifier {
            oid: ECDSA_SHA256,
            parameters: None,
        },
        signature: BitString::from_bytes(signature).ok()?,
    };
    request.to_der().ok()
}
