//! `farthing device enroll`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bitcoin::hex::DisplayHex as _;
use farthing_node::device::store::Enrolled;
use farthing_node::device::{Backup, Card, Connection, Device, DeviceHome, Said};
use farthing_node::link::GatewayAddress;
use farthing_protocol::device::wire::{Enrol, Order, Standing};
use serde_json::json;
use tokio::time::Instant;

use super::{files, until_done};
use crate::config::Context;

/// How many keys are made before enrolment is done, so that opening a channel never waits.
const KEYS: usize = 2;
/// How long the gateway may take to make them.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes the device, gives the owner its backup, and only then tells the gateway. The same command again goes on where it stopped.
pub async fn run(
    context: &Context,
    gateway: String,
    owner: &Path,
    backup: &Path,
    invitation: String,
    store: Option<String>,
) -> anyhow::Result<()> {
    let address: GatewayAddress = gateway.parse()?;
    let store =
        store.map(|store| store.parse::<GatewayAddress>()).transpose().context("the owner's store")?;
    let card: Card = files::read(owner)?;
    let network = context.network();
    ensure!(card.enrolment.network == network, "the owner's card is for {}", card.enrolment.network);
    let home = DeviceHome::of(context.data(), network);
    let secret = home.make()?;
    let _lock = home.lock()?;
    let identity = secret.identity();
    let enrolled = Enrolled {
        name: card.name.clone(),
        gateway: address.to_string(),
        enrolment: card.enrolment.clone(),
        policy: card.policy.clone(),
        checkpoint: card.checkpoint,
    };
    let hex = secret.expose().to_lower_hex_string();
    let device = match Device::open(secret, home.store()?)? {
        None => Device::enrol_with(home.secret()?, home.store()?, &enrolled, store.as_ref())?,
        Some(device) => {
            let same = device.enrolled().enrolment == enrolled.enrolment;
            ensure!(same, "this device is enrolled already, by another card");
            let same = device.owner_store() == store.as_ref();
            ensure!(same, "this device is enrolled already, with another store of its owner's or with none");
            device
        }
    };
    files::write(
        backup,
        &Backup {
            secret: hex,
            gateway: address.to_string(),
            identity,
            card: card.clone(),
            store: store.as_ref().map(GatewayAddress::to_string),
        },
    )?;

    let mut connection = Connection::dial(device).await?;
    let welcome = connection.welcome().context("the gateway does not say what it asks for its service")?;
    let (fee_ppm, fee_base) = (welcome.fee_ppm, welcome.fee_base.get());
    let percent = format!("{}.{:04} %", fee_ppm / 10_000, fee_ppm % 10_000);
    // Before it agrees: nothing has been asked of the gateway yet.
    let policy =
        card.policy.clone().verify(&card.enrolment.owner).context("the card's policy is not its owner's")?;
    ensure!(
        policy.fee_ppm >= fee_ppm && policy.fee_base >= welcome.fee_base,
        "the gateway asks {percent} and {fee_base} msat for each payment, more than this card allows for fees ({} ppm and {}): nothing \
         was agreed. Ask the owner for a card with higher limits (--fee-ppm, --fee-base)",
        policy.fee_ppm,
        policy.fee_base,
    );
    eprintln!("The gateway asks {percent} and {fee_base} msat for each payment. Enrolling with it …");
    let policy = connection.device().enrolled().policy.clone();
    let enrol = Enrol { invitation, name: card.name.clone(), identity, owner: card.enrolment.owner, policy };
    let order = connection.order(Order::Enrol(enrol)).await?;
    until_done(context, &mut connection, order, PATIENCE).await?;
    let until = Instant::now() + PATIENCE;
    while keys_ready(&mut connection) < KEYS {
        for said in connection.next(until).await? {
            if let Said::Refused { why, .. } = said {
                eprintln!("farthing: {why}");
            }
        }
    }
    let identity = identity.to_string();
    let value = json!({
        "enrolled": true,
        "name": card.name,
        "identity": identity,
        "backup": backup.display().to_string(),
        "store": store.map(|store| store.to_string()),
        "service_fee_ppm": fee_ppm,
        "service_fee_base_msat": fee_base,
        "keys_ready": keys_ready(&mut connection),
    });
    let line = format!(
        "This is now the device \"{}\". The gateway asks {percent} and {fee_base} msat for each payment.\n\nGive {} to the owner \
         and remove it here: who has it has the device's keys.\nNext, on the owner's machine: farthing owner adopt {} {}",
        card.name,
        backup.display(),
        card.name,
        backup.display(),
    );
    context.output.say(&value, &line)
}

fn keys_ready(connection: &mut Connection) -> usize {
    let standings = connection.device().standings();
    standings.iter().filter(|(_, standing)| *standing == Standing::Ready).count()
}
