//! The engine's heap: bounded, never a panic, and wiped when it is given back: a module's memory and what the host keeps beside it may have held secrets.
//!
//! The engine allocates through two functions that it links to. They take from the budget of the thread on which they are called, and fail when that is
//! used up, or when the global allocator has nothing more. An SE's command runs on one thread from its beginning to its end.

use alloc::alloc::{alloc, dealloc};
use core::alloc::Layout;
use core::marker::PhantomData;
use core::ptr::{self, NonNull};

use spacewasm::{AllocError, Allocator, GlobalAllocator, WasmMemoryAllocator};

/// There is no more memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted;

/// The bytes that may still be allocated: each thread has its own where there are threads.
#[cfg(not(target_os = "none"))]
mod left {
    use core::cell::Cell;

    thread_local! {
        static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
    }

    pub(super) fn get() -> Option<usize> {
        LEFT.get()
    }

    pub(super) fn set(bytes: Option<usize>) {
        LEFT.set(bytes);
    }
}

/// A chip runs one thing at a time; the atomic is there for the compiler, it is only loaded and stored.
#[cfg(target_os = "none")]
mod left {
    use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    const NONE: usize = usize::MAX;
    static LEFT: AtomicUsize = AtomicUsize::new(NONE);

    pub(super) fn get() -> Option<usize> {
        Some(LEFT.load(Relaxed)).filter(|left| *left != NONE)
    }

    pub(super) fn set(bytes: Option<usize>) {
        LEFT.store(bytes.map_or(NONE, |bytes| bytes.min(NONE - 1)), Relaxed);
    }
}

/// What may be allocated as long as this lives. There is one at a time on a thread, and without one the engine has no memory.
pub struct Budget {
    bytes: usize,
    /// It belongs to its thread.
    _thread: PhantomData<*const ()>,
}

impl Budget {
    /// A budget of `bytes`.
    ///
    /// # Errors
    /// [`Exhausted`] while there is another.
    pub fn new(bytes: usize) -> Result<Self, Exhausted> {
        if left::get().is_some() {
            return Err(Exhausted);
        }
        left::set(Some(bytes));
        Ok(Self {
            bytes,
            _thread: PhantomData,
        })
    }

    /// Bytes that are allocated now.
    pub fn used(&self) -> usize {
        self.bytes - left::get().unwrap_or(self.bytes).min(self.bytes)
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        left::set(None);
    }
}

fn take(bytes: usize) -> bool {
    #[cfg(test)]
    if failing::now() {
        return false;
    }
    match left::get().and_then(|left| left.checked_sub(bytes)) {
        Some(left) => {
            left::set(Some(left));
            true
        }
        None => false,
    }
}

fn give_back(bytes: usize) {
    if let Some(left) = left::get() {
        left::set(Some(left.saturating_add(bytes)));
    }
}

/// The engine's allocation; nothing of no bytes, and null with [`AllocError::OutOfMemory`] in `error` when there is none.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
unsafe extern "C" fn __spacewasm_alloc(size: usize, align: usize, error: *mut u32) -> *mut u8 {
    if size > 0
        && let Ok(layout) = Layout::from_size_align(size, align)
        && take(size)
    {
        // SAFETY: the layout is not of zero bytes.
        let pointer = unsafe { alloc(layout) };
        if !pointer.is_null() {
            return pointer;
        }
        give_back(size);
    }
    if !error.is_null() {
        // SAFETY: the engine gives a pointer to a u32 of its own.
        unsafe { error.write(AllocError::OutOfMemory.into()) };
    }
    ptr::null_mut()
}

/// The other half of it.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
unsafe extern "C" fn __spacewasm_dealloc(pointer: *mut u8, size: usize, align: usize) {
    if let Ok(layout) = Layout::from_size_align(size, align)
        && size > 0
        && !pointer.is_null()
    {
        // SAFETY: the engine gives back what `__spacewasm_alloc` gave it, with the same size and alignment: good for writes of that many bytes.
        unsafe {
            wipe(pointer, size);
            #[cfg(test)]
            given_back::look(core::slice::from_raw_parts(pointer, size));
            dealloc(pointer, layout);
        }
        give_back(size);
    }
}

/// Writes zeros, which no compiler leaves out for the memory being given back.
///
/// # Safety
/// `pointer` is good for writes of `size` bytes.
#[allow(unsafe_code)]
unsafe fn wipe(pointer: *mut u8, size: usize) {
    let words = if pointer.cast::<u64>().is_aligned() {
        size / 8
    } else {
        0
    };
    for word in 0..words {
        // SAFETY: inside the `size` bytes, and aligned.
        unsafe { pointer.cast::<u64>().add(word).write_volatile(0) };
    }
    for byte in 8 * words..size {
        // SAFETY: inside the `size` bytes.
        unsafe { pointer.add(byte).write_volatile(0) };
    }
}

/// A piece of memory from the budget, of zeros.
pub struct Bytes {
    inner: spacewasm::Box<[u8]>,
}

impl Bytes {
    /// `len` zeros.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn zeros(_: &Budget, len: usize) -> Result<Self, Exhausted> {
        let mut bytes = spacewasm::Vec::new(len).map_err(|_| Exhausted)?;
        for _ in 0..len {
            bytes.try_push(0).map_err(|_| Exhausted)?;
        }
        Ok(Self {
            inner: bytes.into_boxed_slice(),
        })
    }

    /// They.
    pub fn as_slice(&self) -> &[u8] {
        &self.inner
    }

    /// They, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.inner
    }
}

/// The module's linear memory: allocated once, while it is loaded. `memory.grow` finds no more.
pub(crate) struct LinearMemory {
    pub(crate) is_sealed: core::cell::Cell<bool>,
}

impl WasmMemoryAllocator for LinearMemory {
    #[allow(unsafe_code)]
    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        if self.is_sealed.replace(true) || layout.size() == 0 {
            return Err(AllocError::OutOfMemory);
        }
        // SAFETY: the layout is not of zero bytes.
        let pointer = unsafe { GlobalAllocator.alloc(layout) }?;
        NonNull::new(pointer).ok_or(AllocError::OutOfMemory)
    }

    fn reallocate(&self, _: NonNull<u8>, _: Layout, _: Layout) -> Result<NonNull<u8>, AllocError> {
        Err(AllocError::OutOfMemory)
    }

    #[allow(unsafe_code)]
    fn deallocate(&self, pointer: NonNull<u8>, layout: Layout) {
        // SAFETY: the engine gives back what `allocate` gave it, with the same layout.
        unsafe { GlobalAllocator.dealloc(pointer.as_ptr(), layout) };
    }
}

/// Tests look at what is given back.
#[cfg(test)]
pub(crate) mod given_back {
    use core::cell::Cell;

    thread_local! {
        /// Allocations given back, and bytes other than zero in them.
        pub(crate) static SEEN: Cell<(u32, usize)> = const { Cell::new((0, 0)) };
    }

    pub(super) fn look(bytes: &[u8]) {
        let (count, left) = SEEN.get();
        let not_zero = bytes.iter().filter(|byte| **byte != 0).count();
        SEEN.set((count + 1, left + not_zero));
    }
}

/// Tests let the N-th allocation fail, whatever is left.
#[cfg(test)]
pub(crate) mod failing {
    use core::cell::Cell;

    thread_local! {
        /// Allocations until one fails; none does without a number.
        pub(crate) static AT: Cell<Option<u32>> = const { Cell::new(None) };
        /// Allocations so far.
        pub(crate) static COUNT: Cell<u32> = const { Cell::new(0) };
    }

    pub(super) fn now() -> bool {
        COUNT.set(COUNT.get() + 1);
        AT.get() == Some(COUNT.get())
    }
}
