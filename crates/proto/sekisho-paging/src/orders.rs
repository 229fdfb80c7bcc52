//! How far a server follows a device that is done with an order which the server has not given (`docs/spec/paging.md`, 5.1): its store is older than
//! its fleet, or the device lies.

/// The bounds within which one sequence of orders jumps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Orders in one step.
    pub step: u32,
    /// Steps that one device may bring about, in all.
    pub steps_max: u32,
    /// No jump goes above this order.
    pub ceiling: u32,
}

/// Of a global server. Hundreds of devices must lie, as much as they may, before nobody is followed any more, and a quarter of all orders is left then.
pub const GLOBAL: Reach = Reach {
    step: 1 << 20,
    steps_max: 8,
    ceiling: 3 << 30,
};

impl Reach {
    /// Of a local server with a block of orders, half of which no device can have it pass over.
    pub const fn local(first: u32, last: u32) -> Self {
        Self {
            step: 256,
            steps_max: 4,
            ceiling: first.saturating_add(last.saturating_sub(first) / 2),
        }
    }

    /// The steps by which the sequence, whose last order is `last`, passes the order `said`: 0 if it has given it. `used` steps were this device's.
    /// `None`: it is not followed.
    pub const fn steps(&self, last: u32, said: u32, used: u32) -> Option<u32> {
        let steps = said.saturating_sub(last).div_ceil(self.step);
        if steps > self.steps_max.saturating_sub(used) {
            return None;
        }
        // At most steps_max, so that the product is far from the end of the numbers.
        let to = last as u64 + steps as u64 * self.step as u64;
        if steps > 0 && to > self.ceiling as u64 {
            return None;
        }
        Some(steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_that_was_given_moves_nothing_and_one_that_was_not_is_passed() {
        assert_eq!(GLOBAL.steps(7, 7, 0), Some(0));
        assert_eq!(GLOBAL.steps(7, 0, 8), Some(0));
        assert_eq!(GLOBAL.steps(7, 8, 0), Some(1));
        assert_eq!(GLOBAL.steps(0, GLOBAL.step, 0), Some(1));
        assert_eq!(GLOBAL.steps(0, GLOBAL.step + 1, 0), Some(2));
        assert_eq!(GLOBAL.steps(u32::MAX, u32::MAX, 0), Some(0));
    }

    /// Whatever a device says, and however often.
    #[test]
    fn a_liar_moves_the_sequence_by_eight_steps_in_its_life() {
        for lie in [1, GLOBAL.step, 3 * GLOBAL.step + 1, 8 * GLOBAL.step, u32::MAX] {
            let (mut last, mut used) = (100, 0);
            for _ in 0..1000 {
                let said = u32::saturating_add(last, lie);
                let Some(steps) = GLOBAL.steps(last, said, used) else {
                    continue;
                };
                used += steps;
                last += steps * GLOBAL.step;
                assert!(last >= said);
            }
            assert!(last <= 100 + 8 * GLOBAL.step, "{lie}");
        }
    }

    #[test]
    fn all_liars_together_leave_a_quarter_of_the_orders() {
        let mut last = 0;
        for device in 0..1000 {
            if let Some(steps) = GLOBAL.steps(last, last + 8 * GLOBAL.step, 0) {
                last += steps * GLOBAL.step;
            } else {
                assert!(device >= 384);
            }
        }
        assert!(last <= GLOBAL.ceiling);
        let local = Reach::local(20_001, 30_000);
        assert_eq!(local.steps(20_000, 30_000, 0), None);
        assert_eq!(local.steps(24_900, 24_901, 0), None);
        assert_eq!(local.steps(20_005, 20_006, 0), Some(1));
    }
}
