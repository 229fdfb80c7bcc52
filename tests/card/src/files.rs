//! A card with a file system, and the reader that talks to it by secure messaging.

use super::ByValue;
use sekisho_apdu::{Aid, CApdu, Cla};
use sekisho_applets::file_system::{self, image::Image, image::test_key};
use sekisho_keys::{AesKey, Rng, sha256};
use sekisho_messaging::EphemeralKey;
use sekisho_messaging::reader::ReaderMessaging;
use sekisho_messaging::schedule::{Lanes, Schedule};
use sekisho_messaging::setup::{
    KeysOpening, Mode, Opened, Policy, RatchetOpening, refresh_command, refresh_secret,
};
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{
    FactoryApplication, Interface, MESSAGING_POLICY, Module, OwnRecord, Personalisation, Platform, Profile,
    SecureElement,
};

use super::host::encode;
use super::script::Line;
use super::{Card, SeededRng, initial_keys, key, personalisation, profile, send_on};

/// The test card on this flash.
pub fn card_on(flash: RamFlash, profile: &Profile, policy: Policy) -> Card {
    made_with(
        flash,
        SeededRng(1),
        profile,
        policy,
        &Image::of_test_card().unwrap(),
    )
}

/// The same with another source of randomness.
pub fn element_on<P: Platform<Flash = RamFlash>>(
    flash: RamFlash,
    rng: P::Rng,
    profile: &Profile,
    policy: Policy,
) -> SecureElement<P> {
    made_with(flash, rng, profile, policy, &Image::of_test_card().unwrap())
}

/// A card of these files, which allows every mode.
pub fn card_with(flash: RamFlash, image: &Image) -> Card {
    made_with(flash, SeededRng(1), &profile(), Policy::every_mode(), image)
}

fn made_with<P: Platform, C: ByValue<P>>(
    flash: P::Flash,
    rng: P::Rng,
    profile: &Profile,
    policy: Policy,
    image: &Image,
) -> C {
    let records: Vec<_> = image.iter().collect();
    made(flash, rng, profile, policy, &records)
}

/// A card of these records of its file system, which allows every mode.
pub fn made_of<P: Platform>(
    flash: P::Flash,
    rng: P::Rng,
    profile: &Profile,
    records: &[OwnRecord<'_>],
) -> SecureElement<P> {
    made(flash, rng, profile, Policy::every_mode(), records)
}

fn made<P: Platform, C: ByValue<P>>(
    flash: P::Flash,
    rng: P::Rng,
    profile: &Profile,
    policy: Policy,
    records: &[OwnRecord<'_>],
) -> C {
    let applications = [FactoryApplication {
        aid: Aid::try_from(file_system::AID).unwrap(),
        load_file: Aid::try_from(file_system::LOAD_FILE_AID).unwrap(),
        module: Module::FILE_SYSTEM,
        records,
    }];
    let objects: [(u16, &[u8]); 1] = [(MESSAGING_POLICY, &policy.to_bytes())];
    let (keys, k_aut) = (initial_keys(), key(&[0xA0; 16]));
    let personalisation = Personalisation {
        applications: &applications,
        data_objects: &objects,
        ..personalisation(0xFF, &keys, &k_aut)
    };
    C::made(flash, rng, profile, &personalisation).unwrap_or_else(|failure| panic!("{failure:?}"))
}

/// The records of an image as the factory of 0.1 wrote them: heads of format 1, whose name is the file's number; values, tries and counts
/// from 0100, 0200, 0300; content from 1000, 100 for each file. Of content an image has the first piece.
pub fn in_the_first_layout(image: &Image) -> Vec<(u16, Vec<u8>)> {
    let old = |(object, part, value): OwnRecord<'_>| {
        let (file, part) = (object - 0x4000, u16::from(part));
        match part {
            1 => {
                assert_eq!((value[0], value[3]), (2, 0));
                (file, [&[1], &value[1..3], &value[4..]].concat())
            }
            2..=4 => (0x100 * (part - 1) + file, value.to_vec()),
            _ => (0x1000 + 0x100 * file + part - 0x10, value.to_vec()),
        }
    };
    image.iter().map(old).collect()
}

/// The test card, whose security domain allows every mode.
pub fn card() -> Card {
    card_on(super::flash(), &profile(), Policy::every_mode())
}

pub fn select(card: &mut dyn Line, interface: Interface) {
    select_on(card, interface, 0);
}

/// SELECT by AID on a logical channel.
pub fn select_on(card: &mut dyn Line, interface: Interface, channel: u8) {
    let answer = send_on(
        card,
        interface,
        &[&[channel, 0xA4, 0x04, 0x00, 0x07], file_system::AID].concat(),
    );
    assert!(answer.ends_with(&[0x90, 0x00]), "{}", hex::encode(answer));
}

/// The first 16 bytes of a name's SHA-256.
pub fn named(name: &str) -> [u8; 16] {
    *sha256(&[name.as_bytes()]).first_chunk().unwrap()
}

/// The keys that a reader of this mode would draw.
pub fn keys_of(mode: Mode, lanes: Lanes) -> Vec<[u8; 16]> {
    let pairs = if lanes == Lanes::Separate { 4 } else { 2 };
    let count = match mode {
        Mode::Fixed | Mode::LegacyXor | Mode::LegacyTurns => pairs,
        _ => 18,
    };
    (0..count).map(|n| named(&format!("session {n}"))).collect()
}

/// What stands for a status word where the card has opened and not confirmed that it has the reader's MKEY.
pub const NOT_CONFIRMED: u16 = 0;

/// A reader that speaks secure messaging.
pub struct Reader {
    pub interface: Interface,
    pub messaging: ReaderMessaging<Schedule>,
    pub mkey: AesKey,
    pub rng: SeededRng,
    /// The command that went out last, as it went.
    pub sent: Vec<u8>,
}

impl Reader {
    /// Opens secure messaging; the status word when the card refuses, [`NOT_CONFIRMED`] when the reader does.
    pub fn open(
        card: &mut dyn Line,
        interface: Interface,
        mode: Mode,
        lanes: Lanes,
        every: u16,
    ) -> Result<Self, u16> {
        Self::open_with(card, interface, mode, lanes, every, &test_key::MKEY)
    }

    pub fn open_with(
        card: &mut dyn Line,
        interface: Interface,
        mode: Mode,
        lanes: Lanes,
        every: u16,
        mkey: &[u8; 16],
    ) -> Result<Self, u16> {
        Self::begin(card, (interface, 0), mode, lanes, every, mkey)
    }

    /// The same on a logical channel.
    pub fn open_on(
        card: &mut dyn Line,
        place: (Interface, u8),
        mode: Mode,
        lanes: Lanes,
        every: u16,
    ) -> Result<Self, u16> {
        Self::begin(card, place, mode, lanes, every, &test_key::MKEY)
    }

    fn begin(
        card: &mut dyn Line,
        (interface, channel): (Interface, u8),
        mode: Mode,
        lanes: Lanes,
        every: u16,
        mkey: &[u8; 16],
    ) -> Result<Self, u16> {
        let cla = Cla::GP.with_logical_channel(channel).unwrap();
        let mkey = key(mkey);
        let mut rng = SeededRng(77);
        let challenge: [u8; 16] = plain(card, interface, &[channel, 0x84, 0, 0, 16])?
            .try_into()
            .map_err(|_| NOT_CONFIRMED)?;
        let opened = match mode {
            Mode::Ratchet => {
                let own = EphemeralKey::generate(&mut rng).unwrap();
                let opening = RatchetOpening::new(own, lanes, cla, every);
                let answer = plain(card, interface, &encode(&opening.command()))?;
                opening
                    .finish(&mkey, challenge, &answer)
                    .map_err(|_| NOT_CONFIRMED)?
            }
            _ => {
                let keys = keys_of(mode, lanes);
                let opening = KeysOpening::new(&mkey, (mode, lanes), cla, &keys, challenge).unwrap();
                let answer = plain(card, interface, &encode(&opening.command()))?;
                opening.finish(&answer).map_err(|_| NOT_CONFIRMED)?
            }
        };
        let Opened { schedule, ssc } = opened;
        Ok(Self {
            interface,
            messaging: ReaderMessaging::new(schedule, ssc),
            mkey,
            rng,
            sent: Vec::new(),
        })
    }

    /// Protects a command and remembers it.
    pub fn protect(&mut self, capdu: &[u8]) -> Vec<u8> {
        let selector = self.messaging.propose(&mut self.rng);
        let mut out = vec![0; 70_000];
        let command = CApdu::parse(capdu).unwrap();
        self.sent = self
            .messaging
            .protect(&command, selector, &mut out)
            .unwrap()
            .to_vec();
        self.sent.clone()
    }

    pub fn transmit(&self, card: &mut dyn Line, protected: &[u8]) -> Vec<u8> {
        send_on(card, self.interface, protected)
    }

    /// The plain answer in a protected one.
    pub fn accept(&mut self, answer: &[u8]) -> Result<Vec<u8>, sekisho_messaging::SmError> {
        let mut out = vec![0; 2000];
        let answer = self.messaging.receive(answer, &mut out)?;
        Ok([answer.data, &answer.sw.bytes()].concat())
    }

    /// A whole exchange.
    pub fn send(&mut self, card: &mut dyn Line, capdu: &[u8]) -> Vec<u8> {
        let protected = self.protect(capdu);
        let answer = self.transmit(card, &protected);
        self.accept(&answer)
            .unwrap_or_else(|error| panic!("{}: {error}", hex::encode(&answer)))
    }

    /// REFRESH KEYS.
    pub fn refresh(&mut self, card: &mut dyn Line) {
        let own = EphemeralKey::generate(&mut self.rng).unwrap();
        let public = own.public_key();
        let answer = self.send(card, &encode(&refresh_command(&public)));
        let (card_key, sw) = answer.split_at(answer.len() - 2);
        assert_eq!(sw, [0x90, 0x00]);
        let secret = refresh_secret(&self.mkey, own, &public, card_key).unwrap();
        self.messaging.refresh(secret.as_ref()).unwrap();
    }
}

/// A command in the clear: its data, or the status word.
pub fn plain(card: &mut dyn Line, interface: Interface, capdu: &[u8]) -> Result<Vec<u8>, u16> {
    let mut answer = send_on(card, interface, capdu);
    let sw = super::sw(&answer);
    answer.truncate(answer.len() - 2);
    if sw == 0x9000 { Ok(answer) } else { Err(sw) }
}

/// Proves key EXTERNAL 1.
pub fn authenticate(card: &mut dyn Line, interface: Interface) {
    authenticate_with(card, (interface, 0), &test_key::EXTERNAL);
}

/// Proves key EXTERNAL 1, which has this value, on a logical channel.
pub fn authenticate_with(card: &mut dyn Line, (interface, channel): (Interface, u8), external: &[u8; 16]) {
    let challenge = plain(card, interface, &[channel, 0x84, 0, 0, 16]).unwrap();
    let mac = sekisho_keys::cmac(&key(external), &[&challenge]);
    plain(
        card,
        interface,
        &[&[channel, 0x82, 0x00, 0x01, 16][..], &mac].concat(),
    )
    .unwrap();
}

/// Random bytes of this length, for a test.
pub fn noise(rng: &mut SeededRng, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    rng.fill(&mut out);
    out
}

/// APPEND RECORD to the cyclic file 0013, which tells how often it was carried out.
pub fn append(number: u8) -> Vec<u8> {
    [&[0x00, 0xE2, 0x00, 0x18, 16][..], &[number; 16]].concat()
}

/// An answer is protected, or it is a status word and nothing else: what was read never leaves in the clear.
pub fn never_in_the_clear(answer: &[u8]) {
    let protected = answer.len() > 12 && answer[answer.len() - 12..][..2] == [0x8E, 0x08];
    assert!(answer.len() == 2 || protected, "{}", hex::encode(answer));
}

/// Every mode of secure messaging, with one key for both directions and with a key for each.
pub fn every_mode() -> impl Iterator<Item = (Mode, Lanes)> {
    Mode::ALL
        .into_iter()
        .flat_map(|mode| [Lanes::Shared, Lanes::Separate].map(|lanes| (mode, lanes)))
}
