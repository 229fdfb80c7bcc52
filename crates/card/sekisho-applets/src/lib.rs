//! The native applications of the SE.
//!
//! One for now: the [card manager](CardManager), which is the issuer security domain. The operating system's dispatcher calls it through
//! [`Standard`]; it knows no other application, and no other application it.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]

#[cfg(test)]
extern crate std;

mod card_manager;

pub use card_manager::CardManager;

use sekisho_apdu::{CApdu, StatusWord, Writer};
use sekisho_nvm::Flash;
use sekisho_os::{Applets, Context, Module, Outcome, Refusal};

/// The applications of an SE as it is delivered.
#[derive(Debug, Default)]
pub struct Standard {
    card_manager: CardManager,
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
            _ => Err(Refusal(StatusWord::INS_NOT_SUPPORTED)),
        }
    }
}
