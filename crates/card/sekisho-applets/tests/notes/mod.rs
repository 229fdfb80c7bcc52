//! Two containers with a stand-in of an application that keeps what it is told, and the commands that bring and take applications.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // test support

use crate::common;

use common::ByValue as _;
use common::host::Host;
use common::{On, PAGE, SeededRng, key, personalisation, profile, sw};
use sekisho_apdu::{Aid, CApdu, StatusWord, Writer};
use sekisho_applets::CardManager;
use sekisho_keys::KeySet;
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{
    Application, Applications, Caller, ContainerId, Context, FactoryApplication, Instance, Interface, Module,
    Next, Outcome, Pairing, Personalisation, Pool, Profile, Protocol, Refusal, Row, SecureElement, State,
};
use sekisho_scp::{MacMode, SecurityLevel};

pub(crate) const CONTACT: Interface = Interface::Iso7816Contact;
pub(crate) const GATE: Interface = Interface::ApduGate;
/// Where the second container answers.
pub(crate) const SPI: Interface = Interface::Spi;

pub(crate) const NOTE: Module = Module(0x70);
pub(crate) const FILE: &str = "07F0534B4E4F5445";
pub(crate) const MODULE: &str = "06F0534B4E4F54";
/// The instance that the factory installs has the module's AID; others.
pub(crate) const FIRST: &str = "F0534B4E4F54";
pub(crate) const SECOND: &str = "F0534B4E4F5432";
pub(crate) const THIRD: &str = "F0534B4E4F5433";
pub(crate) const SD: &str = "F0534B534431";
pub(crate) const OTHER_SD: &str = "F0534B534432";
pub(crate) const SD_FILE: &str = "07A0000001515350 08A000000151535041";

/// A value that is nowhere else in the flash.
pub(crate) const SECRET: &str = "5365637265742070 6172616D65746572";

/// Keeps what it is installed with, and does not go once it has been armed.
pub(crate) struct Note;

impl State for Note {
    const NEW: Self = Self;
}

const TELL: u8 = 0x10;
const ARM: u8 = 0x12;
/// Keeps the data under the numbers from P1 on, P2 of them; no data: nothing there any more.
const KEEP: u8 = 0x14;
/// The same, written before the command is refused.
const KEEP_NOW: u8 = 0x16;
/// Personalisation: keeps the data under the number 1, where [`TELL`] finds it; answers P1, P2 and whether an application asked; refuses data that end with FF.
const STORE_DATA: u8 = 0xE2;

impl Application for Note {
    fn install(&mut self, context: &mut Context<'_>, parameters: &[u8]) -> Result<(), Refusal> {
        context.put(1, 0, parameters)?;
        if parameters.ends_with(&[0xFF]) {
            return Err(Refusal(StatusWord::INCORRECT_DATA));
        }
        Ok(())
    }

    fn delete(&mut self, context: &mut Context<'_>) -> Result<(), Refusal> {
        match context.get(2, 0, &mut [0])? {
            None => Ok(()),
            Some(_) => Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED)),
        }
    }

    fn select(&mut self, _: &mut Context<'_>, _: &mut Writer<'_>) -> Outcome {
        Ok(StatusWord::NO_ERROR)
    }

    fn process(
        &mut self,
        context: &mut Context<'_>,
        capdu: &CApdu<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        let mut value = [0; 64];
        match capdu.ins {
            TELL => {
                let len = context.get(1, 0, &mut value)?.unwrap_or(0);
                out.bytes(&value[..len])?;
            }
            STORE_DATA => {
                context.put(1, 0, capdu.data)?;
                let is_asked_by_one = matches!(context.caller(), Caller::Application { .. });
                out.bytes(&[capdu.cla.0, capdu.p1, capdu.p2, is_asked_by_one.into()])?;
                if capdu.data.ends_with(&[0xFF]) {
                    return Err(Refusal(StatusWord::INCORRECT_DATA));
                }
            }
            ARM => context.put(2, 0, &[1])?,
            KEEP | KEEP_NOW => {
                for number in (capdu.p1..).take(capdu.p2.into()) {
                    match capdu.data {
                        [] => context.remove(number.into(), 0)?,
                        value => context.put(number.into(), 0, value)?,
                    }
                }
                if capdu.ins == KEEP_NOW {
                    context.commit_now()?;
                    return Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED));
                }
            }
            _ => return Err(Refusal(StatusWord::INS_NOT_SUPPORTED)),
        }
        Ok(Next::Done(StatusWord::NO_ERROR))
    }
}

pub(crate) struct Set {
    notes: Pool<Note, 3>,
    domains: Pool<CardManager, 4>,
}

impl Applications for Set {
    const NEW: Self = Self {
        notes: Pool::NEW,
        domains: Pool::NEW,
    };

    fn get(&mut self, module: Module, instance: Instance) -> Option<&mut dyn Application> {
        match module {
            NOTE => Some(self.notes.get(instance)?),
            Module::CARD_MANAGER => Some(self.domains.get(instance)?),
            _ => None,
        }
    }

    fn release(&mut self, module: Module, instance: Instance) {
        match module {
            NOTE => self.notes.release(instance),
            Module::CARD_MANAGER => self.domains.release(instance),
            _ => {}
        }
    }
}

pub(crate) type Card = SecureElement<On<Set, SeededRng, 2>>;

pub(crate) fn two() -> Profile {
    Profile {
        pairing: Pairing::all_to(ContainerId::ESE)
            .with(Protocol::SpiEse, Row::all(ContainerId::new(2).unwrap())),
        ..profile()
    }
}

/// The keys of a domain: each byte names it.
pub(crate) fn keys_of(first: u8) -> KeySet {
    let key = |n: u8| key(&[first << 4 | n; 16]);
    KeySet {
        enc: key(1),
        mac: key(2),
        dek: key(3),
    }
}

/// The first container has a Note, the second none.
pub(crate) fn made() -> RamFlash {
    made_of(&two(), false)
}

/// As the profile says, with a Note in the second container or without.
pub(crate) fn made_of(profile: &Profile, in_both: bool) -> RamFlash {
    let (first, second, k_aut) = (keys_of(1), keys_of(2), key(&[0xA0; 16]));
    let note = [FactoryApplication {
        aid: Aid::try_from(&bytes(FIRST)[..]).unwrap(),
        load_file: Aid::try_from(&bytes(FILE)[1..]).unwrap(),
        module: NOTE,
        records: &[],
    }];
    let personalisations = [
        Personalisation {
            applications: &note,
            ..personalisation(0x30, &first, &k_aut)
        },
        Personalisation {
            applications: if in_both { &note } else { &[] },
            ..personalisation(0x30, &second, &k_aut)
        },
    ];
    Card::made_all(
        RamFlash::strict(PAGE, 16),
        SeededRng(1),
        profile,
        &personalisations.each_ref(),
    )
    .unwrap()
    .into_flash()
}

pub(crate) fn boot(flash: RamFlash) -> Card {
    Card::booted(flash, SeededRng(2), &two()).unwrap()
}

pub(crate) fn bytes(hex: &str) -> Vec<u8> {
    let digits: String = hex.split_whitespace().collect();
    hex::decode(digits).unwrap()
}

/// A field of INSTALL, or a data object without its tag.
pub(crate) fn lv(hex: &str) -> String {
    format!("{:02X}{hex}", bytes(hex).len())
}

pub(crate) fn command(header: &str, data: &str) -> Vec<u8> {
    [bytes(header), bytes(&lv(data))].concat()
}

pub(crate) fn install_note(aid: &str, parameters: &str) -> Vec<u8> {
    let parameters = lv(&format!("C9{}", lv(parameters)));
    command(
        "80E60C00",
        &format!("{FILE} {MODULE} {} 00 {parameters} 00", lv(aid)),
    )
}

pub(crate) fn install_domain(aid: &str) -> Vec<u8> {
    command("80E60C00", &format!("{SD_FILE} {} 0180 00 00", lv(aid)))
}

pub(crate) fn extradite(aid: &str, to: &str) -> Vec<u8> {
    command("80E61000", &format!("{} 00 {} 00 00 00", lv(to), lv(aid)))
}

pub(crate) fn delete(aid: &str) -> Vec<u8> {
    command("80E40000", &format!("4F{}", lv(aid)))
}

pub(crate) fn lock(aid: &str) -> Vec<u8> {
    command("80F04080", aid)
}

pub(crate) fn unlock(aid: &str) -> Vec<u8> {
    command("80F04000", aid)
}

pub(crate) fn show(aid: &str) -> Vec<u8> {
    command("80F24002", &format!("4F{}", lv(aid)))
}

pub(crate) fn said(card: &mut Card, interface: Interface, capdu: &[u8]) -> Vec<u8> {
    crate::common::send_on(card, interface, capdu)
}

pub(crate) fn select_on(card: &mut Card, (interface, channel): (Interface, u8), aid: &str) -> u16 {
    let capdu = command(&format!("{channel:02X}A40400"), aid);
    sw(&said(card, interface, &capdu))
}

pub(crate) fn select(card: &mut Card, aid: &str) -> u16 {
    select_on(card, (CONTACT, 0), aid)
}

pub(crate) fn try_open(
    card: &mut Card,
    (interface, channel): (Interface, u8),
    keys: &KeySet,
) -> Result<Host, u16> {
    Host::open_on(
        card,
        interface,
        channel,
        0,
        keys,
        SecurityLevel::FULL,
        MacMode::S8,
    )
    .map_err(|sw| sw.0)
}

/// The issuer security domain of the first container, on the contacts.
pub(crate) fn issuer(card: &mut Card) -> Host {
    assert_eq!(select(card, "A000000151000000"), 0x9000);
    try_open(card, (CONTACT, 0), &keys_of(1)).unwrap()
}

#[track_caller]
pub(crate) fn ok(host: &mut Host, card: &mut Card, capdu: &[u8]) {
    assert_eq!(sw(&host.send(card, capdu)), 0x9000, "{capdu:02X?}");
}

/// All that both issuer security domains show of their containers.
pub(crate) fn shown(card: &mut Card) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (interface, keys) in [(GATE, 1), (SPI, 2)] {
        select_on(card, (interface, 0), "A000000151000000");
        let mut host = try_open(card, (interface, 0), &keys_of(keys)).unwrap();
        all.extend(
            ["80F28002024F00", "80F24002024F00", "80F21002024F00"].map(|c| host.send(card, &bytes(c))),
        );
    }
    card.reset(GATE);
    card.reset(SPI);
    all
}

pub(crate) fn holds(card: &Card, hex: &str) -> bool {
    let wanted = bytes(hex);
    card.flash()
        .image()
        .windows(wanted.len())
        .any(|bytes| bytes == wanted)
}
