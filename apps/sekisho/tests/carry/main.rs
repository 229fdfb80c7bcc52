//! The agent between the HSM's authorisations and a real secure element, for both targets: a bulk in pieces, power cuts at every command and in the
//! flash, a line on which commands are dropped, repeated, swapped and changed (broadcast update, 2.1, 2.6, 3.1, 4.4).
#![cfg(test)]
#![allow(clippy::unwrap_used, clippy::panic)] // helpers are no #[test] functions
#![allow(clippy::print_stdout, reason = "sweeps say what they have tried")]

mod first_version;
mod keys;
mod office;
mod pace;
mod se;
#[path = "../virtual_se/mod.rs"]
mod virtual_se;

use core::num::NonZeroU16;
use std::rc::Rc;

use office::Shared;
use se::Socket;
use sekisho_device::{Agent, Event, MemorySpool, Pace, Turn};
use sekisho_hsm::ChangeOptions;
use sekisho_hsm::SoftHsm;
use sekisho_hsm::design::{Ceremony, PackOptions};
use sekisho_link::{Access, Custody, Outcome, SeId};

static METER_2: &[u8] = include_bytes!("../../../../applets/prebuilt/meter-v2.wasm");
const SE_ID: SeId = SeId([0, 0, 0, 0, 0, 0, 0, 0, 1, 7]);
/// Turns after which an agent has come to no end.
const TURNS_MAX: u32 = 60;

/// A design system, its HSM, an SE of both, and a server.
struct World {
    hsm: Rc<SoftHsm>,
    ceremony: Ceremony,
    server: Shared,
    socket: Socket,
}

fn how(custody: Custody) -> ChangeOptions {
    ChangeOptions {
        min_previous: 1,
        custody,
    }
}

fn options(version: u32, custody: Custody) -> PackOptions {
    PackOptions {
        version,
        min_previous: 1,
        custody,
    }
}

/// The second meter with a custom section of bytes, which every engine skips.
fn filled_up(bytes: usize) -> Vec<u8> {
    let size = u32::try_from(bytes + 2).unwrap();
    let leb = [size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14].map(|byte| byte.to_le_bytes()[0]);
    [METER_2, &[0], &leb, b"\x01x", &vec![0x5A; bytes]].concat()
}

impl World {
    fn new() -> Self {
        let hsm = Rc::new(SoftHsm::generate().unwrap());
        let ceremony = Ceremony::generate().unwrap();
        let (server, socket) = (Shared::new(&hsm), Socket::new(&hsm, &ceremony, SE_ID));
        Self {
            hsm,
            ceremony,
            server,
            socket,
        }
    }

    fn agent(&self, pace: Pace) -> Agent<Shared, MemorySpool> {
        Agent::new(self.server.clone(), MemorySpool::new(), 1 << 20, None).at_pace(pace)
    }

    /// Turns until the SE is updated; the last one's receipt is a proof.
    fn until_updated(&mut self, agent: &mut Agent<Shared, MemorySpool>) -> u32 {
        for turn in 1..TURNS_MAX {
            if let Ok(Turn::Ended { status, verdict, .. }) = agent.turn(&mut self.socket, &mut |_| ())
                && verdict.access == Access::Allowed
            {
                assert_eq!(status.outcome, Outcome::Activated);
                return turn;
            }
        }
        panic!(
            "no end after {TURNS_MAX} turns: {:?}",
            self.server.0.borrow().reports
        );
    }
}

const fn whole() -> Pace {
    Pace {
        blocks: None,
        pauses: 0,
    }
}

fn of_blocks(blocks: u16, pauses: u8) -> Pace {
    Pace {
        blocks: NonZeroU16::new(blocks),
        pauses,
    }
}
