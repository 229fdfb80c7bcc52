//! A secure element of a few commands, for tests of what carries them.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "helpers of tests are tests"
)]

use sekisho_apdu::CApdu;

/// What carries the commands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// Characters of T=0, which has GET RESPONSE itself and wants whole answers.
    Characters,
    /// Whole APDUs.
    Apdus,
}

pub struct Element {
    on: On,
    challenges: u64,
    /// What it ran, without Le.
    pub ran: Vec<Vec<u8>>,
}

impl Element {
    pub fn new(on: On) -> Self {
        Self {
            on,
            challenges: 0,
            ran: Vec::new(),
        }
    }

    /// SELECT answers as many bytes as P2 says, GET DATA as P1P2; READ BINARY at most as many, up to Ne; GET CHALLENGE counts; UPDATE BINARY and MANAGE CHANNEL do nothing.
    pub fn run(&mut self, command: &[u8]) -> Vec<u8> {
        let capdu = CApdu::parse(command).unwrap();
        self.ran.push([&command[..4], capdu.data].concat());
        let ne = capdu.ne.map(|ne| ne as usize);
        let available = usize::from(capdu.p1p2());
        let (data, sw): (Vec<u8>, [u8; 2]) = match capdu.ins {
            0xA4 => (counting(0xA4, usize::from(capdu.p2)), [0x90, 0x00]),
            0xCA => (counting(0xCA, available), [0x90, 0x00]),
            0xB0 => {
                let data = counting(0xB0, available.min(ne.unwrap_or(256)));
                let end = available < ne.unwrap_or(0);
                (data, if end { [0x62, 0x82] } else { [0x90, 0x00] })
            }
            0x84 => {
                self.challenges += 1;
                (self.challenges.to_be_bytes().to_vec(), [0x90, 0x00])
            }
            0xD6 | 0x70 => (Vec::new(), [0x90, 0x00]),
            0xE2 => (counting(0xE2, usize::from(capdu.p2)), [0x6A, 0x88]),
            _ => (Vec::new(), [0x6D, 0x00]),
        };
        let give = match self.on {
            On::Characters => data.len(),
            On::Apdus => ne.unwrap_or(0).min(data.len()),
        };
        let rest = data.len() - give;
        let sw = if rest > 0 {
            [0x61, u8::try_from(rest).unwrap_or(0)]
        } else {
            sw
        };
        [&data[..give], &sw].concat()
    }
}

fn counting(from: u8, n: usize) -> Vec<u8> {
    (0..n).map(|at| from.wrapping_add(at as u8)).collect()
}

/// Commands of each case, with Nc and Ne at the edges of what short and extended length fields say.
pub fn commands() -> Vec<Vec<u8>> {
    let mut commands = vec![
        vec![0, 0xD6, 0, 0],
        vec![0, 0xA4, 0, 9],
        vec![0, 0x70, 0x80, 1],
        vec![0, 0xEE, 0, 0],
        vec![0, 0xEE, 0, 0, 0],
        vec![0, 0xEE, 0, 0, 1, 2],
    ];
    let le = |ne: usize| if ne == 256 { 0 } else { ne as u8 };
    for (available, ne) in [
        (0, 4),
        (1, 1),
        (4, 4),
        (4, 256),
        (255, 255),
        (255, 256),
        (256, 256),
        (300, 16),
        (90, 91),
    ] {
        let [high, low] = u16::to_be_bytes(available);
        commands.push(vec![0, 0xB0, high, low, le(ne)]);
        commands.push(vec![0, 0xCA, high, low, le(ne)]);
        commands.push(vec![0, 0xB0, high, low, 0, 0, ne as u8 | u8::from(ne == 256)]);
    }
    commands.extend([
        vec![0, 0x84, 0, 0, 0],
        vec![0, 0x84, 0, 0, 8],
        vec![0, 0xB0, 0, 0, 0],
    ]);
    for (available, ne) in [
        (600_u16, 600_u16),
        (600, 0),
        (700, 300),
        (257, 257),
        (512, 512),
        (255, 300),
    ] {
        let [high, low] = available.to_be_bytes();
        commands.push([&[0, 0xCA, high, low, 0][..], &ne.to_be_bytes()].concat());
    }
    for nc in [1_usize, 2, 13, 254, 255, 256, 257, 300, 503, 505, 510, 900] {
        for (ins, answers) in [(0xD6, 0), (0xA4, 0), (0xA4, 1), (0xA4, 200), (0xE2, 7)] {
            for ne in [None, Some(0_u8), Some(20)] {
                let mut command = vec![0, ins, 0, answers];
                match u8::try_from(nc) {
                    Ok(nc) => command.push(nc),
                    Err(_) => command.extend([0, (nc >> 8) as u8, nc as u8]),
                }
                command.extend((0..nc).map(|at| at as u8));
                if nc > 255 {
                    command.extend(ne.map(|_| 0));
                }
                command.extend(ne);
                commands.push(command);
            }
        }
    }
    commands
}
