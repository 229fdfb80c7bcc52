//! Logical channels (GPC 6.4): which are open on each interface, and what is selected on each.

use crate::interface::{CHANNELS_MAX, ContainerId, INSIDE_MAX, Interface, Place, Protocol};
use crate::names::EntryId;
use crate::registry::ENTRIES_MAX;

/// Places of one interface: its logical channels, and one inside the TLS session that each of the first four can have.
const PLACES: usize = CHANNELS_MAX as usize + INSIDE_MAX as usize;

/// What is selected on a logical channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Selected {
    /// Its container.
    pub(crate) container: ContainerId,
    /// The application; `None` after its application session was ended by force, or where there is none.
    pub(crate) entry: Option<EntryId>,
}

impl Selected {
    /// Nothing, in no container.
    pub(crate) const NONE: Self = Self {
        container: ContainerId(0),
        entry: None,
    };
}

#[derive(Clone, Copy)]
struct Channel {
    open: bool,
    selected: Selected,
    /// Whether SELECT `[first or only occurrence]` was received: without one there is no next occurrence.
    searched: bool,
    /// Number of the application session: no two have the same.
    session: u32,
    /// A bit for each registry index that has been called by another application in this session.
    called: u16,
}

const _: () = assert!(ENTRIES_MAX <= 16, "a bit for each entry");

const CLOSED: Channel = Channel {
    open: false,
    selected: Selected::NONE,
    searched: false,
    session: 0,
    called: 0,
};

/// What each interface speaks at power-on.
const DEFAULT_PROTOCOLS: [Protocol; Interface::COUNT] = [
    Interface::Iso7816Contact.default_protocol(),
    Interface::Swp.default_protocol(),
    Interface::ApduGate.default_protocol(),
    Interface::Spi.default_protocol(),
];

/// The logical channels of all interfaces.
pub(crate) struct Channels {
    table: [[Channel; PLACES]; Interface::COUNT],
    /// What each interface speaks.
    protocols: [Protocol; Interface::COUNT],
    /// How many logical channels an interface has, the basic one included.
    limit: u8,
    /// Number of the application session that began last.
    sessions: u32,
}

impl Channels {
    /// None is open on any interface, and what they speak is not said before they [begin](Self::begin): zeros.
    pub(crate) const CLOSED: Self = Self {
        table: [[CLOSED; PLACES]; Interface::COUNT],
        protocols: [Protocol::T0; Interface::COUNT],
        limit: 0,
        sessions: 0,
    };

    /// Basic channels are open with what `selected` says of their interface, at most `limit` channels on each interface; all else is as at power-on.
    pub(crate) fn begin(&mut self, limit: u8, selected: impl Fn(Interface) -> Selected) {
        self.protocols = DEFAULT_PROTOCOLS;
        (self.limit, self.sessions) = (limit, 0);
        for interface in Interface::ALL {
            self.reset(interface, selected(interface));
        }
    }

    /// Every place that there can be, open or not.
    pub(crate) fn places() -> impl Iterator<Item = Place> {
        let numbers = |interface| {
            (0_u8..).take(PLACES).map(move |logical_channel| Place {
                interface,
                logical_channel,
            })
        };
        Interface::ALL.into_iter().flat_map(numbers)
    }

    const fn new_session(&mut self) -> u32 {
        self.sessions = self.sessions.wrapping_add(1);
        self.sessions
    }

    /// What an interface speaks.
    pub(crate) fn protocol(&self, interface: Interface) -> Protocol {
        let protocol = self.protocols.get(interface.index()).copied();
        protocol.unwrap_or(interface.default_protocol())
    }

    /// Lets an interface speak another protocol.
    pub(crate) fn set_protocol(&mut self, interface: Interface, protocol: Protocol) {
        if let Some(row) = self.protocols.get_mut(interface.index()) {
            *row = protocol;
        }
    }

    /// Closes all logical channels of an interface but the basic one, on which `selected` becomes the selected application.
    pub(crate) fn reset(&mut self, interface: Interface, selected: Selected) {
        let session = self.new_session();
        if let Some(row) = self.table.get_mut(interface.index()) {
            *row = [CLOSED; PLACES];
            if let Some(basic) = row.first_mut() {
                *basic = Channel {
                    open: true,
                    selected,
                    searched: false,
                    session,
                    called: 0,
                };
            }
        }
    }

    fn channel(&self, place: Place) -> Option<&Channel> {
        let channel = self
            .table
            .get(place.interface.index())?
            .get(usize::from(place.logical_channel))?;
        (channel.open && (place.logical_channel < self.limit || place.is_inside())).then_some(channel)
    }

    fn channel_mut(&mut self, place: Place) -> Option<&mut Channel> {
        self.table
            .get_mut(place.interface.index())?
            .get_mut(usize::from(place.logical_channel))
    }

    pub(crate) fn is_open(&self, place: Place) -> bool {
        self.channel(place).is_some()
    }

    /// The application selected there.
    pub(crate) fn selected(&self, place: Place) -> Option<EntryId> {
        self.channel(place)?.selected.entry
    }

    /// The container of what is selected there.
    pub(crate) fn container(&self, place: Place) -> ContainerId {
        let channel = self.channel(place);
        channel.map_or(CLOSED.selected.container, |channel| channel.selected.container)
    }

    /// Where the search of SELECT [next occurrence] starts: behind the selected application.
    pub(crate) fn next_after(&self, place: Place) -> Option<EntryId> {
        let channel = self.channel(place)?;
        if channel.searched {
            channel.selected.entry
        } else {
            None
        }
    }

    /// Number of the application session there.
    pub(crate) fn session(&self, place: Place) -> u32 {
        self.channel(place).map_or(0, |channel| channel.session)
    }

    /// An application has been called by another one in the session there.
    pub(crate) fn note_called(&mut self, place: Place, index: u8) {
        if let Some(channel) = self.channel_mut(place) {
            channel.called |= 1_u16.checked_shl(index.into()).unwrap_or_default();
        }
    }

    /// An entry has gone: whoever comes to its place in the registry has been called by nobody.
    pub(crate) fn forget_called(&mut self, index: u8, container: ContainerId) {
        let all = self.table.iter_mut().flatten();
        for channel in all.filter(|channel| channel.selected.container == container) {
            channel.called &= !1_u16.checked_shl(index.into()).unwrap_or_default();
        }
    }

    /// Registry indices of the applications that the selected one has called in the session there.
    pub(crate) fn called(&self, place: Place) -> impl Iterator<Item = u8> + use<> {
        let mut rest = self.channel(place).map_or(0, |channel| channel.called);
        core::iter::from_fn(move || {
            let index = u8::try_from(rest.trailing_zeros()).ok().filter(|_| rest != 0)?;
            rest &= rest - 1;
            Some(index)
        })
    }

    /// Begins a new application session with the same application.
    pub(crate) fn renew(&mut self, place: Place) {
        let session = self.new_session();
        if let Some(channel) = self.channel_mut(place) {
            channel.session = session;
            channel.called = 0;
        }
    }

    /// Makes an application the selected one.
    pub(crate) fn select(&mut self, place: Place, application: Selected) {
        let session = self.new_session();
        if let Some(channel) = self.channel_mut(place) {
            channel.session = session;
            channel.called = 0;
            channel.selected = application;
            channel.searched = true;
        }
    }

    /// Opens the first free supplementary channel, or exactly `wanted`, and selects an application on it.
    pub(crate) fn open(
        &mut self,
        interface: Interface,
        wanted: Option<u8>,
        selected: Selected,
    ) -> Option<u8> {
        let free = |n: &u8| {
            !self.is_open(Place {
                interface,
                logical_channel: *n,
            })
        };
        let number = match wanted {
            Some(n) => Some(n).filter(|n| *n > 0 && *n < self.limit && free(n))?,
            None => (1..self.limit).find(free)?,
        };
        let session = self.new_session();
        let channel = self.channel_mut(Place {
            interface,
            logical_channel: number,
        })?;
        *channel = Channel {
            open: true,
            selected,
            searched: false,
            session,
            called: 0,
        };
        Some(number)
    }

    /// A TLS session begins with this selected in it.
    #[cfg(feature = "tls")]
    pub(crate) fn open_inside(&mut self, inside: Place, selected: Selected) {
        let session = self.new_session();
        if let Some(channel) = self.channel_mut(inside) {
            *channel = Channel {
                open: true,
                selected,
                session,
                ..CLOSED
            };
        }
    }

    /// Closes a supplementary channel; false when it was not open. The basic channel cannot be closed.
    pub(crate) fn close(&mut self, place: Place) -> bool {
        let was_open = place.logical_channel > 0 && self.is_open(place);
        if was_open && let Some(channel) = self.channel_mut(place) {
            *channel = CLOSED;
        }
        was_open
    }

    /// Whether the number is one of this SE's supplementary channels.
    pub(crate) fn is_supplementary(&self, number: u8) -> bool {
        number > 0 && number < self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(interface: Interface, logical_channel: u8) -> Place {
        Place {
            interface,
            logical_channel,
        }
    }

    const fn of(entry: EntryId) -> Selected {
        Selected {
            container: ContainerId::ESE,
            entry: Some(entry),
        }
    }

    const ISD: Selected = of(EntryId::of_0_1(0));
    const APP: Selected = of(EntryId::FIRST);

    fn channels(limit: u8) -> Channels {
        let mut channels = Channels::CLOSED;
        channels.begin(limit, |_| ISD);
        channels
    }

    #[test]
    fn opens_up_to_its_limit_and_never_closes_the_basic_channel() {
        let mut channels = channels(4);
        let contact = Interface::Iso7816Contact;
        assert_eq!(channels.open(contact, None, APP), Some(1));
        assert_eq!(channels.open(contact, Some(3), APP), Some(3));
        assert_eq!(channels.open(contact, Some(3), APP), None);
        assert_eq!(channels.open(contact, Some(0), APP), None);
        assert_eq!(channels.open(contact, Some(4), APP), None);
        assert_eq!(channels.open(contact, None, APP), Some(2));
        assert_eq!(channels.open(contact, None, APP), None);
        assert_eq!(channels.selected(at(contact, 2)), APP.entry);
        assert!(channels.close(at(contact, 2)));
        assert!(!channels.close(at(contact, 2)));
        assert!(!channels.close(at(contact, 0)));
        assert_eq!(channels.selected(at(contact, 0)), ISD.entry);
        // Another interface has seen nothing of it.
        assert!(!channels.is_open(at(Interface::Spi, 1)));
        channels.reset(contact, ISD);
        assert!(!channels.is_open(at(contact, 1)));
    }

    #[test]
    fn the_next_occurrence_needs_a_first_one() {
        let mut channels = channels(4);
        let basic = at(Interface::Spi, 0);
        assert_eq!(channels.next_after(basic), None);
        channels.select(basic, APP);
        assert_eq!(channels.next_after(basic), APP.entry);
    }
}
