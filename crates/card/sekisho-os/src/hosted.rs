//! A WebAssembly module that answers as an application: the OS part, or one that is loaded. Each command runs in a fresh instance; what lasts for a session is lent to it.

use sekisho_apdu::{CApdu, Writer};

use crate::application::Context;
use crate::call::{Caller, Next};
use crate::part::{self, PartFailure, Placed, Writes};
use crate::refusal::Refusal;
use crate::transient::{Session, Transients};

/// Lets a module process a command; says why the answer is 6F00, if it is.
pub(crate) fn process<const SESSIONS: usize>(
    kept: &mut Transients<SESSIONS>,
    placed: &Placed,
    context: &mut Context<'_>,
    capdu: &CApdu<'_>,
    out: &mut Writer<'_>,
) -> (Result<Next, Refusal>, Option<PartFailure>) {
    let Context {
        records,
        rng,
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
        version: placed.version,
    };
    let mut block = kept.begin(session);
    let (sw, failure) = part::process(records, *rng, writes, &mut block, placed, capdu, out);
    kept.end(session, &block);
    let next = if sw.is_success_or_warning() {
        Ok(Next::Done(sw))
    } else {
        Err(Refusal(sw))
    };
    (next, failure)
}
