//! Who is in a handshake, and who gives way when there is no room: whoever is there has proved nothing yet.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

/// Where connections come from, as far as it is one somebody: an address, of IPv6 the network of 64 bits that a subscriber has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Source(IpAddr);

impl Source {
    fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                IpAddr::from([a, b, c, d, 0, 0, 0, 0])
            }
            address @ IpAddr::V4(_) => address,
        })
    }
}

struct Guest {
    source: Source,
    since: Instant,
    /// A whole ClientHello has come.
    has_spoken: bool,
    gives_way: Arc<Notify>,
}

/// All rooms.
#[derive(Clone)]
pub(crate) struct Rooms(Arc<Shared>);

struct Shared {
    most: usize,
    /// How long who has spoken is safe from his like.
    grace: Duration,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// By a number that grows: the oldest first.
    guests: BTreeMap<u64, Guest>,
    next: u64,
}

/// Room for one handshake; there is room again when it goes.
pub struct Room {
    rooms: Rooms,
    number: u64,
    gives_way: Arc<Notify>,
}

impl core::fmt::Debug for Room {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Room")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl Rooms {
    /// So many, for handshakes that take this long at most.
    pub(crate) fn new(most: usize, handshake: Duration) -> Self {
        Self(Arc::new(Shared {
            most,
            grace: handshake / 4,
            table: Mutex::new(Table::default()),
        }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for a connection from this address; if none is left, that of another one.
    pub(crate) fn take(&self, from: IpAddr, now: Instant) -> Option<Room> {
        let source = Source::of(from);
        let mut table = self.table();
        if table.guests.len() >= self.0.most {
            let number = table.loser(source, |guest| now.duration_since(guest.since) >= self.0.grace)?;
            table.guests.remove(&number)?.gives_way.notify_one();
        }
        let number = table.next;
        table.next += 1;
        let gives_way = Arc::new(Notify::new());
        let guest = Guest {
            source,
            since: now,
            has_spoken: false,
            gives_way: Arc::clone(&gives_way),
        };
        table.guests.insert(number, guest);
        Some(Room {
            rooms: self.clone(),
            number,
            gives_way,
        })
    }
}

impl Table {
    /// Who gives way to one more of this source: one of those who have the most rooms, the new one counted in. First who is silent, the oldest first; then who has spoken, at once if his
    /// source has more than the new one's would, else when he has had his time.
    fn loser(&self, newcomer: Source, has_had_his_time: impl Fn(&Guest) -> bool) -> Option<u64> {
        let mut counts: BTreeMap<Source, usize> = BTreeMap::from([(newcomer, 1)]);
        for guest in self.guests.values() {
            *counts.entry(guest.source).or_default() += 1;
        }
        let own = counts.get(&newcomer).copied()?;
        let most = counts.values().copied().max()?;
        let of_most = |guest: &Guest| counts.get(&guest.source) == Some(&most);
        let find = |fits: &dyn Fn(&Guest) -> bool| {
            let mut guests = self.guests.iter();
            guests
                .find(|(_, guest)| of_most(guest) && fits(guest))
                .map(|(number, _)| *number)
        };
        find(&|guest| !guest.has_spoken).or_else(|| find(&|guest| most > own || has_had_his_time(guest)))
    }
}

impl Room {
    /// A whole ClientHello has come.
    pub(crate) fn has_spoken(&self) {
        if let Some(guest) = self.rooms.table().guests.get_mut(&self.number) {
            guest.has_spoken = true;
        }
    }

    /// Comes when it has to give way.
    pub(crate) async fn gives_way(&self) {
        self.gives_way.notified().await;
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.rooms.table().guests.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDSHAKE: Duration = Duration::from_secs(40);

    fn from(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Whether it has to give way.
    fn is_lost(room: &Room) -> bool {
        !room.rooms.table().guests.contains_key(&room.number)
    }

    #[test]
    fn who_has_the_most_gives_way_the_silent_first() {
        let (rooms, now) = (Rooms::new(4, HANDSHAKE), Instant::now());
        let take = |address: &str| rooms.take(from(address), now).unwrap();
        let honest = take("192.0.2.1");
        let many = [0; 3].map(|_| take("192.0.2.66"));
        many[0].has_spoken();
        // One more of the same: its own oldest silent one goes, not another's older one.
        let more = take("192.0.2.66");
        assert!(!is_lost(&honest) && !is_lost(&many[0]) && is_lost(&many[1]) && !is_lost(&many[2]));
        // Another address: the same, and when all of them have spoken, at once.
        let other = take("192.0.2.2");
        assert!(is_lost(&many[2]) && !is_lost(&honest));
        more.has_spoken();
        let third = take("192.0.2.3");
        assert!(is_lost(&many[0]) && !is_lost(&more));
        // All have one: the oldest silent one.
        let _fourth = take("192.0.2.4");
        assert!(is_lost(&honest) && !is_lost(&other) && !is_lost(&third) && !is_lost(&more));
    }

    #[test]
    fn who_has_spoken_has_a_quarter_of_the_time_among_his_like() {
        let (rooms, now) = (Rooms::new(2, HANDSHAKE), Instant::now());
        let guests = ["192.0.2.1", "192.0.2.2"].map(|address| rooms.take(from(address), now).unwrap());
        guests.iter().for_each(Room::has_spoken);
        assert!(rooms.take(from("192.0.2.3"), now + HANDSHAKE / 5).is_none());
        assert!(!guests.iter().any(is_lost));
        let _third = rooms.take(from("192.0.2.3"), now + HANDSHAKE / 4).unwrap();
        assert!(is_lost(&guests[0]) && !is_lost(&guests[1]));
    }

    #[test]
    fn room_comes_back_when_a_handshake_is_over_and_none_is_none() {
        let (rooms, now) = (Rooms::new(1, HANDSHAKE), Instant::now());
        for _ in 0..3 {
            let room = rooms.take(from("::1"), now).unwrap();
            room.has_spoken();
            assert!(rooms.take(from("::1"), now).is_none());
        }
        assert!(Rooms::new(0, HANDSHAKE).take(from("::1"), now).is_none());
    }

    #[test]
    fn a_network_of_64_bits_is_one_somebody() {
        let of = |text: &str| Source::of(from(text));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
