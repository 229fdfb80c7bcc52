//! Any datagrams to a paging server and a device that has a poll out: nothing but the two real ones may change anything.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sekisho_paging::Uid;
use sekisho_paging::datagram::Reason;
use sekisho_paging::device::{Device, DeviceKey, State};
use sekisho_paging::keys::{Keyspace, Root};
use sekisho_paging::recovery::{Grant, Request};
use sekisho_paging::server::{RandomRecord, TicketRecord};
use sekisho_paging::ticket::{Ring, TicketKey};

fuzz_target!(|data: &[u8]| {
    let root = Root::new([1; 16]);
    let start = Keyspace::default();
    let mut ring = Ring::new();
    ring.add(TicketKey::new(0, 1, &[2; 16], true)).unwrap();
    let uid = ring.issuing(0).unwrap().seal(3, 0, 0);
    let key = root.poll_key(start);
    let mut ticket_record = TicketRecord::fixed(start, &key);
    let mut random_record = RandomRecord::new(uid, key, true);
    let mut device = Device::new(State::new(uid, start, DeviceKey::Fixed(root.clone()), 60));
    let poll = device.poll(Reason::PowerOn, [0; 4]);

    // With a prefix of 44 bytes the fuzzer finds the good identity by itself; without, noise.
    for datagram in [data, data.get(..44).unwrap_or_default()] {
        assert!(device.receive(datagram).is_err());
        let claimed = Uid::of(datagram);
        if let Some(ticket) = claimed.and_then(|claimed| ring.open(&claimed)) {
            let taken = ticket_record.receive(&ring, &ticket, datagram, |keyspace| Some(root.poll_key(keyspace)));
            assert!(taken.is_err() || datagram == poll);
        }
        assert!(random_record.receive(datagram).is_err() || datagram == poll);
    }
    // The same with the right identity in front.
    let mut forged = uid.0.to_vec();
    forged.extend_from_slice(data);
    forged.truncate(44);
    if let Some(ticket) = ring.open(&uid) {
        let taken = ticket_record.receive(&ring, &ticket, &forged, |_| None);
        assert!(taken.is_err() || forged == poll);
    }
    let recovery = root.recovery_key();
    assert!(Request::open(&recovery, data).is_err());
    let request = Request { se_id: [4; 10], keyspace: start, nonce: [5; 16] }.seal(&recovery);
    assert!(Grant::open(&recovery, &request, data).is_err());
    if let Ok(state) = State::restore(data) {
        assert_eq!(State::restore(&state.record().0), Ok(state));
    }
});
