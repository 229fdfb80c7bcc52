//! Secrets are gone when the pages say so: after a command that ended the use of a key, the memory of a running `sekisho card` is searched for it:
//! stack, heap, the operating system's RAM. What a card keeps stands in its flash and nowhere else; the search leaves out the bytes of the flash,
//! by their address, and nothing else.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]
#![cfg(target_os = "linux")]

mod process;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use process::memory::{Memory, Secret};
use process::{CardProcess, Guarded, put_keys, scratch, send};
use sekisho_apdu::{CApdu, Cla, Writer};
use sekisho_hsm::PersoFile;
use sekisho_keys::p256sig::SigningKey;
use sekisho_keys::{AesKey, KeySet, cmac, ctr_xor, kdf_label, kdf_session_key, key_wrap, sha256};
use sekisho_link::Manifest;
use sekisho_scp::host::{BroadcastWriter, Challenge, HostChannel, InitializeUpdateResponse, SessionKeys};
use sekisho_scp::{MacMode, SecurityLevel};
use sekisho_transport::{Card, SocketCard};
use zeroize::Zeroizing;

const KVN: u8 = 0x30;
const SE_ID: [u8; 10] = [0x5E, 0xC1, 0x54, 0, 0, 0, 0, 0, 0, 0x77];
const V2: &[u8] = include_bytes!("../../../applets/prebuilt/meter-v2.wasm");

/// A key that stands nowhere by chance.
fn named(name: &str) -> AesKey {
    AesKey::new(&sha256(&[b"memory search: ", name.as_bytes()])[..16]).unwrap()
}

fn set(name: &str) -> KeySet {
    let key = |part: &str| named(&format!("{name} {part}"));
    KeySet {
        enc: key("Key-ENC"),
        mac: key("Key-MAC"),
        dek: key("Key-DEK"),
    }
}

fn designer() -> SigningKey {
    SigningKey::from_bytes(&sha256(&[b"designer"])).unwrap()
}

fn secrets_of(name: &str, set: &KeySet) -> Vec<Secret> {
    [
        ("Key-ENC", &set.enc),
        ("Key-MAC", &set.mac),
        ("Key-DEK", &set.dek),
    ]
    .map(|(part, key)| Secret::new(format!("{name} {part}"), key.as_bytes()))
    .into()
}

/// What the flash keeps, and what comes from Kos alone.
fn kept() -> Vec<Secret> {
    let mut all = secrets_of("static", &set("scp"));
    all.push(Secret::new("K-AUT", named("K-AUT").as_bytes()));
    all.push(Secret::new("Kos", named("Kos").as_bytes()));
    all.push(Secret::new("K_MAC", named("K_MAC").as_bytes()));
    all.push(Secret::new(
        "KEK",
        derive(&named("Kos"), "SK key wrap", &[]).as_bytes(),
    ));
    let image = derive(&named("Kos"), "SK image", &manifest().package_id);
    all.push(Secret::new("K_IMG", image.as_bytes()));
    all
}

fn derive(key: &AesKey, label: &str, context: &[u8]) -> AesKey {
    let mut out = [0; 16];
    kdf_label(key, label.as_bytes(), context, &mut out);
    AesKey::new(&out).unwrap()
}

fn manifest() -> Manifest {
    Manifest {
        target: Manifest::OS_PART,
        code_format: Manifest::WEBASSEMBLY,
        abi: Manifest::ABI,
        version: 2,
        min_previous: 1,
        length: V2.len().try_into().unwrap(),
        package_id: [0xAB; 16],
        digest: sha256(&[V2]),
    }
}

/// A card that was personalised in an earlier life of its process, and its reader.
struct Bench {
    process: CardProcess,
    /// There is one at a time.
    reader: Option<SocketCard>,
    flash: PathBuf,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = scratch();
        let hex = |key: &AesKey| Zeroizing::new(hex::encode(key.as_bytes()));
        let scp = set("scp");
        let perso = PersoFile {
            se_id: hex::encode(SE_ID),
            kvn: KVN,
            s16: false,
            k_enc: hex(&scp.enc),
            k_mac_scp: hex(&scp.mac),
            k_dek: hex(&scp.dek),
            k_aut: hex(&named("K-AUT")),
            kos: hex(&named("Kos")),
            k_mac: hex(&named("K_MAC")),
            designer: hex::encode(designer().verifying_key().to_sec1()),
            paging_root: None,
            file_mkey: None,
            file_external: None,
        };
        let (flash, file) = (folder.path().join("flash"), folder.path().join("perso"));
        std::fs::write(&file, serde_json::to_string(&perso).unwrap()).unwrap();
        CardProcess::start(&flash, 0, &["--perso", file.to_str().unwrap()]).kill();
        let process = CardProcess::start(&flash, 0, &[]);
        Self {
            reader: Some(process.reader()),
            process,
            flash,
            _folder: folder,
        }
    }

    /// What of these secrets stands outside the flash.
    fn holds(&self, secrets: &[Secret]) -> Vec<String> {
        let memory = Memory::of(self.process.id());
        memory.holds(secrets, &memory.flash(&self.flash))
    }

    /// None of these secrets, nor of those that the flash keeps, stands outside the flash.
    fn assert_gone(&self, when: &str, secrets: &[Secret]) {
        let mut found = self.holds(secrets);
        found.extend(self.holds(&kept()));
        assert!(found.is_empty(), "{when}: {found:#?}");
    }

    /// All of them stand somewhere: the search finds what is there.
    fn assert_there(&self, when: &str, secrets: &[Secret]) {
        for secret in secrets {
            assert!(
                !self.holds(std::slice::from_ref(secret)).is_empty(),
                "{when}: the search does not find {}",
                secret.name
            );
        }
    }

    fn card(&mut self) -> &mut SocketCard {
        self.reader.as_mut().unwrap()
    }

    fn reset(&mut self) {
        self.card().reset().unwrap();
    }

    fn open(&mut self, keys: &KeySet) -> Session {
        let (initiated, channel) = self.initiate(keys);
        let sw = send(self.card(), &initiated).1;
        assert_eq!(sw, 0x9000);
        channel
    }

    /// INITIALIZE UPDATE; gives EXTERNAL AUTHENTICATE.
    fn initiate(&mut self, keys: &KeySet) -> (Vec<u8>, Session) {
        let challenge = [1, 2, 3, 4, 5, 6, 7, 8];
        let command = [&[0x80, 0x50, 0, 0, 8][..], &challenge, &[0]].concat();
        let (data, sw) = send(self.card(), &command);
        assert_eq!(sw, 0x9000);
        let response = InitializeUpdateResponse::parse(&data).unwrap();
        let host_challenge = Challenge::try_from(&challenge[..]).unwrap();
        let session = SessionKeys::derive(keys, &host_challenge, &response.card_challenge).unwrap();
        let cryptogram = session
            .host_cryptogram(&host_challenge, &response.card_challenge)
            .unwrap();
        let mut channel = HostChannel::new(session, MacMode::S8);
        let mut buffer = [0; 64];
        let mut out = Writer::new(&mut buffer);
        channel
            .external_authenticate(SecurityLevel::FULL, &cryptogram, &mut out)
            .unwrap();
        // Table 4-1: S-ENC, S-MAC, S-RMAC.
        let context = [&challenge[..], &data[13..21]].concat();
        let key = |name: &str, key: &AesKey, constant| {
            Secret::new(name, kdf_session_key(key, constant, &context).as_bytes())
        };
        let secrets = vec![
            key("S-ENC", &keys.enc, 0x04),
            key("S-MAC", &keys.mac, 0x06),
            key("S-RMAC", &keys.mac, 0x07),
        ];
        (out.written().to_vec(), Session { channel, secrets })
    }
}

/// The host's end, and what the card must forget of it.
struct Session {
    channel: HostChannel,
    secrets: Vec<Secret>,
}

impl Session {
    fn wrap(&mut self, command: &CApdu<'_>) -> Vec<u8> {
        let mut buffer = vec![0; 2000];
        let mut out = Writer::new(&mut buffer);
        self.channel.wrap(command, &mut out).unwrap();
        out.written().to_vec()
    }

    /// A command through the channel: its status word.
    fn send(&mut self, bench: &mut Bench, command: &CApdu<'_>) -> u16 {
        let wrapped = self.wrap(command);
        let answer = bench.card().transmit(&wrapped).unwrap();
        let mut plain = [0; 2000];
        self.channel.unwrap_response(&answer, &mut plain).unwrap().sw.0
    }
}

fn command(ins: u8, p1: u8, p2: u8, data: &[u8]) -> CApdu<'_> {
    CApdu::new(Cla::GP, ins, p1, p2).with_data(data)
}

/// GET DATA of the card's own data.
fn get_data() -> CApdu<'static> {
    command(0xCA, 0x00, 0x66, &[]).with_ne(256)
}

/// What ends a session.
type End<'a> = &'a dyn Fn(&mut Bench, &mut Session);

/// Every way out of an individual secure channel.
#[test]
fn session_keys_are_gone_when_the_session_is() {
    let keys = set("scp");
    let mut bench = Bench::new();
    bench.assert_gone("after the start", &[]);
    let ends: [(&str, End<'_>); 6] = [
        ("reset", &|bench, _| bench.reset()),
        ("SELECT", &|bench, _| {
            assert_eq!(send(bench.card(), &[0, 0xA4, 4, 0, 0]).1, 0x9000);
        }),
        ("a wrong C-MAC", &|bench, session| {
            let mut wrapped = session.wrap(&get_data());
            let last = wrapped.len() - 2;
            wrapped[last] ^= 1;
            assert_eq!(send(bench.card(), &wrapped).1, 0x6982);
        }),
        ("a command in the clear", &|bench, _| {
            assert_eq!(send(bench.card(), &[0x80, 0xCA, 0x00, 0x66, 0]).1, 0x6982);
        }),
        ("another opening", &|bench, _| {
            let (_, other) = bench.initiate(&set("scp"));
            bench.assert_there("the opening", &other.secrets);
            assert_eq!(send(bench.card(), &[0x80, 0xCA, 0x00, 0x66, 0]).1, 0x9000);
            bench.assert_gone("an opening that was broken off", &other.secrets);
        }),
        ("the reader gone", &|bench, _| {
            bench.reader = None;
            bench.reader = Some(bench.process.reader());
            // Its first command is answered when the card has seen the other reader go.
            bench.reset();
        }),
    ];
    for (why, end) in ends {
        let mut session = bench.open(&keys);
        assert_eq!(session.send(&mut bench, &get_data()), 0x9000);
        bench.assert_there("an open channel", &session.secrets);
        end(&mut bench, &mut session);
        bench.assert_gone(why, &session.secrets);
        bench.reset();
    }
    // A host that proves nothing.
    let (mut authenticate, session) = bench.initiate(&keys);
    authenticate[5] ^= 1;
    assert_eq!(send(bench.card(), &authenticate).1, 0x6300);
    bench.assert_gone("a wrong cryptogram", &session.secrets);
}

#[test]
fn keys_that_were_put_stand_in_the_flash_alone_and_those_replaced_nowhere() {
    let (old, new) = (set("scp"), set("new"));
    let mut bench = Bench::new();
    let mut session = bench.open(&old);
    let put = put_keys(&mut session.channel, &old.dek, KVN, KVN, &new);
    let answer = bench.card().transmit(&put).unwrap();
    assert!(answer.ends_with(&[0x90, 0x00]));
    // Key-DEK of the set that opened the channel goes on for its host.
    let fresh = secrets_of("new", &new);
    assert_eq!(bench.holds(&fresh), Vec::<String>::new());
    bench.reset();
    bench.assert_gone("PUT KEY", &[fresh, session.secrets].concat_all());
    let memory = Memory::of(bench.process.id());
    let anywhere = memory.holds(&secrets_of("replaced", &old), &(0..0));
    assert!(anywhere.is_empty(), "{anywhere:#?}");

    let mut session = bench.open(&new);
    assert_eq!(session.send(&mut bench, &command(0xF0, 0x80, 0x07, &[])), 0x9000);
    assert_eq!(session.send(&mut bench, &command(0xF0, 0x80, 0x0F, &[])), 0x9000);
    assert_eq!(session.send(&mut bench, &command(0xF0, 0x80, 0xFF, &[])), 0x9000);
    bench.reset();
    let all = [kept(), secrets_of("new", &new), session.secrets].concat_all();
    let anywhere = Memory::of(bench.process.id()).holds(&all, &(0..0));
    assert!(anywhere.is_empty(), "a terminated card: {anywhere:#?}");
}

trait ConcatAll {
    fn concat_all(self) -> Vec<Secret>;
}

impl<const N: usize> ConcatAll for [Vec<Secret>; N] {
    fn concat_all(self) -> Vec<Secret> {
        self.into_iter().flatten().collect()
    }
}

/// A broadcast as the pages say: the command that begins it, P_SE, the two ends of AUTHORIZE ACTION, and its secrets.
struct Broadcast {
    change_mode: Vec<u8>,
    custody: u8,
    commands: Vec<Vec<u8>>,
    activate: Vec<u8>,
    secrets: Vec<Secret>,
}

impl Broadcast {
    /// Each campaign begins anew: a checkpoint of another one is deleted.
    fn new(custody: u8, campaign: u64) -> Self {
        let manifest = manifest();
        let (enc, mac) = (named("BK-ENC"), named("BK-MAC"));
        let keys = [enc.as_bytes(), mac.as_bytes()].concat();
        let kos = named("Kos");
        let mut body = V2.to_vec();
        let (carried, k_int) = if custody == 3 {
            let mut wrapped = vec![0; keys.len() + 8];
            key_wrap(&derive(&kos, "SK key wrap", &[]), &keys, &mut wrapped).unwrap();
            (wrapped, derive(&mac, "SK integrity", &manifest.package_id))
        } else {
            let image = derive(&kos, "SK image", &manifest.package_id);
            ctr_xor(&image, &manifest.package_id, 0, &mut body).unwrap();
            (keys, named("K_MAC"))
        };
        let campaign = campaign.to_be_bytes();
        let chaining = [0x5C; 16];
        let change_mode = [&campaign[..], &1u32.to_be_bytes(), &chaining, &carried].concat();
        let mut writer = BroadcastWriter::new(enc.clone(), mac.clone(), 1, chaining);
        let mut wrap = |command: &CApdu<'_>| {
            let mut buffer = vec![0; 2000];
            let mut out = Writer::new(&mut buffer);
            writer.wrap(command, &mut out).unwrap();
            out.written().to_vec()
        };
        let encoded = manifest.encode();
        let signature = designer().sign_parts(&[b"sekisho manifest v1\0", &encoded]);
        let mut commands = vec![wrap(&command(0x3C, 0, 0, &[&encoded[..], &signature].concat()))];
        for (number, bytes) in (1u16..).zip(body.chunks(239)) {
            let [p1, p2] = number.to_be_bytes();
            commands.push(wrap(&command(0x3C, p1, p2, bytes)));
        }
        commands.push(wrap(&command(0x3A, 0, 0, &[])));
        let (version, length) = (manifest.version.to_be_bytes(), manifest.length.to_be_bytes());
        let design = [
            &b"SKINTG01\x01"[..],
            &version,
            &length,
            &manifest.package_id,
            &manifest.digest,
        ]
        .concat();
        let individual = [
            &b"SKAUTH01\x01\x01"[..],
            &version,
            &length,
            &campaign,
            &SE_ID,
            &manifest.digest,
        ]
        .concat();
        let codes = [cmac(&k_int, &[&design]), cmac(&named("K-AUT"), &[&individual])].concat();
        Self {
            change_mode,
            custody,
            commands,
            activate: [&campaign[..], &codes].concat(),
            secrets: vec![
                Secret::new("BK-ENC", enc.as_bytes()),
                Secret::new("BK-MAC", mac.as_bytes()),
            ],
        }
    }

    fn begin(&self, bench: &mut Bench, session: &mut Session) {
        let sw = session.send(bench, &command(0x3A, 0x01, self.custody, &self.change_mode));
        assert_eq!(sw, 0x9000);
        // The answer was the individual channel's last; both key sets are needed now.
        bench.assert_there("broadcast mode", &self.secrets);
        bench.assert_there("broadcast mode", &session.secrets);
    }

    fn write(&self, bench: &mut Bench, blocks: usize) {
        for command in &self.commands[..blocks] {
            assert_eq!(send(bench.card(), command).1, 0x9000);
        }
    }
}

/// The saved channel and the broadcast key set: both gone after whatever ends broadcast mode, the broadcast keys after the return.
#[test]
fn the_saved_channel_and_the_broadcast_keys_are_gone_when_broadcast_mode_is() {
    let keys = set("scp");
    let mut bench = Bench::new();
    for custody in [3, 4] {
        let all = |session: Session, broadcast: Broadcast| [session.secrets, broadcast.secrets].concat_all();
        let ends = [
            "a wrong C-MAC",
            "a block left out",
            "a command in the clear",
            "a wrong length",
            "SELECT",
            "reset",
            "reset at once",
        ];
        for (campaign, why) in (1..).zip(ends) {
            let broadcast = Broadcast::new(custody, campaign);
            let mut session = bench.open(&keys);
            broadcast.begin(&mut bench, &mut session);
            // Without a block the plain CHANGE MODE was the last that was decrypted.
            broadcast.write(&mut bench, if why == "reset at once" { 0 } else { 2 });
            let mut wrong = broadcast.commands[2].clone();
            *wrong.last_mut().unwrap() ^= 1;
            let command = match why {
                "a wrong C-MAC" => wrong,
                "a block left out" => broadcast.commands[3].clone(),
                "a command in the clear" => vec![0x80, 0xCA, 0x00, 0x66, 0],
                "a wrong length" => vec![0x84, 0x3C, 0, 2, 9, 0],
                _ => vec![0, 0xA4, 4, 0, 0],
            };
            if why.starts_with("reset") {
                bench.reset();
            } else {
                send(bench.card(), &command);
            }
            bench.assert_gone(&format!("custody {custody}: {why}"), &all(session, broadcast));
            bench.reset();
        }
        // The whole of it: after the return the broadcast keys are gone, after the session all.
        let broadcast = Broadcast::new(custody, 8);
        let mut session = bench.open(&keys);
        broadcast.begin(&mut bench, &mut session);
        broadcast.write(&mut bench, broadcast.commands.len());
        let found = bench.holds(&broadcast.secrets);
        assert!(
            found.is_empty(),
            "custody {custody}: after the return: {found:#?}"
        );
        bench.assert_there("the saved channel", &session.secrets);
        if custody == 4 {
            let sw = session.send(&mut bench, &command(0x3E, 1, 0, &broadcast.activate).with_ne(256));
            assert_eq!(sw, 0x9000);
        }
        bench.reset();
        bench.assert_gone(
            &format!("custody {custody}: the session's end"),
            &all(session, broadcast),
        );
    }
}

/// Set for the process that [`plant`] runs in: where it puts the key.
const PLACE: &str = "MEMORY_SEARCH_PLACE";

/// The complement of what is planted: the key itself stands nowhere but where it is put.
fn hidden() -> [u8; 32] {
    sha256(&[b"planted"])
}

fn put(to: &mut [u8]) {
    to.iter_mut().zip(hidden()).for_each(|(to, hidden)| *to = !hidden);
}

/// Puts the key on a part of the stack that is left again.
#[inline(never)]
fn put_and_return() {
    let mut stack = [0; 64 * 1024];
    put(&mut stack[..16]);
    std::hint::black_box(&stack);
}

/// A process with a key in one place, or in none.
#[test]
#[ignore = "run by the test below as a process of its own"]
fn plant() {
    static STATIC: std::sync::Mutex<[u8; 16]> = std::sync::Mutex::new([0; 16]);
    let place = std::env::var(PLACE).unwrap_or_default();
    let (mut heap, mut stack) = (vec![0; 16], [0; 16]);
    match &place[..] {
        "static" => put(&mut STATIC.lock().unwrap()[..]),
        "heap" => put(&mut heap),
        "stack" => put(&mut stack),
        "half" => put(&mut stack[..8]),
        "left stack" => put_and_return(),
        "left heap" => {
            let mut gone = vec![0; 4096];
            put(&mut gone[2048..]);
        }
        _ => {}
    }
    std::hint::black_box((&heap, &stack));
    println!("\nplanted");
    // Until the other end has looked.
    let _ = std::io::stdin().read_line(&mut String::new());
}

/// The search can fail: it finds a copy wherever there is one, half of a key too, and none where there is none.
#[test]
fn the_search_finds_a_copy_in_every_kind_of_place() {
    let secret = Secret::new(
        "planted",
        &hidden()[..16].iter().map(|byte| !byte).collect::<Vec<_>>(),
    );
    for (place, is_there) in [
        ("static", true),
        ("heap", true),
        ("stack", true),
        ("half", true),
        ("left stack", true),
        ("left heap", true),
        ("none", false),
    ] {
        let mut child = Guarded(
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "plant", "--ignored", "--nocapture"])
                .env(PLACE, place)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line == "planted"));
        let found = Memory::of(child.0.id()).holds(std::slice::from_ref(&secret), &(0..0));
        assert_eq!(!found.is_empty(), is_there, "{place}: {found:?}");
    }
}
