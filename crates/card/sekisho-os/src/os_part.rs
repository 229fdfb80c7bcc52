//! The operating system's replaceable part, as an application among the others.

use sekisho_apdu::gp::tag;
use sekisho_apdu::{CApdu, StatusWord, Writer};

use crate::application::{Application, Context};
use crate::call::{Caller, Next};
use crate::memory::State;
use crate::part::Writes;
use crate::refusal::{Outcome, Refusal};

/// The OS part among the applications. It remembers nothing between commands: each runs in a fresh instance of the module.
#[derive(Debug)]
pub struct OsPart;

impl State for OsPart {
    const NEW: Self = Self;
}

impl Application for OsPart {
    /// Its AID. The module is not asked: selecting must not start a wasm engine.
    fn select(&mut self, context: &mut Context<'_>, out: &mut Writer<'_>) -> Outcome {
        out.tlv_with(tag::FCI, |w| w.tlv(tag::DF_NAME, context.aid().as_bytes()))?;
        Ok(StatusWord::NO_ERROR)
    }

    fn process(
        &mut self,
        context: &mut Context<'_>,
        capdu: &CApdu<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        let Context {
            records,
            rng,
            system,
            caller,
            ..
        } = context;
        let writes = match caller {
            Caller::Interface(_) => Writes::Now,
            Caller::Application { .. } | Caller::Platform => Writes::WithTheCaller,
        };
        let sw = system.loader.part_process(records, *rng, writes, capdu, out);
        if sw.is_success_or_warning() {
            Ok(Next::Done(sw))
        } else {
            Err(Refusal(sw))
        }
    }
}
