//! On-board key generation: the private key is made here and never leaves.
//!
//! A new key pair is *pending* until the server's word comes that its public part is certified; the old one serves until then, and is wiped with
//! the same commit that makes the new one live.

use sekisho_apdu::{StatusWord, Writer};
use sekisho_keys::p256sig::SigningKey;
use sekisho_keys::{ct_eq, sha256};
use sekisho_os::{Context, Refusal};
use sekisho_paging::keys::RecoveryKey;
use zeroize::Zeroizing;

/// Records of the live and of the pending private key.
const LIVE: u16 = 2;
const PENDING: u16 = 3;

fn read(context: &mut Context<'_>, record: u16) -> Result<SigningKey, Refusal> {
    let mut bytes = Zeroizing::new([0; 32]);
    match context.get(record, 0, bytes.as_mut())? {
        Some(32) => SigningKey::from_bytes(&bytes).map_err(|_| Refusal(StatusWord::MEMORY_FAILURE)),
        _ => Err(Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND)),
    }
}

/// Makes a key pair: public key (65) | signature by the new key over SE-id and public key (64) | the SE's proof (16).
pub(super) fn generate(
    context: &mut Context<'_>,
    recovery: &RecoveryKey,
    out: &mut Writer<'_>,
) -> Result<(), Refusal> {
    let key = SigningKey::generate(context.rng()).map_err(|_| Refusal(StatusWord::MEMORY_FAILURE))?;
    context.put(PENDING, 0, key.to_bytes().as_ref())?;
    let se_id = context.se_id();
    let public = key.verifying_key().to_sec1();
    out.bytes(&public)?;
    out.bytes(&key.sign_parts(&[&se_id, &public]))?;
    out.bytes(&recovery.new_key_proof(&se_id, &public))?;
    Ok(())
}

/// Makes the pending key the live one, on the server's proof.
pub(super) fn confirm(
    context: &mut Context<'_>,
    recovery: &RecoveryKey,
    digest: &[u8; 32],
    proof: &[u8; 16],
) -> Result<(), Refusal> {
    let key = read(context, PENDING)?;
    let public = key.verifying_key().to_sec1();
    let expected = recovery.certified_proof(&context.se_id(), &public, digest);
    if !ct_eq(&expected, proof) {
        return Err(Refusal(StatusWord::INCORRECT_DATA));
    }
    context.put(LIVE, 0, key.to_bytes().as_ref())?;
    context.remove(PENDING, 0)
}

/// The live public key.
pub(super) fn public(context: &mut Context<'_>, out: &mut Writer<'_>) -> Result<(), Refusal> {
    let public = read(context, LIVE)?.verifying_key().to_sec1();
    Ok(out.bytes(&public)?)
}

/// Signs a challenge with the live key: ECDSA over "SecApp sign" and the challenge, so that a signature is never one over anything else.
pub(super) fn sign(
    context: &mut Context<'_>,
    challenge: &[u8; 32],
    out: &mut Writer<'_>,
) -> Result<(), Refusal> {
    let key = read(context, LIVE)?;
    let message = sha256(&[b"SecApp sign", challenge]);
    Ok(out.bytes(&key.sign(&message))?)
}
