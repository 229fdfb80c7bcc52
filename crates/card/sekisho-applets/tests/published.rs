//! Published SCP03 conversations through the whole card: every byte that a real card answered, from INITIALIZE UPDATE to a protected command.
//!
//! Source: osmocom/pysim, `tests/unittests/test_globalplatform.py` (recorded with a sysmoEUICC; data only). That card's security domain has
//! an AID of its own, no diversification data, and answers STORE DATA with GetEuiccData (SGP.22) by its EID; the test's card does the same.

#![allow(clippy::unwrap_used, clippy::panic)] // test support

use crate::common;

use common::ByValue as _;
use common::{On, SeededRng, flash, key, personalisation, profile};
use sekisho_apdu::{Aid, CApdu, StatusWord, Writer};
use sekisho_applets::CardManager;
use sekisho_keys::KeySet;
use sekisho_os::{
    Application, Applications, Context, Instance, Module, Next, Outcome, Personalisation, Profile, Refusal,
    SecureElement, State,
};

/// The card manager, and the one command of the recorded card that ours has not.
struct WithEid(CardManager);

/// GetEuiccData for the EID, and the EID of the recorded card.
const GET_EID: [u8; 6] = [0xBF, 0x3E, 0x03, 0x5C, 0x01, 0x5A];
const EID: [u8; 21] = [
    0xBF, 0x3E, 0x12, 0x5A, 0x10, 0x89, 0x88, 0x21, 0x19, 0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x05,
];

impl Application for WithEid {
    fn select(&mut self, context: &mut Context<'_>, out: &mut Writer<'_>) -> Outcome {
        self.0.select(context, out)
    }

    fn process(
        &mut self,
        context: &mut Context<'_>,
        capdu: &CApdu<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        if capdu.ins == 0xE2 && capdu.data == GET_EID && context.authenticated().is_some() {
            out.bytes(&EID)?;
            return Ok(Next::Done(StatusWord::NO_ERROR));
        }
        self.0.process(context, capdu, out)
    }
}

impl Applications for WithEid {
    const NEW: Self = Self(CardManager::NEW);

    fn get(&mut self, module: Module, _: Instance) -> Option<&mut dyn Application> {
        (module == Module::CARD_MANAGER).then_some(self)
    }

    fn release(&mut self, _: Module, _: Instance) {}
}

type Recorded = On<WithEid>;

struct Conversation {
    /// Bytes of a key: 16, 24 or 32.
    key_len: usize,
    initialize_update: [&'static str; 2],
    external_authenticate: &'static str,
    get_eid: [&'static str; 2],
}

const fn conversation(
    key_len: usize,
    initialize_update: [&'static str; 2],
    external_authenticate: &'static str,
    get_eid: [&'static str; 2],
) -> Conversation {
    Conversation {
        key_len,
        initialize_update,
        external_authenticate,
        get_eid,
    }
}

/// AES-128, -192, -256, each at level 11, 03 and 33.
const CONVERSATIONS: [Conversation; 9] = [
    conversation(
        16,
        [
            "8050300008b13e5f938fc108c400",
            "000000000000000000003003703eb51047495b249f66c484c1d2ef1948000002",
        ],
        "84821100107d5f5826a993ebc89eea24957fa0b3ce",
        [
            "84e291000ebf3e035c015a558d036518a2829700",
            "bf3e125a1089882119900000000000000000000005971be68992dbbdfa",
        ],
    ),
    conversation(
        16,
        [
            "80503000088e1552d0513c60f300",
            "0000000000000000000030037030760cd2c47c1dd395065fe5ead8a9d7000001",
        ],
        "8482030010fd4721a14d9b07003c451d2f8ae6bb21",
        [
            "84e2910018ca9c00f6713d79bc8baa642bdff51c3f6a4082d3bd9ad26c00",
            "bf3e125a1089882119900000000000000000000005",
        ],
    ),
    conversation(
        16,
        [
            "8050300008fdf38259a1e0de4400",
            "000000000000000000003003703b1aca81e821f219081cdc01c26b372d000003",
        ],
        "84823300108c36f96bcc00724a4e13ad591d7da3f0",
        [
            "84e2910018267a85dfe4a98fca6fb0527e0dfecce4914e40401433c87f00",
            "f3ba2b1013aa6224f5e1c138d71805c569e5439b47576260b75fc021b25097cb2e68f8a0144975b9",
        ],
    ),
    conversation(
        24,
        [
            "80503100087396430b768b085b00",
            "000000000000000000003103708cfc23522ffdbf1e5df5542cac8fd866000003",
        ],
        "84821100102145ed30b146f5db252fb7e624cec244",
        [
            "84e291000ebf3e035c015aff42cf801d14394400",
            "bf3e125a1089882119900000000000000000000005162fbd33e04940a9",
        ],
    ),
    conversation(
        24,
        [
            "805031000869c65da8202bf19f00",
            "00000000000000000000310370b570a67be38446717729d6dd3d2ec5b1000001",
        ],
        "848203001065df4f1a356a887905466516d9e5b7c1",
        [
            "84e2910018d2c6fb477c5d4afe4fd4d21f17eff10d3578ec1774a12a2d00",
            "bf3e125a1089882119900000000000000000000005",
        ],
    ),
    conversation(
        24,
        [
            "80503100089b3f2eef0e8c937400",
            "00000000000000000000310370f6bb305a15bae1a68f79fb08212fbed7000002",
        ],
        "84823300109100bc22d58b45b86a26365ce39ff3cf",
        [
            "84e29100188f7f946c84f70d17994bc6e8791251bb1bb1bf02cf8de58900",
            "c05176c1b6f72aae50c32cbee63b0e95998928fd4dfb2be9f27ffde8c8476f5909b4805cc4039599",
        ],
    ),
    conversation(
        32,
        [
            "805032000811666d57866c6f5400",
            "0000000000000000000032037053ea8847efa7674e41498a4d66cf0dee000003",
        ],
        "84821100102f2ad190eff2fafc4908996d1cebd310",
        [
            "84e291000ebf3e035c015af4b680372542b59d00",
            "bf3e125a10898821199000000000000000000000058012dd7f01f1c4c1",
        ],
    ),
    conversation(
        32,
        [
            "8050320008c6066990fc426e1d00",
            "000000000000000000003203708682cd81bbd8919f2de3f2664581f118000001",
        ],
        "848203001077c493b632edadaf865a1e64acc07ce9",
        [
            "84e29100183ddaa60594963befaada3525b492ede23c2ab2c1ce3afe4400",
            "bf3e125a1089882119900000000000000000000005",
        ],
    ),
    conversation(
        32,
        [
            "805032000897b2055fe58599fd00",
            "00000000000000000000320370a8439a22cedf045fa9f1903b2834f26e000002",
        ],
        "8482330010508a0fd959d2e547c6b33154a6be2057",
        [
            "84e29100187a5ef717eaf1e135ae92fe54429d0e465decda65f5fe5aea00",
            "ea90dbfa648a67c5eb6abc57f8530b97d0cd5647c5e8732016b55203b078dd2ace7f8bc5d1c1cd99",
        ],
    ),
];

/// Keys 000102.., 101112.., 202122..: sixteen bytes, from the front again where the key is longer.
fn keys(len: usize) -> KeySet {
    let of = |first: u8| key(&(first..first + 16).cycle().take(len).collect::<Vec<u8>>());
    KeySet {
        enc: of(0x00),
        mac: of(0x10),
        dek: of(0x20),
    }
}

fn transmit(card: &mut SecureElement<Recorded>, capdu: &str) -> String {
    let mut out = [0; 300];
    let len = card.transmit(
        sekisho_os::Interface::Iso7816Contact,
        &hex::decode(capdu).unwrap(),
        &mut out,
    );
    hex::encode(&out[..len])
}

#[test]
fn nine_recorded_conversations() {
    let aid = hex::decode("A0000005591010FFFFFFFF8900000100").unwrap();
    let profile = Profile {
        isd_aid: Aid::try_from(&aid[..]).unwrap(),
        ..profile()
    };
    for conversation in &CONVERSATIONS {
        let [command, response] = conversation.initialize_update;
        let kvn = u8::from_str_radix(&command[4..6], 16).unwrap();
        let (keys, k_aut) = (keys(conversation.key_len), key(&[0xA0; 16]));
        let perso = Personalisation {
            se_id: [0; 10],
            ..personalisation(kvn, &keys, &k_aut)
        };
        let mut card = SecureElement::<Recorded>::made(flash(), SeededRng(1), &profile, &perso).unwrap();
        // The recorded card had been used before.
        let sequence = u32::from_str_radix(&response[response.len() - 6..], 16).unwrap();
        for _ in 1..sequence {
            assert!(transmit(&mut card, &format!("8050{kvn:02x}0008010203040506070800")).ends_with("9000"));
        }
        assert_eq!(transmit(&mut card, command), format!("{response}9000"));
        assert_eq!(transmit(&mut card, conversation.external_authenticate), "9000");
        let [command, response] = conversation.get_eid;
        assert_eq!(
            transmit(&mut card, command),
            format!("{response}9000"),
            "{command}"
        );
    }
}
