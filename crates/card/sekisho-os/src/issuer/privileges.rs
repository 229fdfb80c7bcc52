//! What an entry of the registry can be given beside its place in it: privileges, and where it answers (GPC 11.5.2.3.6, registry update).

use sekisho_apdu::gp::Privileges;
use sekisho_apdu::{StatusWord, Writer};

use super::manage::{ContentManagement, put_entry, refused, within};
use crate::application::Context;
use crate::refusal::Refusal;
use crate::registry::{Entry, FACTORY_INDEX, ImplicitSelection, InterfaceAccess, Module};

/// What makes a security domain, with how it looks at what is loaded (GPC 9.2.2), and whether it manages by token what is its own.
const DOMAINS: [Privileges; 6] = [
    Privileges::SECURITY_DOMAIN,
    Privileges::DAP_VERIFICATION,
    Privileges::MANDATED_DAP_VERIFICATION,
    Privileges::DELEGATED_MANAGEMENT,
    Privileges::DELEGATED_MANAGEMENT.union(Privileges::DAP_VERIFICATION),
    Privileges::DELEGATED_MANAGEMENT.union(Privileges::MANDATED_DAP_VERIFICATION),
];

/// What a security domain can have beside.
const OF_ALL: Privileges = Privileges::GLOBAL_DELETE.union(Privileges::GLOBAL_LOCK);

/// Whether an application of this module can have these privileges.
pub(super) fn may_have(module: Module, privileges: Privileges) -> bool {
    let own = privileges.without(Privileges::CARD_RESET);
    match module {
        Module::CARD_MANAGER => DOMAINS.contains(&own.without(OF_ALL)),
        _ => own == Privileges::NONE,
    }
}

/// What INSTALL `[for registry update]` changes of an application.
#[derive(Clone, Copy, Debug)]
pub struct RegistryUpdate<'d> {
    /// Its AID.
    pub application: &'d [u8],
    /// AID of the security domain that is to have it; none: it stays.
    pub domain: &'d [u8],
    /// Privileges in the place of those that it has.
    pub privileges: Option<Privileges>,
    /// Where it is to answer.
    pub access: Option<InterfaceAccess>,
    /// Where it is to be selected without being named.
    pub implicit: Option<ImplicitSelection>,
    /// The fields of the command for privileges and parameters, as they came.
    pub fields: [&'d [u8]; 2],
}

impl ContentManagement<'_, '_> {
    /// INSTALL `[for registry update]`, and its answer: all of it in one step.
    ///
    /// # Errors
    /// As of [`ContentManagement::extradite`] where it is to have another domain; 6A88 when there is no such application within the domain; 6A80 for privileges that it cannot have; 6985 for
    /// privileges and implicit selection of what came with the operating system, and where another application is selected without being named already.
    pub fn update(&mut self, new: &RegistryUpdate<'_>, out: &mut Writer<'_>) -> Result<(), Refusal> {
        let (index, mut entry) = within(self.context, new.application)?;
        let from = self.aid_of(entry.security_domain)?;
        if !new.domain.is_empty() {
            entry = self.moved(index, &entry, new.domain)?;
        }
        if let Some(privileges) = new.privileges {
            if index < FACTORY_INDEX {
                return Err(refused());
            }
            if !may_have(entry.module, privileges) {
                return Err(Refusal(StatusWord::INCORRECT_DATA));
            }
            entry.privileges = privileges;
        }
        entry.access = new.access.unwrap_or(entry.access);
        if let Some(implicit) = new.implicit {
            if !self.may_be_selected(index, implicit) {
                return Err(refused());
            }
            entry.implicit = implicit;
        }
        put_with_reset(self.context, index, &entry)?;
        let to = self.aid_of(entry.security_domain)?;
        let to = if new.domain.is_empty() { &[] } else { to.as_bytes() };
        let [privileges, parameters] = new.fields;
        let from = from.as_bytes();
        self.confirm(&[from, new.application, to, privileges, parameters], out)
    }
}

/// Writes an entry; the privilege Card Reset, which one application has, goes from who has it.
pub(super) fn put_with_reset(context: &mut Context<'_>, index: u8, entry: &Entry) -> Result<(), Refusal> {
    if let Some((before, without)) = context.system.container.registry.loses_reset(index, entry) {
        put_entry(context, before, &without)?;
    }
    put_entry(context, index, entry)
}
