//! What comes out of a session as a request for a certificate, from an SE or from whoever has the key of one.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P384_SHA384,
};
use sekisho_gateway::RequestError::{Extensions, Key, NoRequest, Signature, Subject};
use sekisho_gateway::{Identity, RequestError, Settings, check_request};

use crate::world::*;

/// A request as an SE makes it, but for a change.
fn request(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::new(vec!["element.example".to_owned()]).unwrap();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    params.serialize_request(key).unwrap().der().to_vec()
}

#[tokio::test]
async fn a_request_is_for_the_element_of_the_session_and_for_nothing_more() {
    let world = World::new(Settings::DEFAULT).await;
    let (session, _element) = world.session().await;
    let identity = session.identity();
    let key = KeyPair::generate().unwrap();
    let right = request(&key, |_| {});
    assert_eq!(check_request(&right, identity), Ok(()));
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let mut unsigned = right.clone();
    let place = right.windows(7).position(|bytes| bytes == b"element").unwrap();
    unsigned[place] ^= 1;
    let of = |change: &dyn Fn(&mut CertificateParams)| request(&key, change);
    for (request, error) in [
        (Vec::new(), NoRequest),
        (b"hello world".to_vec(), NoRequest),
        (right[..right.len() - 1].to_vec(), NoRequest),
        ([&right[..], &[0]].concat(), NoRequest),
        (identity.certificate.clone(), NoRequest),
        (request(&p384, |_| {}), Key),
        (unsigned, Signature),
        (
            of(&|it| it.distinguished_name.push(DnType::CommonName, "victim")),
            Subject,
        ),
        (
            of(&|it| it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            Extensions,
        ),
        (
            of(&|it| it.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth)),
            Extensions,
        ),
        (
            of(&|it| it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            Extensions,
        ),
        (of(&|it| it.extended_key_usages.clear()), Extensions),
        (
            of(&|it| it.key_usages.push(KeyUsagePurpose::KeyCertSign)),
            Extensions,
        ),
        (of(&|it| it.subject_alt_names.clear()), Extensions),
        (
            of(&|it| {
                it.subject_alt_names = CertificateParams::new(vec!["localhost".to_owned()])
                    .unwrap()
                    .subject_alt_names
            }),
            Extensions,
        ),
    ] {
        assert_eq!(check_request(&request, identity), Err(error), "{}", hex(&request));
    }
    // A certificate that cannot be read is nobody's.
    let identity = Identity {
        certificate: b"no certificate".to_vec(),
        ..identity.clone()
    };
    assert_eq!(check_request(&right, &identity), Err(Subject));
}

#[tokio::test]
async fn each_byte_of_a_request_changed_is_another_one_or_none() {
    let world = World::new(Settings::DEFAULT).await;
    let (session, _element) = world.session().await;
    let right = request(&KeyPair::generate().unwrap(), |_| {});
    let refused: Vec<RequestError> = (0..right.len())
        .map(|at| {
            let mut wrong = right.clone();
            wrong[at] ^= 0x20;
            check_request(&wrong, session.identity()).unwrap_err()
        })
        .collect();
    for error in [NoRequest, Key, Signature] {
        assert!(refused.contains(&error), "{error}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}
