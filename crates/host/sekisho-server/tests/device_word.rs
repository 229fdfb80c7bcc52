//! What a device says is compared with what is known: receipts field by field, "i" bit by bit (broadcast update, 4.4 and 4.6).

use crate::support;
use sekisho_apdu::{StatusWord, Writer};
use sekisho_hsm::design::{Ceremony, PackOptions};
use sekisho_hsm::{Hsm, SoftHsm};
use sekisho_link::{
    Access, Campaign, Custody, Equ, LoaderState, Manifest, Outcome, Package, Proof, Receipt, SeId, Staging,
    States, Status, Verdict, Version, Wants,
};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use support::{Answer, Fixture};

const SE: SeId = SeId([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);

async fn start(folder: &Path) -> Fixture {
    Fixture::start(folder, &Arc::new(SoftHsm::generate().unwrap())).await
}

impl Fixture {
    /// The SE, registered, and a running campaign of a package with these versions.
    fn campaign_of(&self, version: u32, min_previous: u32, attempts_max: u32) -> (Campaign, Manifest) {
        let ceremony = Ceremony::generate().unwrap();
        let options = PackOptions {
            version,
            min_previous,
            custody: Custody::Hsm,
        };
        let package = ceremony.pack(b"\0asm\x01\0\0\0 and more of it", options).unwrap();
        let device = json!([{ "se_id": SE.to_string(), "kvn": 0x30 }]);
        self.admin("/api/v1/devices", device.to_string().as_bytes());
        let designer = hex::encode(ceremony.designer_public());
        let uploaded = self.admin(&format!("/api/v1/packages?designer={designer}"), &package);
        let wanted = json!({
            "name": "test", "package_id": uploaded["package_id"], "canary": 0, "attempts_max": attempts_max
        });
        let made = self.admin("/api/v1/campaigns", wanted.to_string().as_bytes());
        let id = made["id"].as_str().unwrap();
        self.admin(&format!("/api/v1/campaigns/{id}/start"), b"");
        let manifest = Package::decode(&package).unwrap().source.manifest;
        (id.parse().unwrap(), manifest)
    }

    /// Targets updated, and the version that the device is known to have.
    fn known(&self, campaign: Campaign) -> (u64, u64) {
        let counts = self.read(&format!("/api/v1/campaigns/{campaign}"));
        let updated = |cohort: &str| counts[cohort]["updated"].as_u64().unwrap();
        let devices = self.read("/api/v1/devices");
        let version = devices["devices"][0]["version"].as_u64().unwrap();
        (updated("canary") + updated("rest"), version)
    }

    /// Reports a receipt with a right MAC.
    fn report(&self, campaign: Campaign, receipt: Receipt) -> Verdict {
        let mac = self.hsm.mac_with_k_aut(SE, 0x30, &receipt.message(SE)).unwrap();
        let receipt = Some(Receipt { mac, ..receipt });
        self.say(campaign, Outcome::Activated, StatusWord::NO_ERROR, receipt)
    }

    fn say(&self, campaign: Campaign, outcome: Outcome, sw: StatusWord, receipt: Option<Receipt>) -> Verdict {
        let status = Status {
            version: Version::One,
            se_id: SE,
            campaign,
            outcome,
            step: 0,
            sw,
            proof: receipt.map(Proof::Receipt),
        };
        let mut buffer = [0; Status::MAX_LEN];
        let mut out = Writer::new(&mut buffer);
        status.encode(&mut out).unwrap();
        let path = format!("/device/v1/{SE}/status");
        let (code, _, body) = self.post(&path, &self.link_token(SE), out.written());
        assert_eq!(code, 200, "{}", String::from_utf8_lossy(&body));
        Verdict::decode(&body).unwrap()
    }

    /// EQU of an SE with this parameter "i" and version.
    fn ask(&self, campaign: Campaign, sequence_counter: u32, scp_parameter: u8, version: u32) -> Answer {
        let state = LoaderState {
            target: 1,
            slot: 0,
            version,
            abi: 1,
            staging: Staging::Nothing,
            campaign: Campaign(0),
            next_block: 0,
        };
        self.ask_with(campaign, sequence_counter, scp_parameter, state)
    }

    fn ask_with(
        &self,
        campaign: Campaign,
        sequence_counter: u32,
        scp_parameter: u8,
        state: LoaderState,
    ) -> Answer {
        let equ = Equ {
            version: Version::One,
            se_id: SE,
            campaign,
            kvn: 0x30,
            scp_parameter,
            sequence_counter,
            wants: Wants::BOTH,
            pauses: 0,
            proof: &[],
            states: States::new(&[state]).unwrap(),
        };
        let mut buffer = [0; Equ::MAX_LEN];
        let mut out = Writer::new(&mut buffer);
        equ.encode(&mut out).unwrap();
        self.post(
            &format!("/device/v1/{SE}/equ"),
            &self.link_token(SE),
            out.written(),
        )
    }
}

fn right(campaign: Campaign, manifest: &Manifest, previous_version: u32) -> Receipt {
    Receipt {
        action: 1,
        target: 1,
        campaign,
        previous_version,
        version: manifest.version,
        digest: manifest.digest,
        mac: [0; 16],
    }
}

/// Each field of a receipt changed alone. With a request before it the previous version is known.
fn wrong(receipt: Receipt, asked: bool) -> Vec<Receipt> {
    let mut one_bit = receipt.digest;
    one_bit[0] ^= 0x80;
    let mut wrong = vec![
        Receipt {
            digest: [0; 32],
            ..receipt
        },
        Receipt {
            digest: one_bit,
            ..receipt
        },
        Receipt { target: 0, ..receipt },
        Receipt { target: 2, ..receipt },
        Receipt {
            version: receipt.version + 1,
            ..receipt
        },
        Receipt {
            campaign: Campaign(receipt.campaign.0 ^ 1),
            ..receipt
        },
        Receipt {
            action: 2,
            version: receipt.previous_version,
            digest: [0; 32],
            ..receipt
        },
    ];
    let previous: &[u32] = if asked {
        &[0, 1, 2, 4, 5, 6, u32::MAX]
    } else {
        &[0, 1, 5, 6, u32::MAX]
    };
    wrong.extend(previous.iter().map(|version| Receipt {
        previous_version: *version,
        ..receipt
    }));
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_is_compared_field_by_field_with_and_without_a_request() {
    for asked in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let f = start(folder.path()).await;
        let (campaign, manifest) = f.campaign_of(5, 2, 1000);
        if asked {
            assert_eq!(f.ask(campaign, 0, 0x70, 3).0, 200);
        }
        let receipt = right(campaign, &manifest, 3);
        for wrong in wrong(receipt, asked) {
            let verdict = f.report(campaign, wrong);
            assert_eq!(verdict.access, Access::Retry, "asked {asked}: {wrong:?}");
            assert_eq!(f.known(campaign), (0, 0), "asked {asked}: {wrong:?}");
        }
        let events = f.read("/api/v1/events?limit=100").to_string();
        for words in [
            "its digest",
            "its target",
            "its version",
            "another campaign",
            "its action",
            "its previous version",
        ] {
            assert!(events.contains(words), "{words}: {events}");
        }
        assert_eq!(f.report(campaign, receipt).access, Access::Allowed);
        assert_eq!(f.known(campaign), (1, 5));
        // Said again, true or not, it changes nothing.
        assert_eq!(f.report(campaign, receipt).access, Access::Allowed);
        assert_eq!(
            f.report(
                campaign,
                Receipt {
                    digest: [0; 32],
                    ..receipt
                }
            )
            .access,
            Access::Allowed
        );
        assert_eq!(f.known(campaign), (1, 5));
        f.server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_previous_version_is_the_one_that_the_last_receipt_proved() {
    let folder = tempfile::tempdir().unwrap();
    let f = start(folder.path()).await;
    let (first, manifest) = f.campaign_of(5, 2, 1000);
    assert_eq!(
        f.report(first, right(first, &manifest, 3)).access,
        Access::Allowed
    );
    let (second, manifest) = f.campaign_of(9, 2, 1000);
    for previous in [2, 3, 4, 6, 8] {
        let receipt = right(second, &manifest, previous);
        assert_eq!(f.report(second, receipt).access, Access::Retry, "{previous}");
    }
    // The SE says it has another version, as after a status that got lost: that is the one from then on.
    assert_eq!(f.ask(second, 0, 0x70, 6).0, 200);
    assert_eq!(
        f.report(second, right(second, &manifest, 5)).access,
        Access::Retry
    );
    // A request after the update is granted nothing, and says nothing of the version before it.
    assert_eq!(f.ask(second, 1, 0x70, 9).0, 403);
    f.report(second, right(second, &manifest, 9));
    assert_eq!(f.known(second), (0, 5));
    assert_eq!(
        f.report(second, right(second, &manifest, 6)).access,
        Access::Allowed
    );
    assert_eq!(f.known(second), (1, 9));
    f.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bit_of_the_scp03_parameter_is_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let f = start(folder.path()).await;
    let (campaign, _) = f.campaign_of(2, 1, 2);
    for i in (0..=0xFF).filter(|i| *i != 0x70) {
        let answer = f.ask(campaign, 0, i, 1);
        assert_eq!(
            (answer.0, &*answer.1),
            (403, "application/problem+json"),
            "i={i:02X}"
        );
        let words = String::from_utf8(answer.2).unwrap();
        let reason = match i {
            _ if i & 0x8E != 0 || i & 0x60 == 0x40 => "none of SCP03",
            _ if i & 0x01 != 0 => "S16",
            _ if i & 0x10 == 0 => "random",
            _ => "level 33",
        };
        assert!(
            words.contains(reason) && words.contains(&format!("i={i:02X}")),
            "{words}"
        );
    }
    let counts = f.read(&format!("/api/v1/campaigns/{campaign}"));
    assert_eq!(counts["rest"]["pending"], 1, "{counts}");
    // Another target, and a campaign where nothing is staged.
    let state = LoaderState {
        target: 1,
        slot: 0,
        version: 1,
        abi: 1,
        staging: Staging::Nothing,
        campaign: Campaign(0),
        next_block: 0,
    };
    for state in [
        LoaderState { target: 2, ..state },
        LoaderState { campaign, ..state },
    ] {
        assert_eq!(f.ask_with(campaign, 0, 0x70, state).0, 400, "{state:?}");
    }
    assert_eq!(f.ask(campaign, 0, 0x70, 1).0, 200);
    f.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_fails_before_an_authorisation_has_left() {
    let folder = tempfile::tempdir().unwrap();
    let f = start(folder.path()).await;
    let (campaign, _) = f.campaign_of(2, 1, 2);
    let refused = || f.say(campaign, Outcome::Refused, StatusWord(0x9501), None);
    for _ in 0..5 {
        assert_eq!(refused().access, Access::Retry);
    }
    let counts = f.read(&format!("/api/v1/campaigns/{campaign}"));
    assert_eq!(
        (&counts["rest"]["pending"], &counts["state"]),
        (&1.into(), &"running".into()),
        "{counts}"
    );
    // After one has left, two failures are the end (attempts_max 2); nobody is blocked for what is only said.
    assert_eq!(f.ask(campaign, 0, 0x70, 1).0, 200);
    assert_eq!(refused().access, Access::Retry);
    assert_eq!(refused().access, Access::Allowed);
    let failed = f.read(&format!("/api/v1/campaigns/{campaign}"));
    assert_eq!(
        (&failed["rest"]["failed"], &failed["rest"]["failed_proved"]),
        (&1.into(), &0.into()),
        "{failed}"
    );
    assert_eq!(f.read("/api/v1/devices")["devices"][0]["access"], "allowed");
    f.server.stop().await;
}
