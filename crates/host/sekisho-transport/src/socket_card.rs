//! A secure element that listens on a TCP port.

use core::time::Duration;

use crate::card::Card;
use crate::error::{TransportError, sound_command, sound_response};
use crate::frame::{Control, REFUSED};
use crate::stream::{Framed, connect};

/// A secure element behind a TCP port, in the role of its reader. Framing: [`crate::frame`].
pub struct SocketCard {
    address: String,
    timeout: Duration,
    connection: Option<Framed>,
    /// The connection after an answer that did not come in time: for [`Card::transmit_again`] alone.
    silent: Option<Framed>,
    /// Whether answers may come that nobody waits for any more.
    owed: bool,
}

impl SocketCard {
    /// Connects to `host:port` and powers the SE on. `timeout` bounds connecting and each answer.
    ///
    /// # Errors
    /// When nobody listens there, or no answer to reset comes.
    pub fn open(address: &str, timeout: Duration) -> Result<Self, TransportError> {
        let mut card = Self {
            address: address.to_owned(),
            timeout,
            connection: None,
            silent: None,
            owed: false,
        };
        card.reset()?;
        Ok(card)
    }

    /// Sends one frame and takes one; any failure gives the connection up, as a late answer would be taken for the next command's. After silence it
    /// is kept for [`Card::transmit_again`].
    fn ask(&mut self, body: &[u8]) -> Result<Vec<u8>, TransportError> {
        let mut connection = self.connection.take().ok_or(TransportError::GivenUp)?;
        if self.owed {
            connection.discard_arrived()?;
        }
        connection.send(body)?;
        let Some(answer) = connection.receive()? else {
            (self.silent, self.owed) = (Some(connection), true);
            return Err(TransportError::Timeout);
        };
        self.connection = Some(connection);
        Ok(answer)
    }

    fn warm_reset(&mut self) -> Result<Vec<u8>, TransportError> {
        let connection = self.connection.as_mut().ok_or(TransportError::GivenUp)?;
        connection.send(&[Control::Reset as u8])?;
        self.ask_atr()
    }

    fn power_on(&mut self) -> Result<Vec<u8>, TransportError> {
        let mut connection = Framed::new(connect(&self.address, self.timeout)?, self.timeout, self.timeout)?;
        connection.send(&[Control::On as u8])?;
        (self.connection, self.owed) = (Some(connection), false);
        self.ask_atr()
    }

    fn ask_atr(&mut self) -> Result<Vec<u8>, TransportError> {
        let atr = self.ask(&[Control::GetAtr as u8])?;
        let Some(why) = atr.strip_prefix(REFUSED.as_bytes()) else {
            return Ok(atr);
        };
        self.connection = None;
        Err(TransportError::Refused(
            String::from_utf8_lossy(why).trim_end().to_owned(),
        ))
    }
}

impl Card for SocketCard {
    fn transmit(&mut self, capdu: &[u8]) -> Result<Vec<u8>, TransportError> {
        sound_command(capdu)?;
        sound_response(self.ask(capdu)?)
    }

    fn transmit_again(&mut self, capdu: &[u8]) -> Result<Vec<u8>, TransportError> {
        if let Some(connection) = self.silent.take() {
            self.connection = Some(connection);
        }
        self.transmit(capdu)
    }

    fn reset(&mut self) -> Result<Vec<u8>, TransportError> {
        // A silent connection is closed first: the SE may serve one reader at a time.
        self.silent = None;
        match self.warm_reset() {
            Ok(atr) => Ok(atr),
            Err(_) => self.power_on(),
        }
    }
}

impl Drop for SocketCard {
    fn drop(&mut self) {
        if let Some(connection) = &mut self.connection {
            // The SE also takes the end of the connection as power off.
            let _ = connection.send(&[Control::Off as u8]);
        }
    }
}
