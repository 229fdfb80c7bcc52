//! Verdicts that one fault does not turn: a chip that leaves out one instruction, because somebody makes its supply, its clock or its light stumble, does not
//! take a no for a yes (`tests/skips`).

use core::hint::black_box;

use subtle::ConstantTimeEq;

/// A yes is as far from a no as words can be.
const YES: u32 = 0x5A96_C33C;
const NO: u32 = !YES;

/// What was decided, twice, as a word. It may be looked at as often as there are places where its no must hold.
#[derive(Clone, Copy, Debug)]
pub struct Verdict(u32);

impl Verdict {
    /// Asks `decide` of `of` twice; yes, if it says so both times.
    #[inline(always)]
    pub fn of<T: ?Sized>(of: &T, decide: impl Fn(&T) -> bool) -> Self {
        let word = |said: bool| u32::from(said).wrapping_neg();
        Self::from_words(word(decide(of)), word(decide(black_box(of))))
    }

    /// Each all ones, or none.
    #[inline(always)]
    fn from_words(once: u32, again: u32) -> Self {
        Self(NO ^ ((YES ^ NO) & black_box(once) & black_box(again)))
    }

    /// Looks at it twice. To be called where the door is opened: a function that hands the answer on is one instruction more that can be left out.
    #[inline(always)]
    pub fn is_yes(self) -> bool {
        // Kept before the first look, or the compiler would know what the second one sees, and later calls too; and looked at behind it, or both would
        // be one branch.
        let said = black_box(self.0);
        let again = black_box(said);
        if said != YES {
            return false;
        }
        black_box(again) == YES
    }
}

/// Whether two byte strings are the same, in a time that depends on their lengths alone. One fault does not turn a no into a yes.
#[inline(always)]
pub fn ct_eq(a: &[u8], b: &[u8]) -> bool {
    ct_compare(a, b).is_yes()
}

/// The same, for whoever looks at it more than once.
#[inline(never)]
pub fn ct_compare(a: &[u8], b: &[u8]) -> Verdict {
    let mask = |a: &[u8], b: &[u8]| u32::from(a.ct_eq(b).unwrap_u8()).wrapping_neg();
    Verdict::from_words(mask(a, b), mask(black_box(a), black_box(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yes_is_said_twice() {
        use core::cell::Cell;
        for (first, second, yes) in [
            (true, true, true),
            (true, false, false),
            (false, true, false),
            (false, false, false),
        ] {
            let asked = Cell::new(0);
            let verdict = Verdict::of(&asked, |asked| {
                asked.set(asked.get() + 1);
                if asked.get() == 1 { first } else { second }
            });
            assert_eq!((verdict.is_yes(), asked.get()), (yes, 2), "{first} {second}");
        }
        assert_eq!((YES ^ NO).count_ones(), 32);
    }
}
