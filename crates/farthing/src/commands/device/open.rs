//! `farthing device open` and `farthing device fund`.

use std::path::Path;
use std::time::Duration;

use anyhow::{bail, ensure};
use bitcoin::hex::DisplayHex as _;
use farthing_node::device::{Connection, Device, Said};
use farthing_node::owner::StoreLink;
use farthing_protocol::device::setup::FundingStatement;
use farthing_protocol::device::wire::{ChannelKeysId, Order, Report};
use farthing_protocol::device::{Effect, Input, State};
use serde_json::json;
use tokio::time::Instant;

use super::files::{self, Funding, FundingRequest, Statement};
use super::{here, reports};
use crate::amounts::AmountArgument;
use crate::config::Context;

/// How long a bridge may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Asks the gateway for a channel.
pub async fn open(context: &Context, capacity: AmountArgument, output: &Path) -> anyhow::Result<()> {
    let AmountArgument(capacity) = capacity;
    ensure!(capacity.get().is_multiple_of(1_000), "the chain carries whole satoshi only");
    let capacity = capacity.floor();
    let (_lock, device) = here(context)?;
    if let Some((id, _)) = device.paying() {
        bail!("channel {} is open: limits hold for one channel at a time", super::short(id));
    }
    let most = device.enrolled().enrolment.bounds.most_capacity;
    ensure!(capacity <= most, "the owner allows {most} at most");
    let mut connection = Connection::dial(device).await?;
    let order = connection.order(Order::Open { capacity }).await?;
    let until = Instant::now() + PATIENCE;
    let request = reports(context, &mut connection, until, |_, said| match said {
        Said::Report(id, Report::FundingWanted { channel, script, capacity: got }) if *id == order => {
            ensure!(*got == capacity, "the gateway wants {got}, not {capacity}");
            Ok(Some(FundingRequest { channel: *channel, script: script.clone(), capacity }))
        }
        Said::Report(id, Report::Refused { why }) if *id == order => bail!("the gateway refuses: {why}"),
        _other => Ok(None),
    })
    .await?;
    files::write(output, &request)?;
    let value = json!({ "channel": request.channel.0.to_lower_hex_string(), "capacity_sat": capacity.to_sat(), "request": output });
    let line = format!(
        "A bridge agreed to a channel of {capacity}.\nNext, on the owner's machine: farthing owner fund NAME {} -o funding.json",
        output.display()
    );
    context.output.say(&value, &line)
}

/// Has the first states signed.
pub async fn fund(context: &Context, funding: &Path, output: &Path) -> anyhow::Result<()> {
    let funding: Funding = files::read(funding)?;
    let (_lock, mut device) = here(context)?;
    let statement = match known(&mut device, &funding).await? {
        Some(statement) => statement,
        None => {
            let Funding { channel, outpoint, .. } = funding;
            let mut connection = Connection::dial(device).await?;
            let order = connection.order(Order::Funding { channel, outpoint }).await?;
            let until = Instant::now() + PATIENCE;
            reports(context, &mut connection, until, |_, said| match said {
                Said::Funded(id, statement) if *id == channel => Ok(Some(statement.clone())),
                Said::Report(id, Report::Refused { why }) if *id == order => {
                    bail!("the gateway refuses: {why}")
                }
                Said::Refused { why, .. } => bail!("the device refuses: {why}"),
                _other => Ok(None),
            })
            .await?
        }
    };
    ensure!(statement.outpoint == funding.outpoint, "the gateway opened over another output");
    files::write(output, &Statement { channel: funding.channel, statement })?;
    let line = format!(
        "The device could close this channel alone: the funding may be signed.\nNext, on the owner's machine: farthing owner release \
         NAME funding.json {}",
        output.display()
    );
    context
        .output
        .say(&json!({ "channel": funding.channel.0.to_lower_hex_string(), "statement": output }), &line)
}

/// The statement of a channel whose first states were signed before.
async fn known(device: &mut Device, funding: &Funding) -> anyhow::Result<Option<FundingStatement>> {
    let id: ChannelKeysId = funding.channel;
    let is_open = device.lives().any(|(other, life)| other == id && matches!(life.state(), State::Open(_)));
    if !is_open {
        return Ok(None);
    }
    // The statement waits for the owner's store here as it does on a connection.
    if let Some(mut store) = StoreLink::of(device) {
        store.keep_all(device).await?;
    }
    let effects = device.give(id, Input::Fund)?;
    Ok(effects
        .into_iter()
        .find_map(|effect| if let Effect::Fund(statement) = effect { Some(statement) } else { None }))
}
