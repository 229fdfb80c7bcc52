//! Applications that ask who is speaking, and a source of randomness that fails when it is told to.

use std::cell::Cell;

use sekisho_apdu::{CApdu, StatusWord, Writer};
use sekisho_keys::Rng;
use sekisho_os::{
    Application, Applications, ContainerId, Context, Instance, Loading, Module, Next, Outcome, Pool, Refusal,
    Resume, State,
};

use crate::common::SeededRng;

pub(crate) const ASKER: Module = Module(0x70);
pub(crate) const ASKER_FILE: &[u8] = b"\xF0WHOS";
pub(crate) const ASKERS: [&[u8]; 2] = [b"\xF0WHOS\x01", b"\xF0WHO\x02"];

/// INS 10 answers row, level and version of its peer, the digest of its certificate and the exporter value, 6985 without one; INS 12 lets the other one be asked.
pub(crate) struct Asker;

impl State for Asker {
    const NEW: Self = Self;
}

impl Application for Asker {
    fn select(&mut self, _: &mut Context<'_>, _: &mut Writer<'_>) -> Outcome {
        Ok(StatusWord::NO_ERROR)
    }

    fn process(
        &mut self,
        context: &mut Context<'_>,
        capdu: &CApdu<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        if capdu.ins == 0x12 {
            let command = CApdu::new(capdu.cla, 0x10, 0, 0).with_ne(256);
            return context.forward(ASKERS[1], &command);
        }
        let peer = context.peer();
        let peer = peer.ok_or(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED))?;
        out.bytes(&peer.row.to_be_bytes())?;
        out.bytes(&[peer.level, if peer.tls13 { 13 } else { 12 }])?;
        out.bytes(&peer.certificate)?;
        out.bytes(peer.exporter.as_ref().map_or(&[], |value| &value[..]))?;
        Ok(Next::Done(StatusWord::NO_ERROR))
    }

    fn resume(
        &mut self,
        _: &mut Context<'_>,
        why: Resume<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        let Resume::Answer { data, sw } = why else {
            return Err(Refusal(StatusWord::UNKNOWN));
        };
        out.bytes(data)?;
        out.bytes(&sw.bytes())?;
        Ok(Next::Done(StatusWord::NO_ERROR))
    }
}

/// Applications with two that ask beside them.
pub(crate) struct WithAskers<A>(A, Pool<Asker, 2>);

impl<A: Applications> Applications for WithAskers<A> {
    const NEW: Self = Self(A::NEW, Pool::NEW);

    fn get(&mut self, module: Module, instance: Instance) -> Option<&mut dyn Application> {
        match module {
            ASKER => Some(self.1.get(instance)?),
            _ => self.0.get(module, instance),
        }
    }

    fn release(&mut self, module: Module, instance: Instance) {
        match module {
            ASKER => self.1.release(instance),
            _ => self.0.release(module, instance),
        }
    }

    fn loading(&mut self, container: ContainerId) -> Option<&mut Loading> {
        self.0.loading(container)
    }
}

thread_local! {
    /// What all bytes are while it fails.
    static FAILS: Cell<Option<u8>> = const { Cell::new(None) };
    static NEXT: Cell<Option<[u8; 32]>> = const { Cell::new(None) };
}

/// The SE's source: a seed's bytes, or always the same byte while it fails.
pub(crate) struct Source(SeededRng);

impl Source {
    pub(crate) const fn new() -> Self {
        Self(SeededRng(7))
    }

    /// It fails from here on, or not.
    pub(crate) fn fail(fails: bool) {
        Self::stick(fails.then_some(0));
    }

    /// It gives this alone from here on.
    pub(crate) fn stick(byte: Option<u8>) {
        FAILS.set(byte);
    }

    /// The next 32 bytes that somebody asks for.
    pub(crate) fn give(bytes: [u8; 32]) {
        NEXT.set(Some(bytes));
    }
}

impl Rng for Source {
    fn fill(&mut self, out: &mut [u8]) {
        if let (32, Some(next)) = (out.len(), NEXT.take()) {
            return out.copy_from_slice(&next);
        }
        match FAILS.get() {
            Some(byte) => out.fill(byte),
            None => self.0.fill(out),
        }
    }
}
