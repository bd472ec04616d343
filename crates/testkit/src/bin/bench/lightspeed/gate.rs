//! A service with and without a gate under the same load, in turns: how many requests it answers a second, and how long
//! an answer takes.
//!
//! Service and load share this process and this machine's processors. The requests were prepared and hold the same
//! number of bytes for both; only behind a gate do they mean anything. The calls are those of real purses, of channels
//! that a real bitcoind has in a block, and each pays one word.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use farthing_chain::RegtestNode;
use farthing_node::tabs::Durability;
use tokio::runtime::Runtime;

use super::load::{self, Outcome, Pace, Requests};
use super::service::{self, BATCH, CHANNELS, Gated, Work};
use crate::farthing::Folder;
use crate::stats::median;

pub const CONNECTIONS: usize = 256;
/// Connections where the latency is measured, and their requests a second together.
pub const FEW: usize = 16;
pub const FEW_PER_S: f64 = 4_000.0;
/// Payers that share the connections out, where they are few.
pub const PAYERS: usize = 16;
pub const ROUNDS: usize = 5;
const LASTS: Duration = Duration::from_millis(1_500);
/// More requests a second than any service here answers.
const MOST_PER_S: f64 = 45_000.0;
const MOST_PER_S_EMPTY: f64 = 120_000.0;

/// One thing that is measured of the three services.
#[derive(Clone, Copy)]
struct Trial {
    work: Work,
    payers: usize,
    pace: Pace,
}

/// Medians over the rounds: without a gate, and behind one that stores each call, or batches.
pub struct Rates {
    pub open: f64,
    pub call: f64,
    pub batch: f64,
    /// What a request takes of the processors, in microseconds: service and load together.
    pub open_cpu_us: f64,
    pub call_cpu_us: f64,
    pub batch_cpu_us: f64,
    /// Medians of each round's ratio.
    pub call_over_open: f64,
    pub batch_over_open: f64,
}

/// Medians over the rounds, in microseconds.
pub struct Latencies {
    pub open: f64,
    /// What the gate adds.
    pub call: f64,
    pub batch: f64,
}

/// Everything that was measured through the gate.
pub struct Measured {
    /// A busy handler, each connection another payer's.
    pub busy: Rates,
    /// A busy handler, [`PAYERS`] payers.
    pub busy_few_payers: Rates,
    /// An empty handler, each connection another payer's.
    pub empty: Rates,
    pub p50: Latencies,
    pub p99: Latencies,
}

/// All connections, as fast as they are answered.
const FULL: Pace = Pace { connections: CONNECTIONS, rate: None, lasts: LASTS };

/// What the three services did in one round.
type Round = [Outcome; 3];

struct Services {
    open: SocketAddr,
    call: Gated,
    batch: Gated,
    _runtime: Runtime,
}

/// Measures.
pub fn measure(node: &RegtestNode, folder: &Folder) -> anyhow::Result<Measured> {
    let mut services = Services::start(node, folder)?;
    let full = FULL;
    let few = Pace { connections: FEW, rate: Some(FEW_PER_S), lasts: LASTS };
    let trials = [
        Trial { work: Work::Busy, payers: CHANNELS, pace: full },
        Trial { work: Work::Busy, payers: PAYERS, pace: full },
        Trial { work: Work::Nothing, payers: CHANNELS, pace: full },
        Trial { work: Work::Busy, payers: FEW, pace: few },
    ];
    let mut rounds = trials.map(|_| Vec::with_capacity(ROUNDS));
    for round in 0..ROUNDS {
        for (trial, rounds) in trials.iter().zip(&mut rounds) {
            rounds.push(services.round(trial, round)?);
        }
    }
    let [busy, busy_few_payers, empty, latency] = rounds;
    Ok(Measured {
        busy: rates(&busy),
        busy_few_payers: rates(&busy_few_payers),
        empty: rates(&empty),
        p50: latencies(&latency, 50.0),
        p99: latencies(&latency, 99.0),
    })
}

/// One service alone, with a busy handler: requests a second, and what each takes of the processors, in microseconds, the
/// load's own part and the handler's 50 included.
pub fn alone(node: &RegtestNode, folder: &Folder, name: &str) -> anyhow::Result<(f64, f64)> {
    let runtime = Runtime::new()?;
    let trial = Trial { work: Work::Busy, payers: CHANNELS, pace: FULL };
    let (mut outcomes, durability) = (Vec::with_capacity(ROUNDS), durability(name));
    match durability {
        None => {
            let open = service::open(&runtime)?;
            for _ in 0..ROUNDS {
                outcomes.push(load::run(open, vec![Requests::free(open, trial.work)], trial.pace)?);
            }
        }
        Some(durability) => {
            let mut gated = service::gated(&runtime, node, &folder.path().join(name), durability)?;
            for _ in 0..ROUNDS {
                outcomes.push(paid(&mut gated, &trial)?);
            }
        }
    }
    let of = |part: fn(&Outcome) -> f64| median(outcomes.iter().map(part));
    Ok((of(|outcome| outcome.per_s), of(|outcome| outcome.cpu_us)))
}

/// What a service of that name promises; `None` for the one that is open to all.
fn durability(name: &str) -> Option<Durability> {
    match name {
        "call" => Some(Durability::Call),
        "batch" => Some(Durability::Batch(BATCH)),
        _open => None,
    }
}

impl Services {
    fn start(node: &RegtestNode, folder: &Folder) -> anyhow::Result<Self> {
        let runtime = Runtime::new()?;
        let gated = |name: &str, durability| {
            service::gated(&runtime, node, &folder.path().join(name), durability)
                .with_context(|| format!("the service that stores by {name}"))
        };
        Ok(Self {
            open: service::open(&runtime)?,
            call: gated("call", Durability::Call)?,
            batch: gated("batch", Durability::Batch(BATCH))?,
            _runtime: runtime,
        })
    }

    fn turn(&mut self, trial: &Trial, which: usize) -> anyhow::Result<Outcome> {
        match which {
            0 => load::run(self.open, vec![Requests::free(self.open, trial.work)], trial.pace),
            1 => paid(&mut self.call, trial),
            _ => paid(&mut self.batch, trial),
        }
    }

    /// Each service once; which comes first changes from round to round.
    fn round(&mut self, trial: &Trial, round: usize) -> anyhow::Result<Round> {
        let mut outcomes = [None, None, None];
        for turn in 0..outcomes.len() {
            let which = (turn + round) % outcomes.len();
            outcomes[which] = Some(self.turn(trial, which)?);
        }
        let [Some(open), Some(call), Some(batch)] = outcomes else { unreachable!("each had its turn") };
        Ok([open, call, batch])
    }
}

fn paid(gated: &mut Gated, trial: &Trial) -> anyhow::Result<Outcome> {
    let most = trial
        .pace
        .rate
        .map_or(if trial.work == Work::Busy { MOST_PER_S } else { MOST_PER_S_EMPTY }, |rate| rate * 1.2);
    let calls = (most * (trial.pace.lasts.as_secs_f64() + 0.3) / trial.payers as f64) as usize;
    let callers = gated.callers.iter_mut().take(trial.payers);
    let requests = callers.map(|caller| Requests::of(caller, gated.address, trial.work, calls));
    load::run(gated.address, requests.collect::<anyhow::Result<_>>()?, trial.pace)
}

fn rates(rounds: &[Round]) -> Rates {
    let of = |part: fn(&Round) -> f64| median(rounds.iter().map(part));
    Rates {
        open: of(|round| round[0].per_s),
        call: of(|round| round[1].per_s),
        batch: of(|round| round[2].per_s),
        open_cpu_us: of(|round| round[0].cpu_us),
        call_cpu_us: of(|round| round[1].cpu_us),
        batch_cpu_us: of(|round| round[2].cpu_us),
        call_over_open: of(|round| round[1].per_s / round[0].per_s),
        batch_over_open: of(|round| round[2].per_s / round[0].per_s),
    }
}

fn latencies(rounds: &[Round], percent: f64) -> Latencies {
    let of = |part: &dyn Fn(&Round) -> f64| median(rounds.iter().map(part));
    Latencies {
        open: of(&|round| round[0].percentile(percent)),
        call: of(&|round| round[1].percentile(percent) - round[0].percentile(percent)),
        batch: of(&|round| round[2].percentile(percent) - round[0].percentile(percent)),
    }
}
