//! Devices that are done with an order which nobody has given: the store is older than its fleet, or the device lies.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::Mutex;

/// Devices that are told apart.
const DEVICES_MAX: usize = 1024;

/// A device that is ahead of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// Its index.
    pub index: u32,
    /// The order that it is done with, by its own word.
    pub order: u32,
    /// Whether it is not followed.
    pub refused: bool,
}

/// What the polls say beyond the last order that was given.
#[derive(Debug)]
pub(crate) struct Watch {
    /// The last order that was given; until it is known nobody is ahead of it.
    given: AtomicU32,
    /// Order and whether it is refused.
    devices: Mutex<HashMap<u32, (u32, bool)>>,
    /// Whether there are any.
    any: AtomicBool,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            given: AtomicU32::new(u32::MAX),
            devices: Mutex::default(),
            any: AtomicBool::new(false),
        }
    }
}

impl Watch {
    /// Hears what an authentic poll says: one comparison, for a device that is not ahead.
    pub(crate) fn hear(&self, index: u32, order: u32) {
        if order <= self.given.load(Ordering::Relaxed) {
            if self.any.load(Ordering::Relaxed) {
                self.devices.lock().remove(&index);
            }
            return;
        }
        let mut devices = self.devices.lock();
        if devices.len() < DEVICES_MAX || devices.contains_key(&index) {
            devices.entry(index).or_insert((order, false)).0 = order;
            self.any.store(true, Ordering::Relaxed);
        }
    }

    /// The last order that was given. Gives what it was held to be.
    pub(crate) fn set_given(&self, order: u32) -> u32 {
        let mut devices = self.devices.lock();
        devices.retain(|_, (said, _)| *said > order);
        self.any.store(!devices.is_empty(), Ordering::Relaxed);
        drop(devices);
        self.given.swap(order, Ordering::Relaxed)
    }

    pub(crate) fn devices(&self) -> Vec<Ahead> {
        let devices = self.devices.lock();
        let ahead = |(&index, &(order, refused))| Ahead {
            index,
            order,
            refused,
        };
        devices.iter().map(ahead).collect()
    }

    /// A device is not followed, or once more perhaps.
    pub(crate) fn refuse(&self, index: u32, refused: bool) {
        if let Some(device) = self.devices.lock().get_mut(&index) {
            device.1 = refused;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_ahead_of_what_is_known_to_be_given_and_few_of_them_are_told_apart() {
        let watch = Watch::default();
        watch.hear(1, 5);
        assert_eq!(watch.devices(), []);
        assert_eq!(watch.set_given(4), u32::MAX);
        watch.hear(1, 4);
        assert_eq!(watch.devices(), []);
        watch.hear(1, 5);
        watch.refuse(1, true);
        watch.hear(1, 6);
        let ahead = |order, refused| Ahead {
            index: 1,
            order,
            refused,
        };
        assert_eq!(watch.devices(), [ahead(6, true)]);
        watch.refuse(1, false);
        assert_eq!(watch.devices(), [ahead(6, false)]);
        // Its own later word counts, when somebody else has spoken for it.
        watch.hear(1, 4);
        assert_eq!(watch.devices(), []);
        watch.hear(1, 6);
        assert_eq!(watch.devices(), [ahead(6, false)]);
        assert_eq!(watch.set_given(6), 4);
        assert_eq!(watch.devices(), []);
        (0..5000).for_each(|index| watch.hear(index, 7));
        assert_eq!(watch.devices().len(), DEVICES_MAX);
    }
}
