//! Registry data of GET STATUS and key information of GET DATA.

use super::{Privileges, tag};
use crate::aid::Aid;
use crate::reader::{DecodeError, Reader};
use crate::tlv::Tag;
use crate::writer::{BufferFull, Writer};

/// One on-card entity as GET STATUS shows it: template E3 (GPC Tables 11-36 and 11-37).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegistryEntry<'a> {
    /// Its AID (4F).
    pub aid: Aid,
    /// Its life cycle state byte (9F70).
    pub life_cycle: u8,
    /// Privileges (C5); `None` for an executable load file.
    pub privileges: Option<Privileges>,
    /// Implicit selection parameters (CF), one byte each.
    pub implicit_selection: &'a [u8],
    /// The application's executable load file (C4).
    pub executable_load_file: Option<Aid>,
    /// An executable load file's version number (CE), empty for none.
    pub version: &'a [u8],
    /// An executable load file's modules (84), to be shown only for P1 = 10.
    pub modules: &'a [Aid],
    /// The associated security domain (CC).
    pub security_domain: Option<Aid>,
    /// Whether it is reached inside TLS sessions alone (DF53, ours, shown where it is so).
    pub secure_only: bool,
    /// Communication interface access (GPC Amendment C, 5: 82 in A5 in A0), shown where a tag list names A0; `None` for an executable load file.
    pub access: Option<u8>,
}

impl<'a> RegistryEntry<'a> {
    /// An entry with the mandatory fields alone.
    pub const fn new(aid: Aid, life_cycle: u8) -> Self {
        Self {
            aid,
            life_cycle,
            privileges: None,
            implicit_selection: &[],
            executable_load_file: None,
            version: &[],
            modules: &[],
            security_domain: None,
            secure_only: false,
            access: None,
        }
    }

    /// Appends the template to `out`, with the data objects that `wanted` names.
    ///
    /// # Errors
    /// [`BufferFull`], and nothing is written: GET STATUS then answers 6310 with what there is.
    pub fn encode(&self, wanted: TagList<'_>, out: &mut Writer<'_>) -> Result<(), BufferFull> {
        out.tlv_with(tag::REGISTRY_DATA, |w| {
            let mut object = |tag, value: &[u8]| {
                if wanted.names(tag) {
                    w.tlv(tag, value)
                } else {
                    Ok(())
                }
            };
            object(tag::AID, self.aid.as_bytes())?;
            object(tag::LIFE_CYCLE, &[self.life_cycle])?;
            if let Some(privileges) = self.privileges {
                object(tag::PRIVILEGES, &privileges.to_bytes())?;
            }
            for parameter in self.implicit_selection {
                object(tag::IMPLICIT_SELECTION, &[*parameter])?;
            }
            if let Some(aid) = self.executable_load_file {
                object(tag::EXECUTABLE_LOAD_FILE, aid.as_bytes())?;
            }
            if !self.version.is_empty() {
                object(tag::VERSION, self.version)?;
            }
            for module in self.modules {
                object(tag::EXECUTABLE_MODULE, module.as_bytes())?;
            }
            if let Some(aid) = self.security_domain {
                object(tag::SECURITY_DOMAIN, aid.as_bytes())?;
            }
            if self.secure_only {
                object(tag::SECURE_ONLY, &[0x01])?;
            }
            if let Some(access) = self.access.filter(|_| wanted.asks_for(tag::CONTACTLESS_PROTOCOL)) {
                w.tlv_with(tag::CONTACTLESS_PROTOCOL, |w| {
                    w.tlv_with(tag::COMMUNICATION_INTERFACE, |w| {
                        w.tlv(tag::INTERFACE_ACCESS, &[access])
                    })
                })?;
            }
            Ok(())
        })
    }
}

/// A tag list (5C): which data objects the answer is to have (GPC 11.4.2.3; ISO/IEC 7816-4, 8.4.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TagList<'a>(&'a [u8]);

impl<'a> TagList<'a> {
    /// No list, which asks for everything, as an empty one does.
    pub const ALL: Self = Self(&[]);

    /// The value of data object 5C: tag fields, one after the other.
    ///
    /// # Errors
    /// [`DecodeError`] when it is something else.
    pub fn parse(value: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(value);
        while !reader.is_empty() {
            Tag::read(&mut reader)?;
        }
        Ok(Self(value))
    }

    /// Whether the answer is to have a data object.
    pub fn names(&self, tag: u32) -> bool {
        self.0.is_empty() || self.asks_for(tag)
    }

    /// Whether there is a list, and a data object is on it.
    pub fn asks_for(&self, tag: u32) -> bool {
        let mut reader = Reader::new(self.0);
        core::iter::from_fn(|| Tag::read(&mut reader).ok()).any(|named| named == Tag(tag))
    }
}

/// Key information data (C0) of a key of one component, basic format (GPC Table 11-28).
///
/// The order on the wire is KID before KVN, the other way round than in most commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyInformation {
    /// Key identifier.
    pub kid: u8,
    /// Key version number.
    pub kvn: u8,
    /// Key type, see [`key_type`](super::key_type).
    pub key_type: u8,
    /// Length of the key in bytes.
    pub length: u8,
}

impl KeyInformation {
    /// Appends the data object to `out`.
    ///
    /// # Errors
    /// [`BufferFull`], and nothing is written.
    pub fn encode(&self, out: &mut Writer<'_>) -> Result<(), BufferFull> {
        out.tlv(
            tag::KEY_INFORMATION,
            &[self.kid, self.kvn, self.key_type, self.length],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gp::{CardLifeCycle, key_type};

    #[test]
    fn entry_with_every_field() {
        let aid = Aid::try_from(&[0xA0, 0, 0, 1, 0x51][..]).unwrap();
        let mut entry = RegistryEntry::new(aid, CardLifeCycle::Secured.to_byte());
        let mut buf = [0; 100];
        let mut w = Writer::new(&mut buf);
        entry.encode(TagList::ALL, &mut w).unwrap();
        assert_eq!(w.written(), b"\xE3\x0B\x4F\x05\xA0\0\0\x01\x51\x9F\x70\x01\x0F");

        entry.privileges = Some(Privileges::SECURITY_DOMAIN);
        entry.implicit_selection = &[0x80];
        entry.executable_load_file = Some(aid);
        entry.version = &[1, 0];
        let modules = [aid, aid];
        entry.modules = &modules;
        entry.security_domain = Some(aid);
        let mut w = Writer::new(&mut buf);
        entry.encode(TagList::ALL, &mut w).unwrap();
        let expected = b"\xE3\x33\x4F\x05\xA0\0\0\x01\x51\x9F\x70\x01\x0F\xC5\x03\x80\0\0\xCF\x01\x80\xC4\x05\xA0\0\0\x01\x51\
            \xCE\x02\x01\0\x84\x05\xA0\0\0\x01\x51\x84\x05\xA0\0\0\x01\x51\xCC\x05\xA0\0\0\x01\x51";
        assert_eq!(w.written(), expected);
    }

    #[test]
    fn a_tag_list_names_what_comes() {
        let aid = Aid::try_from(&[0xA0, 0, 0, 1, 0x51][..]).unwrap();
        let entry = RegistryEntry {
            privileges: Some(Privileges::SECURITY_DOMAIN),
            security_domain: Some(aid),
            ..RegistryEntry::new(aid, CardLifeCycle::Secured.to_byte())
        };
        for (list, expected) in [
            (&[0x4F][..], &b"\xE3\x07\x4F\x05\xA0\0\0\x01\x51"[..]),
            // In the order of the template, each once.
            (
                &[0xC5, 0x9F, 0x70, 0xC5],
                b"\xE3\x09\x9F\x70\x01\x0F\xC5\x03\x80\0\0",
            ),
            (&[0x84, 0x5F, 0x50], b"\xE3\0"),
        ] {
            let mut buf = [0; 100];
            let mut w = Writer::new(&mut buf);
            entry.encode(TagList::parse(list).unwrap(), &mut w).unwrap();
            assert_eq!(w.written(), expected, "{list:02X?}");
        }
        assert_eq!(TagList::parse(&[]), Ok(TagList::ALL));
        for cut in [&[0x4F, 0x9F][..], &[0x5F, 0x80, 0x01]] {
            assert!(TagList::parse(cut).is_err(), "{cut:02X?}");
        }
    }

    #[test]
    fn key_information_starts_with_the_kid() {
        let mut buf = [0; 6];
        let mut w = Writer::new(&mut buf);
        KeyInformation {
            kid: 1,
            kvn: 0x30,
            key_type: key_type::AES,
            length: 16,
        }
        .encode(&mut w)
        .unwrap();
        assert_eq!(w.written(), [0xC0, 4, 1, 0x30, 0x88, 0x10]);
    }
}
