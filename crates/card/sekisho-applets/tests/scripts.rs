//! The scripts of `tests/scripts`, each on a new card with the initial keys.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)] // test support

use common::script::{InProcess, Runner};
use common::{new_card_of, profile};
use sekisho_card_tests as common;
use sekisho_scp::ScpParameter;

fn run_with(name: &str, script: &str, parameter: ScpParameter) {
    let card = InProcess::new(new_card_of(parameter), profile());
    Runner::new(card, parameter.mac_mode()).run(name, script);
}

macro_rules! scripts {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                let file = concat!(stringify!($name), ".apdu");
                let script = include_str!(concat!("../../../../tests/scripts/", stringify!($name), ".apdu"));
                run_with(file, script, ScpParameter::FULL_S8);
            }
        )*

        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

scripts! {
    select channels chaining get_data get_response get_status store_data
    secure_channel keys keys_aes192 life_cycle update_commands
    files file_rules file_keys file_messaging
    tokens gpshell3 smartcardio opensc gp yubikit_extended yubikit_short
}

/// The script for any parameter "i".
const PARAMETERS: &str = include_str!("../../../../tests/scripts/parameters.apdu");

#[test]
fn gp_s16() {
    let script = include_str!("../../../../tests/scripts/gp_s16.apdu");
    run_with("gp_s16.apdu", script, ScpParameter::FULL_S16);
}

#[test]
fn random_card_challenge_and_s16() {
    for i in [0x00, 0x01, 0x60, 0x61, 0x71] {
        run_with("parameters.apdu", PARAMETERS, ScpParameter::new(i).unwrap());
    }
}

#[test]
fn no_script_is_left_out() {
    // Of whichever package runs this: tests/card does too.
    let packages = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let mut folders = packages.map(|folder| folder.join("tests/scripts"));
    let files = std::fs::read_dir(folders.find(|folder| folder.is_dir()).unwrap())
        .unwrap()
        .map(|file| file.unwrap().path());
    let scripts = files.filter(|path| path.extension().is_some_and(|end| end == "apdu"));
    for script in scripts {
        let name = script.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(
            NAMES.contains(&name.as_str()) || ["gp_s16", "parameters"].contains(&name.as_str()),
            "{name} is not played"
        );
    }
}
