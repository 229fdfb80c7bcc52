//! Developer tasks: `cargo xtask layers | tidy | pages | applets | firmware`.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)]

mod applets;
mod circles;
mod firmware;
mod layers;
mod pages;
mod tidy;
mod unsafe_code;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

#[derive(Parser)]
#[command(name = "xtask", about = "Developer tasks of the Sekisho workspace")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Checks that dependencies point one way: wire <- proto <- card, wire <- proto <- host <- apps.
    Layers,
    /// Checks file and function lengths, leftover marks and IO below the host ring.
    Tidy,
    /// Checks that the pages' links lead somewhere and that each threat of SECURITY.md names tests that exist.
    Pages,
    /// Builds the OS parts in applets/ for wasm32.
    Applets {
        /// Builds nothing anew: compares what is built with what is committed.
        #[arg(long)]
        check: bool,
    },
    /// Builds the images of firmware/ and holds them to firmware/budget.toml; plays conversations to them.
    Firmware {
        #[command(subcommand)]
        what: Option<firmware::What>,
    },
}

/// The workspace's root folder.
fn root() -> PathBuf {
    let manifest = PathBuf::from(
        std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()),
    );
    manifest.parent().map(PathBuf::from).unwrap_or(manifest)
}

/// Cargo, in the environment in which this program was started itself. `cargo run` has added what package it runs, and there are build scripts that are run again where that is
/// another (ring's): half of the workspace would be compiled anew for it, and once more for who comes next.
fn cargo() -> Command {
    let mut cargo = Command::new("cargo");
    let of_the_package = |name: &OsString| {
        let name = name.to_string_lossy();
        ["CARGO_PKG_", "CARGO_MANIFEST_"]
            .iter()
            .any(|begin| name.starts_with(begin))
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| of_the_package(name)) {
        cargo.env_remove(name);
    }
    cargo
}

/// The same, with the compiler as it is, for what ships: `scripts/test` has Clippy's driver compile what is tested, and that optimises less.
fn plain_cargo() -> Command {
    let mut cargo = cargo();
    cargo.env_remove("RUSTC_WORKSPACE_WRAPPER");
    cargo
}

fn main() -> Result<()> {
    match Cli::parse().task {
        Task::Layers => layers::check(&root()),
        Task::Tidy => tidy::check(&root()),
        Task::Pages => pages::check(&root()),
        Task::Applets { check } => applets::run(&root(), check),
        Task::Firmware { what } => firmware::run(&root(), what.unwrap_or(firmware::What::All)),
    }
}
