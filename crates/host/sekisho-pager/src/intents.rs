//! Messages that wait for devices, found by a poll without a lock: the whole set is replaced when one comes or goes.

use std::collections::HashMap;

use sekisho_paging::message::{Action, Message};

/// To whom a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A device, by its index.
    Device(u32),
    /// A group.
    Group(u16),
    /// Every device.
    Everybody,
}

/// A message that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Its place in the operator's one sequence; not 0.
    pub order: u32,
    /// To whom.
    pub to: Target,
    /// What to do.
    pub action: Action,
    /// From when on, in seconds since 1970.
    pub not_before: Option<u64>,
    /// Until when.
    pub expires: Option<u64>,
    /// Given anew, to devices alone that are done with an order above this one: no device that heard this server was ever told such an order.
    pub past: Option<u32>,
}

impl Intent {
    fn is_live(&self, now: u64) -> bool {
        self.not_before.is_none_or(|from| from <= now) && self.expires.is_none_or(|until| now < until)
    }

    /// Whether it is for a device that is done with this order and of this generation. A keyspace that the device has reached or left behind is
    /// nothing to move to.
    fn is_meant(&self, order: u32, generation: u32) -> bool {
        let is_behind =
            matches!(self.action, Action::MoveTo(to) if to.generation > 0 && to.generation <= generation);
        !is_behind && self.past.is_none_or(|past| order > past)
    }
}

/// All of them, ascending by order within each target.
#[derive(Clone, Debug, Default)]
pub(crate) struct Intents {
    targets: HashMap<Target, Vec<Intent>>,
    /// The highest order for everybody or a group: a poll at or above it, of a device without a message of its own, has nothing to look for.
    shared_top: u32,
    has_device: bool,
}

impl Intents {
    pub(crate) fn post(&mut self, intent: Intent) {
        let list = self.targets.entry(intent.to).or_default();
        list.retain(|held| held.order != intent.order);
        let at = list.partition_point(|held| held.order < intent.order);
        list.insert(at, intent);
        self.summarise();
    }

    pub(crate) fn withdraw(&mut self, order: u32) {
        self.targets.retain(|_, list| {
            list.retain(|held| held.order != order);
            !list.is_empty()
        });
        self.summarise();
    }

    fn summarise(&mut self) {
        self.has_device = self
            .targets
            .keys()
            .any(|target| matches!(target, Target::Device(_)));
        let shared = self
            .targets
            .iter()
            .filter(|(target, _)| !matches!(target, Target::Device(_)));
        self.shared_top = shared
            .filter_map(|(_, list)| list.last())
            .map(|last| last.order)
            .max()
            .unwrap_or(0);
    }

    /// The first live message above `order`, for a device of this generation.
    pub(crate) fn next(&self, index: u32, group: u16, (order, generation): (u32, u32), now: u64) -> Message {
        if order >= self.shared_top && !self.has_device {
            return Message::NOTHING;
        }
        [Target::Device(index), Target::Group(group), Target::Everybody]
            .iter()
            .filter_map(|target| {
                let list = self.targets.get(target)?;
                let from = list.partition_point(|held| held.order <= order);
                let is_next = |held: &&Intent| held.is_live(now) && held.is_meant(order, generation);
                list.get(from..)?.iter().find(is_next)
            })
            .min_by_key(|intent| intent.order)
            .map_or(Message::NOTHING, |intent| Message {
                order: intent.order,
                action: intent.action,
            })
    }

    /// Whether a device of this generation is sent to another keyspace, by a message of its own that names it.
    pub(crate) fn is_recalled(&self, index: u32, generation: u32, now: u64) -> bool {
        let own = self.targets.get(&Target::Device(index)).into_iter().flatten();
        own.filter(|held| held.is_live(now))
            .any(|held| matches!(held.action, Action::MoveTo(to) if to.generation > generation))
    }

    /// How many there are; what is given anew counts once.
    pub(crate) fn len(&self) -> usize {
        self.targets
            .values()
            .flatten()
            .filter(|held| held.past.is_none())
            .count()
    }
}

#[cfg(test)]
mod tests {
    use sekisho_paging::keys::Keyspace;

    use super::*;

    fn intent(order: u32, to: Target) -> Intent {
        Intent {
            order,
            to,
            action: Action::Update(order),
            not_before: None,
            expires: None,
            past: None,
        }
    }

    /// Orders to 4 were given when a device named 9: whoever names 5 to 19 hears the second message anew as 20, and nobody else does.
    #[test]
    fn what_is_given_anew_is_for_devices_from_another_life_of_the_store_alone() {
        let mut intents = Intents::default();
        intents.post(intent(4, Target::Everybody));
        intents.post(Intent {
            past: Some(4),
            ..intent(20, Target::Everybody)
        });
        intents.post(intent(21, Target::Group(1)));
        for (above, order) in [
            (0, 4),
            (3, 4),
            (4, 21),
            (5, 20),
            (9, 20),
            (19, 20),
            (20, 21),
            (21, 0),
        ] {
            assert_eq!(intents.next(1, 1, (above, 0), 0).order, order, "{above}");
        }
        assert_eq!(intents.len(), 2);
    }

    /// A move to a keyspace that was given beforehand is over when the device is there, or beyond.
    #[test]
    fn a_move_is_for_devices_below_its_generation() {
        let mut intents = Intents::default();
        let to = |generation| {
            Action::MoveTo(Keyspace {
                domain: 9,
                generation,
            })
        };
        intents.post(Intent {
            action: to(300),
            ..intent(4, Target::Device(1))
        });
        intents.post(intent(5, Target::Everybody));
        for (generation, order) in [(0, 4), (299, 4), (300, 5), (301, 5)] {
            assert_eq!(
                intents.next(1, 1, (0, generation), 0).order,
                order,
                "{generation}"
            );
        }
        intents.post(Intent {
            action: to(0),
            ..intent(4, Target::Device(1))
        });
        assert_eq!(intents.next(1, 1, (0, 300), 0).order, 4);
    }

    #[test]
    fn property_19_the_first_live_message_above_the_order() {
        let mut intents = Intents::default();
        assert_eq!(intents.next(1, 1, (0, 0), 100), Message::NOTHING);
        intents.post(intent(7, Target::Everybody));
        intents.post(intent(5, Target::Group(1)));
        intents.post(intent(6, Target::Device(9)));
        intents.post(Intent {
            expires: Some(50),
            ..intent(1, Target::Everybody)
        });
        intents.post(Intent {
            not_before: Some(500),
            ..intent(2, Target::Everybody)
        });
        let order = |index, group, above, now| intents.next(index, group, (above, 0), now).order;
        assert_eq!(order(9, 1, 0, 100), 5);
        assert_eq!(order(9, 1, 5, 100), 6);
        assert_eq!(order(9, 1, 6, 100), 7);
        assert_eq!(order(9, 1, 7, 100), 0);
        assert_eq!(order(8, 2, 0, 100), 7);
        assert_eq!(order(8, 2, 0, 49), 1);
        assert_eq!(order(8, 2, 0, 500), 2);
        intents.withdraw(7);
        assert_eq!(intents.next(8, 2, (0, 0), 100), Message::NOTHING);
    }
}
