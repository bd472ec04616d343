//! `farthing cheque list`.

use anyhow::Context as _;
use bitcoin::hex::DisplayHex as _;
use farthing_node::cheques::paper::{Fate, Paper};
use farthing_protocol::Msat;
use farthing_protocol::cheque::cancellation::Cancellation;
use farthing_protocol::cheque::reverse::authorisation::Authorisation;
use farthing_protocol::cheque::reverse::sale::Status;
use serde::Serialize;

use crate::cli::ListArguments;
use crate::commands::blocking;
use crate::commands::cheque::{self, name};
use crate::config::Context;
use crate::output::table;

/// A cheque as people and programs see it.
#[derive(Debug, Serialize)]
pub struct Row {
    cheque: String,
    side: &'static str,
    amount_msat: u64,
    memo: String,
    time: u64,
    /// The latest expiry of a channel in which it can be cashed; or until when an authorisation is good.
    latest: u32,
    state: &'static str,
    agent: String,
    /// To whom it was written.
    to: Option<String>,
    mailed: Option<bool>,
    receipt: Option<String>,
    /// The agent's signed word that it is taken back.
    cancellation: Option<Cancellation>,
}

/// Lists the cheques of this folder. The agents are asked first for receipts.
pub async fn run(context: &Context, arguments: ListArguments) -> anyhow::Result<()> {
    let client = cheque::start(context, arguments.allow_http).await?;
    if !arguments.offline {
        client.sync_all().await?;
    }
    let teller = client.teller().clone();
    let papers = blocking(move || Ok(teller.papers()?)).await?;
    cheque::end(client).await?;
    let rows: Vec<Row> = papers.iter().map(row).collect();
    if let Some(folder) = &arguments.receipts {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        for row in &rows {
            let Some(receipt) = &row.receipt else { continue };
            let path = folder.join(format!("{}.txt", row.cheque));
            std::fs::write(&path, receipt).with_context(|| path.display().to_string())?;
        }
    }
    if rows.is_empty() {
        return context.output.say(&rows, "there are no cheques here: see `farthing cheque write --help`");
    }
    context.output.print(&rows, || {
        let mut table = table(&["cheque", "side", "amount", "memo", "state", "until block", "receipt"]);
        for row in &rows {
            let receipt = row.receipt.as_ref().map_or("-".to_owned(), |receipt| {
                format!(
                    "{}… (all of it with --json or --receipts)",
                    receipt.chars().take(24).collect::<String>()
                )
            });
            table.add_row([
                row.cheque.chars().take(16).collect(),
                row.side.to_owned(),
                Msat::new(row.amount_msat).to_string(),
                row.memo.clone(),
                row.state.to_owned(),
                row.latest.to_string(),
                receipt,
            ]);
        }
        table
    })
}

fn row(paper: &Paper) -> Row {
    match paper {
        Paper::Written(issued) => {
            let cheque = &issued.written.cheque;
            let (state, receipt) = match &issued.fate {
                Fate::Pending => ("pending", None),
                Fate::Cancelled => ("cancelled, not signed", None),
                Fate::GivenUp(_) => ("cancelled", None),
                Fate::PaidAllTheSame(receipt, _) => ("paid, though cancelled", Some(receipt.to_string())),
                Fate::Paid(receipt) => ("paid", Some(receipt.to_string())),
                Fate::PaidJointly(..) => ("paid with others", None),
                Fate::PaidJointlyAllTheSame(..) => ("paid with others, though cancelled", None),
                Fate::Ended => ("ended", None),
            };
            let cancellation = issued.fate.word().cloned();
            Row {
                cheque: name(&issued.written.point),
                side: "written",
                amount_msat: cheque.terms.amount.get(),
                memo: cheque.terms.memo.as_str().to_owned(),
                time: cheque.terms.time,
                latest: cheque.latest.height(),
                state,
                agent: issued.agent.clone(),
                to: Some(issued.to.clone()),
                mailed: Some(issued.mailed),
                receipt,
                cancellation,
            }
        }
        Paper::Got(presented) => {
            let cheque = &presented.cheque;
            Row {
                cheque: name(&presented.point),
                side: "got",
                amount_msat: cheque.terms.amount.get(),
                memo: cheque.terms.memo.as_str().to_owned(),
                time: cheque.terms.time,
                latest: cheque.latest.height(),
                state: if presented.cashed { "cashed" } else { "not cashed" },
                agent: presented.agent.clone(),
                to: None,
                mailed: None,
                receipt: None,
                cancellation: None,
            }
        }
        Paper::Bought(bought) => {
            let authorisation = bought.purchase.authorisation();
            let state = bought.state();
            let row = reverse("pays", authorisation, state, bought.at);
            Row { agent: bought.agent.clone(), to: Some(bought.to.clone()), ..row }
        }
        Paper::Sold(sold) => {
            let state = match sold.sale.status() {
                Status::Offered => "offered",
                Status::Collected(_) => "paid",
                Status::Dropped => "ended",
            };
            reverse("signs", sold.sale.authorisation(), state, sold.at)
        }
    }
}

/// What goes the other way round: named for its authorisation.
fn reverse(side: &'static str, authorisation: &Authorisation, state: &'static str, time: u64) -> Row {
    let terms = &authorisation.terms;
    Row {
        cheque: authorisation.digest().to_lower_hex_string(),
        side,
        amount_msat: terms.amount.get(),
        memo: terms.memo.as_str().to_owned(),
        time,
        latest: terms.until.get(),
        state,
        agent: String::new(),
        to: None,
        mailed: None,
        receipt: None,
        cancellation: None,
    }
}
