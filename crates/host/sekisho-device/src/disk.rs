//! The spool as a directory.
//!
//! ```text
//! lock                   held by the agent that uses the spool
//! report                 ST, not reported yet
//! <campaign>/part        delivery so far
//! <campaign>/etag        entity tag of part
//! <campaign>/delivery    the whole delivery
//! <campaign>/handed-over P_MOB is with the device
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sekisho_link::Campaign;

use crate::spool::Spool;

/// Longest entity tag that is kept.
const ETAG_MAX: u64 = 256;
/// Longest status that is read back.
const REPORT_MAX: u64 = 4096;

/// A spool that is a directory, with one user at a time.
#[derive(Debug)]
pub struct DiskSpool {
    root: PathBuf,
    campaign: Option<PathBuf>,
    limit: u64,
    _lock: File,
}

impl DiskSpool {
    /// Opens or makes the spool. A delivery of more than `limit` bytes is not read back.
    ///
    /// # Errors
    /// When the directory cannot be used, or another agent uses it.
    pub fn open(root: &Path, limit: u32) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(root.join("lock"))?;
        lock.try_lock()
            .map_err(|_| io::Error::new(io::ErrorKind::ResourceBusy, "another agent uses it"))?;
        Ok(Self {
            root: root.to_owned(),
            campaign: None,
            limit: limit.into(),
            _lock: lock,
        })
    }

    fn file(&self, name: &str) -> io::Result<PathBuf> {
        let directory = self
            .campaign
            .as_ref()
            .ok_or_else(|| io::Error::other("no campaign was turned to"))?;
        Ok(directory.join(name))
    }
}

impl Spool for DiskSpool {
    fn turn_to(&mut self, campaign: Campaign) -> io::Result<()> {
        let name = campaign.to_string();
        for entry in fs::read_dir(&self.root)? {
            let other = entry?.file_name();
            let is_campaign = other
                .to_str()
                .is_some_and(|text| text.parse::<Campaign>().is_ok());
            if is_campaign && other != *name {
                fs::remove_dir_all(self.root.join(other))?;
            }
        }
        let directory = self.root.join(name);
        fs::create_dir_all(&directory)?;
        self.campaign = Some(directory);
        Ok(())
    }

    fn delivery(&mut self) -> io::Result<Option<Vec<u8>>> {
        read(&self.file("delivery")?, self.limit)
    }

    fn partial(&mut self) -> io::Result<(u64, Option<String>)> {
        let etag = read(&self.file("etag")?, ETAG_MAX)?.and_then(|bytes| String::from_utf8(bytes).ok());
        match fs::metadata(self.file("part")?) {
            Ok(part) => Ok((part.len(), etag)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((0, None)),
            Err(error) => Err(error),
        }
    }

    fn restart(&mut self, etag: Option<&str>) -> io::Result<()> {
        // In this order: a crash in between leaves nothing that the old tag could be taken for.
        for name in ["delivery", "part", "etag"] {
            remove(&self.file(name)?)?;
        }
        match etag {
            Some(etag) => write(&self.file("etag")?, etag.as_bytes()),
            None => Ok(()),
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.file("part")?)?
            .write_all(bytes)
    }

    fn complete(&mut self) -> io::Result<()> {
        let part = self.file("part")?;
        File::open(&part)?.sync_all()?;
        fs::rename(&part, self.file("delivery")?)?;
        sync_directory(&part)
    }

    fn is_handed_over(&mut self) -> io::Result<bool> {
        self.file("handed-over")?.try_exists()
    }

    fn set_handed_over(&mut self) -> io::Result<()> {
        write(&self.file("handed-over")?, &[])
    }

    fn clear(&mut self) -> io::Result<()> {
        match self.campaign.take() {
            Some(directory) => fs::remove_dir_all(directory),
            None => Ok(()),
        }
    }

    fn report(&mut self) -> io::Result<Option<Vec<u8>>> {
        read(&self.root.join("report"), REPORT_MAX)
    }

    fn set_report(&mut self, status: Option<&[u8]>) -> io::Result<()> {
        let path = self.root.join("report");
        match status {
            Some(status) => write(&path, status),
            None => remove(&path),
        }
    }
}

/// Puts P_MOB into a directory, as `<campaign>.pmob`: there is the whole file, or none. Returns its name.
///
/// # Errors
/// When the directory cannot be written.
pub fn hand_over(directory: &Path, campaign: Campaign, p_mob: &[u8]) -> io::Result<PathBuf> {
    fs::create_dir_all(directory)?;
    let path = directory.join(format!("{campaign}.pmob"));
    write(&path, p_mob)?;
    Ok(path)
}

/// Writes a file so that there is the old one or the new one, whole.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_directory(path)
}

fn read(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes a renamed file's new name last.
fn sync_directory(path: &Path) -> io::Result<()> {
    path.parent()
        .map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}
