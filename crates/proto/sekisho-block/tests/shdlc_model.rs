//! Every history of two frames each way over the real SHDLC at both ends, from RSET on, with every placing of a few losses, duplicates, timers that run out too early and links that an end sets up anew; and naive ends, which the same search must show to fail.

use sekisho_block::swp::{Event, INFORMATION_MAX, Shdlc, Timer};
use stateright::{Checker, HasDiscoveries, Model, Property};

const EACH: u8 = 2;
const TIMERS: [Timer; 3] = [Timer::Acknowledge, Timer::Retransmit, Timer::Connect];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Naive {
    No,
    /// Every I frame is taken as the next.
    TakesAny,
    /// N(R) is the number that was received, not the one that is expected next.
    ReceivedNumber,
    /// Each RSET begins anew.
    EachReset,
    /// What has gone out last is sent again when the link has been set up anew.
    Replays,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct End {
    shdlc: Shdlc,
    inward: Vec<Vec<u8>>,
    sent: u8,
    came: Vec<u8>,
    /// What came since the link was set up.
    fresh: u8,
    told: bool,
    /// What was sent before somebody was told.
    excused: u8,
    failed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    ends: [End; 2],
    faults: u8,
    restarts: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Send(usize),
    Hear(usize),
    Lose(usize),
    Double(usize),
    Expire(usize, Timer),
    Restart(usize),
}

#[derive(Clone, Copy)]
struct Line {
    naive: Naive,
    faults: u8,
    restarts: u8,
    srej: bool,
}

impl World {
    fn quiet(&self) -> bool {
        self.ends.iter().all(|end| end.inward.is_empty())
    }

    fn settle(&mut self, naive: Naive) {
        for at in 0..2 {
            let mut out = [0; INFORMATION_MAX + 1];
            while let Some(len) = self.ends[at].shdlc.say(&mut out) {
                let mut lpdu = out[..len].to_vec();
                if naive == Naive::ReceivedNumber && lpdu[0] < 0xE0 {
                    lpdu[0] = lpdu[0] & !7 | (lpdu[0].wrapping_sub(1) & 7);
                }
                self.ends[1 - at].inward.push(lpdu);
            }
            let event = self.ends[at].shdlc.event();
            if event == Some(Event::Restarted) {
                for end in &mut self.ends {
                    end.excused = end.sent;
                }
            }
            let end = &mut self.ends[at];
            match event {
                Some(Event::Restarted) => {
                    end.told = true;
                    end.fresh = 0;
                    if naive == Naive::Replays {
                        end.sent = end.sent.saturating_sub(1);
                    }
                }
                Some(Event::Failed) => end.failed = true,
                Some(Event::Connected) | None => {}
            }
            let mut out = [0; INFORMATION_MAX];
            while let Some(len) = end.shdlc.take(&mut out) {
                assert_eq!(len, 1);
                end.came.push(out[0]);
                end.fresh += 1;
            }
        }
    }

    fn hear(&mut self, at: usize, naive: Naive) {
        let end = &mut self.ends[at];
        let mut lpdu = end.inward.remove(0);
        match naive {
            Naive::TakesAny if lpdu[0] & 0xC0 == 0x80 => lpdu[0] = lpdu[0] & !0x38 | (end.fresh & 7) << 3,
            Naive::EachReset if lpdu[0] == 0xF9 && end.shdlc.is_connected() => {
                end.shdlc = Shdlc::new(2, false);
                end.told = true;
                for end in &mut self.ends {
                    end.excused = end.sent;
                }
            }
            _ => {}
        }
        self.ends[at].shdlc.hear(&lpdu);
    }
}

impl Model for Line {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let end = End {
            shdlc: Shdlc::new(2, self.srej),
            inward: Vec::new(),
            sent: 0,
            came: Vec::new(),
            fresh: 0,
            told: false,
            excused: 0,
            failed: false,
        };
        let mut world = World {
            ends: [end.clone(), end],
            faults: 0,
            restarts: 0,
        };
        world.ends[0].shdlc.connect();
        world.settle(self.naive);
        vec![world]
    }

    fn actions(&self, state: &World, actions: &mut Vec<Step>) {
        let free = state.faults < self.faults;
        for (at, end) in state.ends.iter().enumerate() {
            if end.shdlc.is_connected() && end.sent < EACH {
                actions.push(Step::Send(at));
            }
            if !end.inward.is_empty() {
                actions.push(Step::Hear(at));
                if free {
                    actions.extend([Step::Lose(at), Step::Double(at)]);
                }
            }
            // After all tries of T2, when nothing is on its way any more.
            if end.shdlc.is_connected() && state.restarts < self.restarts && state.quiet() {
                actions.push(Step::Restart(at));
            }
            for timer in TIMERS {
                // T3 is shorter than T2.
                let sooner = timer == Timer::Retransmit
                    && state.ends.iter().any(|end| end.shdlc.wants(Timer::Connect));
                if end.shdlc.wants(timer) && !sooner && (state.quiet() || free) {
                    actions.push(Step::Expire(at, timer));
                }
            }
        }
    }

    fn next_state(&self, last: &World, step: Step) -> Option<World> {
        let mut next = last.clone();
        match step {
            Step::Send(at) => {
                let end = &mut next.ends[at];
                if !end.shdlc.send(&[end.sent]) {
                    return None;
                }
                end.sent += 1;
            }
            Step::Hear(at) => next.hear(at, self.naive),
            Step::Lose(at) => {
                next.faults += 1;
                next.ends[at].inward.remove(0);
            }
            Step::Double(at) => {
                next.faults += 1;
                let copy = next.ends[at].inward[0].clone();
                next.ends[at].inward.insert(0, copy);
            }
            Step::Expire(at, timer) => {
                next.faults += u8::from(!next.quiet());
                next.ends[at].shdlc.expire(timer);
            }
            Step::Restart(at) => {
                next.restarts += 1;
                next.ends[at].shdlc.connect();
            }
        }
        next.settle(self.naive);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("in order, once", |_, state: &World| {
                state
                    .ends
                    .iter()
                    .all(|end| end.came.windows(2).all(|pair| pair[0] < pair[1]))
            }),
            Property::always("nothing missing, or told", |_, state: &World| {
                let told = state.ends.iter().any(|end| end.told);
                told || state
                    .ends
                    .iter()
                    .all(|end| end.came.iter().copied().eq((0_u8..).take(end.came.len())))
            }),
            Property::always("what is acknowledged has arrived", |_, state: &World| {
                [0, 1].into_iter().all(|at| {
                    let end = &state.ends[at];
                    let open = !end.shdlc.is_connected() || end.shdlc.wants(Timer::Retransmit);
                    open || (end.excused..end.sent).all(|number| state.ends[1 - at].came.contains(&number))
                })
            }),
            Property::always("without faults nobody is told", |_, state: &World| {
                state.faults > 0 || state.restarts > 0 || state.ends.iter().all(|end| !end.told)
            }),
            Property::always("within three faults it stands", |_, state: &World| {
                state.ends.iter().all(|end| !end.failed)
            }),
            Property::eventually("all arrives, or is told", |_, state: &World| {
                let arrived = |at: usize| {
                    state.ends[at].sent == EACH && state.ends[1 - at].came.len() == usize::from(EACH)
                };
                arrived(0) && arrived(1) || state.ends.iter().any(|end| end.told || end.failed)
            }),
        ]
    }
}

fn found(naive: Naive, faults: u8, restarts: u8, srej: bool) -> Vec<&'static str> {
    let line = Line {
        naive,
        faults,
        restarts,
        srej,
    };
    let checker = line
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let mut found: Vec<_> = checker.discoveries().into_keys().collect();
    found.sort_unstable();
    println!(
        "{naive:?}, {faults} faults, {restarts} restarts, SREJ {srej}: {} states, found {found:?}",
        checker.unique_state_count()
    );
    if !found.is_empty() && naive == Naive::No {
        for (name, path) in checker.discoveries() {
            println!("{name}: {:?}", path.into_actions());
        }
    }
    found
}

/// In order, once, nothing missing unless somebody was told, no deadlock.
#[test]
fn both_ends_keep_their_promise_in_every_history() {
    for srej in [false, true] {
        assert_eq!(
            found(Naive::No, if srej { 2 } else { 3 }, 0, srej),
            [] as [&str; 0]
        );
    }
}

/// The same where an end sets the link up anew: what has gone out is not sent again, also by an end that has heard nothing but RSET.
#[test]
fn a_link_that_is_set_up_anew_delivers_nothing_twice() {
    for (faults, restarts) in [(1, 1), (0, 2)] {
        assert_eq!(found(Naive::No, faults, restarts, false), [] as [&str; 0]);
    }
}

/// The search would have seen it: each naive end breaks a promise.
#[test]
fn naive_ends_are_shown_to_fail() {
    for (naive, faults, restarts, promise) in [
        (Naive::TakesAny, 1, 0, "in order, once"),
        (Naive::ReceivedNumber, 0, 0, "without faults nobody is told"),
        (Naive::EachReset, 2, 0, "what is acknowledged has arrived"),
        (Naive::Replays, 0, 1, "in order, once"),
    ] {
        assert!(
            found(naive, faults, restarts, false).contains(&promise),
            "{naive:?}"
        );
    }
}
