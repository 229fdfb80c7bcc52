//! The native applications of the SE.
//!
//! The [card manager](CardManager) is the issuer security domain; [SecApp] polls the paging server. The operating system's dispatcher
//! calls them through [`Standard`]; none knows another.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]

#[cfg(test)]
extern crate std;

mod card_manager;
pub mod sec_app;

pub use card_manager::CardManager;
pub use sec_app::SecApp;

use sekisho_apdu::{CApdu, StatusWord, Writer};
use sekisho_nvm::Flash;
use sekisho_os::{Applets, Context, Module, Outcome, Refusal};

/// The applications of an SE as it is delivered.
#[derive(Debug, Default)]
pub struct Standard {
    card_manager: CardManager,
    sec_app: SecApp,
}

impl Applets for Standard {
    fn select<F: Flash>(
        &mut self,
        module: Module,
        context: &mut Context<'_, F>,
        out: &mut Writer<'_>,
    ) -> Outcome {
        match module {
            Module::CARD_MANAGER => self.card_manager.select(context, out),
            Module::SEC_APP => self.sec_app.select(out),
            _ => Err(Refusal(StatusWord::APPLET_SELECT_FAILED)),
        }
    }

    fn process<F: Flash>(
        &mut self,
        module: Module,
        context: &mut Context<'_, F>,
        capdu: &CApdu<'_>,
        out: &mut Writer<'_>,
    ) -> Outcome {
        match module {
            Module::CARD_MANAGER => self.card_manager.process(context, capdu, out),
            Module::SEC_APP => self.sec_app.process(context, capdu, out),
            _ => Err(Refusal(StatusWord::INS_NOT_SUPPORTED)),
        }
    }
}
