//! Both roles of the socket framing against each other and against raw, hostile peers.

use core::net::SocketAddr;
use core::time::Duration;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use proptest::prelude::*;
use sekisho_transport::{
    Card, CardSide, Served, SocketCard, Stop, TransportError, serve_listener, serve_vpcd,
};

const ATR: [u8; 2] = [0x3B, 0x00];
const SECOND: Duration = Duration::from_secs(1);

/// Answers each command with itself, but for some by their first byte; counts resets.
#[derive(Default)]
struct Echo {
    resets: u8,
}

impl CardSide for Echo {
    fn atr(&mut self) -> Vec<u8> {
        ATR.to_vec()
    }

    fn reset(&mut self) {
        self.resets = self.resets.wrapping_add(1);
    }

    fn transmit(&mut self, capdu: &[u8], out: &mut [u8]) -> usize {
        match capdu[0] {
            0xF0 => 0,
            0xF1 => usize::MAX,
            0xF2 => {
                out[..3].copy_from_slice(&[self.resets, 0x90, 0x00]);
                3
            }
            _ => {
                out[..capdu.len()].copy_from_slice(capdu);
                capdu.len()
            }
        }
    }
}

struct Server {
    address: SocketAddr,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Stop::new();
        let its_stop = stop.clone();
        let thread = thread::spawn(move || {
            serve_listener(&listener, &mut Echo::default(), &its_stop, &mut |_| ()).unwrap();
        });
        Self {
            address,
            stop,
            thread: Some(thread),
        }
    }

    fn raw(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(5 * SECOND)).unwrap();
        stream
    }

    fn card(&self) -> SocketCard {
        SocketCard::open(&self.address.to_string(), 5 * SECOND).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.stop();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn ask(stream: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    stream.write_all(bytes).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut body = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut body).unwrap();
    body
}

#[test]
fn commands_of_every_length_come_back_whole() {
    let server = Server::start();
    let mut card = server.card();
    for len in [4, 5, 255, 256, 261, 1460, 1461, 4096, 65_534, 65_535] {
        let capdu: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        assert_eq!(card.transmit(&capdu).unwrap(), capdu, "{len} bytes");
    }
}

#[test]
fn what_is_no_command_is_not_sent() {
    let server = Server::start();
    let mut card = server.card();
    for len in [0, 1, 3, 65_536] {
        assert!(matches!(card.transmit(&vec![0; len]), Err(TransportError::CommandLength(n)) if n == len));
    }
    assert_eq!(
        card.transmit(&[0, 1, 2, 3]).unwrap(),
        [0, 1, 2, 3],
        "the connection is still good"
    );
}

#[test]
fn reset_gives_the_atr_and_reaches_the_card() {
    let server = Server::start();
    let mut card = server.card();
    let before = card.transmit(&[0xF2, 0, 0, 0]).unwrap()[0];
    assert_eq!(card.reset().unwrap(), ATR);
    assert_eq!(card.transmit(&[0xF2, 0, 0, 0]).unwrap()[0], before + 1);
}

#[test]
fn a_card_side_that_gives_no_status_word_still_answers() {
    let server = Server::start();
    let mut card = server.card();
    assert_eq!(card.transmit(&[0xF0, 0, 0, 0]).unwrap(), [0x6F, 0x00]);
    assert_eq!(
        card.transmit(&[0xF1, 0, 0, 0]).unwrap().len(),
        65_535,
        "a length beyond the buffer is cut"
    );
}

#[test]
fn frames_that_are_neither_control_nor_command_are_answered() {
    let server = Server::start();
    let mut stream = server.raw();
    assert_eq!(ask(&mut stream, &[0, 0]), [0x67, 0x00], "an empty frame");
    assert_eq!(
        ask(&mut stream, &[0, 1, 9]),
        [0x67, 0x00],
        "an unknown control code"
    );
    assert_eq!(
        ask(&mut stream, &[0, 1, 2, 0, 1, 4]),
        ATR,
        "reset is silent, the next frame is not"
    );
}

#[test]
fn a_frame_may_come_byte_by_byte_and_several_at_once() {
    let server = Server::start();
    let mut stream = server.raw();
    stream.set_nodelay(true).unwrap();
    for byte in [0, 4, 1, 2, 3] {
        stream.write_all(&[byte]).unwrap();
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(ask(&mut stream, &[4]), [1, 2, 3, 4]);
    stream.write_all(&[0, 4, 1, 1, 1, 1, 0, 4, 2, 2, 2, 2]).unwrap();
    let mut both = [0; 12];
    stream.read_exact(&mut both).unwrap();
    assert_eq!(both, [0, 4, 1, 1, 1, 1, 0, 4, 2, 2, 2, 2]);
}

#[test]
fn a_reader_that_leaves_in_mid_frame_makes_room_for_the_next() {
    let server = Server::start();
    let mut stream = server.raw();
    stream.write_all(&[0xFF, 0xFF, 1, 2, 3]).unwrap();
    drop(stream);
    assert_eq!(server.card().transmit(&[0, 1, 2, 3]).unwrap(), [0, 1, 2, 3]);
}

/// Row C16: there was neither an answer nor a refusal. Whether the one who is there is quiet or busy.
#[test]
fn a_second_reader_is_told_that_there_is_one() {
    let server = Server::start();
    let mut first = server.card();
    let busy = AtomicBool::new(true);
    thread::scope(|scope| {
        scope.spawn(|| {
            while busy.load(Ordering::SeqCst) {
                assert_eq!(first.transmit(&[0, 1, 2, 3]).unwrap(), [0, 1, 2, 3]);
            }
        });
        for round in 0..4 {
            busy.store(round < 2, Ordering::SeqCst);
            let begun = Instant::now();
            let Err(error) = SocketCard::open(&server.address.to_string(), 5 * SECOND) else {
                panic!("two readers at once");
            };
            assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
            let words = error.to_string();
            assert!(
                words.contains("127.0.0.1:") && words.ends_with("one reader at a time"),
                "{words}"
            );
        }
    });
    // In words for whoever has no client of ours, too.
    let mut raw = server.raw();
    let words = ask(&mut raw, &[]);
    assert!(words.starts_with(b"refused: 127.0.0.1:"), "{words:?}");
    assert_eq!(raw.read(&mut [0; 8]).unwrap_or(0), 0, "and that is the end");
    assert_eq!(
        first.transmit(&[0, 1, 2, 3]).unwrap(),
        [0, 1, 2, 3],
        "nothing of it is the first one's"
    );
}

/// One who leaves and comes back is not sent away for itself, however quickly it is back.
#[test]
fn a_reader_that_has_gone_is_in_nobodys_way() {
    let server = Server::start();
    for round in 0..200 {
        let mut card = server.card();
        assert_eq!(card.transmit(&[0, 1, 2, 3]).unwrap(), [0, 1, 2, 3], "{round}");
        if round % 3 == 0 {
            thread::sleep(Duration::from_millis(round));
        }
    }
}

/// A peer in the card's place that does one thing with each connection.
fn rogue(answer: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for _ in 0..2 {
            answer(listener.accept().unwrap().0);
        }
    });
    address
}

#[test]
fn a_card_that_says_nothing_or_half_of_it_does_not_hold_the_reader() {
    let quiet: [fn(TcpStream); 3] = [
        |_stream| thread::sleep(2 * SECOND),
        |mut stream| {
            stream.write_all(&[0xFF]).unwrap();
            thread::sleep(2 * SECOND);
        },
        |mut stream| {
            stream.write_all(&[0xFF, 0xFF, 1]).unwrap();
            for _ in 0..40 {
                let _ = stream.write_all(&[1]);
                thread::sleep(Duration::from_millis(50));
            }
        },
    ];
    for behaviour in quiet {
        let address = rogue(behaviour);
        let begun = Instant::now();
        let error = SocketCard::open(&address.to_string(), Duration::from_millis(300))
            .err()
            .unwrap();
        assert!(matches!(error, TransportError::Timeout), "{error}");
        assert!(begun.elapsed() < Duration::from_millis(1500));
    }
}

#[test]
fn a_late_answer_is_never_taken_for_the_next_one() {
    let address = rogue(|mut stream| {
        let mut scratch = [0; 64];
        // Power on and GET ATR, then the command: its answer comes too late.
        let _ = stream.read(&mut scratch);
        stream.write_all(&[0, 2, 0x3B, 0x00]).unwrap();
        while stream.read(&mut scratch).is_ok_and(|n| n > 0) {
            thread::sleep(Duration::from_millis(400));
            let _ = stream.write_all(&[0, 2, 0x90, 0x00]);
        }
    });
    let mut card = SocketCard::open(&address.to_string(), Duration::from_millis(200)).unwrap();
    assert!(matches!(
        card.transmit(&[0, 1, 2, 3]),
        Err(TransportError::Timeout)
    ));
    thread::sleep(Duration::from_millis(300));
    assert!(matches!(
        card.transmit(&[0, 1, 2, 3]),
        Err(TransportError::GivenUp)
    ));
}

/// Asking again brings the late answer or the new one; what is left over is dropped before the next command.
#[test]
fn the_same_command_may_be_asked_again_over_a_silent_connection() {
    let address = rogue(|mut stream| {
        let mut frames = 0;
        loop {
            let mut length = [0; 2];
            if stream.read_exact(&mut length).is_err() {
                break;
            }
            let mut body = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut body).unwrap();
            match body[..] {
                [4] => stream.write_all(&[0, 2, 0x3B, 0x00]).unwrap(),
                [_] => {}
                [.., last] => {
                    frames += 1;
                    if frames == 1 {
                        thread::sleep(Duration::from_millis(400));
                    }
                    stream.write_all(&[0, 3, last, 0x90, 0x00]).unwrap();
                }
                [] => {}
            }
        }
    });
    let mut card = SocketCard::open(&address.to_string(), Duration::from_millis(200)).unwrap();
    let silent = card.transmit(&[0, 1, 2, 3]);
    assert!(matches!(silent, Err(TransportError::Timeout)));
    let given_up = card.transmit(&[0, 1, 2, 4]);
    assert!(
        matches!(given_up, Err(TransportError::GivenUp)),
        "for another command it stays given up"
    );
    thread::sleep(Duration::from_millis(100));
    let again = loop {
        match card.transmit_again(&[0, 1, 2, 3]) {
            Err(TransportError::Timeout) => {}
            other => break other,
        }
    };
    assert_eq!(again.unwrap(), [3, 0x90, 0x00]);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(card.transmit(&[0, 1, 2, 5]).unwrap(), [5, 0x90, 0x00]);
}

#[test]
fn nobody_there_is_an_error_in_time() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(matches!(
        SocketCard::open(&address.to_string(), SECOND),
        Err(TransportError::Io(_))
    ));
    assert!(matches!(
        SocketCard::open("no port", SECOND),
        Err(TransportError::Io(_))
    ));
}

#[test]
fn the_vpcd_client_comes_back_when_the_reader_does() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stop = Stop::new();
    let its_stop = stop.clone();
    let thread = thread::spawn(move || {
        let mut connected = 0;
        serve_vpcd(&address, &mut Echo::default(), &its_stop, &mut |event| {
            connected += u32::from(matches!(event, Served::Connected(_)));
        });
        connected
    });
    for _ in 0..3 {
        let mut reader = listener.accept().unwrap().0;
        reader.set_read_timeout(Some(5 * SECOND)).unwrap();
        assert_eq!(ask(&mut reader, &[0, 1, 1, 0, 1, 4]), ATR);
        // As Debian's vpcd does it: length and body in two calls.
        reader.write_all(&[0, 4]).unwrap();
        assert_eq!(ask(&mut reader, &[1, 2, 3, 4]), [1, 2, 3, 4]);
    }
    stop.stop();
    assert_eq!(thread.join().unwrap(), 3);
}

#[test]
fn a_command_of_one_byte_does_not_hang_vpcd_for_ever() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stop = Stop::new();
    let its_stop = stop.clone();
    let thread = thread::spawn(move || serve_vpcd(&address, &mut Echo::default(), &its_stop, &mut |_| ()));
    let mut reader = listener.accept().unwrap().0;
    reader.set_read_timeout(Some(5 * SECOND)).unwrap();
    // A reader that polls may be told as many control codes as it likes.
    for _ in 0..3 {
        reader.write_all(&[0, 1, 0]).unwrap();
        thread::sleep(SECOND);
        assert_eq!(ask(&mut reader, &[0, 1, 4]), ATR);
    }
    // This one waits: the connection ends, and there is a new one.
    reader.write_all(&[0, 1, 0]).unwrap();
    assert_eq!(
        reader.read(&mut [0; 8]).unwrap(),
        0,
        "nothing but the end of the connection"
    );
    let mut reader = listener.accept().unwrap().0;
    assert_eq!(ask(&mut reader, &[0, 1, 4]), ATR);
    stop.stop();
    thread.join().unwrap();
}

#[test]
fn length_and_body_in_two_calls_do_not_wait_for_the_delayed_acknowledgement() {
    let server = Server::start();
    let mut reader = server.raw();
    let begun = Instant::now();
    for _ in 0..20 {
        reader.write_all(&[0, 4]).unwrap();
        assert_eq!(ask(&mut reader, &[1, 2, 3, 4]), [1, 2, 3, 4]);
    }
    // With the 40 ms of each delayed acknowledgement this would take 800 ms.
    assert!(
        begun.elapsed() < Duration::from_millis(400),
        "{:?}",
        begun.elapsed()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_end_the_server(garbage in proptest::collection::vec(any::<u8>(), 0..400)) {
        let server = Server::start();
        let mut stream = server.raw();
        stream.write_all(&garbage).unwrap();
        drop(stream);
        prop_assert_eq!(server.card().transmit(&[0, 1, 2, 3]).unwrap(), [0, 1, 2, 3]);
    }
}
