//! Any bytes of a server and any answers of an SE: the bridge says commands and records of the lengths that it may, and ends when the connection does.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sekisho_bridge::{Bridge, Buffers, Correspondence, RECORD_MAX, Row, Settings, Step, Why};

const TABLE: [Row; 2] = [Row { handshake_type: 1, ins: 0 }, Row { handshake_type: 2, ins: 2 }];

fuzz_target!(|data: &[u8]| {
    let Some((&[how, server], rest)) = data.split_first_chunk() else { return };
    let (server, answers) = rest.split_at(rest.len().min(usize::from(server) * 8));
    let table = if how & 1 == 0 { Correspondence::IDENTITY } else { Correspondence::table(&TABLE).unwrap() };
    let command_data = 8 + u16::from(how >> 2);
    let (mut record, mut answer, mut command) = (vec![0; Buffers::RECORD], vec![0; 600], vec![0; 90]);
    let buffers = Buffers { record: &mut record, answer: &mut answer, command: &mut command };
    let settings = Settings { channel: how >> 1 & 1, table, command_data };
    let mut bridge = Bridge::new(settings, buffers).unwrap();
    bridge.open(u16::from(how), None);
    let mut given = false;
    // An answer each: its length, and its bytes; 9000 when there are no more.
    let mut answers = answers;
    for _ in 0..4000 {
        match bridge.step() {
            Step::Command(command) => {
                assert!(command.len() >= 5 && command.len() <= usize::from(command_data) + Buffers::COMMAND);
                let len = answers.first().map_or(0, |len| usize::from(*len));
                let (now, later) = answers.split_at(answers.len().min(1 + len));
                answers = later;
                bridge.answered(now.get(1..).unwrap_or(&[0x90, 0]));
            }
            Step::Send(record) => assert!(record.header().len() + record.body.len() <= 5 + RECORD_MAX),
            Step::Receive if given => bridge.close(Why::Disconnected),
            Step::Receive => {
                given = true;
                bridge.space()[..server.len()].copy_from_slice(server);
                bridge.received(server.len());
            }
            Step::Over(_) => return,
        }
    }
    panic!("it goes on");
});
