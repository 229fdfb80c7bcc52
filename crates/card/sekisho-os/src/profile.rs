//! What distinguishes one product from another: its ATR, its names and its budgets.

use sekisho_apdu::Aid;
use sekisho_link::ResetCounts;

use crate::interface::{ContainerId, Protocol};
use crate::not_zero::NotZero;
use crate::pairing::{Pairing, Row};
use crate::registry::InterfaceAccess;

/// AID of the issuer security domain (GPC H.1.3).
const ISD: Aid = match Aid::new(&[0xA0, 0x00, 0x00, 0x01, 0x51, 0x00, 0x00, 0x00]) {
    Some(aid) => aid,
    None => unreachable!(),
};

/// T=0 only, which readers' software takes without exception. Historical bytes: card service data C1 (selection by full and by truncated
/// AID, no MF), capabilities C0 21 DB (selection as before; bytes; chaining, extended length, channel numbers by either side, four
/// logical channels), issuer's data "Sekisho" (ISO/IEC 7816-3, 8.2; 7816-4, 12.1.1).
const ATR: [u8; 17] = [
    0x3B, 0x0F, 0x80, 0x31, 0xC1, 0x73, 0xC0, 0x21, 0xDB, 0x57, b'S', b'e', b'k', b'i', b's', b'h', b'o',
];

/// The same with as many logical channels as there can be: "eight or more" in the third software function byte.
const ATR_OF_ALL_CHANNELS: [u8; 17] = {
    let mut atr = ATR;
    atr[SOFTWARE_FUNCTIONS] |= 0x07;
    atr
};
/// Where the third software function byte stands.
const SOFTWARE_FUNCTIONS: usize = 8;

/// The products of seed 2, claim 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Product {
    /// Embedded SE.
    Ese,
    /// Integrated SE, in the chip of something else.
    Ise,
    /// Secure enclave.
    Enclave,
    /// Smart card.
    Card,
    /// Machine to machine.
    M2m,
}

/// What a product fixes before an SE of it is made.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Answer to reset.
    pub atr: &'static [u8],
    /// AID of the issuer security domain; it enters the pseudo-random card challenge.
    pub isd_aid: Aid,
    /// Logical channels of each interface, the basic one included: 1 to 20.
    pub logical_channels: u8,
    /// Which container answers on which protocol, until a record of the platform says otherwise.
    pub pairing: Pairing,
    /// Where the secure channel of the issuer security domains is opened, until a command says otherwise: whoever begins to open it counts its sequence counter
    /// up, proved or not (`docs/decisions/0022-strangers.md`).
    pub root_access: InterfaceAccess,
    /// Common AIDs: names that each container has for something of its own, so that pairing decides which is meant.
    pub common: &'static [Aid],
    /// Flash for the transactional store, in bytes; rounded up to whole pages.
    pub store_bytes: usize,
    /// Flash for each of the two slots of the OS part, in bytes; rounded up to whole pages.
    pub slot_bytes: usize,
    /// Flash for the area in which applications keep bulk, in bytes; rounded up to whole pages. 0: there is none.
    pub area_bytes: usize,
    /// Flash of the area that one application may have, in bytes; rounded down to whole pages.
    pub area_quota: usize,
    /// Flash of the area that each container has for itself, in bytes; rounded down to whole pages (docs/spec/content.md, 7).
    pub container_area_quota: usize,
    /// Room of the store that all records of one container may take, in bytes (docs/spec/content.md, 7).
    pub container_quota: usize,
    /// Stack that a command may use, in bytes; wiped behind each one that may have worked with keys.
    pub stack: usize,
    /// Stack that is enough for commands whose application says so ([`Context::shallow`](crate::Context::shallow)), in bytes; wiped behind these in place of all.
    pub shallow: usize,
    /// RAM that the SE may use, in bytes: its own state, and what is left for the OS part.
    pub ram: usize,
    /// How often the chip has reset itself before this start, where it counts that: GET DATA DF25 tells of it.
    pub resets: Option<ResetCounts>,
    /// It is there: an SE that has not started has none, which is zeros.
    pub mark: NotZero,
}

impl Profile {
    /// A product with so many containers: with one, all protocols are its own; with more, ISO/IEC 7816-3 is the second one's and all else the eSE's
    /// (`docs/spec/routing.md`, 6).
    pub fn product(product: Product, containers: u8) -> Self {
        let pairing = match ContainerId::new(2) {
            Some(second) if containers > 1 => Pairing::contacts_to(second),
            _ => Pairing::all_to(ContainerId::ESE),
        };
        let mailbox = pairing.with(Protocol::Proprietary(0), Row::common(ContainerId::ESE));
        Self {
            atr: &ATR_OF_ALL_CHANNELS,
            container_quota: match containers {
                0 | 1 => usize::MAX,
                several => Self::DEFAULT.store_bytes * 11 / 32 / usize::from(several),
            },
            logical_channels: 20,
            pairing: match product {
                Product::Ise | Product::Enclave => mailbox,
                Product::Ese | Product::Card | Product::M2m => pairing,
            },
            ..Self::default()
        }
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Profile {
    /// The profile of an SE, or of one that has not started the default.
    pub(crate) const fn or_default(this: &Option<Self>) -> &Self {
        match this {
            Some(profile) => profile,
            None => &Self::DEFAULT,
        }
    }

    /// The embedded secure element.
    pub const DEFAULT: Self = Self {
        atr: &ATR,
        isd_aid: ISD,
        logical_channels: 4,
        pairing: Pairing::all_to(ContainerId::ESE),
        root_access: InterfaceAccess::CONTACT,
        common: &[ISD],
        store_bytes: 32 * 1024,
        slot_bytes: 576 * 1024,
        area_bytes: 0,
        area_quota: usize::MAX,
        container_area_quota: usize::MAX,
        container_quota: usize::MAX,
        stack: 40 * 1024,
        shallow: 16 * 1024,
        ram: 256 * 1024,
        resets: None,
        mark: NotZero::Value,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_atr_is_consistent() {
        let [ts, t0, historical @ ..] = &ATR;
        assert_eq!(
            (*ts, t0 >> 4),
            (0x3B, 0),
            "direct convention, no interface bytes: T=0 and no TCK"
        );
        assert_eq!(usize::from(t0 & 0x0F), historical.len());
        // Compact TLV: every object ends inside the historical bytes (ISO/IEC 7816-4, 12.1.1.2).
        let mut rest = &historical[1..];
        while let [head, tail @ ..] = rest {
            rest = &tail[usize::from(head & 0x0F)..];
        }
        // Third software function byte: the number of logical channels that the default profile opens.
        assert_eq!(
            ATR[SOFTWARE_FUNCTIONS] & 0x07,
            Profile::default().logical_channels - 1
        );
        let all = Profile::product(Product::Card, 2);
        assert_eq!(
            (all.atr[SOFTWARE_FUNCTIONS] & 0x07, all.logical_channels),
            (7, 20)
        );
    }

    #[test]
    fn every_product_has_the_seeds_pairing() {
        for product in [
            Product::Ese,
            Product::Ise,
            Product::Enclave,
            Product::Card,
            Product::M2m,
        ] {
            for (containers, second) in [(1, 1), (2, 2)] {
                let pairing = Profile::product(product, containers).pairing;
                for (protocol, row) in pairing.rows() {
                    let is_contacts = matches!(protocol, Protocol::T0 | Protocol::T1);
                    let expected = if is_contacts { second } else { 1 };
                    assert_eq!(Some(row.container), ContainerId::new(expected), "{protocol:?}");
                    assert_eq!(row, Row::common(row.container));
                }
                let mailbox = pairing.row(Protocol::Proprietary(0));
                assert_eq!(
                    mailbox.is_some(),
                    matches!(product, Product::Ise | Product::Enclave)
                );
            }
        }
    }
}
