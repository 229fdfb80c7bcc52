//! The card manager: the issuer security domain (ISD) of a GlobalPlatform card (GPC 2.3.1), with the commands of the broadcast update.

mod get_data;
mod put_key;
mod rules;
mod status;
mod store_data;
mod update;

use rules::Came;
use store_data::Blocks;

use sekisho_apdu::gp::ins;
use sekisho_apdu::{CApdu, StatusWord, Writer};
use sekisho_os::{Application, Context, Issuer, Next, Outcome, Place, PlatformServices, Refusal, State};

pub(crate) const fn wrong_data() -> Refusal {
    Refusal(StatusWord::INCORRECT_DATA)
}

pub(crate) const fn wrong_p1p2() -> Refusal {
    Refusal(StatusWord::INCORRECT_P1P2)
}

/// The card manager. All it remembers between commands is how far GET STATUS and STORE DATA have come.
#[derive(Debug)]
pub struct CardManager {
    cursor: Option<Cursor>,
    blocks: Blocks,
}

/// Where GET STATUS [get next occurrence] goes on.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    place: Place,
    p1: u8,
    /// Registry index of the first entry that has not been shown.
    next: u8,
}

fn issuer<'c, 'a>(context: &'c mut Context<'a>) -> Result<Issuer<'c, 'a>, Refusal> {
    // Registered without the privilege of a security domain, it can do nothing.
    context
        .issuer()
        .ok_or(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED))
}

/// Commands about what is the platform's: nobody has them but the eSE's issuer security domain.
fn platform<'c, 'a>(issuer: &'c mut Issuer<'_, 'a>) -> Result<PlatformServices<'c, 'a>, Refusal> {
    issuer.platform().ok_or(Refusal(StatusWord::INS_NOT_SUPPORTED))
}

impl State for CardManager {
    const NEW: Self = Self {
        cursor: None,
        blocks: Blocks::new(),
    };
}

impl Application for CardManager {
    /// Answers SELECT with the FCI (GPC Table 11-82).
    ///
    /// # Errors
    /// 6A84 when the FCI does not fit.
    fn select(&mut self, context: &mut Context<'_>, out: &mut Writer<'_>) -> Outcome {
        let issuer = issuer(context)?;
        get_data::file_control_information(&issuer, out)?;
        Ok(StatusWord::NO_ERROR)
    }

    fn deselect(&mut self, place: Place) {
        self.forget(place);
    }

    /// Processes a command.
    ///
    /// # Errors
    /// The status word of the refusal: 6D00, 6E00, 6985 and 6982 for an instruction, a class, a card life cycle state or a security status
    /// in which there is no such command, in this order; then what the command itself refuses.
    fn process(
        &mut self,
        context: &mut Context<'_>,
        capdu: &CApdu<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        let came = match context.authenticated().map(|proof| proof.level()) {
            None => Came::Clear,
            Some(level) if level.c_mac() => Came::Protected,
            Some(_) => Came::Authenticated,
        };
        let place = context.place();
        let session = context.session();
        if capdu.ins != ins::STORE_DATA {
            self.blocks.end(place);
        }
        if matches!(capdu.ins, ins::GET_DATA | ins::GET_STATUS) {
            context.shallow();
        }
        let mut issuer = issuer(context)?;
        if matches!(capdu.ins, ins::CHANGE_MODE | ins::WRITE | ins::AUTHORIZE_ACTION) {
            platform(&mut issuer)?;
        }
        rules::check(capdu, issuer.life_cycle(), came)?;
        let outcome = match capdu.ins {
            ins::GET_DATA => get_data::process(&mut issuer, capdu, out),
            ins::INITIALIZE_UPDATE => {
                self.forget(place);
                issuer.initialize_update(capdu, out)
            }
            ins::EXTERNAL_AUTHENTICATE => issuer.external_authenticate(capdu),
            ins::GET_STATUS => self.get_status(place, issuer.registry(), issuer.life_cycle(), capdu, out),
            ins::SET_STATUS => status::set_status(&mut issuer, capdu),
            ins::PUT_KEY => put_key::process(&mut issuer, capdu, out),
            ins::DELETE => put_key::delete(&mut issuer, capdu, out),
            ins::STORE_DATA => store_data::process(&mut self.blocks, (place, session), &mut issuer, capdu),
            ins::CHANGE_MODE => update::change_mode(&mut platform(&mut issuer)?, capdu),
            ins::WRITE => update::write(&mut platform(&mut issuer)?, capdu),
            ins::AUTHORIZE_ACTION => update::authorize_action(&mut platform(&mut issuer)?, capdu, out),
            ins::SELECT => Err(wrong_p1p2()),
            _ => Err(Refusal(StatusWord::INS_NOT_SUPPORTED)),
        };
        outcome.map(Next::Done)
    }
}

impl CardManager {
    fn forget(&mut self, place: Place) {
        if self.cursor.is_some_and(|cursor| cursor.place == place) {
            self.cursor = None;
        }
        self.blocks.end(place);
    }
}
