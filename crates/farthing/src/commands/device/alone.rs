//! `farthing device force-close`: with nothing but a bitcoind. Whoever closed first, what the owner may claim is written down, and what
//! the device must sign for it is sent.

use std::path::Path;

use anyhow::{Context as _, bail};
use bitcoin::hex::DisplayHex as _;
use farthing_chain::Chain;
use farthing_node::device::alone::{CloseError, Closer, Ended};
use farthing_protocol::device::wire::ChannelKeysId;
use serde_json::json;

use super::files::{self, Claims};
use super::{here, short};
use crate::config::Context;

/// Closes, or goes on with closings.
pub fn run(context: &Context, output: &Path) -> anyhow::Result<()> {
    let chain = context.chain()?;
    let (_lock, mut device) = here(context)?;
    let closed = device.close_alone(&chain);
    conclude(context, &chain, output, "NAME", closed)
}

/// Writes what can be claimed after closings, and says how each channel ends. One that failed does not keep the others from it.
pub fn conclude(
    context: &Context,
    chain: &Chain,
    output: &Path,
    name: &str,
    closings: impl IntoIterator<Item = (ChannelKeysId, Result<Ended, CloseError>)>,
) -> anyhow::Result<()> {
    let (mut ended, mut failed) = (Vec::new(), None);
    for (channel, closed) in closings {
        match closed {
            Ok(one) => ended.push(one),
            Err(error) => {
                eprintln!("farthing: channel {}: {error}", short(channel));
                failed = Some(error);
            }
        }
    }
    let Some(channel) = ended.first().map(|one| one.channel) else {
        match failed {
            Some(error) => return Err(error.into()),
            None => bail!("there is no channel to close"),
        }
    };
    let claims = ended.iter().flat_map(|one| one.claims.clone()).collect();
    files::write(output, &Claims { channel, claims })?;
    let height = chain.tip()?.height;
    for one in &ended {
        say(context, output, height, name, one)?;
    }
    failed.map_or(Ok(()), |error| Err(error).context("another channel was not closed"))
}

/// Says how a channel ends, to whoever closes it.
fn say(context: &Context, output: &Path, height: u32, name: &str, ended: &Ended) -> anyhow::Result<()> {
    let waiting: Vec<u32> = ended.waits_until().collect();
    let by = match ended.by {
        Closer::Device => "device",
        Closer::Bridge => "bridge",
        Closer::Cheat => "bridge, by a revoked commitment",
        Closer::Both => "both",
    };
    let (channel, closing, delay) = (short(ended.channel), ended.closing, ended.delay());
    let not_sent: Vec<String> =
        ended.not_sent().map(|(transaction, why)| format!("{}: {why}", transaction.compute_txid())).collect();
    let value = json!({
        "channel": ended.channel.0.to_lower_hex_string(),
        "by": by,
        "commitment": closing,
        "claims": output,
        "claim_sat": ended.claimed().to_sat(),
        "delay_blocks": delay,
        "height": height,
        "htlcs_wait_until": waiting,
        "not_sent": not_sent,
    });
    let mut line = format!(
        "Channel {channel} is closed by transaction {closing} ({by}). {delay} blocks after it is in the chain, the owner can claim {}.\n\
         Next, on the owner's machine: farthing owner sweep {name} {}",
        ended.claimed(),
        output.display()
    );
    if let Some(expiry) = waiting.iter().max() {
        line.push_str(&format!("\nPayments were under way: run this again after block {expiry}."));
    }
    for why in not_sent {
        line.push_str(&format!("\nNot taken by the node, run this again when fees have fallen: {why}"));
    }
    context.output.say(&value, &line)
}
