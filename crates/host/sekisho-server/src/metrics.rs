//! What is counted, in Prometheus' text format.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Authorisations made (repetitions of the same one not counted).
    pub authorisations: AtomicU64,
    /// Nanoseconds that making them took.
    pub authorisation_nanos: AtomicU64,
    /// Bytes of P_AUT that left.
    pub authorisation_bytes: AtomicU64,
    /// Bytes of deliveries that left.
    pub delivery_bytes: AtomicU64,
    /// Valid receipts.
    pub receipts: AtomicU64,
    /// Refusals that SEs have proved.
    pub refusals: AtomicU64,
    /// Receipts and refusals that prove nothing.
    pub false_receipts: AtomicU64,
    /// Failures reported without a proof.
    pub failures: AtomicU64,
    /// Requests of the device endpoint refused for their link token.
    pub unauthorised: AtomicU64,
}

impl Metrics {
    pub(crate) fn add(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }

    /// Times one authorisation.
    #[allow(clippy::disallowed_methods, reason = "the server is where time is measured")]
    pub(crate) fn time<T>(&self, make: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let made = make();
        Self::add(&self.authorisations, 1);
        Self::add(
            &self.authorisation_nanos,
            u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX),
        );
        made
    }

    /// Mean time of making an authorisation, in microseconds; 0 before the first.
    pub fn authorisation_micros(&self) -> f64 {
        let (count, nanos) = (
            self.authorisations.load(Ordering::Relaxed),
            self.authorisation_nanos.load(Ordering::Relaxed),
        );
        if count == 0 {
            0.0
        } else {
            nanos as f64 / count as f64 / 1000.0
        }
    }

    pub(crate) fn render(&self) -> String {
        let rows = [
            (
                "sekisho_authorisations_total",
                "Authorisations made",
                &self.authorisations,
            ),
            (
                "sekisho_authorisation_nanoseconds_total",
                "Time spent making them",
                &self.authorisation_nanos,
            ),
            (
                "sekisho_authorisation_bytes_total",
                "Bytes of P_AUT sent",
                &self.authorisation_bytes,
            ),
            (
                "sekisho_delivery_bytes_total",
                "Bytes of deliveries sent",
                &self.delivery_bytes,
            ),
            ("sekisho_receipts_total", "Valid receipts", &self.receipts),
            (
                "sekisho_refusals_total",
                "Refusals that SEs have proved",
                &self.refusals,
            ),
            (
                "sekisho_false_receipts_total",
                "Receipts and refusals that prove nothing",
                &self.false_receipts,
            ),
            (
                "sekisho_failures_total",
                "Failures reported by devices without a proof",
                &self.failures,
            ),
            (
                "sekisho_unauthorised_total",
                "Device requests with a wrong link token",
                &self.unauthorised,
            ),
        ];
        rows.iter()
            .fold(String::new(), |mut text, (name, help, counter)| {
                let value = counter.load(Ordering::Relaxed);
                let _ = writeln!(
                    text,
                    "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}"
                );
                text
            })
    }
}
