//! What the store holds, as values.

use sekisho_link::{Campaign, Custody, SeId};

use crate::StoreError;

/// Makes an enum of words that stand in the database.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// The word in the database and in the API.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl std::str::FromStr for $name {
            type Err = StoreError;

            fn from_str(word: &str) -> Result<Self, StoreError> {
                match word { $($word => Ok(Self::$variant),)+ _ => Err(StoreError::Unreadable($what)) }
            }
        }
    };
}

words! {
    /// Whether a device may use the network.
    Access, "access" {
        /// It may.
        Allowed = "allowed",
        /// It may not.
        Blocked = "blocked",
    }
}

words! {
    /// State of a campaign.
    State, "campaign state" {
        /// Made, not started.
        Draft = "draft",
        /// Authorisations leave.
        Running = "running",
        /// None leave for now.
        Paused = "paused",
        /// None leave any more.
        Aborted = "aborted",
        /// Every target is updated or failed.
        Done = "done",
    }
}

words! {
    /// State of a target.
    TargetState, "target state" {
        /// Nothing has left for it.
        Pending = "pending",
        /// An authorisation has left.
        Authorised = "authorised",
        /// Its receipt is here.
        Updated = "updated",
        /// Given up.
        Failed = "failed",
    }
}

/// A device and its SE.
#[derive(Clone, Debug)]
pub struct DeviceRow {
    /// The SE.
    pub se_id: SeId,
    /// Version of its SCP03 key set.
    pub kvn: u8,
    /// Whether the device may use the network.
    pub access: Access,
    /// Version of its OS part, as far as known; 0 is not known.
    pub version: u32,
}

/// A campaign to be made.
#[derive(Clone, Debug)]
pub struct NewCampaign {
    /// Its number.
    pub id: Campaign,
    /// Its name, for people.
    pub name: String,
    /// The package.
    pub package_id: [u8; 16],
    /// How many targets are the canary cohort.
    pub canary: usize,
    /// Per cent of the canary cohort that must be updated before the rest follows.
    pub success_threshold: u8,
    /// Failed targets at which the campaign pauses itself.
    pub error_threshold: u32,
    /// Reported failures after which a target is given up and its device blocked.
    pub attempts_max: u32,
    /// The delivery.
    pub delivery: Vec<u8>,
    /// Its SHA-256.
    pub delivery_sha256: [u8; 32],
    /// The targets; the first of them are the canary cohort.
    pub targets: Vec<SeId>,
}

/// A campaign, without its delivery.
#[derive(Clone, Debug)]
pub struct CampaignRow {
    /// Its number.
    pub id: Campaign,
    /// Its name.
    pub name: String,
    /// The package.
    pub package_id: [u8; 16],
    /// Version of the package.
    pub version: u32,
    /// Who makes the broadcast key set.
    pub custody: Custody,
    /// Its state.
    pub state: State,
    /// Why it is in this state.
    pub reason: String,
    /// Whether the rest may follow.
    pub rest_open: bool,
    /// Per cent of the canary cohort that must be updated.
    pub success_threshold: u8,
    /// Failed targets at which it pauses itself.
    pub error_threshold: u32,
    /// Reported failures after which a target is given up.
    pub attempts_max: u32,
    /// Bytes of the delivery.
    pub delivery_bytes: u32,
    /// SHA-256 of the delivery.
    pub delivery_sha256: [u8; 32],
}

/// How many targets of a cohort are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CohortCounts {
    /// Nothing has left for them.
    pub pending: u64,
    /// An authorisation has left.
    pub authorised: u64,
    /// Updated.
    pub updated: u64,
    /// Given up.
    pub failed: u64,
    /// Of those updated, how many went on after a torn write.
    pub resumed: u64,
}

impl CohortCounts {
    /// All targets of the cohort.
    pub const fn total(&self) -> u64 {
        self.pending + self.authorised + self.updated + self.failed
    }
}

/// How many targets of a campaign are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The canary cohort.
    pub canary: CohortCounts,
    /// The rest.
    pub rest: CohortCounts,
}

/// A target of a campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Whether it belongs to the canary cohort.
    pub is_canary: bool,
    /// Its state.
    pub state: TargetState,
    /// Reported failures.
    pub attempts: u32,
    /// The version that the SE said it had when it last asked, not updated yet; `None`: it has not asked.
    pub version_before: Option<u32>,
}

/// An authorisation about to leave.
#[derive(Clone, Debug)]
pub struct Issue {
    /// The SE.
    pub se_id: SeId,
    /// The campaign.
    pub campaign: Campaign,
    /// The sequence counter that it uses.
    pub sequence_counter: u32,
    /// After how many commands the bulk follows.
    pub splice: u8,
    /// Whether it goes on after a torn write.
    pub resumes: bool,
    /// The version that the SE says it has, if that is one before the package's.
    pub version_before: Option<u32>,
    /// P_AUT.
    pub bytes: Vec<u8>,
    /// Unix seconds.
    pub at: u64,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Issued {
    /// It is durable and may leave; for one that had been issued before, its bytes of then.
    Leaves(Vec<u8>),
    /// The sequence counter was used for another authorisation.
    CounterUsed,
    /// The campaign has been paused, aborted or ended in the meantime.
    NotRunning,
}

/// What a device reported, judged.
#[derive(Clone, Debug)]
pub struct Report {
    /// The SE.
    pub se_id: SeId,
    /// The campaign.
    pub campaign: Campaign,
    /// The target's new state.
    pub state: TargetState,
    /// Whether it is a failure that counts.
    pub is_failure: bool,
    /// Whether the device is blocked from now on.
    pub blocks: bool,
    /// The version now active, if a receipt proves it.
    pub version: Option<u32>,
    /// For the event log.
    pub kind: &'static str,
    /// For the event log.
    pub detail: String,
    /// Unix seconds.
    pub at: u64,
}

/// An entry of the event log.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its number, growing.
    pub seq: i64,
    /// Unix seconds.
    pub at: u64,
    /// The campaign, or empty.
    pub campaign: String,
    /// The SE, or empty.
    pub se_id: String,
    /// What happened.
    pub kind: String,
    /// More of it.
    pub detail: String,
}
