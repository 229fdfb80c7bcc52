//! What an application is told of the interface, the protocol and the sender of a command; and products that have fewer interfaces: docs/spec/card.md, 1.

#![allow(clippy::unwrap_used, clippy::panic)] // test support

use crate::common;

use common::files;
use common::host::Host;
use common::{Card, On, SeededRng, initial_keys, profile, send_on, sw};
use sekisho_apdu::{CApdu, StatusWord, Writer};
use sekisho_applets::{CardManager, Standard};
use sekisho_nvm::Ram;
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{
    Application, Applications, ContainerId, Containers, Context, Instance, Interface, InterfaceState,
    Interfaces, KeyRef, MessagingPlaces, Module, Next, OffCardEntity, Outcome, Platform, Profile, Protocol,
    Refusal, Row, SecureElement,
};
use sekisho_scp::SecurityLevel;

use crate::interfaces::{CARD_DATA, CONTACT, SELECT};

/// The file system's place taken by an application that says what it is told of the sender of a command: interface, protocol, and of the proof
/// container and registry entry of the security domain, key version and level.
struct Asking;

/// The issuer security domain, which is asked with INS 0A.
struct Domain(CardManager);

/// As bytes.
fn told(context: &Context<'_>, out: &mut Writer<'_>) -> Outcome {
    let interface = u8::try_from(context.interface().index()).unwrap();
    out.bytes(format!("{interface} {:?}", context.protocol()).as_bytes())?;
    if let Some(sender) = context.authenticated() {
        let KeyRef { domain, kvn } = sender.key();
        assert_eq!(
            (domain, sender.entity()),
            (sender.domain(), OffCardEntity::Provider)
        );
        let instance = format!("{}.{:04X}", domain.container.number(), domain.entry.number());
        let level = sender.level().p1();
        out.bytes(format!(" {instance} {kvn:02X} {level:02X}").as_bytes())?;
    }
    Ok(StatusWord::NO_ERROR)
}

impl Application for Asking {
    fn select(&mut self, _: &mut Context<'_>, _: &mut Writer<'_>) -> Outcome {
        Ok(StatusWord::NO_ERROR)
    }

    fn process(
        &mut self,
        context: &mut Context<'_>,
        _: &CApdu<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        told(context, out).map(Next::Done)
    }
}

impl Application for Domain {
    fn select(&mut self, context: &mut Context<'_>, out: &mut Writer<'_>) -> Outcome {
        self.0.select(context, out)
    }

    fn process(
        &mut self,
        context: &mut Context<'_>,
        capdu: &CApdu<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        if capdu.ins == 0x0A {
            return told(context, out).map(Next::Done);
        }
        self.0.process(context, capdu, out)
    }
}

struct WithAsking {
    asking: Asking,
    domains: Domain,
}

impl Applications for WithAsking {
    const NEW: Self = Self {
        asking: Asking,
        domains: Domain(<CardManager as sekisho_os::State>::NEW),
    };

    fn get(&mut self, module: Module, _: Instance) -> Option<&mut dyn Application> {
        match module {
            Module::CARD_MANAGER => Some(&mut self.domains),
            Module::FILE_SYSTEM => Some(&mut self.asking),
            _ => None,
        }
    }

    fn release(&mut self, _: Module, _: Instance) {}
}

type AskedCard = SecureElement<On<WithAsking>>;

fn text(answer: &[u8]) -> String {
    let (data, sw) = answer.split_at(answer.len() - 2);
    assert_eq!(sw, [0x90, 0x00]);
    String::from_utf8(data.to_vec()).unwrap()
}

/// An application is told interface and protocol; another protocol comes with a reset of the interface, and of no other.
#[test]
fn an_interface_speaks_one_protocol_and_an_application_hears_which() {
    let policy = sekisho_messaging::setup::Policy::every_mode();
    let profile = Profile {
        pairing: profile()
            .pairing
            .with(Protocol::Proprietary(9), Row::common(ContainerId::ESE)),
        ..profile()
    };
    let mut card: AskedCard = files::element_on(common::flash(), SeededRng(1), &profile, policy);
    let ask = [0x80, 0x0A, 0x00, 0x00, 0x00];
    for interface in Interface::ALL {
        files::select(&mut card, interface);
    }
    for (interface, expected) in Interface::ALL
        .into_iter()
        .zip(["0 T0", "1 SwpA", "2 ApduGate", "3 SpiEse"])
    {
        assert_eq!(text(&send_on(&mut card, interface, &ask)), expected);
    }
    for (interface, protocol, expected) in [
        (CONTACT, Protocol::T1, "0 T1"),
        (Interface::Swp, Protocol::SwpB, "1 SwpB"),
        (Interface::Spi, Protocol::SpiEuicc, "3 SpiEuicc"),
        (Interface::ApduGate, Protocol::Proprietary(9), "2 Proprietary(9)"),
    ] {
        assert_eq!(
            send_on(&mut card, interface, &[0, 0x70, 0, 0, 1]),
            [0x01, 0x90, 0x00]
        );
        assert!(card.reset_to(interface, protocol));
        // The reset has closed what was open and selected the issuer security domain, here alone.
        assert_eq!(
            send_on(&mut card, interface, &[0x01, 0x0A, 0, 0, 0]),
            [0x68, 0x81]
        );
        assert_eq!(text(&send_on(&mut card, interface, &ask)), expected);
        assert_eq!(card.protocol(interface), protocol);
        assert_eq!(
            sw(&send_on(&mut card, interface, &[0x80, 0xCA, 0x00, 0xCF, 0x00])),
            0x9000
        );
        // A reset goes on with it.
        card.reset(interface);
        assert_eq!(card.protocol(interface), protocol);
    }
    // What the interface cannot speak changes nothing.
    let other = [0x01, 0x70, 0x00, 0x00, 0x01];
    let open = send_on(&mut card, CONTACT, &[0x00, 0x70, 0x00, 0x00, 0x01]);
    assert_eq!(open, [0x01, 0x90, 0x00]);
    assert!(!card.reset_to(CONTACT, Protocol::SwpA));
    // A protocol without a row in pairing data, and one that none can have.
    assert!(!card.reset_to(CONTACT, Protocol::Proprietary(10)));
    assert!(!card.reset_to(CONTACT, Protocol::Proprietary(0x89)));
    assert_eq!(card.protocol(CONTACT), Protocol::T1);
    assert_eq!(sw(&send_on(&mut card, CONTACT, &other)), 0x9000);
}

/// The proof names security domain, off-card entity, key version and level, and stands as long as the secure channel and the protection of the command.
#[test]
fn a_proof_names_domain_key_and_level_and_ends_with_its_channel() {
    let policy = sekisho_messaging::setup::Policy::every_mode();
    let mut card: AskedCard = files::element_on(common::flash(), SeededRng(1), &profile(), policy);
    let ask = [0x80, 0x0A, 0x00, 0x00, 0x00];
    assert_eq!(text(&send_on(&mut card, CONTACT, &ask)), "0 T0");
    for level in [0x00, 0x01, 0x03, 0x13, 0x33] {
        let mut host = Host::open(
            &mut card,
            0,
            &initial_keys(),
            SecurityLevel::from_p1(level).unwrap(),
        );
        let answer = host.send(&mut card, &ask);
        assert_eq!(text(&answer), format!("0 T0 1.01A0 FF {level:02X}"));
        // On another interface nobody has proved anything.
        assert_eq!(text(&send_on(&mut card, Interface::Swp, &ask)), "1 SwpA");
        send_on(&mut card, CONTACT, &[0x00, 0xA4, 0x04, 0x00, 0x00]);
        assert_eq!(text(&send_on(&mut card, CONTACT, &ask)), "0 T0");
    }
}

/// A product with contacts alone.
struct Contacts;

struct ContactsAlone(InterfaceState);

impl Interfaces for ContactsAlone {
    const NEW: Self = Self(InterfaceState::NEW);

    type Messagings = MessagingPlaces<2>;

    fn get(&mut self, interface: Interface) -> Option<&mut InterfaceState> {
        (interface == CONTACT).then_some(&mut self.0)
    }
}

impl Platform for Contacts {
    type Flash = RamFlash;
    type Rng = SeededRng;
    type Applications = Standard;
    type Interfaces = ContactsAlone;
    type Containers = Containers<1>;
    type Index = Ram<128, 16, 16>;
}

/// A product pays for the interfaces that it has; on another nothing is there, and nothing happens.
#[test]
fn a_product_has_the_interfaces_that_it_says() {
    assert!(size_of::<SecureElement<Contacts>>() + 3 * size_of::<InterfaceState>() <= size_of::<Card>());
    let policy = sekisho_messaging::setup::Policy::every_mode();
    let mut card: SecureElement<Contacts> =
        files::element_on(common::flash(), SeededRng(1), &profile(), policy);
    let mut send = |interface, capdu: &[u8]| {
        let mut out = [0; 300];
        let len = card.transmit(interface, capdu, &mut out);
        out[..len].to_vec()
    };
    for interface in Interface::ALL {
        let is_there = interface == CONTACT;
        for capdu in [
            &CARD_DATA[..],
            &[0, 0xC0, 0, 0, 1],
            SELECT[0],
            SELECT[1],
            &[0, 0x70, 0, 0, 1],
        ] {
            let answer = send(interface, capdu);
            assert_eq!(answer != [0x68, 0x81], is_there, "{interface:?} {capdu:02X?}");
        }
    }
    assert_eq!(send(CONTACT, &[0, 0x70, 0, 0, 1]), [0x02, 0x90, 0x00]);
}
