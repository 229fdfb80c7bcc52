//! `sekisho bench tls`: a TLS session that ends in a secure element: the APDUs and bytes of a handshake and of a command, and the CPU of the client's side beside rustls and OpenSSL with
//! the same server.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sys::resource::UsageWho;
use rcgen::ExtendedKeyUsagePurpose;
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use sekisho_device::tls::{Ended, Seen, carry};
use sekisho_gateway::{Gateway, Settings};
use sekisho_messaging::setup::Policy;
use sekisho_os::{Interface, Profile};
use sekisho_transport::Card;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{cpu, tls};
use crate::card::element::{self, FleetPlatform};
use crate::card::perso::{FirstPart, Perso};
use crate::card::ram_flash::RamFlash;
use crate::certificates::{Authority, Certified};
use crate::leftovers::Folder;

/// The server's name.
const SERVER: &str = "gateway.example";
/// The client's.
const CLIENT: &str = "element.example";
/// Handshakes of each client.
const HANDSHAKES: u32 = 200;
/// Commands of the session in which they are measured.
const COMMANDS: u32 = 1000;
/// Commands in the clear: so many that the time that the system books for a thread, at ticks and switches, is right within a hundredth.
const COMMANDS_IN_THE_CLEAR: u32 = 200_000;
/// Seconds that OpenSSL's client makes handshakes.
const OPENSSL: &str = "2";
/// Content type of what is encrypted in TLS 1.3 (RFC 8446, 5.1).
const APPLICATION_DATA: u8 = 23;
const PATIENCE: Duration = Duration::from_secs(30);

/// SELECT of the file system, and 16 bytes of its file 2F00.
const SELECT: &[u8] = b"\x00\xA4\x04\x00\x07\xF0SKOS\x04\x01\x00";
const READ: &[u8] = &[0x00, 0xB0, 0x9E, 0x00, 0x10];

/// What went between server, device and SE.
#[derive(Clone, Copy, Default)]
struct Went {
    apdus: u64,
    sent: u64,
    received: u64,
}

/// Tells the handshake from what is behind it.
#[derive(Default)]
struct Watch {
    all: Went,
    handshake: Option<Went>,
    /// The SE's last flight is on its way.
    is_ending: bool,
}

impl Watch {
    fn see(&mut self, seen: Seen<'_>) {
        let bytes = |header: &[u8]| match header {
            [_, _, _, a, b, ..] => 5 + u64::from(u16::from_be_bytes([*a, *b])),
            _ => 0,
        };
        match seen {
            // What follows the flight is a command, or the goodbye.
            Seen::Command(_) | Seen::Received(_) if self.is_ending && self.handshake.is_none() => {
                self.handshake = Some(self.all);
                self.see(seen);
            }
            Seen::Command(_) => self.all.apdus += 1,
            Seen::Received(header) => self.all.received += bytes(header),
            Seen::Sent(header) => {
                self.all.sent += bytes(header);
                self.is_ending |= header.first() == Some(&APPLICATION_DATA);
            }
            Seen::Answer(_) => {}
        }
    }
}

/// CPU of this thread so far, in microseconds.
fn cpu() -> Result<f64> {
    Ok(cpu::of_task(Path::new("/proc/thread-self"))? as f64 / 1e3)
}

/// An SE that has sessions with the server.
fn secure_element(authority: &Authority) -> Result<impl Card> {
    let profile = Profile::default();
    let persos = [Perso {
        tls: Some(authority.element(CLIENT, SERVER)?),
        ..Perso::developer(false)?
    }];
    let flash = RamFlash::for_profile(&profile);
    let made = Perso::lend(&persos, &FirstPart::new()?, Policy::new(), |personalisations| {
        element::start_as::<FleetPlatform<RamFlash>>(flash, &profile, personalisations)
    })?;
    let (se, _) = made.map_err(|error| anyhow!(error))?;
    Ok(element::in_process(Box::new(se), Interface::Spi))
}

/// A server in a thread of its own, which reads so often in each session, and gives tickets for so many. It ends with this process.
fn serve(authority: &Authority, commands: u32, resumable: usize) -> Result<SocketAddr> {
    let settings = Settings {
        resumable,
        ..Settings::DEFAULT
    };
    let gateway = Gateway::new(&authority.gateway(SERVER)?, settings)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    let mut script = Vec::new();
    if commands > 0 {
        script.push(SELECT);
        script.resize(commands as usize, READ);
    }
    std::thread::spawn(move || {
        runtime.block_on(async {
            while let Ok((stream, from)) = listener.accept().await {
                let Some(room) = gateway.room(from.ip()) else {
                    continue;
                };
                if let Ok(mut session) = gateway.accept(room, stream).await {
                    session
                        .run(&script, |_, answer| answer.ends_with(&[0x90, 0x00]))
                        .await;
                    session.end().await;
                }
            }
        });
    });
    Ok(address)
}

/// One session of the SE.
fn session(card: &mut dyn Card, server: SocketAddr, commands: u32) -> Result<Watch> {
    let stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    let mut watch = Watch::default();
    let session = carry(card, &stream, &tls::settings(1), &mut |seen| watch.see(seen))?;
    ensure!(
        matches!(session.ended, Ended::BySe) && session.answered == u64::from(commands),
        "{}",
        tls::words(&session)
    );
    Ok(watch)
}

/// A client of rustls with ring.
fn rustls_client(authority: &Authority, client: &Certified) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone())?;
    let key = PrivatePkcs8KeyDer::from(client.key.serialize_der());
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = builder.with_client_auth_cert(vec![client.certificate.der().clone()], key.into())?;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// Its handshake, and goodbye.
fn rustls_session(config: &Arc<ClientConfig>, server: SocketAddr) -> Result<()> {
    let stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let connection = ClientConnection::new(Arc::clone(config), ServerName::try_from(SERVER)?)?;
    let mut client = StreamOwned::new(connection, stream);
    while client.conn.is_handshaking() {
        client.conn.complete_io(&mut client.sock)?;
    }
    let mut rest = Vec::new();
    client.read_to_end(&mut rest)?;
    client.conn.send_close_notify();
    client.flush()?;
    Ok(())
}

/// Microseconds of OpenSSL's client for a handshake.
fn openssl(authority: &Authority, client: &Certified, server: SocketAddr) -> Result<f64> {
    let folder = Folder::new()?;
    let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text);
    write("ca.pem", authority.certificate_pem())?;
    write("cert.pem", client.certificate.pem())?;
    write("key.pem", client.key.serialize_pem())?;
    let before = cpu::of(UsageWho::RUSAGE_CHILDREN)?;
    let output = Command::new("openssl")
        .args([
            "s_time", "-new", "-time", OPENSSL, "-verify", "2", "-CAfile", "ca.pem",
        ])
        .args([
            "-cert",
            "cert.pem",
            "-key",
            "key.pem",
            "-connect",
            &server.to_string(),
        ])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .context("openssl does not start")?;
    let spent = cpu::of(UsageWho::RUSAGE_CHILDREN)? - before;
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said
        .lines()
        .find(|line| line.contains(" connections in ") && line.contains("real seconds"));
    let count = line.and_then(|line| line.split_whitespace().next()?.parse::<u32>().ok());
    let count = count.filter(|count| *count > 0);
    Ok(spent / f64::from(count.with_context(|| format!("it has made no handshake: {said}"))?))
}

/// CPU of this thread for each of so many.
fn each(count: u32, mut f: impl FnMut() -> Result<()>) -> Result<f64> {
    f()?;
    let before = cpu()?;
    for _ in 0..count {
        f()?;
    }
    Ok((cpu()? - before) / f64::from(count))
}

/// All figures.
struct Figures {
    handshake: Went,
    handshake_us: f64,
    rustls_us: f64,
    openssl_us: Result<f64>,
    resumed: Went,
    resumed_us: f64,
    /// Of so many commands.
    commands: Went,
    command_us: f64,
    plain_us: f64,
}

fn measure() -> Result<Figures> {
    let authority = Authority::new()?;
    let client = authority.certify(CLIENT, ExtendedKeyUsagePurpose::ClientAuth)?;
    let mut card = secure_element(&authority)?;
    let server = serve(&authority, 0, 0)?;
    let handshake = session(&mut card, server, 0)?.handshake;
    let handshake = handshake.context("no end of the handshake was seen")?;
    let handshake_us = each(HANDSHAKES, || session(&mut card, server, 0).map(drop))?;
    let config = Arc::new(rustls_client(&authority, &client)?);
    let rustls_us = each(HANDSHAKES, || rustls_session(&config, server))?;
    let openssl_us = openssl(&authority, &client, server);

    // The first has a whole handshake, and brings the ticket.
    let server = serve(&authority, 0, 16)?;
    session(&mut card, server, 0)?;
    let resumed = session(&mut card, server, 0)?.handshake;
    let resumed = resumed.context("no end of the resumed handshake was seen")?;
    let resumed_us = each(HANDSHAKES, || session(&mut card, server, 0).map(drop))?;

    let busy = serve(&authority, COMMANDS, 0)?;
    let watch = session(&mut card, busy, COMMANDS)?;
    let begun = watch.handshake.unwrap_or_default();
    let commands = Went {
        apdus: watch.all.apdus - begun.apdus,
        sent: watch.all.sent - begun.sent,
        received: watch.all.received - begun.received,
    };
    let session_us = each(3, || session(&mut card, busy, COMMANDS).map(drop))?;
    card.transmit(SELECT)?;
    let plain_us = each(COMMANDS_IN_THE_CLEAR, || {
        card.transmit(READ)?;
        Ok(())
    })?;
    Ok(Figures {
        handshake,
        handshake_us,
        rustls_us,
        openssl_us,
        resumed,
        resumed_us,
        commands,
        command_us: (session_us - handshake_us) / f64::from(COMMANDS),
        plain_us,
    })
}

#[allow(clippy::print_stdout, clippy::print_stderr)]
pub(super) fn run(is_json: bool) -> Result<()> {
    eprintln!("measuring, about ten seconds ...");
    let figures = measure()?;
    if is_json {
        println!("{}", figures.json());
        return Ok(());
    }
    let per = |count: u64| count as f64 / f64::from(COMMANDS);
    let ratio = |other: f64| format!("the SE takes {:.1} x", figures.handshake_us / other);
    println!("TLS 1.3, a certificate on each side      APDUs   to server   from server   CPU of the client");
    println!(
        "  handshake of an SE                 {:>9} {:>9} B {:>11} B {:>14.0} us",
        figures.handshake.apdus, figures.handshake.sent, figures.handshake.received, figures.handshake_us
    );
    println!(
        "  the same of rustls with ring {:>57.0} us   {}",
        figures.rustls_us,
        ratio(figures.rustls_us)
    );
    match &figures.openssl_us {
        Ok(micros) => println!(
            "  the same of OpenSSL's s_time {micros:>57.0} us   {}",
            ratio(*micros)
        ),
        Err(error) => println!("  OpenSSL: {}", super::in_a_line(error)),
    }
    println!(
        "  READ BINARY of 16 bytes            {:>9.3} {:>9.1} B {:>11.1} B {:>14.1} us   in the clear {:.1} us",
        per(figures.commands.apdus),
        per(figures.commands.sent),
        per(figures.commands.received),
        figures.command_us,
        figures.plain_us
    );
    println!(
        "  resumed by a ticket of 32 bytes    {:>9} {:>9} B {:>11} B {:>14.0} us",
        figures.resumed.apdus, figures.resumed.sent, figures.resumed.received, figures.resumed_us
    );
    Ok(())
}

impl Figures {
    fn json(&self) -> Value {
        json!({
            "handshake_apdus": self.handshake.apdus, "handshake_sent_bytes": self.handshake.sent,
            "handshake_received_bytes": self.handshake.received, "handshake_cpu_us": self.handshake_us,
            "rustls_cpu_us": self.rustls_us, "openssl_cpu_us": self.openssl_us.as_ref().ok(),
            "commands": COMMANDS, "commands_apdus": self.commands.apdus, "commands_sent_bytes": self.commands.sent,
            "commands_received_bytes": self.commands.received, "command_cpu_us": self.command_us,
            "plain_command_us": self.plain_us, "resumed_handshake_apdus": self.resumed.apdus,
            "resumed_handshake_bytes": self.resumed.sent + self.resumed.received, "resumed_handshake_cpu_us": self.resumed_us,
        })
    }
}
