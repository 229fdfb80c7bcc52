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
use sekisho_applets::file_system::image::Image;
use sekisho_hsm::ProductFile;
use sekisho_hsm::sealed::Purpose;
use sekisho_link::SeId;
use sekisho_messaging::setup::Policy;
use sekisho_nvm::Flash;
use sekisho_os::{BootError, Interface, MESSAGING_POLICY, Profile};
use sekisho_transport::{CardSide, Served, Stop, serve_listener, serve_vpcd};
use tokio::sync::mpsc;

use super::reader::ModeName;
use super::secret::{self, HandOverPassphrase};
use super::{OrUsage as _, usage};
use crate::card::board::{self, Board};
use crate::card::element::{self, Start};
use crate::card::file_flash::{FileFlash, LARGEST, PAGE};
use crate::card::perso::{FirstPart, Perso, SecAppRecords, file_system, sec_app};
use crate::card::screen::{About, Reach, first_screen};
use crate::card::side::{OnInterface, SharedSe};
use crate::files;

/// Be a virtual secure element: in pcscd's virtual reader, behind a TCP port, or both
///
/// The flash is a file. A blank one is personalised first: with --perso as the HSM says, else as a developer's card with well-known keys.
#[derive(ClapArgs)]
#[command(group(ArgGroup::new("readers").required(true).multiple(true).args(["vpcd", "listen"])))]
pub(crate) struct Args {
    /// File that is the flash; made if there is none
    #[arg(long, value_name = "FILE", default_value = "card.flash")]
    flash: PathBuf,

    /// Personalisation of a blank flash, from `sekisho hsm perso`
    #[arg(long, value_name = "FILE")]
    perso: Option<PathBuf>,

    /// Keys of the product for a blank flash, from `sekisho design hand-over`; a personalisation file of 0.1 has them itself
    #[arg(long, value_name = "FILE", requires = "perso")]
    product: Option<PathBuf>,

    /// Which SE of a batch's personalisation file
    #[arg(long, value_name = "SE-ID", requires = "perso")]
    se_id: Option<SeId>,

    #[command(flatten)]
    hand_over: HandOverPassphrase,

    /// File whose first line is the passphrase of --product, where it is another than that of --perso
    #[arg(long, value_name = "FILE", requires = "product")]
    product_passphrase_file: Option<PathBuf>,

    /// Connect to pcscd's virtual reader (vpcd); second reader: port 35964
    #[arg(long, value_name = "HOST:PORT", num_args = 0..=1, default_missing_value = "127.0.0.1:35963", value_parser = host_and_port)]
    vpcd: Option<String>,

    /// Listen here for readers; port 0 takes a free one. Loopback only: whoever connects holds the card
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

    /// The interface on which commands come
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
    const fn interface(self) -> Interface {
        match self {
            Self::Contact => Interface::Iso7816Contact,
            Self::Swp => Interface::Swp,
            Self::ApduGate => Interface::ApduGate,
            Self::Spi => Interface::Spi,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Contact => "contact (ISO/IEC 7816-3)",
            Self::Swp => "SWP",
            Self::ApduGate => "APDU gate",
            Self::Spi => "SPI/I2C",
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

/// Runs the card until it is stopped.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    // Before anything is made: a port in use must not leave a card behind.
    if let Some(address) = args.listen
        && !address.ip().is_loopback()
    {
        return usage(format!(
            "{address} is open to others, and whoever connects holds the card; listen on 127.0.0.1:{} and forward it if you must",
            address.port()
        ));
    }
    if args.vpcd.is_some() && args.listen.is_some() && args.listen_interface() == args.interface {
        return usage("two readers on one interface would take each other's selections and proofs; give --listen-interface another one".to_owned());
    }
    let listener = args.listen.map(listen).transpose()?;
    let interface = args.interface.interface();
    let (kib, about, start, side): (_, _, _, Side) = match &args.board {
        Some(firmware) => {
            let (kib, about, start, board) = on_board(args, firmware)?;
            (
                kib,
                about,
                start,
                Box::new(move |interface| Box::new(board.on(interface))),
            )
        }
        None => {
            let (se, start, profile) = in_process(args)?;
            let kib = se.flash().len() / 1024;
            let se = SharedSe::new(se, profile);
            let about = About::ask(&mut se.lock(), interface);
            let side = move |interface| {
                let se = se.clone();
                Box::new(OnInterface { se, interface }) as Box<dyn CardSide + Send>
            };
            (kib, about, start, Box::new(side))
        }
    };
    let reach = Reach {
        vpcd: args.vpcd.as_deref(),
        listen: listener.as_ref().map(TcpListener::local_addr).transpose()?,
        interface: args.interface.name(),
        listen_interface: args.listen_interface().name(),
    };
    show(&first_screen(&about, &args.flash, kib, start, &reach));
    let interfaces = [args.interface, args.listen_interface()].map(InterfaceName::interface);
    serve(args.vpcd.clone(), listener, &side, interfaces)
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).with_context(|| format!("cannot listen on {address}; is another card there?"))
}

/// A secure element on one of its interfaces.
type Side = Box<dyn Fn(Interface) -> Box<dyn CardSide + Send>>;

/// The product's profile with the RAM that is asked for.
fn profile(args: &Args) -> Result<Profile> {
    let mut profile = Profile::default();
    profile.ram = args.ram.unwrap_or(profile.ram);
    check_budgets(args, &profile).or_usage()?;
    Ok(profile)
}

/// The slots of the OS part share what the store leaves of the flash.
fn divide(profile: &mut Profile, len: usize) {
    profile.slot_bytes = len.saturating_sub(profile.store_bytes) / 2 / PAGE * PAGE;
}

/// Starts the SE in this process on its flash; with the profile that fits it.
fn in_process(args: &Args) -> Result<(element::VirtualSe<FileFlash>, Start, Profile)> {
    let mut profile = profile(args)?;
    let perso = perso(args)?;
    let len = profile.store_bytes + 2 * profile.slot_bytes;
    files::close(&args.flash);
    let flash = FileFlash::open(&args.flash, args.nvm, len)?;
    divide(&mut profile, flash.len());
    let (se, found) = start(args, &perso, flash, &profile)?;
    Ok((se, found, profile))
}

/// Starts it on an emulated chip. What makes a new card, and what is said of it, comes from an SE in this process on what the chip's flash holds.
fn on_board(args: &Args, firmware: &Path) -> Result<(usize, About, Start, Board)> {
    let mut profile = profile(args)?;
    let perso = perso(args)?;
    let len = args.nvm.unwrap_or(profile.store_bytes + 2 * profile.slot_bytes);
    files::close(&args.flash);
    let flash = board::flash(&args.flash, len)?;
    let len = flash.page_size() * flash.pages();
    divide(&mut profile, len);
    let (mut se, found) = start(args, &perso, flash, &profile)?;
    let about = About::ask(&mut se, args.interface.interface());
    if found == Start::Made {
        board::make(&args.flash, se.flash(), &profile)?;
    }
    Ok((len / 1024, about, found, Board::start(firmware, &args.flash)?))
}

fn perso(args: &Args) -> Result<Perso> {
    match &args.perso {
        Some(path) => personalisation(args, path),
        None => Perso::developer(args.s16),
    }
}

/// Starts the SE on its flash; makes it on one that is blank.
fn start<F: Flash>(
    args: &Args,
    perso: &Perso,
    flash: F,
    profile: &Profile,
) -> Result<(element::VirtualSe<F>, Start)> {
    let first = FirstPart::new()?;
    let records = perso.sec_app.as_ref().map(SecAppRecords::borrowed);
    let applications = records.as_ref().map(|records| sec_app(records)).transpose()?;
    let files: Vec<_> = perso.files.iter().flat_map(Image::iter).collect();
    let files = perso.files.as_ref().map(|_| file_system(&files)).transpose()?;
    let applications: Vec<_> = applications.into_iter().chain(files).collect();
    let policy = args
        .allow
        .iter()
        .fold(Policy::new(), |policy, name| policy.allow(name.mode()))
        .to_bytes();
    let objects: [(u16, &[u8]); 1] = [(MESSAGING_POLICY, &policy)];
    let (mut se, found) = element::start(flash, profile, &perso.borrowed(&first, &applications, &objects))
        .map_err(|error| explain(error, args))?;
    if found == Start::Found && args.s16 && !About::ask(&mut se, args.interface.interface()).is_s16 {
        bail!(
            "{} holds a card with S8, which it keeps; start a new card with another --flash",
            args.flash.display()
        );
    }
    if let (Start::Found, Some(path)) = (found, &args.perso) {
        let se_id = About::ask(&mut se, args.interface.interface()).se_id;
        if se_id != perso.se_id.to_string() {
            bail!(
                "{} holds the card {se_id}, not {} of {}; give the new one its own --flash",
                args.flash.display(),
                perso.se_id,
                path.display()
            );
        }
    }
    Ok((se, found))
}

/// What a new card is made with: the only place where individual keys and those of the product meet.
fn personalisation(args: &Args, path: &Path) -> Result<Perso> {
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
    Perso::read(&individual, product, args.se_id)
        .with_context(|| format!("cannot personalise from {}", path.display()))
}

/// Refuses budgets that no card can live with, before there is a flash.
fn check_budgets(args: &Args, profile: &Profile) -> Result<()> {
    let least = size_of::<element::VirtualSe<FileFlash>>();
    if profile.ram < least {
        bail!(
            "--ram {}: {}K is the least, and what is above it goes to the OS part",
            profile.ram,
            least.div_ceil(1024)
        );
    }
    let Some(nvm) = args.nvm else { return Ok(()) };
    let least = profile.store_bytes + 2 * PAGE;
    if nvm < least || nvm > LARGEST || !nvm.is_multiple_of(PAGE) {
        bail!(
            "--nvm {nvm}: the flash has whole pages of {PAGE} bytes; {}K is the least, {}M the most",
            least / 1024,
            LARGEST >> 20
        );
    }
    Ok(())
}

/// A reader's address: what follows the last colon is a port.
fn host_and_port(text: &str) -> Result<String, &'static str> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse().is_ok_and(|port: u16| port > 0) => {
            Ok(text.to_owned())
        }
        _ => Err("write HOST:PORT"),
    }
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
    vpcd: Option<String>,
    listener: Option<TcpListener>,
    side: &Side,
    [of_vpcd, of_listen]: [Interface; 2],
) -> Result<ExitCode> {
    let stop = Stop::new();
    let (ended, mut ends) = mpsc::unbounded_channel();
    let mut threads = Vec::new();
    if let Some(address) = vpcd {
        let (mut side, stop) = (side(of_vpcd), stop.clone());
        threads.push(thread::spawn(move || {
            serve_vpcd(&address, &mut *side, &stop, &mut |event| tell("vpcd", &event));
        }));
    }
    if let Some(listener) = listener {
        let (mut side, stop, ended) = (side(of_listen), stop.clone(), ended.clone());
        threads.push(thread::spawn(move || {
            let result = serve_listener(&listener, &mut *side, &stop, &mut |event| tell("socket", &event));
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
