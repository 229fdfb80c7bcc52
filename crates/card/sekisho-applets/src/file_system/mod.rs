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
mod layout;
mod manage;
mod open;
mod records;
mod selection;
mod session;
mod tree;

use sekisho_apdu::{CApdu, StatusWord, Writer};
use sekisho_os::{Application, Context, Next, Outcome, Place, Refusal, State};

use command::Command;
use file::Head;
use layout::Part;
use session::{Session, Sessions};
use tree::{Entry, FileNumber, Tree};

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
const MEMORY_FAILURE: Refusal = Refusal(StatusWord::MEMORY_FAILURE);
const NO_MEMORY: Refusal = Refusal(StatusWord::NOT_ENOUGH_MEMORY);

/// The file system with at most `FILES` files, the MF included. All of it is RAM, 8 bytes a file: what finds it, and what sessions may do.
/// The files themselves are in NVM.
#[derive(Debug)]
pub struct FileSystem<const FILES: usize> {
    sessions: Sessions,
    tree: Tree<[Entry; FILES]>,
}

/// What a command works on.
struct Work<'w, 'a> {
    tree: &'w mut Tree,
    session: &'w mut Session,
    context: &'w mut Context<'a>,
    /// A key file of which nothing that was proved with it counts any more.
    revoked: Option<FileNumber>,
}

impl<const FILES: usize> State for FileSystem<FILES> {
    const NEW: Self = {
        assert!(
            FILES > 0 && FILES <= layout::FILES_MAX,
            "a file system has 1 to 32,768 files"
        );
        Self {
            sessions: Sessions::new(),
            tree: Tree::new(),
        }
    };
}

impl<const FILES: usize> Application for FileSystem<FILES> {
    /// Its files come with it, from the factory: no command makes an MF.
    ///
    /// # Errors
    /// 6985 without one, 6581 when the flash fails.
    fn install(&mut self, context: &mut Context<'_>, _: &[u8]) -> Result<(), Refusal> {
        let tree: &mut Tree = &mut self.tree;
        tree.load(context)?;
        match tree.head(context, tree::MF) {
            Ok(_) => Ok(()),
            Err(NOT_FOUND) => Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED)),
            Err(refusal) => Err(refusal),
        }
    }

    /// Answers SELECT by AID with the MF's control information.
    ///
    /// # Errors
    /// 6A82 when there is no MF, 6581 when the flash fails.
    fn select(&mut self, context: &mut Context<'_>, out: &mut Writer<'_>) -> Outcome {
        let tree: &mut Tree = &mut self.tree;
        tree.load(context)?;
        let mf = tree.head(context, tree::MF)?;
        out.tlv_with(0x6F, |w| {
            w.tlv(0x84, context.aid().as_bytes())?;
            mf.control_parameters(w)
        })?;
        Ok(StatusWord::NO_ERROR)
    }

    fn deselect(&mut self, place: Place) {
        self.sessions.end(place, &mut self.tree);
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
        process(&mut self.tree, &mut self.sessions, context, capdu, out)
    }
}

/// Processes a command: one code, however many files there can be.
fn process(
    tree: &mut Tree,
    sessions: &mut Sessions,
    context: &mut Context<'_>,
    capdu: &CApdu<'_>,
    out: &mut Writer<'_>,
) -> Result<Next, Refusal> {
    let command = Command::parse(capdu)?;
    if command.is_shallow() {
        context.shallow();
    }
    tree.load(context)?;
    let session = sessions.of(context, tree);
    let mut work = Work {
        tree,
        session,
        context,
        revoked: None,
    };
    let outcome = work.run(command, out);
    // Also when it is refused: the last wrong try is.
    if let Some(key) = work.revoked {
        work.tree.revoke(key);
        sessions.revoke(key);
    }
    let done = outcome?;
    if let Some(file) = done.file {
        sessions.forget(file);
        tree.touch(file);
    }
    Ok(Next::Done(done.sw))
}

/// How a command ended.
struct Done {
    sw: StatusWord,
    /// A file that is new or gone: nothing that was known of its number is true any more.
    file: Option<FileNumber>,
}

impl From<StatusWord> for Done {
    fn from(sw: StatusWord) -> Self {
        Self { sw, file: None }
    }
}

impl Work<'_, '_> {
    /// The key of this file is another one, blocked or gone: what was proved with it is proved no more, in no session on whatever channel, and
    /// what it has opened ends. The one place from which that is done.
    fn revoke(&mut self, key: FileNumber) {
        self.revoked = Some(key);
        self.context.revoke_messaging(key.0);
    }

    /// The head of a file that there is.
    fn head(&mut self, file: FileNumber) -> Result<Head, Refusal> {
        self.tree.head(self.context, file)
    }

    /// Reads a record of a file that there is: its length, or `None` when there is no such record.
    fn get(&mut self, file: FileNumber, part: Part, out: &mut [u8]) -> Result<Option<usize>, Refusal> {
        let (object, part) = self.tree.layout(file)?.name(file, part);
        self.context.get(object, part, out)
    }

    /// Writes a record of a file that there is.
    fn put(&mut self, file: FileNumber, part: Part, value: &[u8]) -> Result<(), Refusal> {
        let (object, part) = self.tree.layout(file)?.name(file, part);
        self.context.put(object, part, value)
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
