//! How a build's engine is found: by the linker, as `getrandom` finds its backend. The symbols bear a version, so that an engine for other functions does not
//! link, and both sides are made by one list, so that their types agree.

macro_rules! engine {
    ($($symbol:ident, $name:ident($($argument:ident: $kind:ty),*) $(-> $result:ty)?;)*) => {
        // SAFETY: only `custom_crypto!` defines these symbols, with these types.
        #[allow(unsafe_code)]
        unsafe extern "Rust" {
            $(safe fn $symbol($($argument: $kind),*) $(-> $result)?;)*
        }

        $(pub(super) fn $name($($argument: $kind),*) $(-> $result)? {
            $symbol($($argument),*)
        })*

        /// Makes a type that is [`Crypto`](crate::Crypto) the engine of this build. A product says it once.
        #[macro_export]
        macro_rules! custom_crypto {
            ($engine:ty) => {
                const _: () = {
                    $(
                        #[unsafe(no_mangle)]
                        fn $symbol($($argument: $kind),*) $(-> $result)? {
                            <$engine as $crate::Crypto>::$name($($argument),*)
                        }
                    )*
                };
            };
        }
    };
}

engine! {
    __sekisho_crypto_1_aes_encrypt, aes_encrypt(key: &[u8], blocks: &mut [[u8; 16]]);
    __sekisho_crypto_1_aes_decrypt, aes_decrypt(key: &[u8], blocks: &mut [[u8; 16]]);
    __sekisho_crypto_1_aes_cbc_encrypt, aes_cbc_encrypt(key: &[u8], chain: &mut [u8; 16], blocks: &mut [[u8; 16]]);
    __sekisho_crypto_1_aes_cbc_decrypt, aes_cbc_decrypt(key: &[u8], chain: &mut [u8; 16], blocks: &mut [[u8; 16]]);
    __sekisho_crypto_1_aes_cbc_mac, aes_cbc_mac(key: &[u8], chain: &mut [u8; 16], blocks: &[[u8; 16]]);
    __sekisho_crypto_1_sha256, sha256(state: &mut [u32; 8], blocks: &[[u8; 64]]);
    __sekisho_crypto_1_p256_public_key, p256_public_key(private: &[u8; 32]) -> Option<[u8; 65]>;
    __sekisho_crypto_1_p256_is_point, p256_is_point(public: &[u8; 65]) -> bool;
    __sekisho_crypto_1_p256_sign, p256_sign(private: &[u8; 32], digest: &[u8; 32]) -> [u8; 64];
    __sekisho_crypto_1_p256_verify, p256_verify(public: &[u8; 65], digest: &[u8; 32], signature: &[u8; 64]) -> bool;
    __sekisho_crypto_1_p256_agree, p256_agree(private: &[u8; 32], public: &[u8; 65]) -> [u8; 32];
}
