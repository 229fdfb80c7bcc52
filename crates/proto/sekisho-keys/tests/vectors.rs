//! Published test vectors, and values computed by other software; the source stands beside each.
#![allow(clippy::unwrap_used)] // helpers are no #[test] functions, which clippy.toml allows it in

use sekisho_keys::p256dh::EphemeralKey;
use sekisho_keys::p256sig::{SignatureError, SigningKey, VerifyingKey};
use sekisho_keys::{
    AesKey, BlockCipher, LengthError, Rng, Siv, SivError, UnwrapError, cbc_decrypt, cbc_encrypt, cmac,
    ctr_xor, diversify, ecb_block, kcv_aes, kdf_label, key_unwrap, key_wrap, sha256,
};

fn hex(text: &str) -> Vec<u8> {
    hex::decode(text.replace(' ', "")).unwrap()
}

fn array<const N: usize>(text: &str) -> [u8; N] {
    hex(text).try_into().unwrap()
}

fn key(text: &str) -> AesKey {
    AesKey::new(&hex(text)).unwrap()
}

// SP 800-38A appendix F and SP 800-38B appendix D use the same keys and the same four blocks.
const KEY_128: &str = "2b7e151628aed2a6abf7158809cf4f3c";
const KEY_192: &str = "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b";
const KEY_256: &str = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4";
const BLOCKS: &str = "6bc1bee22e409f96e93d7e117393172a ae2d8a571e03ac9c9eb76fac45af8e51 \
                      30c81c46a35ce411e5fbc1191a0a52ef f69f2445df4f9b17ad2b417be66c3710";

#[test]
fn cmac_of_rfc_4493_and_sp_800_38b() {
    // Message lengths 0, 16, 40 and 64: RFC 4493 section 4 (AES-128), SP 800-38B appendix D.2 and D.3.
    let table = [
        (
            KEY_128,
            [
                "bb1d6929e95937287fa37d129b756746",
                "070a16b46b4d4144f79bdd9dd04a287c",
                "dfa66747de9ae63030ca32611497c827",
                "51f0bebf7e3b9d92fc49741779363cfe",
            ],
        ),
        (
            KEY_192,
            [
                "d17ddf46adaacde531cac483de7a9367",
                "9e99a7bf31e710900662f65e617c5184",
                "8a1de5be2eb31aad089a82e6ee908b0e",
                "a1d5df0eed790f794d77589659f39a11",
            ],
        ),
        (
            KEY_256,
            [
                "028962f61b7bf89efc6b551f4667d983",
                "28a7023f452e8f82bd4bf28d8c37c35c",
                "aaf3d8f1de5640c232f5b169b9c911e6",
                "e1992190549f6ed5696a2c056c315410",
            ],
        ),
    ];
    let message = hex(BLOCKS);
    for (k, macs) in table {
        for (len, mac) in [0, 16, 40, 64].into_iter().zip(macs) {
            assert_eq!(cmac(&key(k), &[&message[..len]]), array(mac), "length {len}");
        }
    }
}

#[test]
fn cbc_of_sp_800_38a() {
    // F.2.1 to F.2.6.
    let table = [
        (
            KEY_128,
            "7649abac8119b246cee98e9b12e9197d 5086cb9b507219ee95db113a917678b2 \
             73bed6b8e3c1743b7116e69e22229516 3ff1caa1681fac09120eca307586e1a7",
        ),
        (
            KEY_192,
            "4f021db243bc633d7178183a9fa071e8 b4d9ada9ad7dedf4e5e738763f69145a \
             571b242012fb7ae07fa9baac3df102e0 08b0e27988598881d920a9e64f5615cd",
        ),
        (
            KEY_256,
            "f58c4c04d6e5f1ba779eabfb5f7bfbd6 9cfc4e967edb808d679f777bc6702c7d \
             39f23369a9d9bacfa530e26304231461 b2eb05e2c39be9fcda6c19078c6a9d1b",
        ),
    ];
    let iv = array("000102030405060708090a0b0c0d0e0f");
    for (k, ciphertext) in table {
        let mut buf = hex(BLOCKS);
        cbc_encrypt(&key(k), &iv, &mut buf).unwrap();
        assert_eq!(buf, hex(ciphertext));
        cbc_decrypt(&key(k), &iv, &mut buf).unwrap();
        assert_eq!(buf, hex(BLOCKS));
    }
    let mut odd = [7; 17];
    assert_eq!(cbc_encrypt(&key(KEY_128), &iv, &mut odd), Err(LengthError));
    assert_eq!(cbc_decrypt(&key(KEY_128), &iv, &mut odd), Err(LengthError));
    assert_eq!(odd, [7; 17]);
}

#[test]
fn ecb_of_sp_800_38a() {
    // F.1.1.
    let mut block = array("6bc1bee22e409f96e93d7e117393172a");
    ecb_block(&key(KEY_128), &mut block);
    assert_eq!(block, array("3ad77bb40d7a3660a89ecaf32466ef97"));
}

#[test]
fn ctr_of_sp_800_38a() {
    // F.5.1, whole and from every offset.
    let ciphertext = hex(
        "874d6191b620e3261bef6864990db6ce 9806f66b7970fdff8617187bb9fffdff \
                          5ae4df3edbd5d35e5b4f09020db03eab 1e031dda2fbe03d1792170a0f3009cee",
    );
    let iv = array("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff");
    for offset in 0..=64 {
        let mut buf = hex(BLOCKS)[offset..].to_vec();
        ctr_xor(&key(KEY_128), &iv, offset as u64, &mut buf).unwrap();
        assert_eq!(buf, ciphertext[offset..], "offset {offset}");
    }
}

#[test]
fn ctr_counts_with_all_128_bits() {
    // The second counter block of an all-one first one is zero (SP 800-38A B.1).
    let mut second = [0; 16];
    ecb_block(&key(KEY_128), &mut second);
    let mut buf = [0; 32];
    ctr_xor(&key(KEY_128), &[0xFF; 16], 0, &mut buf).unwrap();
    assert_eq!(buf[16..], second);
}

#[test]
fn siv_of_rfc_5297() {
    // Appendix A.1: fewer bytes than a block; A.2 with another key and three headers: more.
    let key = array("fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff");
    let header = hex("101112131415161718191a1b1c1d1e1f2021222324252627");
    let plain = hex("112233445566778899aabbccddee");
    let mut text = plain.clone();
    let tag = Siv::new(&key).seal(&[&header], &mut text);
    assert_eq!(hex::encode(tag), "85632d07c6e8f37f950acd320a2ecc93");
    assert_eq!(hex::encode(&text), "40c02b9690c4dc04daef7f6afe5c");
    Siv::new(&key).open(&[&header], &mut text, &tag).unwrap();
    assert_eq!(text, plain);

    let key = array("7f7e7d7c7b7a79787776757473727170404142434445464748494a4b4c4d4e4f");
    let headers = [
        hex("00112233445566778899aabbccddeeffdeaddadadeaddadaffeeddccbbaa99887766554433221100"),
        hex("102030405060708090a0"),
        hex("09f911029d74e35bd84156c5635688c0"),
    ];
    let plain =
        hex("7468697320697320736f6d6520706c61696e7465787420746f20656e6372797074207573696e67205349562d414553");
    let mut text = plain.clone();
    let tag = Siv::new(&key).seal(&headers, &mut text);
    assert_eq!(hex::encode(tag), "7bdb6e3b432667eb06f4d14bff2fbd0f");
    assert_eq!(
        hex::encode(&text),
        "cb900f2fddbe404326601965c889bf17dba77ceb094fa663b7a3f748ba8af829ea64ad544a272e9c485b62a3fd5c0d"
    );
    // One cipher for both directions and many messages; what is not authentic is refused.
    let mut siv = Siv::new(&key);
    for bit in 0..8 {
        let (mut changed, mut sealed) = (tag, text.clone());
        changed[bit] ^= 1 << bit;
        assert_eq!(siv.open(&headers, &mut sealed, &changed), Err(SivError));
        assert_eq!(sealed, text, "what was not authentic is not decrypted");
    }
    siv.open(&headers, &mut text, &tag).unwrap();
    assert_eq!(text, plain);
}

#[test]
fn agreement_of_the_cavp() {
    // NIST CAVP, KAS ECC CDH primitive, P-256, COUNT 0: the private key comes out of the generator.
    struct Scalar(Vec<u8>);
    impl Rng for Scalar {
        fn fill(&mut self, out: &mut [u8]) {
            out.copy_from_slice(&self.0);
        }
    }
    let scalar = hex("7d7dc5f71eb29ddaf80d6214632eeae03d9058af1fb6d22ed80badb62bc1a534");
    let own = || EphemeralKey::generate(&mut Scalar(scalar.clone())).unwrap();
    assert_eq!(
        hex::encode(own().public_key()),
        "04ead218590119e8876b29146ff89ca61770c4edbbf97d38ce385ed281d8a6b23028af61281fd35e2fa7002523acc85a429cb06ee6648325389f59edfce1405141"
    );
    let peer = hex(
        "04700c48f77f56584c5cc632ca65640db91b6bacce3a4df6b42ce7cc838833d287db71e509e3fd9b060ddb20ba5c51dcc5948d46fbf640dfe0441782cab85fa4ac",
    );
    assert_eq!(
        hex::encode(own().agree(&peer).unwrap()),
        "46fc62106420ff012e54a434fbdd2d25ccc5852060561e68040dd7778997bd7b"
    );
    let mut off_the_curve = peer.clone();
    off_the_curve[64] ^= 1;
    assert!(own().agree(&off_the_curve).is_err());
    assert!(own().agree(&peer[..64]).is_err());
    assert!(own().agree(&[&peer[..], &[0]].concat()).is_err());
    assert!(EphemeralKey::generate(&mut Scalar(vec![0; 32])).is_err());
    assert!(EphemeralKey::generate(&mut Scalar(vec![0xFF; 32])).is_err());
}

#[test]
fn single_blocks_are_those_of_ecb() {
    let mut block = array(&BLOCKS[..32]);
    let cipher = BlockCipher::new(&array(KEY_128));
    cipher.encrypt(&mut block);
    let mut other = array(&BLOCKS[..32]);
    ecb_block(&key(KEY_128), &mut other);
    assert_eq!(block, other);
    cipher.decrypt(&mut block);
    assert_eq!(block, array::<16>(&BLOCKS[..32]));
}

#[test]
fn key_wrap_of_rfc_3394() {
    // Sections 4.1, 4.3 and 4.6.
    let kek = "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F";
    let keys = "00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F";
    for (kek_len, len, wrapped) in [
        (16, 16, "1FA68B0A8112B447AEF34BD8FB5A7B829D3E862371D2CFE5"),
        (32, 16, "64E8C3F9CE0F5BA263E9777905818A2A93C8191E7D6E8AE7"),
        (
            32,
            32,
            "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21",
        ),
    ] {
        let kek = key(&kek[..kek_len * 2]);
        let keys = &hex(keys)[..len];
        let mut out = vec![0; len + 8];
        key_wrap(&kek, keys, &mut out).unwrap();
        assert_eq!(out, hex(wrapped));
        let mut back = vec![0; len];
        key_unwrap(&kek, &out, &mut back).unwrap();
        assert_eq!(back, keys);
        for bit in 0..out.len() * 8 {
            let mut bad = out.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            back.fill(0xEE);
            assert_eq!(key_unwrap(&kek, &bad, &mut back), Err(UnwrapError));
            assert!(back.iter().all(|b| *b == 0), "nothing of a refused key is left");
        }
    }
}

#[test]
fn key_wrap_takes_only_lengths_that_fit() {
    let kek = key(KEY_128);
    for (keys, out) in [(16, 23), (16, 25), (17, 25), (8, 16), (0, 8), (0, 0), (24, 0)] {
        assert_eq!(
            key_wrap(&kek, &vec![0; keys], &mut vec![0; out]),
            Err(LengthError),
            "{keys} {out}"
        );
        assert_eq!(
            key_unwrap(&kek, &vec![0; out], &mut vec![0; keys]),
            Err(UnwrapError),
            "{keys} {out}"
        );
    }
}

#[test]
fn ecdsa_of_rfc_6979() {
    // Appendix A.2.5, SHA-256.
    let signing = SigningKey::from_bytes(&array(
        "C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721",
    ))
    .unwrap();
    let verifying = signing.verifying_key();
    let point = array(
        "04 60FED4BA255A9D31C961EB74C6356D68C049B8923B61FA6CE669622E60F29FB6 \
         7903FE1008B8BC99A41AE9E95628BC64F2F1B20C2D7E9F5177A3C294D4462299",
    );
    assert_eq!(verifying.to_sec1(), point);
    assert_eq!(VerifyingKey::from_sec1(&point), Ok(verifying));
    for (message, signature) in [
        (
            "sample",
            "EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716 \
             F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8",
        ),
        (
            "test",
            "F1ABB023518351CD71D881567B1EA663ED3EFCF6C5132B354F28D3B0B7D38367 \
             019F4113742A2B14BD25926B49C649155F267E60D3814B4C0CC84250E46F0083",
        ),
    ] {
        let signature = array(signature);
        assert_eq!(signing.sign(message.as_bytes()), signature);
        assert_eq!(verifying.verify(message.as_bytes(), &signature), Ok(()));
        let (head, tail) = message.as_bytes().split_at(2);
        assert_eq!(signing.sign_parts(&[head, tail]), signature);
        assert_eq!(verifying.verify_parts(&[head, tail], &signature), Ok(()));
        assert_eq!(verifying.verify(b"other", &signature), Err(SignatureError));
        for bit in [0, 255, 256, 511] {
            let mut bad = signature;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(verifying.verify(message.as_bytes(), &bad), Err(SignatureError));
        }
    }
    for bad in [[0; 64], [0xFF; 64]] {
        assert_eq!(verifying.verify(b"sample", &bad), Err(SignatureError));
    }
}

#[test]
fn what_is_no_p256_key() {
    // The group's order n (SP 800-186, 3.2.1.3) is the first value that is too large.
    let order = array("FFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551");
    for bytes in [[0; 32], order, [0xFF; 32]] {
        assert!(SigningKey::from_bytes(&bytes).is_err());
    }
    assert!(VerifyingKey::from_sec1(&[0; 65]).is_err());
    let mut off_curve = [1; 65];
    off_curve[0] = 4;
    assert!(VerifyingKey::from_sec1(&off_curve).is_err());

    struct Stuck;
    impl Rng for Stuck {
        fn fill(&mut self, out: &mut [u8]) {
            out.fill(0);
        }
    }
    assert!(SigningKey::generate(&mut Stuck).is_err());
}

#[test]
fn sha256_of_fips_180() {
    // The one-block example "abc" of FIPS 180-2, B.1.
    let digest = array("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(sha256(&[b"abc"]), digest);
    assert_eq!(sha256(&[b"a", b"", b"bc"]), digest);
}

#[test]
fn key_check_values() {
    // osmocom/pysim tests/unittests/test_globalplatform.py: SCP03_KCV_Test, its AES-128 keys.
    for (k, kcv) in [
        ("000102030405060708090a0b0c0d0e0f", "C35280"),
        ("101112131415161718191a1b1c1d1e1f", "013808"),
        ("202122232425262728292a2b2c2d2e2f", "840DE5"),
    ] {
        assert_eq!(kcv_aes(&key(k)), array(kcv));
    }
}

#[test]
fn kdf_label_agrees_with_python_cryptography() {
    // KBKDFCMAC(AES, Mode.CounterMode, length, rlen=1, llen=2, CounterLocation.BeforeFixed, label, context) of python-cryptography
    // 48.0.0, over OpenSSL; the key is 00, 01, 02, ...
    let table: [(usize, &str, &str, &str); 4] = [
        (
            16,
            "SK image",
            "000102030405060708090a0b0c0d0e0f",
            "960c1e354c23d6eb65bff199873a25b6",
        ),
        (
            16,
            "SK broadcast",
            "6465666768696a6b6c6d6e6f707172737475767778797a7b",
            "35224d6d691f387ff34ffa0050aef08f3457c3dff147f3584675de9dfbfa111a679e8cb9cf2d42fc590837b79e80a7af",
        ),
        (
            32,
            "SK key wrap",
            "",
            "6d200f988cc409af2cf330d52d23867717dd9c29ba971641a375af09003509ea62852b60ea709d07",
        ),
        (24, "SK resume", "0000000000000000", "15bd6ed8e51d2efc"),
    ];
    for (key_len, label, context, expected) in table {
        let bytes: Vec<u8> = (0..32).collect();
        let mut out = vec![0; expected.len() / 2];
        kdf_label(
            &AesKey::new(&bytes[..key_len]).unwrap(),
            label.as_bytes(),
            &hex(context),
            &mut out,
        );
        assert_eq!(out, hex(expected), "{label}");
    }
}

#[test]
fn diversification_agrees_with_openssl() {
    // AES-CBC of python-cryptography 48.0.0 (OpenSSL) over the blocks of the specification; master key 40, 41, 42, ...
    let master: Vec<u8> = (0x40..0x60).collect();
    for (len, expected) in [
        (16, "7b1ffc169c33ffa093f4eac76c2f243c"),
        (24, "03695e1d66b03c50c812c9cf5a358c37cf11d5f31931e089"),
        (
            32,
            "f60438ed35300490c74fb7bbd2ff11e33c6ab15a8f67e6147da09b95d33ae049",
        ),
    ] {
        let master = AesKey::new(&master[..len]).unwrap();
        assert_eq!(
            diversify::key(&master, &array("00112233445566778899"), 0x30, 0x02),
            key(expected)
        );
    }
}

// Not where another engine is built: what makes the cases is no small part of that build.
#[cfg(not(sekisho_crypto = "custom"))]
mod properties {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    proptest! {
        #[test]
        fn a_message_in_parts_is_the_same_message(
            message in proptest::collection::vec(any::<u8>(), 0..100),
            cuts in proptest::collection::vec(0usize..100, 0..5),
            k in any::<[u8; 32]>(),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(message.len())).collect();
            cuts.extend([0, message.len()]);
            cuts.sort_unstable();
            let parts: Vec<&[u8]> = cuts.windows(2).map(|w| &message[w[0]..w[1]]).collect();
            for len in [16, 24, 32] {
                let key = AesKey::new(&k[..len]).unwrap();
                prop_assert_eq!(cmac(&key, &parts), cmac(&key, &[&message]));
            }
            prop_assert_eq!(sha256(&parts), sha256(&[&message]));
        }

        #[test]
        fn constant_time_comparison_compares(a in proptest::collection::vec(any::<u8>(), 0..8), b in proptest::collection::vec(any::<u8>(), 0..8)) {
            prop_assert_eq!(sekisho_keys::ct_eq(&a, &b), a == b);
            prop_assert!(sekisho_keys::ct_eq(&a, &a.clone()));
        }
    }
}
