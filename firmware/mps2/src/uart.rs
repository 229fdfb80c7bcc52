//! The UARTs of the Cortex-M System Design Kit (DDI0479, 4.3), one of its timers (4.2), and waiting.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use cortex_m::asm;
use sekisho_firmware::Port;

use crate::registers::{ICSR, NVIC_ICPR, NVIC_ISER, SYSTICK, TIMER, UART_INTERRUPTS, UARTS, read, write};

const DATA: usize = 0x00;
const STATE: usize = 0x04;
const CTRL: usize = 0x08;
const INTERRUPT_CLEAR: usize = 0x0C;
const BAUD_DIVIDER: usize = 0x10;
const STATE_SENDING: u32 = 1;
const STATE_RECEIVED: u32 = 1 << 1;
/// Sends, receives, and interrupts for what is received.
const ENABLE: u32 = 0b1011;
const RECEIVE_INTERRUPT: u32 = 1 << 1;

const TIMER_LOAD: usize = 0x00;
const TIMER_VALUE: usize = 0x04;
const TIMER_CONTROL: usize = 0x08;
/// Runs free, 32 bits.
const TIMER_ENABLE: u32 = 1 << 7 | 1 << 1;

const SYSTICK_CONTROL: usize = 0x00;
const SYSTICK_RELOAD: usize = 0x04;
/// By the processor's clock, with its interrupt.
const SYSTICK_ENABLE: u32 = 0b111;
/// In a second.
const WAKES: u32 = 10;
const ICSR_CLEAR_SYSTICK: u32 = 1 << 25;

/// Ticks of a second.
pub(crate) const TICKS: u32 = 25_000_000;

/// Ticks for which a command has waited for a byte.
static IDLE: AtomicU32 = AtomicU32::new(0);

/// These ticks since this was asked last.
pub(crate) fn idle() -> u32 {
    let idle = IDLE.load(Relaxed);
    IDLE.store(0, Relaxed);
    idle
}

/// A UART by its number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Uart(pub(crate) usize);

impl Uart {
    fn base(self) -> usize {
        UARTS.get(self.0).copied().unwrap_or_default()
    }

    /// The next byte, whenever it comes.
    pub(crate) fn wait_for_byte(&mut self) -> u8 {
        let began = ticks();
        loop {
            if let Some(byte) = self.read() {
                let waited = ticks().wrapping_sub(began);
                IDLE.store(IDLE.load(Relaxed).wrapping_add(waited), Relaxed);
                return byte;
            }
            wait();
        }
    }
}

impl Port for Uart {
    fn read(&mut self) -> Option<u8> {
        let base = self.base();
        if read(base + STATE) & STATE_RECEIVED == 0 {
            return None;
        }
        write(base + INTERRUPT_CLEAR, RECEIVE_INTERRUPT);
        Some(read(base + DATA).to_le_bytes()[0])
    }

    fn write(&mut self, byte: u8) {
        while read(self.base() + STATE) & STATE_SENDING != 0 {}
        write(self.base() + DATA, byte.into());
    }
}

/// Turns the first `ports` UARTs and the random source's on, and the timer. Interrupts wake the processor and are never taken.
pub(crate) fn start(ports: usize, random: usize) {
    cortex_m::interrupt::disable();
    for uart in (0..ports).chain([random]).map(Uart) {
        write(uart.base() + BAUD_DIVIDER, 16);
        write(uart.base() + CTRL, ENABLE);
    }
    let interrupts = UART_INTERRUPTS.iter().enumerate();
    for (_, interrupt) in interrupts.filter(|(uart, _)| *uart < ports || *uart == random) {
        write(NVIC_ISER, 1 << interrupt);
    }
    write(SYSTICK + SYSTICK_RELOAD, TICKS / WAKES);
    write(SYSTICK + SYSTICK_CONTROL, SYSTICK_ENABLE);
    write(TIMER + TIMER_LOAD, u32::MAX);
    write(TIMER + TIMER_CONTROL, TIMER_ENABLE);
}

/// Sleeps until a byte has come, a tenth of a second at most. One that comes before sleep leaves its interrupt pending, which ends it at once. A loop that
/// asks without sleep would take the emulator's lock from who brings the byte.
pub(crate) fn wait() {
    asm::wfi();
    write(NVIC_ICPR, u32::MAX);
    write(ICSR, ICSR_CLEAR_SYSTICK);
}

/// The timer, which counts down, as one that counts up.
pub(crate) fn ticks() -> u32 {
    !read(TIMER + TIMER_VALUE)
}
