//! The chip's registers, as 32-bit words at their addresses; and RAM and flash, which are memory.
//!
//! Arm, Application Note 386 (DAI0386) for the board, Cortex-M System Design Kit (DDI0479) for UART and dual timer.
#![allow(unsafe_code)]

use core::ptr;

/// UARTs 0 to 4.
pub(crate) const UARTS: [usize; 5] = [0x4000_4000, 0x4000_5000, 0x4000_6000, 0x4000_7000, 0x4000_9000];
/// Interrupts of what they receive.
pub(crate) const UART_INTERRUPTS: [u32; 5] = [0, 2, 4, 18, 20];
/// The dual timer; 25 MHz.
pub(crate) const TIMER: usize = 0x4000_2000;
/// Interrupt set-enable and clear-pending of the first 32 (Armv7-M, B3.4).
pub(crate) const NVIC_ISER: usize = 0xE000_E100;
pub(crate) const NVIC_ICPR: usize = 0xE000_E280;

/// SysTick, and the interrupt control and state register (Armv7-M, B3.3.2, B3.2.4).
pub(crate) const SYSTICK: usize = 0xE000_E010;
pub(crate) const ICSR: usize = 0xE000_ED04;

/// What of the address space [`read`] and [`write`] reach: peripherals of the board and of the processor.
const fn is_register(address: usize) -> bool {
    matches!(address, 0x4000_0000..=0x4FFF_FFFC | 0xE000_0000..=0xE00F_FFFC) && address.is_multiple_of(4)
}

/// Reads a register; 0 where there is none.
pub(crate) fn read(address: usize) -> u32 {
    if !is_register(address) {
        return 0;
    }
    // SAFETY: an aligned address of a peripheral, which is no memory of Rust's.
    unsafe { ptr::read_volatile(ptr::with_exposed_provenance(address)) }
}

/// Writes a register; nothing where there is none.
pub(crate) fn write(address: usize, value: u32) {
    if is_register(address) {
        // SAFETY: as in `read`. No register that is written here moves memory: UARTs, timer, interrupt enables.
        unsafe { ptr::write_volatile(ptr::with_exposed_provenance_mut(address), value) }
    }
}
