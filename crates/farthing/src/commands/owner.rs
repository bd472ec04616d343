//! `farthing owner`: what the owner of devices does on its own machine. Its keys come from the wallet's seed; no device has them.
//!
//! What it knows of its devices is in `owner/NAME.json` in the data folder, mode 0600.

mod keep;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use bitcoin::hex::{DisplayHex as _, FromHex as _};
use bitcoin::{FeeRate, OutPoint, Psbt};
use farthing_node::device::{Backup, Card};
use farthing_protocol::Msat;
use farthing_protocol::device::headers::{Checkpoint, EPOCH};
use farthing_protocol::device::owner::{Claim, OwnerKeys};
use farthing_protocol::device::setup::Bounds;
use farthing_protocol::device::{Enrolment, Policy};
use secp256k1::PublicKey;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::amounts::AmountArgument;
use crate::cli::{Limits, OwnerCommand};
use crate::commands::device::files::{self, Claims, Funding, FundingRequest, Statement};
use crate::commands::{blocking, wallet};
use crate::config::Context;

/// How many HTLCs a commitment may have.
const MOST_HTLCS: u16 = 10;
/// How many blocks the owner waits for its money at most.
const MOST_HOLDER_DELAY: u16 = 2_016;
/// What a bridge may forbid to spend: this part of the largest channel, which is twice what most ask for.
const RESERVE_PART: u64 = 50;

/// What the owner knows of a device.
#[derive(Serialize, Deserialize)]
struct Owned {
    card: Card,
    /// The device's key, known since it was adopted.
    identity: Option<PublicKey>,
    /// The device's secret.
    backup: Option<String>,
}

/// Runs a command of the owner.
pub async fn run(context: &Context, command: OwnerCommand) -> anyhow::Result<()> {
    match command {
        OwnerCommand::Card { name, limits, most_capacity, least_bridge_delay, output } => {
            card(context, name, &limits, most_capacity, least_bridge_delay, &output).await
        }
        OwnerCommand::Adopt { name, backup } => adopt(context, &name, &backup),
        OwnerCommand::Policy { name, limits, output } => policy(context, &name, &limits, &output),
        OwnerCommand::Fund { name, request, output } => fund(context, &name, &request, &output).await,
        OwnerCommand::Release { name, funding, statement } => {
            release(context, &name, &funding, &statement).await
        }
        OwnerCommand::GiveUp { funding } => give_up(context, &funding).await,
        OwnerCommand::Keep { listen } => keep::run(context, &listen).await,
        OwnerCommand::ForceClose { name, output } => {
            let context = context.clone();
            blocking(move || keep::force_close(&context, &name, &output)).await
        }
        OwnerCommand::Sweep { name, claims } => sweep(context, &name, claims.as_deref()).await,
    }
}

async fn card(
    context: &Context,
    name: String,
    limits: &Limits,
    most_capacity: AmountArgument,
    least_bridge_delay: u16,
    output: &Path,
) -> anyhow::Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    ensure!(!name.is_empty() && name.chars().all(plain), "a name is letters, digits, - and _");
    let path = path(context, &name)?;
    ensure!(!path.exists(), "there is a device {name} already");
    let number = next_number(path.parent().expect("it is a file in a folder"))?;
    let keys = context.home()?.seed()?.owner_keys(number);
    let (buyer, chain) = (wallet::start(context).await?, context.chain()?);
    let (checkpoint, address) = blocking(move || {
        // The epoch before this one: headers of a reorganisation at its border can be checked as well.
        let height = (chain.tip()?.height / EPOCH).saturating_sub(1) * EPOCH;
        let hash = chain.block_hash(height)?.context("the node lost a block")?;
        let checkpoint = Checkpoint { height, header: chain.block(&hash)?.header };
        Ok((checkpoint, buyer.new_address()?))
    })
    .await?;
    let most_capacity = most_capacity.0.floor();
    let enrolment = Enrolment {
        owner: keys.policy(),
        network: context.network(),
        payment: keys.payment(),
        delayed_payment: keys.delayed_payment(),
        closing_script: address.script_pubkey(),
        bounds: Bounds {
            least_bridge_delay,
            most_holder_delay: MOST_HOLDER_DELAY,
            most_reserve: most_capacity / RESERVE_PART,
            most_capacity,
        },
    };
    let policy = keys.sign(to_policy(limits, 1));
    let card = Card { name: name.clone(), number, enrolment, policy, checkpoint };
    files::write(&path, &Owned { card: card.clone(), identity: None, backup: None })?;
    files::write(output, &card)?;
    let line = format!(
        "The card of \"{name}\" is in {0}.\nNext, on the device: farthing device enroll GATEWAY --owner {0} --backup FILE",
        output.display()
    );
    context.output.say(&json!({ "name": name, "card": output }), &line)
}

fn adopt(context: &Context, name: &str, backup: &Path) -> anyhow::Result<()> {
    let (path, mut owned) = read(context, name)?;
    let backup: Backup = files::read(backup)?;
    let ours = |card: &Card| (card.number, card.enrolment.clone());
    ensure!(ours(&backup.card) == ours(&owned.card), "this backup is of a device with another card");
    let known = owned.identity.is_none_or(|identity| identity == backup.identity);
    ensure!(known, "another device was adopted by this name");
    owned.identity = Some(backup.identity);
    owned.backup = Some(backup.secret.clone());
    files::write(&path, &owned)?;
    let line = format!("\"{name}\" is known from now on by its key {}.", backup.identity);
    context.output.say(&json!({ "name": name, "identity": backup.identity.to_string() }), &line)
}

fn policy(context: &Context, name: &str, limits: &Limits, output: &Path) -> anyhow::Result<()> {
    let (path, mut owned) = read(context, name)?;
    let keys = keys(context, &owned)?;
    let current =
        owned.card.policy.clone().verify(&keys.policy()).context("the stored policy is not ours")?;
    let version = current.version + 1;
    owned.card.policy = keys.sign(to_policy(limits, version));
    files::write(&path, &owned)?;
    files::write(output, &owned.card.policy)?;
    let line = format!(
        "Policy {version} is in {0}.\nNext, on the device: farthing device policy {0}",
        output.display()
    );
    context.output.say(&json!({ "name": name, "version": version, "policy": output }), &line)
}

async fn fund(context: &Context, name: &str, request: &Path, output: &Path) -> anyhow::Result<()> {
    let (_, owned) = read(context, name)?;
    let request: FundingRequest = files::read(request)?;
    let most = owned.card.enrolment.bounds.most_capacity;
    ensure!(request.capacity <= most, "{} is more than the {most} of this device's card", request.capacity);
    ensure!(!output.exists(), "{} is there already: its transaction may be signed yet", output.display());
    let buyer = wallet::start(context).await?;
    let (script, capacity) = (request.script.clone(), request.capacity);
    let psbt = blocking(move || {
        buyer.look()?;
        Ok(buyer.prepare_payment(script, capacity)?)
    })
    .await?;
    let transaction = &psbt.unsigned_tx;
    let pays = |output: &bitcoin::TxOut| output.script_pubkey == request.script && output.value == capacity;
    let vout = transaction.output.iter().position(pays).expect("the wallet pays what it was asked to");
    let outpoint = OutPoint { txid: transaction.compute_txid(), vout: u32::try_from(vout)? };
    let psbt = psbt.serialize().to_lower_hex_string();
    files::write(output, &Funding { channel: request.channel, outpoint, psbt })?;
    let line = format!(
        "A transaction that is not signed yet would make {outpoint}.\nNext, on the device: farthing device fund {} -o statement.json",
        output.display()
    );
    context.output.say(&json!({ "outpoint": outpoint, "funding": output }), &line)
}

async fn release(context: &Context, name: &str, funding: &Path, statement: &Path) -> anyhow::Result<()> {
    let (_, owned) = read(context, name)?;
    let identity = owned.identity.context("this device is not adopted: run `farthing owner adopt` first")?;
    let funding: Funding = files::read(funding)?;
    let Statement { statement, .. } = files::read(statement)?;
    ensure!(
        statement.is_from(&identity),
        "the statement is not from the device \"{name}\": nothing was signed"
    );
    let bytes = Vec::<u8>::from_hex(&funding.psbt).context("this is no funding")?;
    let psbt = Psbt::deserialize(&bytes).context("this is no funding")?;
    let outpoint = OutPoint { txid: psbt.unsigned_tx.compute_txid(), vout: statement.outpoint.vout };
    let made = psbt.unsigned_tx.output.get(outpoint.vout as usize);
    let is_it =
        made.is_some_and(|made| made.value == statement.value && made.script_pubkey == statement.script);
    ensure!(
        statement.outpoint == outpoint && is_it,
        "the device's statement is about another output: nothing was signed"
    );
    let buyer = wallet::start(context).await?;
    let transaction = blocking(move || {
        buyer.look()?;
        Ok(buyer.send_prepared(psbt)?)
    })
    .await?;
    let txid = transaction.compute_txid();
    context.output.say(&json!({ "txid": txid }), &format!("the channel is funded by transaction {txid}"))
}

async fn give_up(context: &Context, funding: &Path) -> anyhow::Result<()> {
    let funding: Funding = files::read(funding)?;
    let buyer = wallet::start(context).await?;
    blocking(move || {
        buyer.look()?;
        Ok(buyer.give_up_prepared(funding.outpoint.txid)?)
    })
    .await?;
    let txid = funding.outpoint.txid;
    context
        .output
        .say(&json!({ "given_up": txid }), &format!("the coins of transaction {txid} are free again"))
}

async fn sweep(context: &Context, name: &str, claims: Option<&Path>) -> anyhow::Result<()> {
    let (_, owned) = read(context, name)?;
    let keys = keys(context, &owned)?;
    let claims = match claims {
        Some(path) => files::read::<Claims>(path)?.claims,
        None => paid_by_bridges(context, &keys).await?,
    };
    ensure!(!claims.is_empty(), "there is nothing to claim");
    let (buyer, chain) = (wallet::start(context).await?, context.chain()?);
    let swept = blocking(move || {
        let rate = chain.fee_rate(6)?.unwrap_or(FeeRate::BROADCAST_MIN).max(chain.minimum_fee_rate()?);
        // What a payee took with its preimage is not there any more, and what has not expired is not there yet.
        let mut there = Vec::new();
        for claim in claims {
            if let farthing_chain::OutputStatus::Confirmed { .. } = chain.output(&claim.outpoint)? {
                there.push(claim);
            }
        }
        ensure!(!there.is_empty(), "none of it is in the chain: wait for a block, or it was claimed before");
        let to = buyer.new_address()?.script_pubkey();
        let transaction = keys.sweep(&there, &to, rate).context("it is not worth the fee")?;
        chain.broadcast(&transaction)?;
        Ok(transaction)
    })
    .await?;
    let (txid, value) = (swept.compute_txid(), swept.output[0].value);
    let line = format!("{value} are on their way to the wallet in transaction {txid}");
    context.output.say(&json!({ "txid": txid, "value_sat": value.to_sat() }), &line)
}

/// What closings of bridges paid the owner, found without the device.
async fn paid_by_bridges(context: &Context, keys: &OwnerKeys) -> anyhow::Result<Vec<Claim>> {
    let (chain, script) = (context.chain()?, keys.payment_script());
    blocking(move || {
        let found = chain.unspent_paying(&[script])?;
        Ok(found.into_iter().map(|(outpoint, output)| Claim::of_payment(outpoint, output.value)).collect())
    })
    .await
}

fn to_policy(limits: &Limits, version: u64) -> Policy {
    let amount = |AmountArgument(amount): AmountArgument| -> Msat { amount };
    Policy {
        version,
        paused: limits.paused,
        payees: limits.payee.clone(),
        per_payment: amount(limits.per_payment),
        per_hour: amount(limits.per_hour),
        per_day: amount(limits.per_day),
        in_flight: amount(limits.per_payment),
        fee_base: amount(limits.fee_base),
        fee_ppm: limits.fee_ppm,
        least_fee_rate: FeeRate::from_sat_per_kwu(limits.least_fee_rate),
        most_fee_rate: FeeRate::from_sat_per_kwu(limits.most_fee_rate),
        most_htlcs: MOST_HTLCS,
        most_expiry_delta: limits.most_expiry_delta,
    }
}

/// The number after the highest: two devices of one number would have the same keys, also when the file of one between them is gone.
fn next_number(folder: &Path) -> anyhow::Result<u32> {
    let mut next = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            next = next.max(files::read::<Owned>(&path)?.card.number + 1);
        }
    }
    Ok(next)
}

fn keys(context: &Context, owned: &Owned) -> anyhow::Result<OwnerKeys> {
    Ok(context.home()?.seed()?.owner_keys(owned.card.number))
}

fn path(context: &Context, name: &str) -> anyhow::Result<PathBuf> {
    let folder = context.home()?.path().join("owner");
    fs::create_dir_all(&folder)?;
    Ok(folder.join(format!("{name}.json")))
}

fn read(context: &Context, name: &str) -> anyhow::Result<(PathBuf, Owned)> {
    let path = path(context, name)?;
    ensure!(path.is_file(), "there is no device {name}: run `farthing owner card {name}` first");
    let owned = files::read(&path)?;
    Ok((path, owned))
}
