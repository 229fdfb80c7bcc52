//! What a receipt must say to be the proof of an update, and a refusal to be one of a failure: every field, against the package, the SE's last state
//! and the authorisations that have left (broadcast update, 4.6).

use sekisho_link::{Campaign, Manifest, Receipt, Refusal, Wants, codes};
use sekisho_store::Grant;

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

/// Status words with which an SE refuses what has come to it whole and authentic. Others a device, or somebody between it and its SE, can bring
/// about: by a changed byte or an unprotected command (6982, 6700, 6A86), or by an EQU that says of the SE what is not so (6985, 9504, 9506).
const OF_THE_SE: [u16; 7] = [0x6A80, 0x6A84, 0x6A88, 0x9501, 0x9502, 0x9503, 0x9505];

/// Those of them that come as well where the package is of other keys than the SE's: its signature, what its Kos opens, what its codes are made with.
/// Whose campaigns they are brings them about.
const OF_THE_KEYS: [u16; 3] = [0x6A80, 0x9501, 0x9503];

/// What is known before a refusal comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExpectedRefusal<'a> {
    /// The campaign of the status.
    pub(crate) campaign: Campaign,
    /// The package's manifest.
    pub(crate) manifest: &'a Manifest,
    /// Commands of the bulk: its blocks, and the way back, whose number is the next block of one who has all of them.
    pub(crate) commands: usize,
    /// Whether it is known that the package is for the keys that the SE obeys.
    pub(crate) has_the_keys: bool,
}

/// Compares a refusal whose MAC is right, and says whether it speaks against the SE. `issued` is what the authorisation of its sequence counter was
/// made for, if one of this campaign has left.
///
/// # Errors
/// The first field that is another one, in words.
pub(crate) fn check_refusal(
    refusal: &Refusal,
    expected: &ExpectedRefusal<'_>,
    issued: Option<Grant>,
) -> Result<bool, &'static str> {
    let ExpectedRefusal {
        campaign: of_campaign,
        manifest,
        commands,
        has_the_keys,
    } = *expected;
    // No `..`: a new field does not stay unread. The counter is in `issued`.
    let Refusal {
        action,
        target,
        campaign,
        sequence_counter: _,
        sw,
        block,
        version,
        digest,
        mac: _,
    } = refusal;
    let has_staged = *digest != [0; 32];
    // Before a manifest that the designer has signed nothing says what it is of.
    let says_target = *target != 0 || has_staged || *version != 0;
    let could = |wants: Wants| match *action {
        codes::ACTION_LOAD => wants.loads(),
        codes::ACTION_ACTIVATE => wants.activates(),
        _ => false,
    };
    let checks = [
        (*campaign == of_campaign, "it is of another campaign"),
        (
            *target == manifest.target || !says_target,
            "its target is not the package's",
        ),
        (
            !has_staged || *digest == manifest.digest,
            "its digest is not the package's",
        ),
        (
            usize::from(*block) < commands,
            "its block is none of the package's",
        ),
        (
            issued.is_some(),
            "no authorisation of this campaign has this sequence counter",
        ),
        (
            issued.is_some_and(|grant| could(grant.wants)),
            "its action is none of the authorisation's",
        ),
    ];
    if let Some((_, why)) = checks.into_iter().find(|(is_right, _)| !is_right) {
        return Err(why);
    }
    // An SE that has a version which the package may not replace is right to refuse: its device said another one when it asked.
    let may_be_replaced = manifest.min_previous..manifest.version;
    let can_be_its_own = OF_THE_SE.contains(&sw.0) && (has_the_keys || !OF_THE_KEYS.contains(&sw.0));
    Ok(can_be_its_own && (!says_target || may_be_replaced.contains(version)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sekisho_apdu::StatusWord;
    use sekisho_link::Version;

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

    const REFUSAL: Refusal = Refusal {
        action: codes::ACTION_LOAD,
        target: 1,
        campaign: Campaign(7),
        sequence_counter: 9,
        sw: StatusWord(0x9505),
        block: 5,
        version: 3,
        digest: [4; 32],
        mac: [0; 16],
    };

    fn granted(wants: Wants) -> Option<Grant> {
        Some(Grant {
            version: Version::Two,
            wants,
            pauses: 0,
        })
    }

    fn judge_refusal(refusal: &Refusal, issued: Option<Grant>) -> Result<bool, &'static str> {
        let expected = ExpectedRefusal {
            campaign: Campaign(7),
            manifest: &MANIFEST,
            commands: 7,
            has_the_keys: true,
        };
        check_refusal(refusal, &expected, issued)
    }

    fn changed(change: impl Fn(&mut Refusal)) -> Refusal {
        let mut refusal = REFUSAL;
        change(&mut refusal);
        refusal
    }

    #[test]
    fn a_refusal_of_what_was_authorised_is_taken() {
        let activation = changed(|r| r.action = codes::ACTION_ACTIVATE);
        let unsigned = changed(|r| (r.target, r.version, r.digest) = (0, 0, [0; 32]));
        for (refusal, wants, is_taken) in [
            (REFUSAL, Wants::BOTH, true),
            (REFUSAL, Wants::LOAD, true),
            (REFUSAL, Wants::ACTIVATE, false),
            (activation, Wants::BOTH, true),
            (activation, Wants::ACTIVATE, true),
            (activation, Wants::LOAD, false),
            (unsigned, Wants::BOTH, true),
        ] {
            let expected = if is_taken {
                Ok(true)
            } else {
                Err("its action is none of the authorisation's")
            };
            assert_eq!(
                judge_refusal(&refusal, granted(wants)),
                expected,
                "{refusal:?} {wants:?}"
            );
        }
    }

    #[test]
    fn each_field_of_a_refusal_alone_is_refused_by_its_name() {
        for (refusal, word) in [
            (changed(|r| r.action = codes::ACTION_DISCARD), "action"),
            (changed(|r| r.target = 2), "target"),
            (changed(|r| r.target = 0), "target"),
            (changed(|r| (r.target, r.digest) = (0, [0; 32])), "target"),
            (changed(|r| r.campaign = Campaign(8)), "campaign"),
            (changed(|r| r.digest[0] ^= 1), "digest"),
            (changed(|r| r.digest[31] ^= 1), "digest"),
            (changed(|r| r.block = 7), "block"),
            (changed(|r| r.block = u16::MAX), "block"),
        ] {
            let why = judge_refusal(&refusal, granted(Wants::BOTH)).unwrap_err();
            assert!(why.contains(word), "{refusal:?}: {why}");
        }
        assert!(judge_refusal(&REFUSAL, None).unwrap_err().contains("counter"));
    }

    /// What the device or the line can bring about proves a failure, and nothing against the SE.
    #[test]
    fn only_what_the_se_alone_can_say_speaks_against_it() {
        let of = |refusal: Refusal| judge_refusal(&refusal, granted(Wants::BOTH)).unwrap();
        let against: Vec<_> = (0..=0xFFFF)
            .filter(|sw| of(changed(|r| r.sw = StatusWord(*sw))))
            .collect();
        assert_eq!(against, OF_THE_SE);
        let with_other_keys = ExpectedRefusal {
            campaign: Campaign(7),
            manifest: &MANIFEST,
            commands: 7,
            has_the_keys: false,
        };
        let against = OF_THE_SE.into_iter().filter(|sw| {
            let refusal = changed(|r| r.sw = StatusWord(*sw));
            check_refusal(&refusal, &with_other_keys, granted(Wants::BOTH)).unwrap()
        });
        assert_eq!(against.collect::<Vec<_>>(), [0x6A84, 0x6A88, 0x9502, 0x9505]);
        let with_version = |version| of(changed(|r| r.version = version));
        assert_eq!(
            [0, 1, 2, 4, 5, 6].map(with_version),
            [false, false, true, true, false, false]
        );
    }
}
