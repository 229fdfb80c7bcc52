//! What a panic, a fault and a bad random source do: they are counted, and the chip resets itself.
#![allow(unsafe_code)]

use core::arch::naked_asm;
use core::panic::PanicInfo;

use cortex_m::peripheral::SCB;
use cortex_m_rt::exception;
use sekisho_firmware::{Cause, Resets};

/// What a reset leaves: RAM that the start does not touch.
#[unsafe(link_section = ".uninit.resets")]
pub(crate) static RESETS: Resets = Resets::new();

/// The stack's lowest address (`memory.x`).
pub(crate) const STACK_LOW: usize = 0x2000_0000;
/// Bytes of an exception's frame with those of the FPU (Armv7-M, B1.5.7): a stack that had not so much room was too small.
const FRAME: usize = 104;

/// Resets the chip for this cause.
pub(crate) fn reset(cause: Cause) -> ! {
    RESETS.count(cause);
    SCB::sys_reset()
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    reset(Cause::Panic)
}

/// A fault, on a stack of which nothing is known: it begins anew.
///
/// # Safety
/// For the processor alone.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn HardFault() -> ! {
    naked_asm!(
        "mrs r0, MSP",
        "ldr r1, =_stack_start",
        "msr MSP, r1",
        "b {fault}",
        fault = sym fault,
    )
}

extern "C" fn fault(stack: usize) -> ! {
    reset(if stack < STACK_LOW + FRAME {
        Cause::Stack
    } else {
        Cause::Fault
    })
}

#[exception]
unsafe fn DefaultHandler(_: i16) {
    reset(Cause::Fault)
}
