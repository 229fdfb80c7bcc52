//! A real engine on the loopback interface.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sekisho_pager::signals::Signal;
use sekisho_pager::{Engine, Intent, Registration, RootKeys, Scheme, Settings, Target};
use sekisho_paging::Uid;
use sekisho_paging::datagram::Reason;
use sekisho_paging::device::{Device, DeviceKey, State};
use sekisho_paging::keys::{Keyspace, Root};
use sekisho_paging::message::Action;
use sekisho_paging::recovery::{Grant, Request};
use sekisho_paging::ticket::{Ring, TicketKey};
use zeroize::Zeroizing;

struct Roots;

impl RootKeys for Roots {
    fn root(&self, se_id: &[u8; 10]) -> Option<Root> {
        Some(root(se_id))
    }
}

fn root(se_id: &[u8; 10]) -> Root {
    let mut bytes = [0x33; 16];
    bytes[..10].copy_from_slice(se_id);
    Root::new(bytes)
}

fn ring() -> Ring {
    let mut ring = Ring::new();
    ring.add(TicketKey::new(0, 1, &[5; 16], true)).unwrap();
    ring
}

fn settings(scheme: Scheme, directory: Option<PathBuf>) -> Settings {
    Settings {
        listen: "127.0.0.1:0".parse().unwrap(),
        threads: 2,
        first_core: None,
        scheme,
        domain: 0,
        directory,
        seal_key: Zeroizing::new([9; 32]),
        snapshot_every: Duration::from_secs(3600),
        alarm_rate: 100,
    }
}

fn start(scheme: Scheme, directory: Option<&Path>) -> Engine {
    Engine::start(
        settings(scheme, directory.map(Path::to_owned)),
        Arc::new(Roots),
        ring(),
    )
    .unwrap()
}

fn se_id(index: u32) -> [u8; 10] {
    let mut id = [0; 10];
    id[..4].copy_from_slice(&index.to_be_bytes());
    id
}

fn first_uid(index: u32, scheme: Scheme) -> Uid {
    match scheme {
        Scheme::Ticket => ring().issuing(0).unwrap().seal(index, 0, 0),
        Scheme::Random => {
            let mut uid = [0x77; 16];
            uid[..4].copy_from_slice(&index.to_be_bytes());
            Uid(uid)
        }
    }
}

fn registration(index: u32, rolling: bool, scheme: Scheme) -> Registration {
    let keyspace = Keyspace::default();
    Registration {
        index,
        se_id: se_id(index),
        group: 1,
        rolling,
        keyspace,
        blocked: false,
        start: rolling.then(|| root(&se_id(index)).poll_key(keyspace)),
        uid: (scheme == Scheme::Random).then(|| first_uid(index, scheme)),
    }
}

fn device(index: u32, rolling: bool, scheme: Scheme) -> Device {
    let root = root(&se_id(index));
    let keyspace = Keyspace::default();
    let key = if rolling {
        DeviceKey::Rolling(root.poll_key(keyspace))
    } else {
        DeviceKey::Fixed(root)
    };
    Device::new(State::new(first_uid(index, scheme), keyspace, key, 60))
}

struct Client(UdpSocket, u32);

impl Client {
    fn new(engine: &Engine) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(engine.local_addr()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Self(socket, 0)
    }

    fn ask(&self, datagram: &[u8]) -> Option<Vec<u8>> {
        self.0.send(datagram).unwrap();
        let mut answer = [0; 100];
        let len = self.0.recv(&mut answer).ok()?;
        Some(answer[..len].to_vec())
    }

    fn poll(&mut self, device: &mut Device) {
        self.1 += 1;
        let poll = device.poll(Reason::Periodic, self.1.to_be_bytes());
        let answer = self.ask(&poll).unwrap();
        assert_eq!(answer.len(), poll.len());
        let accepted = device.receive(&answer).unwrap();
        device.promote(accepted);
    }
}

/// The counters are a moment behind the answers.
fn wait_for(done: impl Fn() -> bool) {
    for _ in 0..500 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it never came");
}

#[test]
fn both_schemes_answer_and_survive_a_restart() {
    for scheme in [Scheme::Ticket, Scheme::Random] {
        for rolling in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let mut devices: Vec<_> = (0..20).map(|index| device(index, rolling, scheme)).collect();
            for round in 0..3 {
                let engine = start(scheme, Some(directory.path()));
                if round == 0 {
                    let all: Vec<_> = (0..20)
                        .map(|index| registration(index, rolling, scheme))
                        .collect();
                    engine.register(&all);
                }
                let mut client = Client::new(&engine);
                client.1 = round * 1000;
                for _ in 0..4 {
                    devices.iter_mut().for_each(|device| client.poll(device));
                }
                wait_for(|| engine.totals().promoted >= 60);
                engine.stop().unwrap();
            }
        }
    }
}

#[test]
fn messages_reach_their_devices_until_they_are_done() {
    let engine = start(Scheme::Ticket, None);
    engine.register(&[
        registration(1, false, Scheme::Ticket),
        registration(2, false, Scheme::Ticket),
    ]);
    let intent = |order, to, action| Intent {
        order,
        to,
        action,
        not_before: None,
        expires: None,
        past: None,
    };
    engine.post(intent(4, Target::Device(1), Action::Update(9)));
    engine.post(intent(5, Target::Everybody, Action::PollEvery(77)));
    let mut client = Client::new(&engine);
    let mut one = device(1, false, Scheme::Ticket);
    let mut two = device(2, false, Scheme::Ticket);
    client.poll(&mut one);
    client.poll(&mut one);
    client.poll(&mut two);
    assert_eq!(one.state().pending.unwrap().order, 4);
    assert_eq!((two.state().order, two.state().interval), (5, 77));
    one.settle(one.settled(4).unwrap());
    client.poll(&mut one);
    assert_eq!((one.state().order, one.state().interval), (5, 77));
    client.poll(&mut one);
    assert_eq!(engine.device(1).unwrap().order, 5);
}

#[test]
fn property_07_and_22_no_answer_without_authentication_and_each_failure_counted() {
    let engine = start(Scheme::Ticket, None);
    engine.register(&[registration(1, false, Scheme::Ticket)]);
    let mut client = Client::new(&engine);
    let mut one = device(1, false, Scheme::Ticket);
    let stale = one.clone().poll(Reason::PowerOn, [7; 4]);
    client.poll(&mut one);
    client.poll(&mut one);
    let mut bad = one.clone().poll(Reason::Event, [8; 4]);
    bad[43] ^= 1;
    client
        .0
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    for n in 0..150u32 {
        let mut noise = [0x3C; 44];
        noise[..4].copy_from_slice(&n.to_be_bytes());
        client.0.send(&noise).unwrap();
    }
    assert_eq!(client.ask(&stale), None);
    assert_eq!(client.ask(&bad), None);
    assert_eq!(client.ask(&bad[..43]), None);
    assert_eq!(client.ask(&[0; 45]), None);
    assert_eq!(client.ask(&[]), None);
    wait_for(|| engine.totals().of(Signal::Malformed) == 3);
    let totals = engine.totals();
    assert_eq!(totals.of(Signal::Unknown), 150);
    assert_eq!(totals.of(Signal::Stale), 1);
    assert_eq!(totals.of(Signal::BadMac), 1);
    assert_eq!(totals.of(Signal::Malformed), 3);
    assert_eq!(totals.answered, 2);
    // Denial of service is recognised once its second is over.
    std::thread::sleep(Duration::from_millis(1100));
    let alarms = engine.alarms();
    assert!(alarms.iter().any(|alarm| alarm.rate >= 100), "{alarms:?}");
}

#[test]
fn a_replayed_poll_is_no_amplifier() {
    let engine = start(Scheme::Ticket, None);
    engine.register(&[registration(1, false, Scheme::Ticket)]);
    let client = Client::new(&engine);
    let poll = device(1, false, Scheme::Ticket).poll(Reason::Periodic, [1; 4]);
    client
        .0
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let answers = (0..20).filter(|_| client.ask(&poll).is_some()).count();
    assert_eq!(answers, 9);
    wait_for(|| engine.totals().of(Signal::Limited) == 11);
}

#[test]
fn a_lost_device_comes_back_by_recovery() {
    let engine = start(Scheme::Ticket, None);
    engine.register(&[registration(3, false, Scheme::Ticket)]);
    let mut client = Client::new(&engine);
    let mut lost = device(3, false, Scheme::Ticket);
    client.poll(&mut lost);
    let key = root(&se_id(3)).recovery_key();
    let request = Request {
        se_id: se_id(3),
        keyspace: lost.state().keyspace,
        nonce: [1; 16],
    };
    let sealed = request.seal(&key);
    let grant = Grant::open(&key, &sealed, &engine.recover(3, &sealed).unwrap()).unwrap();
    lost.recovered(grant.state(&key, &request, lost.state()));
    client.poll(&mut lost);
    client.poll(&mut lost);
    let mut forged = sealed;
    forged[40] ^= 1;
    assert!(engine.recover(3, &forged).is_err());
    assert!(engine.recover(4, &sealed).is_err());
}

#[test]
fn a_snapshot_is_whole_or_refused() {
    let directory = tempfile::tempdir().unwrap();
    let engine = start(Scheme::Ticket, Some(directory.path()));
    engine.register(&[registration(1, true, Scheme::Ticket)]);
    engine.stop().unwrap();
    let file = directory.path().join("paging.snapshot");
    let good = std::fs::read(&file).unwrap();
    for at in [0, 9, 20, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&file, bad).unwrap();
        let settings = settings(Scheme::Ticket, Some(directory.path().to_owned()));
        assert!(Engine::start(settings, Arc::new(Roots), ring()).is_err(), "{at}");
    }
    std::fs::write(&file, &good[..good.len() - 20]).unwrap();
    let settings = settings(Scheme::Ticket, Some(directory.path().to_owned()));
    assert!(Engine::start(settings, Arc::new(Roots), ring()).is_err());
}

struct NoRoots;

impl RootKeys for NoRoots {
    fn root(&self, _: &[u8; 10]) -> Option<Root> {
        None
    }
}

fn move_to(domain: u8, order: u32) -> Intent {
    Intent {
        order,
        to: Target::Everybody,
        action: Action::MoveTo(Keyspace {
            domain,
            generation: 0,
        }),
        not_before: None,
        expires: None,
        past: None,
    }
}

/// Property 18 over real sockets: a device is handed to a local server, which has no root, then polls go to either at random, and it comes back.
#[test]
fn property_18_a_local_server_takes_over_and_gives_back() {
    let local_key = TicketKey::new(9, 1, &[6; 16], true);
    let mut global_ring = ring();
    global_ring.add(local_key.clone()).unwrap();
    let mut local_ring = Ring::new();
    local_ring.add(local_key).unwrap();
    let global = start(Scheme::Ticket, None);
    global.set_ring(global_ring);
    let local = Settings {
        domain: 9,
        ..settings(Scheme::Ticket, None)
    };
    let local = Engine::start(local, Arc::new(NoRoots), local_ring).unwrap();
    let given = Keyspace {
        domain: 9,
        generation: 1,
    };
    let indices = 0..10;
    let mut devices = Vec::new();
    for index in indices.clone() {
        global.register(&[registration(index, false, Scheme::Ticket)]);
        local.register(&[Registration {
            keyspace: given,
            start: Some(root(&se_id(index)).poll_key(given)),
            ..registration(index, false, Scheme::Ticket)
        }]);
        devices.push(device(index, false, Scheme::Ticket));
    }
    let (mut to_global, mut to_local) = (Client::new(&global), Client::new(&local));
    global.post(move_to(9, 1));
    for device in &mut devices {
        to_global.poll(device);
        assert_eq!(device.state().keyspace, given);
    }
    for round in 0..8u32 {
        for (index, device) in indices.clone().zip(&mut devices) {
            if (index * 7 + round * 3) % 4 < 3 {
                to_local.poll(device);
            } else {
                to_global.poll(device);
            }
        }
    }
    global.post(move_to(0, 2));
    for device in &mut devices {
        to_global.poll(device);
        let home = Keyspace {
            domain: 0,
            generation: 2,
        };
        assert_eq!(device.state().keyspace, home);
        to_global.poll(device);
    }
    // The local server has lost them: it has no ticket key of the global domain.
    to_local
        .0
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let poll = devices[0].poll(Reason::Periodic, [1; 4]);
    assert_eq!(to_local.ask(&poll), None);
}

/// A local server's file is stolen, and the thief polls at the global server as if he were the device: far ahead of it, done with every order.
#[test]
fn a_recall_reaches_a_device_whose_domain_was_stolen() {
    let key = TicketKey::new(9, 1, &[6; 16], true);
    let engine = start(Scheme::Ticket, None);
    let mut both = ring();
    both.add(key.clone()).unwrap();
    engine.set_ring(both);
    engine.set_given(100);
    engine.register(&[registration(1, false, Scheme::Ticket)]);
    let mut client = Client::new(&engine);
    let mut one = device(1, false, Scheme::Ticket);
    engine.post(move_to(9, 1));
    client.poll(&mut one);
    client.poll(&mut one);
    let mut thief = Device::new(State {
        uid: key.seal(1, 1, 1000),
        order: u32::MAX,
        ..one.state().clone()
    });
    client.poll(&mut thief);
    let view = || engine.device(1).unwrap();
    assert_eq!((view().at.unwrap().1, view().order), (1000, u32::MAX));
    // The device is behind what the thief has proved, and gets no answer until it is recalled.
    client
        .0
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    assert_eq!(client.ask(&one.poll(Reason::Periodic, [1; 4])), None);
    client.0.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let home = Keyspace {
        domain: 0,
        generation: 300,
    };
    engine.post(Intent {
        to: Target::Device(1),
        action: Action::MoveTo(home),
        ..move_to(0, 5)
    });
    client.poll(&mut one);
    assert_eq!(one.state().keyspace, home);
    // At home its own word counts, and the thief is the one who gets no answer.
    client.poll(&mut one);
    assert_eq!((view().at.unwrap().0, view().order), (home, 5));
    assert_eq!(engine.ahead(), []);
    let stale = || engine.totals().of(Signal::Stale);
    let before = stale();
    client
        .0
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    assert_eq!(client.ask(&thief.poll(Reason::Periodic, [2; 4])), None);
    wait_for(|| stale() > before);
}

/// Property 16: a flood from an address takes nothing from the devices behind the same address.
#[test]
fn property_16_good_devices_behind_a_flooding_address_are_served() {
    let engine = start(Scheme::Ticket, None);
    let all: Vec<_> = (0..200)
        .map(|index| registration(index, false, Scheme::Ticket))
        .collect();
    engine.register(&all);
    let flood = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = engine.local_addr();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let flooding = std::thread::spawn(move || {
        let mut noise = [0xA5; 44];
        for n in 0u32.. {
            noise[..4].copy_from_slice(&n.to_be_bytes());
            let _ = flood.send_to(&noise, address);
            if n % 64 == 0 {
                std::thread::yield_now();
            }
            if stopped.load(std::sync::atomic::Ordering::Relaxed) {
                break;
            }
        }
    });
    let mut client = Client::new(&engine);
    // An answer comes late on a machine that has other things to do beside the flood.
    client.0.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut devices: Vec<_> = (0..200)
        .map(|index| device(index, false, Scheme::Ticket))
        .collect();
    let mut polls = 0;
    // For as long as it takes the flood to be one: on a busy machine its thread may get little time.
    while polls < 400 || engine.totals().of(Signal::Unknown) <= 1000 {
        for device in &mut devices {
            client.poll(device);
            polls += 1;
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    flooding.join().unwrap();
    wait_for(|| engine.totals().of(Signal::First) == polls);
}
