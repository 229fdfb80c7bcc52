//! SecApp's key pair, which the operating system [makes](KeyPair): what is said of it, and the server's word that makes it live.

use sekisho_apdu::{StatusWord, Writer};
use sekisho_keys::{ct_eq, sha256};
use sekisho_os::{Context, KeyPair, Refusal};
use sekisho_paging::keys::RecoveryKey;

const KEY: KeyPair = KeyPair { live: 2, pending: 3 };

/// Makes a key pair: public key (65) | signature by the new key over SE-id and public key (64) | the SE's proof (16).
pub(super) fn generate(
    context: &mut Context<'_>,
    recovery: &RecoveryKey,
    out: &mut Writer<'_>,
) -> Result<(), Refusal> {
    let key = KEY.make(context)?;
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
    let key = KEY.pending(context)?;
    let public = key.verifying_key().to_sec1();
    let expected = recovery.certified_proof(&context.se_id(), &public, digest);
    if !ct_eq(&expected, proof) {
        return Err(Refusal(StatusWord::INCORRECT_DATA));
    }
    KEY.adopt(context, &key)
}

/// The live public key.
pub(super) fn public(context: &mut Context<'_>, out: &mut Writer<'_>) -> Result<(), Refusal> {
    let public = KEY.live(context)?.verifying_key().to_sec1();
    Ok(out.bytes(&public)?)
}

/// Signs a challenge with the live key: ECDSA over "SecApp sign" and the challenge, so that a signature is never one over anything else.
pub(super) fn sign(
    context: &mut Context<'_>,
    challenge: &[u8; 32],
    out: &mut Writer<'_>,
) -> Result<(), Refusal> {
    let key = KEY.live(context)?;
    let message = sha256(&[b"SecApp sign", challenge]);
    Ok(out.bytes(&key.sign(&message))?)
}
