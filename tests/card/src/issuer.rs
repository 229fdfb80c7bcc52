//! The bench for pages about the issuer security domain: SCP03 and broadcast mode from the host's side, with the keys of a page.

use super::ByValue as _;
use sekisho_apdu::gp::{CardLifeCycle, ins};
use sekisho_apdu::{CApdu, RApdu, Writer};
use sekisho_keys::p256sig::SigningKey;
use sekisho_keys::{AesKey, KeySet, sha256};
use sekisho_link::Manifest;
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{Interface, Personalisation, Platform, SecureElement};
use sekisho_scp::host::{
    BroadcastWriter, Challenge, Cryptogram, HostChannel, InitializeUpdateResponse, SessionKeys,
};
use sekisho_scp::{MacMode, SecurityLevel};

use super::script::Line;
use super::tables::{Bench, Command, Page};
use super::{Card, SeededRng, flash, profile, send_on};

fn key(page: Page, name: &str) -> AesKey {
    AesKey::new(&page.block(name)).unwrap()
}

/// K-ENC, K-MAC and K-DEK of the page.
pub fn scp_keys(page: Page) -> KeySet {
    KeySet {
        enc: key(page, "k-enc"),
        mac: key(page, "k-mac-scp"),
        dek: key(page, "k-dek"),
    }
}

/// The SE of broadcast-update.md, section 6: KVN 30, the page's keys, version 1 of the page's module, SECURED; of 61, 62 and 63 all but the
/// key version `without`.
pub fn made_by(page: Page, without: u8) -> Card {
    let module = page.block("module");
    let second = Manifest::decode(&page.block("manifest")).unwrap();
    let first = Manifest {
        version: 1,
        min_previous: 0,
        length: u32::try_from(module.len()).unwrap(),
        package_id: [0; 16],
        digest: sha256(&[&module]),
        ..second
    };
    let (kos, k_mac) = (key(page, "kos"), key(page, "k-mac"));
    let designer = page.block("designer-public").try_into().unwrap();
    let personalisation = Personalisation {
        key_version: 1,
        se_id: page.block("se-id").try_into().unwrap(),
        scp_parameter: sekisho_scp::ScpParameter::FULL_S8,
        scp_kvn: 0x30,
        scp: &scp_keys(page),
        k_aut: &key(page, "k-aut"),
        kos: (without != 0x61).then_some(&kos),
        k_mac: (without != 0x62).then_some(&k_mac),
        designer: (without != 0x63).then_some(&designer),
        pairing_key: None,
        isd_aid: None,
        default_application: None,
        part: Some((&first, &module)),
        applications: &[],
        data_objects: &[],
        life_cycle: CardLifeCycle::Secured,
    };
    Card::made(flash(), SeededRng(1), &profile(), &personalisation).unwrap()
}

/// A card on the contacts, and what a host knows of its secure channel. The column *sent*:
///
/// * `as it is`: header, Lc, data, Le;
/// * `on SPI`: the same on another interface;
/// * `bytes`: the header column is all that is sent;
/// * `protected`: as the secure channel or broadcast mode asks for that the host has opened; as it is while there is none;
/// * `signed`: the same, with the designer's signature over the data field (as over a manifest) behind it;
/// * `individual`: as the individual channel asks for, in broadcast mode the saved one; as it is while there is none;
/// * `proved`: EXTERNAL AUTHENTICATE, with the host cryptogram and the C-MAC;
/// * `power`: nothing is sent; the reader switches the card off and on.
pub struct IssuerBench<C = Card> {
    page: Page,
    card: C,
    /// INITIALIZE UPDATE has been answered: its session keys and the host cryptogram.
    initiated: Option<(SessionKeys, Cryptogram)>,
    channel: Option<HostChannel>,
    broadcast: Option<BroadcastWriter>,
    /// The CHANGE MODE that brought a key set alone.
    kept: Option<Vec<u8>>,
}

/// A card whose power a reader can cut.
pub trait Powered: Line {
    fn power(&mut self);
}

impl Powered for Card {
    fn power(&mut self) {
        self.reset(Interface::Iso7816Contact);
    }
}

impl<P: Platform> Powered for SecureElement<P> {
    fn power(&mut self) {
        self.reset(Interface::Iso7816Contact);
    }
}

impl IssuerBench {
    pub fn new(page: Page, flash: RamFlash) -> Self {
        Self::on(page, Card::booted(flash, SeededRng(2), &profile()).unwrap())
    }

    /// What stands in the card's flash.
    pub fn flash(&self) -> Vec<u8> {
        self.card.flash().image()
    }
}

impl<C: Powered> IssuerBench<C> {
    /// On a card that has started.
    pub fn on(page: Page, card: C) -> Self {
        Self {
            page,
            card,
            initiated: None,
            channel: None,
            broadcast: None,
            kept: None,
        }
    }

    fn send_plain(&mut self, capdu: &[u8]) -> Vec<u8> {
        send_on(&mut self.card, Interface::Iso7816Contact, capdu)
    }

    fn proved(&mut self, level: u8) -> Vec<u8> {
        let level = SecurityLevel::from_p1(level).unwrap();
        let zero = Challenge::try_from(&[0; 8][..]).unwrap();
        let made_up = || {
            let keys = SessionKeys::derive(&scp_keys(self.page), &zero, &zero).unwrap();
            let cryptogram = keys.host_cryptogram(&zero, &zero).unwrap();
            (keys, cryptogram)
        };
        let (keys, cryptogram) = self.initiated.take().unwrap_or_else(made_up);
        let mut channel = HostChannel::new(keys, MacMode::S8);
        let command = written(|w| channel.external_authenticate(level, &cryptogram, w).unwrap());
        let answer = self.send_plain(&command);
        if answer == [0x90, 0x00] {
            self.channel = Some(channel);
        }
        answer
    }

    /// As the secure channel asks for, and the answer without its protection; 0000 for an answer that lacks it.
    fn protected(&mut self, plain: &[u8]) -> Vec<u8> {
        let capdu = CApdu::parse(plain).unwrap();
        if let Some(writer) = &mut self.broadcast {
            let command = written(|w| writer.wrap(&capdu, w).unwrap());
            return self.send_plain(&command);
        }
        self.individual(plain)
    }

    /// The same of the individual channel, saved or not.
    fn individual(&mut self, plain: &[u8]) -> Vec<u8> {
        let capdu = CApdu::parse(plain).unwrap();
        let Some(channel) = &mut self.channel else {
            return self.send_plain(plain);
        };
        let command = written(|w| channel.wrap(&capdu, w).unwrap());
        let answer = send_on(&mut self.card, Interface::Iso7816Contact, &command);
        let mut buf = vec![0; 5000];
        match channel.unwrap_response(&answer, &mut buf) {
            Ok(answer) => [answer.data, &answer.sw.bytes()].concat(),
            Err(_) => vec![0, 0],
        }
    }

    /// What a host learns from an answer of 9000.
    fn learn(&mut self, plain: &[u8], answer: &[u8]) {
        let capdu = CApdu::parse(plain).unwrap();
        match (capdu.ins, capdu.p1) {
            (ins::INITIALIZE_UPDATE, _) => {
                let answer = InitializeUpdateResponse::parse(RApdu::parse(answer).unwrap().data).unwrap();
                let host = Challenge::try_from(capdu.data).unwrap();
                let keys = SessionKeys::derive(&scp_keys(self.page), &host, &answer.card_challenge).unwrap();
                let cryptogram = keys.host_cryptogram(&host, &answer.card_challenge).unwrap();
                self.initiated = Some((keys, cryptogram));
                (self.channel, self.broadcast, self.kept) = (None, None, None);
            }
            (ins::CHANGE_MODE, 2) => self.kept = Some(plain.to_vec()),
            (ins::CHANGE_MODE, 1) => {
                let kept = self.kept.take().filter(|_| capdu.data.len() == 8);
                let brought = kept.as_deref().map_or(capdu, |kept| CApdu::parse(kept).unwrap());
                self.broadcast = Some(self.broadcast_keys(&brought));
            }
            (ins::CHANGE_MODE, _) => self.broadcast = None,
            _ => {}
        }
    }

    /// The broadcast of a CHANGE MODE: custody 04 says its keys, those of custody 03 stand on the page.
    fn broadcast_keys(&self, capdu: &CApdu<'_>) -> BroadcastWriter {
        let counter = u32::from_be_bytes(capdu.data[8..12].try_into().unwrap());
        let chaining = capdu.data[12..28].try_into().unwrap();
        let (enc, mac) = match capdu.p2 {
            0x04 => {
                let (enc, mac) = capdu.data[28..].split_at((capdu.data.len() - 28) / 2);
                (AesKey::new(enc).unwrap(), AesKey::new(mac).unwrap())
            }
            _ => (key(self.page, "bk-enc-03"), key(self.page, "bk-mac-03")),
        };
        BroadcastWriter::new(enc, mac, counter, chaining)
    }

    fn signature(&self, manifest: &[u8]) -> [u8; 64] {
        let private = self.page.block("designer-private").try_into().unwrap();
        let designer = SigningKey::from_bytes(&private).unwrap();
        designer.sign_parts(&[b"sekisho manifest v1\0", manifest])
    }
}

fn written(write: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut buf = vec![0; 5000];
    let mut w = Writer::new(&mut buf);
    write(&mut w);
    w.written().to_vec()
}

impl<C: Powered> Bench for IssuerBench<C> {
    fn send(&mut self, command: &Command) -> Vec<u8> {
        let plain = command.with(&[]);
        let (plain, answer) = match &*command.sent {
            "as it is" => (plain.clone(), self.send_plain(&plain)),
            "bytes" => return self.send_plain(&command.header),
            "on SPI" => return send_on(&mut self.card, Interface::Spi, &plain),
            "protected" => (plain.clone(), self.protected(&plain)),
            "individual" => (plain.clone(), self.individual(&plain)),
            "signed" => {
                let plain = command.with(&self.signature(&command.data));
                let answer = self.protected(&plain);
                (plain, answer)
            }
            "proved" => return self.proved(command.header[2]),
            "power" => {
                self.card.power();
                (self.initiated, self.channel, self.broadcast, self.kept) = (None, None, None, None);
                return vec![0x90, 0x00];
            }
            other => panic!("no command is sent {other:?}"),
        };
        if answer.ends_with(&[0x90, 0x00]) {
            self.learn(&plain, &answer);
        }
        answer
    }
}
