//! Secrets are gone when the pages say so: after a command that ended the use of a key, the memory of a running `sekisho card` is searched for it:
//! stack, heap, the operating system's RAM. What a card keeps stands in its flash and nowhere else; the search leaves out the bytes of the flash,
//! by their address, and nothing else.
#![cfg(target_os = "linux")]

use crate::bench;
use crate::process;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use bench::*;
use process::memory::{Memory, Secret};
use process::{Guarded, put_keys, send, whole};
use sekisho_apdu::CApdu;
use sekisho_keys::sha256;

/// GET DATA of the card's own data.
fn get_data() -> CApdu<'static> {
    command(0xCA, 0x00, 0x66, &[]).with_ne(256)
}

/// What ends a session.
type End<'a> = &'a dyn Fn(&mut Bench, &mut Session);

/// Every way out of an individual secure channel.
#[test]
fn session_keys_are_gone_when_the_session_is() {
    let keys = set("scp");
    let mut bench = Bench::new();
    bench.assert_gone("after the start", &[]);
    let ends: [(&str, End<'_>); 6] = [
        ("reset", &|bench, _| bench.reset()),
        ("SELECT", &|bench, _| {
            assert_eq!(send(bench.card(), &[0, 0xA4, 4, 0, 0]).1, 0x9000);
        }),
        ("a wrong C-MAC", &|bench, session| {
            let mut wrapped = session.wrap(&get_data());
            let last = wrapped.len() - 2;
            wrapped[last] ^= 1;
            assert_eq!(send(bench.card(), &wrapped).1, 0x6982);
        }),
        ("a command in the clear", &|bench, _| {
            assert_eq!(send(bench.card(), &[0x80, 0xCA, 0x00, 0x66, 0]).1, 0x6982);
        }),
        ("another opening", &|bench, _| {
            let (_, other) = bench.initiate(&set("scp"));
            bench.assert_there("the opening", &other.secrets);
            assert_eq!(send(bench.card(), &[0x80, 0xCA, 0x00, 0x66, 0]).1, 0x9000);
            bench.assert_gone("an opening that was broken off", &other.secrets);
        }),
        ("the reader gone", &|bench, _| {
            bench.reader = None;
            bench.reader = Some(bench.process.reader());
            // Its first command is answered when the card has seen the other reader go.
            bench.reset();
        }),
    ];
    for (why, end) in ends {
        let mut session = bench.open(&keys);
        assert_eq!(session.send(&mut bench, &get_data()), 0x9000);
        bench.assert_there("an open channel", &session.secrets);
        end(&mut bench, &mut session);
        bench.assert_gone(why, &session.secrets);
        bench.reset();
    }
    // A host that proves nothing.
    let (mut authenticate, session) = bench.initiate(&keys);
    authenticate[5] ^= 1;
    assert_eq!(send(bench.card(), &authenticate).1, 0x6300);
    bench.assert_gone("a wrong cryptogram", &session.secrets);
}

#[test]
fn keys_that_were_put_stand_in_the_flash_alone_and_those_replaced_nowhere() {
    let (old, new) = (set("scp"), set("new"));
    let mut bench = Bench::new();
    let mut session = bench.open(&old);
    let put = put_keys(&mut session.channel, &old.dek, KVN, KVN, &new);
    let answer = whole(bench.card(), &put);
    assert!(answer.ends_with(&[0x90, 0x00]));
    // Key-DEK of the set that opened the channel goes on for its host.
    let fresh = secrets_of("new", &new);
    assert_eq!(bench.holds(&fresh), Vec::<String>::new());
    bench.reset();
    bench.assert_gone("PUT KEY", &[fresh, session.secrets].concat_all());
    let memory = Memory::of(bench.process.id());
    let anywhere = memory.holds(&secrets_of("replaced", &old), &(0..0));
    assert!(anywhere.is_empty(), "{anywhere:#?}");

    let mut session = bench.open(&new);
    assert_eq!(session.send(&mut bench, &command(0xF0, 0x80, 0x07, &[])), 0x9000);
    assert_eq!(session.send(&mut bench, &command(0xF0, 0x80, 0x0F, &[])), 0x9000);
    assert_eq!(session.send(&mut bench, &command(0xF0, 0x80, 0xFF, &[])), 0x9000);
    bench.reset();
    let all = [kept(), secrets_of("new", &new), session.secrets].concat_all();
    let anywhere = Memory::of(bench.process.id()).holds(&all, &(0..0));
    assert!(anywhere.is_empty(), "a terminated card: {anywhere:#?}");
}

/// The saved channel and the broadcast key set: both gone after whatever ends broadcast mode, the broadcast keys after the return.
#[test]
fn the_saved_channel_and_the_broadcast_keys_are_gone_when_broadcast_mode_is() {
    let keys = set("scp");
    let mut bench = Bench::new();
    for custody in [3, 4] {
        let all = |session: Session, broadcast: Broadcast| [session.secrets, broadcast.secrets].concat_all();
        let ends = [
            "a wrong C-MAC",
            "a block left out",
            "a command in the clear",
            "a wrong length",
            "SELECT",
            "reset",
            "reset at once",
        ];
        for (campaign, why) in (1..).zip(ends) {
            let broadcast = Broadcast::new(custody, campaign);
            let mut session = bench.open(&keys);
            broadcast.begin(&mut bench, &mut session);
            // Without a block the plain CHANGE MODE was the last that was decrypted.
            broadcast.write(&mut bench, if why == "reset at once" { 0 } else { 2 });
            let mut wrong = broadcast.commands[2].clone();
            *wrong.last_mut().unwrap() ^= 1;
            let command = match why {
                "a wrong C-MAC" => wrong,
                "a block left out" => broadcast.commands[3].clone(),
                "a command in the clear" => vec![0x80, 0xCA, 0x00, 0x66, 0],
                "a wrong length" => vec![0x84, 0x3C, 0, 2, 9, 0],
                _ => vec![0, 0xA4, 4, 0, 0],
            };
            if why.starts_with("reset") {
                bench.reset();
            } else {
                send(bench.card(), &command);
            }
            bench.assert_gone(&format!("custody {custody}: {why}"), &all(session, broadcast));
            bench.reset();
        }
        // The whole of it: after the return the broadcast keys are gone, after the session all.
        let broadcast = Broadcast::new(custody, 8);
        let mut session = bench.open(&keys);
        broadcast.begin(&mut bench, &mut session);
        broadcast.write(&mut bench, broadcast.commands.len());
        let found = bench.holds(&broadcast.secrets);
        assert!(
            found.is_empty(),
            "custody {custody}: after the return: {found:#?}"
        );
        bench.assert_there("the saved channel", &session.secrets);
        if custody == 4 {
            let sw = session.send(&mut bench, &command(0x3E, 1, 0, &broadcast.activate).with_ne(256));
            assert_eq!(sw, 0x9000);
        }
        bench.reset();
        bench.assert_gone(
            &format!("custody {custody}: the session's end"),
            &all(session, broadcast),
        );
    }
}

/// Set for the process that [`plant`] runs in: where it puts the key.
const PLACE: &str = "MEMORY_SEARCH_PLACE";

/// The complement of what is planted: the key itself stands nowhere but where it is put.
fn hidden() -> [u8; 32] {
    sha256(&[b"planted"])
}

fn put(to: &mut [u8]) {
    to.iter_mut().zip(hidden()).for_each(|(to, hidden)| *to = !hidden);
}

/// Puts the key on a part of the stack that is left again.
#[inline(never)]
fn put_and_return() {
    let mut stack = [0; 64 * 1024];
    put(&mut stack[..16]);
    std::hint::black_box(&stack);
}

/// A process with a key in one place, or in none.
#[test]
#[ignore = "run by the test below as a process of its own"]
fn plant() {
    static STATIC: std::sync::Mutex<[u8; 16]> = std::sync::Mutex::new([0; 16]);
    let place = std::env::var(PLACE).unwrap_or_default();
    let (mut heap, mut stack) = (vec![0; 16], [0; 16]);
    match &place[..] {
        "static" => put(&mut STATIC.lock().unwrap()[..]),
        "heap" => put(&mut heap),
        "stack" => put(&mut stack),
        "half" => put(&mut stack[..8]),
        "left stack" => put_and_return(),
        "left heap" => {
            let mut gone = vec![0; 4096];
            put(&mut gone[2048..]);
        }
        _ => {}
    }
    std::hint::black_box((&heap, &stack));
    println!("\nplanted");
    // Until the other end has looked.
    let _ = std::io::stdin().read_line(&mut String::new());
}

/// The search can fail: it finds a copy wherever there is one, half of a key too, and none where there is none.
#[test]
fn the_search_finds_a_copy_in_every_kind_of_place() {
    let secret = Secret::new(
        "planted",
        &hidden()[..16].iter().map(|byte| !byte).collect::<Vec<_>>(),
    );
    for (place, is_there) in [
        ("static", true),
        ("heap", true),
        ("stack", true),
        ("half", true),
        ("left stack", true),
        ("left heap", true),
        ("none", false),
    ] {
        let mut child = Guarded(
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "memory_keys::plant", "--ignored", "--nocapture"])
                .env(PLACE, place)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line == "planted"));
        let found = Memory::of(child.0.id()).holds(std::slice::from_ref(&secret), &(0..0));
        assert_eq!(!found.is_empty(), is_there, "{place}: {found:?}");
    }
}
