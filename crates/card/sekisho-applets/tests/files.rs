//! The file system and its secure messaging. One program, so that the secure element is linked once.

use sekisho_card_tests as common;

mod file_line;
mod file_opening;
mod file_pages;
mod file_pieces;
mod file_power;
mod file_revocation;
mod file_secrets;
mod file_system;
mod messaging_line;
mod messaging_replay;
