//! The native applications of the SE.
//!
//! The [card manager](CardManager) is the issuer security domain; [SecApp] polls the paging server. The operating system's dispatcher
//! calls them through [`Standard`]; none knows another. [`FileSystem`] keeps files and opens secure messaging.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]

#[cfg(test)]
extern crate std;

mod card_manager;
pub mod file_system;
pub mod sec_app;

pub use card_manager::CardManager;
pub use file_system::FileSystem;
pub use sec_app::SecApp;

use sekisho_apdu::{CApdu, StatusWord, Writer};
use sekisho_os::{Applets, Context, Module, Outcome, Refusal};

/// The applications of an SE as it is delivered.
#[derive(Debug, Default)]
pub struct Standard {
    card_manager: CardManager,
    sec_app: SecApp,
    file_system: FileSystem,
}

impl Applets for Standard {
    fn select(&mut self, module: Module, context: &mut Context<'_>, out: &mut Writer<'_>) -> Outcome {
        match module {
            Module::CARD_MANAGER => self.card_manager.select(context, out),
            Module::SEC_APP => self.sec_app.select(out),
            Module::FILE_SYSTEM => self.file_system.select(context, out),
            _ => Err(Refusal(StatusWord::APPLET_SELECT_FAILED)),
        }
    }

    fn process(
        &mut self,
        module: Module,
        context: &mut Context<'_>,
        capdu: &CApdu<'_>,
        out: &mut Writer<'_>,
    ) -> Outcome {
        match module {
            Module::CARD_MANAGER => self.card_manager.process(context, capdu, out),
            Module::SEC_APP => self.sec_app.process(context, capdu, out),
            Module::FILE_SYSTEM => self.file_system.process(context, capdu, out),
            _ => Err(Refusal(StatusWord::INS_NOT_SUPPORTED)),
        }
    }
}
