//! What the store holds, as values.

use sekisho_link::{Campaign, Custody, Manifest, SeId, Version, Wants};

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
        /// Its SE would refuse the package, and is right to: nothing leaves for it, and it is no failure.
        Aside = "aside",
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
    /// Version of its OS part, as its last receipt proved; 0 when none has.
    pub version: u32,
    /// Version of the design system's keys that it obeys, as its last receipt proved; 0 when none has.
    pub key_version: u32,
    /// The same as its device said last, which proves nothing; 0 when it has not.
    pub key_version_said: u32,
}

impl DeviceRow {
    /// The version of a target that its last receipt proved, if one has.
    pub fn proved_version(&self, target: u8) -> Option<u32> {
        let version = match target {
            Manifest::KEYS => self.key_version,
            _ => self.version,
        };
        (version > 0).then_some(version)
    }

    /// Version of the design system's keys that it is taken to obey: an SE that has proved none obeys those of its personalisation, the first.
    pub const fn obeyed_key_version(&self) -> u32 {
        if self.key_version == 0 {
            Manifest::FIRST_KEY_VERSION
        } else {
            self.key_version
        }
    }
}

/// A package to be kept.
#[derive(Clone, Copy, Debug)]
pub struct NewPackage<'a> {
    /// Its identity.
    pub package_id: [u8; 16],
    /// Which part it changes.
    pub target: u8,
    /// Its version.
    pub version: u32,
    /// Who makes the broadcast key set.
    pub custody: Custody,
    /// The public key of the designer who has signed it.
    pub designer: [u8; 65],
    /// Version of the design system's keys that SEs obey which take it, if somebody has said it.
    pub key_version: Option<u32>,
    /// All of it.
    pub bytes: &'a [u8],
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
    /// Failures after which a target is given up: proved by its SE, which blocks its device as well, or only reported.
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
    /// Which part the package changes.
    pub target: u8,
    /// Version of the package.
    pub version: u32,
    /// Version of the design system's keys that SEs obey which take it; 0: not known.
    pub key_version: u32,
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
    /// Failures, proved or only reported, after which a target is given up.
    pub attempts_max: u32,
    /// Bytes of the delivery.
    pub delivery_bytes: u32,
    /// SHA-256 of the delivery.
    pub delivery_sha256: [u8; 32],
    /// The paging message that tells of it.
    pub announced: Option<Announced>,
}

/// A paging message that tells the devices of a campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Its order.
    pub order: u32,
    /// Until when it stands, in seconds since 1970.
    pub until: u64,
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
    /// Set aside: their SEs would be right to refuse the package.
    pub aside: u64,
    /// Of those given up, how many for what their SEs have proved.
    pub failed_proved: u64,
    /// Refusals that SEs have proved and that speak against them.
    pub refusals: u64,
    /// Failures that devices have reported, proved or not, and that do not speak against their SEs.
    pub reports: u64,
    /// Of those updated, how many went on after a torn write.
    pub resumed: u64,
}

impl CohortCounts {
    /// All targets of the cohort.
    pub const fn total(&self) -> u64 {
        self.pending + self.authorised + self.updated + self.failed + self.aside
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
    /// Failures that its device has reported, proved or not, and that do not speak against its SE.
    pub reports: u32,
    /// Refusals that its SE has proved and that speak against it.
    pub refusals: u32,
    /// The version that the SE said it had when it last asked, not updated yet; `None`: it has not asked.
    pub version_before: Option<u32>,
}

/// What an authorisation is made for: with SE, campaign and sequence counter, all that its bytes depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The version in which it is written.
    pub version: Version,
    /// What its commands do.
    pub wants: Wants,
    /// How often broadcast mode is left and entered again.
    pub pauses: u8,
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
    /// What it is made for.
    pub grant: Grant,
    /// Whether it goes on after a torn write.
    pub resumes: bool,
    /// The version that the SE says it has, if that is one before the package's.
    pub version_before: Option<u32>,
    /// The version of the design system's keys that its device says it has.
    pub key_version_said: Option<u32>,
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

/// What a device's status is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// A receipt proves that this part has this version now.
    Updated {
        /// Which part.
        target: u8,
        /// Its version.
        version: u32,
    },
    /// The SE's own proof that it refused the authorisation of this sequence counter. It counts once.
    Refused {
        /// The sequence counter.
        sequence_counter: u32,
        /// Whether nobody else can have brought it about. If somebody can, it counts as a failure that its device reports.
        speaks_against_se: bool,
    },
    /// The device says that it failed; nothing proves it. It counts after an authorisation has left.
    Failed,
    /// The SE has no such part: the target is given up.
    Unfit,
    /// The SE would be right to refuse the package: the target is set aside.
    Aside,
    /// Nothing that counts.
    Nothing,
}

/// What a device reported, judged.
#[derive(Clone, Debug)]
pub struct Report {
    /// The SE.
    pub se_id: SeId,
    /// The campaign.
    pub campaign: Campaign,
    /// What it is worth.
    pub word: Word,
    /// Failures after which the target is given up.
    pub attempts_max: u32,
    /// For the event log.
    pub detail: String,
    /// Unix seconds.
    pub at: u64,
}

/// How a target stands once a report is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its state.
    pub state: TargetState,
    /// Failures that its device has reported, proved or not, and that do not speak against its SE.
    pub reports: u32,
    /// Refusals that its SE has proved and that speak against it.
    pub refusals: u32,
    /// Whether its device may use the network.
    pub access: Access,
}

/// A target that was given up, or set aside.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The SE.
    pub se_id: SeId,
    /// What was last said of it.
    pub detail: String,
    /// Failures that its device has reported, proved or not, and that do not speak against its SE.
    pub reports: u32,
    /// Refusals that its SE has proved and that speak against it.
    pub refusals: u32,
    /// Whether it was given up for those.
    pub is_proved: bool,
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
    /// The campaign's name, or empty.
    pub name: String,
    /// The SE, or empty.
    pub se_id: String,
    /// What happened.
    pub kind: String,
    /// More of it.
    pub detail: String,
}
