//! GET STATUS (GPC 11.4) and SET STATUS (GPC 11.10).

use sekisho_apdu::gp::{CardLifeCycle, RegistryEntry, tag};
use sekisho_apdu::{Aid, CApdu, PartialAid, StatusWord, Writer, tlv};
use sekisho_nvm::Flash;
use sekisho_os::{Entry, Issuer, Kind, Module, Outcome, Place, Refusal};

use super::{CardManager, Cursor, wrong_data, wrong_p1p2};

/// P1: what is looked for (GPC Table 11-33); also of SET STATUS, whose status is to be set (GPC Table 11-86).
const ISSUER_SECURITY_DOMAIN: u8 = 0x80;
const APPLICATIONS: u8 = 0x40;
const LOAD_FILES: u8 = 0x20;
const LOAD_FILES_AND_MODULES: u8 = 0x10;

/// P2 (GPC Table 11-34).
const GET_NEXT: u8 = 0x01;
const TAGGED: u8 = 0x02;

/// Most bytes of one answer: with padding and the R-MAC of S16 it still fits a short response.
const ANSWER_MAX: usize = 223;

/// P2 of SET STATUS for an application: lock (GPC 11.10.2.2).
const LOCK: u8 = 0x80;

impl CardManager {
    pub(super) fn get_status<F: Flash>(
        &mut self,
        place: Place,
        issuer: &Issuer<'_, '_, F>,
        capdu: &CApdu<'_>,
        out: &mut Writer<'_>,
    ) -> Outcome {
        let p1 = capdu.p1;
        if !matches!(
            p1,
            ISSUER_SECURITY_DOMAIN | APPLICATIONS | LOAD_FILES | LOAD_FILES_AND_MODULES
        ) {
            return Err(wrong_p1p2());
        }
        let start = self.start(place, p1, capdu.p2)?;
        let wanted = tlv::find(capdu.data, tag::AID)?.ok_or(wrong_data())?;
        let wanted = PartialAid::try_from(wanted).map_err(|_| wrong_data())?;
        self.cursor = None;
        let found = |index: u8, entry: &Entry| {
            // The search criterion does not count for the issuer security domain (GPC 11.4.2.1).
            index >= start
                && is_meant(p1, entry)
                && (p1 == ISSUER_SECURITY_DOMAIN || entry.aid.matches_partial(&wanted))
        };
        for (index, entry) in issuer
            .registry()
            .iter()
            .filter(|(index, entry)| found(*index, entry))
        {
            let before = out.len();
            show(issuer, p1, entry, out)?;
            if out.len() > ANSWER_MAX {
                out.truncate(before);
                self.cursor = Some(Cursor {
                    place,
                    p1,
                    next: index,
                });
                return Ok(StatusWord::MORE_DATA_AVAILABLE);
            }
        }
        if out.is_empty() {
            return Err(Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND));
        }
        Ok(StatusWord::NO_ERROR)
    }

    /// The registry index from which to look: 00 for the first occurrence, the cursor's for the next one.
    fn start(&self, place: Place, p1: u8, p2: u8) -> Result<u8, Refusal> {
        match p2 & (TAGGED | GET_NEXT) {
            TAGGED => Ok(0),
            p2 if p2 == TAGGED | GET_NEXT && p1 != ISSUER_SECURITY_DOMAIN => {
                let cursor = self
                    .cursor
                    .filter(|cursor| cursor.place == place && cursor.p1 == p1);
                cursor
                    .map(|cursor| cursor.next)
                    .ok_or(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED))
            }
            _ => Err(wrong_p1p2()),
        }
    }
}

fn is_meant(p1: u8, entry: &Entry) -> bool {
    match entry.kind {
        Kind::Application if entry.module == Module::CARD_MANAGER => p1 == ISSUER_SECURITY_DOMAIN,
        Kind::Application => p1 == APPLICATIONS,
        Kind::ExecutableLoadFile { .. } => matches!(p1, LOAD_FILES | LOAD_FILES_AND_MODULES),
    }
}

fn show<F: Flash>(
    issuer: &Issuer<'_, '_, F>,
    p1: u8,
    entry: &Entry,
    out: &mut Writer<'_>,
) -> Result<(), Refusal> {
    let aid_of = |index: Option<u8>| -> Option<Aid> { issuer.registry().get(index?).map(|entry| entry.aid) };
    let mut modules: &[Aid] = &[];
    let mut shown = RegistryEntry::new(entry.aid, entry.life_cycle);
    match &entry.kind {
        Kind::Application => {
            if p1 == ISSUER_SECURITY_DOMAIN {
                // It shows the card's state as its own (GPC 11.1.1).
                shown.life_cycle = issuer.life_cycle().to_byte();
            }
            shown.privileges = Some(entry.privileges);
            shown.executable_load_file = aid_of(entry.load_file);
        }
        Kind::ExecutableLoadFile { module_aid } if p1 == LOAD_FILES_AND_MODULES => {
            modules = core::slice::from_ref(module_aid);
        }
        Kind::ExecutableLoadFile { .. } => {}
    }
    shown.modules = modules;
    shown.security_domain = aid_of(entry.security_domain);
    Ok(shown.encode(out)?)
}

pub(super) fn set_status<F: Flash>(issuer: &mut Issuer<'_, '_, F>, capdu: &CApdu<'_>) -> Outcome {
    match capdu.p1 {
        ISSUER_SECURITY_DOMAIN => {
            let next = CardLifeCycle::from_byte(capdu.p2).ok_or(wrong_p1p2())?;
            issuer.set_life_cycle(next)?;
        }
        APPLICATIONS => issuer.set_locked(capdu.data, capdu.p2 & LOCK != 0)?,
        _ => return Err(wrong_p1p2()),
    }
    Ok(StatusWord::NO_ERROR)
}
