//! What the demo prints at the end. Every transaction, size and fee is read from the chain.

use std::collections::HashMap;
use std::time::Duration;

use bitcoin::{Amount, OutPoint, Transaction, Txid};
use comfy_table::Table;
use farthing_protocol::Msat;
use farthing_protocol::amount::DUST;
use serde::Serialize;

use crate::amounts::human_size;
use crate::demo::acts::{Act, BeforeAfter, Sale};
use crate::demo::stage::Stage;
use crate::output::table;

/// The demo's result.
#[derive(Debug, Serialize)]
pub struct Report {
    mode: &'static str,
    ok: bool,
    bytes: u64,
    pieces: u64,
    payments: u64,
    signatures_per_payment: u64,
    signatures: u64,
    sha_ok: bool,
    payer: Balances,
    payee: Balances,
    fees_sat: u64,
    transactions: Vec<OnChain>,
    acts: Acts,
    seconds: f64,
    #[serde(skip)]
    cost: Msat,
    #[serde(skip)]
    stories: Vec<(&'static str, bool, String)>,
}

#[derive(Debug, Serialize)]
struct Balances {
    before_sat: u64,
    after_sat: u64,
}

#[derive(Debug, Serialize)]
struct OnChain {
    kind: &'static str,
    txid: Txid,
    vsize: usize,
    fee_sat: u64,
    #[serde(skip)]
    act: &'static str,
}

#[derive(Debug, Serialize)]
struct Acts {
    refund: bool,
    unilateral_close: bool,
    resume: bool,
}

impl From<BeforeAfter> for Balances {
    fn from(BeforeAfter { before_sat, after_sat }: BeforeAfter) -> Self {
        Self { before_sat, after_sat }
    }
}

impl Report {
    /// Reads the chain and puts everything together.
    pub fn new(stage: &Stage, sale: Sale, acts: [Act; 3], took: Duration) -> anyhow::Result<Self> {
        let chain = stage.transactions()?;
        let mut transactions = on_chain(&chain, &sale.funding, "sale");
        let fees_sat: u64 = transactions.iter().map(|transaction| transaction.fee_sat).sum();
        for act in &acts {
            transactions.extend(on_chain(&chain, &act.funding, act.title));
        }
        let [refund, unilateral_close, resume] = &acts;
        let had = sale.payer.before_sat + sale.payee.before_sat;
        let has = sale.payer.after_sat + sale.payee.after_sat + fees_sat;
        let earned = sale.payee.after_sat.checked_sub(sale.payee.before_sat);
        // What costs less than an output may hold is paid with the least that it may.
        let due = Msat::new(sale.cost_msat).floor().max(DUST);
        let ok = sale.sha_ok && had == has && earned == Some(due.to_sat()) && acts.iter().all(|act| act.ok);
        Ok(Self {
            mode: "channel",
            ok,
            bytes: sale.bytes,
            pieces: sale.pieces,
            payments: sale.payments,
            signatures_per_payment: sale.signatures.div_ceil(sale.payments),
            signatures: sale.signatures,
            sha_ok: sale.sha_ok,
            payer: sale.payer.into(),
            payee: sale.payee.into(),
            fees_sat,
            transactions,
            acts: Acts { refund: refund.ok, unilateral_close: unilateral_close.ok, resume: resume.ok },
            seconds: took.as_secs_f64(),
            cost: Msat::new(sale.cost_msat),
            stories: acts.into_iter().map(|act| (act.title, act.ok, act.outcome)).collect(),
        })
    }

    /// Whether everything ended as it should.
    pub fn is_ok(&self) -> bool {
        self.ok
    }

    /// The tables for a terminal.
    pub fn table(&self) -> Table {
        let mut all = Table::new();
        all.load_preset(comfy_table::presets::NOTHING);
        let mut people = table(&["on chain", "before", "after", "difference"]);
        for (name, balances) in [("buyer", &self.payer), ("seller", &self.payee)] {
            let difference = balances.after_sat as i64 - balances.before_sat as i64;
            people.add_row([
                name.to_owned(),
                format!("{} sat", balances.before_sat),
                format!("{} sat", balances.after_sat),
                format!("{difference:+} sat"),
            ]);
        }
        let mut transactions = table(&["transaction", "act", "size", "fee", "txid"]);
        for OnChain { kind, txid, vsize, fee_sat, act } in &self.transactions {
            transactions.add_row([
                (*kind).to_owned(),
                (*act).to_owned(),
                format!("{vsize} vB"),
                format!("{fee_sat} sat"),
                txid.to_string(),
            ]);
        }
        let mut acts = table(&["act", "", "outcome"]);
        for (title, ok, outcome) in &self.stories {
            acts.add_row([*title, if *ok { "ok" } else { "FAILED" }, outcome]);
        }
        all.add_row([format!(
            "{} in {} pieces, {} payments with {} signatures, {} in all; {} sat of it to miners",
            human_size(self.bytes),
            self.pieces,
            self.payments,
            self.signatures,
            self.cost,
            self.fees_sat,
        )]);
        for part in [people, transactions, acts] {
            all.add_row([part.to_string()]);
        }
        all
    }
}

/// The funding and everything that spends from it, as the blocks have it.
fn on_chain(chain: &HashMap<Txid, Transaction>, funding: &OutPoint, act: &'static str) -> Vec<OnChain> {
    let Some(first) = chain.get(&funding.txid) else { return Vec::new() };
    let mut found = vec![row(chain, first, "funding", act)];
    let spender = |outpoint: &dyn Fn(&OutPoint) -> bool| {
        chain
            .values()
            .find(|transaction| transaction.input.iter().any(|input| outpoint(&input.previous_output)))
    };
    if let Some(end) = spender(&|outpoint| outpoint == funding) {
        let kind = match end.input[0].witness.len() {
            1 => "closing",
            3 => "refund",
            _two_signatures => "commitment",
        };
        found.push(row(chain, end, kind, act));
        let ended = end.compute_txid();
        let child = spender(&|outpoint| outpoint.txid == ended).filter(|child| child.version.0 == 3);
        found.extend(child.map(|child| row(chain, child, "child", act)));
    }
    found
}

fn row(
    chain: &HashMap<Txid, Transaction>,
    transaction: &Transaction,
    kind: &'static str,
    act: &'static str,
) -> OnChain {
    let spent: Amount = transaction
        .input
        .iter()
        .filter_map(|input| {
            let before = chain.get(&input.previous_output.txid)?;
            Some(before.output.get(input.previous_output.vout as usize)?.value)
        })
        .sum();
    let paid: Amount = transaction.output.iter().map(|output| output.value).sum();
    let fee_sat = spent.checked_sub(paid).unwrap_or(Amount::ZERO).to_sat();
    OnChain { kind, txid: transaction.compute_txid(), vsize: transaction.vsize(), fee_sat, act }
}
