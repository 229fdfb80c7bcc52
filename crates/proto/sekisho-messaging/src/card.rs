//! The card's role.

use sekisho_apdu::{CApdu, Cla, StatusWord};
use zeroize::Zeroize;

use crate::error::SmError;
use crate::keys::Keys;
use crate::objects::{Cursor, MAC_LEN, MAC_OBJECT_LEN, Objects, STATUS_OBJECT_LEN, cryptogram_len};
use crate::schedule::{KeySchedule, ScheduleError};
use crate::setup::is_refresh;
use crate::ssc::Ssc;

/// Secure messaging at the card: protected commands in, plain commands out, protected answers back.
///
/// `ANSWER` is the length of the longest protected answer, status word included. The last answer is kept there, to be
/// given again when the same command comes again; 0 where whoever sends the answers keeps them
/// ([`CardMessaging::answer_to`]).
pub struct CardMessaging<S, const ANSWER: usize> {
    open: Option<Open<S>>,
    answer: [u8; ANSWER],
    answer_len: usize,
}

struct Open<S> {
    schedule: S,
    ssc: Ssc,
    /// MAC of the last command accepted. Whoever repeats it gets the last answer again and nothing else.
    last_mac: Option<[u8; MAC_LEN]>,
    pending: Pending,
}

/// What the answer needs of a command that has been handed out.
struct Pending {
    /// One has, and is not answered.
    waits: bool,
    /// Zeros when none has: nothing shorter comes in the place of keys, which would leave their ends or bring others along.
    keys: Keys,
    ins: u8,
}

impl Pending {
    const NOTHING: Self = Self {
        waits: false,
        keys: Keys::zero(),
        ins: 0,
    };
}

/// What a protected command turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// A command to carry out and then to answer with [`CardMessaging::answer`].
    Command(CApdu<'a>),
    /// The last command once more: send these bytes, carry out nothing.
    Again(&'a [u8]),
}

impl<S: KeySchedule, const ANSWER: usize> CardMessaging<S, ANSWER> {
    /// Opens secure messaging with this schedule; `ssc` is the counter before the first command.
    pub const fn new(schedule: S, ssc: Ssc) -> Self {
        let open = Open {
            schedule,
            ssc,
            last_mac: None,
            pending: Pending::NOTHING,
        };
        Self {
            open: Some(open),
            answer: [0; ANSWER],
            answer_len: 0,
        }
    }

    /// Whether secure messaging is open.
    pub const fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether a command with a right MAC has come: before that nobody has proved to know MKEY.
    pub fn is_proved(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.last_mac.is_some())
    }

    /// Takes a C-APDU. `plain` receives the decrypted data.
    ///
    /// [`SmError::TooLong`] says that the MAC is right and that the data does not fit `plain`: answer it with [`CardMessaging::answer`], as any
    /// command that has been handed out. Every other error closes: answer [`SmError::status`] in plain, and whatever the
    /// keys had opened is shut. A command that is not protected is such an error. No state changes before the MAC is
    /// known to be right; from then on the keys of this command are gone.
    pub fn receive<'a>(&'a mut self, command: &[u8], plain: &'a mut [u8]) -> Result<Received<'a>, SmError> {
        match CApdu::parse(command) {
            Ok(command) => match self.receive_parsed(&command, plain)? {
                Some(command) => Ok(Received::Command(command)),
                None => Ok(Received::Again(self.last_answer())),
            },
            Err(_) if self.open.is_none() => Err(SmError::Closed),
            Err(_) => {
                self.close();
                Err(SmError::Malformed)
            }
        }
    }

    /// [`CardMessaging::receive`] for a command that has been parsed, and put together if it came in a chain. `None`: it is the last command
    /// once more; send [`CardMessaging::last_answer`] and carry out nothing.
    pub fn receive_parsed<'p>(
        &mut self,
        command: &CApdu<'_>,
        plain: &'p mut [u8],
    ) -> Result<Option<CApdu<'p>>, SmError> {
        let accepted = self.accept(command, plain);
        if accepted.as_ref().is_err_and(|error| *error != SmError::TooLong) {
            self.close();
        }
        accepted
    }

    /// The protected answer that went out last; empty when there is none.
    pub fn last_answer(&self) -> &[u8] {
        self.answer.get(..self.answer_len).unwrap_or_default()
    }

    fn accept<'p>(&mut self, command: &CApdu<'_>, plain: &'p mut [u8]) -> Result<Option<CApdu<'p>>, SmError> {
        let open = self.open.as_mut().ok_or(SmError::Closed)?;
        if open.pending.waits {
            return Err(SmError::OutOfTurn);
        }
        let cla = plain_cla(command.cla).ok_or(SmError::MissingObjects)?;
        let objects = Objects::parse(command.data, command.ins)?;
        if open.last_mac == Some(objects.mac()) {
            return Ok(None);
        }
        let ssc = open.ssc.next();
        let exchange = open.schedule.exchange(ssc)?;
        let header = [command.cla.0, command.ins, command.p1, command.p2];
        objects.verify(&exchange.command, ssc, Some(header))?;
        if !objects.is_command() {
            return Err(SmError::IncorrectObjects);
        }
        let ne = objects.ne()?;
        if open.schedule.refresh_due() && !is_refresh(cla, command) {
            return Err(ScheduleError::RefreshDue.into());
        }
        let too_long = objects.exceeds(plain);
        let data = if too_long {
            objects.decrypt_head(&exchange.command, ssc, plain)?
        } else {
            objects.decrypt(&exchange.command, ssc, plain)?
        };
        let (selector, data) = data
            .split_at_checked(open.schedule.selector_len())
            .ok_or(SmError::MissingObjects)?;
        open.schedule.advance(exchange.next, selector)?;
        open.ssc = ssc;
        open.last_mac = Some(objects.mac());
        open.pending = Pending {
            waits: true,
            keys: exchange.response,
            ins: command.ins,
        };
        self.answer_len = 0;
        if too_long {
            return Err(SmError::TooLong);
        }
        Ok(Some(CApdu {
            cla,
            ins: command.ins,
            p1: command.p1,
            p2: command.p2,
            data,
            ne,
            extended: command.extended,
        }))
    }

    /// Protects the answer to the command handed out last; its keys are gone before this returns.
    ///
    /// [`SmError::BufferTooSmall`] changes nothing: answer something shorter.
    pub fn answer(&mut self, data: &[u8], status: StatusWord) -> Result<&[u8], SmError> {
        self.answer_len = protect(self.open.as_mut(), data, status, &mut self.answer)?;
        Ok(self.last_answer())
    }

    /// [`CardMessaging::answer`] into `out`, of which it gives the length; it is not kept here.
    ///
    /// # Errors
    /// As of [`CardMessaging::answer`].
    pub fn answer_to(&mut self, data: &[u8], status: StatusWord, out: &mut [u8]) -> Result<usize, SmError> {
        protect(self.open.as_mut(), data, status, out)
    }

    /// Mixes the secret of [`crate::setup::refresh_secret`] into the keys of all exchanges after this one. Call it between
    /// [`CardMessaging::receive`] and [`CardMessaging::answer`] of REFRESH KEYS.
    pub fn refresh(&mut self, secret: &[u8]) -> Result<(), SmError> {
        let open = self.open.as_mut().ok_or(SmError::Closed)?;
        if !open.pending.waits {
            return Err(SmError::OutOfTurn);
        }
        Ok(open.schedule.refresh(secret)?)
    }

    /// Wipes all keys and the kept answer.
    pub fn close(&mut self) {
        self.open = None;
        self.answer.zeroize();
        self.answer_len = 0;
    }

    /// Hands all state to `sink`.
    #[cfg(feature = "expose-secrets")]
    pub fn expose(&self, sink: &mut dyn FnMut(&[u8])) {
        let Self {
            open,
            answer,
            answer_len,
        } = self;
        if let Some(Open {
            schedule,
            ssc,
            last_mac,
            pending,
        }) = open
        {
            schedule.expose(sink);
            sink(&ssc.to_block());
            sink(last_mac.as_ref().map_or(&[], |mac| mac));
            let Pending { waits, keys, ins } = pending;
            if *waits {
                keys.expose(sink);
                sink(&[*ins]);
            }
        }
        sink(answer);
        sink(&answer_len.to_be_bytes());
    }
}

/// Protects an answer into `out`.
fn protect<S>(
    open: Option<&mut Open<S>>,
    data: &[u8],
    status: StatusWord,
    out: &mut [u8],
) -> Result<usize, SmError> {
    let open = open.ok_or(SmError::Closed)?;
    let pending = &open.pending;
    if !pending.waits {
        return Err(SmError::OutOfTurn);
    }
    if answer_len(pending, data.len()) > out.len() {
        return Err(SmError::BufferTooSmall);
    }
    let ssc = open.ssc.next();
    let mut out = Cursor::new(out);
    out.cryptogram(&pending.keys, ssc, pending.ins, &[], data)?;
    out.status(status.bytes())?;
    out.mac(&pending.keys, ssc, None, 0)?;
    out.push(&status.bytes())?;
    open.ssc = ssc;
    open.pending = Pending::NOTHING;
    Ok(out.len())
}

fn answer_len(pending: &Pending, data_len: usize) -> usize {
    cryptogram_len(data_len, pending.keys.block_len(), pending.ins) + STATUS_OBJECT_LEN + MAC_OBJECT_LEN + 2
}

/// The class byte without its secure messaging bits, if it says secure messaging with an authenticated header
/// (ISO 7816-4 clause 5.4.1: 0C for logical channels 0 to 3, 20 for 4 to 19).
const fn plain_cla(cla: Cla) -> Option<Cla> {
    if !cla.is_supported() {
        return None;
    }
    let bits = crate::reader::sm_bits(cla);
    if cla.0 & bits == bits {
        Some(Cla(cla.0 & !bits))
    } else {
        None
    }
}
