//! What the demo of cheques prints at the end.

use std::time::Duration;

use anyhow::Context as _;
use bitcoin::hex::FromHex as _;
use comfy_table::Table;
use farthing_node::cheques::machine::ChequeChannel;
use farthing_node::store::Store;
use serde::Serialize;

use crate::demo::cheque::Sale;
use crate::demo::cheque::acts::Act;
use crate::output::table;

/// Agent to node, node to payee.
const HOPS: usize = 2;
/// What one tick of the kernel's clock is, in milliseconds (`CONF_CLK_TCK` of 100).
const TICK_MS: u64 = 10;

/// The demo's result.
#[derive(Debug, Serialize)]
pub struct Report {
    mode: &'static str,
    ok: bool,
    direct: Direct,
    routed: Routed,
    reverse: Reverse,
    /// Whether a process of the payer's held its folder's lock when the payee came, or the other way round: while one runs, the demo holds
    /// the other's.
    online_together: bool,
    /// Of every process of the demo, whatever it did, the node's not: starting included. `null` where the system does not say.
    cpu_ms_all_roles: Option<u64>,
    acts: Acts,
    seconds: f64,
    #[serde(skip)]
    stories: Vec<(&'static str, bool, String)>,
}

#[derive(Debug, Serialize)]
struct Direct {
    paid_sat: u64,
    receipt_ok: bool,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Routed {
    /// In how many channels the agent and the node have paid it.
    hops: usize,
    linkable: bool,
    paid_sat: u64,
    receipt_ok: bool,
    seconds: f64,
}

/// The other way round: the payee was off while the payer paid, and the payer while the payee collected.
#[derive(Debug, Serialize)]
struct Reverse {
    paid_sat: u64,
    /// From the invitation to the payment, the funding of a new channel included.
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Acts {
    agent_gone: bool,
    payee_gone: bool,
    overwritten: bool,
    bounced: bool,
    expired: bool,
}

impl Report {
    /// Puts everything together.
    pub fn new(
        [direct, routed, reverse]: [Sale; 3],
        hops: usize,
        linkable: bool,
        online_together: bool,
        acts: [Act; 5],
        took: Duration,
    ) -> Self {
        let [overwritten, bounced, agent_gone, payee_gone, expired] = &acts;
        let sold = |sale: &Sale, sat: u64| sale.receipt_ok && sale.paid_sat == sat;
        let ok = sold(&direct, 2_000)
            && sold(&routed, 3_000)
            && sold(&reverse, 4_000)
            && hops == HOPS
            && !linkable
            && !online_together
            && acts.iter().all(|act| act.ok);
        Self {
            mode: "cheque",
            ok,
            direct: Direct {
                paid_sat: direct.paid_sat,
                receipt_ok: direct.receipt_ok,
                seconds: direct.took.as_secs_f64(),
            },
            routed: Routed {
                hops,
                linkable,
                paid_sat: routed.paid_sat,
                receipt_ok: routed.receipt_ok,
                seconds: routed.took.as_secs_f64(),
            },
            reverse: Reverse { paid_sat: reverse.paid_sat, seconds: reverse.took.as_secs_f64() },
            online_together,
            cpu_ms_all_roles: children_cpu_ms(),
            acts: Acts {
                agent_gone: agent_gone.ok,
                payee_gone: payee_gone.ok,
                overwritten: overwritten.ok,
                bounced: bounced.ok,
                expired: expired.ok,
            },
            seconds: took.as_secs_f64(),
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
        let mut sales = table(&["cheque", "paid", "receipt", "took"]);
        let holds = |ok: bool| if ok { "holds" } else { "DOES NOT HOLD" };
        let (direct, routed) = (&self.direct, &self.routed);
        for (name, paid, ok, seconds) in [
            ("direct", direct.paid_sat, direct.receipt_ok, direct.seconds),
            ("through a node", routed.paid_sat, routed.receipt_ok, routed.seconds),
        ] {
            let took = format!("{seconds:.1} s");
            sales.add_row([name.to_owned(), format!("{paid} sat"), holds(ok).to_owned(), took]);
        }
        let (paid, took) = (self.reverse.paid_sat, self.reverse.seconds);
        sales.add_row([
            "the other way round".to_owned(),
            format!("{paid} sat"),
            "-".to_owned(),
            format!("{took:.1} s"),
        ]);
        let mut acts = table(&["act", "", "outcome"]);
        for (title, ok, outcome) in &self.stories {
            acts.add_row([*title, if *ok { "ok" } else { "FAILED" }, outcome]);
        }
        let together = if self.online_together { "were on together" } else { "were never on together" };
        let hops = self.routed.hops;
        let linked = if self.routed.linkable { "can" } else { "cannot" };
        all.add_row([format!(
            "Payer and payee {together}: each ran while the other's folder was locked. The routed cheque was paid in {hops} channels; \
             the agent alone, or the node alone, {linked} tell from what it keeps who paid whom by cheque. The other way round, the \
             payee was off while the payer bought its agent's signature."
        )]);
        for part in [sales, acts] {
            all.add_row([part.to_string()]);
        }
        all
    }
}

/// Whether anything that a program has stored about its channels names one of these: hexadecimal is looked for as bytes, too.
pub fn names_any(store: &Store, names: &[String]) -> anyhow::Result<bool> {
    let mut stored = Vec::new();
    for channel in store.channels::<ChequeChannel>()? {
        stored.extend(serde_json::to_vec(&(channel.id, &channel.record, &channel.state))?);
        stored.extend(channel.id.as_bytes());
        stored.extend(channel.id.to_string().into_bytes());
    }
    for paper in store.papers()? {
        stored.extend(serde_json::to_vec(&paper)?);
    }
    let holds = |name: &[u8]| stored.windows(name.len()).any(|part| part == name);
    Ok(names
        .iter()
        .any(|name| holds(name.as_bytes()) || Vec::<u8>::from_hex(name).is_ok_and(|bytes| holds(&bytes))))
}

/// What the processes that were waited for have used of the processors.
fn children_cpu_ms() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").context("no such file").ok()?;
    // The name in parentheses may hold spaces.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let user: u64 = fields.nth(13)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) * TICK_MS)
}
