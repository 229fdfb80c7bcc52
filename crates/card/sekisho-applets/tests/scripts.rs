//! The scripts of `tests/scripts`, each on a new card with the initial keys.

#![allow(clippy::unwrap_used, clippy::panic)] // test support

mod common;

use common::script::Runner;
use common::{initial_keys, new_card_with, profile};
use sekisho_os::Profile;
use sekisho_scp::ScpParameter;

fn run_with(name: &str, script: &str, profile: Profile) {
    let card = new_card_with(&profile, 0xFF, &initial_keys());
    Runner::new(card, profile).run(name, script);
}

macro_rules! scripts {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            let file = concat!(stringify!($name), ".apdu");
            run_with(file, include_str!(concat!("scripts/", stringify!($name), ".apdu")), profile());
        }
    )*};
}

scripts! { select channels get_data get_response secure_channel get_status keys keys_aes192 life_cycle store_data chaining update_commands files file_rules file_keys file_messaging yubikit_extended yubikit_short }

#[test]
fn random_card_challenge_and_s16() {
    for i in [0x00, 0x01, 0x60, 0x61, 0x71] {
        let profile = Profile {
            scp: ScpParameter::new(i).unwrap(),
            ..profile()
        };
        let script = include_str!("scripts/parameters.apdu");
        run_with("parameters.apdu", script, profile);
    }
}
