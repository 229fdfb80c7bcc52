//! Every message between design system, server and device.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sekisho_link::{
    Authorisation, Delivery, Equ, KeyChange, LoaderState, Manifest, Offer, PSe, Package, Receipt, Refusal, Status, Verdict,
};

fuzz_target!(|data: &[u8]| {
    if let Ok(manifest) = Manifest::decode(data) {
        assert_eq!(manifest.encode(), data);
    }
    if let Ok(receipt) = Receipt::decode(data) {
        assert_eq!(receipt.encode(), data);
    }
    if let Ok(p_se) = PSe::decode(data) {
        assert_eq!(p_se.commands().count(), p_se.len());
    }
    if let Ok(p_aut) = Authorisation::decode(data) {
        assert_eq!(p_aut.commands().count(), p_aut.len());
    }
    let _ = (Package::decode(data), Delivery::decode(data), Offer::decode(data), Equ::decode(data));
    let _ = (KeyChange::decode(data), Refusal::decode(data));
    let _ = (LoaderState::decode(data), Status::decode(data), Verdict::decode(data));
});
