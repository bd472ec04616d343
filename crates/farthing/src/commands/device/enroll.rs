//! `farthing device enroll`.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
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
) -> anyhow::Result<()> {
    let address: GatewayAddress = gateway.parse()?;
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
        None => Device::enrol(home.secret()?, home.store()?, &enrolled)?,
        Some(device) => {
            let same = device.enrolled().enrolment == enrolled.enrolment;
            ensure!(same, "this device is enrolled already, by another card");
            device
        }
    };
    files::write(
        backup,
        &Backup { secret: hex, gateway: address.to_string(), identity, card: card.clone() },
    )?;

    let mut connection = Connection::dial(device).await?;
    let welcome = connection.welcome();
    let fees = welcome.map(|welcome| (welcome.fee_ppm, welcome.fee_base.get())).unwrap_or_default();
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
        "service_fee_ppm": fees.0,
        "service_fee_base_msat": fees.1,
        "keys_ready": keys_ready(&mut connection),
    });
    let line = format!(
        "This is now the device \"{}\". The gateway asks {}.{:04} % and {} msat for each payment.\n\nGive {} to the owner and \
         remove it here: who has it has the device's keys.\nNext, on the owner's machine: farthing owner adopt {} {}",
        card.name,
        fees.0 / 10_000,
        fees.0 % 10_000,
        fees.1,
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
