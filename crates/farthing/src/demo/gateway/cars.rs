//! The cars: a device with a data folder of its own, and its owner's wallet on another machine.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use bitcoin::Amount;
use serde_json::Value;

use crate::demo::gateway::road::Road;
use crate::demo::gateway::{CAPACITY, TOLL_MSAT};
use crate::demo::people::Person;
use crate::demo::stage::Stage;

/// A car.
pub struct Car {
    /// What people call it.
    pub name: &'static str,
    /// The device.
    pub device: Person,
    /// The owner's machine.
    pub owner: Person,
    /// Files that go from one to the other by hand.
    folder: PathBuf,
}

/// What the payments of all cars came to.
#[derive(Debug, Default)]
pub struct Tolls {
    /// How long each took at the device, from the invoice to the proof of payment, in milliseconds, in ascending order.
    pub took_ms: Vec<f64>,
    /// How many were not paid.
    pub failed: usize,
    /// What the cars paid on top of the tolls, in millisatoshi.
    pub fees_msat: u64,
    /// Bytes on the devices' links, both ways, for each payment.
    pub bytes_per_payment: u64,
    /// Messages on the devices' links, both ways, for each payment.
    pub messages_per_payment: f64,
    /// Joint signatures for each payment.
    pub signatures_per_payment: f64,
}

impl Car {
    /// The owner makes a card, the device enrols, the owner keeps its backup.
    pub fn enrol(stage: &Stage, road: &Road, name: &'static str) -> anyhow::Result<Self> {
        let owner = Person::new(stage, "owner", name, CAPACITY + Amount::from_sat(100_000))?;
        let device = Person::new(stage, "device", name, Amount::ZERO)?;
        let folder = stage.folder().join(format!("{name}-by-hand"));
        std::fs::create_dir_all(&folder)?;
        let car = Self { name, device, owner, folder };
        let (card, backup) = (car.path("card")?, car.path("backup")?);
        let limits = ["--per-payment", "5000sat", "--per-hour", "400000sat", "--least-bridge-delay", "1008"];
        car.owner.run(&[&["owner", "card", name, "-o", &card][..], &limits[..]].concat())?;
        car.device.run(&["device", "enroll", &road.address, "--owner", &card, "--backup", &backup])?;
        car.owner.run(&["owner", "adopt", name, &backup])?;
        Ok(car)
    }

    /// Opens a channel: the owner's wallet signs only what the device says it can close alone.
    pub fn open(&self, stage: &Stage) -> anyhow::Result<()> {
        let [request, funding, statement] = ["request", "funding", "statement"].map(|name| self.path(name));
        let (request, funding, statement) = (request?, funding?, statement?);
        let capacity = format!("{}sat", CAPACITY.to_sat());
        self.device.run(&["device", "open", &capacity, "-o", &request])?;
        self.owner.run(&["owner", "fund", self.name, &request, "-o", &funding])?;
        self.device.run(&["device", "fund", &funding, "-o", &statement])?;
        self.owner.run(&["owner", "release", self.name, &funding, &statement])?;
        stage.node().mine(1)?;
        Ok(())
    }

    /// A file that goes from one machine to the other.
    pub fn path(&self, name: &str) -> anyhow::Result<String> {
        let path = self.folder.join(name);
        Ok(Path::new(&path).to_str().context("the folder's name is not text")?.to_owned())
    }

    /// Pays one invoice.
    pub fn pay(&self, invoice: &str) -> anyhow::Result<Value> {
        self.device.run(&["device", "pay", invoice])
    }
}

/// Lets all cars pass so many tolls, each one after the other and all cars at once.
pub fn drive(road: &Road, cars: &[Car], tolls: u32) -> anyhow::Result<Tolls> {
    let before = road.ask("status")?;
    let mut invoices: Vec<Vec<String>> = Vec::new();
    for _ in cars {
        let of_one = (0..tolls).map(|_| road.invoice(TOLL_MSAT)).collect::<anyhow::Result<_>>()?;
        invoices.push(of_one);
    }
    let rows: Vec<anyhow::Result<Vec<Value>>> = std::thread::scope(|scope| {
        let driving: Vec<_> = cars
            .iter()
            .zip(&invoices)
            .map(|(car, invoices)| scope.spawn(move || car.device.feed(&["device", "pay", "-"], invoices)))
            .collect();
        let joined = driving.into_iter().map(|thread| thread.join().expect("a car's thread does not panic"));
        joined.collect()
    });
    let mut tolls = Tolls::default();
    for row in rows {
        for paid in row? {
            match (&paid["paid"], paid["ms"].as_f64()) {
                (Value::Bool(true), Some(ms)) => {
                    tolls.took_ms.push(ms);
                    tolls.fees_msat += paid["fee_msat"].as_u64().unwrap_or_default();
                }
                _other => {
                    eprintln!("a toll was not paid: {paid}");
                    tolls.failed += 1;
                }
            }
        }
    }
    tolls.took_ms.sort_by(f64::total_cmp);
    let after = road.ask("status")?;
    let grown = |key: &str| -> anyhow::Result<u64> {
        let count = |status: &Value| status[key].as_u64().with_context(|| format!("{key} in the status"));
        Ok(count(&after)?.saturating_sub(count(&before)?))
    };
    let count = tolls.took_ms.len() as u64;
    ensure!(count > 0, "no toll was paid");
    tolls.bytes_per_payment = grown("link_bytes")? / count;
    tolls.messages_per_payment = grown("link_messages")? as f64 / count as f64;
    tolls.signatures_per_payment = grown("joint_signatures")? as f64 / count as f64;
    Ok(tolls)
}
