//! A server, or whoever is in front of it, that drops, repeats, changes, cuts and invents records: nothing that the SE has not said is taken for an answer, every session is over in time, and the
//! SE serves the next one.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::element::{Kind, Socket};
use crate::pki::Pki;
use crate::{Server, objects, tls};

/// What becomes of a record.
type Deed = fn(&[u8]) -> Vec<u8>;

/// What becomes of one record of the server.
const DEEDS: [(&str, Deed); 8] = [
    ("dropped", |_| vec![]),
    ("twice", |record| [record, record].concat()),
    ("changed", |record| {
        let mut record = record.to_vec();
        let middle = usize::midpoint(5, record.len()).min(record.len() - 1);
        record[middle] ^= 1;
        record
    }),
    ("another type", |record| {
        [&[if record[0] == 22 { 23 } else { 22 }], &record[1..]].concat()
    }),
    ("shorter", |record| {
        let len = u16::try_from(record.len() - 6).unwrap().to_be_bytes();
        [&record[..3], &len[..], &record[5..record.len() - 1]].concat()
    }),
    ("empty before it", |record| [&[23, 3, 3, 0, 0], record].concat()),
    ("an alert before it", |record| {
        [&[21, 3, 3, 0, 2, 2, 40], record].concat()
    }),
    ("HelloRequest before it", |record| {
        [&[22, 3, 3, 0, 4, 0, 0, 0, 0], record].concat()
    }),
];
/// Records of the server that something becomes of: from ServerHello to behind the first command.
const RECORDS: usize = 5;
const READING: &str = "000001159000";
const SCRIPT: &str = "> 00B0810004\n> 00B0810004\n";

fn record(stream: &mut impl Read) -> Option<Vec<u8>> {
    let mut record = vec![0; 5];
    stream.read_exact(&mut record).ok()?;
    record.resize(5 + usize::from(u16::from_be_bytes([record[3], record[4]])), 0);
    stream.read_exact(&mut record[5..]).ok()?;
    Some(record)
}

/// A place in front of a server, where this becomes of its record of this number.
fn way_to(server: &str, number: usize, deed: Deed) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = server.to_owned();
    thread::spawn(move || {
        let (mut device, _) = listener.accept().unwrap();
        let mut server = TcpStream::connect(&server).unwrap();
        let (mut from, mut to) = (device.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
        for at in 0.. {
            let Some(record) = record(&mut server) else {
                break;
            };
            let bytes = if at == number { deed(&record) } else { record };
            if device.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = device.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
    });
    address
}

#[test]
fn whatever_becomes_of_a_servers_records_no_answer_is_invented() {
    let pki = Pki::new();
    let server = Server::start(&pki, SCRIPT, &["--json", "--timeout", "3"]);
    let started = Instant::now();
    let failed: usize = thread::scope(|scope| {
        let running = DEEDS.map(|(what, deed)| {
            let (server, pki) = (&server, &pki);
            scope.spawn(move || {
                let element = Socket::new(pki, Kind::BOTH);
                let session = |address: &str| {
                    let output = tls(&[address, "--card", &element.card, "--idle", "1", "--duration", "8"]);
                    output.status.code().unwrap()
                };
                let mut failed = 0;
                for number in 0..RECORDS {
                    let code = session(&way_to(&server.address, number, deed));
                    assert!(code < 2, "{what}, record {number}: {code}");
                    failed += usize::from(code == 1);
                    // What it has left behind is in nobody's way.
                    assert_eq!(session(&server.address), 0, "after {what}, record {number}");
                }
                println!("{what}: {failed} of {RECORDS} sessions failed");
                failed
            })
        });
        running.into_iter().map(|running| running.join().unwrap()).sum()
    });
    assert!(started.elapsed() < Duration::from_secs(40));
    assert!(failed * 2 > DEEDS.len() * RECORDS, "{failed} failed");
    server.stop();
    let (_, said, _) = server.ended();
    for session in objects(&said) {
        for command in session["commands"].as_array().unwrap() {
            match command["outcome"].as_str().unwrap() {
                "done" => assert_eq!(command["received"], READING, "{session}"),
                other => assert!(["unknown", "not sent"].contains(&other), "{session}"),
            }
        }
    }
}
