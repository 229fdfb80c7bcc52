//! What a sensor of the device says, kept in the SE (the seed's figure 6): written in the clear to a file of the file system, from where a server reads it inside a TLS session.

use sekisho_apdu::{Cla, tlv};
use sekisho_transport::{Card, Response, exchange};

use crate::error::AgentError;

/// AID of the file system.
pub const FILE_SYSTEM: [u8; 7] = *b"\xF0SKOS\x04\x01";
/// The longest reading: what one command with short length fields carries, so that a reading is written whole or not at all.
pub const READING_MAX: usize = 255;

/// Tags of an FCP template (ISO/IEC 7816-4, table 12): the template, and the size of a transparent file.
const FCP: u32 = 0x62;
const SIZE: u32 = 0x80;

/// A transparent file that a sensor's readings go to, on a logical channel of its own: what others have selected stays selected.
#[derive(Debug)]
pub struct SensorFile {
    id: [u8; 2],
    /// The class byte of an open channel on which the file is selected, and the file's size.
    open: Option<(u8, usize)>,
    /// The basic channel is somebody's, who has proved a key there: MANAGE CHANNEL, which goes over it, would end that.
    is_held: bool,
}

impl SensorFile {
    /// The file of this identifier, a child of the MF.
    pub const fn new(id: [u8; 2]) -> Self {
        Self {
            id,
            open: None,
            is_held: false,
        }
    }

    /// An update begins, behind the SE's reset: opens a channel for the readings that come meanwhile. None is opened from here on until [`SensorFile::release`].
    pub fn hold(&mut self, card: &mut dyn Card) {
        // Why not, the next reading behind the update says.
        self.open = self.select(card).ok();
        self.is_held = true;
    }

    /// The update is over.
    pub const fn release(&mut self) {
        self.is_held = false;
    }

    /// Writes a reading in the place of the one before; what is left of the file, up to [`READING_MAX`], is filled with zeros. A channel that is closed, as behind a reset of the
    /// SE, is opened again. False when it cannot be for now: an update has the SE.
    ///
    /// # Errors
    /// [`AgentError`]; the next reading begins anew.
    pub fn write(&mut self, card: &mut dyn Card, reading: &[u8]) -> Result<bool, AgentError> {
        let kept = self.open.take();
        let was_open = kept.is_some();
        let (cla, size) = match kept {
            Some(open) => open,
            None if self.is_held => return Ok(false),
            None => self.select(card)?,
        };
        let most = size.min(READING_MAX);
        if reading.len() > most {
            self.open = Some((cla, size));
            return Err(AgentError::Reading {
                bytes: reading.len(),
                limit: most,
            });
        }
        let mut capdu = vec![cla, 0xD6, 0x00, 0x00, u8::try_from(most).unwrap_or(u8::MAX)];
        capdu.extend_from_slice(reading);
        capdu.resize(5 + most, 0x00);
        let response = exchange(card, &capdu)?;
        match response.sw {
            0x9000 => {
                self.open = Some((cla, size));
                Ok(true)
            }
            // The channel, or what was selected on it, is gone.
            0x6881 | 0x6985 | 0x6986 | 0x6D00 | 0x6E00 if was_open => {
                if !self.is_held {
                    close(card, cla);
                }
                self.write(card, reading)
            }
            sw => {
                // It stays open, and is used again.
                self.open = Some((cla, size));
                Err(refused("UPDATE BINARY of the sensor's file", sw))
            }
        }
    }

    /// Opens a channel and selects the file on it.
    fn select(&self, card: &mut dyn Card) -> Result<(u8, usize), AgentError> {
        let opened = good("MANAGE CHANNEL", exchange(card, &[0x00, 0x70, 0x00, 0x00, 0x01])?)?;
        let cla = match opened[..] {
            [channel] => Cla::ISO.with_logical_channel(channel),
            _ => None,
        };
        let cla = cla.ok_or(AgentError::Data("number of a logical channel"))?.0;
        let [a, b, c, d, e, f, g] = FILE_SYSTEM;
        let application = [cla, 0xA4, 0x04, 0x0C, 0x07, a, b, c, d, e, f, g];
        let selected = exchange(card, &application)
            .map_err(AgentError::from)
            .and_then(|response| good("SELECT of the file system", response))
            .and_then(|_| {
                let [high, low] = self.id;
                let file = [cla, 0xA4, 0x02, 0x04, 0x02, high, low, 0x00];
                good("SELECT of the sensor's file", exchange(card, &file)?)
            })
            .and_then(|fcp| size(&fcp).ok_or(AgentError::Data("size of the sensor's file")));
        if selected.is_err() {
            close(card, cla);
        }
        selected.map(|size| (cla, size))
    }
}

/// Closes the channel of a class byte. Whether it was open or not, the next one is another.
fn close(card: &mut dyn Card, cla: u8) {
    let _ = card.transmit(&[0x00, 0x70, 0x80, Cla(cla).logical_channel()]);
}

/// The size that an FCP template says.
fn size(fcp: &[u8]) -> Option<usize> {
    let template = tlv::find(fcp, FCP).ok()??;
    let size = tlv::find(template, SIZE).ok()??;
    let size = u16::from_be_bytes(size.try_into().ok()?);
    Some(usize::from(size)).filter(|size| *size > 0)
}

fn good(command: &'static str, response: Response) -> Result<Vec<u8>, AgentError> {
    match response.sw {
        0x9000 => Ok(response.data),
        sw => Err(refused(command, sw)),
    }
}

const fn refused(command: &'static str, sw: u16) -> AgentError {
    AgentError::Refused { command, sw }
}

#[cfg(test)]
mod tests {
    use sekisho_transport::{InProcessCard, Request};

    use super::*;

    /// A file system with one file of `size` bytes, which anybody may write, on one channel.
    #[derive(Default)]
    struct Se {
        open: bool,
        is_selected: bool,
        size: u8,
        content: Vec<u8>,
        update: u16,
        commands: usize,
    }

    impl Se {
        fn answer(&mut self, command: &[u8]) -> Vec<u8> {
            self.commands += 1;
            let sw = |sw: u16| sw.to_be_bytes().to_vec();
            match (command, self.open) {
                ([0, 0x70, 0, 0, 1], false) => {
                    (self.open, self.is_selected) = (true, false);
                    vec![2, 0x90, 0]
                }
                ([0, 0x70, 0x80, 2], _) => {
                    self.open = false;
                    sw(0x9000)
                }
                ([2, 0xA4, 4, ..], true) => sw(0x9000),
                ([2, 0xA4, 2, 4, 2, 0, 0x15, 0], true) => {
                    self.is_selected = true;
                    [&[0x62, 7, 0x82, 1, 1, 0x80, 2, 0, self.size][..], &[0x90, 0]].concat()
                }
                ([2, 0xA4, 2, ..], true) => sw(0x6A82),
                ([2, 0xD6, 0, 0, _, data @ ..], true) if self.is_selected => {
                    if self.update == 0x9000 {
                        self.content = data.to_vec();
                    }
                    sw(self.update)
                }
                ([2, ..], false) => sw(0x6881),
                _ => sw(0x6986),
            }
        }
    }

    fn write(se: &mut Se, file: &mut SensorFile, reading: &[u8]) -> Result<bool, String> {
        let mut card = InProcessCard::new(|request: Request<'_>| match request {
            Request::Command(command) => Ok(se.answer(command)),
            Request::Reset => Ok(vec![]),
        });
        file.write(&mut card, reading).map_err(|error| error.to_string())
    }

    #[test]
    fn a_reading_takes_the_place_of_the_one_before_and_one_command() {
        let mut se = Se {
            size: 8,
            update: 0x9000,
            ..Se::default()
        };
        let mut file = SensorFile::new([0, 0x15]);
        assert_eq!(write(&mut se, &mut file, b"21.5 C"), Ok(true));
        assert_eq!((&se.content[..], se.commands), (&b"21.5 C\0\0"[..], 4));
        assert_eq!(write(&mut se, &mut file, b"9"), Ok(true));
        assert_eq!((&se.content[..], se.commands), (&b"9\0\0\0\0\0\0\0"[..], 5));
        // A reset in between, and another's selection on the channel.
        for (open, is_selected) in [(false, false), (true, false)] {
            (se.open, se.is_selected) = (open, is_selected);
            assert_eq!(write(&mut se, &mut file, b"10"), Ok(true));
            assert_eq!(se.content, b"10\0\0\0\0\0\0");
        }
    }

    #[test]
    fn what_cannot_be_written_says_why_and_leaves_no_channel_behind() {
        let mut se = Se {
            size: 8,
            update: 0x6982,
            ..Se::default()
        };
        let mut file = SensorFile::new([0, 0x15]);
        let said = write(&mut se, &mut file, b"123456789").unwrap_err();
        assert!(said.contains("9 bytes") && said.contains("takes 8"), "{said}");
        let said = write(&mut se, &mut file, b"1").unwrap_err();
        assert!(said.contains("UPDATE BINARY") && said.contains("6982"), "{said}");
        let commands = se.commands;
        write(&mut se, &mut file, b"1").unwrap_err();
        assert_eq!(se.commands, commands + 1, "the channel stays");
        se.open = false;
        let mut other = SensorFile::new([0, 0x16]);
        assert!(write(&mut se, &mut other, b"1").unwrap_err().contains("6A82"));
        assert!(!se.open);
        se.size = 0;
        let mut empty = SensorFile::new([0, 0x15]);
        assert!(write(&mut se, &mut empty, b"1").unwrap_err().contains("size"));
        assert!(!se.open);
    }

    /// Over the basic channel goes nothing while somebody else has proved a key there.
    #[test]
    fn an_update_is_not_disturbed() {
        let mut se = Se {
            size: 8,
            update: 0x9000,
            ..Se::default()
        };
        let mut file = SensorFile::new([0, 0x15]);
        file.hold(&mut InProcessCard::new(|request: Request<'_>| match request {
            Request::Command(command) => Ok(se.answer(command)),
            Request::Reset => Ok(vec![]),
        }));
        assert_eq!(write(&mut se, &mut file, b"1"), Ok(true));
        // The SE is reset in the middle of it: what is written waits, and asks nothing.
        se.open = false;
        assert_eq!(write(&mut se, &mut file, b"2"), Ok(false));
        let commands = se.commands;
        assert_eq!(write(&mut se, &mut file, b"2"), Ok(false));
        assert_eq!((se.commands, se.content[0]), (commands, b'1'));
        file.release();
        assert_eq!(write(&mut se, &mut file, b"2"), Ok(true));
        assert_eq!(se.content[0], b'2');
    }
}
