//! The data field of INSTALL (GPC 11.5.2.3).

use super::Privileges;
use crate::reader::{DecodeError, Reader};
use crate::tlv::read_length;

/// P1 of INSTALL without bit 8 (GPC Table 11-42): what it is for.
pub mod purpose {
    /// For load.
    pub const LOAD: u8 = 0x02;
    /// For install.
    pub const INSTALL: u8 = 0x04;
    /// For make selectable.
    pub const MAKE_SELECTABLE: u8 = 0x08;
    /// For install and make selectable.
    pub const INSTALL_AND_MAKE_SELECTABLE: u8 = INSTALL | MAKE_SELECTABLE;
    /// For extradition.
    pub const EXTRADITION: u8 = 0x10;
    /// For personalisation.
    pub const PERSONALISATION: u8 = 0x20;
    /// For registry update.
    pub const REGISTRY_UPDATE: u8 = 0x40;
}

/// A field whose length has one byte.
fn short<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let len = r.u8()?;
    r.take(len.into())
}

/// A field whose length is BER.
fn long<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let len = read_length(r)?;
    r.take(len)
}

/// What has been read of a data field.
fn before<'a>(data: &'a [u8], rest: &Reader<'_>) -> &'a [u8] {
    let read = data.len().saturating_sub(rest.len());
    data.get(..read).unwrap_or_default()
}

/// The five fields of INSTALL for load (GPC Table 11-44).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstallForLoad<'a> {
    /// Executable load file.
    pub load_file: &'a [u8],
    /// The security domain that is to have it; none for the one that is asked.
    pub security_domain: &'a [u8],
    /// Hash of the load file data block, or none.
    pub hash: &'a [u8],
    /// Parameters.
    pub parameters: &'a [u8],
    /// The data field up to the token's length: what a token is over.
    pub signed: &'a [u8],
    /// Token; none with own management.
    pub token: &'a [u8],
}

impl<'a> InstallForLoad<'a> {
    /// Reads a data field. Lengths of AIDs and hash have one byte, those of parameters and token are BER.
    ///
    /// # Errors
    /// [`DecodeError`] unless these five are there and nothing behind them.
    pub fn parse(data: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(data);
        let [load_file, security_domain, hash] = [short(&mut r)?, short(&mut r)?, short(&mut r)?];
        let parameters = long(&mut r)?;
        let signed = before(data, &r);
        let token = long(&mut r)?;
        r.finish()?;
        Ok(Self {
            load_file,
            security_domain,
            hash,
            parameters,
            signed,
            token,
        })
    }
}

/// The six fields that INSTALL has for every purpose but load: each with its length before it. What they mean depends on the purpose; a field that has no
/// meaning there is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Install<'a> {
    /// Executable load file; for extradition the security domain that is to have the application.
    pub load_file: &'a [u8],
    /// Executable module.
    pub module: &'a [u8],
    /// The application.
    pub application: &'a [u8],
    /// The bytes of its privileges, none to three.
    pub privileges: &'a [u8],
    /// Parameters.
    pub parameters: &'a [u8],
    /// The data field up to the token's length: what a token is over.
    pub signed: &'a [u8],
    /// Token; none with own management.
    pub token: &'a [u8],
}

impl<'a> Install<'a> {
    /// Reads a data field. Lengths of AIDs and privileges have one byte, those of parameters and token are BER.
    ///
    /// # Errors
    /// [`DecodeError`] unless these six are there and nothing behind them.
    pub fn parse(data: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(data);
        let mut next = || short(&mut r);
        let [load_file, module, application, privileges] = [next()?, next()?, next()?, next()?];
        let parameters = long(&mut r)?;
        let signed = before(data, &r);
        let token = long(&mut r)?;
        r.finish()?;
        Ok(Self {
            load_file,
            module,
            application,
            privileges,
            parameters,
            signed,
            token,
        })
    }

    /// The privileges, of which missing bytes are 00: hosts send none, one, two or three.
    ///
    /// # Errors
    /// [`DecodeError::Value`] for more than three bytes.
    pub fn privileges(&self) -> Result<Privileges, DecodeError> {
        let mut bytes = [0; 3];
        let given = bytes.get_mut(..self.privileges.len()).ok_or(DecodeError::Value)?;
        given.copy_from_slice(self.privileges);
        Privileges::from_bytes(&bytes).ok_or(DecodeError::Value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &[u8] = &[
        2, 0xA0, 1, 1, 0xA2, 0, 2, 0x80, 0x40, 0x82, 0, 2, 0xC9, 0, 0x81, 1, 0x77,
    ];

    #[test]
    fn six_fields_and_nothing_behind_them() {
        let install = Install::parse(FIELDS).unwrap();
        assert_eq!(install.load_file, [0xA0, 1]);
        assert_eq!((install.module, install.application), (&[0xA2][..], &[][..]));
        assert_eq!(install.privileges().unwrap().to_bytes(), [0x80, 0x40, 0]);
        assert_eq!((install.parameters, install.token), (&[0xC9, 0][..], &[0x77][..]));
        assert_eq!(install.signed, &FIELDS[..14]);
        for cut in 0..FIELDS.len() {
            assert!(Install::parse(&FIELDS[..cut]).is_err(), "{cut}");
        }
        assert!(Install::parse(&[FIELDS, &[0]].concat()).is_err());
    }

    #[test]
    fn five_fields_for_load() {
        const FOR_LOAD: &[u8] = &[2, 0xA0, 1, 0, 1, 0x55, 0x82, 0, 2, 0xEF, 0, 0x81, 1, 0x77];
        let install = InstallForLoad::parse(FOR_LOAD).unwrap();
        assert_eq!(
            (install.load_file, install.security_domain),
            (&[0xA0, 1][..], &[][..])
        );
        assert_eq!(install.hash, [0x55]);
        assert_eq!((install.parameters, install.token), (&[0xEF, 0][..], &[0x77][..]));
        assert_eq!(install.signed, &FOR_LOAD[..11]);
        for cut in 0..FOR_LOAD.len() {
            assert!(InstallForLoad::parse(&FOR_LOAD[..cut]).is_err(), "{cut}");
        }
        assert!(InstallForLoad::parse(&[FOR_LOAD, &[0]].concat()).is_err());
    }

    #[test]
    fn no_to_three_bytes_of_privileges() {
        for (given, read) in [
            (&[][..], Some([0; 3])),
            (&[0x80], Some([0x80, 0, 0])),
            (&[0x80, 0x40], Some([0x80, 0x40, 0])),
            (&[1, 2, 3], Some([1, 2, 3])),
            (&[0, 0, 0, 0], None),
        ] {
            let fields = [&[0, 0, 0, u8::try_from(given.len()).unwrap()][..], given, &[0, 0]].concat();
            let privileges = Install::parse(&fields).unwrap().privileges();
            assert_eq!(privileges.ok().map(|p| p.to_bytes()), read);
        }
    }
}
