//! When a campaign goes on, pauses itself or is done, and what a device is told: rules without clock or database.

use sekisho_link::{Access, Verdict};
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
    /// Every target is updated or given up.
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
    if open == 0
        && counts.canary.updated * 100 < counts.canary.total() * u64::from(campaign.success_threshold)
    {
        return Step::Pause(format!(
            "canary cohort: {} of {} updated, {} % wanted",
            counts.canary.updated,
            counts.canary.total(),
            campaign.success_threshold
        ));
    }
    if counts.canary.updated + counts.rest.updated + failed == total {
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

/// What a device is told once its report is durable. Who is given up without a proof of its SE is not blocked: its campaign is over, no more.
pub fn verdict(standing: &Standing) -> Verdict {
    let of = |access, retry_after| Verdict { access, retry_after };
    match (standing.access, standing.state) {
        (_, TargetState::Updated) | (DeviceAccess::Allowed, TargetState::Failed) => of(Access::Allowed, 0),
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
