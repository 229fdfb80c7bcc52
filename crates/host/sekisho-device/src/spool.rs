//! What survives between the agent's turns.

use std::io;

use sekisho_link::Campaign;

/// What survives between the agent's turns: the delivery of one campaign, whole or in part, and the status that is not reported yet.
///
/// Each call is finished when it returns: on disk, a crash leaves the state before or after it.
pub trait Spool {
    /// Turns to a campaign. What is kept of another one goes, as it is of no use any more.
    ///
    /// # Errors
    /// When the storage fails; so with every method.
    fn turn_to(&mut self, campaign: Campaign) -> io::Result<()>;

    /// The whole delivery, once [`Spool::complete`] has been called.
    ///
    /// # Errors
    /// When the storage fails.
    fn delivery(&mut self) -> io::Result<Option<Vec<u8>>>;

    /// How many bytes of a delivery are there, and the entity tag under which they were got.
    ///
    /// # Errors
    /// When the storage fails.
    fn partial(&mut self) -> io::Result<(u64, Option<String>)>;

    /// Begins a delivery again, under an entity tag.
    ///
    /// # Errors
    /// When the storage fails.
    fn restart(&mut self, etag: Option<&str>) -> io::Result<()>;

    /// Adds bytes to the partial delivery.
    ///
    /// # Errors
    /// When the storage fails.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes the partial delivery the whole one.
    ///
    /// # Errors
    /// When the storage fails.
    fn complete(&mut self) -> io::Result<()>;

    /// Whether P_MOB has been handed over.
    ///
    /// # Errors
    /// When the storage fails.
    fn is_handed_over(&mut self) -> io::Result<bool>;

    /// Remembers that it has.
    ///
    /// # Errors
    /// When the storage fails.
    fn set_handed_over(&mut self) -> io::Result<()>;

    /// Forgets everything of the campaign.
    ///
    /// # Errors
    /// When the storage fails.
    fn clear(&mut self) -> io::Result<()>;

    /// The status that has to be reported, whatever the campaign.
    ///
    /// # Errors
    /// When the storage fails.
    fn report(&mut self) -> io::Result<Option<Vec<u8>>>;

    /// Sets it, or forgets it.
    ///
    /// # Errors
    /// When the storage fails.
    fn set_report(&mut self, status: Option<&[u8]>) -> io::Result<()>;
}

/// A spool that lasts as long as the process.
#[derive(Debug, Default)]
pub struct MemorySpool {
    campaign: Option<Campaign>,
    partial: Vec<u8>,
    etag: Option<String>,
    is_complete: bool,
    is_handed_over: bool,
    report: Option<Vec<u8>>,
}

impl MemorySpool {
    /// An empty spool.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Spool for MemorySpool {
    fn turn_to(&mut self, campaign: Campaign) -> io::Result<()> {
        if self.campaign != Some(campaign) {
            self.clear()?;
            self.campaign = Some(campaign);
        }
        Ok(())
    }

    fn delivery(&mut self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.is_complete.then(|| self.partial.clone()))
    }

    fn partial(&mut self) -> io::Result<(u64, Option<String>)> {
        Ok((self.partial.len() as u64, self.etag.clone()))
    }

    fn restart(&mut self, etag: Option<&str>) -> io::Result<()> {
        self.partial.clear();
        self.is_complete = false;
        self.etag = etag.map(str::to_owned);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.partial.extend_from_slice(bytes);
        Ok(())
    }

    fn complete(&mut self) -> io::Result<()> {
        self.is_complete = true;
        Ok(())
    }

    fn is_handed_over(&mut self) -> io::Result<bool> {
        Ok(self.is_handed_over)
    }

    fn set_handed_over(&mut self) -> io::Result<()> {
        self.is_handed_over = true;
        Ok(())
    }

    fn clear(&mut self) -> io::Result<()> {
        *self = Self {
            report: self.report.take(),
            ..Self::default()
        };
        Ok(())
    }

    fn report(&mut self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.report.clone())
    }

    fn set_report(&mut self, status: Option<&[u8]>) -> io::Result<()> {
        self.report = status.map(<[u8]>::to_vec);
        Ok(())
    }
}
