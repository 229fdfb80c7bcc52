//! The reader's role; between two devices, the role of the one that sends the commands.

use sekisho_apdu::{CApdu, Cla, RApdu};
use sekisho_keys::Rng;

use crate::error::SmError;
use crate::keys::Keys;
use crate::objects::{Cursor, MAC_OBJECT_LEN, Objects, cryptogram_len, le_len};
use crate::schedule::{KeySchedule, Next, ScheduleError, Selector};
use crate::setup::is_refresh;
use crate::ssc::Ssc;

/// Wrong answers to one command after which the reader closes: each is a chance to guess an 8-byte MAC.
pub const MAX_WRONG_ANSWERS: u8 = 8;

/// Secure messaging at the reader: plain commands in, protected commands out, protected answers back.
///
/// When an answer does not come, or comes damaged, send the bytes that [`ReaderMessaging::protect`] gave once more: the
/// card repeats its answer. Nothing else may be sent meanwhile.
pub struct ReaderMessaging<S> {
    open: Option<Open<S>>,
}

struct Open<S> {
    schedule: S,
    ssc: Ssc,
    outstanding: Option<Outstanding>,
}

/// A command has been built and its answer has not come.
struct Outstanding {
    keys: Keys,
    next: Next,
    selector: Selector,
    /// Counter of the answer.
    ssc: Ssc,
    ins: u8,
    wrong_answers: u8,
}

impl<S: KeySchedule> ReaderMessaging<S> {
    /// Opens secure messaging with this schedule; `ssc` is the counter before the first command.
    pub const fn new(schedule: S, ssc: Ssc) -> Self {
        Self {
            open: Some(Open {
                schedule,
                ssc,
                outstanding: None,
            }),
        }
    }

    /// Whether secure messaging is open.
    pub const fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// A selector for the next command that both schedules accept, chosen at random where there is a choice.
    pub fn propose(&self, rng: &mut dyn Rng) -> Selector {
        self.open
            .as_ref()
            .map_or(Selector::NONE, |open| open.schedule.propose(rng))
    }

    /// Numbers of the keys of the current exchange, for a trace; see [`KeySchedule::key_numbers`].
    pub fn key_numbers(&self) -> Option<(u32, u32)> {
        self.open.as_ref().map(|open| open.schedule.key_numbers())
    }

    /// Whether only REFRESH KEYS may be sent next.
    pub fn refresh_due(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.schedule.refresh_due())
    }

    /// Protects a command into `out`; `selector` comes from [`ReaderMessaging::propose`]. Errors change nothing.
    pub fn protect<'b>(
        &mut self,
        command: &CApdu<'_>,
        selector: Selector,
        out: &'b mut [u8],
    ) -> Result<&'b [u8], SmError> {
        let open = self.open.as_mut().ok_or(SmError::Closed)?;
        if open.outstanding.is_some() {
            return Err(SmError::OutOfTurn);
        }
        if selector.as_bytes().len() != open.schedule.selector_len() {
            return Err(ScheduleError::BadSelector.into());
        }
        if open.schedule.refresh_due() && !is_refresh(command.cla, command) {
            return Err(ScheduleError::RefreshDue.into());
        }
        let ssc = open.ssc.next();
        let exchange = open.schedule.exchange(ssc)?;
        let bytes = protect(command, selector.as_bytes(), &exchange.command, ssc, out)?;
        open.outstanding = Some(Outstanding {
            keys: exchange.response,
            next: exchange.next,
            selector,
            ssc: ssc.next(),
            ins: command.ins,
            wrong_answers: 0,
        });
        Ok(bytes)
    }

    /// Takes the R-APDU to the command protected last. `plain` receives the decrypted data and must be as long as the
    /// response.
    ///
    /// After an error the command is still outstanding: send its bytes again, or close. The keys move on only when the MAC is right.
    /// After [`MAX_WRONG_ANSWERS`] wrong answers the reader closes.
    pub fn receive<'b>(&mut self, response: &[u8], plain: &'b mut [u8]) -> Result<RApdu<'b>, SmError> {
        let open = self.open.as_mut().ok_or(SmError::Closed)?;
        let outstanding = open.outstanding.as_mut().ok_or(SmError::OutOfTurn)?;
        let answer = match unprotect(response, outstanding, plain) {
            Ok(answer) => answer,
            Err(SmError::BufferTooSmall) => return Err(SmError::BufferTooSmall),
            Err(error) => {
                outstanding.wrong_answers += 1;
                if outstanding.wrong_answers >= MAX_WRONG_ANSWERS {
                    self.close();
                }
                return Err(error);
            }
        };
        let Some(Outstanding {
            next, selector, ssc, ..
        }) = open.outstanding.take()
        else {
            return Err(SmError::OutOfTurn);
        };
        open.ssc = ssc;
        if let Err(error) = open.schedule.advance(next, selector.as_bytes()) {
            self.close();
            return Err(error.into());
        }
        Ok(answer)
    }

    /// Mixes the secret of [`crate::setup::refresh_secret`] into the keys of all exchanges to come. Call it when the
    /// answer to REFRESH KEYS has come and before the next command.
    pub fn refresh(&mut self, secret: &[u8]) -> Result<(), SmError> {
        let open = self.open.as_mut().ok_or(SmError::Closed)?;
        if open.outstanding.is_some() {
            return Err(SmError::OutOfTurn);
        }
        Ok(open.schedule.refresh(secret)?)
    }

    /// Wipes all keys.
    pub fn close(&mut self) {
        self.open = None;
    }

    /// Hands the keys of the exchange to come to `sink`: KSenc and KSmac of the command, then of the response. For tests.
    #[cfg(feature = "expose-secrets")]
    pub fn expose_exchange(&self, sink: &mut dyn FnMut(&[u8])) {
        if let Some(open) = &self.open
            && let Ok(exchange) = open.schedule.exchange(open.ssc.next())
        {
            exchange.command.expose(sink);
            exchange.response.expose(sink);
        }
    }

    /// Hands all state to `sink`.
    #[cfg(feature = "expose-secrets")]
    pub fn expose(&self, sink: &mut dyn FnMut(&[u8])) {
        let Some(Open {
            schedule,
            ssc,
            outstanding,
        }) = &self.open
        else {
            return;
        };
        schedule.expose(sink);
        sink(&ssc.to_block());
        if let Some(Outstanding {
            keys,
            next,
            selector,
            ssc,
            ins,
            wrong_answers,
        }) = outstanding
        {
            keys.expose(sink);
            sink(next.0.as_ref().map_or(&[], |chain| chain.as_bytes()));
            sink(selector.as_bytes());
            sink(&ssc.to_block());
            sink(&[*ins, *wrong_answers]);
        }
    }
}

/// The bits of CLA that say secure messaging with an authenticated header: 0C for logical channels 0 to 3, 20 for 4 to 19
/// (ISO 7816-4 clause 5.4.1, GPC 11.1.4).
pub(crate) const fn sm_bits(cla: Cla) -> u8 {
    if cla.logical_channel() < 4 { 0x0C } else { 0x20 }
}

/// Builds the protected C-APDU. Its Le is always there, as there is always an answer to protect.
fn protect<'b>(
    command: &CApdu<'_>,
    selector: &[u8],
    keys: &Keys,
    ssc: Ssc,
    out: &'b mut [u8],
) -> Result<&'b [u8], SmError> {
    let bits = sm_bits(command.cla);
    if !command.cla.is_supported()
        || command.cla.0 & bits != 0
        || command.ne.is_some_and(|ne| ne == 0 || ne > 65536)
    {
        return Err(SmError::Malformed);
    }
    let plain = selector.len() + command.data.len();
    let lc = cryptogram_len(plain, keys.block_len(), command.ins) + le_len(command.ne) + MAC_OBJECT_LEN;
    let lc = u16::try_from(lc).map_err(|_| SmError::BufferTooSmall)?;
    let extended = command.extended || lc > 255 || command.ne.is_some_and(|ne| ne > 256);
    let header = [command.cla.0 | bits, command.ins, command.p1, command.p2];
    let mut out = Cursor::new(out);
    out.push(&header)?;
    let [high, low] = lc.to_be_bytes();
    if extended {
        out.push(&[0, high, low])?;
    } else {
        out.push(&[low])?;
    }
    let start = out.len();
    out.cryptogram(keys, ssc, command.ins, selector, command.data)?;
    out.le(command.ne)?;
    out.mac(keys, ssc, Some(header), start)?;
    out.push(if extended { &[0, 0] } else { &[0] })?;
    Ok(out.finish())
}

/// Checks and decrypts an R-APDU. SW1SW2 outside and in data object 99 must be the same.
fn unprotect<'b>(
    response: &[u8],
    outstanding: &Outstanding,
    plain: &'b mut [u8],
) -> Result<RApdu<'b>, SmError> {
    let response = RApdu::parse(response).map_err(|_| SmError::Malformed)?;
    if response.data.is_empty() {
        return Err(SmError::Unprotected(response.sw));
    }
    let objects = Objects::parse(response.data, outstanding.ins)?;
    objects.verify(&outstanding.keys, outstanding.ssc, None)?;
    if !objects.is_response() || objects.status()? != Some(response.sw.bytes()) {
        return Err(SmError::IncorrectObjects);
    }
    let data = objects.decrypt(&outstanding.keys, outstanding.ssc, plain)?;
    Ok(RApdu {
        data,
        sw: response.sw,
    })
}
