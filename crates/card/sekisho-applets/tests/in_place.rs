//! An SE is made and started where it stands: in a static, as on a chip, and nothing of its state on the stack.

#![allow(clippy::unwrap_used, clippy::panic)]
#![cfg(target_os = "linux")]

use sekisho_card_tests as common;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Mutex;

use common::stack::depth;
use common::{PAGE, SeededRng, initial_keys, key, personalisation, profile, sw};
use sekisho_applets::Standard;
use sekisho_nvm::ram::{RamError, RamFlash};
use sekisho_nvm::{Flash, Memory, Ram};
use sekisho_os::{
    AllInterfaces, BootError, ContainerMemory, Containers, Interface, Platform, Profile, SecureElement,
};

thread_local! {
    static FLASH: RefCell<RamFlash> = RefCell::new(RamFlash::strict(PAGE, 16));
}

/// The flash of a chip: there is one, and what names it is no memory.
struct OfTheChip;

impl Flash for OfTheChip {
    type Error = RamError;

    fn page_size(&self) -> usize {
        FLASH.with_borrow(Flash::page_size)
    }

    fn pages(&self) -> usize {
        FLASH.with_borrow(Flash::pages)
    }

    fn read(&self, address: usize, out: &mut [u8]) -> Result<(), RamError> {
        FLASH.with_borrow(|flash| flash.read(address, out))
    }

    fn mapped(&self, _: Range<usize>) -> Option<&[u8]> {
        None
    }

    fn write(&mut self, address: usize, bytes: &[u8]) -> Result<(), RamError> {
        FLASH.with_borrow_mut(|flash| flash.write(address, bytes))
    }

    fn erase(&mut self, page: usize) -> Result<(), RamError> {
        FLASH.with_borrow_mut(|flash| flash.erase(page))
    }
}

/// A chip with this memory.
struct Chip<C, I>(core::marker::PhantomData<(C, I)>);

impl<C: ContainerMemory, I: Memory> Platform for Chip<C, I> {
    type Flash = OfTheChip;
    type Rng = SeededRng;
    type Applications = Standard;
    type Interfaces = AllInterfaces;
    type Containers = C;
    type Index = I;
}

type Small = Chip<Containers<1>, Ram<128, 16, 16>>;
/// With room for so much more that nobody would have it on a stack by mistake and not see it.
type Large = Chip<Containers<100>, Ram<21_000, 1000, 1000>>;

static SMALL: Mutex<SecureElement<Small>> = Mutex::new(SecureElement::new(OfTheChip, SeededRng(1)));
static LARGE: Mutex<SecureElement<Large>> = Mutex::new(SecureElement::new(OfTheChip, SeededRng(1)));

/// How deep the making, the start and a power cycle go.
struct Depths {
    made: usize,
    booted: usize,
    again: usize,
}

fn select<P: Platform>(se: &mut SecureElement<P>) -> u16 {
    let mut out = [0; 300];
    let len = se.transmit(Interface::Spi, &[0, 0xA4, 4, 0, 0], &mut out);
    sw(&out[..len])
}

/// Nothing is wiped, or that would be measured.
fn unwiped() -> Profile {
    Profile {
        stack: 0,
        ram: 1 << 20,
        ..profile()
    }
}

fn start<P: Platform>(held: &'static Mutex<SecureElement<P>>) -> Depths
where
    SecureElement<P>: Send,
{
    let run = move || {
        let mut se = held.lock().unwrap();
        let (profile, keys, k_aut) = (unwiped(), initial_keys(), key(&[0xA0; 16]));
        let personalisation = personalisation(0xFF, &keys, &k_aut);
        assert!(se.has_failed());
        assert_eq!(select(&mut se), 0x6581, "off");
        assert_eq!(se.boot(&profile), Err(BootError::Blank));
        assert_eq!(select(&mut se), 0x6581, "blank");
        let made = depth(|| assert_eq!(se.manufacture(&profile, &[&personalisation]), Ok(())));
        assert_eq!(select(&mut se), 0x9000, "made, and on");
        assert_eq!(
            se.manufacture(&profile, &[&personalisation]),
            Err(BootError::AlreadyMade)
        );
        assert_eq!(select(&mut se), 0x6581, "off again");
        let booted = depth(|| assert_eq!(se.boot(&profile), Ok(())));
        assert_eq!(select(&mut se), 0x9000);
        let again = depth(|| assert_eq!(se.boot(&profile), Ok(())));
        assert_eq!(select(&mut se), 0x9000);
        Depths { made, booted, again }
    };
    let thread = std::thread::Builder::new().stack_size(4 << 20).spawn(run);
    thread.unwrap().join().unwrap()
}

/// An SE that is seven times as large takes no more of the stack to be made and started.
#[test]
fn nothing_of_the_state_stands_on_the_stack() {
    let (small, large) = (start(&SMALL), start(&LARGE));
    let sizes = (
        size_of::<SecureElement<Small>>(),
        size_of::<SecureElement<Large>>(),
    );
    println!(
        "{} bytes of state: {} to make, {} to boot, {} again; {} bytes: {}, {}, {}",
        sizes.0, small.made, small.booted, small.again, sizes.1, large.made, large.booted, large.again
    );
    assert!(sizes.1 > 7 * sizes.0, "{sizes:?}");
    for (small, large) in [
        (small.made, large.made),
        (small.booted, large.booted),
        (small.again, large.again),
    ] {
        assert!(large.abs_diff(small) < 512, "{small} {large}");
        // What is wiped behind each.
        assert!(small < Profile::default().stack, "{small}");
    }
}
