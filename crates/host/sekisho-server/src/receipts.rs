//! What a receipt must say to be the proof of an update: every field, against the package and the SE's last state (broadcast update, 4.6).

use sekisho_link::{Campaign, Manifest, Receipt, codes};

/// What is known before a receipt comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected<'a> {
    /// The campaign of the status.
    pub(crate) campaign: Campaign,
    /// The package's manifest.
    pub(crate) manifest: &'a Manifest,
    /// The SE's version before the update: what it said when it asked for its authorisation, else what its last receipt proved. `None`: nothing
    /// is known, and any version that the package may replace is taken.
    pub(crate) version_before: Option<u32>,
}

/// Compares a receipt whose MAC is right.
///
/// # Errors
/// The first field that is another one, in words.
pub(crate) fn check(receipt: &Receipt, expected: &Expected<'_>) -> Result<(), &'static str> {
    // No `..`: a new field does not stay unread.
    let Receipt {
        action,
        target,
        campaign,
        previous_version,
        version,
        digest,
        mac: _,
    } = receipt;
    let Expected {
        campaign: of_campaign,
        manifest,
        version_before,
    } = expected;
    let may_be_replaced = manifest.min_previous..manifest.version;
    let checks = [
        (*action == codes::ACTION_ACTIVATE, "its action is no activation"),
        (campaign == of_campaign, "it is of another campaign"),
        (*target == manifest.target, "its target is not the package's"),
        (*version == manifest.version, "its version is not the package's"),
        (*digest == manifest.digest, "its digest is not the package's"),
        (
            may_be_replaced.contains(previous_version),
            "the package may not replace its previous version",
        ),
        (
            version_before.is_none_or(|version| version == *previous_version),
            "its previous version is not the one that the SE had",
        ),
    ];
    match checks.into_iter().find(|(is_right, _)| !is_right) {
        Some((_, why)) => Err(why),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: Manifest = Manifest {
        target: 1,
        code_format: 1,
        abi: 1,
        version: 5,
        min_previous: 2,
        length: 9,
        package_id: [3; 16],
        digest: [4; 32],
    };

    const RECEIPT: Receipt = Receipt {
        action: codes::ACTION_ACTIVATE,
        target: 1,
        campaign: Campaign(7),
        previous_version: 3,
        version: 5,
        digest: [4; 32],
        mac: [0; 16],
    };

    fn judge(receipt: Receipt, version_before: Option<u32>) -> Result<(), &'static str> {
        let expected = Expected {
            campaign: Campaign(7),
            manifest: &MANIFEST,
            version_before,
        };
        check(&receipt, &expected)
    }

    #[test]
    fn the_right_one_is_taken_with_and_without_a_request() {
        assert_eq!(judge(RECEIPT, Some(3)), Ok(()));
        for previous_version in 2..5 {
            let receipt = Receipt {
                previous_version,
                ..RECEIPT
            };
            assert_eq!(judge(receipt, None), Ok(()), "{previous_version}");
            assert_eq!(judge(receipt, Some(3)).is_ok(), previous_version == 3);
        }
    }

    #[test]
    fn each_field_alone_is_refused_by_its_name() {
        let mut one_bit = RECEIPT.digest;
        one_bit[31] ^= 1;
        for (receipt, word) in [
            (Receipt { action: 2, ..RECEIPT }, "action"),
            (Receipt { target: 2, ..RECEIPT }, "target"),
            (
                Receipt {
                    campaign: Campaign(8),
                    ..RECEIPT
                },
                "campaign",
            ),
            (
                Receipt {
                    version: 4,
                    ..RECEIPT
                },
                "version",
            ),
            (
                Receipt {
                    version: 6,
                    ..RECEIPT
                },
                "version",
            ),
            (
                Receipt {
                    digest: [0; 32],
                    ..RECEIPT
                },
                "digest",
            ),
            (
                Receipt {
                    digest: one_bit,
                    ..RECEIPT
                },
                "digest",
            ),
            (
                Receipt {
                    previous_version: 1,
                    ..RECEIPT
                },
                "previous version",
            ),
            (
                Receipt {
                    previous_version: 5,
                    ..RECEIPT
                },
                "previous version",
            ),
        ] {
            for known in [None, Some(receipt.previous_version), Some(3)] {
                let why = judge(receipt, known).unwrap_err();
                assert!(why.contains(word), "{receipt:?}: {why}");
            }
        }
    }
}
