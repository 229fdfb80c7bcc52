//! PUT KEY and DELETE as a host sends them.

use sekisho_keys::{AesKey, KeySet, cbc_encrypt, kcv_aes};

use super::key;

/// A set of three keys, each of one byte over and over.
pub fn set(enc: u8, mac: u8, dek: u8, len: usize) -> KeySet {
    let key = |byte| key(&[byte; 32][..len]);
    KeySet {
        enc: key(enc),
        mac: key(mac),
        dek: key(dek),
    }
}

/// Key data field of an AES key (GPC Table 11-68), under Key-DEK.
pub fn aes_field(dek: &AesKey, key: &AesKey) -> Vec<u8> {
    let mut encrypted = key.as_bytes().to_vec();
    let len = u8::try_from(encrypted.len()).unwrap();
    encrypted.resize(encrypted.len().next_multiple_of(16), 0);
    cbc_encrypt(dek, &[0; 16], &mut encrypted).unwrap();
    let block = if len % 16 == 0 {
        encrypted
    } else {
        [&[len][..], &encrypted].concat()
    };
    [
        &[0x88, u8::try_from(block.len()).unwrap()][..],
        &block,
        &[3],
        &kcv_aes(key),
    ]
    .concat()
}

/// PUT KEY in the short form, or in the extended one where it has to be.
pub fn put_key(p1: u8, p2: u8, kvn: u8, fields: &[Vec<u8>]) -> Vec<u8> {
    let data = [&[kvn][..], &fields.concat()].concat();
    match u8::try_from(data.len()) {
        Ok(len) => [&[0x80, 0xD8, p1, p2, len][..], &data, &[0]].concat(),
        Err(_) => {
            let [high, low] = u16::try_from(data.len()).unwrap().to_be_bytes();
            [&[0x80, 0xD8, p1, p2, 0, high, low][..], &data].concat()
        }
    }
}

pub fn put_set(dek: &AesKey, p1: u8, kvn: u8, set: &KeySet) -> Vec<u8> {
    let fields = [&set.enc, &set.mac, &set.dek].map(|key| aes_field(dek, key));
    put_key(p1, 0x81, kvn, &fields)
}

pub fn delete(kvn: u8) -> [u8; 8] {
    [0x80, 0xE4, 0, 0, 3, 0xD2, 1, kvn]
}

/// The ways in which a command goes: whole, in two parts by P1 (GPC 11.8.2.1), in two segments by the class (ISO/IEC 7816-4).
pub fn ways(protected: &[u8]) -> [Vec<Vec<u8>>; 3] {
    let [cla, ins, p1, p2, len, data @ ..] = protected else {
        panic!("no command with data");
    };
    let (first, second) = data[..usize::from(*len)].split_at(3);
    let part = |cla: u8, p1: u8, data: &[u8]| {
        [&[cla, *ins, p1, *p2, u8::try_from(data.len()).unwrap()][..], data].concat()
    };
    [
        vec![protected.to_vec()],
        vec![part(*cla, p1 | 0x80, first), part(*cla, *p1, second)],
        vec![part(cla | 0x10, *p1, first), part(*cla, *p1, second)],
    ]
}
