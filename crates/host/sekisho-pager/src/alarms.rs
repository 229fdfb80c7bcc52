//! Denial of service, recognised as the seed says: by identities that nobody has, and whatever else no device of ours sends, in numbers.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::signals::Signal;

/// Prefixes that are told apart in a second: beyond it they are counted together, which is itself a sign.
const PREFIXES_MAX: usize = 4096;

/// A network: /24 of IPv4, /48 of IPv6, and nothing else when too many take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Network {
    /// The first three bytes.
    V4([u8; 3]),
    /// The first six bytes.
    V6([u8; 6]),
    /// Too many to be told apart.
    Many,
}

impl Network {
    /// The network of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => {
                let [a, b, c, _] = address.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(address) => match address.to_ipv4_mapped() {
                Some(mapped) => Self::of(IpAddr::V4(mapped)),
                None => {
                    let [a, b, c, d, e, f, ..] = address.octets();
                    Self::V6([a, b, c, d, e, f])
                }
            },
        }
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::V4([a, b, c]) => write!(f, "{a}.{b}.{c}.0/24"),
            Self::V6(bytes) => {
                let [a, b, c, d, e, g] = bytes;
                write!(f, "{a:02x}{b:02x}:{c:02x}{d:02x}:{e:02x}{g:02x}::/48")
            }
            Self::Many => f.write_str("many networks"),
        }
    }
}

/// A network that sends what no device of ours sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// Which.
    pub network: Network,
    /// What it sends most.
    pub signal: Signal,
    /// Failed polls in its worst second.
    pub rate: u32,
    /// When it began, in seconds since 1970.
    pub since: u64,
    /// When it was last at it.
    pub until: u64,
}

/// Failures of this second, by network, and the alarms that came of earlier ones.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    second: u64,
    counts: HashMap<Network, HashMap<Signal, u32>>,
    alarms: HashMap<Network, Alarm>,
}

/// Alarms are kept for an hour after the last failure.
const KEEP: u64 = 3600;

impl Watch {
    /// Counts failures.
    pub(crate) fn count(&mut self, network: Network, signal: Signal, now: u64, alarm_rate: u32) {
        if now != self.second {
            self.turn(now, alarm_rate);
        }
        let known = self.counts.len() < PREFIXES_MAX || self.counts.contains_key(&network);
        let key = if known { network } else { Network::Many };
        *self.counts.entry(key).or_default().entry(signal).or_default() += 1;
    }

    /// Ends a second.
    pub(crate) fn turn(&mut self, now: u64, alarm_rate: u32) {
        let second = std::mem::replace(&mut self.second, now);
        for (network, signals) in self.counts.drain() {
            let rate = signals.values().sum();
            let Some((signal, _)) = signals.into_iter().max_by_key(|(_, count)| *count) else {
                continue;
            };
            if rate < alarm_rate {
                continue;
            }
            let alarm = self.alarms.entry(network).or_insert(Alarm {
                network,
                signal,
                rate,
                since: second,
                until: second,
            });
            alarm.signal = signal;
            alarm.rate = alarm.rate.max(rate);
            alarm.until = second;
        }
        self.alarms.retain(|_, alarm| alarm.until + KEEP > now);
    }

    pub(crate) fn alarms(&self) -> impl Iterator<Item = Alarm> {
        self.alarms.values().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floods_are_reported_with_network_rate_and_time() {
        let mut watch = Watch::default();
        let network = |last| Network::of(IpAddr::from([192, 0, 2, last]));
        for second in 10..13 {
            for n in 0..600u16 {
                let [_, last] = n.to_be_bytes();
                watch.count(network(last), Signal::Unknown, second, 500);
                watch.count(
                    Network::of(IpAddr::from([198, 51, 100, 1])),
                    Signal::BadMac,
                    second,
                    500_000,
                );
            }
        }
        watch.turn(13, 500);
        let alarms: Vec<_> = watch.alarms().collect();
        assert_eq!(alarms.len(), 2);
        let flood = alarms.iter().find(|alarm| alarm.network == network(9)).unwrap();
        assert_eq!(
            (flood.signal, flood.rate, flood.since, flood.until),
            (Signal::Unknown, 600, 10, 12)
        );
        watch.turn(13 + KEEP, 500);
        assert_eq!(watch.alarms().count(), 0);
    }
}
