//! The operating system's replaceable part, as an application among the others.

use sekisho_apdu::gp::tag;
use sekisho_apdu::{CApdu, StatusWord, Writer};

use crate::application::{Application, Context};
use crate::call::{Caller, Next};
use crate::interface::Place;
use crate::memory::State;
use crate::part::Writes;
use crate::refusal::{Outcome, Refusal};
use crate::transient::{Session, Transients};

/// The OS part among the applications. Each command runs in a fresh instance of the module; what lasts for a session stands here, [`TRANSIENT`](crate::TRANSIENT) bytes
/// for each of as many sessions as there is room for. With none, a module cannot keep anything.
#[derive(Debug)]
pub struct OsPart<const SESSIONS: usize>(Transients<SESSIONS>);

impl<const SESSIONS: usize> State for OsPart<SESSIONS> {
    const NEW: Self = Self(Transients::NEW);
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
        let Context {
            records,
            rng,
            system,
            caller,
            place,
            session,
            ..
        } = context;
        let writes = match caller {
            Caller::Interface(_) => Writes::Now,
            Caller::Application { .. } | Caller::Platform => Writes::WithTheCaller,
        };
        let session = Session {
            place: *place,
            number: *session,
            version: system.loader.part().map_or(0, |part| part.version),
        };
        let mut kept = self.0.begin(session);
        let sw = system
            .loader
            .part_process(records, *rng, writes, &mut kept, capdu, out);
        self.0.end(session, &kept);
        if sw.is_success_or_warning() {
            Ok(Next::Done(sw))
        } else {
            Err(Refusal(sw))
        }
    }
}
