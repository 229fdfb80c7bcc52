//! The heap of OS parts, and of the TLS Manager. What a part may take of it is limited by the operating system ([`Profile::ram`](sekisho_os::Profile::ram)); what the heap has not is refused, and the OS
//! part's command with it.
#![allow(unsafe_code)]

use core::alloc::{GlobalAlloc, Layout};
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use embedded_alloc::LlffHeap;

use crate::FIGURES;

/// Bytes of it.
const LEN: usize = 96 << 10;

static mut MEMORY: [MaybeUninit<u64>; LEN / 8] = [MaybeUninit::uninit(); LEN / 8];

/// The allocator, and how much of it has been in use.
struct Watched {
    heap: LlffHeap,
    used: AtomicUsize,
}

#[global_allocator]
static HEAP: Watched = Watched {
    heap: LlffHeap::empty(),
    used: AtomicUsize::new(0),
};

// SAFETY: forwards to an allocator, whose results it gives as they are.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's own promise.
        let pointer = unsafe { self.heap.alloc(layout) };
        if !pointer.is_null() {
            let used = self.used.fetch_add(layout.size(), Relaxed) + layout.size();
            FIGURES
                .heap
                .fetch_max(u32::try_from(used).unwrap_or(u32::MAX), Relaxed);
        }
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // What a handshake was made of stays nowhere; no compiler may leave out what is written to memory that is given back.
        #[cfg(feature = "tls")]
        for at in 0..layout.size() {
            // SAFETY: inside the caller's own memory, which is no longer anybody's.
            unsafe { ptr::write_volatile(pointer.add(at), 0) }
        }
        // SAFETY: the caller's own promise.
        unsafe { self.heap.dealloc(pointer, layout) };
        self.used.fetch_sub(layout.size(), Relaxed);
    }
}

/// Gives the allocator its memory. Called once, at the start.
pub(crate) fn start() {
    // SAFETY: called once, before anything is allocated; nothing else names this memory.
    unsafe { HEAP.heap.init(ptr::addr_of_mut!(MEMORY) as usize, LEN) }
}
