//! What each of them says to the secure element, and what makes an answer right.

use anyhow::{Context, Result, bail, ensure};
use sekisho_apdu::{CApdu, Writer};
use sekisho_applets::file_system;
use sekisho_device::{Agent, HttpsBackend, MemorySpool, Turn};
use sekisho_keys::{AesKey, KeySet, Rng as _};
use sekisho_link::Access;
use sekisho_messaging::reader::ReaderMessaging;
use sekisho_messaging::schedule::{Lanes, Schedule};
use sekisho_messaging::setup::{DEFAULT_REFRESH_EVERY, Mode, Opened};
use sekisho_scp::host::{Challenge, HostChannel, InitializeUpdateResponse, SessionKeys};
use sekisho_scp::{MacMode, SecurityLevel};
use sekisho_transport::{Card, exchange};

use super::wire::{Who, Wire};
use crate::card::element::SystemRng;
use crate::lab::system::NEXT_VERSION;
use crate::reader::{Opening, Setup};

/// The one AID under which all roots are (GPC H.1.3).
const COMMON: [u8; 8] = [0xA0, 0x00, 0x00, 0x01, 0x51, 0x00, 0x00, 0x00];
/// The OS part.
const PART: [u8; 7] = [0xF0, b'S', b'K', b'O', b'S', 0x00, 0x01];
/// What the contactless reader pays into: a tariff (`docs/spec/applications.md`).
pub(super) const TICKETS: [u8; 7] = [0xF0, b'S', b'K', b'P', b'A', b'Y', 0x01];
/// Nobody has it.
const NOBODYS: [u8; 5] = [0xF0, 0x11, 0x22, 0x33, 0x44];
/// Bytes that are written and read again.
const WRITTEN: usize = 8;

/// Sends a command and wants 9000.
fn ask(wire: &mut Wire, capdu: &[u8], what: &str) -> Result<Vec<u8>> {
    let answer = exchange(wire, capdu).with_context(|| format!("{what} on {}", wire.name()))?;
    ensure!(answer.is_ok(), "{what} on {}: {:04X}", wire.name(), answer.sw);
    Ok(answer.data)
}

fn select(wire: &mut Wire, aid: &[u8]) -> Result<u16> {
    let length = u8::try_from(aid.len())?;
    let capdu = [&[0x00, 0xA4, 0x04, 0x00, length], aid, &[0x00]].concat();
    Ok(exchange(wire, &capdu)?.sw)
}

/// Selects the root under the common AID and asks which container it is.
pub(super) fn who_answers(wire: &mut Wire) -> Result<u8> {
    let sw = select(wire, &COMMON)?;
    ensure!(
        sw == 0x9000,
        "SELECT of the common AID on {}: {sw:04X}",
        wire.name()
    );
    ask(wire, &[0x00, 0xCA, 0x00, 0xCF, 0x00], "GET DATA of the SE-id")?;
    Ok(wire.container())
}

/// Secure messaging with the file system of a container: whoever has no MKEY of it does not get that far.
pub(super) struct Messaging(ReaderMessaging<Schedule>);

impl Messaging {
    pub(super) fn open(wire: &mut Wire, mkey: &AesKey) -> Result<Self> {
        let sw = select(wire, file_system::AID)?;
        ensure!(
            sw == 0x9000,
            "SELECT of the file system on {}: {sw:04X}",
            wire.name()
        );
        let challenge = ask(wire, &[0x00, 0x84, 0x00, 0x00, 0x10], "GET CHALLENGE")?;
        let Ok(challenge) = challenge.try_into() else {
            bail!("a challenge of another length");
        };
        let setup = Setup {
            mode: Mode::Ratchet,
            lanes: Lanes::Shared,
            refresh_every: DEFAULT_REFRESH_EVERY,
        };
        let opening = Opening::new(mkey, setup, challenge)?;
        let answer = ask(wire, &opening.command()?, "opening secure messaging")?;
        let Opened { schedule, ssc } = opening
            .finish(mkey, &answer)
            .context("this file system has another MKEY")?;
        Ok(Self(ReaderMessaging::new(schedule, ssc)))
    }

    pub(super) fn is_used_up(&self) -> bool {
        self.0.refresh_due()
    }

    fn send(&mut self, wire: &mut Wire, capdu: &[u8]) -> Result<Vec<u8>> {
        let command = CApdu::parse(capdu)?;
        let selector = self.0.propose(&mut SystemRng);
        let (mut out, mut data) = ([0; 300], [0; 300]);
        let sent = self.0.protect(&command, selector, &mut out)?;
        let answer = exchange(wire, sent)?;
        let bytes = [&answer.data[..], &answer.sw.to_be_bytes()].concat();
        let answer = self
            .0
            .receive(&bytes, &mut data)
            .context("the answer is not its own")?;
        ensure!(answer.sw.is_success(), "under secure messaging: {}", answer.sw);
        Ok(answer.data.to_vec())
    }

    /// Writes to file 1 of this name, and reads the same back.
    pub(super) fn keep(&mut self, wire: &mut Wire, offset: u8, what: [u8; WRITTEN]) -> Result<()> {
        let update = [&[0x00, 0xD6, 0x81, offset, 8][..], &what].concat();
        self.send(wire, &update)?;
        let read = self.read(wire, offset)?;
        ensure!(read == what, "{read:02X?} was read where {what:02X?} was written");
        Ok(())
    }

    pub(super) fn read(&mut self, wire: &mut Wire, offset: u8) -> Result<Vec<u8>> {
        self.send(wire, &[0x00, 0xB0, 0x81, offset, 8])
    }
}

/// Pays one unit in at the application that the device is told of: the credit.
pub(super) fn pay(wire: &mut Wire) -> Result<[u8; 4]> {
    let sw = select(wire, &TICKETS)?;
    ensure!(
        sw == 0x9000,
        "SELECT of what is paid into on {}: {sw:04X}",
        wire.name()
    );
    let credit = ask(wire, &[0x80, 0x14, 0x00, 0x00, 0x04, 0, 0, 0, 1, 0x00], "PAY IN")?;
    let Ok(credit) = credit.try_into() else {
        bail!("a credit of another length");
    };
    Ok(credit)
}

/// A secure channel with the root of a container: whoever has another container's keys does not get that far.
pub(super) struct SecureChannel(HostChannel);

impl SecureChannel {
    /// SCP03 at level 33 with what is selected.
    pub(super) fn open(wire: &mut Wire, keys: &KeySet) -> Result<Self> {
        let mut own = [0; 8];
        SystemRng.fill(&mut own);
        let begin = [&[0x80, 0x50, 0x00, 0x00, 0x08][..], &own, &[0x00]].concat();
        let answer = ask(wire, &begin, "INITIALIZE UPDATE")?;
        let response = InitializeUpdateResponse::parse(&answer).context("INITIALIZE UPDATE")?;
        let own = Challenge::try_from(&own[..]).context("challenge")?;
        let session = SessionKeys::derive(keys, &own, &response.card_challenge)?;
        ensure!(
            session.card_cryptogram(&own, &response.card_challenge)? == response.card_cryptogram,
            "the root on {} has other keys",
            wire.name()
        );
        let cryptogram = session.host_cryptogram(&own, &response.card_challenge)?;
        let mut channel = HostChannel::new(session, MacMode::S8);
        let mut buffer = [0; 64];
        let mut out = Writer::new(&mut buffer);
        channel.external_authenticate(SecurityLevel::FULL, &cryptogram, &mut out)?;
        ask(wire, out.written(), "EXTERNAL AUTHENTICATE")?;
        Ok(Self(channel))
    }

    /// What the root says of itself under the channel.
    pub(super) fn se_id(&mut self, wire: &mut Wire) -> Result<Vec<u8>> {
        let command = CApdu::parse(&[0x80, 0xCA, 0x00, 0xCF, 0x00])?;
        let (mut buffer, mut plain) = ([0; 300], [0; 300]);
        let mut out = Writer::new(&mut buffer);
        self.0.wrap(&command, &mut out)?;
        let answer = exchange(wire, out.written())?;
        let rapdu = [&answer.data[..], &answer.sw.to_be_bytes()].concat();
        let answer = self.0.unwrap_response(&rapdu, &mut plain)?;
        ensure!(answer.sw.is_success(), "under SCP03: {}", answer.sw);
        // Class 80 has it with tag and length (GPC 11.3.3.1).
        Ok(answer.data.get(2..).unwrap_or_default().to_vec())
    }
}

/// One talk with the OS part, which says its own version, and with a name that nobody has.
pub(super) fn with_the_os_part(wire: &mut Wire) -> Result<u32> {
    let sw = select(wire, &NOBODYS)?;
    ensure!(sw == 0x6A82, "SELECT of a name that nobody has: {sw:04X}");
    let sw = select(wire, &PART)?;
    ensure!(sw == 0x9000, "SELECT of the OS part: {sw:04X}");
    let version = ask(
        wire,
        &[0x80, 0x10, 0x00, 0x00, 0x00],
        "the version of the OS part",
    )?;
    let Ok(version) = version.try_into() else {
        bail!("a version of another length");
    };
    let version = u32::from_be_bytes(version);
    // READ PEAK came with version 2: what it does has to agree with what it says.
    let peak = exchange(wire, &[0x80, 0x24, 0x00, 0x00, 0x00])?;
    ensure!(
        peak.is_ok() == (version >= NEXT_VERSION),
        "version {version} answers READ PEAK with {:04X}",
        peak.sw
    );
    Ok(version)
}

/// What became of an agent's turn.
pub(super) enum Update {
    /// It goes on with the next turn.
    GoesOn,
    /// The server lets the device in, after an update to this version.
    Done(u32),
}

/// One turn of the agent: the remote server speaks through it.
pub(super) fn agent(wire: &mut Wire, agent: &mut Agent<HttpsBackend, MemorySpool>) -> Result<Update> {
    wire.speaks(Who::RemoteServer);
    let turn = agent.turn(wire, &mut |_| ());
    wire.speaks(Who::RichOs);
    wire.reset()?;
    match turn? {
        Turn::Nothing | Turn::NotYet(_) | Turn::Loading { .. } => Ok(Update::GoesOn),
        Turn::Blocked(why) => bail!("the server blocks the device: {why}"),
        Turn::Ended { verdict, status, .. } => match verdict.access {
            Access::Allowed => Ok(Update::Done(
                status.receipt().map_or(0, |receipt| receipt.version),
            )),
            other => bail!("the update ends with {other:?}"),
        },
    }
}
