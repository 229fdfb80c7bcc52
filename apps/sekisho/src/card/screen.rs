//! What `sekisho card` shows when it starts.

use core::fmt::Write;
use std::path::Path;

use sekisho_apdu::tlv::{Tag, TlvReader};
use sekisho_applets::{file_system, tls_manager};
use sekisho_link::{LoaderState, Manifest, SeId};
use sekisho_messaging::setup::{Mode, Policy};
use sekisho_os::{ContainerId, Interface, MESSAGING_POLICY, PartState, Platform, Protocol, SecureElement};

use super::element::Start;
use super::kind::Kind;
use super::line::{Endpoint, Line, interface};

/// What the SE says of itself, asked as any reader may.
pub(crate) struct About {
    pub(crate) atr: String,
    pub(crate) part: String,
    /// By number, from 1 on.
    pub(crate) containers: Vec<Container>,
}

/// What a container says of itself.
pub(crate) struct Container {
    pub(crate) se_id: String,
    pub(crate) keys: String,
    /// Whether its SCP03 has S16.
    pub(crate) is_s16: bool,
    /// The file system, and how its secure messaging may be opened; none if there is none.
    pub(crate) files: Option<String>,
    /// The TLS Manager, if there is one.
    pub(crate) tls: Option<String>,
}

impl About {
    /// Asks each of so many containers on a protocol that is paired with it, and leaves all interfaces as after power-on.
    pub(crate) fn ask<P: Platform>(se: &mut SecureElement<P>, containers: u8) -> Self {
        let part = se.part();
        let mut about = Self {
            atr: hex::encode_upper(se.atr()),
            part: "none".to_owned(),
            containers: Vec::new(),
        };
        for number in 1..=containers {
            let its = |(protocol, row): &(Protocol, sekisho_os::Row)| {
                Protocol::STANDARD.contains(protocol) && row.container.number() == number
            };
            let protocol = se.pairing().rows().find(its).map(|(protocol, _)| protocol);
            let container = protocol.filter(|protocol| se.reset_to(interface(*protocol), *protocol));
            let container = container.map(|protocol| Container::ask(se, interface(protocol)));
            if let Some(protocol) = protocol
                && let Some(state) = get_data(se, interface(protocol), 0xDF20)
                && let Ok(state) = LoaderState::decode(&state)
            {
                about.part = os_part(&state, part);
            }
            about
                .containers
                .push(container.unwrap_or_else(Container::unreachable));
        }
        for interface in Interface::ALL {
            let _ = se.reset_to(interface, interface.default_protocol());
        }
        about
    }
}

impl Container {
    /// One that pairing data give no protocol.
    fn unreachable() -> Self {
        Self {
            se_id: "unknown: it is paired with no protocol".to_owned(),
            keys: "unknown".to_owned(),
            is_s16: false,
            files: None,
            tls: None,
        }
    }

    fn ask<P: Platform>(se: &mut SecureElement<P>, interface: Interface) -> Self {
        let se_id = get_data(se, interface, 0x00CF)
            .and_then(|v| v.try_into().ok())
            .map(SeId);
        let templates = (0..=u8::MAX).map_while(|index| object(se, interface, [index, 0xE0], 0xE0));
        let keys: Vec<u8> = templates.flatten().collect();
        let design = get_data(se, interface, 0xDF22).and_then(|v| LoaderState::decode(&v).ok());
        // The last byte of card recognition data is "i" of SCP03, whose bit 1 says S16 (GPC H.2; Amd D Table 5-1).
        let recognition = get_data(se, interface, 0x0066).unwrap_or_default();
        let files = files(se, interface);
        let tls = is_there(se, interface, tls_manager::AID).then(|| hex::encode_upper(tls_manager::AID));
        se.reset(interface);
        Self {
            se_id: se_id.map_or_else(|| "unknown".to_owned(), |id| id.to_string()),
            keys: key_versions(&keys, design.map(|state| state.version)),
            is_s16: recognition.last().is_some_and(|i| i & 0x01 != 0),
            files,
            tls,
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
fn get_data<P: Platform>(se: &mut SecureElement<P>, interface: Interface, tag: u16) -> Option<Vec<u8>> {
    object(se, interface, tag.to_be_bytes(), tag)
}

/// The value of the data object that P1P2 asks for.
fn object<P: Platform>(
    se: &mut SecureElement<P>,
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
fn files<P: Platform>(se: &mut SecureElement<P>, interface: Interface) -> Option<String> {
    let policy = get_data(se, interface, MESSAGING_POLICY).and_then(|v| Policy::from_bytes(&v));
    let policy = policy.unwrap_or_default();
    let modes: Vec<_> = Mode::ALL
        .into_iter()
        .filter(|mode| policy.allows(*mode))
        .map(Mode::name)
        .collect();
    is_there(se, interface, file_system::AID).then(|| {
        format!(
            "{}, secure messaging: {}",
            hex::encode_upper(file_system::AID),
            modes.join(", ")
        )
    })
}

/// Whether SELECT finds an application by this AID of seven bytes.
fn is_there<P: Platform>(se: &mut SecureElement<P>, interface: Interface, aid: &[u8]) -> bool {
    let select = [&[0x00, 0xA4, 0x04, 0x0C, 0x07], aid].concat();
    let mut out = [0; 2];
    se.transmit(interface, &select, &mut out);
    out == [0x90, 0x00]
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

/// The rest of an agent's command, with the server that `sekisho server` is where nobody says otherwise.
const AGENT: &str =
    "--server https://127.0.0.1:8443 --ca sekisho-server/certificate.pem --token-file token --once";

/// Lines for which it is shown what to try.
const TRIED_MAX: usize = 2;

/// The first screen. Listeners have the address that they have got.
pub(crate) fn first_screen(
    about: &About,
    flash: &Path,
    kib: usize,
    (start, kind): (Start, Kind),
    lines: &[(Line, Vec<Option<ContainerId>>)],
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
    if kind != Kind::PLAIN {
        line("product", &kind.to_string());
    }
    line("ATR", &about.atr);
    line("OS part", &about.part);
    let several = about.containers.len() > 1;
    for (number, container) in (1..).zip(&about.containers) {
        if several {
            line(&format!("container {number}"), "");
        }
        let mut its = |name: &str, value: &str| {
            let indent = if several { "  " } else { "" };
            line(&format!("{indent}{name}"), value);
        };
        its("SE-id", &container.se_id);
        its("keys", &container.keys);
        if container.is_s16 {
            its("SCP03", "S16: challenges, cryptograms and MACs of 16 bytes");
        }
        if let Some(files) = &container.files {
            its("files", files);
        }
        if let Some(tls) = &container.tls {
            its("TLS", tls);
        }
    }
    for (of, containers) in lines {
        let mut answers = of.endpoint.to_string();
        let mut by: Vec<_> = containers.iter().flatten().map(|of| of.number()).collect();
        by.dedup();
        if several && !by.is_empty() {
            let by: Vec<_> = by.iter().map(u8::to_string).collect();
            let _ = write!(answers, ", answered by container {}", by.join(" and "));
        }
        line(of.name(), &answers);
    }
    if lines.len() <= TRIED_MAX {
        for (line, containers) in lines {
            let container = containers.first().copied().flatten();
            text += &what_to_try(line, about.containers.get(container.map_or(0, index)));
        }
    }
    let _ = writeln!(
        text,
        "\nIt keeps its state in the flash: stop it with Ctrl-C, or in any other way, at any moment."
    );
    text
}

fn index(container: ContainerId) -> usize {
    usize::from(container.number()).saturating_sub(1)
}

/// Commands for a reader of this line.
fn what_to_try(line: &Line, container: Option<&Container>) -> String {
    let has_files = container.is_some_and(|container| container.files.is_some());
    match &line.endpoint {
        Endpoint::Client(address) => {
            // Debian's pcscd has two virtual readers, at ports 35963 and 35964.
            let reader = if address.ends_with(":35964") { "01" } else { "00" };
            let of = format!("-r 'Virtual PCD 00 {reader}'");
            format!(
                "\nIn pcscd's virtual reader (vpcd at {address}). Try:\n  opensc-tool -l\n  opensc-tool {of} -a -s 00A4040000 -s 80CA00CF00\n  sekisho agent --card 'pcsc:Virtual PCD 00 {reader}' {AGENT}\n"
            )
        }
        Endpoint::Listener(address) => {
            let reader = format!("  sekisho reader --card tcp:{address} send 00B0810004\n");
            format!(
                "\nListening on {address}, length-prefixed like vpcd. Try:\n  sekisho agent --card tcp:{address} {AGENT}\n{}",
                if has_files { reader } else { String::new() }
            )
        }
        Endpoint::Link(_, address) => {
            let at = format!("{}={address}", line.name());
            let reader = format!("  sekisho reader --card {at} send 00B0810004\n");
            format!(
                "\nListening on {address} for {}'s own frames, by link records. Try:\n  sekisho agent --card {at} {AGENT}\n{}",
                line.name(),
                if has_files { reader } else { String::new() }
            )
        }
    }
}
