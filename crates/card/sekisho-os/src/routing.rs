//! The routing agent (seed 2; `docs/spec/routing.md`): which container answers to a name on a protocol.

use sekisho_apdu::gp::{CardLifeCycle, Privileges};
use sekisho_apdu::{Aid, PartialAid};

use crate::channels::{Channels, Selected};
use crate::container::{Container, ContainerMemory, ContainerParts};
use crate::interface::{ContainerId, Interface, Place};
use crate::names::EntryId;
use crate::pairing::{Row, Rule};
use crate::registry::{Entry, ISD_INDEX};

/// Whether a name is a common identifier: one of the common AIDs or the beginning of one. What names nothing means the root of whichever container is
/// paired.
fn is_common(common: &[Aid], name: &PartialAid) -> bool {
    name.as_bytes().is_empty() || common.iter().any(|aid| aid.matches_partial(name))
}

impl Container {
    /// What is selected on an interface where nothing has been yet: the application that is selected there without being named, else the one with the privilege Card Reset, else the issuer
    /// security domain (GPC 6.4.1.1).
    pub(crate) fn default_application(&self, interface: Interface) -> Selected {
        let its = |(index, entry): &(u8, &Entry)| {
            *index != ISD_INDEX && entry.privileges.contains(Privileges::CARD_RESET)
        };
        let chosen = self.registry.applications().find(its);
        let place = Place {
            interface,
            logical_channel: 0,
        };
        let usable = || self.usable_on(chosen?.1.id, place).map(|entry| entry.id);
        let entry = self.implicit(place).or_else(usable).or(self.root());
        Selected {
            container: self.id,
            entry,
        }
    }

    /// The application that is selected at a place without being named, if it can be selected there.
    pub(crate) fn implicit(&self, place: Place) -> Option<EntryId> {
        let chosen = self.registry.implicit(place)?;
        self.usable_on(chosen.id, place).map(|entry| entry.id)
    }

    /// The entry under the name that it goes by on a protocol: a root that has another AID than the common one has that where another root is paired.
    pub(crate) fn named(&self, entry: &Entry, row: Row) -> Entry {
        let own = self
            .registry
            .root_name()
            .filter(|_| self.root() == Some(entry.id));
        let own = own.filter(|_| row.container != self.id);
        Entry {
            aid: own.unwrap_or(entry.aid),
            ..*entry
        }
    }
}

/// How many containers of a table have been made: they have the numbers from 1 on.
pub(crate) fn made(table: &impl ContainerMemory) -> u8 {
    let made = (1..).zip(table.all());
    let made = made.filter(|(number, container)| container.id.number() == *number);
    made.map(|(number, _)| number).last().unwrap_or(0)
}

impl<C: ContainerMemory> ContainerParts<C> {
    /// What is selected on an interface that has just been switched on.
    pub(crate) fn first(&self, interface: Interface) -> Selected {
        let row = self.pairing.rows.row(interface.default_protocol());
        let paired = row.map_or(ContainerId::ESE, |row| row.container);
        self.get(paired).default_application(interface)
    }

    /// The row of what an interface speaks.
    pub(crate) fn row(&self, channels: &Channels, interface: Interface) -> Row {
        let spoken = self.pairing.rows.row(channels.protocol(interface));
        // An interface speaks nothing without a row.
        spoken.unwrap_or(Row::all(ContainerId(0)))
    }

    /// How many containers have been made: they have the numbers from 1 on.
    pub(crate) fn made(&self) -> u8 {
        made(&self.table)
    }

    /// The container that answers where nothing has been selected yet.
    pub(crate) fn paired(&self, channels: &Channels, interface: Interface) -> &Container {
        self.get(self.row(channels, interface).container)
    }

    /// The container of what is selected on a logical channel.
    pub(crate) fn at(&self, channels: &Channels, place: Place) -> &Container {
        self.get(channels.container(place))
    }

    /// What a name means at a place: in the paired container first; elsewhere only where the row and the name allow it, where nobody in the paired one has that name, and if exactly
    /// one application that can be selected has it. Nothing but RAM is read, whatever is found.
    pub(crate) fn find(
        &self,
        (row, common): (Row, &[Aid]),
        name: &PartialAid,
        place: Place,
    ) -> Option<(ContainerId, Entry)> {
        let paired = self.get(row.container);
        let found = match name.as_bytes() {
            [] => paired.registry.get(ISD_INDEX),
            _ => paired.registry.find(name, None, place),
        };
        if let Some(entry) = found {
            return Some((paired.id, *entry));
        }
        // Who has the name there and cannot be selected, locked or closed or not yet selectable, has it all the same.
        let mut has_it = paired.registry.applications();
        if row.rule == Rule::All
            || is_common(common, name)
            || has_it.any(|(index, entry)| paired.registry.is_named(index, entry, name))
        {
            return None;
        }
        let is_open =
            |other: &&Container| other.id != paired.id && other.card.life_cycle < CardLifeCycle::CardLocked;
        let elsewhere = self.table.all().iter().filter(is_open);
        let mut all = elsewhere.flat_map(|other| {
            let its = other.registry.matching(name, place);
            its.map(move |(_, entry)| (other.id, *entry))
        });
        let only = all.next();
        only.filter(|_| all.next().is_none())
    }
}
