use super::*;
use crate::nvm::tests::Bench;

fn set(first: u8, len: usize) -> KeyRecord {
    let key = |byte: u8| AesKey::new(&[byte; 32][..len]).unwrap();
    let set = KeySet {
        enc: key(first),
        mac: key(first + 1),
        dek: key(first + 2),
    };
    KeyRecord::of_set(&set).unwrap()
}

fn aes(kid: u8, byte: u8, len: usize) -> KeyRecord {
    let mut record = KeyRecord::new();
    record.push(kid, key_type::AES, &[byte; 32][..len]).unwrap();
    record
}

fn store<'r, 'a>(records: &'r mut Records<'a>) -> KeyStore<'r, 'a> {
    KeyStore {
        records,
        domain: EntryId::FIRST,
    }
}

fn sw<T>(result: Result<T, Refusal>) -> u16 {
    result.err().map_or(0x9000, |refusal| refusal.0.0)
}

#[test]
fn a_sequence_counter_counts_to_its_end_and_no_further() {
    let mut bench = Bench::new();
    let mut records = bench.records();
    let mut keys = store(&mut records);
    keys.put(0, 0x30, &set(1, 16)).unwrap();
    assert_eq!(keys.next_sequence(0x30), Ok(1));
    keys.put_counter(RecordKind::SequenceCounter, 0x30, SEQUENCE_MAX - 1)
        .unwrap();
    assert_eq!(keys.next_sequence(0x30), Ok(SEQUENCE_MAX));
    assert_eq!(sw(keys.next_sequence(0x30)), 0x6985);
    assert_eq!(keys.sequence(0x30), Ok(SEQUENCE_MAX));
    assert_eq!(sw(keys.next_sequence(0x31)), 0x6A88);
}

#[test]
fn a_new_set_goes_on_from_the_highest_counter_there_ever_was() {
    let mut bench = Bench::new();
    let mut records = bench.records();
    let mut keys = store(&mut records);
    keys.put(0, 0x30, &set(1, 16)).unwrap();
    keys.put(0, 0x31, &set(4, 16)).unwrap();
    for _ in 0..7 {
        keys.next_sequence(0x30).unwrap();
    }
    assert_eq!(keys.next_sequence(0x31), Ok(1));
    // Replaced, added, deleted and put again: of a version that is gone the record alone knows.
    keys.put(0x31, 0x31, &set(7, 16)).unwrap();
    assert_eq!(keys.next_sequence(0x31), Ok(8));
    keys.delete(Some(0x31), None).unwrap();
    assert_eq!(sw(keys.sequence(0x31)), 0x6A88);
    keys.put(0, 0x31, &set(4, 16)).unwrap();
    assert_eq!(keys.next_sequence(0x31), Ok(9));
    assert_eq!(keys.next_sequence(0x30), Ok(8));
    // A card of version 0.1 has no such record: what stands is what is known.
    let highest = keys.name(RecordKind::HighestSequence, 0);
    keys.records.remove(highest).unwrap();
    keys.put(0, 0x32, &set(20, 16)).unwrap();
    assert_eq!(keys.next_sequence(0x32), Ok(10));
    // A key that no counter is used with leaves the counter of its version alone.
    keys.put(0, 0x30, &aes(0x10, 9, 16)).unwrap();
    assert_eq!(keys.next_sequence(0x30), Ok(9));
}

#[test]
fn the_default_version_follows_the_keys() {
    let mut bench = Bench::new();
    let mut records = bench.records();
    let mut keys = store(&mut records);
    assert_eq!(sw(keys.resolve(0)), 0x6A88);
    keys.put(0, 0x30, &set(1, 16)).unwrap();
    keys.put(0, 0x20, &set(4, 32)).unwrap();
    assert_eq!(keys.resolve(0), Ok(0x30));
    keys.put(0x30, 0x31, &set(7, 16)).unwrap();
    assert_eq!(keys.resolve(0), Ok(0x31));
    // Keys that are no set are nobody's default, and no way in.
    keys.put(0, 0x10, &aes(1, 40, 16)).unwrap();
    keys.delete(Some(0x31), None).unwrap();
    assert_eq!(keys.resolve(0), Ok(0x20));
    assert_eq!(sw(keys.delete(Some(0x20), None)), 0x6985);
    // Nor can the last set leave for where no secure channel is opened.
    assert_eq!(sw(keys.put(0x20, 0x70, &set(50, 32))), 0x6A80);
}

#[test]
fn a_set_may_come_key_by_key_and_the_initial_keys_go_when_it_is_whole() {
    let mut bench = Bench::new();
    let mut records = bench.records();
    let mut keys = store(&mut records);
    keys.put(0, KVN_INITIAL, &set(0x40, 16)).unwrap();
    keys.next_sequence(KVN_INITIAL).unwrap();
    for kid in 1..=3 {
        assert_eq!(keys.resolve(0), Ok(KVN_INITIAL));
        assert_eq!(sw(keys.scp_set(0x30)), 0x6A88);
        keys.put(0, 0x30, &aes(kid, kid, 16)).unwrap();
    }
    assert_eq!(keys.resolve(0), Ok(0x30));
    assert_eq!(sw(keys.scp_set(KVN_INITIAL)), 0x6A88);
    assert_eq!(keys.next_sequence(0x30), Ok(2));
    // One key of it is replaced, by one of its length alone; none is deleted, and none comes twice.
    keys.put(0x30, 0x30, &aes(2, 9, 16)).unwrap();
    assert_eq!(sw(keys.put(0x30, 0x30, &aes(2, 9, 32))), 0x6A80);
    assert_eq!(sw(keys.put(0, 0x30, &aes(2, 9, 16))), 0x6A80);
    assert_eq!(sw(keys.put(0x30, 0x31, &aes(2, 9, 16))), 0x6A80);
    assert_eq!(sw(keys.delete(Some(0x30), Some(2))), 0x6985);
    // Other keys of the version come and go.
    keys.put(0, 0x30, &aes(0x10, 1, 32)).unwrap();
    assert_eq!(sw(keys.put(0x30, 0x30, &aes(0x11, 1, 32))), 0x6A88);
    keys.delete(None, Some(0x10)).unwrap();
    assert_eq!(sw(keys.delete(None, Some(0x10))), 0x6A88);
    assert!(keys.scp_set(0x30).is_ok());
}

#[test]
fn a_key_serves_its_own_purpose_alone() {
    let mut bench = Bench::new();
    let mut records = bench.records();
    let mut keys = store(&mut records);
    keys.put(0, KVN_KOS, &aes(1, 0x61, 16)).unwrap();
    keys.put(0, 0x30, &set(1, 16)).unwrap();
    // Keys of the update open no secure channel, and no other key is read as the designer's.
    assert_eq!(sw(keys.scp_set(KVN_KOS)), 0x6A88);
    assert_eq!(sw(keys.designer()), 0x6A88);
    assert_eq!(sw(keys.put(0, KVN_K_AUT, &set(1, 16))), 0x6A80);
    assert_eq!(sw(keys.put(0, KVN_K_AUT, &aes(2, 1, 16))), 0x6A80);
    assert_eq!(sw(keys.put(KVN_KOS, 0x32, &aes(1, 1, 16))), 0x6A80);
    assert_eq!(sw(keys.put(0, KVN_DESIGNER, &aes(1, 1, 16))), 0x6A80);
    assert_eq!(sw(keys.put(0, KVN_PAIRING, &aes(2, 1, 16))), 0x6A80);
    assert_eq!(sw(keys.put(0, 0x80, &aes(1, 1, 16))), 0x6A80);
    assert_eq!(sw(keys.put(0, 0x33, &KeyRecord::new())), 0x6A80);
    keys.put(0, 0x70, &aes(1, 1, 16)).unwrap();
    // One length for the three keys of a set (Amd D 6.1); a set of another length takes its place as a whole.
    let mut mixed = aes(1, 0x70, 16);
    mixed.push(2, key_type::AES, &[0x71; 32]).unwrap();
    assert_eq!(sw(keys.put(0, 0x33, &mixed)), 0x6A80);
    keys.put(0x30, 0x30, &set(1, 32)).unwrap();
    assert_eq!(keys.scp_set(0x30).unwrap().enc.len(), 32);
}
