//! What the demo prints at the end: counters of what went by, and what the chain and the wallets show.

use std::time::Duration;

use comfy_table::Table;
use serde::Serialize;

use crate::demo::lightspeed::acts::Act;
use crate::demo::lightspeed::flat::Flat;
use crate::demo::lightspeed::in_process;
use crate::demo::lightspeed::ladder::Ladder;
use crate::output::table;

/// The demo's result.
#[derive(Debug, Serialize)]
pub struct Report {
    mode: &'static str,
    ok: bool,
    ladder: Counted,
    flat: Flat,
    acts: Acts,
    seconds: f64,
    #[serde(skip)]
    details: Ladder,
    #[serde(skip)]
    stories: Vec<(&'static str, bool, String)>,
}

#[derive(Debug, Serialize)]
struct Counted {
    calls: u64,
    over_http: u64,
    signatures_per_call: u64,
    extra_round_trips: u64,
    close_transactions: u64,
    close_vsize: u64,
    payee_sat: u64,
    exposure_calls: u64,
    uncovered_calls: u64,
    chains: u64,
    rungs_signed_ahead: u64,
    requests_beside_calls: u64,
    durability: String,
    http_calls_per_second: f64,
    in_process_calls_per_second: f64,
}

#[derive(Debug, Serialize)]
struct Acts {
    payee_gone: bool,
    payer_gone: bool,
    lying_rung: bool,
    crash: bool,
}

fn rate(calls: u64, took: Duration) -> f64 {
    (calls as f64 / took.as_secs_f64().max(1e-9)).round()
}

impl Report {
    /// Puts everything together.
    pub fn new(ladder: Ladder, flat: Flat, acts: [Act; 4], took: Duration) -> Self {
        let [payee_gone, payer_gone, lying_rung, crash] = acts.each_ref().map(|act| act.ok);
        let in_load = ladder.over_http - 1;
        let counted = Counted {
            calls: ladder.calls,
            over_http: ladder.over_http,
            signatures_per_call: ladder.signatures_in_calls.div_ceil(ladder.calls),
            // A call that is sent twice counts. Chains of words are announced now and then; one request more for each call would show.
            extra_round_trips: (ladder.carried.calls - in_load).div_ceil(in_load.max(1))
                + (ladder.carried.requests - ladder.carried.calls) / in_load.max(1),
            close_transactions: ladder.close_transactions,
            close_vsize: ladder.close_vsize,
            payee_sat: ladder.payee_sat,
            exposure_calls: ladder.exposure_calls,
            uncovered_calls: ladder.uncovered_calls,
            chains: ladder.chains,
            rungs_signed_ahead: ladder.rungs,
            requests_beside_calls: ladder.opening.requests - 1 + ladder.carried.requests
                - ladder.carried.calls,
            durability: in_process::DURABILITY.to_owned(),
            http_calls_per_second: rate(in_load, ladder.http_took),
            in_process_calls_per_second: rate(ladder.calls - ladder.over_http, ladder.in_process_took),
        };
        Self {
            mode: "lightspeed",
            ok: ladder.ok && flat.is_ok() && acts.iter().all(|act| act.ok),
            ladder: counted,
            flat,
            acts: Acts { payee_gone, payer_gone, lying_rung, crash },
            seconds: took.as_secs_f64(),
            details: ladder,
            stories: acts.into_iter().map(|act| (act.title, act.ok, act.outcome)).collect(),
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
        let Counted { calls, over_http, .. } = self.ladder;
        all.add_row([format!(
            "{calls} calls at {} in one channel: {over_http} over HTTP through `farthing proxy` and `farthing sell`, the others in \
             one process through the same functions, stored before each answer (durability {})",
            self.details.price, self.ladder.durability,
        )]);
        let mut acts = table(&["act", "", "outcome"]);
        acts.add_row(["flat mode", mark(self.flat.is_ok()), &self.flat.outcome()]);
        for (title, ok, outcome) in &self.stories {
            acts.add_row([*title, mark(*ok), outcome]);
        }
        for part in [self.comparison(), self.facts(), acts] {
            all.add_row([part.to_string()]);
        }
        all
    }

    /// The comparison of the paper that this mode comes from, counted.
    fn comparison(&self) -> Table {
        let Ladder { over_http, carried, upstream, .. } = self.details;
        let in_load = over_http - 1;
        let mut compared = table(&["for each call", "over Lightning nodes", "counted here", "how"]);
        let calls = self.ladder.calls;
        let mut row = |what: &str, before: &str, after: String, how: String| {
            compared.add_row([what, before, &after, &how]);
        };
        row(
            "signatures of the payer",
            "6 or more, on both sides",
            self.ladder.signatures_per_call.to_string(),
            format!(
                "{} signed payments in {calls} calls; {} rungs signed ahead, one for {} calls",
                self.details.signatures_in_calls,
                self.ladder.rungs_signed_ahead,
                calls / self.ladder.rungs_signed_ahead.max(1)
            ),
        );
        // The application's request to its proxy, the proxy's to the seller, the seller's to the service.
        let hops = (over_http + carried.calls + 1 + upstream) / over_http;
        row(
            "calls between processes of one side",
            "4",
            format!("{}, or 0", hops - 1),
            "with a proxy on both sides, as here over HTTP; or with the library on both sides".to_owned(),
        );
        let beside = carried.requests - carried.calls;
        row(
            "messages between nodes",
            "3",
            (beside / in_load.max(1)).to_string(),
            format!(
                "{} requests beside {over_http} calls: opening and chains of words",
                self.ladder.requests_beside_calls
            ),
        );
        row(
            "requests between applications",
            "2",
            (carried.calls / in_load.max(1)).to_string(),
            format!("{} requests with a call for {in_load} calls", carried.calls),
        );
        compared
    }

    fn facts(&self) -> Table {
        let Ladder { price, close_fee_sat, over_http, .. } = &self.details;
        let counted = &self.ladder;
        let spent_sat = price.get() * counted.calls / 1_000;
        crate::output::facts([
            ("over HTTP", format!("{over_http} calls, {:.0} a second", counted.http_calls_per_second)),
            (
                "in one process",
                format!(
                    "{} calls, {:.0} a second, durability {}",
                    counted.calls - over_http,
                    counted.in_process_calls_per_second,
                    counted.durability
                ),
            ),
            ("chains of words", format!("{}, with {} rungs", counted.chains, counted.rungs_signed_ahead)),
            (
                "close by the seller alone",
                format!(
                    "{} transactions, {} vB, {close_fee_sat} sat of fees",
                    counted.close_transactions, counted.close_vsize
                ),
            ),
            ("the seller has", format!("{} of {spent_sat} sat", counted.payee_sat)),
            (
                "the seller risked",
                format!(
                    "{} calls at most, {} at the close ({} at most: one rung, and what its claim costs)",
                    counted.exposure_calls,
                    counted.uncovered_calls,
                    farthing_protocol::Msat::new(counted.exposure_calls * price.get())
                ),
            ),
        ])
    }
}

fn mark(ok: bool) -> &'static str {
    if ok { "ok" } else { "FAILED" }
}
