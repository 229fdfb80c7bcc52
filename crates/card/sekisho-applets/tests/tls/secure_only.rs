//! Secure-only: what plain commands do not find, sessions reach (docs/spec/tls-manager.md, 5).

use sekisho_apdu::Aid;
use sekisho_applets::tls_manager;
use sekisho_os::{ContainerId, Interface};
use sekisho_scp::{MacMode, SecurityLevel};
use sekisho_tls::Version;

use crate::common::host::Host;
use crate::common::{initial_keys, send_on, sw};
use crate::device::{honest, inside, server, talking};
use crate::pki::Pki;
use crate::se::{FILES, PORT, ROOT, reaching};
use crate::servers::{READ, select};

#[test]
fn an_application_is_reached_inside_sessions_alone() {
    let pki = Pki::new();
    let mut se = reaching(&pki, &[FILES, ROOT]);
    se.make_secure_only(ContainerId::ESE, &Aid::try_from(FILES).unwrap())
        .unwrap();
    // The TLS Manager too: it is not selected, and ends sessions as before.
    let manager = Aid::try_from(tls_manager::AID).unwrap();
    se.make_secure_only(ContainerId::ESE, &manager).unwrap();
    for version in [Version::Tls12, Version::Tls13] {
        for aid in [FILES, tls_manager::AID] {
            for interface in Interface::ALL {
                assert_eq!(sw(&send_on(&mut *se, interface, &select(aid))), 0x6A82);
            }
        }
        let beginning = [&[0, 0xA4, 4, 0, 6][..], &FILES[..6], &[0]].concat();
        let answers = inside(&mut se, &pki, version, &[&select(FILES), READ, &beginning, READ]);
        assert!(answers.iter().all(|answer| sw(answer) == 0x9000));
        // Nothing of it is left on the channel that carried it.
        assert_eq!(sw(&send_on(&mut *se, PORT, READ)), 0x6D00);
        assert_eq!(sw(&send_on(&mut *se, PORT, &select(FILES))), 0x6A82);
    }
}

/// STORE DATA that the root forwards reaches it when the root itself was reached so, with SCP03 inside the session: not on the interface.
#[test]
fn its_domain_personalises_it_inside_a_session() {
    let pki = Pki::new();
    let mut se = reaching(&pki, &[FILES, ROOT]);
    let manager = Aid::try_from(tls_manager::AID).unwrap();
    se.make_secure_only(ContainerId::ESE, &manager).unwrap();
    let install = [
        &[0x80, 0xE6, 0x20, 0, 13, 0, 0, 7][..],
        tls_manager::AID,
        &[0, 0, 0, 0],
    ]
    .concat();
    let level = SecurityLevel::FULL;
    let mut host = Host::open(&mut *se, 0xFF, &initial_keys(), level);
    assert_eq!(sw(&host.send(&mut *se, &install)), 0x6A88);
    let mut server = server(&pki, Version::Tls13);
    talking(&mut se, &mut server, 0, &mut honest, |talk| {
        assert_eq!(sw(&talk.ask(&select(ROOT)).unwrap()), 0x9000);
        let host = Host::open_on(talk, PORT, 0, 0xFF, &initial_keys(), level, MacMode::S8);
        let mut host = host.unwrap();
        assert_eq!(sw(&host.send(talk, &install)), 0x9000);
        // A row that there is not is removed.
        assert_eq!(sw(&host.send(talk, &[0x80, 0xE2, 0x80, 0, 3, 3, 0, 9])), 0x9000);
        // SCP03 ends with the session's selection, and is not the channel's.
        let wrapped = host.wrap(&[0x80, 0xCA, 0, 0xE0, 0]);
        assert_eq!(sw(&send_on(talk.se(), PORT, &wrapped)), 0x6982);
        assert_eq!(sw(&host.unwrap_of(talk, &wrapped)), 0x9000);
    });
    assert_eq!(sw(&send_on(&mut *se, PORT, &[0x80, 0xCA, 0, 0xD3, 0])), 0x9000);
}
