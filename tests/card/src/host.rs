//! The host's end of a secure channel with a card under test.

use sekisho_apdu::gp::ins;
use sekisho_apdu::{CApdu, Cla, RApdu, StatusWord, Writer};
use sekisho_keys::KeySet;
use sekisho_os::Interface;
use sekisho_scp::host::{Challenge, HostChannel, InitializeUpdateResponse, SessionKeys};
use sekisho_scp::{MacMode, SecurityLevel};

use super::script::Line;
use super::send_on;

pub struct Host {
    channel: HostChannel,
    pub interface: Interface,
    pub logical_channel: u8,
    /// INITIALIZE UPDATE and EXTERNAL AUTHENTICATE, as they went.
    pub opening: [Vec<u8>; 2],
    /// The sequence counter that the card used.
    pub sequence_counter: Option<u32>,
}

/// A command's bytes.
pub fn encode(capdu: &CApdu<'_>) -> Vec<u8> {
    let mut buf = vec![0; 70_000];
    let mut w = Writer::new(&mut buf);
    capdu.encode(&mut w).unwrap();
    w.written().to_vec()
}

/// INITIALIZE UPDATE as a host sends it.
pub fn initialize_update(kvn: u8, mode: MacMode, logical_channel: u8) -> Vec<u8> {
    let cla = Cla::GP.with_logical_channel(logical_channel).unwrap();
    let challenge = [0x11; 16];
    encode(
        &CApdu::new(cla, ins::INITIALIZE_UPDATE, kvn, 0)
            .with_data(&challenge[..mode.size()])
            .with_ne(256),
    )
}

impl Host {
    /// Opens a secure channel on the basic logical channel of the contacts.
    pub fn open(card: &mut dyn Line, kvn: u8, keys: &KeySet, level: SecurityLevel) -> Self {
        Self::open_on(card, Interface::Iso7816Contact, 0, kvn, keys, level, MacMode::S8).unwrap()
    }

    /// Opens a secure channel; the status word of the command that failed otherwise.
    pub fn open_on(
        card: &mut dyn Line,
        interface: Interface,
        logical_channel: u8,
        kvn: u8,
        keys: &KeySet,
        level: SecurityLevel,
        mode: MacMode,
    ) -> Result<Self, StatusWord> {
        let command = initialize_update(kvn, mode, logical_channel);
        let rapdu = send_on(card, interface, &command);
        let response = RApdu::parse(&rapdu).unwrap();
        if !response.sw.is_success() {
            return Err(response.sw);
        }
        let response = InitializeUpdateResponse::parse(response.data).unwrap();
        let host_challenge = Challenge::try_from(&[0x11; 16][..mode.size()]).unwrap();
        let session = SessionKeys::derive(keys, &host_challenge, &response.card_challenge).unwrap();
        let cryptogram = session
            .card_cryptogram(&host_challenge, &response.card_challenge)
            .unwrap();
        assert_eq!(response.card_cryptogram, cryptogram, "card cryptogram");
        let host_cryptogram = session
            .host_cryptogram(&host_challenge, &response.card_challenge)
            .unwrap();
        let mut channel = HostChannel::new(session, mode);
        let mut buf = [0; 64];
        let mut w = Writer::new(&mut buf);
        channel
            .external_authenticate(level, &host_cryptogram, &mut w)
            .unwrap();
        let mut authenticate = w.written().to_vec();
        authenticate[0] = Cla(authenticate[0])
            .with_logical_channel(logical_channel)
            .unwrap()
            .0;
        let answer = send_on(card, interface, &authenticate);
        let sw = RApdu::parse(&answer).unwrap().sw;
        if sw.is_success() {
            Ok(Self {
                channel,
                interface,
                logical_channel,
                opening: [command, authenticate],
                sequence_counter: response.sequence_counter,
            })
        } else {
            Err(sw)
        }
    }

    /// Protects a plain C-APDU, without sending it.
    pub fn wrap(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut buf = vec![0; 70_000];
        let mut w = Writer::new(&mut buf);
        self.channel.wrap(&CApdu::parse(plain).unwrap(), &mut w).unwrap();
        w.written().to_vec()
    }

    /// Verifies and decrypts an answer: data field and status word.
    pub fn unwrap(&mut self, rapdu: &[u8]) -> Vec<u8> {
        let mut buf = vec![0; 70_000];
        let answer = self.channel.unwrap_response(rapdu, &mut buf).unwrap();
        [answer.data, &answer.sw.bytes()].concat()
    }

    /// Sends what has been wrapped and gives the plain R-APDU.
    pub fn unwrap_of(&mut self, card: &mut dyn Line, wrapped: &[u8]) -> Vec<u8> {
        let rapdu = send_on(card, self.interface, wrapped);
        self.unwrap(&rapdu)
    }

    /// Sends a plain C-APDU through the secure channel and gives the plain R-APDU.
    pub fn send(&mut self, card: &mut dyn Line, plain: &[u8]) -> Vec<u8> {
        let command = self.wrap(plain);
        let rapdu = send_on(card, self.interface, &command);
        self.unwrap(&rapdu)
    }
}
