//! Devices: real processes of `farthing device`, each with a data folder of its own, and one owner of all of them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Stdio};

use anyhow::{Context as _, ensure};
use bitcoin::Amount;
use farthing_chain::RegtestNode;
use serde_json::Value;

use crate::farthing::{Person, Process};
use crate::gateway::link::Link;
use crate::gateway::road::Road;

/// What a device's channel holds.
pub const CAPACITY: Amount = Amount::from_sat(1_000_000);

/// The owner of all devices.
pub struct Owner {
    person: Person,
    folder: PathBuf,
}

impl Owner {
    /// An owner who can fund that many channels.
    pub fn new(regtest: &RegtestNode, folder: &Path, channels: usize) -> anyhow::Result<Self> {
        let person = Person::new(regtest, &folder.join("owner"), Amount::ZERO)?;
        for _ in 0..channels {
            person.receive(regtest, CAPACITY + Amount::from_sat(100_000))?;
        }
        regtest.mine(1)?;
        let folder = folder.join("by-hand");
        std::fs::create_dir_all(&folder)?;
        Ok(Self { person, folder })
    }

    /// Enrols a device and opens its channel, as people do. The funding is in a block then.
    pub fn equip(&self, regtest: &RegtestNode, road: &Road, name: &str) -> anyhow::Result<Device> {
        let person = Person::without_wallet(regtest, &self.folder.join(name))?;
        let file = |what: &str| {
            let path = self.folder.join(format!("{name}-{what}"));
            Ok::<_, anyhow::Error>(path.to_str().context("the folder's name is not text")?.to_owned())
        };
        let (card, backup) = (file("card")?, file("backup")?);
        let (request, funding, statement) = (file("request")?, file("funding")?, file("statement")?);
        let capacity = format!("{}sat", CAPACITY.to_sat());
        let limits = ["--per-payment", "5000sat", "--per-hour", "1000000sat", "--least-bridge-delay", "1008"];
        self.person.run(&[&["owner", "card", name, "-o", &card][..], &limits[..]].concat())?;
        person.run(&["device", "enroll", &road.address, "--owner", &card, "--backup", &backup])?;
        self.person.run(&["owner", "adopt", name, &backup])?;
        person.run(&["device", "open", &capacity, "-o", &request])?;
        self.person.run(&["owner", "fund", name, &request, "-o", &funding])?;
        person.run(&["device", "fund", &funding, "-o", &statement])?;
        self.person.run(&["owner", "release", name, &funding, &statement])?;
        regtest.mine(1)?;
        Ok(Device { person })
    }
}

/// A device with a channel.
pub struct Device {
    person: Person,
}

impl Device {
    /// Connects it to the gateway, over a slow link if there is one. It pays what it is given, until dropped.
    pub fn connect(&self, over: Option<&Link>) -> anyhow::Result<Connected> {
        let program = self.person.command(&["device", "pay", "-"]);
        let mut command = match over {
            None => program,
            Some(link) => link.inside(&program),
        };
        let mut process = Process::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        Ok(Connected { input: process.input()?, output: process.output()?, process })
    }
}

/// What became of a payment.
pub enum Paid {
    /// The device has the preimage, so many milliseconds after it had the invoice.
    After(f64),
    /// It was not paid.
    Not,
}

/// A running `farthing device pay -`.
pub struct Connected {
    /// The process.
    pub process: Process,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Connected {
    /// Has it pay an invoice.
    pub fn pay(&mut self, invoice: &str) -> anyhow::Result<Paid> {
        writeln!(self.input, "{invoice}")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let paid: Value = serde_json::from_str(&line).context("a device ended")?;
        if paid["paid"] != true {
            eprintln!("not paid: {}", paid["why"]);
            return Ok(Paid::Not);
        }
        let ms = paid["ms"].as_f64().context("the device states no time")?;
        ensure!(paid["preimage"].is_string(), "the device has no preimage");
        Ok(Paid::After(ms))
    }
}
