//! The operating system's replaceable part, as an application among the others.

use sekisho_apdu::gp::tag;
use sekisho_apdu::{CApdu, StatusWord, Writer};

use crate::application::{Application, Context};
use crate::call::{Next, Resume};
use crate::hosted;
use crate::interface::Place;
use crate::memory::State;
use crate::part::Asked;
use crate::refusal::{Outcome, Refusal};
use crate::transient::Transients;

/// The OS part among the applications. Each command runs in a fresh instance of the module; what lasts for a session stands here, [`TRANSIENT`](crate::TRANSIENT) bytes
/// for each of as many sessions as there is room for. With none, a module cannot keep anything.
#[derive(Debug)]
pub struct OsPart<const SESSIONS: usize>(Transients<SESSIONS>);

impl<const SESSIONS: usize> State for OsPart<SESSIONS> {
    const NEW: Self = Self(Transients::NEW);
}

impl<const SESSIONS: usize> OsPart<SESSIONS> {
    fn run(
        &mut self,
        context: &mut Context<'_>,
        asked: Asked<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        context.system.loader.note(None);
        let placed = context.system.loader.placed_part(&context.records.nvm)?;
        let (next, failure) = hosted::process(&mut self.0, &placed, context, asked, out);
        context.system.loader.note(failure);
        next
    }
}

impl<const SESSIONS: usize> Application for OsPart<SESSIONS> {
    /// Its AID. The module is not asked: selecting must not start a wasm engine.
    fn select(&mut self, context: &mut Context<'_>, out: &mut Writer<'_>) -> Outcome {
        out.tlv_with(tag::FCI, |w| w.tlv(tag::DF_NAME, context.aid().as_bytes()))?;
        Ok(StatusWord::NO_ERROR)
    }

    fn deselect(&mut self, place: Place) {
        self.0.forget(place);
    }

    fn process(
        &mut self,
        context: &mut Context<'_>,
        capdu: &CApdu<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        self.run(context, Asked::Command(capdu), out)
    }

    fn resume(
        &mut self,
        context: &mut Context<'_>,
        why: Resume<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        self.run(context, Asked::Resume(why), out)
    }
}
