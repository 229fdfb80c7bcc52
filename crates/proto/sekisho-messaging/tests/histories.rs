//! Long random histories over a bad line, for every schedule, with refreshes.

use crate::common;
use common::*;
use proptest::prelude::*;
use sekisho_apdu::{CApdu, StatusWord};
use sekisho_keys::AesKey;
use sekisho_messaging::EphemeralKey;
use sekisho_messaging::SmError;
use sekisho_messaging::card::Received;
use sekisho_messaging::reader::ReaderMessaging;
use sekisho_messaging::schedule::{Ratchet, Schedule, ScheduleError, Selector};
use sekisho_messaging::setup::{INS_REFRESH, refresh_command, refresh_secret};

/// What the line does with a message and its answer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    LoseCommand,
    LoseResponse,
    RepeatCommand,
    DamageResponse,
    OldResponse,
    DamageCommand,
    OldCommand,
    PlainCommand,
}

fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let fault = prop_oneof![
        6 => Just(Fault::None),
        2 => Just(Fault::LoseCommand),
        2 => Just(Fault::LoseResponse),
        2 => Just(Fault::RepeatCommand),
        2 => Just(Fault::DamageResponse),
        2 => Just(Fault::OldResponse),
    ];
    prop::collection::vec(fault, 1..60)
}

struct Line {
    reader: ReaderMessaging<Schedule>,
    card: Card<Schedule>,
    rng: TestRng,
    /// Times the card carried something out.
    executed: u32,
    old_command: Vec<u8>,
    old_response: Vec<u8>,
}

impl Line {
    fn new((reader, card): (Schedule, Schedule), seed: u64) -> Self {
        let (reader, card) = ends((reader, card));
        Self {
            reader,
            card,
            rng: TestRng::new(seed),
            executed: 0,
            old_command: vec![0x0C, 0xB0, 0, 0],
            old_response: vec![0x90, 0],
        }
    }

    /// The card's side: carry out, answer the data turned round; refresh when asked to.
    fn card(&mut self, command: &[u8]) -> Result<Vec<u8>, SmError> {
        let mut plain = [0; 300];
        let (ins, mut data) = match self.card.receive(command, &mut plain)? {
            Received::Again(answer) => return Ok(answer.to_vec()),
            Received::Command(command) => (command.ins, command.data.to_vec()),
        };
        self.executed += 1;
        if ins == INS_REFRESH {
            let own = EphemeralKey::generate(&mut self.rng).unwrap();
            let card_key = own.public_key();
            self.card
                .refresh(&*refresh_secret(&mkey(), own, &data, &card_key).unwrap())?;
            data = card_key.to_vec();
        } else {
            data.reverse();
        }
        Ok(self.card.answer(&data, StatusWord::NO_ERROR)?.to_vec())
    }

    /// One exchange with one fault in it, then as often without as it takes. The answer's data.
    fn exchange(
        &mut self,
        command: &CApdu<'_>,
        selector: Selector,
        fault: Fault,
    ) -> Result<Vec<u8>, SmError> {
        let mut out = [0; 300];
        let bytes = self.reader.protect(command, selector, &mut out)?.to_vec();
        let executed = self.executed;
        let mut response = None;
        if fault != Fault::LoseCommand {
            response = Some(self.card(&bytes)?);
        }
        match fault {
            Fault::LoseResponse => response = None,
            Fault::RepeatCommand => assert_eq!(Some(self.card(&bytes)?), response),
            Fault::DamageResponse => {
                let bad = response.as_mut().unwrap();
                let at = usize::try_from(self.rng.below(bad.len() as u64)).unwrap();
                bad[at] ^= 1 << self.rng.below(8);
            }
            Fault::OldResponse => response = Some(self.old_response.clone()),
            _ => {}
        }
        let mut plain = [0; 300];
        for _ in 0..2 {
            let Some(got) = response.take() else {
                response = Some(self.card(&bytes)?);
                continue;
            };
            if let Ok(answer) = self.reader.receive(&got, &mut plain) {
                assert_eq!(
                    self.executed,
                    executed + 1,
                    "carried out once, whatever the line did"
                );
                (self.old_command, self.old_response) = (bytes, got);
                return Ok(answer.data.to_vec());
            }
            response = Some(self.card(&bytes)?);
        }
        let answer = self.reader.receive(&response.unwrap(), &mut plain)?.data.to_vec();
        assert_eq!(self.executed, executed + 1);
        Ok(answer)
    }

    fn refresh(&mut self, fault: Fault) -> Result<(), SmError> {
        let own = EphemeralKey::generate(&mut self.rng).unwrap();
        let reader_key = own.public_key();
        let card_key = self.exchange(&refresh_command(&reader_key), Selector::NONE, fault)?;
        self.reader
            .refresh(&*refresh_secret(&mkey(), own, &reader_key, &card_key).unwrap())
    }

    fn same_keys(&self) -> bool {
        state_of(|sink| self.card.expose(sink)).starts_with(&state_of(|sink| self.reader.expose(sink)))
    }
}

fn mkey() -> AesKey {
    AesKey::new(&named("MKEY")).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn a_bad_line_never_breaks_the_step(faults in faults(), kind in 0..5_usize, lane in 0..2_usize, seed: u64) {
        let mut line = Line::new(pair(KINDS[kind], LANES[lane]), seed);
        for fault in faults {
            let selector = line.reader.propose(&mut line.rng);
            let data = seed.to_be_bytes();
            let command = CApdu::new(sekisho_apdu::Cla::ISO, 0xB0, 0, 0).with_data(&data);
            match line.exchange(&command, selector, fault) {
                Ok(answer) => prop_assert!(answer.iter().eq(data.iter().rev())),
                Err(error) => {
                    prop_assert_eq!(error, SmError::Schedule(ScheduleError::Exhausted));
                    prop_assert!(kind != 0, "the ratchet has no end");
                    return Ok(());
                }
            }
            prop_assert!(line.same_keys());
        }
    }

    #[test]
    fn the_ratchet_refreshes_over_a_bad_line(faults in faults(), every in 1..5_u16, long in 0..3_usize, seed: u64) {
        let make = || Schedule::Ratchet(Ratchet::new(
            AesKey::new(&[7; 32][..[16, 24, 32][long]]).unwrap(), LANES[usize::from(every % 2)], every,
        ));
        let mut line = Line::new((make(), make()), seed);
        for fault in faults {
            if line.reader.refresh_due() {
                line.refresh(fault).unwrap();
                prop_assert!(!line.reader.refresh_due());
            } else {
                let command = CApdu::new(sekisho_apdu::Cla::ISO, 0xB0, 0, 0);
                line.exchange(&command, Selector::NONE, fault).unwrap();
            }
            prop_assert!(line.same_keys());
        }
    }

    #[test]
    fn an_attack_closes_the_card_and_nothing_opens_it(
        before in 0..3_u32, kind in 0..5_usize, lane in 0..2_usize, at in 0..1000_u64, seed: u64,
        fault in prop_oneof![Just(Fault::DamageCommand), Just(Fault::OldCommand), Just(Fault::PlainCommand)],
    ) {
        let mut line = Line::new(pair(KINDS[kind], LANES[lane]), seed);
        let command = CApdu::new(sekisho_apdu::Cla::ISO, 0xD6, 0, 0).with_data(&[1, 2, 3]);
        let mut first = None;
        for _ in 0..before {
            let selector = line.reader.propose(&mut line.rng);
            line.exchange(&command, selector, Fault::None).unwrap();
            first.get_or_insert(line.old_command.clone());
        }
        let selector = line.reader.propose(&mut line.rng);
        let mut out = [0; 300];
        let good = match line.reader.protect(&command, selector, &mut out) {
            Ok(bytes) => bytes.to_vec(),
            Err(_) => return Ok(()),
        };
        let mut bad = good.clone();
        match fault {
            Fault::OldCommand if before >= 2 => bad = first.unwrap(),
            Fault::PlainCommand => bad = vec![0x00, 0xB0, 0, 0, 0],
            _ => {
                let bits = (bad.len() as u64 - 1) * 8;
                bad[usize::try_from(at % bits / 8).unwrap()] ^= 1 << (at % 8);
            }
        }
        let executed = line.executed;
        line.card(&bad).unwrap_err();
        prop_assert!(!line.card.is_open());
        prop_assert_eq!(line.card(&good).unwrap_err(), SmError::Closed);
        prop_assert_eq!(line.executed, executed);
        let left = state_of(|sink| line.card.expose(sink));
        prop_assert!(left.iter().all(|byte| *byte == 0), "a closed card holds nothing");
    }
}
