//! Updates and keys. One program, so that the secure element is linked once.

use sekisho_card_tests as common;

mod key_change;
mod keys;
mod leaving;
mod power;
mod power_update;
mod published;
mod put_key;
mod refusals;
mod update_line;
