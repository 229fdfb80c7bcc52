//! What a card is made as: its product and how many containers it has.

use core::fmt;

use clap::ValueEnum;
use sekisho_os::{Product, Profile};

use super::element::CONTAINERS_MAX;

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
}

impl Kind {
    /// The default profile with one container.
    pub(crate) const PLAIN: Self = Self {
        product: None,
        containers: 1,
    };

    /// What was asked for; a card with several containers is an embedded SE where nobody says otherwise. `None` when nothing was.
    pub(crate) fn asked(product: Option<ProductName>, containers: Option<u8>) -> Option<Self> {
        let made = |product, containers| Self {
            product: Some(product),
            containers,
        };
        match (product, containers) {
            (None, None) => None,
            (None, Some(1)) => Some(Self::PLAIN),
            (None, Some(containers)) => Some(made(ProductName::Ese, containers)),
            (Some(product), containers) => Some(made(product, containers.unwrap_or(1))),
        }
    }

    /// Two bytes: the number of the product, from 1 on, or 0 for none, and of containers; 0 of these is one.
    pub(crate) fn bytes(self) -> [u8; 2] {
        let number = |wanted| (1..).zip(ProductName::ALL).find(|(_, (of, ..))| *of == wanted);
        let product = self.product.and_then(number).map_or(0, |(number, _)| number);
        [product, self.containers]
    }

    /// `None` for what this version knows nothing of.
    pub(crate) fn of_bytes([product, containers]: [u8; 2]) -> Option<Self> {
        let containers = containers.max(1);
        let product = match product {
            0 => None,
            number => Some(ProductName::ALL.get(usize::from(number) - 1)?.0),
        };
        (usize::from(containers) <= CONTAINERS_MAX).then_some(Self { product, containers })
    }

    /// Its profile. Each container has the flash for records that the default profile has for its one.
    pub(crate) fn profile(self) -> Profile {
        let found = ProductName::ALL
            .into_iter()
            .find(|(of, ..)| Some(*of) == self.product);
        let profile = found.map_or_else(Profile::default, |(_, product, _)| {
            Profile::product(product, self.containers)
        });
        Profile {
            store_bytes: profile.store_bytes * usize::from(self.containers),
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
            1 => f.write_str(", 1 container"),
            n => write!(f, ", {n} containers"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_kept_and_no_other_is_taken() {
        assert_eq!(Kind::asked(None, None), None);
        assert_eq!(Kind::of_bytes([0, 0]), Some(Kind::PLAIN));
        let mut kinds = 0;
        for product in [None]
            .into_iter()
            .chain(ProductName::ALL.map(|(of, ..)| Some(of)))
        {
            for containers in [None, Some(1), Some(2)] {
                let Some(kind) = Kind::asked(product, containers) else {
                    continue;
                };
                assert_eq!(Kind::of_bytes(kind.bytes()), Some(kind));
                assert_eq!(kind.containers, containers.unwrap_or(1));
                assert_eq!(kind.profile().logical_channels == 4, kind == Kind::PLAIN);
                kinds += 1;
            }
        }
        assert_eq!(kinds, 17);
        for unknown in [[6, 1], [1, 3], [0, 9], [0xFF, 0xFF]] {
            assert_eq!(Kind::of_bytes(unknown), None);
        }
    }
}
