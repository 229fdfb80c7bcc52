//! Key changes: what stands in the image, who can make one, and what is refused (docs/spec/broadcast-update.md, 3.1).

use sekisho_hsm::design::{Ceremony, verify};
use sekisho_hsm::{ChangeOptions, Hsm, HsmError, IndividualKey, KVN_SCP, Renewal, SoftHsm};
use sekisho_keys::p256sig::VerifyingKey;
use sekisho_keys::{AesKey, kdf_label, key_unwrap, sha256};
use sekisho_link::{Custody, KeyChange, Manifest, Package, SeId, Version, codes};

const SE: SeId = SeId([7; 10]);
const ALL: [Renewal; 3] = [Renewal::All, Renewal::Keys, Renewal::Designer];

const fn options(custody: Custody) -> ChangeOptions {
    ChangeOptions {
        min_previous: 1,
        custody,
    }
}

fn image(ceremony: &Ceremony, bytes: &[u8]) -> Vec<u8> {
    ceremony.image(&Package::decode(bytes).unwrap().source).unwrap()
}

/// Kos and `K_MAC` out of an image, as an SE with this key takes them.
fn unwrapped(key: &AesKey, context: &[u8], image: &[u8]) -> Option<[u8; 32]> {
    let mut kck = [0; 16];
    kdf_label(key, codes::LABEL_KEY_CHANGE, context, &mut kck);
    let wrapped = KeyChange::decode(image).unwrap().wrapped.unwrap();
    let mut keys = [0; 32];
    key_unwrap(&AesKey::new(&kck).unwrap(), wrapped, &mut keys).ok()?;
    Some(keys)
}

fn pair(ceremony: &Ceremony) -> [u8; 32] {
    [ceremony.kos.as_bytes(), ceremony.k_mac.as_bytes()]
        .concat()
        .try_into()
        .unwrap()
}

#[test]
fn each_renewal_changes_what_it_says_and_is_signed_by_the_present_designer() {
    let present = Ceremony::generate().unwrap();
    let designer = VerifyingKey::from_sec1(&present.designer_public()).unwrap();
    for renewal in ALL {
        let next = present.successor(renewal).unwrap();
        assert_eq!(present.renewal(&next).unwrap(), renewal);
        assert_eq!(next.kos == present.kos, renewal == Renewal::Designer);
        assert_eq!(next.k_mac == present.k_mac, renewal == Renewal::Designer);
        assert_eq!(
            next.designer_public() == present.designer_public(),
            renewal == Renewal::Keys
        );
        for custody in [Custody::Hsm, Custody::DesignSystem] {
            let bytes = present.key_change(&next, options(custody), None).unwrap();
            let package = Package::decode(&bytes).unwrap();
            assert!(verify(&package, &designer));
            let source = package.source;
            assert_eq!((source.version, source.custody()), (Version::Two, custody));
            let Manifest {
                target,
                code_format,
                abi,
                version,
                min_previous,
                ..
            } = source.manifest;
            assert_eq!((target, code_format, abi, version, min_previous), (2, 0, 0, 2, 1));
            // Neither the new keys nor the present ones stand in it.
            for secret in [&next.kos, &next.k_mac, &present.kos, &present.k_mac] {
                assert!(!bytes.windows(16).any(|bytes| bytes == secret.as_bytes()));
            }
        }
        let bytes = present.key_change(&next, options(Custody::Hsm), None).unwrap();
        let package_id = Package::decode(&bytes).unwrap().source.manifest.package_id;
        let image = image(&present, &bytes);
        assert_eq!(
            sha256(&[&image]),
            Package::decode(&bytes).unwrap().source.manifest.digest
        );
        let change = KeyChange::decode(&image).unwrap();
        assert_eq!(
            change.designer,
            (renewal != Renewal::Keys).then(|| next.designer_public())
        );
        assert_eq!(change.wrapped.is_some(), renewal != Renewal::Designer);
        if change.wrapped.is_some() {
            assert_eq!(unwrapped(&present.kos, &package_id, &image), Some(pair(&next)));
            assert_eq!(unwrapped(&next.kos, &package_id, &image), None);
        }
    }
}

#[test]
fn what_is_wrapped_for_one_se_opens_for_it_alone() {
    let (hsm, present) = (SoftHsm::generate().unwrap(), Ceremony::generate().unwrap());
    let next = present.successor(Renewal::All).unwrap();
    let key = IndividualKey::new(&hsm, SE, KVN_SCP).unwrap();
    let bytes = present
        .key_change(&next, options(Custody::Hsm), Some(&key))
        .unwrap();
    let package = Package::decode(&bytes).unwrap().source;
    assert_eq!(package.manifest.package_id, key.package_id);
    let image = image(&present, &bytes);
    assert!(KeyChange::decode(&image).unwrap().is_individual);
    let dek = |se_id| hsm.perso(se_id).unwrap().scp.dek;
    let context = |se_id| codes::key_change_context(&key.package_id, se_id);
    assert_eq!(unwrapped(&dek(SE), &context(SE), &image), Some(pair(&next)));
    let other = SeId([8; 10]);
    assert_eq!(unwrapped(&dek(other), &context(other), &image), None);
    assert_eq!(unwrapped(&dek(SE), &context(other), &image), None);
    // Who knows the present Kos of an opened SE has nothing of it.
    assert_eq!(unwrapped(&present.kos, &key.package_id, &image), None);
    // Of another key set of the SE it is another one.
    let of_31 = IndividualKey::of_package(&hsm, SE, 0x31, key.package_id).unwrap();
    let again = present
        .key_change(&next, options(Custody::Hsm), Some(&of_31))
        .unwrap();
    let again = self::image(&present, &again);
    assert_eq!(unwrapped(&dek(SE), &context(SE), &again), None);
    assert!(matches!(
        IndividualKey::new(&hsm, SE, 0x60),
        Err(HsmError::KeyVersion(0x60))
    ));
}

#[test]
fn the_hand_over_file_of_the_wrapping_key_opens_with_its_passphrase() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let hsm = SoftHsm::generate().unwrap();
    let key = IndividualKey::new(&hsm, SE, 0x31).unwrap();
    key.save(&path, b"of its own").unwrap();
    assert!(IndividualKey::load(&path, b"another").is_err());
    assert!(SoftHsm::load(&path, b"of its own").is_err());
    let read = IndividualKey::load(&path, b"of its own").unwrap();
    assert_eq!(
        (read.se_id, read.kvn, read.package_id),
        (SE, 0x31, key.package_id)
    );
    let present = Ceremony::generate().unwrap();
    let next = present.successor(Renewal::Keys).unwrap();
    let made = [&key, &read].map(|key| {
        let bytes = present
            .key_change(&next, options(Custody::Hsm), Some(key))
            .unwrap();
        image(&present, &bytes)
    });
    assert_eq!(made[0], made[1]);
    assert!(!format!("{key:?}").contains("key: "));
}

#[test]
fn what_changes_nothing_or_contradicts_itself_is_refused() {
    let (hsm, present) = (SoftHsm::generate().unwrap(), Ceremony::generate().unwrap());
    let key = IndividualKey::new(&hsm, SE, KVN_SCP).unwrap();
    let next = present.successor(Renewal::All).unwrap();
    let designer = present.successor(Renewal::Designer).unwrap();
    let with = |min_previous| ChangeOptions {
        min_previous,
        custody: Custody::Hsm,
    };
    let of_version = |version| present.successor(Renewal::All).unwrap().with_key_version(version);
    for (next, options, key) in [
        (&present, with(0), None),
        (&of_version(0), with(0), None),
        (&of_version(1), with(0), None),
        (&next, with(2), None),
        (&designer, with(0), Some(&key)),
    ] {
        assert!(matches!(
            present.key_change(next, options, key),
            Err(HsmError::Request(_))
        ));
    }
    let later = of_version(7).successor(Renewal::All).unwrap();
    assert_eq!(later.key_version(), 8);
    assert!(later.key_change(&of_version(8), with(0), None).is_err());
    let other_id = [9; 16];
    assert!(
        present
            .key_change_with(&next, with(0), other_id, Some(&key), None)
            .is_err()
    );
}
