//! The commands that the operating system itself processes: SELECT by name and MANAGE CHANNEL (GPC 6.4).

use sekisho_apdu::gp::{CardLifeCycle, Privileges, ins};
use sekisho_apdu::{CApdu, PartialAid, SecureMessaging, StatusWord, Writer};

use crate::application::{Applications, Effects, Protection};
use crate::call::Caller;
use crate::channels::Selected;
use crate::dispatch::Called;
use crate::interface::{ContainerId, Place};
use crate::nvm::Staged;
use crate::pairing::Row;
use crate::profile::Profile;
use crate::refusal::{Outcome, Refusal};
use crate::registry::{Entry, ISD_INDEX, Instance, answers};
use crate::state::{Core, Platform};

/// P1 of SELECT: by name (GPC Table 11-80).
const BY_NAME: u8 = 0x04;
/// P2 of SELECT: the occurrence, in bits 1 and 2 (GPC Table 11-81).
const FIRST: u8 = 0x00;
const NEXT: u8 = 0x02;
/// P2 of SELECT: what is answered, in bits 3 and 4; this value: nothing (ISO/IEC 7816-4, Table 63).
const NO_RESPONSE_DATA: u8 = 0x0C;

/// P1 of MANAGE CHANNEL (GPC 11.7.2.1).
const OPEN: u8 = 0x00;
const CLOSE: u8 = 0x80;
/// 6200: the logical channel was closed already (GPC Table 11-62).
const ALREADY_CLOSED: StatusWord = StatusWord(0x6200);

/// Whether the command is SELECT by name, which the operating system processes; other ways of selection are the application's.
pub(crate) const fn is_by_name(command: &CApdu<'_>) -> bool {
    command.ins == ins::SELECT && !command.cla.proprietary() && command.p1 == BY_NAME
}

const fn not_found() -> Refusal {
    Refusal(StatusWord::FILE_NOT_FOUND)
}

const fn not_supported() -> Refusal {
    Refusal(StatusWord::FUNCTION_NOT_SUPPORTED)
}

fn in_the_clear(command: &CApdu<'_>) -> Result<(), Refusal> {
    match command.cla.secure_messaging() {
        SecureMessaging::None => Ok(()),
        _ => Err(Refusal(StatusWord::SECURE_MESSAGING_NOT_SUPPORTED)),
    }
}

impl<P: Platform> Core<P> {
    /// SELECT by name. A search that finds nothing disturbs nothing.
    #[inline(never)]
    pub(crate) fn select(
        &mut self,
        place: Place,
        command: &CApdu<'_>,
        staged: &mut Staged,
        out: &mut Writer<'_>,
    ) -> Outcome {
        in_the_clear(command)?;
        let present = self.interfaces.channels.container(place);
        let row = self.containers.row(&self.interfaces.channels, place.interface);
        #[cfg(feature = "tls")]
        let row = self.row_inside(place, row);
        let (found, meant) = match self.search(place, row, command) {
            #[cfg(feature = "tls")]
            Ok((container, entry)) if !self.may_reach(place, container, &entry.aid) => {
                (Err(not_found()), present)
            }
            Ok((container, entry)) => (Ok(entry), container),
            Err(refusal) if command.p2 & !NO_RESPONSE_DATA == NEXT => (Err(refusal), present),
            Err(refusal) => (Err(refusal), row.container),
        };
        let life_cycle = self.containers.get(meant).card.life_cycle;
        if life_cycle >= CardLifeCycle::CardLocked && place.logical_channel != 0 && meant == present {
            self.close(place);
            return Err(not_supported());
        }
        if life_cycle == CardLifeCycle::Terminated
            || life_cycle == CardLifeCycle::CardLocked && place.logical_channel != 0
        {
            return Err(not_supported());
        }
        let entry = match found {
            Err(refusal) if refusal == not_found() => {
                self.leave_locked(place, command);
                return Err(refusal);
            }
            found => found?,
        };
        if life_cycle == CardLifeCycle::CardLocked
            && !entry.privileges.contains(Privileges::FINAL_APPLICATION)
        {
            return Err(not_supported());
        }
        self.fci(place, (meant, row), &entry, staged, out)?;
        if command.p2 & NO_RESPONSE_DATA == NO_RESPONSE_DATA {
            out.truncate(0);
        }
        self.change(
            place,
            Selected {
                container: meant,
                entry: Some(entry.id),
            },
        );
        Ok(if life_cycle == CardLifeCycle::CardLocked {
            StatusWord::CARD_LOCKED_WARNING
        } else {
            StatusWord::NO_ERROR
        })
    }

    /// Finds the application that SELECT means (GPC 6.4.2.1.2), and its container: the next occurrence is in that of the one before.
    fn search(&self, place: Place, row: Row, command: &CApdu<'_>) -> Result<(ContainerId, Entry), Refusal> {
        let channels = &self.interfaces.channels;
        let present = self.containers.at(channels, place);
        let after = match command.p2 & !NO_RESPONSE_DATA {
            FIRST => None,
            NEXT => {
                let before = channels.next_after(place).ok_or(not_found())?;
                Some(present.registry.entry(before).ok_or(not_found())?.0)
            }
            _ => return Err(Refusal(StatusWord::INCORRECT_P1P2)),
        };
        let name = PartialAid::try_from(command.data).map_err(|_| Refusal(StatusWord::WRONG_LENGTH))?;
        match after {
            None => {
                let common = Profile::or_default(&self.platform.profile).common;
                self.containers.find((row, common), &name, place)
            }
            Some(after) => {
                let found = match command.data {
                    [] => present.registry.get(ISD_INDEX),
                    _ => present.registry.find(&name, Some(after), place),
                };
                found.map(|entry| (present.id, *entry))
            }
        }
        .ok_or(not_found())
    }

    /// An application that was locked, or closed here, while it was selected is not to stay so when it is asked for again.
    fn leave_locked(&mut self, place: Place, command: &CApdu<'_>) {
        let channels = &self.interfaces.channels;
        let registry = &self.containers.at(channels, place).registry;
        let selected = channels.selected(place).and_then(|id| registry.entry(id));
        let name = PartialAid::try_from(command.data).ok();
        let is_asked_for = |entry: &Entry| name.is_some_and(|name| entry.aid.matches_partial(&name));
        let stays = |index, entry: &Entry| entry.is_selectable() && answers(index, entry, place.interface);
        if selected.is_some_and(|(index, entry)| !stays(index, entry) && is_asked_for(entry)) {
            self.change(place, self.root(place));
        }
    }

    /// Writes the FCI of an application.
    fn fci(
        &mut self,
        place: Place,
        (container, row): (ContainerId, Row),
        entry: &Entry,
        staged: &mut Staged,
        out: &mut Writer<'_>,
    ) -> Outcome {
        let mut effects = Effects::default();
        let entry = &self.containers.get(container).named(entry, row);
        let called = Called {
            container,
            place,
            caller: Caller::Interface(place),
            entry,
            protection: Protection::None,
            pieces: false,
        };
        let (applications, mut context) = self.context(called, staged, &mut effects, None);
        let application = applications
            .get(entry.module, context.instance())
            .ok_or(Refusal(StatusWord::APPLET_SELECT_FAILED))?;
        let outcome = application.select(&mut context, out);
        // Selecting writes nothing.
        staged.clear();
        outcome
    }

    /// Tells the application that is selected at a place, and those that it has called, that their sessions there have ended.
    pub(crate) fn deselect(&mut self, place: Place) {
        let channels = &self.interfaces.channels;
        let container = self.containers.at(channels, place);
        let selected = channels
            .selected(place)
            .and_then(|id| container.registry.entry(id));
        let called = channels
            .called(place)
            .filter_map(|index| container.registry.get(index));
        for entry in selected.map(|(_, entry)| entry).into_iter().chain(called) {
            let instance = Instance {
                container: container.id,
                entry: entry.id,
            };
            if let Some(application) = self.platform.applications.get(entry.module, instance) {
                application.deselect(place);
            }
        }
    }

    /// Ends the application session of a place and begins one with another application, or with the same.
    pub(crate) fn change(&mut self, place: Place, application: Selected) {
        self.end_secure(|p| p == place);
        self.deselect(place);
        self.interfaces.channels.select(place, application);
    }

    /// Ends the application session of a place and begins another with the same application.
    pub(crate) fn renew(&mut self, place: Place) {
        self.deselect(place);
        self.interfaces.channels.renew(place);
    }

    /// The issuer security domain of the container that is selected at a place; inside a TLS session nothing, since not every peer reaches it.
    pub(crate) fn root(&self, place: Place) -> Selected {
        let container = self.containers.at(&self.interfaces.channels, place);
        Selected {
            container: container.id,
            entry: container.root().filter(|_| !place.is_inside()),
        }
    }

    /// MANAGE CHANNEL (GPC 11.7).
    #[inline(never)]
    pub(crate) fn manage_channel(
        &mut self,
        place: Place,
        command: &CApdu<'_>,
        out: &mut Writer<'_>,
    ) -> Outcome {
        in_the_clear(command)?;
        if !command.data.is_empty() {
            return Err(Refusal(StatusWord::WRONG_LENGTH));
        }
        let container = self.containers.at(&self.interfaces.channels, place);
        if container.card.life_cycle >= CardLifeCycle::CardLocked {
            return Err(not_supported());
        }
        match (command.p1, command.p2) {
            (OPEN, wanted) => {
                let number = self.open(place, wanted)?;
                if wanted == 0 {
                    out.u8(number).inspect_err(|_| {
                        self.interfaces.channels.close(place.on(number));
                    })?;
                }
                Ok(StatusWord::NO_ERROR)
            }
            // P2 = 00: the logical channel on which the command came (ISO/IEC 7816-4, 11.1.2).
            (CLOSE, 0) => self.close_number(place, place.logical_channel),
            (CLOSE, number) => self.close_number(place, number),
            _ => Err(Refusal(StatusWord::INCORRECT_P1P2)),
        }
    }

    /// Opens a logical channel, in the container that is selected on the one on which the command came: from the basic one with the application that is selected there without being named, else
    /// its issuer security domain, from another with that one's application.
    fn open(&mut self, place: Place, wanted: u8) -> Result<u8, Refusal> {
        if wanted != 0 && !self.interfaces.channels.is_supplementary(wanted) {
            return Err(Refusal(StatusWord::INCORRECT_P1P2));
        }
        let root = self.root(place);
        let selected = match place.logical_channel {
            0 => root,
            _ => Selected {
                entry: self.interfaces.channels.selected(place).or(root.entry),
                ..root
            },
        };
        let channels = &mut self.interfaces.channels;
        let wanted = Some(wanted).filter(|n| *n != 0);
        let number = channels
            .open(place.interface, wanted, selected)
            .ok_or(not_supported())?;
        let new = place.on(number);
        if place.logical_channel == 0
            && let Some(entry) = self.containers.get(root.container).implicit(new)
        {
            let entry = Some(entry);
            self.interfaces.channels.select(new, Selected { entry, ..root });
        }
        Ok(number)
    }

    fn close_number(&mut self, place: Place, number: u8) -> Outcome {
        if !self.interfaces.channels.is_supplementary(number) {
            return Err(Refusal(StatusWord::INCORRECT_P1P2));
        }
        let closed = self.close(Place {
            logical_channel: number,
            ..place
        });
        Ok(if closed {
            StatusWord::NO_ERROR
        } else {
            ALREADY_CLOSED
        })
    }

    fn close(&mut self, place: Place) -> bool {
        #[cfg(feature = "tls")]
        self.end_tls(|p| p == place);
        self.end_secure(|p| p == place);
        self.deselect(place);
        self.interfaces.channels.close(place)
    }
}
