//! Which command exists in which class, card life cycle state and security status (GPC Tables 11-1 and 11-2).

use sekisho_apdu::gp::{CardLifeCycle, ins};
use sekisho_apdu::{CApdu, StatusWord};
use sekisho_os::Refusal;

/// The class bytes that a command has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    /// 80 and its like alone.
    GlobalPlatform,
    /// 00 and its like alone.
    Interindustry,
    /// Either.
    Both,
}

/// How far the card's life may have gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Until {
    /// OP_READY, INITIALIZED, SECURED.
    Secured,
    /// These and CARD_LOCKED: what is needed to look at a locked card and to unlock it.
    Locked,
    /// Always.
    Terminated,
}

/// What the security status has to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Access {
    /// Anything; the command looks for itself if at all.
    Anyone,
    /// No open secure channel through which the command came: it opens one.
    Clear,
    /// An open secure channel.
    Authenticated,
    /// An open secure channel whose commands have a C-MAC: whoever is in the line of one without (level 00) is not to change anything.
    Protected,
}

/// How a command came.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Came {
    /// Through no open secure channel.
    Clear,
    /// Through one of level 00.
    Authenticated,
    /// Through one with C-MAC.
    Protected,
}

struct Rule {
    ins: u8,
    class: Class,
    until: Until,
    access: Access,
}

const fn rule(ins: u8, class: Class, until: Until, access: Access) -> Rule {
    Rule {
        ins,
        class,
        until,
        access,
    }
}

const RULES: [Rule; 15] = [
    rule(ins::SELECT, Class::Interindustry, Until::Secured, Access::Anyone),
    rule(ins::GET_DATA, Class::Both, Until::Terminated, Access::Anyone),
    rule(
        ins::INITIALIZE_UPDATE,
        Class::GlobalPlatform,
        Until::Locked,
        Access::Clear,
    ),
    rule(
        ins::EXTERNAL_AUTHENTICATE,
        Class::GlobalPlatform,
        Until::Locked,
        Access::Clear,
    ),
    rule(
        ins::GET_STATUS,
        Class::GlobalPlatform,
        Until::Locked,
        Access::Authenticated,
    ),
    rule(
        ins::SET_STATUS,
        Class::GlobalPlatform,
        Until::Locked,
        Access::Protected,
    ),
    rule(
        ins::PUT_KEY,
        Class::GlobalPlatform,
        Until::Secured,
        Access::Protected,
    ),
    rule(
        ins::DELETE,
        Class::GlobalPlatform,
        Until::Secured,
        Access::Protected,
    ),
    rule(
        ins::INSTALL,
        Class::GlobalPlatform,
        Until::Secured,
        Access::Protected,
    ),
    rule(
        ins::LOAD,
        Class::GlobalPlatform,
        Until::Secured,
        Access::Protected,
    ),
    rule(ins::STORE_DATA, Class::Both, Until::Secured, Access::Protected),
    // Its own code says who may.
    rule(
        ins::SET_PAIRING,
        Class::GlobalPlatform,
        Until::Secured,
        Access::Anyone,
    ),
    // The update's own rules (broadcast update, 2.1 to 2.3): which secure channel, at which level.
    rule(
        ins::CHANGE_MODE,
        Class::GlobalPlatform,
        Until::Secured,
        Access::Anyone,
    ),
    rule(ins::WRITE, Class::GlobalPlatform, Until::Secured, Access::Anyone),
    rule(
        ins::AUTHORIZE_ACTION,
        Class::GlobalPlatform,
        Until::Secured,
        Access::Anyone,
    ),
];

/// Checks instruction, class, life cycle and security status, in this order.
pub(super) fn check(capdu: &CApdu<'_>, life_cycle: CardLifeCycle, came: Came) -> Result<(), Refusal> {
    let rule = RULES
        .iter()
        .find(|rule| rule.ins == capdu.ins)
        .ok_or(Refusal(StatusWord::INS_NOT_SUPPORTED))?;
    let class_fits = match rule.class {
        Class::GlobalPlatform => capdu.cla.proprietary(),
        Class::Interindustry => !capdu.cla.proprietary(),
        Class::Both => true,
    };
    if !class_fits {
        return Err(Refusal(StatusWord::CLA_NOT_SUPPORTED));
    }
    let last = match rule.until {
        Until::Secured => CardLifeCycle::Secured,
        Until::Locked => CardLifeCycle::CardLocked,
        Until::Terminated => CardLifeCycle::Terminated,
    };
    if life_cycle > last || (rule.access == Access::Clear && came != Came::Clear) {
        return Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED));
    }
    let least = match rule.access {
        Access::Anyone | Access::Clear => Came::Clear,
        Access::Authenticated => Came::Authenticated,
        Access::Protected => Came::Protected,
    };
    if came < least {
        return Err(Refusal(StatusWord::SECURITY_STATUS_NOT_SATISFIED));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::fmt::Write as _;
    use sekisho_apdu::Cla;
    use std::string::String;

    /// The whole table, as it is: instruction, class, state, without and with a secure channel. A change shows here, line by line.
    #[test]
    fn table_of_commands_and_states() {
        let states = [
            CardLifeCycle::OpReady,
            CardLifeCycle::Initialized,
            CardLifeCycle::Secured,
            CardLifeCycle::CardLocked,
            CardLifeCycle::Terminated,
        ];
        let mut table = String::from("CLA INS | OP_READY  INITIALIZ SECURED   CARD_LOCK TERMINATE\n");
        for rule in &RULES {
            for cla in [0x00, 0x80] {
                write!(table, " {cla:02X} {:02X}  |", rule.ins).unwrap();
                for state in states {
                    let sw = |came| match check(&CApdu::new(Cla(cla), rule.ins, 0, 0), state, came) {
                        Ok(()) => StatusWord::NO_ERROR,
                        Err(refusal) => refusal.0,
                    };
                    write!(table, " {} {}", sw(Came::Clear), sw(Came::Protected)).unwrap();
                }
                table.push('\n');
            }
        }
        assert_eq!(table, include_str!("rules.snapshot"), "\n{table}");
    }

    #[test]
    fn a_channel_without_mac_changes_nothing() {
        for ins in [
            ins::SET_STATUS,
            ins::PUT_KEY,
            ins::DELETE,
            ins::INSTALL,
            ins::LOAD,
            ins::STORE_DATA,
        ] {
            let at_level_00 = check(
                &CApdu::new(Cla(0x80), ins, 0, 0),
                CardLifeCycle::OpReady,
                Came::Authenticated,
            );
            assert_eq!(
                at_level_00,
                Err(Refusal(StatusWord::SECURITY_STATUS_NOT_SATISFIED)),
                "{ins:02X}"
            );
        }
    }

    #[test]
    fn what_is_not_in_the_table_is_not_there() {
        for ins in (0..=0xFF).filter(|ins| RULES.iter().all(|rule| rule.ins != *ins)) {
            let refused = check(
                &CApdu::new(Cla(0x80), ins, 0, 0),
                CardLifeCycle::OpReady,
                Came::Protected,
            );
            assert_eq!(refused, Err(Refusal(StatusWord::INS_NOT_SUPPORTED)));
        }
    }
}
