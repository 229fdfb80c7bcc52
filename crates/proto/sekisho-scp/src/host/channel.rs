//! A secure channel seen from the host.

use core::fmt;

use sekisho_apdu::gp::ins;
use sekisho_apdu::{ApduError, CApdu, Cla, DecodeError, RApdu, Reader, StatusWord, Writer};
use sekisho_keys::{AesKey, cbc_decrypt_counted, cmac, ct_eq, unpad80};

use super::command::CommandWrapper;
use super::session_keys::{Challenge, Cryptogram, SessionKeys};
use crate::{MacMode, ScpError, ScpParameter, SecurityLevel};

/// The response data field of INITIALIZE UPDATE (Table 7-2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitializeUpdateResponse {
    /// Key diversification data.
    pub kdd: [u8; 10],
    /// Key version number of the keys that the card chose.
    pub kvn: u8,
    /// Parameter "i".
    pub i: ScpParameter,
    /// Card challenge.
    pub card_challenge: Challenge,
    /// Card cryptogram: compare it with [`SessionKeys::card_cryptogram`] before anything else.
    pub card_cryptogram: Cryptogram,
    /// Sequence counter, with a pseudo-random card challenge.
    pub sequence_counter: Option<u32>,
}

impl InitializeUpdateResponse {
    /// Reads the response data field (without the status word).
    ///
    /// # Errors
    /// [`ScpError::Length`]; [`ScpError::Parameter`] when it is not SCP03's.
    pub fn parse(data: &[u8]) -> Result<Self, ScpError> {
        let short = |_: DecodeError| ScpError::Length;
        let mut reader = Reader::new(data);
        let kdd = reader.array().map_err(short)?;
        let [kvn, scp, i] = reader.array().map_err(short)?;
        let (0x03, Some(i)) = (scp, ScpParameter::new(i)) else {
            return Err(ScpError::Parameter);
        };
        let len = i.mac_mode().size();
        let card_challenge = Challenge::try_from(reader.take(len).map_err(short)?)?;
        let card_cryptogram = Cryptogram::try_from(reader.take(len).map_err(short)?)?;
        let sequence_counter = if i.pseudo_random() {
            Some(reader.u24().map_err(short)?)
        } else {
            None
        };
        reader.finish().map_err(short)?;
        Ok(Self {
            kdd,
            kvn,
            i,
            card_challenge,
            card_cryptogram,
            sequence_counter,
        })
    }
}

/// A secure channel seen from the host. Whole scripts can be wrapped without a card, as long as no response is to be unwrapped between.
pub struct HostChannel {
    level: Option<SecurityLevel>,
    /// `None` when closed.
    keys: Option<(CommandWrapper, AesKey)>,
}

impl fmt::Debug for HostChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostChannel")
            .field("level", &self.level)
            .field("open", &self.keys.is_some())
            .finish_non_exhaustive()
    }
}

impl HostChannel {
    /// A channel before EXTERNAL AUTHENTICATE.
    pub fn new(keys: SessionKeys, mode: MacMode) -> Self {
        // The counter of EXTERNAL AUTHENTICATE does not exist; zero makes that of the command after it 1 (6.2.6).
        let SessionKeys { s_enc, s_mac, s_rmac } = keys;
        let command = CommandWrapper {
            enc: s_enc,
            mac: s_mac,
            mode,
            chaining: [0; 16],
            counter: 0,
        };
        Self {
            level: None,
            keys: Some((command, s_rmac)),
        }
    }

    /// Appends EXTERNAL AUTHENTICATE for `level` to `out`.
    ///
    /// # Errors
    /// [`ScpError::Sequence`] when it was already made; [`ScpError::Length`] for a cryptogram of the other mode; [`ScpError::BufferFull`].
    pub fn external_authenticate(
        &mut self,
        level: SecurityLevel,
        host_cryptogram: &Cryptogram,
        out: &mut Writer<'_>,
    ) -> Result<(), ScpError> {
        if self.level.is_some() {
            return Err(ScpError::Sequence);
        }
        let (command, _) = self.keys.as_mut().ok_or(ScpError::Closed)?;
        if host_cryptogram.as_bytes().len() != command.mode.size() {
            return Err(ScpError::Length);
        }
        let capdu = CApdu::new(Cla::GP, ins::EXTERNAL_AUTHENTICATE, level.p1(), 0x00)
            .with_data(host_cryptogram.as_bytes());
        command.wrap(&capdu, false, out)?;
        self.level = Some(level);
        Ok(())
    }

    /// Appends a command to `out`, protected as the level says.
    ///
    /// # Errors
    /// [`ScpError::Sequence`] before EXTERNAL AUTHENTICATE; [`ScpError::Parameter`] for a class byte that cannot say secure messaging; [`ScpError::Length`] for data that no length field can say;
    /// [`ScpError::BufferFull`], [`ScpError::CounterExhausted`], [`ScpError::Closed`]. Nothing is written then, and the command may be
    /// tried again.
    pub fn wrap(&mut self, capdu: &CApdu<'_>, out: &mut Writer<'_>) -> Result<(), ScpError> {
        let level = self.level.ok_or(ScpError::Sequence)?;
        let (command, _) = self.keys.as_mut().ok_or(ScpError::Closed)?;
        if !level.c_mac() {
            return Ok(capdu.encode(out)?);
        }
        command.wrap(capdu, level.c_decryption(), out)
    }

    /// Verifies and decrypts the response to the command that was wrapped last; its data field is copied to `out`, which takes as many bytes as
    /// the response has.
    ///
    /// # Errors
    /// [`ScpError::Mac`] for a wrong or missing R-MAC, and for data beside an error status word, which nothing protects;
    /// [`ScpError::Padding`], [`ScpError::Length`], [`ScpError::BufferFull`]. After any of them the channel is closed.
    pub fn unwrap_response<'b>(&mut self, rapdu: &[u8], out: &'b mut [u8]) -> Result<RApdu<'b>, ScpError> {
        let done = self.try_unwrap_response(rapdu, out);
        if done.is_err() {
            self.keys = None;
        }
        done
    }

    fn try_unwrap_response<'b>(&self, rapdu: &[u8], out: &'b mut [u8]) -> Result<RApdu<'b>, ScpError> {
        let level = self.level.ok_or(ScpError::Sequence)?;
        let (command, s_rmac) = self.keys.as_ref().ok_or(ScpError::Closed)?;
        let response = RApdu::parse(rapdu).map_err(|_: ApduError| ScpError::Length)?;
        let mut field = response.data;
        if level.r_mac() {
            if !response.sw.is_success_or_warning() {
                return if field.is_empty() {
                    Ok(RApdu {
                        data: &[],
                        sw: response.sw,
                    })
                } else {
                    Err(ScpError::Mac)
                };
            }
            field = verify_r_mac(command, s_rmac, field, response.sw)?;
        }
        let out = out.get_mut(..field.len()).ok_or(ScpError::BufferFull)?;
        out.copy_from_slice(field);
        if !level.r_encryption() || out.is_empty() {
            return Ok(RApdu {
                data: out,
                sw: response.sw,
            });
        }
        // The counter has moved on to the next command since.
        let mut icv = u128::from(command.counter.saturating_sub(1)).to_be_bytes();
        if let Some(first) = icv.first_mut() {
            *first = 0x80;
        }
        cbc_decrypt_counted(&command.enc, &icv, out)?;
        Ok(RApdu {
            data: unpad80(out)?,
            sw: response.sw,
        })
    }
}

/// The data field in front of the R-MAC, once the R-MAC is right (6.2.5).
fn verify_r_mac<'a>(
    command: &CommandWrapper,
    s_rmac: &AesKey,
    field: &'a [u8],
    sw: StatusWord,
) -> Result<&'a [u8], ScpError> {
    let len = field
        .len()
        .checked_sub(command.mode.size())
        .ok_or(ScpError::Mac)?;
    let (data, r_mac) = field.split_at_checked(len).ok_or(ScpError::Mac)?;
    let expected = cmac(s_rmac, &[&command.chaining, data, &sw.bytes()]);
    if ct_eq(expected.get(..r_mac.len()).unwrap_or_default(), r_mac) {
        Ok(data)
    } else {
        Err(ScpError::Mac)
    }
}
