//! Command protection as the host adds it (6.2.4, 6.2.6).

use sekisho_apdu::{CApdu, Cla, Writer};
use sekisho_keys::{AesKey, cbc_encrypt_counted, cmac};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{MacChainingValue, MacMode, ScpError};

#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct CommandWrapper {
    pub(super) enc: AesKey,
    pub(super) mac: AesKey,
    #[zeroize(skip)]
    pub(super) mode: MacMode,
    pub(super) chaining: MacChainingValue,
    /// The encryption counter of the next command.
    pub(super) counter: u64,
}

impl CommandWrapper {
    /// Appends `command` with a C-MAC, its data field enciphered first if `encrypt`. Counters move only when all of it is written.
    pub(super) fn wrap(
        &mut self,
        command: &CApdu<'_>,
        encrypt: bool,
        out: &mut Writer<'_>,
    ) -> Result<(), ScpError> {
        let start = out.len();
        match self.wrap_parts(command, encrypt, out) {
            Ok(chaining) => {
                self.chaining = chaining;
                self.counter = self.counter.saturating_add(1);
                Ok(())
            }
            Err(error) => {
                out.truncate(start);
                Err(error)
            }
        }
    }

    fn wrap_parts(
        &self,
        command: &CApdu<'_>,
        encrypt: bool,
        out: &mut Writer<'_>,
    ) -> Result<MacChainingValue, ScpError> {
        // The card counts on after the last value too, and could not.
        if self.counter == u64::MAX {
            return Err(ScpError::CounterExhausted);
        }
        let padding = if encrypt && !command.data.is_empty() {
            16 - command.data.len() % 16
        } else {
            0
        };
        let lc =
            u16::try_from(command.data.len() + padding + self.mode.size()).map_err(|_| ScpError::Length)?;
        let extended = command.extended || lc > 0xFF || command.ne.is_some_and(|ne| ne > 0x100);

        let cla = command.cla.with_secure_messaging(true);
        // GlobalPlatform's class with chaining on channel 19 would become FF, which is no class byte.
        if !cla.is_supported() {
            return Err(ScpError::Parameter);
        }
        // The length field and the data field, as they are sent, are what the C-MAC covers.
        out.bytes(&[cla.0, command.ins, command.p1, command.p2])?;
        let mac_from = out.len();
        let [high, low] = lc.to_be_bytes();
        if extended {
            out.bytes(&[0x00, high, low])?
        } else {
            out.u8(low)?
        }
        let data_from = out.len();
        out.bytes(command.data)?;
        for i in 0..padding {
            out.u8(if i == 0 { 0x80 } else { 0x00 })?;
        }
        if encrypt {
            let data = out.written_mut().get_mut(data_from..).ok_or(ScpError::Length)?;
            cbc_encrypt_counted(&self.enc, &u128::from(self.counter).to_be_bytes(), data)?;
        }
        let covered = out.written().get(mac_from..).ok_or(ScpError::Length)?;
        let header = [under_mac(command.cla)?.0, command.ins, command.p1, command.p2];
        let c_mac = cmac(&self.mac, &[&self.chaining, &header, covered]);
        out.bytes(c_mac.get(..self.mode.size()).ok_or(ScpError::Length)?)?;
        write_le(command.ne, extended, out)?;
        Ok(c_mac)
    }
}

/// The class byte in the C-MAC: as on the basic logical channel, which is no part of the protection (6.2.4).
fn under_mac(cla: Cla) -> Result<Cla, ScpError> {
    Ok(cla
        .with_logical_channel(0)
        .ok_or(ScpError::Parameter)?
        .with_secure_messaging(true))
}

fn write_le(ne: Option<u32>, extended: bool, out: &mut Writer<'_>) -> Result<(), ScpError> {
    let Some(ne) = ne else { return Ok(()) };
    if ne == 0 || ne > 0x1_0000 {
        return Err(ScpError::Length);
    }
    // 256 and 65536 are coded as zero.
    let [.., high, low] = ne.to_be_bytes();
    if extended {
        out.bytes(&[high, low])?
    } else {
        out.u8(low)?
    }
    Ok(())
}
