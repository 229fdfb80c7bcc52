//! When a campaign goes on, pauses itself or is done, and what a device is told: rules without clock or database.

use sekisho_link::{Access, Manifest, Verdict};
use sekisho_store::{Access as DeviceAccess, CampaignRow, Counts, Standing, State, TargetState};

/// Seconds before the first repetition; it doubles with each failure.
const RETRY_FIRST: u32 = 2;
/// Seconds before a repetition at most.
const RETRY_MAX: u32 = 3600;

/// What is to be done with a campaign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Stay,
    /// The canary cohort has passed: let the rest follow.
    OpenRest,
    /// Too many failures: pause, for a person to look at it.
    Pause(String),
    /// Every target is updated, given up or set aside.
    Finish,
}

/// Judges a campaign by its counts.
pub fn step(campaign: &CampaignRow, counts: &Counts) -> Step {
    if campaign.state != State::Running {
        return Step::Stay;
    }
    let failed = counts.canary.failed + counts.rest.failed;
    let open = counts.canary.pending + counts.canary.authorised;
    let total = counts.canary.total() + counts.rest.total();
    let aside = counts.canary.aside + counts.rest.aside;
    // Who was set aside has tried nothing, and failed nothing.
    let canaries = counts.canary.total() - counts.canary.aside;
    if open == 0 && counts.canary.updated * 100 < canaries * u64::from(campaign.success_threshold) {
        return Step::Pause(format!(
            "canary cohort: {} of {} updated, {} % wanted",
            counts.canary.updated, canaries, campaign.success_threshold
        ));
    }
    if counts.canary.updated + counts.rest.updated + failed + aside == total {
        return Step::Finish;
    }
    if failed >= u64::from(campaign.error_threshold) {
        let proved = counts.canary.failed_proved + counts.rest.failed_proved;
        return Step::Pause(format!(
            "{failed} failed ({proved} for what speaks against their SEs), {} is the limit",
            campaign.error_threshold
        ));
    }
    // Every canary has ended one way or the other, and enough of them well.
    if !campaign.rest_open && open == 0 {
        Step::OpenRest
    } else {
        Step::Stay
    }
}

/// Why a paused campaign would pause itself again as soon as it goes on, whatever failures are tolerated.
pub(crate) fn stays_paused(campaign: CampaignRow, counts: &Counts) -> Option<String> {
    if campaign.state != State::Paused {
        return None;
    }
    let going_on = CampaignRow {
        state: State::Running,
        error_threshold: u32::MAX,
        ..campaign
    };
    match step(&going_on, counts) {
        Step::Pause(reason) => Some(reason),
        Step::Stay | Step::OpenRest | Step::Finish => None,
    }
}

/// Whether a package is for the keys of the design system that an SE obeys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Keys {
    /// It is, as far as is known.
    Right,
    /// It is for later ones: the SE may take it when it has changed its keys.
    Later(String),
    /// It is for earlier ones, to which no SE comes back.
    Gone(String),
}

/// Compares the keys that a package is for (0: not known) with those that the SE has proved to obey (0: it has proved none) and those that its device
/// says. Nobody goes back: the higher version holds.
pub(crate) fn keys(of_package: u32, proved: u32, said: u32) -> Keys {
    let obeyed = proved.max(said);
    let whose = if proved == obeyed {
        "its SE has proved to obey"
    } else {
        "its device says that the SE obeys"
    };
    let words =
        || format!("{whose} keys of version {obeyed}, the package is for those of version {of_package}");
    match of_package {
        0 => Keys::Right,
        of_package if of_package == obeyed => Keys::Right,
        of_package if of_package > obeyed => Keys::Later(words()),
        _ => Keys::Gone(words()),
    }
}

/// Why an SE would be right to refuse a package, by the version that it has of the package's part; `None`: it may take it. What it has proved goes
/// before what its device says, where that is less.
pub(crate) fn right_to_refuse(manifest: &Manifest, proved: Option<u32>, said: u32) -> Option<String> {
    let version = proved.map_or(said, |proved| proved.max(said));
    let whose = if proved == Some(version) {
        "its SE has proved version"
    } else {
        "its device says that the SE has version"
    };
    let why = if version >= manifest.version {
        format!("the package's is {}", manifest.version)
    } else if version < manifest.min_previous {
        format!("the package replaces {} and above", manifest.min_previous)
    } else {
        return None;
    };
    Some(format!("{whose} {version}, {why}"))
}

/// What a device is told once its report is durable. Who is given up without a proof of its SE is not blocked: its campaign is over, no more.
pub fn verdict(standing: &Standing) -> Verdict {
    let of = |access, retry_after| Verdict { access, retry_after };
    match (standing.access, standing.state) {
        (_, TargetState::Updated) | (DeviceAccess::Allowed, TargetState::Failed | TargetState::Aside) => {
            of(Access::Allowed, 0)
        }
        (DeviceAccess::Blocked, _) => of(Access::Blocked, 0),
        (DeviceAccess::Allowed, TargetState::Pending | TargetState::Authorised) => {
            let failures = standing.reports.max(standing.refusals);
            let wait = RETRY_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16));
            of(Access::Retry, wait.min(RETRY_MAX))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sekisho_link::{Campaign, Custody};
    use sekisho_store::CohortCounts;

    fn campaign(rest_open: bool) -> CampaignRow {
        CampaignRow {
            id: Campaign(1),
            name: String::new(),
            package_id: [0; 16],
            target: 1,
            version: 2,
            custody: Custody::Hsm,
            state: State::Running,
            reason: String::new(),
            rest_open,
            success_threshold: 75,
            error_threshold: 3,
            attempts_max: 3,
            key_version: 1,
            delivery_bytes: 0,
            delivery_sha256: [0; 32],
            announced: None,
        }
    }

    fn cohort(pending: u64, authorised: u64, updated: u64, failed: u64) -> CohortCounts {
        CohortCounts {
            pending,
            authorised,
            updated,
            failed,
            ..CohortCounts::default()
        }
    }

    #[test]
    fn a_campaign_follows_its_thresholds() {
        let judge = |open, canary, rest| step(&campaign(open), &Counts { canary, rest });
        assert_eq!(judge(false, cohort(4, 0, 0, 0), cohort(10, 0, 0, 0)), Step::Stay);
        assert_eq!(judge(false, cohort(0, 1, 3, 0), cohort(10, 0, 0, 0)), Step::Stay);
        assert_eq!(
            judge(false, cohort(0, 0, 3, 1), cohort(10, 0, 0, 0)),
            Step::OpenRest
        );
        assert!(matches!(
            judge(false, cohort(0, 0, 2, 2), cohort(10, 0, 0, 0)),
            Step::Pause(_)
        ));
        assert_eq!(judge(true, cohort(0, 0, 4, 0), cohort(1, 1, 6, 2)), Step::Stay);
        assert!(matches!(
            judge(true, cohort(0, 0, 4, 0), cohort(1, 1, 5, 3)),
            Step::Pause(_)
        ));
        assert_eq!(judge(true, cohort(0, 0, 4, 0), cohort(0, 0, 8, 2)), Step::Finish);
        assert_eq!(judge(true, cohort(0, 0, 0, 0), cohort(0, 0, 10, 0)), Step::Finish);
        let paused = CampaignRow {
            state: State::Paused,
            ..campaign(true)
        };
        assert_eq!(step(&paused, &Counts::default()), Step::Stay);
    }

    #[test]
    fn failures_are_retried_ever_later_and_only_proved_ones_end_in_a_block() {
        let after = |state, reports, refusals, access| {
            let verdict = verdict(&Standing {
                state,
                reports,
                refusals,
                access,
            });
            (verdict.access, verdict.retry_after)
        };
        let open =
            |reports, refusals| after(TargetState::Authorised, reports, refusals, DeviceAccess::Allowed).1;
        assert_eq!([0, 1, 2, 3, 4].map(|n| open(n, 0)), [2, 2, 4, 8, 16]);
        assert_eq!([1, 2, 3, 4].map(|n| open(1, n)), [2, 4, 8, 16]);
        assert_eq!(open(40, 3), RETRY_MAX);
        let (allowed, blocked) = (DeviceAccess::Allowed, DeviceAccess::Blocked);
        assert_eq!(after(TargetState::Failed, 5, 0, allowed), (Access::Allowed, 0));
        assert_eq!(after(TargetState::Failed, 0, 5, blocked), (Access::Blocked, 0));
        assert_eq!(
            after(TargetState::Authorised, 0, 0, blocked),
            (Access::Blocked, 0)
        );
        assert_eq!(after(TargetState::Updated, 4, 4, allowed), (Access::Allowed, 0));
    }
}
