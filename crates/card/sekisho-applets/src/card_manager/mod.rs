//! The card manager: the issuer security domain (ISD) of a GlobalPlatform card (GPC 2.3.1), with the commands of the broadcast update.

mod content;
mod get_data;
mod put_key;
mod rules;
mod status;
mod store_data;
mod update;

use rules::Came;
use store_data::Blocks;

use sekisho_apdu::gp::{ins, purpose};
use sekisho_apdu::{CApdu, Cla, StatusWord, Writer};
use sekisho_os::{
    Application, Context, EntryId, Interface, Next, Outcome, Place, PlatformServices, Refusal, Resume,
    SecurityDomain, State,
};

pub(crate) const fn wrong_data() -> Refusal {
    Refusal(StatusWord::INCORRECT_DATA)
}

pub(crate) const fn wrong_p1p2() -> Refusal {
    Refusal(StatusWord::INCORRECT_P1P2)
}

/// The card manager. All it remembers between commands is how far GET STATUS and STORE DATA have come, and whom STORE DATA is for.
#[derive(Debug)]
pub struct CardManager {
    cursors: [Cursor; Interface::COUNT],
    blocks: Blocks,
    personalising: Option<Personalising>,
}

/// The application that STORE DATA personalises, and from where, in which application session.
#[derive(Clone, Copy, Debug)]
struct Personalising {
    owner: (Place, u32),
    application: EntryId,
}

/// Where GET STATUS [get next occurrence] goes on, on one interface.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    logical_channel: u8,
    /// What is shown; of none 00, which shows nothing.
    p1: u8,
    /// Registry index of the first entry that has not been shown.
    next: u8,
}

impl Cursor {
    const NONE: Self = Self {
        logical_channel: 0,
        p1: 0,
        next: 0,
    };
}

fn domain<'c, 'a>(context: &'c mut Context<'a>) -> Result<SecurityDomain<'c, 'a>, Refusal> {
    // Registered without the privilege of a security domain, it can do nothing.
    context
        .security_domain()
        .ok_or(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED))
}

/// Commands about what is the platform's: nobody has them but the eSE's issuer security domain.
fn platform<'c, 'a>(domain: &'c mut SecurityDomain<'_, 'a>) -> Result<PlatformServices<'c, 'a>, Refusal> {
    domain.platform().ok_or(Refusal(StatusWord::INS_NOT_SUPPORTED))
}

impl State for CardManager {
    const NEW: Self = Self {
        cursors: [Cursor::NONE; Interface::COUNT],
        blocks: Blocks::new(),
        personalising: None,
    };
}

impl Application for CardManager {
    /// Answers SELECT with the FCI (GPC Table 11-82).
    ///
    /// # Errors
    /// 6A84 when the FCI does not fit.
    fn select(&mut self, context: &mut Context<'_>, out: &mut Writer<'_>) -> Outcome {
        let domain = domain(context)?;
        get_data::file_control_information(&domain, out)?;
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
        if capdu.ins != ins::STORE_DATA || matches!(came, Came::Clear) {
            self.blocks.end(place);
        }
        if matches!(capdu.ins, ins::GET_DATA | ins::GET_STATUS) {
            context.shallow();
        }
        let mut domain = domain(context)?;
        if matches!(
            capdu.ins,
            ins::SET_PAIRING | ins::CHANGE_MODE | ins::WRITE | ins::AUTHORIZE_ACTION
        ) {
            platform(&mut domain)?;
        }
        rules::check(capdu, domain.life_cycle(), came)?;
        let owner = (place, session);
        if let Some(application) = self.meant(&domain, capdu, owner)? {
            let command = CApdu::new(Cla::GP, capdu.ins, capdu.p1, capdu.p2).with_data(capdu.data);
            return context.forward_to(application, &command.with_ne(256));
        }
        if (capdu.ins, capdu.p1) == (ins::INSTALL, purpose::PERSONALISATION) {
            let application = content::install_for_personalisation(&mut domain, capdu, out)?;
            if self.personalising.is_some() {
                // Somebody else's: what he stores would be taken for the domain's own.
                return Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED));
            }
            self.personalising = Some(Personalising { owner, application });
            return Ok(Next::Done(StatusWord::NO_ERROR));
        }
        let outcome = match capdu.ins {
            ins::GET_DATA => get_data::process(&mut domain, capdu, out),
            ins::INITIALIZE_UPDATE => {
                self.forget(place);
                domain.initialize_update(capdu, out)
            }
            ins::EXTERNAL_AUTHENTICATE => domain.external_authenticate(capdu),
            ins::GET_STATUS => {
                let shown = (domain.registry(), domain.life_cycle());
                self.get_status(place, shown, capdu, |file| domain.version(file), out)
            }
            ins::SET_STATUS => status::set_status(&mut domain, capdu),
            ins::PUT_KEY => put_key::process(&mut domain, capdu, out),
            ins::INSTALL => content::install(&mut domain, capdu, out),
            ins::LOAD => content::load(&mut domain, capdu),
            ins::DELETE => put_key::delete(&mut domain, capdu, out),
            ins::STORE_DATA => store_data::process(&mut self.blocks, (place, session), &mut domain, capdu),
            ins::SET_PAIRING => update::set_pairing(&mut platform(&mut domain)?, capdu),
            ins::CHANGE_MODE => update::change_mode(&mut platform(&mut domain)?, capdu),
            ins::WRITE => update::write(&mut platform(&mut domain)?, capdu),
            ins::AUTHORIZE_ACTION => update::authorize_action(&mut platform(&mut domain)?, capdu, out),
            ins::SELECT => Err(wrong_p1p2()),
            _ => Err(Refusal(StatusWord::INS_NOT_SUPPORTED)),
        };
        outcome.map(Next::Done)
    }

    /// What the application that is personalised has answered to STORE DATA; a refusal ends its personalisation.
    ///
    /// # Errors
    /// Its refusal.
    fn resume(
        &mut self,
        context: &mut Context<'_>,
        why: Resume<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        match why {
            Resume::Answer { data, sw } if sw.is_success_or_warning() => {
                out.bytes(data)?;
                Ok(Next::Done(sw))
            }
            Resume::Answer { sw, .. } => {
                self.end_personalising(context.place());
                Err(Refusal(sw))
            }
            Resume::Piece => Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED)),
        }
    }
}

impl CardManager {
    /// The application that a command is for because it is being personalised from here: STORE DATA's, as long as it is the domain's own; any other command ends it.
    fn meant(
        &mut self,
        domain: &SecurityDomain<'_, '_>,
        capdu: &CApdu<'_>,
        owner: (Place, u32),
    ) -> Result<Option<EntryId>, Refusal> {
        let Some(now) = self.personalising.filter(|now| now.owner == owner) else {
            return Ok(None);
        };
        if (capdu.ins, capdu.p1 & store_data::LAST_BLOCK) != (ins::STORE_DATA, 0) {
            self.personalising = None;
        }
        if capdu.ins != ins::STORE_DATA {
            return Ok(None);
        }
        // It may have been extradited since, or deleted.
        domain
            .check_own(now.application)
            .inspect_err(|_| self.personalising = None)?;
        Ok(Some(now.application))
    }

    fn cursor(&mut self, interface: Interface) -> Option<&mut Cursor> {
        self.cursors.get_mut(interface.index())
    }

    fn end_personalising(&mut self, place: Place) {
        if self
            .personalising
            .is_some_and(|personalising| personalising.owner.0 == place)
        {
            self.personalising = None;
        }
    }

    fn forget(&mut self, place: Place) {
        self.end_personalising(place);
        if let Some(cursor) = self.cursor(place.interface)
            && cursor.logical_channel == place.logical_channel
        {
            *cursor = Cursor::NONE;
        }
        self.blocks.end(place);
    }
}
