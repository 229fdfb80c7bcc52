//! What belongs to no other program. One program, so that the secure element is linked once.

use sekisho_card_tests as common;

mod command_table;
mod data_objects;
mod limits;
mod load_tables;
mod sec_app;
mod skips;
mod status_tables;
