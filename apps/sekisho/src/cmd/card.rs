//! `sekisho card`: a virtual secure element as a process.

use core::net::SocketAddr;
use std::io::{self, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result, bail};
use clap::{ArgGroup, Args as ClapArgs, ValueEnum};
use sekisho_apdu::StatusWord;
use sekisho_hsm::ProductFile;
use sekisho_hsm::sealed::Purpose;
use sekisho_keys::Rng as _;
use sekisho_link::SeId;
use sekisho_messaging::setup::Policy;
use sekisho_nvm::Flash;
use sekisho_os::{BootError, Platform, Profile, Protocol, SecureElement};
use sekisho_transport::{
    CardLine, CardSide, Chip, Lines, LinkListener, Served, Stop, serve_link, serve_listener, serve_vpcd,
};
use tokio::sync::mpsc;

use super::reader::ModeName;
use super::secret::{self, HandOverPassphrase};
use super::{OrUsage as _, usage};
use crate::card::board::{self, Board};
use crate::card::element::{self, CONTAINERS_MAX, CardPlatform, CardSe, HostPlatform, Start, SystemRng};
use crate::card::file_flash::{self, FileFlash, LARGEST, PAGE};
use crate::card::kind::{Kind, ProductName};
use crate::card::line::{self, Endpoint, Line, host_and_port};
use crate::card::perso::{FirstPart, Perso};
use crate::card::screen::{About, first_screen};
use crate::card::side::SharedSe;
use crate::card::tls_perso::TlsRecords;
use crate::files;
use crate::trace::{self, Trace};

/// Be a virtual secure element, on as many protocols at once as it has readers
///
/// The flash is a file. A blank one is personalised first: with --perso as the HSM says, else as a developer's card with well-known keys.
#[derive(ClapArgs)]
#[command(group(ArgGroup::new("readers").required(true).multiple(true).args(["on", "vpcd", "listen"])))]
pub(crate) struct Args {
    /// A line, given as often as there are readers. With the protocol's own frames (link records), t0, t1, spi, i2c or swp=tcp:HOST:PORT or =unix:PATH, which listens, on TCP on loopback
    /// alone, port 0 on a free one; t0 and t1 also as bare characters on a pseudo terminal, =pty:PATH; spi and i2c carry spi-ese and spi-euicc, swp the apdu-gate, swp-a and swp-b. With whole APDUs, t0, t1, swp-a, swp-b, apdu-gate, spi-ese, spi-euicc=vpcd:HOST:PORT, which
    /// connects to a virtual reader, or =vpcd+tcp:ADDRESS:PORT, which listens. t0 and t1 share an interface, so do swp-a and swp-b, and spi-ese and spi-euicc: the one powered last
    /// resets the other
    #[arg(long, value_name = "PROTOCOL=ENDPOINT")]
    on: Vec<Line>,

    /// File that is the flash; made if there is none
    #[arg(long, value_name = "FILE", default_value = "card.flash")]
    flash: PathBuf,

    /// Personalisation of a blank flash, from `sekisho hsm perso`
    #[arg(long, value_name = "FILE")]
    perso: Option<PathBuf>,

    /// Keys of the product for a blank flash, from `sekisho design hand-over`; a personalisation file of 0.1 has them itself
    #[arg(long, value_name = "FILE", requires = "perso")]
    product: Option<PathBuf>,

    /// Which SE of a batch's personalisation file; for several containers once for each, in their order
    #[arg(long, value_name = "SE-ID", requires = "perso")]
    se_id: Vec<SeId>,

    /// What a new card is made as; without it, the default profile
    #[arg(long, value_enum, value_name = "PRODUCT")]
    profile: Option<ProductName>,

    /// Containers of a new card: with 2, T=0 and T=1 are the second one's, all other protocols the first one's; an embedded SE where --profile says nothing else
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=CONTAINERS_MAX as i64))]
    containers: Option<u8>,

    /// Flash of a new card for load files that come by INSTALL [for load] and LOAD, as 128K; --nvm and the store leave the rest to the slots of the OS part
    #[arg(long, value_name = "SIZE", value_parser = load_pages)]
    load_files: Option<u8>,

    /// A new card gets a TLS Manager in its first container, and what this folder has: key.pem or key.der, the private key (P-256; PKCS#8 or SEC1, not encrypted); chain.pem, the
    /// certificates, its own first; for each peer peers/NNNN (row 0001 to 0010) with the files name, anchor.pem and applications (AIDs, one a line), and level, pin and rights if it has them (docs/guide/card.md)
    #[arg(long, value_name = "DIR")]
    tls: Option<PathBuf>,

    #[command(flatten)]
    hand_over: HandOverPassphrase,

    /// File whose first line is the passphrase of --product, where it is another than that of --perso
    #[arg(long, value_name = "FILE", requires = "product")]
    product_passphrase_file: Option<PathBuf>,

    /// Short for --on with the protocol of --interface: connect to pcscd's virtual reader (vpcd); second reader: port 35964
    #[arg(long, value_name = "HOST:PORT", num_args = 0..=1, default_missing_value = "127.0.0.1:35963", value_parser = host_and_port)]
    vpcd: Option<String>,

    /// Short for --on with the protocol of --listen-interface: listen here for readers; port 0 takes a free one. Loopback only: whoever connects holds the card
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,

    /// RAM budget in bytes, as 256K
    #[arg(long, value_name = "SIZE", value_parser = size)]
    ram: Option<usize>,

    /// Flash of a new card in bytes, as 1184K; what its store leaves is shared by the two slots of the OS part
    #[arg(long, value_name = "SIZE", value_parser = size)]
    nvm: Option<usize>,

    /// Modes of secure messaging that a new card's security domain allows beside the ratchet; the legacy ones are weak
    #[arg(long, value_enum, value_delimiter = ',', value_name = "MODE")]
    allow: Vec<ModeName>,

    /// SCP03 of a new card with challenges, cryptograms and MACs of 16 bytes; with --perso its file says
    #[arg(long, conflicts_with = "perso")]
    s16: bool,

    /// Run it on an emulated chip: the firmware, as `cargo xtask firmware build` makes it. The flash is a file of 16 MiB then
    #[arg(long, value_name = "FIRMWARE")]
    board: Option<PathBuf>,

    /// Write down what goes over lines with the protocol's own frames: as a person reads it, or as pcapng for Wireshark where the name ends with .pcapng; - for standard error. May be given
    /// several times
    #[arg(long, value_name = "FILE")]
    trace: Vec<PathBuf>,

    /// The interface of --vpcd, or of --listen alone
    #[arg(long, value_enum, default_value_t = InterfaceName::Contact)]
    interface: InterfaceName,

    /// The interface of --listen beside --vpcd, whose commands come on that of --interface; another one, where nothing is said: spi, or contact
    #[arg(long, value_enum, value_name = "INTERFACE", requires_all = ["listen", "vpcd"])]
    listen_interface: Option<InterfaceName>,
}

impl Args {
    /// The interface of --listen. Two readers are on two interfaces: what one has selected and proved is not the other's, whose hang-up ends it not.
    fn listen_interface(&self) -> InterfaceName {
        let beside = match self.interface {
            InterfaceName::Spi => InterfaceName::Contact,
            _ => InterfaceName::Spi,
        };
        let default = if self.vpcd.is_some() {
            beside
        } else {
            self.interface
        };
        self.listen_interface.unwrap_or(default)
    }

    /// All lines: --vpcd and --listen are short forms.
    fn lines(&self) -> Vec<Line> {
        let vpcd = self
            .vpcd
            .iter()
            .map(|address| Line::whole(self.interface.protocol(), Endpoint::Client(address.clone())));
        let listen = self
            .listen
            .iter()
            .map(|address| Line::whole(self.listen_interface().protocol(), Endpoint::Listener(*address)));
        vpcd.chain(listen).chain(self.on.iter().cloned()).collect()
    }

    fn kind(&self) -> Option<Kind> {
        Kind::asked(self.profile, self.containers, self.load_files, self.tls.is_some())
    }
}

/// Interfaces by name.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum InterfaceName {
    /// ISO/IEC 7816-3 contacts
    Contact,
    /// Single wire protocol: a contactless reader
    Swp,
    /// APDU gate: the device itself, through the NFC controller
    ApduGate,
    /// SPI or I2C
    Spi,
}

impl InterfaceName {
    /// What it speaks.
    const fn protocol(self) -> Protocol {
        match self {
            Self::Contact => Protocol::T0,
            Self::Swp => Protocol::SwpA,
            Self::ApduGate => Protocol::ApduGate,
            Self::Spi => Protocol::SpiEse,
        }
    }
}

/// Bytes, with K or M for KiB or MiB.
pub(super) fn size(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 1024),
        None => text
            .strip_suffix(['M', 'm'])
            .map_or((text, 1), |digits| (digits, 1024 * 1024)),
    };
    digits
        .parse::<usize>()
        .ok()
        .and_then(|n| n.checked_mul(unit))
        .ok_or_else(|| "write a number of bytes, as 65536, 256K or 2M".to_owned())
}

/// Pages of the flash for so many bytes.
fn load_pages(text: &str) -> Result<u8, String> {
    size(text)?
        .div_ceil(PAGE)
        .try_into()
        .map_err(|_| format!("a card has at most {}K for load files", 255 * PAGE / 1024))
}

/// Runs the card until it is stopped.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    // Before anything is made: a port in use must not leave a card behind.
    let mut lines = args.lines();
    if let Some(why) = line::conflict(&lines) {
        return usage(why);
    }
    if let Some(why) = args.board.as_ref().and_then(|_| beyond_the_board(args, &lines)) {
        return usage(why);
    }
    let traces = Trace::taps(&args.trace)?;
    let listeners = lines.iter_mut().map(listen).collect::<Result<Vec<_>>>()?;
    let made = match &args.board {
        Some(firmware) => on_board(args, firmware, lines.iter().any(is_of_contacts))?,
        None => in_process(args)?,
    };
    let answered = lines.iter().map(|line| {
        let paired = line.protocols.iter().map(|protocol| (made.paired)(*protocol));
        (line.clone(), paired.collect())
    });
    let answered: Vec<_> = answered.collect();
    show(&first_screen(
        &made.about,
        &args.flash,
        made.kib,
        made.start,
        &answered,
    ));
    let lines = lines.into_iter().zip(listeners).collect();
    serve(lines, &made.side, made.chip, &traces)
}

/// What the chip's firmware has not, if that is asked for.
fn beyond_the_board(args: &Args, lines: &[Line]) -> Option<String> {
    let is_spoken = |protocol: &&Protocol| **protocol == line::interface(**protocol).default_protocol();
    if args.kind().is_some_and(|kind| !kind.is_of_a_board()) {
        return Some("--board: the firmware is of the default profile and has one container; leave --profile, --containers and --load-files away".to_owned());
    }
    let speaks = lines.iter().any(is_of_contacts);
    let others = lines.iter().filter(|line| !is_of_contacts(line));
    let mut firsts = others.flat_map(|line| line.protocols.first());
    let is_there = |protocol: &&Protocol| is_spoken(protocol) && (!speaks || is_beside_contacts(**protocol));
    let other = firsts.find(|protocol| !is_there(protocol))?;
    let has = if speaks {
        "beside t1 it has spi-ese"
    } else {
        "it has t0, swp-a, apdu-gate and spi-ese, or t1's own characters"
    };
    Some(format!(
        "--board: the firmware does not speak {}; {has}",
        line::name(*other)
    ))
}

/// Whether it is T=1's own characters, which a chip speaks itself.
fn is_of_contacts(line: &Line) -> bool {
    matches!(line.endpoint, Endpoint::Link(CardLine::T1, _))
}

/// What the image has beside contacts that speak T=1.
fn is_beside_contacts(protocol: Protocol) -> bool {
    protocol == Protocol::SpiEse
}

/// Where readers come to a line.
enum Door {
    /// Nobody comes: the SE goes.
    None,
    Whole(TcpListener),
    Link(CardLine, LinkListener),
}

/// The listener of a line that has one; the line says its address then.
fn listen(line: &mut Line) -> Result<Door> {
    Ok(match &mut line.endpoint {
        Endpoint::Client(_) => Door::None,
        Endpoint::Listener(address) => {
            let listener = TcpListener::bind(*address)
                .with_context(|| format!("cannot listen on {address}; is another card there?"))?;
            *address = listener.local_addr()?;
            Door::Whole(listener)
        }
        Endpoint::Link(wire, address) => {
            let listener = LinkListener::bind(address)
                .with_context(|| format!("cannot listen on {address}; is another card there?"))?;
            *address = listener.address()?;
            Door::Link(*wire, listener)
        }
    })
}

/// A secure element on one of its protocols.
type Side = Box<dyn Fn(Protocol) -> Box<dyn CardSide + Send>>;

/// A card that has started.
struct Made {
    kib: usize,
    about: About,
    start: (Start, Kind),
    /// Which container answers on a protocol.
    paired: Box<dyn Fn(Protocol) -> Option<sekisho_os::ContainerId>>,
    side: Side,
    /// A chip that speaks the characters of its contacts itself.
    chip: Option<Chip>,
}

/// The product's profile with the RAM that is asked for.
fn profile(args: &Args, kind: Kind) -> Result<Profile> {
    let mut profile = kind.profile();
    profile.ram = args.ram.unwrap_or(profile.ram);
    check_budgets(args, &profile).or_usage()?;
    Ok(profile)
}

/// The slots of the OS part share what the store and the area for load files leave of the flash.
fn divide(profile: &mut Profile, len: usize) {
    profile.slot_bytes = len.saturating_sub(profile.store_bytes + profile.area_bytes) / 2 / PAGE * PAGE;
}

/// The flash that a card of this profile needs.
const fn length(profile: &Profile) -> usize {
    profile.store_bytes + 2 * profile.slot_bytes + profile.area_bytes
}

/// Starts the SE in this process on its flash.
fn in_process(args: &Args) -> Result<Made> {
    let path = args.flash.display();
    let known = |bytes| {
        Kind::of_bytes(bytes)
            .with_context(|| format!("{path} holds a card that a later version has made; use that one"))
    };
    let kind = match args.kind() {
        Some(asked) => asked,
        None => file_flash::kind_of(&args.flash).map_or(Ok(Kind::PLAIN), known)?,
    };
    let mut profile = profile(args, kind)?;
    let persos = persos(args, kind)?;
    let len = length(&profile);
    let flash = FileFlash::open(&args.flash, args.nvm, len, kind.bytes())?;
    files::close_known(&args.flash);
    let found = known(flash.kind())?;
    if found != kind {
        bail!(
            "{path} holds a card that was made as {found}, and stays it; start a new one with another --flash"
        );
    }
    divide(&mut profile, flash.len());
    let (mut se, start) = start::<CardPlatform<FileFlash>>(args, &persos, flash, &profile)?;
    let pairing = *se.pairing();
    let about = About::ask(&mut se, kind.containers);
    let kib = se.flash().len() / 1024;
    let se = SharedSe::new(Box::new(se), profile);
    Ok(Made {
        kib,
        about,
        start: (start, kind),
        paired: Box::new(move |protocol| pairing.row(protocol).map(|row| row.container)),
        chip: None,
        side: Box::new(move |protocol| Box::new(se.on(protocol))),
    })
}

/// Starts it on an emulated chip. What makes a new card, and what is said of it, comes from an SE in this process on what the chip's flash holds.
fn on_board(args: &Args, firmware: &Path, speaks: bool) -> Result<Made> {
    let kind = args.kind().unwrap_or(Kind::PLAIN);
    let mut profile = profile(args, kind)?;
    let persos = persos(args, kind)?;
    let len = args.nvm.unwrap_or_else(|| length(&profile));
    let flash = board::flash(&args.flash, len)?;
    files::close_known(&args.flash);
    let len = flash.page_size() * flash.pages();
    divide(&mut profile, len);
    let (mut se, start) = start::<HostPlatform<_>>(args, &persos, flash, &profile)?;
    let about = About::ask(&mut se, kind.containers);
    if start == Start::Made {
        board::make(&args.flash, se.flash(), &profile)?;
    }
    let board = Board::start(firmware, &args.flash, speaks)?;
    Ok(Made {
        kib: len / 1024,
        about,
        start: (start, kind),
        paired: Box::new(|_| Some(sekisho_os::ContainerId::ESE)),
        chip: speaks.then(|| board.contacts()),
        side: Box::new(move |protocol| Box::new(board.on(line::interface(protocol)))),
    })
}

/// What each container of a new card is made with.
fn persos(args: &Args, kind: Kind) -> Result<Vec<Perso>> {
    let mut persos = match &args.perso {
        Some(path) => personalisations(args, path, kind)?,
        None => (0..kind.containers)
            .map(|_| Perso::developer(args.s16))
            .collect::<Result<Vec<_>>>()?,
    };
    if let (Some(folder), Some(first)) = (&args.tls, persos.first_mut()) {
        first.tls = Some(TlsRecords::read(folder)?);
    }
    Ok(persos)
}

/// Starts the SE on its flash; makes it on one that is blank.
fn start<P: Platform<Rng = SystemRng>>(
    args: &Args,
    persos: &[Perso],
    flash: P::Flash,
    profile: &Profile,
) -> Result<(SecureElement<P>, Start)> {
    let first = FirstPart::new()?;
    let policy = args
        .allow
        .iter()
        .fold(Policy::new(), |policy, name| policy.allow(name.mode()));
    let made = Perso::lend(persos, &first, policy, |personalisations| {
        element::start_as::<P>(flash, profile, personalisations)
    })?;
    let (mut se, found) = made.map_err(|error| explain(error, args))?;
    if found == Start::Made {
        return Ok((se, found));
    }
    let containers = About::ask(&mut se, u8::try_from(persos.len()).unwrap_or(1)).containers;
    if args.s16 && !containers.iter().any(|container| container.is_s16) {
        bail!(
            "{} holds a card with S8, which it keeps; start a new card with another --flash",
            args.flash.display()
        );
    }
    let Some(path) = &args.perso else {
        return Ok((se, found));
    };
    for (container, perso) in containers.iter().zip(persos) {
        if container.se_id != perso.se_id.to_string() {
            bail!(
                "{} holds the card {}, not {} of {}; give the new one its own --flash",
                args.flash.display(),
                container.se_id,
                perso.se_id,
                path.display()
            );
        }
    }
    Ok((se, found))
}

/// What a new card is made with: the only place where individual keys and those of the product meet.
fn personalisations(args: &Args, path: &Path, kind: Kind) -> Result<Vec<Perso>> {
    let hand_over = &args.hand_over;
    let individual = secret::read_hand_over(path, Purpose::Personalisation, hand_over, "sekisho hsm perso")?;
    // Each file that is wrong is named, none for the other.
    let product = match &args.product {
        None => None,
        Some(path) => {
            let hand_over = &hand_over.or(args.product_passphrase_file.as_deref());
            let maker = "sekisho design hand-over";
            let text = secret::read_hand_over(path, Purpose::Product, hand_over, maker)?;
            let wrong = || format!("cannot personalise from {}", path.display());
            Some(ProductFile::parse(&text).with_context(wrong)?)
        }
    };
    Perso::read(&individual, product.as_ref(), &args.se_id, kind.containers.into())
        .with_context(|| format!("cannot personalise from {}", path.display()))
}

/// Refuses budgets that no card can live with, before there is a flash.
fn check_budgets(args: &Args, profile: &Profile) -> Result<()> {
    let least = size_of::<CardSe<FileFlash>>();
    if profile.ram < least {
        bail!(
            "--ram {}: {}K is the least, and what is above it goes to the OS part",
            profile.ram,
            least.div_ceil(1024)
        );
    }
    let Some(nvm) = args.nvm else { return Ok(()) };
    let least = profile.store_bytes + profile.area_bytes + 2 * PAGE;
    if nvm < least || nvm > LARGEST || !nvm.is_multiple_of(PAGE) {
        bail!(
            "--nvm {nvm}: the flash has whole pages of {PAGE} bytes; {}K is the least, {}M the most",
            least / 1024,
            LARGEST >> 20
        );
    }
    Ok(())
}

/// What to do about a card that does not start.
fn explain(error: BootError, args: &Args) -> anyhow::Error {
    let advice = match error {
        BootError::Refused(StatusWord::NOT_ENOUGH_MEMORY) | BootError::FlashTooSmall => {
            format!(
                "give it more than the {} of --nvm",
                args.nvm.map_or_else(|| "bytes".to_owned(), |n| n.to_string())
            )
        }
        BootError::Refused(sekisho_os::loader::status::CODE) => {
            "its OS part needs more than --ram leaves it".to_owned()
        }
        _ => format!(
            "if {} is not worth keeping, start again with another --flash",
            args.flash.display()
        ),
    };
    anyhow::Error::new(error).context(format!("the card does not start; {advice}"))
}

/// Offers the SE to its readers until a signal comes, or a listener fails.
fn serve(
    lines: Vec<(Line, Door)>,
    side: &Side,
    mut chip: Option<Chip>,
    traces: &[Trace],
) -> Result<ExitCode> {
    let stop = Stop::new();
    let (ended, mut ends) = mpsc::unbounded_channel();
    let mut threads = Vec::new();
    for (line, door) in lines {
        let name = line.name();
        let chip = chip.take_if(|_| is_of_contacts(&line));
        let carried = if chip.is_some() { &[][..] } else { &line.protocols };
        let mut sides: Vec<_> = carried.iter().map(|protocol| side(*protocol)).collect();
        let (stop, ended) = (stop.clone(), ended.clone());
        let tap = trace::tap(traces, name);
        let mut tell = move |event| tell(name, &event);
        threads.push(thread::spawn(move || {
            let result = match (door, &line.endpoint, sides.first_mut()) {
                (Door::Link(wire, mut listener), ..) => {
                    let mut fresh = [0; 8];
                    SystemRng.fill(&mut fresh);
                    let lines = Lines {
                        line: wire,
                        sides,
                        fresh,
                        tap,
                        chip,
                    };
                    serve_link(&mut listener, lines, &stop, &mut tell)
                }
                (Door::Whole(listener), _, Some(side)) => {
                    serve_listener(&listener, &mut **side, &stop, &mut tell)
                }
                (Door::None, Endpoint::Client(address), Some(side)) => {
                    return serve_vpcd(address, &mut **side, &stop, &mut tell);
                }
                (Door::None | Door::Whole(_), ..) => return,
            };
            // The receiver is gone only when the process is already ending.
            let _ = ended.send(result);
        }));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        tokio::select! {
            result = crate::leftovers::stopped() => result,
            end = ends.recv() => end.unwrap_or(Ok(())).context("the listener failed"),
        }
    });
    stop.stop();
    for thread in threads {
        if thread.join().is_err() {
            bail!("a serving thread failed; the flash is as the last command left it");
        }
    }
    result.map(|()| ExitCode::SUCCESS)
}

/// Writes for the operator. A card does not end because nobody reads it any more.
fn show(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

fn tell(what: &str, event: &Served) {
    let _ = match event {
        Served::Connected(peer) => writeln!(io::stderr(), "{what}: reader {peer} is there"),
        Served::Disconnected(why) => writeln!(io::stderr(), "{what}: the reader is gone: {}", reason(why)),
        Served::Linked(peer) => writeln!(io::stderr(), "{what}: reader {peer} is there"),
        Served::Unlinked(peer) => writeln!(
            io::stderr(),
            "{what}: reader {peer} is hung up on: one is there already"
        ),
        Served::Refused(peer) => writeln!(
            io::stderr(),
            "{what}: reader {peer} is refused: one is there already"
        ),
        Served::Waiting(why) => writeln!(
            io::stderr(),
            "{what}: no reader yet ({why}); waiting. For vpcd: start pcscd with the package vsmartcard-vpcd"
        ),
    };
}

fn reason(why: &sekisho_transport::TransportError) -> String {
    match why {
        sekisho_transport::TransportError::Closed => "it closed the connection".to_owned(),
        other => other.to_string(),
    }
}
