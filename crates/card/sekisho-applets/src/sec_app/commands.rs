//! SecApp's commands, as types (`docs/spec/secapp.md`, 2).

use sekisho_apdu::{CApdu, SecureMessaging, StatusWord};
use sekisho_os::Refusal;
use sekisho_paging::DATAGRAM;
use sekisho_paging::datagram::Reason;
use sekisho_paging::recovery::GRANT;

/// Instruction bytes.
mod ins {
    pub(super) const POLL: u8 = 0x20;
    pub(super) const ANSWER: u8 = 0x22;
    pub(super) const WAIT: u8 = 0x24;
    pub(super) const DONE: u8 = 0x26;
    pub(super) const STATUS: u8 = 0x28;
    pub(super) const RECOVER: u8 = 0x2A;
    pub(super) const GRANT: u8 = 0x2C;
    pub(super) const GENERATE_KEY_PAIR: u8 = 0x46;
    pub(super) const CERTIFIED: u8 = 0x48;
    pub(super) const SIGN: u8 = 0x4A;
}

/// A command that is made as it should be.
pub(super) enum Command<'a> {
    Poll(Reason),
    Answer(&'a [u8; DATAGRAM]),
    Wait,
    Done(u32),
    Status,
    Recover,
    Grant(&'a [u8; GRANT]),
    NewKeyPair,
    PublicKey,
    Certified {
        digest: &'a [u8; 32],
        proof: &'a [u8; 16],
    },
    Sign(&'a [u8; 32]),
}

impl<'a> Command<'a> {
    pub(super) fn parse(capdu: &CApdu<'a>) -> Result<Self, Refusal> {
        if !capdu.cla.proprietary() || capdu.cla.secure_messaging() != SecureMessaging::None {
            return Err(Refusal(StatusWord::CLA_NOT_SUPPORTED));
        }
        let command = match capdu.ins {
            ins::POLL => {
                data::<0>(capdu)?;
                return match capdu.p2 {
                    0 => Ok(Self::Poll(Reason::from_byte(capdu.p1))),
                    _ => Err(Refusal(StatusWord::INCORRECT_P1P2)),
                };
            }
            ins::GENERATE_KEY_PAIR => {
                data::<0>(capdu)?;
                return match [capdu.p1, capdu.p2] {
                    [0x00, 0x00] => Ok(Self::NewKeyPair),
                    [0x01, 0x00] => Ok(Self::PublicKey),
                    _ => Err(Refusal(StatusWord::INCORRECT_P1P2)),
                };
            }
            ins::ANSWER => Self::Answer(data(capdu)?),
            ins::WAIT => data::<0>(capdu).map(|_| Self::Wait)?,
            ins::DONE => Self::Done(u32::from_be_bytes(*data(capdu)?)),
            ins::STATUS => data::<0>(capdu).map(|_| Self::Status)?,
            ins::RECOVER => data::<0>(capdu).map(|_| Self::Recover)?,
            ins::GRANT => Self::Grant(data(capdu)?),
            ins::CERTIFIED => {
                let data: &[u8; 48] = data(capdu)?;
                let (digest, proof) = data.split_first_chunk::<32>().ok_or(wrong_length())?;
                let proof = proof.first_chunk().ok_or(wrong_length())?;
                Self::Certified { digest, proof }
            }
            ins::SIGN => Self::Sign(data(capdu)?),
            _ => return Err(Refusal(StatusWord::INS_NOT_SUPPORTED)),
        };
        match [capdu.p1, capdu.p2] {
            [0, 0] => Ok(command),
            _ => Err(Refusal(StatusWord::INCORRECT_P1P2)),
        }
    }
}

const fn wrong_length() -> Refusal {
    Refusal(StatusWord::WRONG_LENGTH)
}

/// The data field, of exactly this length.
fn data<'a, const N: usize>(capdu: &CApdu<'a>) -> Result<&'a [u8; N], Refusal> {
    capdu.data.try_into().map_err(|_| wrong_length())
}
