//! RAM of applications: it belongs to the instance, not to the code.

use crate::registry::Instance;

/// What an instance of an application remembers between commands. What of it is secret wipes itself when it is dropped.
pub trait State {
    /// As it is at power-on, and when the instance has gone.
    const NEW: Self;
}

/// The memory of one instance, or of none yet.
#[derive(Debug)]
struct Memory<T> {
    owner: Option<Instance>,
    state: T,
}

/// Memory for `N` instances of one application: all the RAM that they have, whatever is installed.
#[derive(Debug)]
pub struct Pool<T, const N: usize>([Memory<T>; N]);

impl<T: State, const N: usize> State for Pool<T, N> {
    const NEW: Self = Self(
        [const {
            Memory {
                owner: None,
                state: T::NEW,
            }
        }; N],
    );
}

impl<T: State, const N: usize> Pool<T, N> {
    /// How many instances it has memory for.
    pub const fn places(&self) -> usize {
        N
    }

    /// The memory of an instance, as at power-on when it is asked for the first time; `None` when there are more instances than memories.
    pub fn get(&mut self, instance: Instance) -> Option<&mut T> {
        let at = self
            .0
            .iter()
            .position(|memory| memory.owner == Some(instance))
            .or_else(|| self.0.iter().position(|memory| memory.owner.is_none()))?;
        let memory = self.0.get_mut(at)?;
        memory.owner = Some(instance);
        Some(&mut memory.state)
    }

    /// The instance has gone: its memory is as at power-on again, and another one's to take.
    pub fn release(&mut self, instance: Instance) {
        if let Some(memory) = self.0.iter_mut().find(|memory| memory.owner == Some(instance)) {
            memory.owner = None;
            memory.state = T::NEW;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::ContainerId;
    use crate::names::EntryId;

    struct Counter(u8);

    impl State for Counter {
        const NEW: Self = Self(0);
    }

    #[test]
    fn no_instance_finds_what_another_remembers_and_a_successor_finds_nothing() {
        let mut pool = Pool::<Counter, 2>::NEW;
        let instance = |container, entry| Instance {
            container: ContainerId(container),
            entry: EntryId::new(entry).unwrap(),
        };
        let (first, elsewhere, third) = (instance(1, 0x104), instance(2, 0x1A4), instance(1, 0x106));
        pool.get(first).unwrap().0 = 7;
        assert_eq!(pool.get(elsewhere).unwrap().0, 0);
        assert_eq!(pool.get(first).unwrap().0, 7);
        assert!(pool.get(third).is_none());
        pool.release(first);
        assert_eq!(pool.get(third).unwrap().0, 0);
        assert!(pool.get(first).is_none());
    }
}
