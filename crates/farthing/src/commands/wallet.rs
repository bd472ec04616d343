//! `farthing wallet`.

use std::sync::Arc;

use anyhow::Context as _;
use bitcoin::address::NetworkUnchecked;
use bitcoin::{Address, Amount};
use farthing_node::buyer::Buyer;
use serde_json::json;

use crate::amounts::AmountArgument;
use crate::cli::WalletCommand;
use crate::commands::blocking;
use crate::config::Context;
use crate::output::facts;

/// Runs a wallet command.
pub async fn run(context: &Context, command: WalletCommand) -> anyhow::Result<()> {
    let buyer = start(context).await?;
    let output = context.output;
    match command {
        WalletCommand::Address => {
            let address = blocking(move || Ok(buyer.new_address()?)).await?;
            output.say(&json!({ "address": address.to_string() }), &address.to_string())
        }
        WalletCommand::Balance => {
            let balance = blocking(move || {
                buyer.look()?;
                Ok(buyer.balance())
            });
            let balance = balance.await?;
            let value = json!({
                "confirmed_sat": balance.confirmed.to_sat(),
                "pending_sat": balance.pending.to_sat(),
                "immature_sat": balance.immature.to_sat(),
            });
            output.print(&value, || {
                let sat = |amount: Amount| format!("{} sat", amount.to_sat());
                facts([
                    ("confirmed", sat(balance.confirmed)),
                    ("pending", sat(balance.pending)),
                    ("immature", sat(balance.immature)),
                ])
            })
        }
        WalletCommand::Send { address, amount } => {
            let network = context.network();
            let address: Address<NetworkUnchecked> = address.parse().context("this is no Bitcoin address")?;
            let address = address.require_network(network)?;
            let amount = whole_satoshi(&amount)?;
            let sent = blocking(move || {
                buyer.look()?;
                Ok(buyer.send(address.script_pubkey(), amount)?)
            });
            let txid = sent.await?.compute_txid();
            output.say(&json!({ "txid": txid }), &format!("sent in transaction {txid}"))
        }
    }
}

fn whole_satoshi(text: &str) -> anyhow::Result<Option<Amount>> {
    if text == "all" {
        return Ok(None);
    }
    let AmountArgument(amount) = text.parse()?;
    anyhow::ensure!(amount.get().is_multiple_of(1_000), "the chain carries whole satoshi only");
    Ok(Some(amount.floor()))
}

/// Opens the data folder as a buyer, which has the wallet. Openings that were cut short would hold its coins, and their change.
pub async fn start(context: &Context) -> anyhow::Result<Arc<Buyer>> {
    let (home, pace, finality) = (context.home()?, context.pace(), context.buyer_finality());
    let chain = context.chain()?;
    let buyer = blocking(move || Ok(Arc::new(Buyer::start(&home, chain, pace, finality)?))).await?;
    buyer.give_up_interrupted_openings().await?;
    Ok(buyer)
}
