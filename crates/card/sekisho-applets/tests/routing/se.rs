//! The worked SE of the page, section 7: three containers, applications that say where they are, and a flash that counts its reads.

use std::cell::Cell;

use sekisho_apdu::{Aid, CApdu, StatusWord, Writer};
use sekisho_applets::{CardManager, FileSystem};
use sekisho_keys::KeySet;
use sekisho_nvm::ram::RamFlash;
use sekisho_nvm::{Flash, Ram};
use sekisho_os::{
    AllInterfaces, Application, Applications, ContainerId, Containers, Context, FactoryApplication, Instance,
    Interface, InterfaceAccess, Module, Next, Outcome, OwnRecord, Pairing, Personalisation, Platform, Pool,
    Profile, Protocol, Refusal, ResetCounts, Row, SecureElement, State,
};

use crate::common::ByValue as _;
use crate::common::{self, SeededRng, key};

/// Flash that counts how often it is read.
#[derive(Clone)]
pub struct Counting {
    flash: RamFlash,
    reads: Cell<u64>,
}

impl Counting {
    pub fn new() -> Self {
        Self::of(RamFlash::strict(common::PAGE, 24))
    }

    pub fn of(flash: RamFlash) -> Self {
        let reads = Cell::new(0);
        Self { flash, reads }
    }

    pub fn reads(&self) -> u64 {
        self.reads.get()
    }

    pub fn image(&self) -> Vec<u8> {
        self.flash.image().to_vec()
    }

    pub fn inner(&mut self) -> &mut RamFlash {
        &mut self.flash
    }

    pub fn is_off(&self) -> bool {
        self.flash.is_off()
    }
}

impl Flash for Counting {
    type Error = <RamFlash as Flash>::Error;

    fn page_size(&self) -> usize {
        self.flash.page_size()
    }

    fn pages(&self) -> usize {
        self.flash.pages()
    }

    fn read(&self, address: usize, out: &mut [u8]) -> Result<(), Self::Error> {
        self.reads.set(self.reads.get() + 1);
        self.flash.read(address, out)
    }

    fn write(&mut self, address: usize, bytes: &[u8]) -> Result<(), Self::Error> {
        self.flash.write(address, bytes)
    }

    fn erase(&mut self, page: usize) -> Result<(), Self::Error> {
        self.flash.erase(page)
    }
}

/// The native stand-in of the page: it tells its container, the protocol's code and the interface.
pub const WHERE: Module = Module(0x70);

pub struct Where;

impl State for Where {
    const NEW: Self = Self;
}

impl Application for Where {
    fn select(&mut self, context: &mut Context<'_>, out: &mut Writer<'_>) -> Outcome {
        out.tlv_with(0x6F, |w| w.tlv(0x84, context.aid().as_bytes()))?;
        Ok(StatusWord::NO_ERROR)
    }

    fn process(
        &mut self,
        context: &mut Context<'_>,
        capdu: &CApdu<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        match capdu.ins {
            0x0A => {}
            KEEP => return keep(context, capdu.data),
            READ => return read(context, capdu.p1, out),
            _ => return Err(Refusal(StatusWord::INS_NOT_SUPPORTED)),
        }
        let interface = u8::try_from(context.interface().index()).unwrap();
        let protocol = context.protocol().code().unwrap();
        out.bytes(&[context.container().number(), protocol, interface])?;
        Ok(Next::Done(StatusWord::NO_ERROR))
    }
}

/// Of the stand-in: keeps the data as record 1 and thirty times as a bulk.
pub const KEEP: u8 = 0x0C;
/// Of the stand-in: the bulk of number P1, or with FF its own; FE is record 1.
pub const READ: u8 = 0x0E;
/// What a bulk has more of than the record.
pub const TIMES: usize = 30;

fn keep(context: &mut Context<'_>, data: &[u8]) -> Result<Next, Refusal> {
    let bytes = data.repeat(TIMES);
    let mut writing = context.begin_bulk(u32::try_from(bytes.len()).unwrap())?;
    context.write_bulk(&mut writing, &bytes)?;
    let number = context.seal_bulk(&writing, &sekisho_keys::sha256(&[&bytes]))?;
    context.put(0, 0, &[number])?;
    context.put(1, 0, data)?;
    Ok(Next::Done(StatusWord::NO_ERROR))
}

fn read(context: &mut Context<'_>, number: u8, out: &mut Writer<'_>) -> Result<Next, Refusal> {
    let mut record = [0; 32];
    if number == 0xFE {
        let len = context.get(1, 0, &mut record)?.unwrap_or(0);
        out.bytes(&record[..len])?;
        return Ok(Next::Done(StatusWord::NO_ERROR));
    }
    let own = match number {
        0xFF => {
            let kept = context.get(0, 0, &mut record)?;
            kept.ok_or(Refusal(StatusWord::FILE_NOT_FOUND))?;
            record[0]
        }
        _ => number,
    };
    let seal = context.bulk(own)?;
    let mut bytes = vec![0; usize::try_from(seal.length).unwrap()];
    context.read_bulk(own, 0, &mut bytes)?;
    out.bytes(&bytes)?;
    Ok(Next::Done(StatusWord::NO_ERROR))
}

pub struct All {
    wheres: Pool<Where, 30>,
    domains: Pool<CardManager, 9>,
    files: Pool<FileSystem<32>, 3>,
}

impl Applications for All {
    const NEW: Self = Self {
        wheres: Pool::NEW,
        domains: Pool::NEW,
        files: Pool::NEW,
    };

    fn get(&mut self, module: Module, instance: Instance) -> Option<&mut dyn Application> {
        match module {
            // What stands in for a TLS Manager is one by its entry alone.
            WHERE | Module::TLS_MANAGER => Some(self.wheres.get(instance)?),
            Module::CARD_MANAGER => Some(self.domains.get(instance)?),
            Module::FILE_SYSTEM => Some(self.files.get(instance)?),
            _ => None,
        }
    }

    fn release(&mut self, module: Module, instance: Instance) {
        match module {
            WHERE | Module::TLS_MANAGER => self.wheres.release(instance),
            Module::CARD_MANAGER => self.domains.release(instance),
            Module::FILE_SYSTEM => self.files.release(instance),
            _ => {}
        }
    }
}

pub struct Three;

impl Platform for Three {
    type Flash = Counting;
    type Rng = SeededRng;
    type Applications = All;
    type Interfaces = AllInterfaces;
    type Containers = Containers<3>;
    type Index = Ram<256, 24, 48>;
}

pub type Card = SecureElement<Three>;

pub const COMMON: [u8; 8] = [0xA0, 0, 0, 1, 0x51, 0, 0, 0];
pub const OTHER_ROOT: [u8; 8] = [0xA0, 0, 0, 1, 0x52, 0, 0, 0];
pub const LOAD_FILE: &[u8] = b"\xF0SKWHERE";
/// In each container; in one each; in containers 2 and 3.
pub const EVERYWHERE: &[u8] = b"\xF0SKWHERE\x00";
pub const IN: [&[u8]; 3] = [b"\xF0SKWHERE\x01", b"\xF0SKWHERE\x02", b"\xF0SKWHERE\x03"];
pub const IN_TWO: &[u8] = b"\xF0SKWHERE\x04";
/// The domains of seed 2's figure 2.
pub const AM_SD: &[u8] = b"\xF0SKAMSD";
pub const ISD_P1: &[u8] = b"\xF0SKISDP1";
pub const ISD_P2: &[u8] = b"\xF0SKISDP2";

pub const PAIRING_KEY: [u8; 16] = [0x64; 16];

pub fn id(number: u8) -> ContainerId {
    ContainerId::new(number).unwrap()
}

pub fn aid(bytes: &[u8]) -> Aid {
    Aid::try_from(bytes).unwrap()
}

pub fn se_id(number: u8) -> [u8; 10] {
    [0x53, 0x4B, 0, 0, 0, 0, 0, 0, 0x22, number]
}

/// Each container's: 16 times its number and 1, 2, 3.
pub fn keys_of(number: u8) -> KeySet {
    let key = |n: u8| key(&[number << 4 | n; 16]);
    KeySet {
        enc: key(1),
        mac: key(2),
        dek: key(3),
    }
}

/// Version of the key sets of the security domains.
pub const DOMAIN_KVN: u8 = 0x20;

/// Those of a security domain: sixteen times the last byte of its AID, with 1, 2, 3.
pub fn keys_of_domain(name: &[u8]) -> KeySet {
    let key = |n: u8| key(&[name[name.len() - 1] ^ n; 16]);
    KeySet {
        enc: key(1),
        mac: key(2),
        dek: key(3),
    }
}

pub fn application(aid_of: &[u8]) -> FactoryApplication<'static> {
    FactoryApplication {
        aid: aid(aid_of),
        load_file: aid(LOAD_FILE),
        module: WHERE,
        records: &[],
    }
}

/// Seed 2's default: ISO/IEC 7816-3 is the second container's. Secure channels of the roots are opened on SWP as well.
pub fn profile() -> Profile {
    Profile {
        pairing: Pairing::contacts_to(id(2)).with(Protocol::Proprietary(0), Row::common(id(3))),
        resets: Some(ResetCounts::default()),
        root_access: InterfaceAccess::ALL,
        ..common::profile()
    }
}

pub fn paired(pairing: Pairing) -> Profile {
    Profile { pairing, ..profile() }
}

/// What differs from the page's SE.
#[derive(Default, Clone, Copy)]
pub struct Made<'a> {
    /// Records of a file system in each container, which is selected after a reset.
    pub files: Option<[&'a [OwnRecord<'a>]; 3]>,
    pub without_pairing_key: bool,
    /// Roots alone.
    pub is_bare: bool,
}

pub fn make(flash: Counting, profile: &Profile, made: Made<'_>) -> Card {
    let (keys, k_aut, pairing_key) = ([1, 2, 3].map(keys_of), key(&[0xA0; 16]), key(&PAIRING_KEY));
    let file_system = aid(sekisho_applets::file_system::AID);
    let applications: Vec<Vec<FactoryApplication<'_>>> = (0..3)
        .map(|at| {
            if made.is_bare {
                return vec![];
            }
            let mut all = vec![application(EVERYWHERE), application(IN[at])];
            if at > 0 {
                all.push(application(IN_TWO));
            }
            if let Some(records) = made.files {
                all.push(FactoryApplication {
                    aid: file_system,
                    load_file: aid(sekisho_applets::file_system::LOAD_FILE_AID),
                    module: Module::FILE_SYSTEM,
                    records: records[at],
                });
            }
            all
        })
        .collect();
    let all: Vec<_> = (0..3_u8)
        .map(|at| Personalisation {
            se_id: se_id(at + 1),
            applications: &applications[usize::from(at)],
            isd_aid: (at == 1).then(|| aid(&OTHER_ROOT)),
            pairing_key: (at == 0 && !made.without_pairing_key).then_some(&pairing_key),
            default_application: made.files.map(|_| file_system),
            ..common::personalisation(0x30, &keys[usize::from(at)], &k_aut)
        })
        .collect();
    let all: Vec<_> = all.iter().collect();
    let mut card = Card::made_all(flash, SeededRng(1), profile, &all).unwrap();
    let domains: [(u8, &[u8]); 3] = [(1, AM_SD), (2, ISD_P1), (2, ISD_P2)];
    for (number, name) in domains
        .into_iter()
        .filter(|_| !made.is_bare && made.files.is_none())
    {
        let keys = keys_of_domain(name);
        let file = [name, b"F"].concat();
        let made = card.install_domain(id(number), aid(name), aid(&file), (DOMAIN_KVN, &keys));
        made.unwrap();
    }
    card
}

/// The page's SE.
pub fn card() -> Card {
    make(Counting::new(), &profile(), Made::default())
}

pub fn boot(flash: Counting, profile: &Profile) -> Card {
    Card::booted(flash, SeededRng(2), profile).unwrap()
}

/// Every protocol of the page's SE, by the name that the page and `--on` have for it, with its interface.
pub const PROTOCOLS: [(&str, Protocol, Interface); 8] = [
    ("t0", Protocol::T0, Interface::Iso7816Contact),
    ("t1", Protocol::T1, Interface::Iso7816Contact),
    ("swp-a", Protocol::SwpA, Interface::Swp),
    ("swp-b", Protocol::SwpB, Interface::Swp),
    ("apdu-gate", Protocol::ApduGate, Interface::ApduGate),
    ("spi-ese", Protocol::SpiEse, Interface::Spi),
    ("spi-euicc", Protocol::SpiEuicc, Interface::Spi),
    ("proprietary-0", Protocol::Proprietary(0), Interface::Spi),
];

/// Sends on a protocol; where its interface speaks another, it is reset to this one first.
pub fn send(card: &mut Card, protocol: Protocol, capdu: &[u8]) -> Vec<u8> {
    let (_, _, interface) = *PROTOCOLS.iter().find(|(_, of, _)| *of == protocol).unwrap();
    if card.protocol(interface) != protocol {
        assert!(card.reset_to(interface, protocol));
    }
    crate::common::send_on(card, interface, capdu)
}

pub fn by_name(p2: u8, name: &[u8]) -> Vec<u8> {
    let len = u8::try_from(name.len()).unwrap();
    let lc = if name.is_empty() { &[][..] } else { &[len] };
    [&[0x00, 0xA4, 0x04, p2], lc, name, &[0x00]].concat()
}

pub fn select(card: &mut Card, protocol: Protocol, name: &[u8]) -> u16 {
    common::sw(&send(card, protocol, &by_name(0, name)))
}

pub const WHERE_ARE_YOU: [u8; 5] = [0x80, 0x0A, 0x00, 0x00, 0x00];

/// The container of what is selected: of a stand-in, or of a root.
pub fn container(card: &mut Card, protocol: Protocol) -> Option<u8> {
    let told = send(card, protocol, &WHERE_ARE_YOU);
    if let [number, _, _, 0x90, 0x00] = told[..] {
        return Some(number);
    }
    match send(card, protocol, &[0x00, 0xCA, 0x00, 0xCF, 0x00])[..] {
        [.., number, 0x90, 0x00] => Some(number),
        _ => None,
    }
}
