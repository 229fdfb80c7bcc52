//! Randomness for the engine, which asks for it through statics: what the SE's generator gave for this call, byte by byte, each once. When it is used up there is
//! none, which ends the handshake: never a weak key.
//!
//! A call of the engine runs on one thread from its beginning to its end.

use sekisho_keys::Rng;
use zeroize::Zeroize;

/// What one call takes at most: random and session id of a `ClientHello`, the order of its extensions, a scalar.
const POOL: usize = 160;

/// Bytes that have not been given out, at the end of their array.
struct Pool {
    bytes: [u8; POOL],
    left: usize,
}

impl Pool {
    const EMPTY: Self = Self {
        bytes: [0; POOL],
        left: 0,
    };

    fn fill(&mut self, out: &mut [u8]) -> Option<()> {
        let from = POOL - self.left;
        let given = self.bytes.get_mut(from..from + out.len())?;
        out.copy_from_slice(given);
        given.zeroize();
        self.left -= out.len();
        Some(())
    }
}

#[cfg(not(target_os = "none"))]
mod place {
    use core::cell::RefCell;

    use super::Pool;

    thread_local! {
        static LENT: RefCell<Pool> = const { RefCell::new(Pool::EMPTY) };
    }

    pub(super) fn with<T>(work: impl FnOnce(&mut Pool) -> T) -> Option<T> {
        LENT.with(|pool| Some(work(&mut *pool.try_borrow_mut().ok()?)))
    }
}

/// A chip runs one thing at a time; the atomics are there for the compiler, they are only loaded and stored.
#[cfg(target_os = "none")]
mod place {
    use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};

    use super::{POOL, Pool};

    static BYTES: [AtomicU8; POOL] = [const { AtomicU8::new(0) }; POOL];
    static LEFT: AtomicUsize = AtomicUsize::new(0);

    pub(super) fn with<T>(work: impl FnOnce(&mut Pool) -> T) -> Option<T> {
        let mut pool = Pool::EMPTY;
        pool.left = LEFT.load(Relaxed).min(POOL);
        for (to, from) in pool.bytes.iter_mut().zip(&BYTES) {
            *to = from.load(Relaxed);
        }
        let done = work(&mut pool);
        LEFT.store(pool.left, Relaxed);
        for (from, to) in pool.bytes.iter().zip(&BYTES) {
            to.store(*from, Relaxed);
        }
        zeroize::Zeroize::zeroize(&mut pool.bytes);
        Some(done)
    }
}

/// Randomness of the SE, lent for as long as this lives.
pub(crate) struct Lent(());

impl Lent {
    pub(crate) fn new(rng: &mut dyn Rng, len: usize) -> Self {
        place::with(|pool| {
            *pool = Pool::EMPTY;
            pool.left = len.min(POOL);
            rng.fill(pool.bytes.get_mut(POOL - pool.left..).unwrap_or_default());
        });
        Self(())
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        place::with(|pool| {
            pool.bytes.zeroize();
            pool.left = 0;
        });
    }
}

/// Fills `out` with what has been lent; `None` when there is not as much.
pub(crate) fn fill(out: &mut [u8]) -> Option<()> {
    place::with(|pool| pool.fill(out))?
}

/// What has been lent, as a generator; what fails leaves zeros, which are no scalar.
pub(crate) struct FromLent;

impl Rng for FromLent {
    fn fill(&mut self, out: &mut [u8]) {
        if fill(out).is_none() {
            out.fill(0);
        }
    }
}

/// Of a `ClientHello`.
pub(crate) const HELLO: usize = POOL;
/// Of a key exchange that a server's message begins, with another try.
pub(crate) const EXCHANGE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    struct Counting(u8);

    impl Rng for Counting {
        fn fill(&mut self, out: &mut [u8]) {
            out.iter_mut().for_each(|byte| {
                self.0 += 1;
                *byte = self.0;
            });
        }
    }

    #[test]
    fn each_byte_is_given_once_and_none_without_a_generator() {
        let mut out = [0; 4];
        assert_eq!(fill(&mut out), None);
        let lent = Lent::new(&mut Counting(0), 10);
        assert_eq!((fill(&mut out), out), (Some(()), [1, 2, 3, 4]));
        assert_eq!(
            place::with(|pool| pool.bytes[POOL - 10..POOL - 6].to_vec()),
            Some(std::vec![0; 4])
        );
        assert_eq!((fill(&mut out), out), (Some(()), [5, 6, 7, 8]));
        assert_eq!(fill(&mut out), None);
        let mut zeros = [1; 4];
        FromLent.fill(&mut zeros);
        assert_eq!(zeros, [0; 4]);
        drop(lent);
        assert_eq!(fill(&mut out[..1]), None);
    }
}
