//! `sekisho fleet`: what an administrator asks of the server.

use anyhow::Result;
use clap::{Parser, Subcommand};
use sekisho_link::{Campaign, SeId};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;

use super::kvn::Kvn;
use crate::admin_client::AdminClient;
use crate::files;

/// Administers a fleet through the server's API
#[derive(Parser)]
pub(crate) struct Args {
    /// The server's administration address [default: http://127.0.0.1:8440]
    #[arg(long, value_name = "http://HOST:PORT", env = "SEKISHO_ADMIN_URL")]
    server: Option<String>,
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
        /// Version of their SCP03 key set, 30 to 3F (two hexadecimal digits)
        #[arg(long, default_value_t = Kvn::FIRST)]
        kvn: Kvn,
    },
    /// List devices, and how many obey which version of the design system's keys
    Devices {
        /// Begin behind this SE
        #[arg(long)]
        after: Option<SeId>,
        /// Those that obey this version of the design system's keys; an SE that has proved none obeys the first
        #[arg(long, value_name = "N")]
        key_version: Option<u32>,
    },
    /// Lift the block of a device
    Unblock {
        /// The SE
        se_id: SeId,
    },
    /// Tell the server that an SE has another SCP03 key set (`sekisho hsm rotate`)
    KeySet {
        /// The SE
        se_id: SeId,
        /// Its key version, 30 to 3F (two hexadecimal digits; JSON has it as a number: 31 is 49)
        kvn: Kvn,
    },
    /// Upload a package
    Upload {
        /// The package
        package: PathBuf,
        /// The designer's public key, 130 hexadecimal digits
        #[arg(long)]
        designer: String,
        /// Version of the design system's keys that SEs obey which take it, where it is another than the server would say
        #[arg(long, value_name = "N")]
        key_version: Option<u32>,
    },
    /// Make a campaign for all devices, or some
    Create {
        /// Its name
        #[arg(long)]
        name: String,
        /// The package, as upload printed it
        #[arg(long)]
        package_id: String,
        /// How many targets go first; 1 if nothing is said, 0 for all at once
        #[arg(long)]
        canary: Option<usize>,
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
    /// Paging: devices, messages, ticket keys
    Paging {
        #[command(subcommand)]
        command: Paging,
    },
    /// Show the last events
    Events {
        /// Of this campaign only
        #[arg(long)]
        campaign: Option<Campaign>,
    },
}

#[derive(Subcommand)]
enum Paging {
    /// Show what the server has counted, lost, and found wrong, and the servers beside it
    Status,
    /// Register SEs for paging
    Register {
        /// SE ids
        #[arg(required = true)]
        se_ids: Vec<SeId>,
        /// Group
        #[arg(long, default_value_t = 0)]
        group: u16,
        /// Their keys change with each poll
        #[arg(long)]
        rolling: bool,
    },
    /// Show a device
    Device {
        /// The SE
        se_id: SeId,
    },
    /// Answer a device no more
    Block {
        /// The SE
        se_id: SeId,
    },
    /// Answer it again
    Unblock {
        /// The SE
        se_id: SeId,
    },
    /// Send a message to a device, a group or everybody
    Send {
        /// What to do
        #[arg(value_parser = ["update", "open-https", "poll-every", "generate-keys", "transport-identity"])]
        action: String,
        /// Seconds of delay or interval, type of keys, number of the identity
        #[arg(default_value_t = 0)]
        argument: u32,
        /// To this SE
        #[arg(long, conflicts_with = "group")]
        to: Option<SeId>,
        /// To this group
        #[arg(long)]
        group: Option<u16>,
        /// From when on, in seconds since 1970
        #[arg(long)]
        not_before: Option<u64>,
        /// Until when
        #[arg(long)]
        expires: Option<u64>,
    },
    /// Give devices to a local server: writes what it needs to answer for them, and sends them there. They may be asked at either from then on
    Delegate {
        /// The SEs
        #[arg(required = true)]
        se_ids: Vec<SeId>,
        /// Domain of the local server
        #[arg(long, value_parser = clap::value_parser!(u8).range(1..))]
        domain: u8,
        #[command(flatten)]
        file: super::paging_local::Give,
    },
    /// Take devices back from local servers: the next poll here brings them home
    Recall {
        /// The SEs
        #[arg(required = true)]
        se_ids: Vec<SeId>,
    },
    /// Take a message back
    Withdraw {
        /// Its order
        order: u32,
    },
    /// Make the next ticket key: accepted at once, issued under when every server has it
    Rotate,
    /// Accept a ticket key no more: devices that still sleep with its identities come back by recovery
    Retire {
        /// Its epoch
        epoch: u32,

        /// The local server's domain that it is of; its newest too, when no device is there any more
        #[arg(long, value_name = "N", default_value_t = 0)]
        domain: u8,
    },
}

fn paging(client: &AdminClient, command: &Paging) -> Result<Value> {
    match command {
        Paging::Status => client.get("paging"),
        Paging::Register {
            se_ids,
            group,
            rolling,
        } => {
            let ids: Vec<_> = se_ids.iter().map(SeId::to_string).collect();
            let wanted = json!({ "se_ids": ids, "group": group, "rolling": rolling });
            client.post("paging/devices", wanted.to_string().as_bytes())
        }
        Paging::Device { se_id } => client.get(&format!("paging/devices/{se_id}")),
        Paging::Block { se_id } => client.post(&format!("paging/devices/{se_id}/block"), b""),
        Paging::Unblock { se_id } => client.post(&format!("paging/devices/{se_id}/unblock"), b""),
        Paging::Send {
            action,
            argument,
            to,
            group,
            not_before,
            expires,
        } => {
            let wanted = json!({
                "se_id": to.map(|id| id.to_string()), "group": group, "action": action, "argument": argument,
                "not_before": not_before, "expires": expires,
            });
            client.post("paging/messages", wanted.to_string().as_bytes())
        }
        Paging::Delegate { se_ids, domain, file } => super::paging_local::give(client, se_ids, *domain, file),
        Paging::Recall { se_ids } => {
            super::paging_local::move_to(client, se_ids, 0)?;
            Ok(json!({ "recalled": se_ids.len() }))
        }
        Paging::Withdraw { order } => client.delete(&format!("paging/messages/{order}")),
        Paging::Rotate => client.post("paging/ticket-keys", b""),
        Paging::Retire { epoch, domain } => client.delete(&format!("paging/ticket-keys/{domain}/{epoch}")),
    }
}

fn server(args: &Args) -> Result<String> {
    if let Some(server) = &args.server {
        return Ok(server.clone());
    }
    super::refuse_variable("SEKISHO_SERVER", "SEKISHO_ADMIN_URL, or give --server")?;
    Ok("http://127.0.0.1:8440".to_owned())
}

#[allow(clippy::print_stdout)]
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let token = files::read_secret(&args.token_file)?;
    let client = AdminClient::new(&server(args)?, token.trim());
    let answer = match &args.command {
        Command::Register { se_ids, kvn } => {
            let devices: Vec<_> = se_ids
                .iter()
                .map(|id| json!({ "se_id": id.to_string(), "kvn": kvn.0 }))
                .collect();
            client.post("devices", json!(devices).to_string().as_bytes())?
        }
        Command::Devices { after, key_version } => {
            let after = after.map(|id| format!("after={id}"));
            let key_version = key_version.map(|version| format!("key_version={version}"));
            let which: Vec<_> = [after, key_version].into_iter().flatten().collect();
            client.get(&format!("devices?{}", which.join("&")))?
        }
        Command::Unblock { se_id } => client.post(&format!("devices/{se_id}/unblock"), b"")?,
        Command::KeySet { se_id, kvn } => {
            let wanted = json!({ "kvn": kvn.0 });
            client.post(&format!("devices/{se_id}/key-set"), wanted.to_string().as_bytes())?
        }
        Command::Upload {
            package,
            designer,
            key_version,
        } => {
            let key_version = key_version.map(|version| format!("&key_version={version}"));
            let which = format!("packages?designer={designer}{}", key_version.unwrap_or_default());
            client.post(&which, &files::read(package)?)?
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
            let p_mob = p_mob.as_deref().map(files::read).transpose()?.unwrap_or_default();
            let mut wanted = json!({
                "name": name, "package_id": package_id, "success_threshold": success_threshold, "error_threshold": error_threshold,
                "p_mob": hex::encode(p_mob),
            });
            if let Some(canary) = canary {
                wanted["canary"] = (*canary).into();
            }
            if !target.is_empty() {
                wanted["targets"] = target.iter().map(|id| Value::from(id.to_string())).collect();
            }
            client.post("campaigns", wanted.to_string().as_bytes())?
        }
        Command::Do { verb, campaign } => client.post(&format!("campaigns/{campaign}/{verb}"), b"")?,
        Command::Show { campaign } => {
            client.get(&campaign.map_or_else(|| "campaigns".to_owned(), |id| format!("campaigns/{id}")))?
        }
        Command::Paging { command } => paging(&client, command)?,
        Command::Events { campaign } => {
            client.get(&campaign.map_or_else(|| "events".to_owned(), |id| format!("events?campaign={id}")))?
        }
    };
    if !answer.is_null() {
        println!("{}", serde_json::to_string_pretty(&answer)?);
    }
    Ok(ExitCode::SUCCESS)
}
