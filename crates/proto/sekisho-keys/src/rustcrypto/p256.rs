//! P-256.

use ::p256::ecdsa::signature::{MultipartSigner as _, MultipartVerifier as _};
use ::p256::ecdsa::{Signature, SigningKey, VerifyingKey};
use ::p256::elliptic_curve::point::AffineCoordinates as _;
use ::p256::{AffinePoint, FieldBytes};
use zeroize::Zeroizing;

/// Erased when dropped.
#[derive(Clone)]
pub(crate) struct PrivateKey(SigningKey);

impl PrivateKey {
    /// `None` when the scalar is zero or not below the group's order.
    pub(crate) fn new(scalar: &[u8; 32]) -> Option<Self> {
        SigningKey::from_slice(scalar).ok().map(Self)
    }

    pub(crate) fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes().into())
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        PublicKey(*self.0.verifying_key())
    }

    pub(crate) fn sign(&self, parts: &[&[u8]]) -> [u8; 64] {
        let signature: Signature = self.0.multipart_sign(parts);
        signature.to_bytes().into()
    }

    /// The x coordinate of the common point.
    pub(crate) fn agree(&self, peer: &PublicKey) -> Zeroizing<[u8; 32]> {
        let common =
            ::p256::elliptic_curve::ecdh::diffie_hellman(self.0.as_nonzero_scalar(), peer.0.as_affine());
        Zeroizing::new(common.raw_secret_bytes().0)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct PublicKey(VerifyingKey);

impl PublicKey {
    /// `None` unless the bytes are an uncompressed point of the curve.
    pub(crate) fn new(point: &[u8; 65]) -> Option<Self> {
        // By its coordinates: what reads a point in any encoding takes square roots, 2 KB of a chip's flash that nothing here needs.
        let (0x04, coordinates) = point.split_first().map(|(tag, rest)| (*tag, rest))? else {
            return None;
        };
        let (x, y) = coordinates.split_at_checked(32)?;
        let [x, y] = [x, y].map(|coordinate| FieldBytes::try_from(coordinate).ok());
        let point: Option<AffinePoint> = AffinePoint::from_coordinates(&x?, &y?).into();
        VerifyingKey::from_affine(point?).ok().map(Self)
    }

    pub(crate) fn to_sec1(self) -> [u8; 65] {
        let mut out = [0; 65];
        let point = self.0.to_sec1_point(false);
        out.iter_mut()
            .zip(point.as_bytes())
            .for_each(|(to, from)| *to = *from);
        out
    }

    pub(crate) fn verify(&self, parts: &[&[u8]], signature: &[u8; 64]) -> bool {
        Signature::from_slice(signature)
            .is_ok_and(|signature| self.0.multipart_verify(parts, &signature).is_ok())
    }
}

/// `r || s` of a signature in DER.
#[cfg(feature = "tls")]
pub(crate) fn signature_from_der(der: &[u8]) -> Option<[u8; 64]> {
    let signature = ecdsa::der::Signature::<::p256::NistP256>::from_bytes(der).ok()?;
    Some(Signature::try_from(signature).ok()?.to_bytes().into())
}

/// The length in DER, in `out`; none of something that is no signature.
#[cfg(feature = "tls")]
pub(crate) fn signature_to_der(signature: &[u8; 64], out: &mut [u8; 72]) -> usize {
    let Ok(signature) = Signature::from_slice(signature) else {
        return 0;
    };
    let der = signature.to_der();
    let bytes = der.as_bytes();
    out.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    bytes.len().min(out.len())
}
