//! How weak the legacy schedules are, in numbers. Nothing here protects anything; `sekisho analyse rolling` prints it.
//!
//! The functions run the rules of JP 7206869 B2 as they stand there, without the refusals and caps with which
//! [`crate::schedule`] fences them in.

use sekisho_keys::Rng;

use crate::schedule::LegacyKey;

/// Bits of a key.
pub const KEY_BITS: u32 = 128;

/// The course of a rule that makes each key from the two before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Course {
    /// Keys before the part that repeats.
    pub tail: u32,
    /// Length of the part that repeats.
    pub period: u32,
    /// Different keys in all.
    pub distinct: u32,
}

/// Keys K0, K1, ... of a rule `new = rule(old, current)`.
struct Rule<'a, F> {
    old: LegacyKey,
    current: LegacyKey,
    rule: &'a F,
}

impl<F: Fn(&LegacyKey, &LegacyKey) -> LegacyKey> Iterator for Rule<'_, F> {
    type Item = LegacyKey;

    fn next(&mut self) -> Option<LegacyKey> {
        let new = (self.rule)(&self.old, &self.current);
        let current = core::mem::replace(&mut self.current, new);
        Some(core::mem::replace(&mut self.old, current))
    }
}

/// Runs `rule` from K0 and K1 and finds where it repeats; `None` if it does not within `limit` keys. The work grows with the square of the
/// tail and period, so keep `limit` to some thousands.
pub fn course(
    k0: &LegacyKey,
    k1: &LegacyKey,
    rule: impl Fn(&LegacyKey, &LegacyKey) -> LegacyKey,
    limit: u32,
) -> Option<Course> {
    let keys = || Rule {
        old: k0.clone(),
        current: k1.clone(),
        rule: &rule,
    };
    let states = || (0..limit).zip(keys().zip(keys().skip(1)));
    for (at, state) in states() {
        let Some((tail, _)) = states()
            .take_while(|(index, _)| *index < at)
            .find(|(_, s)| *s == state)
        else {
            continue;
        };
        let seen = || keys().zip(0..at);
        let distinct = seen()
            .filter(|(key, index)| !keys().zip(0..*index).any(|(k, _)| k == *key))
            .count();
        return Some(Course {
            tail,
            period: at - tail,
            distinct: u32::try_from(distinct).ok()?,
        });
    }
    None
}

/// The only keys that XOR and AND in any order can make of K0 and K1: 0, K0, K1, K0 XOR K1, K0 AND K1, K0 AND NOT K1,
/// K1 AND NOT K0.
pub fn reachable(k0: &LegacyKey, k1: &LegacyKey) -> [LegacyKey; 7] {
    let both = k0.and(k1);
    [
        LegacyKey::default(),
        k0.clone(),
        k1.clone(),
        k0.xor(k1),
        both.clone(),
        k0.xor(&both),
        k1.xor(&both),
    ]
}

/// Commands until the key is all zero when each new key is old AND current with probability `and_per_256` / 256 and old
/// XOR current otherwise; `None` if not within `limit`.
pub fn commands_to_zero(rng: &mut dyn Rng, and_per_256: u16, limit: u32) -> Option<u32> {
    let (mut old, mut current) = (LegacyKey::default(), LegacyKey::default());
    rng.fill(&mut old.0);
    rng.fill(&mut current.0);
    (1..=limit).find(|_| {
        let mut coin = [0];
        rng.fill(&mut coin);
        let [coin] = coin;
        let new = if u16::from(coin) < and_per_256 {
            old.and(&current)
        } else {
            old.xor(&current)
        };
        old = core::mem::replace(&mut current, new);
        current.is_zero()
    })
}

/// Median of [`commands_to_zero`] over `runs`, runs without a zero key counting as long. 0 without runs.
pub fn median_commands_to_zero(rng: &mut dyn Rng, and_per_256: u16, runs: u32) -> u32 {
    const LIMIT: u32 = 255;
    let mut histogram = [0_u32; 257];
    for _ in 0..runs {
        let commands = commands_to_zero(rng, and_per_256, LIMIT).unwrap_or(LIMIT + 1);
        if let Some(count) = usize::try_from(commands)
            .ok()
            .and_then(|index| histogram.get_mut(index))
        {
            *count += 1;
        }
    }
    let mut seen = 0;
    (0..)
        .zip(histogram)
        .find(|(_, count)| {
            seen += count;
            2 * seen >= runs
        })
        .map_or(0, |(commands, _)| commands)
}

/// Share of ones in a key after `ands` times AND with an independent random key: 1 / 2^(ands + 1).
fn share_of_ones(ands: u32) -> f64 {
    (0..=ands).fold(1.0, |share, _| share / 2.0)
}

/// Ones to be expected in a 128-bit key after `ands` times AND with an independent random key.
pub fn ones_after_ands(ands: u32) -> f64 {
    f64::from(KEY_BITS) * share_of_ones(ands)
}

/// Probability that a 128-bit key is all zero after `ands` times AND with an independent random key.
pub fn zero_after_ands(ands: u32) -> f64 {
    let zero = 1.0 - share_of_ones(ands);
    (0..KEY_BITS).fold(1.0, |product, _| product * zero)
}

/// Shannon entropy in bits of a 128-bit key after `ands` times AND with an independent random key.
pub fn entropy_after_ands(ands: u32) -> f64 {
    let one = share_of_ones(ands);
    let zero = 1.0 - one;
    -f64::from(KEY_BITS) * (one * log2(one) + zero * log2(zero))
}

/// Ones counted in a key after `ands` times AND with keys from `rng`.
pub fn count_ones_after_ands(rng: &mut dyn Rng, ands: u32) -> u32 {
    let mut key = LegacyKey::default();
    rng.fill(&mut key.0);
    for _ in 0..ands {
        let mut next = LegacyKey::default();
        rng.fill(&mut next.0);
        key = key.and(&next);
    }
    key.0.iter().map(|byte| byte.count_ones()).sum()
}

/// Bits of uncertainty about which key of a list comes next.
pub fn choice_bits(keys: u32) -> f64 {
    log2(f64::from(keys.max(1)))
}

/// Commands to be expected until a key of a list of this length comes a second time, when each is drawn at random
/// (the birthday problem). The patent lets keys repeat; [`crate::schedule::LegacyList`] does not.
pub fn commands_to_first_reuse(keys: u32) -> f64 {
    let n = f64::from(keys);
    let mut all_different = 1.0;
    let mut expected = 1.0;
    for drawn in 1..=keys {
        all_different *= (n - f64::from(drawn) + 1.0) / n;
        expected += all_different;
    }
    expected
}

/// log2 of a positive, normal number, to about 15 digits, as there is no libm here; 0 for anything else.
fn log2(x: f64) -> f64 {
    if !x.is_normal() || x < 0.0 {
        return 0.0;
    }
    const EXPONENT: u64 = 0x7FF << 52;
    const ONE: u64 = 1023 << 52;
    let bits = x.to_bits();
    let exponent = f64::from(u32::try_from(bits >> 52).unwrap_or(0)) - 1023.0;
    let mantissa = f64::from_bits(bits & !EXPONENT | ONE);
    // ln m = 2 atanh((m - 1) / (m + 1)), and m is in [1, 2), so the series in t <= 1/3 gains a digit per term.
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let (mut power, mut sum) = (t, 0.0);
    for odd in 0..17 {
        sum += power / f64::from(2 * odd + 1);
        power *= t * t;
    }
    exponent + 2.0 * sum / core::f64::consts::LN_2
}

/// What somebody has got hold of, besides a recording of everything that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// The key or keys of one exchange.
    OneExchange,
    /// The keys of two exchanges, one after the other.
    TwoExchanges,
    /// Everything that one end holds between two exchanges, but not MKEY.
    State,
    /// Everything that one end holds between two exchanges, and MKEY.
    StateAndMasterKey,
}

/// The schedules, as the patent (or ICAO 9303) has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Fixed keys.
    Fixed,
    /// Embodiment 1.
    LegacyXor,
    /// Embodiment 2.
    LegacyList,
    /// Embodiment 3.
    LegacyOperations,
    /// Claims 2 and 5: XOR and AND of the old and the current key, in turn.
    LegacyTurns,
    /// The ratchet.
    Ratchet,
}

/// Which of the *other* exchanges can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readable {
    /// None.
    None,
    /// Those until fresh randomness comes in.
    UntilRefresh,
    /// One in this many, on average.
    OneIn(u32),
    /// All.
    All,
}

/// What an attacker can read of the past and of the future.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exposure {
    /// Exchanges before.
    pub past: Readable,
    /// Exchanges after.
    pub future: Readable,
}

/// What `known` gives away of an exchange that it does not contain. `keys` is the length of the list (embodiments 2 and 3).
///
/// Embodiment 3 with one or two session keys, and claims 2 and 5 with one: only whole keys count here; what leaks about the operation keys besides
/// is [`operation_key_bits`], and a key that is an AND shows half of the bits of those that it came from.
pub const fn exposure(subject: Subject, known: Known, keys: u32) -> Exposure {
    use Readable::{All, OneIn};
    match (subject, known) {
        (Subject::Ratchet, Known::OneExchange | Known::TwoExchanges) => same(Readable::None),
        (Subject::Ratchet, _) => Exposure {
            past: Readable::None,
            future: Readable::UntilRefresh,
        },
        (Subject::LegacyXor, Known::OneExchange) => same(OneIn(3)),
        (Subject::LegacyList, Known::OneExchange) => same(OneIn(keys)),
        (Subject::LegacyList, Known::TwoExchanges) => same(OneIn(keys / 2)),
        (Subject::LegacyOperations, Known::OneExchange | Known::TwoExchanges)
        | (Subject::LegacyTurns, Known::OneExchange) => same(Readable::None),
        // Two keys in a row give all that follow. Backwards XOR can be undone and AND cannot: of the three exchanges that lie before K2, K3 or
        // K4 and its successor, one.
        (Subject::LegacyTurns, Known::TwoExchanges | Known::State) => Exposure {
            past: OneIn(3),
            future: All,
        },
        _ => same(All),
    }
}

const fn same(readable: Readable) -> Exposure {
    Exposure {
        past: readable,
        future: readable,
    }
}

/// Bits of the operation key that two session keys, one after the other, give away when `turn` of the three operations
/// (0, 1, 2) lies between them.
pub fn operation_key_bits(turn: usize, before: &LegacyKey) -> u32 {
    match turn % 3 {
        // The XOR of the two session keys is the operation key.
        0 => KEY_BITS,
        // Where the session key has a one, the next one shows the operation key's bit.
        1 => before.0.iter().map(|byte| byte.count_ones()).sum(),
        // The next session key is the XOR of two operation keys: with either of them, the other.
        _ => 0,
    }
}
