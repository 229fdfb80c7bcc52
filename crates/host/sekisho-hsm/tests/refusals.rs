//! What no authorisation is made for, whoever asks.

use sekisho_hsm::design::{Ceremony, PackOptions};
use sekisho_hsm::{AuthoriseRequest, Hsm, HsmError, KVN_SCP, SoftHsm, authorise};
use sekisho_link::{Campaign, Custody, PACKAGE_MAX, Package, SeId, Version, Wants};

const SE: SeId = SeId([7; 10]);

fn package() -> Vec<u8> {
    let options = PackOptions {
        version: 2,
        min_previous: 1,
        custody: Custody::Hsm,
    };
    let module = b"\0asm\x01\0\0\0";
    Ceremony::generate().unwrap().pack(module, options).unwrap()
}

/// What is packed can be uploaded: the bound is that of the package, in both custody variants.
#[test]
fn no_package_is_longer_than_servers_take() {
    let ceremony = Ceremony::generate().unwrap();
    for (custody, longest) in [
        (Custody::Hsm, PACKAGE_MAX - 1000),
        (Custody::DesignSystem, 7_500_000),
    ] {
        let options = PackOptions {
            version: 2,
            min_previous: 1,
            custody,
        };
        let packed = |len: usize| {
            let mut module = b"\0asm\x01\0\0\0".to_vec();
            module.resize(len, 0);
            ceremony.pack(&module, options)
        };
        let beside = packed(longest).unwrap().len() - longest;
        assert!(beside > 100, "{beside} bytes beside the module");
        let too_long = packed(PACKAGE_MAX - beside + 1);
        assert!(
            matches!(too_long, Err(HsmError::Request(words)) if words.contains("8 MiB")),
            "{:?}",
            too_long.map(|package| package.len())
        );
        if custody == Custody::Hsm {
            assert_eq!(packed(PACKAGE_MAX - beside).unwrap().len(), PACKAGE_MAX);
        }
        assert!(packed(PACKAGE_MAX + 1).is_err());
    }
}

fn request<'a>(package: &'a Package<'a>, kvn: u8, scp_parameter: u8) -> AuthoriseRequest<'a> {
    AuthoriseRequest {
        se_id: SE,
        kvn,
        scp_parameter,
        campaign: Campaign(1),
        sequence_counter: 1,
        version: Version::Two,
        wants: Wants::BOTH,
        pauses: 0,
        key_set_apart: false,
        package: &package.source,
    }
}

#[test]
fn one_scp03_parameter_of_256_is_authorised() {
    let (hsm, bytes) = (SoftHsm::generate().unwrap(), package());
    let package = Package::decode(&bytes).unwrap();
    for i in 0..=0xFF {
        match authorise(&hsm, &request(&package, KVN_SCP, i)) {
            Ok(_) => assert_eq!(i, 0x70),
            Err(HsmError::Parameter { i: named, .. }) => assert_eq!((named, i == 0x70), (i, false)),
            Err(other) => panic!("{i:02X}: {other}"),
        }
    }
}

/// K-AUT is key 1 of version 60: as K-ENC of a session it would make codes and session keys alike.
#[test]
fn no_session_keys_come_out_of_another_key_than_those_of_scp03() {
    let (hsm, bytes) = (SoftHsm::generate().unwrap(), package());
    let package = Package::decode(&bytes).unwrap();
    let challenge = hsm.card_challenge(SE, KVN_SCP, 1).unwrap();
    for kvn in 0..=0xFF {
        let is_scp03 = (0x30..=0x3F).contains(&kvn);
        assert_eq!(hsm.card_challenge(SE, kvn, 1).is_ok(), is_scp03, "{kvn:02X}");
        let session = hsm.scp03_session(SE, kvn, &challenge, &challenge);
        assert_eq!(session.is_ok(), is_scp03, "{kvn:02X}");
        let made = authorise(&hsm, &request(&package, kvn, 0x70));
        assert!(
            is_scp03 == made.is_ok() && !made.is_err_and(|error| !matches!(error, HsmError::KeyVersion(_))),
            "{kvn:02X}"
        );
    }
}
