//! Two authorisations that differ in any one thing share neither host challenge nor session keys (docs/spec/broadcast-update.md, 4.5).

use std::collections::HashMap;

use sekisho_hsm::design::{Ceremony, PackOptions};
use sekisho_hsm::{AuthoriseRequest, Hsm, HsmError, SoftHsm, authorise};
use sekisho_link::{
    Authorisation, Campaign, Custody, Equ, Manifest, Package, PackageBody, PackageSource, SeId, Version,
    Wants,
};
use sekisho_scp::host::Challenge;

const SE: SeId = SeId([7; 10]);

fn package(custody: Custody) -> Vec<u8> {
    let options = PackOptions {
        version: 2,
        min_previous: 1,
        custody,
    };
    let module = b"\0asm\x01\0\0\0";
    Ceremony::generate().unwrap().pack(module, options).unwrap()
}

fn request<'a>(package: &'a PackageSource<'a>) -> AuthoriseRequest<'a> {
    AuthoriseRequest {
        version: Version::Two,
        se_id: SE,
        kvn: 0x30,
        scp_parameter: 0x70,
        campaign: Campaign(1),
        sequence_counter: 1,
        wants: Wants::BOTH,
        pauses: 0,
        key_set_apart: false,
        package,
    }
}

/// The host challenge of what is made, and S-ENC, S-MAC and S-RMAC of its session.
fn session(hsm: &SoftHsm, request: &AuthoriseRequest<'_>) -> (Vec<u8>, [Vec<u8>; 3]) {
    let bytes = authorise(hsm, request).unwrap();
    let first = Authorisation::decode(&bytes).unwrap().commands().next().unwrap();
    let host = Challenge::try_from(&first[5..13]).unwrap();
    let AuthoriseRequest {
        se_id,
        kvn,
        sequence_counter,
        ..
    } = *request;
    let card = hsm.card_challenge(se_id, kvn, sequence_counter).unwrap();
    let keys = hsm.scp03_session(se_id, kvn, &host, &card).unwrap();
    let keys = [&keys.s_enc, &keys.s_mac, &keys.s_rmac].map(|key| key.as_bytes().to_vec());
    (host.as_bytes().to_vec(), keys)
}

/// Packages that differ from the first one in one thing each.
fn other_packages<'a>(source: &PackageSource<'a>) -> Vec<(&'static str, PackageSource<'a>)> {
    let manifest = |change: fn(&mut Manifest)| {
        let mut manifest = source.manifest;
        change(&mut manifest);
        PackageSource { manifest, ..*source }
    };
    let design_code = [9; 16];
    vec![
        ("target", manifest(|m| m.target = Manifest::KEYS)),
        ("part's version", manifest(|m| m.version = 3)),
        ("length", manifest(|m| m.length += 1)),
        ("digest", manifest(|m| m.digest[31] ^= 1)),
        ("package-id and keys", manifest(|m| m.package_id[15] ^= 1)),
        (
            "design code",
            PackageSource {
                design_code,
                ..*source
            },
        ),
    ]
}

/// Packages of the other custody that differ in counter, chaining value and keys.
fn wrapped_packages<'a>(
    source: &PackageSource<'a>,
    other_keys: &'a [u8],
) -> Vec<(&'static str, PackageSource<'a>)> {
    let PackageBody::DesignSystem {
        counter,
        chaining_value,
        wrapped_keys,
        p_se,
    } = source.body
    else {
        unreachable!()
    };
    let body = |counter, chaining_value, wrapped_keys| PackageSource {
        body: PackageBody::DesignSystem {
            counter,
            chaining_value,
            wrapped_keys,
            p_se,
        },
        ..*source
    };
    vec![
        ("custody", *source),
        ("broadcast counter", body(2, chaining_value, wrapped_keys)),
        ("chaining value", body(counter, [1; 16], wrapped_keys)),
        ("wrapped keys", body(counter, chaining_value, other_keys)),
    ]
}

type Change = fn(&mut AuthoriseRequest<'_>);

const OTHER_REQUESTS: [(&str, Change); 11] = [
    ("SE", |r| r.se_id = SeId([8; 10])),
    ("key version", |r| r.kvn = 0x31),
    ("campaign", |r| r.campaign = Campaign(2)),
    ("counter", |r| r.sequence_counter = 2),
    ("activate", |r| r.wants = Wants::ACTIVATE),
    ("load", |r| r.wants = Wants::LOAD),
    ("load with a pause", |r| {
        (r.wants, r.pauses) = (Wants::LOAD, 1);
    }),
    ("one pause", |r| r.pauses = 1),
    ("two pauses", |r| r.pauses = 2),
    ("key set apart", |r| r.key_set_apart = true),
    ("key set apart and a pause", |r| {
        (r.pauses, r.key_set_apart) = (1, true);
    }),
];

#[test]
fn no_two_scripts_share_a_challenge_or_a_session() {
    let hsm = SoftHsm::generate().unwrap();
    let (bytes, wrapped) = (package(Custody::Hsm), package(Custody::DesignSystem));
    let source = Package::decode(&bytes).unwrap().source;
    let wrapped = Package::decode(&wrapped).unwrap().source;
    let others = other_packages(&source);
    let wrapped = wrapped_packages(&wrapped, &[1; 40]);
    let mut requests = vec![("base", request(&source))];
    for (name, source) in others.iter().chain(&wrapped) {
        requests.push((*name, request(source)));
    }
    for (name, change) in OTHER_REQUESTS {
        let mut other = request(&source);
        change(&mut other);
        requests.push((name, other));
    }
    let mut seen = HashMap::new();
    for (name, request) in &requests {
        let (challenge, keys) = session(&hsm, request);
        assert_eq!(session(&hsm, request).0, challenge, "{name} asked for twice");
        for value in [challenge].into_iter().chain(keys) {
            assert_eq!(seen.insert(value, *name), None, "{name}");
        }
    }
    println!("{} scripts, {} values, all different", requests.len(), seen.len());
    assert_eq!(requests.len(), 22);
}

/// The same script is the same session, in which version ever it is written.
#[test]
fn the_version_of_the_message_is_no_part_of_the_script() {
    let hsm = SoftHsm::generate().unwrap();
    let bytes = package(Custody::Hsm);
    let source = Package::decode(&bytes).unwrap().source;
    for wants in [Wants::BOTH, Wants::ACTIVATE] {
        let made = [Version::One, Version::Two].map(|version| {
            let request = AuthoriseRequest {
                version,
                wants,
                ..request(&source)
            };
            authorise(&hsm, &request).unwrap()
        });
        let [one, two] = [&made[0], &made[1]].map(|bytes| Authorisation::decode(bytes).unwrap());
        assert!(one.commands().eq(two.commands()));
        assert_eq!(one.head.splices, two.head.splices);
    }
}

#[test]
fn what_no_script_is_made_for_is_refused() {
    let hsm = SoftHsm::generate().unwrap();
    let bytes = package(Custody::Hsm);
    let source = Package::decode(&bytes).unwrap().source;
    let keys = PackageSource {
        manifest: Manifest {
            target: Manifest::KEYS,
            ..source.manifest
        },
        ..source
    };
    let base = request(&source);
    let (mut made, mut refused) = (0, 0);
    for version in [Version::One, Version::Two] {
        for wants in 0..=0xFF {
            for pauses in [0, 1, Equ::PAUSES_MAX, Equ::PAUSES_MAX + 1, 0xFF] {
                for key_set_apart in [false, true] {
                    for package in [&source, &keys] {
                        let request = AuthoriseRequest {
                            version,
                            wants: Wants(wants),
                            pauses,
                            key_set_apart,
                            package,
                            ..base
                        };
                        let loads = matches!(wants, 1 | 3);
                        let can_be =
                            matches!(wants, 1..=3) && (pauses == 0 || (loads && pauses <= Equ::PAUSES_MAX));
                        let is_old = matches!(wants, 2 | 3)
                            && (pauses, key_set_apart) == (0, false)
                            && package.manifest.target == Manifest::OS_PART;
                        let expected = can_be && (version == Version::Two || is_old);
                        match authorise(&hsm, &request) {
                            Ok(_) => made += usize::from(expected),
                            Err(HsmError::Request(_)) => refused += usize::from(!expected),
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            }
        }
    }
    println!("{made} made, {refused} refused");
    assert_eq!((made, refused), (2 + 28, 2 * 256 * 5 * 2 * 2 - 30));
}
