//! Set-up, checks, tests, fuzzing, demo and benchmarks of the workspace: `cargo xtask help` lists the commands.
//!
//! What CI runs is `check` and `test`. Every step prints one line to standard error; standard output belongs to the
//! programs that `demo` and `bench` run.

mod bitcoind;
mod check;
mod command;
mod debian;
mod electrum;
mod fuzz;
mod lnd;
mod programs;
mod rules;
mod signer_suite;
mod step;
mod tools;
mod workspace;
mod wrk;

use std::env;
use std::process::ExitCode;

use anyhow::Result;

use crate::command::Command;
use crate::workspace::Workspace;

fn main() -> ExitCode {
    let command = match Command::parse(std::env::args().skip(1)) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("error: {error}\n\n{}", command::HELP);
            return ExitCode::from(2);
        }
    };
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let workspace = Workspace::locate();
    match command {
        Command::Help => print!("{}", command::HELP),
        Command::Setup => {
            bitcoind::ensure(&workspace)?;
            wrk::find_or_fetch(&workspace)?;
            lnd::find_or_build(&workspace)?;
            electrum::find_or_fetch(&workspace)?;
        }
        Command::Check => check::check(&workspace)?,
        Command::Test => test(&workspace)?,
        Command::SignerSuite => signer_suite::run(&workspace)?,
        Command::Fuzz { target, seconds } => {
            fuzz::fuzz(&workspace, target.as_deref(), fuzz::Effort { seconds, seed: None })?
        }
        Command::Demo { arguments } => programs::demo(&workspace, &arguments)?,
        Command::Bench { arguments } => programs::bench(&workspace, &arguments)?,
    }
    Ok(())
}

/// Every test, then a short round of each fuzz target.
fn test(workspace: &Workspace) -> Result<()> {
    let bitcoind = bitcoind::ensure(workspace)?;
    let mut tests = workspace.cargo(["test", "--workspace", "--locked", "--no-fail-fast"]);
    tests.env("RUST_TEST_THREADS", threads().to_string());
    if env::var_os("CI").is_some() {
        // As for the fuzz targets below: what is tried depends on the code alone.
        tests.env("PROPTEST_RNG_SEED", "1");
    }
    tests.env(bitcoind::VARIABLE, bitcoind);
    if let Some(wrk) = wrk::find_or_fetch(workspace)? {
        tests.env(wrk::VARIABLE, wrk);
    }
    if let Some(lnd) = lnd::find_or_build(workspace)? {
        tests.env(lnd::VARIABLE, lnd);
    }
    if let Some(electrum) = electrum::find_or_fetch(workspace)? {
        tests.env(electrum::WALLET, electrum.wallet).env(electrum::SERVER, electrum.server);
    }
    step::run(&mut tests)?;
    if fuzz::exists(workspace) {
        // The same inputs for the same code: whether a change passes is not left to luck.
        fuzz::fuzz(workspace, None, fuzz::Effort { seconds: fuzz::DEFAULT_SECONDS, seed: Some(1) })?;
    }
    Ok(())
}

/// How many tests of a program run at once: two to a core, since stories wait for blocks and processes more than they compute.
fn threads() -> usize {
    2 * std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
