//! `sekisho hsm rotate`: other individual keys for one SE, over SCP03 with those that it has.

use anyhow::{Context, Result, bail};
use clap::Parser;
use sekisho_apdu::gp::ins;
use sekisho_apdu::{CApdu, Cla, StatusWord, Writer};
use sekisho_device::Facts;
use sekisho_hsm::{Hsm, KVN_AUT};
use sekisho_link::SeId;
use sekisho_scp::SecurityLevel;
use sekisho_scp::host::{Challenge, HostChannel, InitializeUpdateResponse};
use sekisho_transport::{Card, exchange};
use std::path::PathBuf;
use std::time::Duration;

use super::agent::{CardAt, where_card_is};
use super::kvn::Kvn;
use super::secret::{self, Passphrase};

/// Bytes of one protected command, or of an answer, at most.
const ROOM: usize = 512;

/// Give a card the HSM's next SCP03 key set in the place of the one that it has, and the K-AUT that goes with it
///
/// Each of the two is a step of its own that is done or not. What was broken off is finished by the same command. An SE has 15 rotations at most, 31 to
/// 3F: a lower key version would bring back keys that somebody may know, and is refused. After 3F the keystore has no other keys for it, and an SE whose
/// keys have to change once more is replaced.
#[derive(Parser)]
pub(super) struct Args {
    /// The SE's identity, 20 hexadecimal digits
    #[arg(long)]
    se_id: SeId,
    /// The card: `pcsc:READER` (part of the reader's name; `pcsc:` if there is one only) or `tcp:HOST:PORT`
    #[arg(long, value_name = "CARD", default_value = "pcsc:", value_parser = where_card_is)]
    card: CardAt,
    /// Key version of the new key set, 31 to 3F (two hexadecimal digits), above that of the present one
    #[arg(long, value_name = "KVN")]
    to: Kvn,
    /// The keystore
    #[arg(long, default_value = "keystore.sealed")]
    keystore: PathBuf,
    /// Seconds for the card to answer
    #[arg(long, default_value_t = 30)]
    timeout: u64,
    #[command(flatten)]
    passphrase: Passphrase,
}

/// Refuses a key set that the SE may have had: who learned its keys then would have the SE again.
///
/// # Errors
/// What to do instead.
fn check_next(has: Kvn, to: Kvn) -> Result<()> {
    if to >= has {
        return Ok(());
    }
    let instead = if has == Kvn::LAST {
        "it has had its last rotation, and is replaced if its keys must change again".to_owned()
    } else {
        format!("give one from {} to {}", Kvn(has.0 + 1), Kvn::LAST)
    };
    bail!("the card has key set {has}, and {to} would bring back keys that somebody may know: {instead}")
}

/// What is left of a PUT KEY without an answer that proves anything: of a refusal nothing is authenticated, and an answer may be lost behind a command
/// that was carried out (Amd D 6.2.5).
fn not_known(what: &str) -> String {
    format!(
        "it is not known whether the card has taken {what}: the same command once more finds out and finishes it"
    )
}

#[allow(clippy::print_stdout)]
pub(super) fn run(args: &Args) -> Result<()> {
    let Args { se_id, to, .. } = *args;
    let hsm = secret::keystore(&args.keystore, &args.passphrase.read()?)?;
    let mut card = args.card.open(Duration::from_secs(args.timeout))?;
    let facts = Facts::read(card.as_mut())?;
    if facts.se_id != se_id {
        bail!("the card is SE {}, not {se_id}", facts.se_id);
    }
    let has = Kvn(facts.kvn);
    check_next(has, to)?;
    let keys = hsm.enciphered_keys(se_id, has.0, to.0)?;
    let mut channel = Channel::open(card.as_mut(), &hsm, &facts)?;
    if has == to {
        println!("SE {se_id}: has key set {to} already");
    } else {
        channel
            .put_key(has.0, true, to.0, &keys.key_set.concat())
            .with_context(|| not_known(&format!("key set {to} in the place of {has}")))?;
        println!("SE {se_id}: key set {to} in the place of {has}");
    }
    channel
        .put_key(KVN_AUT, false, KVN_AUT, &keys.k_aut)
        .with_context(|| not_known(&format!("the K-AUT that goes with key set {to}")))?;
    println!("SE {se_id}: K-AUT that goes with key set {to}");
    println!("the server has to know: sekisho fleet key-set {se_id} {to}");
    Ok(())
}

/// A secure channel of level 33 to the card.
struct Channel<'c> {
    card: &'c mut dyn Card,
    host: HostChannel,
}

impl<'c> Channel<'c> {
    fn open(card: &'c mut dyn Card, hsm: &dyn Hsm, facts: &Facts) -> Result<Self> {
        let mut bytes = [0; 16];
        hsm.random(&mut bytes)?;
        // S16 has challenges of 16 bytes, S8 of 8 (Amd D 6.2.2).
        let (own, _) = bytes.split_at(if facts.scp_parameter & 1 == 0 { 8 } else { 16 });
        let own = Challenge::try_from(own)?;
        let command = CApdu::new(Cla::GP, ins::INITIALIZE_UPDATE, facts.kvn, 0)
            .with_data(own.as_bytes())
            .with_ne(256);
        let mut buffer = [0; ROOM];
        let mut out = Writer::new(&mut buffer);
        command.encode(&mut out)?;
        let answer = exchange(card, out.written())?;
        accepted("INITIALIZE UPDATE", StatusWord(answer.sw))?;
        let answer = InitializeUpdateResponse::parse(&answer.data)?;
        let keys = hsm.scp03_session(facts.se_id, facts.kvn, &own, &answer.card_challenge)?;
        if keys.card_cryptogram(&own, &answer.card_challenge)? != answer.card_cryptogram {
            bail!("the card has other keys than this keystore");
        }
        let cryptogram = keys.host_cryptogram(&own, &answer.card_challenge)?;
        let mut host = HostChannel::new(keys, answer.i.mac_mode());
        let mut out = Writer::new(&mut buffer);
        host.external_authenticate(SecurityLevel::FULL, &cryptogram, &mut out)?;
        let answer = exchange(card, out.written())?;
        accepted("EXTERNAL AUTHENTICATE", StatusWord(answer.sw))?;
        Ok(Self { card, host })
    }

    /// PUT KEY: keys of version `kvn` in the place of those of version `replaced` (GPC 11.8).
    fn put_key(&mut self, replaced: u8, several: bool, kvn: u8, fields: &[u8]) -> Result<()> {
        let data = [&[kvn][..], fields].concat();
        let p2 = if several { 0x81 } else { 0x01 };
        let command = CApdu::new(Cla::GP, ins::PUT_KEY, replaced, p2)
            .with_data(&data)
            .with_ne(256);
        let (mut buffer, mut plain) = ([0; ROOM], [0; ROOM]);
        let mut out = Writer::new(&mut buffer);
        self.host.wrap(&command, &mut out)?;
        let answer = exchange(self.card, out.written())?;
        let rapdu = [&answer.data[..], &answer.sw.to_be_bytes()].concat();
        accepted("PUT KEY", self.host.unwrap_response(&rapdu, &mut plain)?.sw)
    }
}

fn accepted(command: &str, sw: StatusWord) -> Result<()> {
    if sw == StatusWord::NO_ERROR {
        Ok(())
    } else {
        bail!("the card refuses {command} with {sw}, {}", sw.meaning())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods)]
mod tests {
    use super::*;
    use sekisho_hsm::SCP03_KVNS;

    #[test]
    fn key_versions_only_grow() {
        for has in SCP03_KVNS {
            for to in SCP03_KVNS {
                let checked = check_next(Kvn(has), Kvn(to));
                // The same one finishes what was broken off.
                assert_eq!(checked.is_ok(), to >= has, "{has:02X} to {to:02X}");
            }
        }
        let words = |has, to| check_next(Kvn(has), Kvn(to)).unwrap_err().to_string();
        assert!(words(0x32, 0x31).ends_with("give one from 33 to 3F"));
        assert!(words(0x3F, 0x3E).contains("it has had its last rotation"));
    }
}
