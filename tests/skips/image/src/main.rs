//! The card as it is delivered, for an emulated Cortex-M4. The emulator writes a flash's image and commands into its memory, calls [`start`] and [`command`], and reads the answers.
#![no_std]
#![no_main]

use core::cell::UnsafeCell;
use core::panic::PanicInfo;

use embedded_alloc::LlffHeap;
use sekisho_applets::Standard;
use sekisho_keys::Rng;
use sekisho_nvm::{Flash, Ram};
use sekisho_os::{AllInterfaces, Containers, Interface, Platform, Profile, SecureElement};

const PAGE: usize = 4096;
const PAGES: usize = 16;
const HEAP_BYTES: usize = 256 * 1024;

/// Memory that the emulator reads and writes while nothing runs.
#[repr(C, align(8))]
pub struct Shared<T>(UnsafeCell<T>);

// SAFETY: there is one thread, and no interrupts.
unsafe impl<T> Sync for Shared<T> {}

#[unsafe(no_mangle)]
pub static COMMAND: Shared<[u8; 2048]> = Shared(UnsafeCell::new([0; 2048]));
#[unsafe(no_mangle)]
pub static ANSWER: Shared<[u8; 2048]> = Shared(UnsafeCell::new([0; 2048]));
#[unsafe(no_mangle)]
pub static FLASH: Shared<[u8; PAGE * PAGES]> = Shared(UnsafeCell::new([0xFF; PAGE * PAGES]));
static HEAP_MEMORY: Shared<[u8; HEAP_BYTES]> = Shared(UnsafeCell::new([0; HEAP_BYTES]));
static CARD: Shared<SecureElement<Chip>> = Shared(UnsafeCell::new(SecureElement::new(Memory, Seeded(0))));

#[global_allocator]
static HEAP: LlffHeap = LlffHeap::empty();

/// There are no interrupts: nothing has to be kept out.
struct Alone;
critical_section::set_impl!(Alone);

// SAFETY: one thread.
unsafe impl critical_section::Impl for Alone {
    unsafe fn acquire() {}

    unsafe fn release((): ()) {}
}

struct Memory;

impl Memory {
    fn bytes(&self) -> &[u8; PAGE * PAGES] {
        // SAFETY: one thread; whoever holds a `&Memory` reads, whoever writes holds the only one.
        unsafe { &*FLASH.0.get() }
    }

    fn bytes_mut(&mut self) -> &mut [u8; PAGE * PAGES] {
        // SAFETY: as above.
        unsafe { &mut *FLASH.0.get() }
    }
}

impl Flash for Memory {
    type Error = ();

    fn page_size(&self) -> usize {
        PAGE
    }

    fn pages(&self) -> usize {
        PAGES
    }

    fn read(&self, address: usize, out: &mut [u8]) -> Result<(), ()> {
        out.copy_from_slice(self.bytes().get(address..address + out.len()).ok_or(())?);
        Ok(())
    }

    fn write(&mut self, address: usize, bytes: &[u8]) -> Result<(), ()> {
        let place = self
            .bytes_mut()
            .get_mut(address..address + bytes.len())
            .ok_or(())?;
        place.iter_mut().zip(bytes).for_each(|(to, from)| *to &= from);
        Ok(())
    }

    fn erase(&mut self, page: usize) -> Result<(), ()> {
        let place = self
            .bytes_mut()
            .get_mut(page * PAGE..(page + 1) * PAGE)
            .ok_or(())?;
        place.fill(0xFF);
        Ok(())
    }
}

/// The generator of the card's tests (xorshift64*): what a card in this process draws, this one draws.
struct Seeded(u64);

impl Rng for Seeded {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            *byte = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D).to_be_bytes()[0];
        }
    }
}

struct Chip;

impl Platform for Chip {
    type Flash = Memory;
    type Rng = Seeded;
    type Applications = Standard<1>;
    type Interfaces = AllInterfaces;
    type Containers = Containers<1>;
    type Index = Ram<128, 16, 16>;
}

/// Starts the card from the image in the flash. 1: it has started.
#[unsafe(no_mangle)]
pub extern "C" fn start(seed: u32) -> u32 {
    // SAFETY: called once, before anything allocates.
    unsafe { HEAP.init(HEAP_MEMORY.0.get() as usize, HEAP_BYTES) }
    let profile = Profile {
        slot_bytes: 4 * PAGE,
        // The emulator wipes nothing: what is looked at here are decisions.
        stack: 0,
        shallow: 0,
        ..Profile::default()
    };
    // SAFETY: one thread, and nothing else holds the card.
    let card = unsafe { &mut *CARD.0.get() };
    *card = SecureElement::new(Memory, Seeded(seed.into()));
    u32::from(card.boot(&profile).is_ok())
}

/// Carries out the command of so many bytes: how many the answer has.
#[unsafe(no_mangle)]
pub extern "C" fn command(len: usize) -> usize {
    // SAFETY: one thread; the emulator touches these only while nothing runs.
    let (card, command, answer) = unsafe { (&mut *CARD.0.get(), &*COMMAND.0.get(), &mut *ANSWER.0.get()) };
    let command = command.get(..len).unwrap_or_default();
    card.transmit(Interface::Iso7816Contact, command, answer)
}

/// Resets the contacts.
#[unsafe(no_mangle)]
pub extern "C" fn reset() {
    // SAFETY: as above.
    let card = unsafe { &mut *CARD.0.get() };
    card.reset(Interface::Iso7816Contact);
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {
        // Seen by the emulator: nothing but a panic stays at one address.
        core::hint::spin_loop();
    }
}
