//! `farthing demo`: everything on a private chain, with real processes and a real bitcoind.

mod acts;
mod cheque;
mod gateway;
mod lightspeed;
mod people;
mod report;
mod stage;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context as _;

use crate::cli::{DemoArguments, Play};
use crate::demo::report::Report;
use crate::demo::stage::Stage;
use crate::output::Output;

/// Plays what was asked for, until somebody presses Ctrl-C: what was begun is then cleared away as at the end.
pub async fn run(arguments: &DemoArguments, json: bool) -> anyhow::Result<()> {
    tokio::select! {
        played = play_what(arguments, json) => played,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("stopped in the middle"),
    }
}

async fn play_what(arguments: &DemoArguments, json: bool) -> anyhow::Result<()> {
    match arguments.what {
        Play::Channel => channel(arguments, json).await,
        Play::Gateway => gateway::run(arguments.tolls, json).await,
        Play::Lightspeed => lightspeed::run(arguments.calls, json).await,
        Play::Cheque => cheque::run(json).await,
    }
}

/// Plays the sale and the three acts, then prints what everybody had before and after.
async fn channel(arguments: &DemoArguments, json: bool) -> anyhow::Result<()> {
    let file = match &arguments.file {
        Some(file) => file.clone(),
        None => std::env::current_exe().context("this program's own file is not known: use --file")?,
    };
    let report = tokio::task::spawn_blocking(move || play(file)).await??;
    let output = Output::new(json);
    output.print(&report, || report.table())?;
    anyhow::ensure!(report.is_ok(), "the demo did not end as it should");
    Ok(())
}

fn play(file: PathBuf) -> anyhow::Result<Report> {
    let started = Instant::now();
    eprintln!("Starting a private Bitcoin chain …");
    let stage = Stage::new()?;
    let sale = acts::sale(&stage, &file)?;
    let refund = acts::seller_vanishes(&stage, &file)?;
    let unilateral_close = acts::buyer_vanishes(&stage, &file)?;
    let resume = acts::buyer_is_killed(&stage, &file)?;
    Report::new(&stage, sale, [refund, unilateral_close, resume], started.elapsed())
}
