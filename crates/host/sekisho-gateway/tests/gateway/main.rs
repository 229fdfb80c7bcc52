//! The gateway against clients that answer, lie, hurry, dawdle and vanish. An SE of ours is beside it in `apps/sekisho/tests`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod proof;
mod request;
mod sessions;
mod world;
