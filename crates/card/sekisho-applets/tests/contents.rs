//! Containers, domains, applications and interfaces. One program, so that the secure element is linked once.

use sekisho_card_tests as common;

mod asking;
mod behind_the_mac;
mod bulk;
mod bulk_quotas;
mod calls;
mod containers;
mod content;
mod content_commands;
mod content_power;
mod delegated;
mod domains;
mod every_instruction;
mod implicit;
mod instances;
mod interfaces;
mod load_commands;
mod loadable;
mod loaded;
mod loaded_calls;
mod names_kept;
mod notes;
mod personalisation;
mod privileges;
mod quotas;
mod receipts;
mod transient;
mod without_le;
