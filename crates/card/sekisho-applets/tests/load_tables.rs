//! The tables of `docs/spec/loading.md`, walked on an SE that has memory for load files, as those of `status_tables.rs` on one as it is delivered.
#![cfg(feature = "os-part")]
#![allow(clippy::unwrap_used, clippy::panic)] // test support

use crate::common;

use common::ByValue as _;
use common::issuer::{IssuerBench, scp_keys};
use common::tables::{Page, check_page};
use common::{On, SeededRng, profile};
use sekisho_apdu::gp::CardLifeCycle;
use sekisho_applets::{DOMAINS, Standard};
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{Personalisation, Profile, SecureElement};

pub(crate) const LOADING: Page = Page::with_blocks_of(
    include_str!("../../../../docs/spec/loading.md"),
    include_str!("../../../../docs/spec/broadcast-update.md"),
);

/// An SE that takes load files.
pub(crate) type Loadable = SecureElement<On<Standard<1, 2, DOMAINS>>>;

/// Its product.
pub(crate) fn small() -> Profile {
    Profile {
        store_bytes: 16 * 1024,
        slot_bytes: 1024,
        area_bytes: 12 * 1024,
        area_quota: 6 * 1024,
        ..profile()
    }
}

/// The SE of the page, SECURED.
pub(crate) fn made() -> RamFlash {
    let (keys, k_aut) = (scp_keys(LOADING), common::key(&LOADING.block("k-aut")));
    let personalisation = Personalisation {
        se_id: LOADING.block("se-id").try_into().unwrap(),
        life_cycle: CardLifeCycle::Secured,
        ..common::personalisation(0x30, &keys, &k_aut)
    };
    let flash = RamFlash::new(1024, 16 + 2 + 12);
    let made = Loadable::made(flash, SeededRng(1), &small(), &personalisation);
    made.unwrap().into_flash()
}

/// INSTALL for load and LOAD in every state (loading.md, section 6).
#[test]
fn loading() {
    let (flash, small) = (made(), small());
    check_page(LOADING, "loading.md", &|kind| {
        assert_eq!(kind, "a new SE");
        let card = Loadable::booted(flash.clone(), SeededRng(2), &small);
        IssuerBench::on(LOADING, card.unwrap())
    });
}
