//! The design system: Kos, `K_MAC`, the designer's key, and packages made with them (spec 1, 3 and 4.2). Off line.

use std::path::Path;

use sekisho_apdu::Writer;
use sekisho_keys::p256sig::{SigningKey, VerifyingKey};
use sekisho_keys::{AesKey, cmac, ctr_xor, kcv_aes, kdf_label, key_wrap, sha256};
use sekisho_link::{
    Custody, Manifest, PACKAGE_MAX, Package, PackageBody, PackageSource, Version, codes, host_abi,
};
use sekisho_scp::host::BroadcastWriter;
use zeroize::Zeroizing;

use crate::broadcast::{FIRST_COUNTER, protect};
use crate::sealed::{self, Purpose};
use crate::soft::{SystemRng, new_key};
use crate::{HsmError, Result};

/// What every WebAssembly module begins with.
const WASM_MAGIC: &[u8; 8] = b"\0asm\x01\0\0\0";

/// What the design system holds for a product.
pub struct Ceremony {
    /// Kos.
    pub kos: AesKey,
    /// `K_MAC`.
    pub k_mac: AesKey,
    designer: SigningKey,
    /// Version of these keys in SEs: that of the first ones is 1, and each change has a higher one.
    key_version: u32,
}

impl std::fmt::Debug for Ceremony {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ceremony")
            .field("designer", &hex::encode(self.designer_public()))
            .finish_non_exhaustive()
    }
}

/// What a module becomes.
#[derive(Clone, Copy, Debug)]
pub struct PackOptions {
    /// Version of the part.
    pub version: u32,
    /// Least version that it may replace.
    pub min_previous: u32,
    /// Who makes the broadcast key set.
    pub custody: Custody,
}

/// BK-ENC, BK-MAC and the MAC chaining value before the first command, in custody 03.
pub type Broadcast = (AesKey, AesKey, [u8; 16]);

/// What a package brings.
pub(crate) struct Part<'a> {
    pub(crate) target: u8,
    pub(crate) code_format: u8,
    pub(crate) abi: u8,
    pub(crate) image: &'a [u8],
}

/// A broadcast key set of the design system's, where it makes it.
pub(crate) fn new_broadcast(custody: Custody) -> Result<Option<Broadcast>> {
    match custody {
        Custody::Hsm => Ok(None),
        Custody::DesignSystem => {
            let mut chaining_value = [0; 16];
            getrandom::fill(&mut chaining_value).map_err(HsmError::Random)?;
            Ok(Some((new_key()?, new_key()?, chaining_value)))
        }
    }
}

/// Two keys of one length under a key-wrap key (RFC 3394).
pub(crate) fn wrapped(kek: &AesKey, first: &AesKey, second: &AesKey) -> Result<Vec<u8>> {
    let mut pair = Zeroizing::new(Vec::with_capacity(64));
    pair.extend_from_slice(first.as_bytes());
    pair.extend_from_slice(second.as_bytes());
    let mut out = vec![0; pair.len() + 8];
    key_wrap(kek, &pair, &mut out).map_err(|_| HsmError::Request("the keys cannot be wrapped"))?;
    Ok(out)
}

impl Ceremony {
    /// Makes new keys.
    ///
    /// # Errors
    /// [`HsmError::Random`].
    pub fn generate() -> Result<Self> {
        let mut rng = SystemRng(Ok(()));
        let designer = SigningKey::generate(&mut rng).map_err(|_| HsmError::Request("the designer's key"));
        rng.0.map_err(HsmError::Random)?;
        Ok(Self {
            kos: new_key()?,
            k_mac: new_key()?,
            designer: designer?,
            key_version: Manifest::FIRST_KEY_VERSION,
        })
    }

    /// Keys given, of key version 1: for worked examples.
    pub const fn from_keys(kos: AesKey, k_mac: AesKey, designer: SigningKey) -> Self {
        Self {
            kos,
            k_mac,
            designer,
            key_version: Manifest::FIRST_KEY_VERSION,
        }
    }

    /// The same keys, of another key version.
    #[must_use]
    pub fn with_key_version(self, key_version: u32) -> Self {
        Self { key_version, ..self }
    }

    /// Version of these keys in SEs.
    pub const fn key_version(&self) -> u32 {
        self.key_version
    }

    /// Writes the ceremony file, sealed under a passphrase: Kos(16), `K_MAC`(16), the designer's private key(32), and key-version(4) when it is not 1.
    /// An existing file is not replaced.
    ///
    /// # Errors
    /// [`HsmError::File`].
    pub fn save(&self, path: &Path, passphrase: &[u8]) -> Result<()> {
        let mut content = Zeroizing::new(Vec::with_capacity(68));
        content.extend_from_slice(self.kos.as_bytes());
        content.extend_from_slice(self.k_mac.as_bytes());
        content.extend_from_slice(&*self.designer.to_bytes());
        if self.key_version != Manifest::FIRST_KEY_VERSION {
            content.extend_from_slice(&self.key_version.to_be_bytes());
        }
        sealed::write(path, Purpose::Ceremony, passphrase, &content)
    }

    /// Opens a ceremony file.
    ///
    /// # Errors
    /// [`HsmError::File`]; [`HsmError::Sealed`] for a wrong passphrase or a changed file.
    pub fn load(path: &Path, passphrase: &[u8]) -> Result<Self> {
        let content = sealed::read(path, Purpose::Ceremony, passphrase)?;
        let unreadable = || HsmError::Sealed("the ceremony file holds something unreadable");
        let (keys, rest) = content.split_at_checked(32).ok_or_else(unreadable)?;
        let (designer, version) = rest.split_first_chunk::<32>().ok_or_else(unreadable)?;
        let key_version = match version {
            [] => Manifest::FIRST_KEY_VERSION,
            version => u32::from_be_bytes(version.try_into().map_err(|_| unreadable())?),
        };
        let key = |bytes: &[u8]| AesKey::new(bytes).map_err(|_| unreadable());
        Ok(Self {
            kos: key(&keys[..16])?,
            k_mac: key(&keys[16..])?,
            designer: SigningKey::from_bytes(designer).map_err(|_| unreadable())?,
            key_version,
        })
    }

    /// The keys of `new`, but the designer's, which is this one.
    pub(crate) fn designed_by_this(&self, new: Self) -> Self {
        let designer = self.designer.clone();
        Self { designer, ..new }
    }

    /// The designer's key of `new`, with these keys.
    pub(crate) fn keyed_by_this(&self, new: Self) -> Self {
        let (kos, k_mac) = (self.kos.clone(), self.k_mac.clone());
        Self { kos, k_mac, ..new }
    }

    /// The designer's public key, uncompressed.
    pub fn designer_public(&self) -> [u8; 65] {
        self.designer.verifying_key().to_sec1()
    }

    /// Key check values of Kos and `K_MAC`, for the ceremony's record.
    pub fn check_values(&self) -> ([u8; 3], [u8; 3]) {
        (kcv_aes(&self.kos), kcv_aes(&self.k_mac))
    }

    /// Makes a package of a module.
    ///
    /// # Errors
    /// [`HsmError::Request`] when it is no module, too long, or its versions contradict each other.
    pub fn pack(&self, module: &[u8], options: PackOptions) -> Result<Vec<u8>> {
        let mut package_id = [0; 16];
        getrandom::fill(&mut package_id).map_err(HsmError::Random)?;
        self.pack_with(module, options, package_id, new_broadcast(options.custody)?)
    }

    /// [`Ceremony::pack`] with what is random given: package-id and, in custody 03, BK-ENC, BK-MAC and chaining value.
    ///
    /// # Errors
    /// As [`Ceremony::pack`].
    pub fn pack_with(
        &self,
        module: &[u8],
        options: PackOptions,
        package_id: [u8; 16],
        broadcast: Option<Broadcast>,
    ) -> Result<Vec<u8>> {
        check(module)?;
        let part = Part {
            target: Manifest::OS_PART,
            code_format: Manifest::WEBASSEMBLY,
            abi: host_abi(module),
            image: module,
        };
        self.package(&part, options, package_id, broadcast)
    }

    /// Makes a package of any target.
    pub(crate) fn package(
        &self,
        part: &Part<'_>,
        options: PackOptions,
        package_id: [u8; 16],
        broadcast: Option<Broadcast>,
    ) -> Result<Vec<u8>> {
        if options.version == 0 || options.min_previous >= options.version {
            return Err(HsmError::Request(
                "the version must be above 0 and above the least version that it may replace",
            ));
        }
        let manifest = Manifest {
            target: part.target,
            code_format: part.code_format,
            abi: part.abi,
            version: options.version,
            min_previous: options.min_previous,
            length: u32::try_from(part.image.len()).map_err(|_| HsmError::TooLong)?,
            package_id,
            digest: sha256(&[part.image]),
        };
        let signature = self
            .designer
            .sign_parts(&[codes::MANIFEST_SIGNATURE_PREFIX, &manifest.encode()]);
        let message = codes::design_code_message(&manifest);
        let source = |design_code, body| PackageSource {
            version: Version::Two,
            manifest,
            signature,
            design_code,
            body,
        };
        match broadcast {
            None => {
                let image_key = derived(&self.kos, codes::LABEL_IMAGE, &package_id)?;
                let mut ciphertext = part.image.to_vec();
                ctr_xor(&image_key, &package_id, 0, &mut ciphertext).map_err(|_| HsmError::TooLong)?;
                let body = PackageBody::Hsm {
                    ciphertext: &ciphertext,
                };
                self.seal(&source(cmac(&self.k_mac, &[&message]), body))
            }
            Some((bk_enc, bk_mac, chaining_value)) => {
                let k_int = derived(&bk_mac, codes::LABEL_INTEGRITY, &package_id)?;
                let kek = derived(&self.kos, codes::LABEL_KEY_WRAP, &[])?;
                let wrapped = wrapped(&kek, &bk_enc, &bk_mac)?;
                let writer = BroadcastWriter::new(bk_enc, bk_mac, FIRST_COUNTER, chaining_value);
                let p_se = protect(writer, Custody::DesignSystem, &manifest, &signature, part.image)?;
                let body = PackageBody::DesignSystem {
                    counter: FIRST_COUNTER,
                    chaining_value,
                    wrapped_keys: &wrapped,
                    p_se: &p_se,
                };
                self.seal(&source(cmac(&k_int, &[&message]), body))
            }
        }
    }

    /// Writes a package and signs it.
    fn seal(&self, source: &PackageSource<'_>) -> Result<Vec<u8>> {
        let bulk = match source.body {
            PackageBody::Hsm { ciphertext } => ciphertext.len(),
            PackageBody::DesignSystem { p_se, .. } => p_se.len(),
        };
        let mut bytes = vec![0; 512 + bulk];
        let mut out = Writer::new(&mut bytes);
        source.encode_unsigned(&mut out)?;
        let signature = self
            .designer
            .sign_parts(&[codes::package_signature_prefix(source.version), out.written()]);
        out.bytes(&signature)?;
        let len = out.len();
        bytes.truncate(len);
        bounded(&bytes)?;
        Ok(bytes)
    }

    /// The image of a package in custody 04, deciphered, if its digest agrees.
    pub fn image(&self, package: &PackageSource<'_>) -> Option<Vec<u8>> {
        let PackageBody::Hsm { ciphertext } = package.body else {
            return None;
        };
        let id = &package.manifest.package_id;
        let mut image = ciphertext.to_vec();
        ctr_xor(
            &derived(&self.kos, codes::LABEL_IMAGE, id).ok()?,
            id,
            0,
            &mut image,
        )
        .ok()?;
        (sha256(&[&image]) == package.manifest.digest).then_some(image)
    }
}

pub(crate) fn derived(key: &AesKey, label: &[u8], context: &[u8]) -> Result<AesKey> {
    let mut out = Zeroizing::new([0; 16]);
    kdf_label(key, label, context, &mut *out);
    AesKey::new(&*out).map_err(|_| HsmError::Request("key length"))
}

fn check(module: &[u8]) -> Result<()> {
    if !module.starts_with(WASM_MAGIC) {
        return Err(HsmError::Request(
            "the module is no WebAssembly module of version 1",
        ));
    }
    bounded(module)
}

/// One bound for whoever makes packages and whoever takes them.
fn bounded(bytes: &[u8]) -> Result<()> {
    if bytes.len() > PACKAGE_MAX {
        return Err(HsmError::Request(
            "the package would be longer than 8 MiB (8,388,608 bytes), which no server takes",
        ));
    }
    Ok(())
}

/// Verifies both signatures of a package.
pub fn verify(package: &Package<'_>, designer: &VerifyingKey) -> bool {
    let manifest = package.source.manifest.encode();
    designer
        .verify_parts(
            &[codes::MANIFEST_SIGNATURE_PREFIX, &manifest],
            &package.source.signature,
        )
        .is_ok()
        && designer
            .verify_parts(
                &[
                    codes::package_signature_prefix(package.source.version),
                    package.signed,
                ],
                &package.package_signature,
            )
            .is_ok()
}
