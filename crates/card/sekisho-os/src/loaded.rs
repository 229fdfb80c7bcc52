//! Applications whose code is loaded: WebAssembly modules in the area for bulk, each as many applications as it is installed as.

use sekisho_apdu::gp::tag;
use sekisho_apdu::{CApdu, StatusWord, Writer};

use crate::application::{Application, Context};
use crate::call::{Next, Resume};
use crate::code;
use crate::hosted;
use crate::interface::Place;
use crate::memory::State;
use crate::part::Asked;
use crate::refusal::{Outcome, Refusal};
use crate::transient::Transients;

/// The memory of one instance: what lasts for a session, as in [`OsPart`](crate::OsPart), and whether its code has been looked at since power-on. Its records are its own.
#[derive(Debug)]
pub struct Loaded<const SESSIONS: usize> {
    kept: Transients<SESSIONS>,
    is_sound: bool,
}

impl<const SESSIONS: usize> State for Loaded<SESSIONS> {
    const NEW: Self = Self {
        kept: Transients::NEW,
        is_sound: false,
    };
}

impl<const SESSIONS: usize> Loaded<SESSIONS> {
    fn run(
        &mut self,
        context: &mut Context<'_>,
        asked: Asked<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        let placed = code::of_application(context, &mut self.is_sound)?;
        hosted::process(&mut self.kept, &placed, context, asked, out).0
    }
}

impl<const SESSIONS: usize> Application for Loaded<SESSIONS> {
    fn install(&mut self, context: &mut Context<'_>, _: &[u8]) -> Result<(), Refusal> {
        code::of_application(context, &mut self.is_sound).map(drop)
    }

    /// Its AID, if its code is there. The module is not asked: selecting must not start a wasm engine.
    fn select(&mut self, context: &mut Context<'_>, out: &mut Writer<'_>) -> Outcome {
        code::of_application(context, &mut self.is_sound)?;
        out.tlv_with(tag::FCI, |w| w.tlv(tag::DF_NAME, context.aid().as_bytes()))?;
        Ok(StatusWord::NO_ERROR)
    }

    fn deselect(&mut self, place: Place) {
        self.kept.forget(place);
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
