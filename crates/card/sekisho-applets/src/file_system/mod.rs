//! The file system: MF, DFs and EFs of ISO/IEC 7816-4 with access rules, and the way into secure messaging (`docs/spec/file-system-applet.md`).
//!
//! A file that can be read is a WEF (working elementary file), a key or a PIN is an IEF (internal elementary file), which no command reads. What
//! a reader has selected and proved belongs to its application session, on its own interface and logical channel: readers do not disturb
//! each other.

mod access;
mod binary;
mod command;
mod file;
pub mod image;
mod keys;
mod manage;
mod open;
mod records;
mod selection;
mod session;
mod tree;

use sekisho_apdu::{CApdu, StatusWord, Writer};
use sekisho_os::{Application, Context, Next, Outcome, Place, Refusal, State};

use command::Command;
use session::{Session, Sessions};
use tree::Tree;

/// AID of the application: F0 "SKOS" 04 01.
pub const AID: &[u8] = b"\xF0SKOS\x04\x01";
/// AID of its executable load file.
pub const LOAD_FILE_AID: &[u8] = b"\xF0SKOS\x04";

const NOT_FOUND: Refusal = Refusal(StatusWord::FILE_NOT_FOUND);
const NOT_ALLOWED: Refusal = Refusal(StatusWord::SECURITY_STATUS_NOT_SATISFIED);
const CONDITIONS: Refusal = Refusal(StatusWord::CONDITIONS_NOT_SATISFIED);
const WRONG_DATA: Refusal = Refusal(StatusWord::INCORRECT_DATA);
const WRONG_LENGTH: Refusal = Refusal(StatusWord::WRONG_LENGTH);
const WRONG_P1P2: Refusal = Refusal(StatusWord::INCORRECT_P1P2);
const NO_MEMORY: Refusal = Refusal(StatusWord::NOT_ENOUGH_MEMORY);

/// The file system. All of it is RAM: what a session may do, and the files' heads as NVM has them.
#[derive(Debug)]
pub struct FileSystem {
    tree: Tree,
    sessions: Sessions,
}

/// What a command works on.
struct Work<'w, 'a> {
    tree: &'w Tree,
    session: &'w mut Session,
    context: &'w mut Context<'a>,
    /// A key file of which nothing that was proved with it counts any more.
    revoked: Option<u8>,
}

impl State for FileSystem {
    const NEW: Self = Self {
        tree: Tree::new(),
        sessions: Sessions::new(),
    };
}

impl Application for FileSystem {
    /// Answers SELECT by AID with the MF's control information.
    ///
    /// # Errors
    /// 6A82 when there is no MF, 6581 when the flash fails.
    fn select(&mut self, context: &mut Context<'_>, out: &mut Writer<'_>) -> Outcome {
        self.tree.load(context)?;
        let mf = self.tree.get(tree::MF).ok_or(NOT_FOUND)?;
        out.tlv_with(0x6F, |w| {
            w.tlv(0x84, context.aid().as_bytes())?;
            mf.control_parameters(w)
        })?;
        Ok(StatusWord::NO_ERROR)
    }

    fn deselect(&mut self, place: Place) {
        self.sessions.end(place);
    }

    /// Processes a command.
    ///
    /// # Errors
    /// The status word of the refusal.
    fn process(
        &mut self,
        context: &mut Context<'_>,
        capdu: &CApdu<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        let command = Command::parse(capdu)?;
        if command.is_shallow() {
            context.shallow();
        }
        self.tree.load(context)?;
        let changes = matches!(command, Command::CreateFile(_) | Command::DeleteFile(_));
        let mut work = Work {
            tree: &self.tree,
            session: self.sessions.of(context),
            context,
            revoked: None,
        };
        let outcome = work.run(command, out);
        // Also when it is refused: the last wrong try is.
        if let Some(key) = work.revoked {
            self.sessions.revoke(key);
        }
        if changes {
            // What NVM has is known again when the command has been committed, or dropped.
            if let Ok(gone) = &outcome {
                self.sessions.forget(gone.file);
            }
            self.tree.unload();
        }
        outcome.map(|done| Next::Done(done.sw))
    }
}

/// How a command ended.
struct Done {
    sw: StatusWord,
    /// A file that is new or gone: nothing that was known of its number is true any more.
    file: Option<u8>,
}

impl From<StatusWord> for Done {
    fn from(sw: StatusWord) -> Self {
        Self { sw, file: None }
    }
}

impl Work<'_, '_> {
    /// The key of this file is another one, blocked or gone: what was proved with it is proved no more, in no session on whatever channel, and
    /// what it has opened ends. The one place from which that is done.
    fn revoke(&mut self, key: u8) {
        self.revoked = Some(key);
        self.context.revoke_messaging(key.into());
    }

    fn run(&mut self, command: Command<'_>, out: &mut Writer<'_>) -> Result<Done, Refusal> {
        let sw = match command {
            Command::SelectFile { how, answer } => self.select_file(how, answer, out)?,
            Command::ReadBinary { at, ne } => self.read_binary(at, ne, out)?,
            Command::WriteBinary { at, data } => self.write_binary(at, data, false)?,
            Command::UpdateBinary { at, data } => self.write_binary(at, data, true)?,
            Command::ReadRecord { at, ne } => self.read_record(at, ne, out)?,
            Command::WriteRecord { at, data } => self.write_record(at, data, false)?,
            Command::UpdateRecord { at, data } => self.write_record(at, data, true)?,
            Command::AppendRecord { sfi, data } => self.append_record(sfi, data)?,
            Command::Verify { key, data } => self.verify(key, data)?,
            Command::ChangePin { key, data } => self.change_pin(key, data)?,
            Command::SetKey { key, value } => self.set_key(key, value)?,
            Command::ResetRetryCounter(key) => self.reset_retry_counter(key)?,
            Command::GetChallenge(len) => self.get_challenge(len, out)?,
            Command::ExternalAuthenticate { key, data } => self.external_authenticate(key, data)?,
            Command::InternalAuthenticate { key, data } => self.internal_authenticate(key, data, out)?,
            Command::SessionKeyDecryption(capdu) => self.open_messaging(&capdu, out)?,
            Command::RefreshKeys(data) => self.refresh_keys(data, out)?,
            Command::CreateFile(fcp) => return self.create_file(fcp),
            Command::DeleteFile(fid) => return self.delete_file(fid),
        };
        Ok(sw.into())
    }
}
