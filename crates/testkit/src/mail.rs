//! People who keep mail for others, `farthing mailbox serve`, and payees who ask for theirs.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use bitcoin::Network;
use farthing_http::mailbox::{Client, Owner};
use farthing_mailbox::address::Host;
use farthing_node::home::Home;

use crate::people::Person;
use crate::process::Process;

/// A running `farthing mailbox serve`.
pub struct Mailbox {
    /// The process.
    pub process: Process,
    /// Host and port.
    pub address: String,
}

impl Mailbox {
    /// Waits until a process keeps mail.
    ///
    /// # Errors
    /// When it ends before.
    pub fn of(mut process: Process) -> Result<Self> {
        let told = process.await_step("it kept anything", |line| line["mailbox"].is_string())?;
        Ok(Self { address: told["mailbox"].as_str().context("an address")?.to_owned(), process })
    }

    /// The mailbox is gone, without a word.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(self) -> Result<()> {
        self.process.kill()
    }
}

impl Person {
    /// Starts to keep mail, at an address.
    ///
    /// # Errors
    /// When the program fails.
    pub fn keep_mail(&self, price: &str, address: &str) -> Result<Mailbox> {
        Mailbox::of(self.start_keeping_mail(price, address)?)
    }

    /// Starts to keep mail, perhaps in vain.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn start_keeping_mail(&self, price: &str, address: &str) -> Result<Process> {
        self.start(&["mailbox", "serve", "--price", price, "--listen", address])
    }

    /// The person as the owner of a box.
    ///
    /// # Errors
    /// When the seed cannot be read.
    pub fn owner(&self, mailbox: &str) -> Result<Owner> {
        let home = Home::open(&self.path(""), Network::Regtest)?;
        Ok(Owner::new(&home.seed()?, Host::new(mailbox)?))
    }
}

/// A client that pays nothing.
///
/// # Errors
/// When the system's certificates cannot be loaded.
pub fn free_client() -> Result<Client> {
    Ok(Client::new(Duration::from_secs(20))?)
}

/// So many seconds from now, in seconds since 1970.
///
/// # Errors
/// When the clock is before 1970.
pub fn seconds_from_now(seconds: u64) -> Result<u64> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs() + seconds)
}
