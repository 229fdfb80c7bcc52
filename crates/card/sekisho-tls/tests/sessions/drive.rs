//! A device between an SE and a server: the loop that all tests have that put a bridge between the two.

use std::ops::ControlFlow;

use sekisho_bridge::{Bridge, Buffers, Ended, Settings, Step, Why};

/// Longer than any session of a test.
const STEPS_MAX: usize = 100_000;

/// What a device has on its two sides.
pub(crate) trait Sides {
    /// The SE's answer to a command.
    fn command(&mut self, command: &[u8]) -> Vec<u8>;

    /// A record goes to the server. A break lets the device rest.
    fn send(&mut self, record: &[u8]) -> ControlFlow<()>;

    /// What has come from the server, put into `space`: how many bytes. Or why the device ends the session; once that has been said, nothing is asked any more.
    fn receive(&mut self, space: &mut [u8]) -> Result<usize, Why>;
}

/// Begins a session with the peer of a row, at the time that the device says it is. `run` is given what goes on with it.
pub(crate) fn with_device<T>(
    settings: Settings,
    (row, time): (u16, Option<u64>),
    run: impl FnOnce(&mut Device<'_>) -> T,
) -> T {
    let (mut record, mut answer, mut command) = (vec![0; Buffers::RECORD], vec![0; 4096], vec![0; 264]);
    let buffers = Buffers {
        record: &mut record,
        answer: &mut answer,
        command: &mut command,
    };
    let mut bridge = Bridge::new(settings, buffers).unwrap();
    bridge.open(row, time);
    run(&mut Device(bridge))
}

/// A session on logical channel 0 with row 0001, from its beginning to its end.
pub(crate) fn drive(time: u64, sides: &mut impl Sides) -> Ended {
    with_device(Settings::DEFAULT, (1, Some(time)), |device| {
        loop {
            if let Some(ended) = device.run(sides) {
                return ended;
            }
        }
    })
}

pub(crate) struct Device<'a>(Bridge<'a>);

impl Device<'_> {
    /// Goes on until the session is over, or `sides` wants to rest: nothing then.
    pub(crate) fn run(&mut self, sides: &mut impl Sides) -> Option<Ended> {
        for _ in 0..STEPS_MAX {
            match self.0.step() {
                Step::Command(command) => {
                    let answer = sides.command(command);
                    self.0.answered(&answer);
                }
                Step::Send(record) => {
                    let bytes = [record.header(), record.body].concat();
                    if sides.send(&bytes).is_break() {
                        return None;
                    }
                }
                Step::Receive => match sides.receive(self.0.space()) {
                    Ok(len) => self.0.received(len),
                    Err(why) => self.0.close(why),
                },
                Step::Over(ended) => return Some(ended),
            }
        }
        panic!("it goes on");
    }
}
