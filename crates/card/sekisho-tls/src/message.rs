//! How long a server's messages of a handshake say that they are.

use sekisho_bridge::MESSAGE_HEADER;

use crate::Alert;
use crate::engine::HANDSHAKE_MAX;

/// Where the server's messages in the clear begin and end.
#[derive(Default)]
pub(crate) struct Message {
    header: [u8; MESSAGE_HEADER],
    have: usize,
    /// Bytes of the body that are still to come.
    left: usize,
}

impl Message {
    /// Looks at the content of a record: no message is longer than all records of a handshake may be.
    pub(crate) fn look(&mut self, content: &[u8]) -> Result<(), Alert> {
        let mut bytes = content;
        while let [next, behind @ ..] = bytes {
            if self.left > 0 {
                let body = self.left.min(bytes.len());
                self.left -= body;
                bytes = bytes.get(body..).unwrap_or_default();
                continue;
            }
            if let Some(to) = self.header.get_mut(self.have) {
                *to = *next;
            }
            self.have += 1;
            bytes = behind;
            if self.have == MESSAGE_HEADER {
                let [_, a, b, c] = self.header;
                self.have = 0;
                self.left = u32::from_be_bytes([0, a, b, c]) as usize;
            }
            if self.left > HANDSHAKE_MAX {
                return Err(Alert::INTERNAL_ERROR);
            }
        }
        Ok(())
    }
}
