//! The design system's keys in the cards of then: they are at key version 1, and change as in a card of today, whatever was staged.

use sekisho_hsm::design::{Ceremony, PackOptions};
use sekisho_hsm::{
    AuthoriseRequest, ChangeOptions, IndividualKey, KVN_SCP, Renewal, SoftHsm, authorise, broadcast_package,
};
use sekisho_link::{
    Authorisation, Campaign, Custody, LoaderState, Manifest, PSe, Package, Staging, Version, Wants,
};
use sekisho_transport::Card;

use crate::cards::{loader_state, object, se_id};
use crate::frozen::{self, PASSPHRASE};
use crate::process::{CardProcess, send};

fn hsm() -> SoftHsm {
    SoftHsm::load(&frozen::folder().join("keystore.sealed"), PASSPHRASE.as_bytes()).unwrap()
}

fn key_state(card: &mut dyn Card) -> LoaderState {
    LoaderState::decode(&object(card, 0xDF22)).unwrap()
}

/// Plays a package to the card of SE `number`, authorised by the keystore of then: the first status word that is not 9000.
fn play(card: &mut dyn Card, number: u8, package: &[u8], campaign: Campaign) -> Option<u16> {
    let package = Package::decode(package).unwrap().source;
    let p_se = broadcast_package(&hsm(), campaign, &package).unwrap();
    let (counter, sw) = send(card, &[0x80, 0xCA, 0x00, 0xC1, 0x00]);
    assert_eq!(sw, 0x9000);
    let counter = counter[2..]
        .iter()
        .fold(0, |sum, byte| sum << 8 | u32::from(*byte));
    let request = AuthoriseRequest {
        version: Version::Two,
        se_id: se_id(number).parse().unwrap(),
        kvn: KVN_SCP,
        scp_parameter: 0x70,
        campaign,
        sequence_counter: counter + 1,
        wants: Wants::BOTH,
        pauses: 0,
        key_set_apart: false,
        package: &package,
    };
    let p_aut = authorise(&hsm(), &request).unwrap();
    let p_aut = Authorisation::decode(&p_aut).unwrap();
    let splice = usize::from(p_aut.head.splices[0]);
    let p_se = PSe::decode(&p_se).unwrap();
    let mut commands = p_aut
        .commands()
        .take(splice)
        .chain(p_se.commands())
        .chain(p_aut.commands().skip(splice));
    let refused = commands.find_map(|command| {
        let (_, sw) = send(card, command);
        (sw != 0x9000).then_some(sw)
    });
    card.reset().unwrap();
    refused
}

#[test]
fn cards_of_then_take_a_key_change_and_obey_the_next_design_system() {
    let folder = frozen::copy();
    let present = Ceremony::load(&folder.path().join("ceremony.sealed"), PASSPHRASE.as_bytes()).unwrap();
    let next = present.successor(Renewal::All).unwrap();
    let meter = include_bytes!("../../../../applets/prebuilt/meter-v2.wasm");
    for (number, name, custody, staging) in [
        (1, "fleet", Custody::Hsm, Staging::Nothing),
        (2, "staged-04", Custody::Hsm, Staging::Begun),
        (3, "staged-03", Custody::DesignSystem, Staging::Begun),
        (4, "complete", Custody::DesignSystem, Staging::Complete),
        (5, "unreported", Custody::Hsm, Staging::Nothing),
    ] {
        let flash = folder.path().join(format!("cards/{name}.flash"));
        let card = CardProcess::start(&flash, 0, &[]);
        let mut reader = card.reader();
        let before = loader_state(&mut reader);
        assert_eq!(before.staging, staging, "{name}");
        let state = key_state(&mut reader);
        assert_eq!(
            (state.target, state.version, state.staging),
            (Manifest::KEYS, 1, Staging::Nothing)
        );
        let options = |version| PackOptions {
            version,
            min_previous: 1,
            custody,
        };
        // The last one for itself alone.
        let individual = IndividualKey::new(&hsm(), se_id(number).parse().unwrap(), KVN_SCP).unwrap();
        let individual = (number == 5).then_some(&individual);
        let how = ChangeOptions {
            min_previous: 1,
            custody,
        };
        let change = present.key_change(&next, how, individual).unwrap();
        assert_eq!(
            play(&mut reader, number, &change, Campaign(0x4B31)),
            None,
            "{name}"
        );
        let state = key_state(&mut reader);
        assert_eq!((state.version, state.staging), (2, Staging::Nothing), "{name}");
        // What was staged under the old keys is gone, the active part is as it was.
        let after = loader_state(&mut reader);
        assert_eq!(
            (after.version, after.slot, after.staging),
            (before.version, before.slot, Staging::Nothing),
            "{name}"
        );
        drop(reader);
        card.kill();
        let card = CardProcess::start(&flash, 0, &[]);
        let line = card.says("keys");
        assert!(line.ends_with("; design system's keys version 2"), "{line}");
        let mut reader = card.reader();
        assert_eq!(key_state(&mut reader).version, 2, "{name}");
        let old = present.pack(meter, options(8)).unwrap();
        let refused = play(&mut reader, number, &old, Campaign(0x4B32));
        assert!(matches!(refused, Some(0x9501 | 0x6A80)), "{name}: {refused:?}");
        let new = next.pack(meter, options(9)).unwrap();
        assert_eq!(play(&mut reader, number, &new, Campaign(0x4B33)), None, "{name}");
        assert_eq!(loader_state(&mut reader).version, 9, "{name}");
    }
}
