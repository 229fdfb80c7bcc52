//! Bulk of applications, in the area beside the store, with a native stand-in that keeps some: whole or not there, at whichever flash operation the power is cut; its owner's alone; wiped when it goes.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)] // test support

use crate::common;

use std::collections::BTreeMap;

use common::ByValue as _;
use common::{On, SeededRng, initial_keys, key, personalisation, sw};
use sekisho_apdu::{Aid, CApdu, StatusWord, Writer};
use sekisho_applets::CardManager;
use sekisho_keys::sha256;
use sekisho_nvm::area::Writing;
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{
    Application, Applications, ContainerId, Context, FactoryApplication, Instance, Interface, Module, Next,
    Outcome, Personalisation, Pool, Profile, Refusal, SecureElement, State,
};

const FIRST: &[u8] = b"\xF0TEST\x01";
const SECOND: &[u8] = b"\xF0TEST\x02";
const KEEPER: Module = Module(0x72);

/// BEGIN: the data is the length.
const BEGIN: u8 = 0x10;
/// The next bytes.
const PIECE: u8 = 0x12;
/// SEAL: the data is the digest. P1 01: and fail; P2 01: in the place of what there is.
const SEAL: u8 = 0x14;
/// READ: P1 the number, FF that which it keeps; the data is offset and length.
const READ: u8 = 0x16;
/// REMOVE: P1 as READ; P2 01: and fail.
const REMOVE: u8 = 0x18;
const GIVE_UP: u8 = 0x1A;
/// The bulk where it stands, or nothing where it is not mapped.
const MAPPED: u8 = 0x1C;

const FAILS: Refusal = Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND);

/// It keeps the number of its bulk in record 0.
#[derive(Debug)]
struct Keeper(Option<Writing>);

impl State for Keeper {
    const NEW: Self = Self(None);
}

impl Keeper {
    fn seal(&mut self, context: &mut Context<'_>, capdu: &CApdu<'_>) -> Result<(), Refusal> {
        let writing = self
            .0
            .as_ref()
            .ok_or(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED))?;
        let digest = capdu.data.try_into().unwrap();
        if capdu.p2 == 1 {
            let old = number(context, 0xFF)?;
            context.remove_bulk(old)?;
        }
        let number = context.seal_bulk(writing, digest)?;
        // Not before the command has succeeded.
        assert!(context.bulk(number).is_err());
        context.put(0, 0, &[number])?;
        if capdu.p1 == 1 { Err(FAILS) } else { Ok(()) }
    }
}

fn number(context: &mut Context<'_>, asked: u8) -> Result<u8, Refusal> {
    let mut kept = [asked];
    if asked == 0xFF {
        let found = context.get(0, 0, &mut kept)?;
        found.ok_or(Refusal(StatusWord::FILE_NOT_FOUND))?;
    }
    Ok(kept[0])
}

impl Application for Keeper {
    fn select(&mut self, _: &mut Context<'_>, _: &mut Writer<'_>) -> Outcome {
        Ok(StatusWord::NO_ERROR)
    }

    fn process(
        &mut self,
        context: &mut Context<'_>,
        capdu: &CApdu<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        let conditions = Refusal(StatusWord::CONDITIONS_NOT_SATISFIED);
        match capdu.ins {
            BEGIN => {
                let length = u32::from_be_bytes(capdu.data.try_into().unwrap());
                self.0 = Some(context.begin_bulk(length)?);
            }
            PIECE => context.write_bulk(self.0.as_mut().ok_or(conditions)?, capdu.data)?,
            SEAL => self.seal(context, capdu)?,
            READ => {
                let number = number(context, capdu.p1)?;
                let [a, b, c, d, len] = *capdu.data else { panic!() };
                let mut bytes = vec![0; usize::from(len)];
                context.read_bulk(number, u32::from_be_bytes([a, b, c, d]), &mut bytes)?;
                out.bytes(&bytes)?;
            }
            REMOVE => {
                let number = number(context, capdu.p1)?;
                context.remove_bulk(number)?;
                assert_eq!(
                    context.bulk(number),
                    Err(conditions),
                    "it does not find it any more"
                );
                context.remove(0, 0)?;
                if capdu.p2 == 1 {
                    return Err(FAILS);
                }
            }
            GIVE_UP => context.give_bulk_up(self.0.as_ref().ok_or(conditions)?),
            MAPPED => {
                let number = number(context, 0xFF)?;
                out.bytes(context.mapped_bulk(number)?.unwrap_or_default())?;
            }
            _ => return Err(Refusal(StatusWord::INS_NOT_SUPPORTED)),
        }
        Ok(Next::Done(StatusWord::NO_ERROR))
    }
}

struct Set {
    card_manager: CardManager,
    keepers: Pool<Keeper, 2>,
}

impl Applications for Set {
    const NEW: Self = Self {
        card_manager: CardManager::NEW,
        keepers: Pool::NEW,
    };

    fn get(&mut self, module: Module, instance: Instance) -> Option<&mut dyn Application> {
        match module {
            Module::CARD_MANAGER => Some(&mut self.card_manager),
            KEEPER => Some(self.keepers.get(instance)?),
            _ => None,
        }
    }

    fn release(&mut self, module: Module, instance: Instance) {
        if module == KEEPER {
            self.keepers.release(instance);
        }
    }
}

type Card = SecureElement<On<Set>>;

const PAGE: usize = 1024;
/// Pages before the area.
const BEFORE: usize = 12;
const AREA: usize = 8;

fn profile() -> Profile {
    Profile {
        store_bytes: 8 * PAGE,
        slot_bytes: 2 * PAGE,
        area_bytes: AREA * PAGE,
        area_quota: 5 * PAGE,
        ..Profile::default()
    }
}

fn application(aid: &[u8]) -> FactoryApplication<'_> {
    FactoryApplication {
        aid: Aid::try_from(aid).unwrap(),
        load_file: Aid::try_from(&[aid, b"\x70"].concat()[..]).unwrap(),
        module: KEEPER,
        records: &[],
    }
}

/// With two keepers.
fn card_of(profile: &Profile) -> Card {
    let applications = [application(FIRST), application(SECOND)];
    let (keys, k_aut) = (initial_keys(), key(&[0xA0; 16]));
    let personalisation = Personalisation {
        applications: &applications,
        ..personalisation(0xFF, &keys, &k_aut)
    };
    let flash = RamFlash::strict(PAGE, BEFORE + AREA);
    Card::made(flash, SeededRng(1), profile, &personalisation).unwrap()
}

fn card() -> Card {
    card_of(&profile())
}

fn boot(card: Card) -> Card {
    Card::booted(card.into_flash(), SeededRng(2), &profile()).unwrap()
}

fn send(card: &mut Card, ins: u8, p1: u8, p2: u8, data: &[u8]) -> Vec<u8> {
    let len = u8::try_from(data.len()).unwrap();
    let body: &[&[u8]] = if data.is_empty() { &[] } else { &[&[len], data] };
    let head = [0x80, ins, p1, p2];
    crate::common::send_on(
        card,
        Interface::Iso7816Contact,
        &[&head[..], &body.concat(), &[0]].concat(),
    )
}

fn select(card: &mut Card, aid: &[u8]) -> u16 {
    let command = [&[0x00, 0xA4, 0x04, 0x00, 0x06], aid].concat();
    sw(&crate::common::send_on(card, Interface::Iso7816Contact, &command))
}

/// Bytes that are nowhere else: 24 bits of a counter and a mark.
fn content(mark: u8, len: usize) -> Vec<u8> {
    let words = (1_u32..).flat_map(|n| (n << 8 | u32::from(mark)).to_be_bytes());
    words.take(len).collect()
}

/// BEGIN and all pieces; the status word of the first that is refused.
fn write(card: &mut Card, bytes: &[u8]) -> u16 {
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    let begun = sw(&send(card, BEGIN, 0, 0, &length));
    let mut pieces = bytes.chunks(250).map(|piece| sw(&send(card, PIECE, 0, 0, piece)));
    if begun == 0x9000 {
        pieces.find(|sw| *sw != 0x9000).unwrap_or(0x9000)
    } else {
        begun
    }
}

fn load(card: &mut Card, bytes: &[u8], fails: u8, replaces: u8) -> u16 {
    match write(card, bytes) {
        0x9000 => sw(&send(card, SEAL, fails, replaces, &sha256(&[bytes]))),
        refused => refused,
    }
}

/// What a keeper has, as it reads it.
fn kept(card: &mut Card, aid: &[u8], len: usize) -> Option<Vec<u8>> {
    assert_eq!(select(card, aid), 0x9000);
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let part = (len - bytes.len()).min(200);
        let offset = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        let asked = [&offset[..], &[u8::try_from(part).unwrap()]].concat();
        let answer = send(card, READ, 0xFF, 0, &asked);
        if sw(&answer) == 0x6A82 {
            return None;
        }
        assert_eq!(sw(&answer), 0x9000, "{answer:02X?}");
        bytes.extend(&answer[..part]);
    }
    Some(bytes)
}

/// How many words of a content stand in the flash.
fn words_of(mark: u8, flash: &RamFlash) -> usize {
    let is_its = |word: &&[u8; 4]| word[3] == mark && word[0] == 0 && word[..3] != [0; 3] && word[1] < 0x10;
    flash.image()[BEFORE * PAGE..]
        .as_chunks::<4>()
        .0
        .iter()
        .filter(is_its)
        .count()
}

#[test]
fn it_is_there_when_it_is_sealed_and_its_owners_alone() {
    let mut card = card();
    let bytes = content(0xA1, 3 * PAGE + 7);
    select(&mut card, FIRST);
    assert_eq!(write(&mut card, &bytes), 0x9000);
    assert_eq!(
        sw(&send(&mut card, SEAL, 0, 0, &[7; 32])),
        0x6A80,
        "another digest"
    );
    assert_eq!(
        sw(&send(&mut card, PIECE, 0, 0, &[1])),
        0x6A80,
        "longer than it was begun for"
    );
    assert_eq!(kept(&mut card, FIRST, 1), None);
    assert_eq!(sw(&send(&mut card, SEAL, 0, 0, &sha256(&[&bytes]))), 0x9000);
    assert_eq!(
        sw(&send(&mut card, SEAL, 0, 0, &sha256(&[&bytes]))),
        0x6985,
        "it is sealed"
    );
    for _ in 0..2 {
        assert_eq!(kept(&mut card, FIRST, bytes.len()), Some(bytes.clone()));
        let end = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        assert_eq!(
            sw(&send(&mut card, READ, 0xFF, 0, &[&end[..], &[1]].concat())),
            0x6A80
        );
        // The other instance of the same code, with every number there is.
        assert_eq!(kept(&mut card, SECOND, 1), None);
        for number in 0..=0xFE {
            assert_eq!(sw(&send(&mut card, READ, number, 0, &[0, 0, 0, 0, 1])), 0x6985);
            assert_eq!(sw(&send(&mut card, REMOVE, number, 0, &[])), 0x6985);
        }
        card = boot(card);
    }
    // Its owner removes it; refused, it stays.
    select(&mut card, FIRST);
    assert_eq!(sw(&send(&mut card, REMOVE, 0xFF, 1, &[])), 0x6A88);
    assert_eq!(kept(&mut card, FIRST, bytes.len()), Some(bytes.clone()));
    assert!(words_of(0xA1, card.flash()) > 700);
    assert_eq!(sw(&send(&mut card, REMOVE, 0xFF, 0, &[])), 0x9000);
    assert_eq!(words_of(0xA1, card.flash()), 0, "wiped before the answer");
    assert_eq!(kept(&mut card, FIRST, 1), None);
    assert_eq!(kept(&mut boot(card), FIRST, 1), None);
}

#[test]
fn what_is_refused_leaves_nothing() {
    let mut card = card();
    let bytes = content(0xB1, 2 * PAGE);
    select(&mut card, FIRST);
    assert_eq!(
        load(&mut card, &bytes, 1, 0),
        0x6A88,
        "sealed, and the command refused"
    );
    assert_eq!(words_of(0xB1, card.flash()), 0);
    assert_eq!(sw(&send(&mut card, PIECE, 0, 0, &[1])), 0x6985);
    // Given up; begun anew; forgotten with the power.
    write(&mut card, &bytes);
    assert_eq!(sw(&send(&mut card, GIVE_UP, 0, 0, &[])), 0x9000);
    assert_eq!(words_of(0xB1, card.flash()), 0);
    write(&mut card, &bytes);
    assert_eq!(sw(&send(&mut card, BEGIN, 0, 0, &[0, 0, 0, 9])), 0x9000);
    assert_eq!(words_of(0xB1, card.flash()), 0);
    write(&mut card, &bytes);
    assert!(words_of(0xB1, card.flash()) > 400);
    let mut card = boot(card);
    assert_eq!(words_of(0xB1, card.flash()), 0);
    assert_eq!(kept(&mut card, FIRST, 1), None);
    // One replaces the other, in the one transaction, or not.
    let after = content(0xB2, PAGE);
    assert_eq!(load(&mut card, &bytes, 0, 0), 0x9000);
    assert_eq!(load(&mut card, &after, 1, 1), 0x6A88);
    assert_eq!(kept(&mut card, FIRST, bytes.len()), Some(bytes.clone()));
    assert_eq!(
        (words_of(0xB1, card.flash()) > 400, words_of(0xB2, card.flash())),
        (true, 0)
    );
    assert_eq!(load(&mut card, &after, 0, 1), 0x9000);
    assert_eq!(kept(&mut card, FIRST, PAGE), Some(after.clone()));
    assert_eq!(
        (words_of(0xB1, card.flash()), words_of(0xB2, card.flash()) > 200),
        (0, true)
    );
    // Where it stands: this flash maps what is inside a page.
    let mapped = send(&mut card, MAPPED, 0, 0, &[]);
    assert_eq!(mapped[..mapped.len() - 2], after[..mapped.len() - 2]);
    assert!(!mapped.is_empty());
}

#[test]
fn quota_and_room() {
    let mut card = card();
    let begin = |card: &mut Card, pages: usize| {
        let length = u32::try_from(pages * PAGE).unwrap().to_be_bytes();
        sw(&send(card, BEGIN, 0, 0, &length))
    };
    select(&mut card, FIRST);
    assert_eq!(begin(&mut card, 0), 0x6A80);
    assert_eq!(begin(&mut card, 6), 0x6A84, "five is what one may have");
    assert_eq!(begin(&mut card, 5), 0x9000);
    select(&mut card, SECOND);
    assert_eq!(begin(&mut card, 4), 0x6A84, "three are left");
    assert_eq!(begin(&mut card, 3), 0x9000);
    // A product without an area, as all are that have been delivered.
    let none = Profile {
        area_bytes: 0,
        ..profile()
    };
    let mut card = card_of(&none);
    select(&mut card, FIRST);
    assert_eq!(begin(&mut card, 1), 0x6A84);
    assert_eq!(sw(&send(&mut card, READ, 0, 0, &[0, 0, 0, 0, 1])), 0x6985);
    // The same flash, in a product that has one.
    let mut card = boot(card);
    assert_eq!(
        load(&mut card, &content(0xC1, 10), 0, 0),
        0x6D00,
        "the issuer security domain"
    );
    select(&mut card, FIRST);
    assert_eq!(load(&mut card, &content(0xC1, 10), 0, 0), 0x9000);
    assert_eq!(Profile::default().area_bytes, 0);
}

/// Whether what the page says of wear is so: a command of at most a page erases at most one.
#[test]
fn one_page_is_erased_by_a_command_at_most() {
    let mut card = card();
    let bytes = content(0xD1, 5 * PAGE);
    select(&mut card, FIRST);
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    send(&mut card, BEGIN, 0, 0, &length);
    let erased = |card: &Card| card.flash().erasures()[BEFORE..].iter().sum::<u32>();
    let mut seen = Vec::new();
    for piece in bytes.chunks(253) {
        let before = erased(&card);
        assert_eq!(sw(&send(&mut card, PIECE, 0, 0, piece)), 0x9000);
        seen.push(erased(&card) - before);
    }
    assert_eq!(
        (seen.iter().max(), seen.iter().sum::<u32>()),
        (Some(&1), 5),
        "{seen:?}"
    );
    let before = erased(&card);
    assert_eq!(sw(&send(&mut card, SEAL, 0, 0, &sha256(&[&bytes]))), 0x9000);
    assert_eq!(erased(&card), before);
}

/// Runs `work` with the power cut at each flash operation, and again while the SE recovers: which of the first keeper's contents it finds afterwards, and with each that nothing of the other is in the flash. `E1` before, `E2` after, 0 for none.
fn cut_everywhere(name: &str, before: &Card, wanted: [u8; 2], work: impl Fn(&mut Card) -> bool) {
    let mut seen = BTreeMap::<(bool, u8), usize>::new();
    let lens = [2 * PAGE + 50, PAGE + 9];
    for seed in 0..8 {
        for cut in 0.. {
            let mut flash = before.flash().clone();
            flash.cut_after(cut, 1000 * seed + cut);
            let Ok(mut card) = Card::booted(flash, SeededRng(3), &profile()) else {
                continue;
            };
            let done = work(&mut card);
            let was_cut = card.flash().is_off();
            let mut flash = card.into_flash();
            if was_cut {
                for again in [cut % 7, cut % 3] {
                    flash.power_on();
                    flash.cut_after(again, seed + cut);
                    flash = match Card::booted(flash, SeededRng(4), &profile()) {
                        Ok(card) => card.into_flash(),
                        Err(failure) => failure.flash,
                    };
                }
            }
            flash.power_on();
            let mut card = Card::booted(flash, SeededRng(4), &profile()).unwrap();
            let there = if select(&mut card, FIRST) == 0x9000 {
                let first = send(&mut card, READ, 0xFF, 0, &[0, 0, 0, 0, 4]);
                if sw(&first) == 0x9000 { first[3] } else { 0 }
            } else {
                0
            };
            for (mark, len) in [0xE1, 0xE2].into_iter().zip(lens) {
                let words = words_of(mark, card.flash());
                if mark == there {
                    assert_eq!(kept(&mut card, FIRST, len), Some(content(mark, len)));
                    assert_eq!(words, len / 4);
                } else {
                    assert_eq!(
                        words, 0,
                        "{name}, cut {cut}, seed {seed}: {mark:02X} beside {there:02X}"
                    );
                }
            }
            assert_eq!(kept(&mut card, SECOND, 30), Some(content(0xE7, 30)));
            *seen.entry((done, there)).or_default() += 1;
            if !was_cut {
                break;
            }
        }
    }
    println!("{name}: {seen:02X?}");
    let [before, after] = wanted;
    let mut outcomes = [(false, before), (false, after), (true, after)];
    outcomes.sort_unstable();
    assert_eq!(seen.keys().copied().collect::<Vec<_>>(), outcomes, "{name}");
}

#[test]
fn power_cut_at_every_operation() {
    let (first, second) = (content(0xE1, 2 * PAGE + 50), content(0xE2, PAGE + 9));
    let mut card = card();
    select(&mut card, SECOND);
    assert_eq!(load(&mut card, &content(0xE7, 30), 0, 0), 0x9000);
    select(&mut card, FIRST);
    cut_everywhere("loading", &card, [0, 0xE1], |card| {
        select(card, FIRST);
        load(card, &first, 0, 0) == 0x9000
    });
    assert_eq!(load(&mut card, &first, 0, 0), 0x9000);
    cut_everywhere("replacing", &card, [0xE1, 0xE2], |card| {
        select(card, FIRST);
        load(card, &second, 0, 1) == 0x9000
    });
    cut_everywhere("removing", &card, [0xE1, 0], |card| {
        select(card, FIRST);
        sw(&send(card, REMOVE, 0xFF, 0, &[])) == 0x9000
    });
    let aid = Aid::try_from(FIRST).unwrap();
    cut_everywhere("deleting its owner", &card, [0xE1, 0], |card| {
        card.delete(ContainerId::ESE, &aid).is_ok()
    });
}

/// What an application kept goes with it, also what it had not finished; a successor in its place finds nothing, by any number.
#[test]
fn a_successor_finds_no_bulk() {
    let mut card = card();
    let aid = Aid::try_from(FIRST).unwrap();
    select(&mut card, FIRST);
    assert_eq!(load(&mut card, &content(0xF1, 1500), 0, 0), 0x9000);
    assert_eq!(write(&mut card, &content(0xF2, 1500)), 0x9000);
    card.delete(ContainerId::ESE, &aid).unwrap();
    assert_eq!(
        (words_of(0xF1, card.flash()), words_of(0xF2, card.flash())),
        (0, 0)
    );
    card.install(ContainerId::ESE, &application(FIRST)).unwrap();
    select(&mut card, FIRST);
    for number in 0..=0xFE {
        assert_eq!(sw(&send(&mut card, READ, number, 0, &[0, 0, 0, 0, 1])), 0x6985);
    }
    assert_eq!(sw(&send(&mut card, PIECE, 0, 0, &[1])), 0x6985);
    // All of its quota is there again.
    assert_eq!(load(&mut card, &content(0xF3, 5 * PAGE), 0, 0), 0x9000);
}
