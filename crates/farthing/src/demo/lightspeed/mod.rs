//! `farthing demo lightspeed`: a million calls in one channel, four acts in which somebody fails or lies, and a channel in
//! flat mode.

mod acts;
mod flat;
mod in_process;
mod ladder;
mod lying;
mod report;
mod traffic;

use std::time::Instant;

use crate::demo::lightspeed::report::Report;
use crate::demo::stage::Stage;
use crate::output::Output;

/// Plays everything and prints what was counted.
pub async fn run(calls: u64, json: bool) -> anyhow::Result<()> {
    let report = tokio::task::spawn_blocking(move || play(calls)).await??;
    Output::new(json).print(&report, || report.table())?;
    anyhow::ensure!(report.is_ok(), "the demo did not end as it should");
    Ok(())
}

fn play(calls: u64) -> anyhow::Result<Report> {
    let started = Instant::now();
    eprintln!("Starting a private Bitcoin chain …");
    let stage = Stage::new()?;
    let ladder = ladder::play(&stage, calls)?;
    let acts =
        [acts::payee_gone(&stage)?, acts::payer_gone(&stage)?, lying::play(&stage)?, acts::crash(&stage)?];
    for act in acts.iter().filter(|act| !act.ok) {
        eprintln!("FAILED: {}: {}", act.title, act.outcome);
    }
    let flat = flat::play(&stage)?;
    Ok(Report::new(ladder, flat, acts, started.elapsed()))
}
