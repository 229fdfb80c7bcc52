//! The lab's report: a table for people, one JSON object for machines.

use anyhow::{Context, Result};
use sekisho_link::SeId;
use sekisho_server::SE_REFUSED;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Args;
use super::fleet::Fleet;
use super::gateway::Counts;
use super::system::{NEXT_VERSION, System};
use super::unicast::Unicast;

/// An SE that was given up.
struct Refused {
    id: String,
    /// The fault that it had.
    fault: &'static str,
    /// The server's words.
    detail: String,
    /// Whether the SE itself has said, under its key, that it refused.
    said_by_se: bool,
}

/// What came of the sessions beside the update.
pub(super) struct Sessions {
    /// SEs that have them.
    elements: usize,
    begun: u64,
    commands: u64,
    in_updates: u64,
    readings: u64,
    bytes: u64,
    wrong: u64,
    broken: u64,
}

impl Sessions {
    pub(super) fn new(elements: usize, counts: &Counts) -> Self {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Self {
            elements,
            begun: of(&counts.sessions),
            commands: of(&counts.commands),
            in_updates: of(&counts.in_updates),
            readings: of(&counts.readings),
            bytes: of(&counts.bytes),
            wrong: of(&counts.wrong),
            broken: of(&counts.broken),
        }
    }

    fn json(&self) -> Value {
        json!({
            "secure_elements": self.elements, "begun": self.begun, "commands": self.commands, "commands_in_updates": self.in_updates,
            "readings": self.readings, "bytes": self.bytes, "wrong_answers": self.wrong, "broken": self.broken,
        })
    }

    #[allow(clippy::print_stdout, reason = "the report is what the command is for")]
    fn print(&self) {
        println!(
            "\n  TLS sessions in SEs  {:>9}   of {} SEs",
            self.begun, self.elements
        );
        println!(
            "  commands in them     {:>9}   {} of them while the SE was updated",
            self.commands, self.in_updates
        );
        println!(
            "  bytes of records     {:>9}   {} readings of sensors",
            self.bytes, self.readings
        );
    }
}

/// What the campaign came to.
pub(super) struct Report {
    pub(super) devices: u64,
    pub(super) updated: u64,
    pub(super) failed: u64,
    resumed: u64,
    authorisation_bytes: f64,
    bulk_bytes: u64,
    server_micros: f64,
    unicast: Unicast,
    version_before: u32,
    version_after: u32,
    seconds: f64,
    /// SEs that were given up.
    refused: Vec<Refused>,
    /// SEs that run the new version, as they say and do themselves.
    running_new: u64,
    recovered: BTreeMap<&'static str, u64>,
    sessions: Option<Sessions>,
    /// The SE on the emulated chip, and the version that it runs.
    chip: Option<(SeId, u32)>,
}

impl Report {
    pub(super) fn new(
        args: &Args,
        system: &System,
        campaign: &str,
        fleet: &Fleet,
        before: BTreeMap<u32, u64>,
        unicast: Unicast,
        seconds: f64,
    ) -> Result<Self> {
        let value = system.admin.get(&format!("campaigns/{campaign}"))?;
        let sum = |what: &str| {
            ["canary", "rest"]
                .iter()
                .filter_map(|cohort| value[cohort][what].as_u64())
                .sum::<u64>()
        };
        let fault_of: BTreeMap<String, &'static str> = fleet
            .devices
            .iter()
            .filter_map(|device| Some((device.se_id.to_string(), device.fault?.name())))
            .collect();
        let refused: Vec<_> = value["failures"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|failure| {
                let id = failure["se_id"].as_str().unwrap_or_default().to_owned();
                let detail = failure["detail"].as_str().unwrap_or_default().to_owned();
                Refused {
                    fault: fault_of.get(&id).copied().unwrap_or("no fault was planned"),
                    said_by_se: detail.starts_with(SE_REFUSED),
                    id,
                    detail,
                }
            })
            .collect();
        let mut recovered = BTreeMap::new();
        for (id, fault) in &fault_of {
            if !refused.iter().any(|refused| refused.id == *id) {
                *recovered.entry(*fault).or_default() += 1;
            }
        }
        let metrics = &system.server.metrics;
        let authorisations = metrics.authorisations.load(Ordering::Relaxed).max(1);
        let bytes = metrics.authorisation_bytes.load(Ordering::Relaxed);
        Ok(Self {
            devices: args.devices.into(),
            updated: sum("updated"),
            failed: sum("failed"),
            resumed: sum("resumed"),
            authorisation_bytes: bytes as f64 / authorisations as f64,
            bulk_bytes: value["delivery_bytes"]
                .as_u64()
                .context("the campaign has no delivery")?,
            server_micros: metrics.authorisation_micros(),
            unicast,
            version_before: before.into_keys().max().unwrap_or(0),
            version_after: NEXT_VERSION,
            seconds,
            refused,
            running_new: 0,
            recovered,
            sessions: None,
            chip: None,
        })
    }

    pub(super) fn with_sessions(mut self, sessions: Option<Sessions>) -> Self {
        self.sessions = sessions;
        self
    }

    pub(super) const fn with_chip(mut self, chip: Option<(SeId, u32)>) -> Self {
        self.chip = chip;
        self
    }

    /// The SEs' own word on it.
    pub(super) fn heard(mut self, versions: &BTreeMap<u32, u64>) -> Self {
        self.running_new = versions.get(&NEXT_VERSION).copied().unwrap_or(0);
        self.version_after = versions.keys().copied().max().unwrap_or(0);
        self
    }

    /// Whether what the server believes is what the SEs do, every failure was a planned one, and no session said what was not so.
    pub(super) fn is_sound(&self) -> bool {
        self.running_new == self.updated
            && self.sessions.as_ref().is_none_or(|sessions| sessions.wrong == 0)
            && self.updated + self.failed == self.devices
            && self
                .refused
                .iter()
                .all(|refused| refused.fault != "no fault was planned")
    }

    fn json(&self) -> Value {
        let refused: Vec<_> = self
            .refused
            .iter()
            .map(|refused| {
                json!({
                    "se_id": refused.id, "fault": refused.fault, "detail": refused.detail, "said_by_se": refused.said_by_se,
                })
            })
            .collect();
        json!({
            "devices": self.devices, "updated": self.updated, "failed": self.failed, "resumed": self.resumed,
            "running_new_version": self.running_new,
            "authorisation_bytes_per_device": rounded(self.authorisation_bytes), "bulk_bytes": self.bulk_bytes,
            "unicast_bytes_per_device": self.unicast.bytes,
            "server_cpu_us_per_device": rounded(self.server_micros), "unicast_cpu_us_per_device": rounded(self.unicast.micros),
            "version_before": self.version_before, "version_after": self.version_after,
            "seconds": rounded(self.seconds), "recovered": self.recovered, "refused": refused,
            "sessions": self.sessions.as_ref().map(Sessions::json),
            "chip": self.chip.map(|(id, version)| json!({ "se_id": id.to_string(), "version": version })),
        })
    }

    #[allow(clippy::print_stdout, reason = "the report is what the command is for")]
    pub(super) fn print(&self, as_json: bool) -> Result<()> {
        if as_json {
            println!("{}", serde_json::to_string(&self.json())?);
            return Ok(());
        }
        println!(
            "\n{} virtual SEs, version {} -> {}, {:.1} s",
            self.devices, self.version_before, self.version_after, self.seconds
        );
        println!(
            "  updated  {:>8}   (the SEs themselves: {})",
            self.updated, self.running_new
        );
        if let Some((id, version)) = self.chip {
            println!("  of them  {id} on an emulated chip, version {version}");
        }
        println!("  failed   {:>8}", self.failed);
        println!("  resumed  {:>8}", self.resumed);
        let (micros, bytes) = (
            self.unicast.micros / self.server_micros.max(0.001),
            self.unicast.bytes as f64 / self.authorisation_bytes.max(1.0),
        );
        println!("\n  for each SE            broadcast     individual    ratio");
        println!(
            "  bytes of the server  {:>9.0} B  {:>11} B  {:>6.0} x",
            self.authorisation_bytes, self.unicast.bytes, bytes
        );
        println!(
            "  time of the server   {:>8.1} us  {:>10.1} us  {:>6.0} x",
            self.server_micros, self.unicast.micros, micros
        );
        println!("  and once for all     {:>9} B  (cacheable)", self.bulk_bytes);
        if let Some(sessions) = &self.sessions {
            sessions.print();
        }
        for (fault, count) in &self.recovered {
            println!("\n  recovered: {count} with {fault}");
        }
        self.print_refused();
        if !self.is_sound() {
            let wrong = self.sessions.as_ref().map_or(0, |sessions| sessions.wrong);
            println!(
                "\n  NOT SOUND: the server believes {} updated, {} SEs run the new version; {wrong} answers in sessions were wrong",
                self.updated, self.running_new
            );
        }
        Ok(())
    }
}

impl Report {
    /// Who was given up for which fault, and whether the SE has said so itself.
    #[allow(clippy::print_stdout, reason = "the report is what the command is for")]
    fn print_refused(&self) {
        let mut faults: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for refused in &self.refused {
            let (all, said) = faults.entry(refused.fault).or_default();
            *all += 1;
            *said += u64::from(refused.said_by_se);
        }
        if !faults.is_empty() {
            println!("\n  given up                        SEs     said by them");
        }
        for (fault, (all, said)) in faults {
            println!("  {fault:<30}{all:>5}{said:>17}");
        }
        for refused in &self.refused {
            println!("  {}: {}", refused.id, refused.detail);
        }
    }
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
