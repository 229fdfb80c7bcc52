//! What TLS computes with, against published vectors: Wycheproof's, and those of RFC 4231.
#![allow(clippy::unwrap_used)] // helpers are no #[test] functions, which clippy.toml allows it in

use sekisho_keys::p256dh::EphemeralKey;
use sekisho_keys::p256sig::{SigningKey, VerifyingKey};
use sekisho_keys::{Gcm, GcmError, Rng, hmac_sha256};
use wycheproof::{TestResult, aead, ecdh, ecdsa, mac};

#[test]
fn wycheproof_aes_128_gcm() {
    let set = aead::TestSet::load(aead::TestName::AesGcm).unwrap();
    let (mut good, mut bad) = (0, 0);
    for group in set
        .test_groups
        .iter()
        .filter(|group| (group.key_size, group.nonce_size, group.tag_size) == (128, 96, 128))
    {
        for test in &group.tests {
            let key = Gcm::new(&test.key[..].try_into().unwrap());
            let nonce = test.nonce[..].try_into().unwrap();
            let mut sealed = [&test.ct[..], &test.tag].concat();
            let opened = key.open(&nonce, &test.aad, &mut sealed);
            if test.result == TestResult::Valid {
                assert_eq!(opened.unwrap(), &test.pt[..], "{}", test.tc_id);
                let mut text = test.pt.to_vec();
                assert_eq!(key.seal(&nonce, &test.aad, &mut text).unwrap(), test.tag[..]);
                assert_eq!(text, test.ct[..]);
                good += 1;
            } else {
                assert_eq!(opened, Err(GcmError), "{}", test.tc_id);
                bad += 1;
            }
        }
    }
    assert_eq!((good, bad), (40, 27));
    assert_eq!(
        Gcm::new(&[0; 16]).open(&[0; 12], &[], &mut [0; 15]),
        Err(GcmError)
    );
}

#[test]
fn wycheproof_hmac_sha256() {
    let set = mac::TestSet::load(mac::TestName::HmacSha256).unwrap();
    let mut count = 0;
    for group in &set.test_groups {
        for test in &group.tests {
            let tag = hmac_sha256(&test.key, &[&test.msg]);
            let is_right = tag[..group.tag_size / 8] == test.tag[..];
            assert_eq!(is_right, test.result == TestResult::Valid, "{}", test.tc_id);
            count += 1;
        }
    }
    assert!(count > 150, "{count}");
}

#[test]
fn hmac_of_parts_and_of_long_keys() {
    // RFC 4231, 4.7 and 4.3.
    let long = hex::decode("60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54").unwrap();
    assert_eq!(
        hmac_sha256(
            &[0xAA; 131],
            &[b"Test Using Larger Than Block-Size Key", b" - Hash Key First"]
        )[..],
        long
    );
    let parts = hex::decode("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843").unwrap();
    assert_eq!(
        hmac_sha256(b"Jefe", &[b"", b"what do ya want ", b"for nothing?"])[..],
        parts
    );
}

#[test]
fn wycheproof_ecdsa_p256_in_der() {
    let set = ecdsa::TestSet::load(ecdsa::TestName::EcdsaSecp256r1Sha256).unwrap();
    let (mut good, mut bad) = (0, 0);
    for group in &set.test_groups {
        let key = VerifyingKey::from_sec1(&group.key.key[..].try_into().unwrap()).unwrap();
        for test in &group.tests {
            let is_right = key.verify_der(&test.msg, &test.sig).is_ok();
            assert_eq!(
                is_right,
                test.result == TestResult::Valid,
                "{} {}",
                test.tc_id,
                test.comment
            );
            *(if is_right { &mut good } else { &mut bad }) += 1;
        }
    }
    assert!(good > 100 && bad > 100, "{good} {bad}");
}

/// A scalar as a generator's output.
struct Gives<'a>(&'a [u8]);

impl Rng for Gives<'_> {
    fn fill(&mut self, out: &mut [u8]) {
        out.fill(0);
        let len = self.0.len().min(32);
        out[32 - len..].copy_from_slice(&self.0[self.0.len() - len..]);
    }
}

/// Points in any other form than the uncompressed one are refused, compressed ones too.
#[test]
fn wycheproof_ecdh_p256_of_points() {
    let set = ecdh::TestSet::load(ecdh::TestName::EcdhSecp256r1Ecpoint).unwrap();
    let (mut good, mut compressed) = (0, 0);
    for group in &set.test_groups {
        for test in &group.tests {
            let key = EphemeralKey::generate(&mut Gives(&test.private_key)).unwrap();
            let agreed = key.agree(&test.public_key);
            let is_short = test.public_key.len() == 33;
            compressed += usize::from(is_short);
            if test.result == TestResult::Invalid || is_short {
                assert!(agreed.is_err(), "{}", test.tc_id);
            } else {
                assert_eq!(agreed.unwrap()[..], test.shared_secret[..], "{}", test.tc_id);
                good += 1;
            }
        }
    }
    assert!(good > 200 && compressed > 0, "{good} {compressed}");
}

#[test]
fn a_signature_in_der_is_the_keys_own() {
    let key = SigningKey::from_bytes(&[7; 32]).unwrap();
    for number in 0..64_u8 {
        let mut der = [0; 72];
        let len = key.sign_der(&[number], &mut der);
        let signature = &der[..len];
        assert_eq!(key.verifying_key().verify_der(&[number], signature), Ok(()));
        assert!(key.verifying_key().verify_der(&[number + 1], signature).is_err());
        assert!(
            key.verifying_key()
                .verify_der(&[number], &[signature, &[0]].concat())
                .is_err()
        );
    }
}
