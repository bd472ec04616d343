//! What the demo prints at the end.

use std::time::Duration;

use comfy_table::Table;
use serde::Serialize;

use crate::demo::gateway::TOLL_MSAT;
use crate::demo::gateway::acts::Act;
use crate::demo::gateway::cars::Tolls;
use crate::output::{facts, table};

/// The demo's result.
#[derive(Debug, Serialize)]
pub struct Report {
    mode: &'static str,
    ok: bool,
    payments: usize,
    failed: usize,
    p50_ms: f64,
    p99_ms: f64,
    bytes_per_payment: u64,
    device_messages_per_payment: f64,
    joint_signatures_per_payment: f64,
    /// What the gateway's operator earned, in whole satoshi.
    fee_sat: u64,
    acts: serde_json::Map<String, serde_json::Value>,
    seconds: f64,
    #[serde(skip)]
    outcomes: Vec<Act>,
}

impl Report {
    /// Puts everything together.
    pub fn new(tolls: Tolls, earned_msat: u64, acts: [Act; 5], took: Duration) -> Self {
        let percentile = |share: f64| {
            let last = tolls.took_ms.len().saturating_sub(1);
            let place = (last as f64 * share).round() as usize;
            tolls.took_ms.get(place).map_or(0.0, |ms| (ms * 10.0).round() / 10.0)
        };
        let is_fine = tolls.failed == 0 && earned_msat > 0 && acts.iter().all(|act| act.ok);
        Self {
            mode: "gateway",
            ok: is_fine,
            payments: tolls.took_ms.len(),
            failed: tolls.failed,
            p50_ms: percentile(0.5),
            p99_ms: percentile(0.99),
            bytes_per_payment: tolls.bytes_per_payment,
            device_messages_per_payment: (tolls.messages_per_payment * 10.0).round() / 10.0,
            joint_signatures_per_payment: (tolls.signatures_per_payment * 100.0).round() / 100.0,
            fee_sat: earned_msat / 1_000,
            acts: acts.iter().map(|act| (act.name.to_owned(), act.ok.into())).collect(),
            seconds: took.as_secs_f64(),
            outcomes: acts.into(),
        }
    }

    /// Whether everything ended as it should.
    pub fn is_ok(&self) -> bool {
        self.ok
    }

    /// The tables for a terminal.
    pub fn table(&self) -> Table {
        let mut all = Table::new();
        all.load_preset(comfy_table::presets::NOTHING);
        all.add_row([facts([
            ("tolls paid", format!("{} of {} sat, {} failed", self.payments, TOLL_MSAT / 1_000, self.failed)),
            ("at the device, median", format!("{} ms from the invoice to the proof", self.p50_ms)),
            ("at the device, 99 of 100", format!("{} ms", self.p99_ms)),
            (
                "on the device's link",
                format!(
                    "{} bytes in {} messages for each payment, both ways",
                    self.bytes_per_payment, self.device_messages_per_payment
                ),
            ),
            ("joint signatures", format!("{} for each payment", self.joint_signatures_per_payment)),
            ("the gateway's operator earned", format!("{} sat", self.fee_sat)),
        ])
        .to_string()]);
        let mut acts = table(&["act", "", "outcome"]);
        for act in &self.outcomes {
            acts.add_row([act.name, if act.ok { "ok" } else { "FAILED" }, &act.outcome]);
        }
        all.add_row([acts.to_string()]);
        all
    }
}
