//! Set-up, checks, tests, fuzzing, demo and benchmarks of the workspace: `cargo xtask help` lists the commands.
//!
//! What CI runs is `check` and `test`. Every step prints one line to standard error; standard output belongs to the
//! programs that `demo` and `bench` run.

mod bitcoind;
mod check;
mod command;
mod debian;
mod fuzz;
mod programs;
mod rules;
mod step;
mod tools;
mod workspace;
mod wrk;

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
        }
        Command::Check => check::check(&workspace)?,
        Command::Test => test(&workspace)?,
        Command::Fuzz { target, seconds } => fuzz::fuzz(&workspace, target.as_deref(), seconds)?,
        Command::Demo { arguments } => programs::demo(&workspace, &arguments)?,
        Command::Bench { arguments } => programs::bench(&workspace, &arguments)?,
    }
    Ok(())
}

/// Every test, then a short round of each fuzz target.
fn test(workspace: &Workspace) -> Result<()> {
    let bitcoind = bitcoind::ensure(workspace)?;
    let mut tests = workspace.cargo(["test", "--workspace", "--locked"]);
    tests.env(bitcoind::VARIABLE, bitcoind).env(wrk::VARIABLE, wrk::find_or_fetch(workspace)?);
    step::run(&mut tests)?;
    if fuzz::exists(workspace) {
        fuzz::fuzz(workspace, None, fuzz::DEFAULT_SECONDS)?;
    }
    Ok(())
}
