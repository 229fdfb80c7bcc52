//! What `sekisho card` shows when it starts.

use core::fmt::Write;
use core::net::SocketAddr;
use std::path::Path;

use sekisho_apdu::tlv::{Tag, TlvReader};
use sekisho_applets::file_system;
use sekisho_link::{LoaderState, Manifest, SeId};
use sekisho_messaging::setup::{Mode, Policy};
use sekisho_nvm::Flash;
use sekisho_os::{Interface, MESSAGING_POLICY, PartState};

use super::element::{Start, VirtualSe};

/// What the SE says of itself, asked as any reader may.
pub(crate) struct About {
    pub(crate) atr: String,
    pub(crate) se_id: String,
    pub(crate) part: String,
    pub(crate) keys: String,
    /// Whether its SCP03 has S16.
    pub(crate) is_s16: bool,
    /// The file system, and how its secure messaging may be opened; none if there is none.
    pub(crate) files: Option<String>,
}

impl About {
    /// Asks the SE on `interface`, and leaves it as after a reset.
    pub(crate) fn ask<F: Flash>(se: &mut VirtualSe<F>, interface: Interface) -> Self {
        let se_id = get_data(se, interface, 0x00CF)
            .and_then(|v| v.try_into().ok())
            .map(SeId);
        let state = get_data(se, interface, 0xDF20).and_then(|v| LoaderState::decode(&v).ok());
        let templates = (0..=u8::MAX).map_while(|index| object(se, interface, [index, 0xE0], 0xE0));
        let keys: Vec<u8> = templates.flatten().collect();
        let design = get_data(se, interface, 0xDF22).and_then(|v| LoaderState::decode(&v).ok());
        // The last byte of card recognition data is "i" of SCP03, whose bit 1 says S16 (GPC H.2; Amd D Table 5-1).
        let recognition = get_data(se, interface, 0x0066).unwrap_or_default();
        let is_s16 = recognition.last().is_some_and(|i| i & 0x01 != 0);
        let files = files(se, interface);
        let part = se.part();
        se.reset(interface);
        Self {
            atr: hex::encode_upper(se.atr()),
            se_id: se_id.map_or_else(|| "unknown".to_owned(), |id| id.to_string()),
            part: state.map_or_else(|| "none".to_owned(), |state| os_part(&state, part)),
            keys: key_versions(&keys, design.map(|state| state.version)),
            is_s16,
            files,
        }
    }
}

/// Version and slot of the OS part; and what to do about one that this card holds but does not run.
fn os_part(state: &LoaderState, part: Option<PartState>) -> String {
    let slot = if state.slot == 0 { 'A' } else { 'B' };
    let version = format!("version {} in slot {slot}", state.version);
    match part.filter(|part| !part.runs) {
        Some(part) => format!(
            "{version}, written for host ABI {}; this card runs ABI {} to {} and answers 6D00 until it is updated",
            part.abi,
            Manifest::ABI,
            state.abi
        ),
        None => version,
    }
}

/// The value of a data object; the GlobalPlatform class gets it in its TLV.
fn get_data<F: Flash>(se: &mut VirtualSe<F>, interface: Interface, tag: u16) -> Option<Vec<u8>> {
    object(se, interface, tag.to_be_bytes(), tag)
}

/// The value of the data object that P1P2 asks for.
fn object<F: Flash>(
    se: &mut VirtualSe<F>,
    interface: Interface,
    [p1, p2]: [u8; 2],
    tag: u16,
) -> Option<Vec<u8>> {
    let mut out = [0; 1024];
    let len = se.transmit(interface, &[0x80, 0xCA, p1, p2, 0x00], &mut out);
    let (data, sw) = out.get(..len)?.split_last_chunk::<2>()?;
    let object = TlvReader::new(data).next()?.ok()?;
    (*sw == [0x90, 0x00] && object.tag == Tag(tag.into())).then(|| object.value.to_vec())
}

/// The file system's AID, and the modes that its security domain lets readers open.
fn files<F: Flash>(se: &mut VirtualSe<F>, interface: Interface) -> Option<String> {
    let policy = get_data(se, interface, MESSAGING_POLICY).and_then(|v| Policy::from_bytes(&v));
    let policy = policy.unwrap_or_default();
    let select = [&[0x00, 0xA4, 0x04, 0x0C, 0x07], file_system::AID].concat();
    let mut out = [0; 2];
    se.transmit(interface, &select, &mut out);
    let modes: Vec<_> = Mode::ALL
        .into_iter()
        .filter(|mode| policy.allows(*mode))
        .map(Mode::name)
        .collect();
    (out == [0x90, 0x00]).then(|| {
        format!(
            "{}, secure messaging: {}",
            hex::encode_upper(file_system::AID),
            modes.join(", ")
        )
    })
}

/// The key version numbers of key information `C0 (KID KVN ...)`, each once; and how often the design system's keys have changed, if they have.
fn key_versions(information: &[u8], design: Option<u32>) -> String {
    let mut versions: Vec<u8> = TlvReader::new(information)
        .flatten()
        .filter_map(|object| object.value.get(1).copied())
        .collect();
    versions.sort_unstable();
    versions.dedup();
    let mut text = String::from("KVN");
    for version in &versions {
        let _ = write!(text, " {version:02X}");
    }
    if versions.contains(&0xFF) {
        text += " (initial keys 40..4F, which everybody knows)";
    }
    if let Some(version) = design.filter(|version| *version > Manifest::FIRST_KEY_VERSION) {
        let _ = write!(text, "; design system's keys version {version}");
    }
    text
}

/// Where the SE can be reached.
pub(crate) struct Reach<'a> {
    pub(crate) vpcd: Option<&'a str>,
    pub(crate) listen: Option<SocketAddr>,
    /// That of vpcd, or of the only reader.
    pub(crate) interface: &'a str,
    /// That of the listener.
    pub(crate) listen_interface: &'a str,
}

/// The rest of an agent's command, with the server that `sekisho server` is where nobody says otherwise.
const AGENT: &str =
    "--server https://127.0.0.1:8443 --ca sekisho-server/certificate.pem --token-file token --once";

/// The first screen.
pub(crate) fn first_screen(
    about: &About,
    flash: &Path,
    kib: usize,
    start: Start,
    reach: &Reach<'_>,
) -> String {
    let made = if start == Start::Made {
        "made now"
    } else {
        "made before"
    };
    let mut text = String::from("sekisho card: a virtual secure element\n\n");
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<11}{value}");
    };
    line("flash", &format!("{} ({kib} KiB, {made})", flash.display()));
    line("SE-id", &about.se_id);
    line("ATR", &about.atr);
    line("OS part", &about.part);
    line("keys", &about.keys);
    if about.is_s16 {
        line("SCP03", "S16: challenges, cryptograms and MACs of 16 bytes");
    }
    if let Some(files) = &about.files {
        line("files", files);
    }
    if reach.interface == reach.listen_interface || reach.listen.is_none() {
        line("interface", reach.interface);
    } else {
        let both = format!(
            "{} in vpcd, {} for --listen",
            reach.interface, reach.listen_interface
        );
        line("interface", &both);
    }
    let _ = writeln!(text);
    if let Some(address) = reach.vpcd {
        let _ = writeln!(text, "In pcscd's virtual reader (vpcd at {address}). Try:");
        let _ = writeln!(text, "  opensc-tool -l");
        let _ = writeln!(text, "  opensc-tool -a -s 00A4040000 -s 80CADF2000");
        let _ = writeln!(text, "  sekisho agent --card 'pcsc:Virtual PCD 00 00' {AGENT}");
    }
    if let Some(address) = reach.listen {
        let _ = writeln!(text, "Listening on {address}, length-prefixed like vpcd. Try:");
        let _ = writeln!(text, "  sekisho agent --card tcp:{address} {AGENT}");
        if about.files.is_some() {
            let _ = writeln!(text, "  sekisho reader --card tcp:{address} send 00B0810004");
        }
    }
    let _ = writeln!(
        text,
        "\nIt keeps its state in the flash: stop it with Ctrl-C, or in any other way, at any moment."
    );
    text
}
