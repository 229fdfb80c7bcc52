//! The secure element at the readers' disposal.

use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sekisho_nvm::Flash;
use sekisho_os::{Interface, Profile, Protocol, SecureElement};
use sekisho_transport::{CardSide, Transaction};

use super::element::{CardPlatform, CardSe, SystemRng};
use super::file_flash::FileFlash;
use super::line::{interface, name};
use super::ram_flash::RamFlash;

/// A flash that an SE can start from anew when a write has failed.
pub(crate) trait Anew: Flash + Sized {
    /// The flash as it stands now; `None` where it cannot be read.
    fn opened_anew(&self) -> Option<Self>;
}

impl Anew for FileFlash {
    fn opened_anew(&self) -> Option<Self> {
        Self::opened_anew(self).ok()
    }
}

impl Anew for RamFlash {
    fn opened_anew(&self) -> Option<Self> {
        None
    }
}

/// One SE behind several lines, one command at a time.
pub(crate) struct SharedSe<F: Flash>(Arc<Mutex<Shared<F>>>);

struct Shared<F: Flash> {
    se: Box<CardSe<F>>,
    /// What it was started with.
    profile: Profile,
    /// The protocol whose line has each interface: the one that was powered last, until it is switched off.
    powered: [Option<Protocol>; Interface::COUNT],
}

impl<F: Flash> Clone for SharedSe<F> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<F: Flash> SharedSe<F> {
    pub(crate) fn new(se: Box<CardSe<F>>, profile: Profile) -> Self {
        let powered = [None; Interface::COUNT];
        Self(Arc::new(Mutex::new(Shared { se, profile, powered })))
    }

    fn lock(&self) -> MutexGuard<'_, Shared<F>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The SE on one protocol.
    pub(crate) fn on(&self, protocol: Protocol) -> OnLine<F> {
        OnLine {
            se: self.clone(),
            protocol,
            told: None,
        }
    }
}

impl<F: Anew> Shared<F> {
    /// Gives an interface to a protocol, or to none, and resets it. Says whose it was. An SE whose flash has failed starts anew from what the flash holds, with all
    /// its interfaces, as a chip does that gets its power again; where that fails it stays as it is, until the next time.
    fn power(&mut self, protocol: Protocol, on: bool) -> Option<Protocol> {
        let interface = interface(protocol);
        let next = on.then_some(protocol);
        let before = self.powered.get_mut(interface.index());
        let before = before.and_then(|powered| std::mem::replace(powered, next));
        if self.se.has_failed()
            && let Some(flash) = self.se.flash().opened_anew()
        {
            let mut anew = SecureElement::<CardPlatform<F>>::new(flash, SystemRng);
            if anew.boot(&self.profile).is_ok() {
                *self.se = anew;
                for protocol in self.powered.iter().flatten() {
                    let _ = self.se.reset_to(super::line::interface(*protocol), *protocol);
                }
            }
        }
        if !self.se.reset_to(interface, protocol) {
            self.se.reset(interface);
        }
        before
    }

    fn holder(&self, protocol: Protocol) -> Option<Protocol> {
        self.powered.get(interface(protocol).index()).copied().flatten()
    }
}

/// The SE on one protocol. Of two that share an interface the one that was powered last has it, and the other one is silent.
pub(crate) struct OnLine<F: Flash> {
    se: SharedSe<F>,
    protocol: Protocol,
    /// What an application has said of the last command.
    told: Option<Transaction>,
}

impl<F: Anew> CardSide for OnLine<F> {
    fn atr(&mut self) -> Vec<u8> {
        atr(self.protocol, self.se.lock().se.atr())
    }

    fn reset(&mut self) {
        let before = self.se.lock().power(self.protocol, true);
        if let Some(other) = before.filter(|other| *other != self.protocol) {
            // A card does not end because nobody reads what it says.
            let _ = writeln!(
                io::stderr(),
                "{} is powered and resets {}, which has no answer until it is powered again",
                name(self.protocol),
                name(other)
            );
        }
    }

    fn power_off(&mut self) {
        let mut shared = self.se.lock();
        if shared
            .holder(self.protocol)
            .is_none_or(|holder| holder == self.protocol)
        {
            shared.power(self.protocol, false);
        }
    }

    fn transmit(&mut self, capdu: &[u8], out: &mut [u8]) -> usize {
        let mut shared = self.se.lock();
        match shared.holder(self.protocol) {
            Some(holder) if holder == self.protocol => {}
            Some(_) => return 0,
            None => drop(shared.power(self.protocol, true)),
        }
        let len = shared.se.transmit(interface(self.protocol), capdu, out);
        self.told = shared.se.announcement().map(|told| Transaction {
            aid: told.aid().as_bytes().to_vec(),
            parameters: told.parameters().to_vec(),
        });
        len
    }

    fn announcement(&mut self) -> Option<Transaction> {
        self.told.take()
    }
}

/// What a reader shows as ATR on a protocol, from that of the SE, which offers T=0 alone and ends with its historical bytes: T=1 alone with its check byte (ISO/IEC 7816-3,
/// 8.2.3 and 8.2.5), what readers make for contactless cards (PC/SC part 3, 3.1.3.2.3.1), else the SE's own.
fn atr(protocol: Protocol, own: &[u8]) -> Vec<u8> {
    let interface_bytes: &[u8] = match protocol {
        Protocol::T1 => &[0x01],
        Protocol::SwpA | Protocol::SwpB => &[0x80, 0x01],
        _ => return own.to_vec(),
    };
    let [ts, t0, historical @ ..] = own else {
        return own.to_vec();
    };
    let body = [&[0x80 | t0], interface_bytes, historical].concat();
    let check = body.iter().fold(0, |sum, byte| sum ^ byte);
    [&[*ts], &body[..], &[check]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_atr_says_which_protocol_it_is() {
        let own = Profile::default().atr;
        let [t0, t1, swp] = [Protocol::T0, Protocol::T1, Protocol::SwpB].map(|of| atr(of, own));
        assert_eq!(t0, own);
        assert_eq!(t1[..3], [0x3B, 0x8F, 0x01]);
        assert_eq!(swp[..4], [0x3B, 0x8F, 0x80, 0x01]);
        for atr in [t1, swp] {
            assert_eq!(atr[1..].iter().fold(0, |sum, byte| sum ^ byte), 0, "TCK");
            assert_eq!(atr[atr.len() - 16..atr.len() - 1], own[2..]);
        }
    }
}
