//! `sekisho fleet`: what an administrator asks of the server.

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use sekisho_link::{Campaign, SeId};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::admin_client::AdminClient;

/// Administers a fleet through the server's API
#[derive(Parser)]
pub(crate) struct Args {
    /// The server's administration address
    #[arg(long, env = "SEKISHO_SERVER", default_value = "http://127.0.0.1:8440")]
    server: String,
    /// File with the administrators' token
    #[arg(long, default_value = "sekisho-server/admin.token")]
    token_file: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Register SEs; prints the link token of each
    Register {
        /// SE ids, 20 hexadecimal digits each
        #[arg(required = true)]
        se_ids: Vec<SeId>,
        /// KVN of their SCP03 key set
        #[arg(long, default_value_t = sekisho_hsm::KVN_SCP)]
        kvn: u8,
    },
    /// List devices
    Devices {
        /// Begin behind this SE
        #[arg(long)]
        after: Option<SeId>,
    },
    /// Lift the block of a device
    Unblock {
        /// The SE
        se_id: SeId,
    },
    /// Upload a package
    Upload {
        /// The package
        package: PathBuf,
        /// The designer's public key, 130 hexadecimal digits
        #[arg(long)]
        designer: String,
    },
    /// Make a campaign for all devices, or some
    Create {
        /// Its name
        #[arg(long)]
        name: String,
        /// The package, as upload printed it
        #[arg(long)]
        package_id: String,
        /// How many targets go first
        #[arg(long, default_value_t = 1)]
        canary: usize,
        /// Per cent of them that must be updated before the rest follows
        #[arg(long, default_value_t = 90)]
        success_threshold: u8,
        /// Failed targets at which it pauses itself
        #[arg(long, default_value_t = 100)]
        error_threshold: u32,
        /// Targets; all devices when there are none
        #[arg(long)]
        target: Vec<SeId>,
        /// File with data for the devices themselves (P_MOB)
        #[arg(long)]
        p_mob: Option<PathBuf>,
    },
    /// Start, pause, resume, abort or retry a campaign
    #[command(name = "do")]
    Do {
        /// start, pause, resume, abort, retry
        #[arg(value_parser = ["start", "pause", "resume", "abort", "retry"])]
        verb: String,
        /// The campaign
        campaign: Campaign,
    },
    /// Show a campaign, or all
    Show {
        /// The campaign
        campaign: Option<Campaign>,
    },
    /// Show the last events
    Events {
        /// Of this campaign only
        #[arg(long)]
        campaign: Option<Campaign>,
    },
}

#[allow(clippy::print_stdout)]
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let token = String::from_utf8(read(&args.token_file)?).context("the token file holds no text")?;
    let client = AdminClient::new(&args.server, token.trim());
    let answer = match &args.command {
        Command::Register { se_ids, kvn } => {
            let devices: Vec<_> = se_ids
                .iter()
                .map(|id| json!({ "se_id": id.to_string(), "kvn": kvn }))
                .collect();
            client.post("devices", json!(devices).to_string().as_bytes())?
        }
        Command::Devices { after } => {
            client.get(&after.map_or_else(|| "devices".to_owned(), |id| format!("devices?after={id}")))?
        }
        Command::Unblock { se_id } => client.post(&format!("devices/{se_id}/unblock"), b"")?,
        Command::Upload { package, designer } => {
            client.post(&format!("packages?designer={designer}"), &read(package)?)?
        }
        Command::Create {
            name,
            package_id,
            canary,
            success_threshold,
            error_threshold,
            target,
            p_mob,
        } => {
            let p_mob = p_mob.as_deref().map(read).transpose()?.unwrap_or_default();
            let mut wanted = json!({
                "name": name, "package_id": package_id, "canary": canary, "success_threshold": success_threshold,
                "error_threshold": error_threshold, "p_mob": hex::encode(p_mob),
            });
            if !target.is_empty() {
                wanted["targets"] = target.iter().map(|id| Value::from(id.to_string())).collect();
            }
            client.post("campaigns", wanted.to_string().as_bytes())?
        }
        Command::Do { verb, campaign } => client.post(&format!("campaigns/{campaign}/{verb}"), b"")?,
        Command::Show { campaign } => {
            client.get(&campaign.map_or_else(|| "campaigns".to_owned(), |id| format!("campaigns/{id}")))?
        }
        Command::Events { campaign } => {
            client.get(&campaign.map_or_else(|| "events".to_owned(), |id| format!("events?campaign={id}")))?
        }
    };
    if !answer.is_null() {
        println!("{}", serde_json::to_string_pretty(&answer)?);
    }
    Ok(ExitCode::SUCCESS)
}
