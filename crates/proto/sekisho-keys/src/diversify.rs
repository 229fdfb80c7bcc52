//! Key diversification: the keys of one SE from a master key (broadcast update, section 1).

use crate::{AesKey, BLOCK, cbc_encrypt};

/// Key `kvn`/`kid` of the SE `se_id`, as long as `master`: the leading bytes of `AES-CBC(master, IV 0, B0 || B1)`, where
/// `Bj = se_id(10) || 000000 || j(1) || kvn(1) || kid(1)`.
///
/// PKCS#11's `CKM_AES_CBC_ENCRYPT_DATA` computes the same on any token, so a master key need not leave its HSM.
pub fn key(master: &AesKey, se_id: &[u8; 10], kvn: u8, kid: u8) -> AesKey {
    master.same_length(|out| {
        let mut iv = [0; BLOCK];
        for (j, chunk) in (0u8..).zip(out.chunks_mut(BLOCK)) {
            let [a, b, c, d, e, f, g, h, i, k] = *se_id;
            let mut block = zeroize::Zeroizing::new([a, b, c, d, e, f, g, h, i, k, 0, 0, 0, j, kvn, kid]);
            // One whole block: the length cannot be wrong.
            let _ = cbc_encrypt(master, &iv, block.as_mut_slice());
            chunk
                .iter_mut()
                .zip(block.iter())
                .for_each(|(to, from)| *to = *from);
            iv = *block;
        }
        zeroize::Zeroize::zeroize(&mut iv);
    })
}
