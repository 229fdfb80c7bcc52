//! A device that does not carry what it is given: a session fails, and nothing else happens.

use sekisho_tls::Version;

use crate::common::{send_on, sw};
use crate::device::{inside, server, session};
use crate::pki::Pki;
use crate::se::{FILES, PORT, Se, with};
use crate::servers::{READ, select};

fn bare(sw: u16) -> Vec<u8> {
    sw.to_be_bytes().to_vec()
}

/// What happens to command `at`.
const WAYS: [&str; 7] = [
    "dropped",
    "repeated",
    "late",
    "cut",
    "changed",
    "longer",
    "another class",
];

fn disturbed(way: &str, command: &[u8], held: &mut Option<Vec<u8>>, se: &mut Se) -> Vec<u8> {
    let mut other = command.to_vec();
    match way {
        "dropped" => return bare(0x9000),
        "late" => {
            *held = Some(other);
            return bare(0x9000);
        }
        "repeated" => {
            send_on(se, PORT, command);
        }
        "cut" => other.truncate(command.len() / 2),
        "changed" => {
            let middle = other.len() / 2;
            other[middle] ^= 1;
        }
        "longer" => other.push(0),
        _ => other[0] ^= 1,
    }
    send_on(se, PORT, &other)
}

/// Every command of a session is disturbed in every way: what the server gets is a beginning of the true answers, and the SE takes the next session.
#[test]
fn whatever_a_device_does_no_answer_is_wrong_and_the_next_session_works() {
    let pki = Pki::new();
    let mut se = with(&pki);
    let commands = [&select(FILES)[..], READ, READ];
    let truth = inside(&mut se, &pki, Version::Tls13, &commands);
    assert!(truth.iter().all(|answer| sw(answer) == 0x9000));
    let (mut failed, mut passed) = (0, 0);
    for version in [Version::Tls12, Version::Tls13] {
        let mut count = 0;
        session(
            &mut se,
            &mut server(&pki, version),
            0,
            &commands,
            |number, command, se| {
                count = number;
                send_on(se, PORT, command)
            },
        );
        for way in WAYS {
            for at in 1..=count {
                let mut held = None;
                let seen = session(
                    &mut se,
                    &mut server(&pki, version),
                    0,
                    &commands,
                    |number, command, se| {
                        if number == at {
                            return disturbed(way, command, &mut held, se);
                        }
                        let answer = send_on(se, PORT, command);
                        if let Some(late) = held.take() {
                            send_on(se, PORT, &late);
                        }
                        assert!(
                            truth.iter().all(|true_answer| {
                                true_answer.len() < 10
                                    || !answer
                                        .windows(true_answer.len())
                                        .any(|bytes| bytes == true_answer)
                            }),
                            "in plain: {way} {at}"
                        );
                        answer
                    },
                );
                assert!(truth.starts_with(&seen.answers), "{version:?} {way} {at}");
                *(if seen.answers.len() < truth.len() {
                    &mut failed
                } else {
                    &mut passed
                }) += 1;
            }
            // Nothing is stuck.
            assert_eq!(inside(&mut se, &pki, version, &commands), truth, "{way}");
        }
    }
    println!("sessions that failed: {failed}, that did not: {passed}");
    assert!(failed > 100, "{failed}");
}
