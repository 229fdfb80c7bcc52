//! Broadcast mode: the way in, the way back, and every way that leads nowhere.

use crate::common;
use common::{Command, pair, read_response, respond, unwrap, wrap, written};
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
use sekisho_apdu::{CApdu, Cla};
use sekisho_keys::{AesKey, cbc_encrypt, ecb_block};
use sekisho_scp::card::{BroadcastChannel, BroadcastStart, SecureChannel};
use sekisho_scp::host::{BroadcastWriter, HostChannel};
use sekisho_scp::{ScpError, SecurityLevel};

const COUNTER: u32 = 1;
const CHAINING: [u8; 16] = [0xC7; 16];

#[allow(clippy::unwrap_used)]
fn key(byte: u8) -> AesKey {
    AesKey::new(&[byte; 16]).unwrap()
}

fn start() -> BroadcastStart {
    BroadcastStart {
        bk_enc: key(1),
        bk_mac: key(2),
        counter: COUNTER,
        chaining: CHAINING,
    }
}

/// P_SE: one command for each block, then CHANGE MODE back.
#[allow(clippy::unwrap_used)]
fn p_se(blocks: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut writer = BroadcastWriter::new(key(1), key(2), COUNTER, CHAINING);
    let mut commands = Vec::new();
    for (block, data) in (0u8..).zip(blocks) {
        commands.push(CApdu::new(Cla::GP, 0x3C, 0, block).with_data(data));
    }
    commands.push(CApdu::new(Cla::GP, 0x3A, 0, 0));
    commands
        .iter()
        .map(|command| written(|out| writer.wrap(command, out)).unwrap())
        .collect()
}

fn hear(card: &mut BroadcastChannel, bytes: &[u8]) -> Result<Vec<u8>, ScpError> {
    let mut buf = vec![0; bytes.len()];
    card.unwrap(&CApdu::parse(bytes)?, &mut buf)
        .map(|command| command.data.to_vec())
}

/// Both ends after CHANGE MODE and its answer, which is still the individual channel's.
#[allow(clippy::unwrap_used)]
fn entered(level: SecurityLevel) -> (BroadcastChannel, HostChannel) {
    let (mut card, mut host) = pair(16, 0x70, level);
    assert_eq!(exchange(&mut card, &mut host), Ok(()));
    (card.enter_broadcast(start()), host)
}

/// One command and its response on the individual channel.
fn exchange(card: &mut SecureChannel, host: &mut HostChannel) -> Result<(), ScpError> {
    let command = Command {
        header: [0x80, 0x3E, 1, 0],
        data: vec![5; 40],
        ne: Some(256),
    };
    assert_eq!(unwrap(card, &wrap(host, &command))?, command);
    let response = respond(card, &[6; 67], 0x9000);
    assert_eq!(read_response(host, &response)?, (vec![6; 67], 0x9000));
    Ok(())
}

#[test]
fn there_and_back_again() {
    for level in [
        SecurityLevel::C_DECRYPTION_C_MAC,
        SecurityLevel::C_DECRYPTION_C_MAC_R_MAC,
        SecurityLevel::FULL,
    ] {
        let (mut card, mut host) = entered(level);
        let blocks = [vec![1; 128], vec![2; 239], vec![3; 7]];
        for (bytes, block) in p_se(&blocks).iter().zip(blocks.iter().chain([&vec![]])) {
            assert_eq!(hear(&mut card, bytes).as_ref(), Ok(block));
        }
        // The individual channel is as it was: its next command carries on where the answer to CHANGE MODE left it.
        let mut card = card.return_to_saved();
        assert_eq!(exchange(&mut card, &mut host), Ok(()));
    }
}

/// The saved channel's own command is read between two of the broadcast's, and does not move the broadcast; anything else in its place ends both.
#[test]
#[allow(clippy::unwrap_used)]
fn leaving_by_a_command_of_the_saved_channel() {
    let leave = Command {
        header: [0x80, 0x3A, 0, 1],
        data: Vec::new(),
        ne: None,
    };
    let commands = p_se(&[vec![1; 20], vec![2; 20]]);
    for level in [SecurityLevel::C_DECRYPTION_C_MAC, SecurityLevel::FULL] {
        let (mut card, mut host) = entered(level);
        hear(&mut card, &commands[0]).unwrap();
        let before = card.checkpoint().unwrap();
        let bytes = wrap(&mut host, &leave);
        let mut buf = [0; 64];
        let read = card.unwrap_saved(&CApdu::parse(&bytes).unwrap(), &mut buf);
        assert_eq!(read.unwrap().p1p2(), 0x0001);
        assert_eq!(card.checkpoint().unwrap(), before);
        // Its answer is the individual channel's, which goes on.
        let mut card = card.return_to_saved();
        let answer = respond(&mut card, &[], 0x9000);
        assert_eq!(read_response(&mut host, &answer), Ok((vec![], 0x9000)));
        assert_eq!(exchange(&mut card, &mut host), Ok(()));

        let (mut card, mut host) = entered(level);
        let mut bytes = wrap(&mut host, &leave);
        *bytes.last_mut().unwrap() ^= 1;
        for bytes in [&bytes, &commands[0]] {
            let mut buf = [0; 256];
            let read = card.unwrap_saved(&CApdu::parse(bytes).unwrap(), &mut buf);
            assert!(read.is_err());
            assert_eq!(hear(&mut card, &commands[0]), Err(ScpError::Closed));
        }
        assert_eq!(card.sequence_counter(), 0x0102);
        assert!(card.return_to_saved().authenticated().is_none());
    }
}

#[test]
fn a_level_without_c_decryption_cannot_enter() {
    for level in [
        SecurityLevel::AUTHENTICATED,
        SecurityLevel::C_MAC,
        SecurityLevel::C_MAC_R_MAC,
    ] {
        let (card, _) = pair(16, 0x70, level);
        let mut card = card.enter_broadcast(start());
        assert_eq!(hear(&mut card, &p_se(&[vec![1]])[0]), Err(ScpError::Closed));
        assert!(card.return_to_saved().authenticated().is_none());
    }
}

/// The counter is a 16-byte number (broadcast update, 2.1): the command after that of FFFFFFFF has 00000001 00000000, at both ends.
#[test]
fn the_encryption_counter_goes_on_past_32_bits() {
    let blocks = [vec![0xA1; 20], vec![0xB2; 20], vec![0xC3; 20]];
    let mut writer = BroadcastWriter::new(key(1), key(2), u32::MAX, CHAINING);
    let (card, _) = pair(16, 0x70, SecurityLevel::FULL);
    let mut late = start();
    late.counter = u32::MAX;
    let mut card = card.enter_broadcast(late);
    for (counter, block) in (u128::from(u32::MAX)..).zip(&blocks) {
        let bytes =
            written(|out| writer.wrap(&CApdu::new(Cla::GP, 0x3C, 0, 0).with_data(block), out)).unwrap();
        let mut icv = counter.to_be_bytes();
        ecb_block(&key(1), &mut icv);
        let mut data = [&block[..], &[0x80], &[0; 11]].concat();
        cbc_encrypt(&key(1), &icv, &mut data).unwrap();
        assert_eq!(bytes[5..37], data, "counter {counter:X}");
        assert_eq!(hear(&mut card, &bytes).as_ref(), Ok(block));
    }
    assert_eq!(card.checkpoint().unwrap().counter, u64::from(u32::MAX) + 3);
}

#[test]
fn a_closed_channel_stays_closed() {
    let (mut card, _) = pair(16, 0x70, SecurityLevel::FULL);
    card.close();
    let mut card = card.enter_broadcast(start());
    assert_eq!(hear(&mut card, &p_se(&[vec![1]])[0]), Err(ScpError::Closed));
    assert_eq!(card.checkpoint(), Err(ScpError::Closed));
}

#[test]
fn the_individual_channels_own_command_is_no_broadcast_command() {
    let (mut card, mut host) = entered(SecurityLevel::FULL);
    let bytes = wrap(
        &mut host,
        &Command {
            header: [0x80, 0x3E, 1, 0],
            data: vec![5; 40],
            ne: Some(256),
        },
    );
    assert_eq!(hear(&mut card, &bytes), Err(ScpError::Mac));
    let mut card = card.return_to_saved();
    assert_eq!(
        unwrap(&mut card, &bytes),
        Err(ScpError::Closed),
        "the saved channel went with it"
    );
}

proptest! {
    #[test]
    fn a_torn_broadcast_goes_on_from_its_checkpoint(cut in 0usize..5, sizes in proptest::collection::vec(1usize..240, 5)) {
        let blocks: Vec<Vec<u8>> = sizes.iter().map(|size| vec![9; *size]).collect();
        let commands = p_se(&blocks);
        let (mut card, _) = entered(SecurityLevel::FULL);
        for (bytes, block) in commands.iter().zip(&blocks).take(cut) {
            prop_assert_eq!(&hear(&mut card, bytes).unwrap(), block);
        }
        let checkpoint = card.checkpoint().unwrap();
        drop(card);

        let (mut card, mut host) = entered(SecurityLevel::FULL);
        card.resume_at(&checkpoint);
        for (bytes, block) in commands.iter().zip(blocks.iter().chain([&vec![]])).skip(cut) {
            prop_assert_eq!(&hear(&mut card, bytes).unwrap(), block);
        }
        let mut card = card.return_to_saved();
        prop_assert_eq!(exchange(&mut card, &mut host), Ok(()));
    }

    #[test]
    fn any_flipped_bit_ends_both_channels(at in any::<proptest::sample::Index>(), block in 0usize..3) {
        let commands = p_se(&[vec![1; 128], vec![2; 100]]);
        let (mut card, mut host) = entered(SecurityLevel::FULL);
        for bytes in &commands[..block] {
            prop_assert!(hear(&mut card, bytes).is_ok());
        }
        let mut bytes = commands[block].clone();
        let bit = at.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        // The two bits of the logical channel are no part of the C-MAC (Amd D 6.2.4); a string that is no C-APDU never gets here.
        if bit > 1 && CApdu::parse(&bytes).is_ok() {
            prop_assert_eq!(hear(&mut card, &bytes), Err(ScpError::Mac));
            prop_assert_eq!(hear(&mut card, &commands[block]), Err(ScpError::Closed));
            let mut card = card.return_to_saved();
            prop_assert!(card.authenticated().is_none());
            prop_assert_eq!(exchange(&mut card, &mut host), Err(ScpError::Closed));
        }
    }

    #[test]
    fn blocks_come_in_their_order(first in 0usize..4, second in 0usize..4) {
        let commands = p_se(&[vec![1; 20], vec![2; 20], vec![3; 20]]);
        let (mut card, _) = entered(SecurityLevel::FULL);
        prop_assert_eq!(hear(&mut card, &commands[first]).is_ok(), first == 0);
        prop_assert_eq!(hear(&mut card, &commands[second]).is_ok(), first == 0 && second == 1);
    }
}
