//! Two native applications, of which one forwards commands to the other, and a domain that answers in pieces.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // test support

use sekisho_apdu::{CApdu, Cla, StatusWord, Writer};
use sekisho_applets::CardManager;
use sekisho_os::{
    Application, Applications, CALL_ANSWER_MAX, CALL_COMMAND_MAX, Caller, Context, Instance, Interface,
    Module, Next, Outcome, Place, Pool, Refusal, Resume, State,
};

pub(crate) const CONTACT: Interface = Interface::Iso7816Contact;
pub(crate) const OUTER: &[u8] = b"\xF0TEST\x01";
pub(crate) const INNER: &[u8] = b"\xF0TEST\x02";
pub(crate) const NOBODY: &[u8] = b"\xF0TEST\x03";
pub(crate) const OUTER_MODULE: Module = Module(0x70);
pub(crate) const INNER_MODULE: Module = Module(0x71);

/// PUT of the outer one: P1 is what the inner one does, P2 what the outer one does afterwards; the data is both records' new value.
pub(crate) const PUT: u8 = 0x10;
/// GET of either: its record.
pub(crate) const GET: u8 = 0x12;
/// A long answer of the outer one: P1 pieces of P2 bytes.
pub(crate) const LONG: u8 = 0x14;
/// What the inner one is asked by the outer.
pub(crate) const ASKED: u8 = 0x20;
/// As much of an answer as P1 says, times 100.
pub(crate) const MUCH: u8 = 0x22;
/// A command of the outer one with P1 00 that is too long for the inner one; with P1 01 answers of the inner one that are too long.
pub(crate) const TOO_LONG: u8 = 0x16;

/// What the second and later calls of one command put.
pub(crate) const AGAIN: &[u8] = b"again";

/// What the inner one does, P1 of [`PUT`].
pub(crate) mod inner {
    pub(crate) const PUTS: u8 = 0;
    pub(crate) const PUTS_AND_FAILS: u8 = 1;
    pub(crate) const CALLS: u8 = 2;
    pub(crate) const COUNTS_AND_FAILS: u8 = 3;
    pub(crate) const WARNS: u8 = 4;
    pub(crate) const ASKS_FOR_SERVICES: u8 = 5;
    pub(crate) const ANSWERS_IN_PIECES: u8 = 6;
    pub(crate) const FINDS_WHAT_IT_KEPT: u8 = 7;
}

/// What the outer one does with the answer, P2 of [`PUT`].
pub(crate) mod outer {
    pub(crate) const ENDS: u8 = 0;
    pub(crate) const FAILS: u8 = 1;
    pub(crate) const CALLS_AGAIN: u8 = 2;
    pub(crate) const CALLS_NOBODY: u8 = 3;
    pub(crate) const CALLS_ITSELF: u8 = 4;
    pub(crate) const COUNTS_AND_FAILS: u8 = 5;
}

#[derive(Debug)]
pub(crate) struct Outer {
    then: u8,
    calls: usize,
    pieces: (u8, u8),
    ended: usize,
}

impl State for Outer {
    const NEW: Self = Self {
        then: 0,
        calls: 0,
        pieces: (0, 0),
        ended: 0,
    };
}

impl Outer {
    fn forward(&mut self, context: &mut Context<'_>, p1: u8, data: &[u8]) -> Result<Next, Refusal> {
        self.calls += 1;
        let to = match self.then {
            outer::CALLS_NOBODY => NOBODY,
            outer::CALLS_ITSELF => OUTER,
            _ => INNER,
        };
        context.forward(
            to,
            &CApdu::new(Cla::GP, ASKED, p1, 0).with_data(data).with_ne(256),
        )
    }

    /// The next piece: its number, as often as it is long.
    fn piece(&mut self, context: &mut Context<'_>, out: &mut Writer<'_>) -> Result<Next, Refusal> {
        let (left, len) = self.pieces;
        for _ in 0..len {
            out.u8(left)?;
        }
        context.put(9, 0, &[left])?;
        if left == 0xEE {
            return Err(Refusal(StatusWord::INCORRECT_DATA));
        }
        self.pieces.0 = left - 1;
        Ok(if left == 1 {
            Next::Done(StatusWord(0x6310))
        } else {
            Next::More
        })
    }
}

impl Application for Outer {
    fn select(&mut self, context: &mut Context<'_>, out: &mut Writer<'_>) -> Outcome {
        assert_eq!(context.caller(), Caller::Interface(context.place()));
        // Nothing of a selection is written, and nobody is called in it.
        context.put(0, 0, b"selected")?;
        let call = context.forward(INNER, &CApdu::new(Cla::GP, ASKED, 0, 0));
        assert_eq!(call.unwrap_err(), Refusal(StatusWord::CONDITIONS_NOT_SATISFIED));
        out.bytes(&[u8::try_from(self.ended).unwrap()])?;
        Ok(StatusWord::NO_ERROR)
    }

    fn deselect(&mut self, _: Place) {
        self.ended += 1;
    }

    fn process(
        &mut self,
        context: &mut Context<'_>,
        capdu: &CApdu<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        assert_eq!(context.caller(), Caller::Interface(context.place()));
        match capdu.ins {
            PUT => {
                (self.then, self.calls) = (capdu.p2, 0);
                context.put(0, 0, capdu.data)?;
                self.forward(context, capdu.p1, capdu.data)
            }
            GET => get(context, out),
            LONG => {
                self.pieces = (capdu.p1, capdu.p2);
                if !context.may_answer_in_pieces() {
                    out.u8(0)?;
                }
                self.piece(context, out)
            }
            TOO_LONG if capdu.p1 == 0 => {
                self.then = outer::ENDS;
                let data = [0; CALL_COMMAND_MAX - 4];
                context.forward(INNER, &CApdu::new(Cla::GP, ASKED, 0, 0).with_data(&data))
            }
            TOO_LONG => {
                self.then = outer::ENDS;
                context.forward(INNER, &CApdu::new(Cla::GP, MUCH, 0, 0).with_ne(256))
            }
            _ => Err(Refusal(StatusWord::INS_NOT_SUPPORTED)),
        }
    }

    fn resume(
        &mut self,
        context: &mut Context<'_>,
        why: Resume<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        let Resume::Answer { data, sw } = why else {
            return self.piece(context, out);
        };
        assert_eq!(context.caller(), Caller::Interface(context.place()));
        out.bytes(data)?;
        out.bytes(&sw.bytes())?;
        match self.then {
            outer::FAILS => Err(Refusal(StatusWord::INCORRECT_DATA)),
            outer::CALLS_AGAIN => self.forward(context, inner::PUTS, AGAIN),
            outer::COUNTS_AND_FAILS => {
                context.put(1, 0, b"counted")?;
                context.commit_now()?;
                Err(Refusal(StatusWord::INCORRECT_DATA))
            }
            _ => Ok(Next::Done(StatusWord::NO_ERROR)),
        }
    }
}

/// Appends record 0, and record 1 if it is there.
pub(crate) fn get(context: &mut Context<'_>, out: &mut Writer<'_>) -> Result<Next, Refusal> {
    for record in [0, 1] {
        let mut bytes = [0; 300];
        if let Some(len) = context.get(record, 0, &mut bytes)? {
            out.bytes(&bytes[..len])?;
        }
    }
    Ok(Next::Done(StatusWord::NO_ERROR))
}

#[derive(Debug)]
pub(crate) struct Inner {
    kept: u8,
    ended: u8,
}

impl State for Inner {
    const NEW: Self = Self { kept: 0, ended: 0 };
}

/// Record 0 with which the inner one refuses to be installed, or to be deleted.
pub(crate) const UNWANTED: &[u8] = b"unwanted value";
pub(crate) const KEPT: &[u8] = b"kept";

impl Application for Inner {
    fn install(&mut self, context: &mut Context<'_>, _: &[u8]) -> Result<(), Refusal> {
        assert_eq!(context.caller(), Caller::Platform);
        assert!(context.security_domain().is_none());
        let mut bytes = [0; 300];
        let len = context.get(0, 0, &mut bytes)?.unwrap_or_default();
        context.put(1, 0, b" installed")?;
        // What it remembers goes with it when it refuses.
        self.kept = 9;
        if &bytes[..len] == UNWANTED {
            return Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED));
        }
        self.kept = 0;
        Ok(())
    }

    fn delete(&mut self, context: &mut Context<'_>) -> Result<(), Refusal> {
        assert_eq!(context.caller(), Caller::Platform);
        let mut bytes = [0; 300];
        let len = context.get(0, 0, &mut bytes)?.unwrap_or_default();
        context.put(0, 0, b"never written")?;
        if &bytes[..len] == KEPT {
            return Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED));
        }
        Ok(())
    }

    fn select(&mut self, _: &mut Context<'_>, _: &mut Writer<'_>) -> Outcome {
        Ok(StatusWord::NO_ERROR)
    }

    fn deselect(&mut self, _: Place) {
        self.ended += 1;
    }

    fn process(
        &mut self,
        context: &mut Context<'_>,
        capdu: &CApdu<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        if capdu.ins == GET {
            return get(context, out);
        }
        let Caller::Application { entry } = context.caller() else {
            return Err(Refusal(StatusWord::INS_NOT_SUPPORTED));
        };
        if capdu.ins == MUCH {
            out.bytes(&[0x5A; CALL_ANSWER_MAX])?;
            out.u8(0x5A)?;
            return Ok(Next::Done(StatusWord::NO_ERROR));
        }
        // Where the outer one's record is, this one has another.
        let mut found = [0; 300];
        let before = context.get(0, 0, &mut found)?.map(|len| found[..len].to_vec());
        let called_before = capdu.data == AGAIN;
        assert!(called_before || before.as_deref() != Some(capdu.data));
        context.put(0, 0, capdu.data)?;
        match capdu.p1 {
            inner::PUTS_AND_FAILS => {
                out.bytes(b"never seen")?;
                return Err(Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND));
            }
            inner::CALLS => return context.forward(OUTER, capdu),
            inner::COUNTS_AND_FAILS => {
                context.put(1, 0, b"counted")?;
                context.commit_now()?;
                context.put(1, 0, b"never counted")?;
                return Err(Refusal(StatusWord::AUTHENTICATION_METHOD_BLOCKED));
            }
            inner::WARNS => return Ok(Next::Done(StatusWord(0x6310))),
            inner::ASKS_FOR_SERVICES => {
                assert!(context.security_domain().is_none());
                assert!(context.authenticated().is_none());
                assert!(!context.may_answer_in_pieces());
                assert_eq!(
                    context.can_open_messaging(),
                    Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED))
                );
            }
            inner::ANSWERS_IN_PIECES => return Ok(Next::More),
            inner::FINDS_WHAT_IT_KEPT => {
                out.bytes(&[self.kept, self.ended])?;
                self.kept += 1;
                return Ok(Next::Done(StatusWord::NO_ERROR));
            }
            _ => {}
        }
        out.u8(entry.number().to_be_bytes()[1])?;
        Ok(Next::Done(StatusWord::NO_ERROR))
    }
}

/// The issuer security domain, which answers [`LONG`] in pieces without end.
pub(crate) struct Domain(CardManager);

impl Application for Domain {
    fn select(&mut self, context: &mut Context<'_>, out: &mut Writer<'_>) -> Outcome {
        self.0.select(context, out)
    }

    fn process(
        &mut self,
        context: &mut Context<'_>,
        capdu: &CApdu<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        if capdu.ins == LONG {
            out.u8(0)?;
            return Ok(Next::More);
        }
        self.0.process(context, capdu, out)
    }
}

pub(crate) struct Set {
    card_manager: Domain,
    outer: Pool<Outer, 1>,
    inner: Pool<Inner, 1>,
}

impl Applications for Set {
    const NEW: Self = Self {
        card_manager: Domain(CardManager::NEW),
        outer: Pool::NEW,
        inner: Pool::NEW,
    };

    fn get(&mut self, module: Module, instance: Instance) -> Option<&mut dyn Application> {
        match module {
            Module::CARD_MANAGER => Some(&mut self.card_manager),
            OUTER_MODULE => Some(self.outer.get(instance)?),
            INNER_MODULE => Some(self.inner.get(instance)?),
            _ => None,
        }
    }

    fn release(&mut self, module: Module, instance: Instance) {
        match module {
            OUTER_MODULE => self.outer.release(instance),
            INNER_MODULE => self.inner.release(instance),
            _ => {}
        }
    }
}
