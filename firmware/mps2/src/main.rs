//! The secure element on QEMU's mps2-an386: a Cortex-M4F.
//!
//! UARTs 0 to 3 are contacts, SPI, SWP and APDU gate, each with vpcd's frames, or with feature `t1` contacts that speak T=1; UART 4 is the random source. A product without `all-interfaces` has the first two.
#![no_std]
#![no_main]

mod flash;
#[cfg(any(feature = "modules", feature = "tls"))]
mod heap;
mod policy;
mod registers;
mod uart;

use core::cell::RefCell;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use cortex_m::interrupt::{self, Mutex};
use cortex_m_rt::entry;
use sekisho_applets::Standard;
#[cfg(not(feature = "t1"))]
use sekisho_firmware::serve;
use sekisho_firmware::{Board, Buffers, Card, Cause, Checked, Dead, Exchange, Source};
#[cfg(feature = "t1")]
use sekisho_firmware::{Contacts, serve_contacts};
use sekisho_keys::Rng;
use sekisho_nvm::Ram;
use sekisho_os::{Containers, Interface, Platform, Product, Profile, SecureElement};
use static_cell::ConstStaticCell;

use flash::{Nor, Options};
use policy::RESETS;
use uart::Uart;

/// Figures of the last command, for who measures from outside.
#[repr(C)]
struct Figures {
    commands: AtomicU32,
    /// Of the last command, by the dual timer, but for those in which it waited for randomness.
    ticks: AtomicU32,
    /// Words written and pages erased since the start.
    words: AtomicU32,
    erases: AtomicU32,
    /// Most bytes of the heap in use at once.
    heap: AtomicU32,
}

#[allow(unsafe_code)]
#[unsafe(export_name = "sekisho_figures")]
static FIGURES: Figures = Figures {
    commands: AtomicU32::new(0),
    ticks: AtomicU32::new(0),
    words: AtomicU32::new(0),
    erases: AtomicU32::new(0),
    heap: AtomicU32::new(0),
};

/// The product.
struct Mps2;

/// Its containers.
const CONTAINERS: usize = if cfg!(feature = "containers") { 2 } else { 1 };

/// Security domains of all of them: the issuer's alone, or two beside each.
const DOMAINS: usize = if cfg!(any(feature = "containers", feature = "all-interfaces")) {
    CONTAINERS * sekisho_applets::DOMAINS
} else {
    1
};

#[cfg(not(feature = "tls"))]
type Applications = Standard<CONTAINERS, 0, DOMAINS>;
#[cfg(feature = "tls")]
type Applications = sekisho_applets::WithTls<Standard<CONTAINERS, 0, DOMAINS>>;

#[cfg(feature = "all-interfaces")]
use sekisho_os::AllInterfaces as OwnInterfaces;

/// Contacts and SPI.
#[cfg(not(feature = "all-interfaces"))]
#[derive(Debug)]
struct OwnInterfaces([sekisho_os::InterfaceState; 2]);

#[cfg(not(feature = "all-interfaces"))]
impl sekisho_os::Interfaces for OwnInterfaces {
    const NEW: Self = Self([const { sekisho_os::InterfaceState::NEW }; 2]);

    type Messagings = sekisho_os::MessagingPlaces<3>;

    fn get(&mut self, interface: Interface) -> Option<&mut sekisho_os::InterfaceState> {
        let index = PORTS.iter().position(|own| *own == interface)?;
        self.0.get_mut(index)
    }
}

impl Platform for Mps2 {
    type Flash = Nor;
    type Rng = Random;
    type Applications = Applications;
    #[cfg(not(feature = "tls"))]
    type Interfaces = OwnInterfaces;
    #[cfg(feature = "tls")]
    type Interfaces = sekisho_os::InterfacesWithTls<OwnInterfaces>;
    type Containers = Containers<CONTAINERS>;
    type Index = Ram<128, 16, 16>;

    fn stack_low() -> usize {
        policy::STACK_LOW
    }
}

/// The interfaces, by UART.
#[cfg(feature = "all-interfaces")]
const PORTS: [Interface; 4] = [
    Interface::Iso7816Contact,
    Interface::Spi,
    Interface::Swp,
    Interface::ApduGate,
];
#[cfg(not(feature = "all-interfaces"))]
const PORTS: [Interface; 2] = [Interface::Iso7816Contact, Interface::Spi];

/// The UART that gives random bytes.
const RANDOM: usize = 4;

impl Source for Uart {
    fn byte(&mut self) -> u8 {
        self.wait_for_byte()
    }

    fn fail(&mut self) -> ! {
        policy::reset(Cause::Random)
    }
}

static SOURCE: Mutex<RefCell<Checked<Uart>>> = Mutex::new(RefCell::new(Checked::new(Uart(RANDOM))));

/// The random source; there is one.
#[derive(Debug)]
struct Random;

impl Rng for Random {
    fn fill(&mut self, out: &mut [u8]) {
        interrupt::free(|token| SOURCE.borrow(token).borrow_mut().fill(out));
    }
}

/// The board's ports and clock.
struct Ports([(Interface, Uart); PORTS.len()]);

impl Board for Ports {
    type Port = Uart;

    fn ports(&mut self) -> &mut [(Interface, Uart)] {
        &mut self.0
    }

    fn wait(&mut self) {
        uart::wait();
    }

    fn ticks(&self) -> u32 {
        uart::ticks()
    }

    /// Two seconds.
    fn patience(&self) -> u32 {
        2 * uart::TICKS
    }

    fn exchanged(&mut self, exchange: Exchange) {
        let ticks = exchange.ticks.wrapping_sub(uart::idle());
        FIGURES.ticks.store(ticks, Relaxed);
        FIGURES.commands.fetch_add(1, Relaxed);
    }
}

/// The product's profile, with the sizes of the option page.
fn profile() -> Profile {
    let product = match CONTAINERS {
        1 => Profile::default(),
        // Contacts are the second one's.
        _ => Profile::product(Product::Ese, 2),
    };
    let mut profile = Profile {
        resets: Some(RESETS.counts()),
        ..product
    };
    if let Some(options) = Options::read() {
        options.apply(&mut profile, size_of::<SecureElement<Mps2>>());
    }
    profile
}

/// Where they are for good: nothing of them goes over the stack.
static BUFFERS: ConstStaticCell<Buffers> = ConstStaticCell::new(Buffers::new());
#[cfg(feature = "t1")]
static CONTACTS: static_cell::StaticCell<Contacts> = static_cell::StaticCell::new();
static ELEMENT: ConstStaticCell<SecureElement<Mps2>> = ConstStaticCell::new(SecureElement::new(Nor, Random));

#[entry]
fn main() -> ! {
    let start = RESETS.start();
    #[cfg(any(feature = "modules", feature = "tls"))]
    heap::start();
    let mut uarts = (0..).map(Uart);
    let mut ports = Ports(PORTS.map(|interface| (interface, uarts.next().unwrap_or(Uart(0)))));
    uart::start(PORTS.len(), RANDOM);
    let (buffers, se) = (BUFFERS.take(), ELEMENT.take());
    let mut is_alive = false;
    if !start.is_hopeless {
        interrupt::free(|token| SOURCE.borrow(token).borrow_mut().start());
        is_alive = se.boot(&profile()).is_ok();
    }
    // What the start has waited for is no command's.
    uart::idle();
    let mut dead = Dead;
    let card: &mut dyn Card = if is_alive { se } else { &mut dead };
    #[cfg(not(feature = "t1"))]
    serve(&mut ports, card, &RESETS, buffers, start.broken_off);
    #[cfg(feature = "t1")]
    {
        // Not linked with a value, of which the flash would have a copy.
        let contacts = CONTACTS.init_with(Contacts::new);
        contacts.start(&mut ports, card, start.is_power_on);
        serve_contacts(&mut ports, card, &RESETS, buffers, start.broken_off, contacts)
    }
}
