//! The bench for docs/spec/secapp.md: SecApp with the state, the keys and the random numbers of docs/spec/paging.md, section 10.

use super::ByValue as _;
use sekisho_applets::sec_app;
use sekisho_keys::{AesKey, cmac};
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{Interface, OwnRecord, Personalisation, SecureElement};
use sekisho_paging::Uid;
use sekisho_paging::device::{DeviceKey, State};
use sekisho_paging::keys::{Keyspace, Root};

use super::tables::{Bench, Command, Page};
use super::{Script, Scripted, SeededRng, flash, initial_keys, key, personalisation, profile, secapp};

type Element = SecureElement<Scripted>;

const START: Keyspace = Keyspace {
    domain: 0,
    generation: 1,
};
/// Of the page's recovery request.
const MOVED: Keyspace = Keyspace {
    domain: 9,
    generation: 2,
};

/// The flash of a new SE at an identity of the page; with `records` false its SecApp is not personalised.
pub fn made_by(page: Page, uid: &str, records: bool) -> RamFlash {
    let block = |name: &str| -> [u8; 16] { page.block(name).try_into().unwrap() };
    let root = Root::new(block("root"));
    let recovery = *root.recovery_key().as_bytes();
    let keyspace = if uid == "uid1" { START } else { MOVED };
    let mut state = State::new(Uid(block(uid)), keyspace, DeviceKey::Fixed(root), 900);
    state.order = 41;
    let record = state.record();
    let both: [OwnRecord<'_>; 2] = [
        (sec_app::STATE_RECORD, 0, &record.0),
        (sec_app::RECOVERY_RECORD, 0, &recovery),
    ];
    let applications = [secapp(if records { &both } else { &[] })];
    let (keys, k_aut) = (initial_keys(), key(&[0xA0; 16]));
    let personalisation = Personalisation {
        se_id: page.block("request")[2..12].try_into().unwrap(),
        applications: &applications,
        ..personalisation(0xFF, &keys, &k_aut)
    };
    let rng = Script(Vec::new(), SeededRng(5));
    let element = Element::made(flash(), rng, &profile(), &personalisation);
    element.unwrap().into_flash()
}

/// SecApp on SPI, selected. The column *sent*: `as it is` and `bytes` as for the issuer security domain; `certified`: with the server's word
/// over the key pair made last behind the data field; `power`: off and on, and SecApp is selected again; `reset`: a reader's.
pub struct PollerBench {
    page: Page,
    card: Option<Element>,
    public_key: Vec<u8>,
}

impl PollerBench {
    pub fn new(page: Page, flash: RamFlash, random: &[u8]) -> Self {
        let rng = Script(random.to_vec(), SeededRng(6));
        let mut bench = Self {
            page,
            card: Some(Element::booted(flash, rng, &profile()).unwrap()),
            public_key: vec![0; 65],
        };
        bench.select();
        bench
    }

    fn transmit(&mut self, capdu: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 600];
        let len = self
            .card
            .as_mut()
            .unwrap()
            .transmit(Interface::Spi, capdu, &mut out);
        out.truncate(len);
        out
    }

    fn select(&mut self) -> Vec<u8> {
        self.transmit(&[&[0x00, 0xA4, 0x04, 0x00, 0x07], sec_app::AID].concat())
    }
}

impl Bench for PollerBench {
    fn send(&mut self, command: &Command) -> Vec<u8> {
        match &*command.sent {
            "as it is" => {
                let answer = self.transmit(&command.with(&[]));
                if command.header.starts_with(&[0x80, 0x46, 0x00]) && answer.len() > 65 {
                    self.public_key = answer[..65].to_vec();
                }
                answer
            }
            "bytes" => self.transmit(&command.header),
            "certified" => {
                let k_rec = AesKey::new(&self.page.block("k-rec")).unwrap();
                let se_id = &self.page.block("request")[2..12];
                let proof = cmac(&k_rec, &[b"certified1", se_id, &self.public_key, &command.data]);
                self.transmit(&command.with(&proof))
            }
            "power" => {
                let mut flash = self.card.take().unwrap().into_flash();
                flash.power_on();
                let rng = Script(Vec::new(), SeededRng(7));
                self.card = Some(Element::booted(flash, rng, &profile()).unwrap());
                self.select()
            }
            "reset" => {
                self.card.as_mut().unwrap().reset(Interface::Spi);
                self.select()
            }
            other => panic!("no command is sent {other:?}"),
        }
    }
}
