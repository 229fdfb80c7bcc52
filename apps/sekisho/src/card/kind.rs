//! What a card is made as: its product, how many containers it has, what flash for load files, and whether there is a TLS Manager.

use core::fmt;

use clap::ValueEnum;
use sekisho_os::{Product, Profile};

use super::element::CONTAINERS_MAX;
use super::file_flash::{KIND_LEN, PAGE};

/// Products by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProductName {
    /// Embedded SE
    Ese,
    /// Integrated SE, in the chip of something else
    Ise,
    /// Secure enclave
    Enclave,
    /// Smart card
    Card,
    /// Machine to machine
    M2m,
}

impl ProductName {
    const ALL: [(Self, Product, &str); 5] = [
        (Self::Ese, Product::Ese, "embedded SE"),
        (Self::Ise, Product::Ise, "integrated SE"),
        (Self::Enclave, Product::Enclave, "secure enclave"),
        (Self::Card, Product::Card, "smart card"),
        (Self::M2m, Product::M2m, "machine to machine"),
    ];
}

/// What a card is made as. It stands in the file of its flash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// `None`: the default profile, with four logical channels.
    product: Option<ProductName>,
    pub(crate) containers: u8,
    /// Pages of its flash for load files, of all containers.
    load_pages: u8,
    /// Whether its first container has a TLS Manager.
    has_tls: bool,
}

/// Beside the number of containers: the card has flash for load files. A version that knows of none takes it for too many containers, and leaves the card alone.
const HAS_LOAD_PAGES: u8 = 0x80;
/// The same for a TLS Manager.
const HAS_TLS: u8 = 0x40;

impl Kind {
    /// The default profile with one container.
    pub(crate) const PLAIN: Self = Self {
        product: None,
        containers: 1,
        load_pages: 0,
        has_tls: false,
    };

    /// Whether an emulated chip can be it: with the image that has a TLS Manager or without.
    pub(crate) const fn is_of_a_board(self) -> bool {
        self.product.is_none() && self.containers == 1 && self.load_pages == 0
    }

    /// What was asked for; a card with several containers is an embedded SE where nobody says otherwise. `None` when nothing was.
    pub(crate) fn asked(
        product: Option<ProductName>,
        containers: Option<u8>,
        load_pages: Option<u8>,
        has_tls: bool,
    ) -> Option<Self> {
        if (product, containers, load_pages, has_tls) == (None, None, None, false) {
            return None;
        }
        let containers = containers.unwrap_or(1);
        Some(Self {
            product: product.or((containers > 1).then_some(ProductName::Ese)),
            containers,
            load_pages: load_pages.unwrap_or(0),
            has_tls,
        })
    }

    /// Three bytes: the number of the product, from 1 on, or 0 for none; of containers, 0 of which is one, with bit 8 where there is flash for load files, and bit 7 where there
    /// is a TLS Manager; of its pages.
    pub(crate) fn bytes(self) -> [u8; KIND_LEN] {
        let number = |wanted| (1..).zip(ProductName::ALL).find(|(_, (of, ..))| *of == wanted);
        let product = self.product.and_then(number).map_or(0, |(number, _)| number);
        let has_pages = u8::from(self.load_pages > 0) * HAS_LOAD_PAGES;
        let has_tls = u8::from(self.has_tls) * HAS_TLS;
        [product, self.containers | has_pages | has_tls, self.load_pages]
    }

    /// `None` for what this version knows nothing of.
    pub(crate) fn of_bytes([product, containers, load_pages]: [u8; KIND_LEN]) -> Option<Self> {
        let has_pages = containers & HAS_LOAD_PAGES != 0;
        let has_tls = containers & HAS_TLS != 0;
        let containers = (containers & !(HAS_LOAD_PAGES | HAS_TLS)).max(1);
        let product = match product {
            0 => None,
            number => Some(ProductName::ALL.get(usize::from(number) - 1)?.0),
        };
        let is_known = usize::from(containers) <= CONTAINERS_MAX && has_pages == (load_pages > 0);
        is_known.then_some(Self {
            product,
            containers,
            load_pages,
            has_tls,
        })
    }

    /// Its profile. Each container has the flash for records that the default profile has for its one, and its part of what is for load files.
    pub(crate) fn profile(self) -> Profile {
        let found = ProductName::ALL
            .into_iter()
            .find(|(of, ..)| Some(*of) == self.product);
        let profile = found.map_or_else(Profile::default, |(_, product, _)| {
            Profile::product(product, self.containers)
        });
        let area_bytes = usize::from(self.load_pages) * PAGE;
        Profile {
            store_bytes: profile.store_bytes * usize::from(self.containers),
            area_bytes,
            // So that none can take what another one's load files need.
            container_area_quota: area_bytes / usize::from(self.containers),
            ..profile
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = ProductName::ALL
            .into_iter()
            .find(|(of, ..)| Some(*of) == self.product);
        f.write_str(found.map_or("default profile", |(_, _, words)| words))?;
        match self.containers {
            1 => f.write_str(", 1 container")?,
            n => write!(f, ", {n} containers")?,
        }
        match usize::from(self.load_pages) * PAGE / 1024 {
            0 => {}
            kib => write!(f, ", {kib}K for load files")?,
        }
        f.write_str(if self.has_tls { ", TLS Manager" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_kept_and_no_other_is_taken() {
        assert_eq!(Kind::asked(None, None, None, false), None);
        assert_eq!(Kind::of_bytes([0, 0, 0]), Some(Kind::PLAIN));
        let mut kinds = 0;
        for product in [None]
            .into_iter()
            .chain(ProductName::ALL.map(|(of, ..)| Some(of)))
        {
            for (containers, load, tls) in [None, Some(1), Some(2)]
                .into_iter()
                .flat_map(|containers| [None, Some(0), Some(255)].map(|load| (containers, load)))
                .flat_map(|(containers, load)| [false, true].map(|tls| (containers, load, tls)))
            {
                let Some(kind) = Kind::asked(product, containers, load, tls) else {
                    continue;
                };
                assert_eq!(Kind::of_bytes(kind.bytes()), Some(kind));
                // A version that knows nothing of the bit sees too many containers.
                assert_eq!(usize::from(kind.bytes()[1] & 0x7F) > CONTAINERS_MAX, tls);
                assert_eq!(kind.containers, containers.unwrap_or(1));
                assert_eq!(kind.profile().logical_channels == 4, kind.product.is_none());
                let area = usize::from(load.unwrap_or(0)) * PAGE;
                let of_each = area / usize::from(kind.containers);
                let profile = kind.profile();
                assert_eq!(
                    (profile.area_bytes, profile.container_area_quota),
                    (area, of_each)
                );
                kinds += 1;
            }
        }
        assert_eq!(kinds, 107);
        // A count of pages that does not go with the bit is what no version writes.
        for unknown in [
            [6, 1, 0],
            [1, 3, 0],
            [0, 9, 0],
            [0xFF, 0xFF, 0xFF],
            [1, 0x81, 0],
            [1, 0x43, 0],
            [1, 0xC1, 0],
            [1, 1, 1],
        ] {
            assert_eq!(Kind::of_bytes(unknown), None);
        }
    }
}
