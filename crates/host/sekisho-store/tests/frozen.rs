//! The fleet's database as 0.1 wrote it (`tests/state/0.1`), opened by today's schema: what has left is known, and what came later begins at nothing.

use std::path::Path;

use sekisho_link::{Campaign, SeId, Version, Wants};
use sekisho_store::{Access, Grant, Issue, Issued, NewPackage, Report, Standing, Store, TargetState, Word};

/// SE n of the frozen fleet, and its campaign of custody 04.
const fn se(number: u8) -> SeId {
    SeId([0x5E, 0xC1, 0x54, 0, 0, 0, 0, 0, 0, number])
}

const CAMPAIGN: Campaign = Campaign(0x634F_F653_A1D1_E4EB);

async fn copy(folder: &Path) -> Store {
    let frozen = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/state/0.1/server/fleet.sqlite");
    let copy = folder.join("fleet.sqlite");
    std::fs::copy(frozen, &copy).unwrap();
    Store::open(&copy).await.unwrap()
}

const FIRST: Grant = Grant {
    version: Version::One,
    wants: Wants::BOTH,
    pauses: 0,
};

fn issue(number: u8, sequence_counter: u32, grant: Grant) -> Issue {
    Issue {
        se_id: se(number),
        campaign: CAMPAIGN,
        sequence_counter,
        grant,
        resumes: false,
        version_before: None,
        key_version_said: None,
        bytes: b"made today".to_vec(),
        at: 1,
    }
}

#[tokio::test]
async fn what_has_left_leaves_again_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let store = copy(folder.path()).await;
    let Issued::Leaves(bytes) = store.issue(issue(2, 1, FIRST)).await.unwrap() else {
        unreachable!("it is the same authorisation");
    };
    assert_eq!((bytes.len(), &bytes[..5]), (207, &b"SKAU\x01"[..]));
    assert_eq!(&bytes[5..15], se(2).0);
    let second = Grant {
        version: Version::Two,
        ..FIRST
    };
    let activates = Grant {
        wants: Wants::ACTIVATE,
        ..FIRST
    };
    for other in [second, activates, Grant { pauses: 1, ..FIRST }] {
        let issued = store.issue(issue(2, 1, other)).await.unwrap();
        assert_eq!(issued, Issued::CounterUsed, "{other:?}");
    }
    assert_eq!(store.granted(se(2), 1, CAMPAIGN).await.unwrap(), Some(FIRST));
    assert_eq!(store.granted(se(2), 1, Campaign(1)).await.unwrap(), None);
    assert_eq!(store.granted(se(2), 2, CAMPAIGN).await.unwrap(), None);
    store.close().await;
}

#[tokio::test]
async fn what_came_later_begins_at_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = copy(folder.path()).await;
    let campaign = store.campaign(CAMPAIGN).await.unwrap();
    assert_eq!((campaign.target, campaign.key_version), (1, 0));
    // For which keys a package of then is can be said by uploading it again.
    let bytes = store.package(campaign.package_id).await.unwrap();
    for (said, is_for) in [(None, 0), (Some(1), 1), (None, 1)] {
        let again = NewPackage {
            package_id: campaign.package_id,
            target: 1,
            version: campaign.version,
            custody: campaign.custody,
            designer: [4; 65],
            key_version: said,
            bytes: &bytes,
        };
        assert_eq!(store.add_package(&again, 1).await.unwrap(), is_for);
        assert_eq!(store.campaign(CAMPAIGN).await.unwrap().key_version, is_for);
    }
    assert_eq!(store.key_versions().await.unwrap(), [(1, 6)]);
    let devices = store.devices(None, Some(1), 100).await.unwrap();
    let known: Vec<_> = devices
        .iter()
        .map(|device| (device.version, device.key_version, device.key_version_said))
        .collect();
    assert_eq!(
        known,
        [(2, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0)]
    );
    // An authorisation of then is one that its SE can be proved to have refused, once.
    let report = Report {
        se_id: se(2),
        campaign: CAMPAIGN,
        word: Word::Refused {
            sequence_counter: 1,
            speaks_against_se: true,
        },
        attempts_max: 2,
        detail: String::new(),
        at: 1,
    };
    let expected = Standing {
        state: TargetState::Authorised,
        reports: 0,
        refusals: 1,
        access: Access::Allowed,
    };
    for _ in 0..3 {
        assert_eq!(store.report(report.clone()).await.unwrap(), expected);
    }
    store.close().await;
}
