//! A WebAssembly module that answers as an application: the OS part, or one that is loaded. Each command runs in a fresh instance, and so does what comes behind it: the answer of another
//! application, the next piece of a long answer. What lasts for a session is lent to it.

use sekisho_apdu::Writer;

use crate::application::Context;
use crate::call::{Caller, Next, Resume};
use crate::part::{self, Around, Asked, Came, PartFailure, Placed, Writes};
use crate::refusal::Refusal;
use crate::transient::{Session, Transients};

/// Lets a module process a command or go on; says why the answer is 6F00, if it is.
pub(crate) fn process<const SESSIONS: usize>(
    kept: &mut Transients<SESSIONS>,
    placed: &Placed,
    context: &mut Context<'_>,
    asked: Asked<'_>,
    out: &mut Writer<'_>,
) -> (Result<Next, Refusal>, Option<PartFailure>) {
    let writes = match (context.caller, asked) {
        (_, Asked::Resume(Resume::Piece)) => Writes::Never,
        (Caller::Interface(_), Asked::Command(_)) => Writes::Now,
        _ => Writes::Together,
    };
    let caller = match context.caller {
        Caller::Application { entry } => context.system.container.registry.entry(entry),
        Caller::Interface(_) | Caller::Platform => None,
    };
    let caller = caller.map(|(_, entry)| entry.aid);
    let session = Session {
        place: context.place,
        number: context.session,
        version: placed.version,
    };
    #[cfg(feature = "os-part")]
    let announces = {
        // Of what a reader does, and whoever it has selected: who is called by another application has no word of its own.
        let is_visit = |place: crate::Place| place.interface.is_contactless() && !place.is_inside();
        matches!(context.caller, Caller::Interface(place) if is_visit(place))
            && !matches!(asked, Asked::Resume(Resume::Piece))
    };
    let mut block = kept.begin(session);
    let mut around = Around {
        records: &mut context.records,
        rng: context.rng,
        kept: &mut block,
        call: context.call.as_deref_mut(),
        caller,
        pieces: context.pieces,
        writes,
        #[cfg(feature = "os-part")]
        announces,
        #[cfg(feature = "os-part")]
        announced: None,
    };
    let (came, failure) = part::process(&mut around, placed, asked, out);
    #[cfg(feature = "os-part")]
    let announced = around.announced.take();
    kept.end(session, &block);
    #[cfg(feature = "os-part")]
    if let Some(said) = announced.filter(|_| came.is_ok()) {
        let announcement = crate::announcement::Announcement::new(context.entry.aid, said);
        context.system.effects.announced = Some(announcement);
    }
    let next = match came {
        Ok(Came::Word(sw)) => Ok(Next::Done(sw)),
        Ok(Came::More) => Ok(Next::More),
        Ok(Came::Forward(to)) => context.forward_prepared(to.as_bytes()),
        Err(sw) => Err(Refusal(sw)),
    };
    (next, failure)
}
