//! The default: a forward-secure ratchet by fast key erasure.
//!
//! With chain key `C`, the exchange whose command carries SSC derives, block by block,
//!
//! ```text
//! AES_C("SMR1" || purpose:1 || part:1 || 00 00 || low 8 bytes of SSC)
//! ```
//!
//! purpose 1 gives the next chain key, 2 and 3 KSenc and KSmac of the command, 4 and 5 those of the response (2 and 3
//! again with [`Lanes::Shared`]). A key longer than a block takes parts 0 and 1. The blocks are outputs of a pseudo-random
//! permutation at different points, so none tells about another, and AES cannot be run backwards without `C`, which is
//! gone (Bellare and Yee, "Forward-Security in Private-Key Cryptography", CT-RSA 2003).

use sekisho_keys::{AesKey, BLOCK, ecb_blocks, sha256};
use zeroize::Zeroizing;

use super::{Exchange, KeySchedule, Lanes, Next, ScheduleError};
use crate::keys::Keys;
use crate::ssc::Ssc;

const LABEL: [u8; 4] = *b"SMR1";
const PURPOSE_CHAIN: u8 = 1;
/// Key purposes in the order in which they are derived: chain, command enc and mac, response enc and mac.
const PURPOSES: usize = 5;
/// AES-192 and AES-256 keys take two blocks.
const MAX_BLOCKS: usize = 2 * PURPOSES;
/// After a refresh, C becomes the first bytes of SHA-256("sekisho sm refresh" || C || secret): unpredictable to whoever
/// lacks either.
const LABEL_REFRESH: &[u8] = b"sekisho sm refresh";

/// New keys for every exchange; who takes a whole end after an exchange cannot read what went before, and, once a refresh
/// has come in that he did not see, not what follows either.
pub struct Ratchet {
    chain: AesKey,
    lanes: Lanes,
    /// Exchanges since the opening.
    exchanges: u32,
    /// Exchanges since fresh randomness came in.
    since_refresh: u16,
    refresh_every: u16,
}

impl Ratchet {
    /// Starts from a chain key that both ends derived freshly; the keys have its length. After `refresh_every` exchanges
    /// a refresh is due.
    pub const fn new(chain: AesKey, lanes: Lanes, refresh_every: u16) -> Self {
        Self {
            chain,
            lanes,
            exchanges: 0,
            since_refresh: 0,
            refresh_every,
        }
    }
}

impl KeySchedule for Ratchet {
    fn exchange(&self, command_ssc: Ssc) -> Result<Exchange, ScheduleError> {
        let key_len = self.chain.as_bytes().len();
        let parts = key_len.div_ceil(BLOCK);
        let purposes = match self.lanes {
            Lanes::Shared => 3,
            Lanes::Separate => PURPOSES,
        };
        let [s0, s1, s2, s3, s4, s5, s6, s7] = command_ssc.low();
        let [l0, l1, l2, l3] = LABEL;
        let mut blocks = Zeroizing::new([[0; BLOCK]; MAX_BLOCKS]);
        let used = blocks.get_mut(..purposes * parts).unwrap_or_default();
        for (purpose, chunk) in (PURPOSE_CHAIN..).zip(used.chunks_exact_mut(parts)) {
            for (part, block) in (0..).zip(chunk) {
                *block = [
                    l0, l1, l2, l3, purpose, part, 0, 0, s0, s1, s2, s3, s4, s5, s6, s7,
                ];
            }
        }
        // One key schedule for all of them.
        ecb_blocks(&self.chain, used);
        let bytes = blocks.as_flattened();
        let key = |index: usize| {
            bytes
                .get(BLOCK * parts * index..)
                .and_then(|rest| rest.get(..key_len))
                .unwrap_or_default()
        };
        let keys = |enc, mac| Keys::aes(key(enc), key(mac)).map_err(|_| ScheduleError::BadKeys);
        let chain = AesKey::new(key(0)).map_err(|_| ScheduleError::BadKeys)?;
        let command = keys(1, 2)?;
        let response = match self.lanes {
            Lanes::Shared => command.clone(),
            Lanes::Separate => keys(3, 4)?,
        };
        Ok(Exchange {
            command,
            response,
            next: Next(Some(chain)),
        })
    }

    fn advance(&mut self, next: Next, _selector: &[u8]) -> Result<(), ScheduleError> {
        // The assignment drops the old chain key, which wipes it.
        self.chain = next.0.ok_or(ScheduleError::BadKeys)?;
        self.exchanges = self.exchanges.saturating_add(1);
        self.since_refresh = self.since_refresh.saturating_add(1);
        Ok(())
    }

    fn refresh_due(&self) -> bool {
        self.since_refresh >= self.refresh_every
    }

    fn refresh(&mut self, secret: &[u8]) -> Result<(), ScheduleError> {
        let chain = self.chain.as_bytes();
        let mixed = Zeroizing::new(sha256(&[LABEL_REFRESH, chain, secret]));
        let mixed = mixed.get(..chain.len()).ok_or(ScheduleError::BadKeys)?;
        self.chain = AesKey::new(mixed).map_err(|_| ScheduleError::BadKeys)?;
        self.since_refresh = 0;
        Ok(())
    }

    fn key_numbers(&self) -> (u32, u32) {
        let number = self.exchanges.saturating_add(1);
        (number, number)
    }

    #[cfg(feature = "expose-secrets")]
    fn expose(&self, sink: &mut dyn FnMut(&[u8])) {
        let Self {
            chain,
            lanes: _,
            exchanges,
            since_refresh,
            refresh_every: _,
        } = self;
        sink(chain.as_bytes());
        sink(&exchanges.to_be_bytes());
        sink(&since_refresh.to_be_bytes());
    }
}
