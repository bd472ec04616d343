//! The workspace's own programs, built for release and run in place of this one.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Result;

use crate::workspace::{self, Workspace};
use crate::{bitcoind, step};

/// `farthing demo ARGUMENTS`. Returns only if it cannot be started.
pub fn demo(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let bitcoind = bitcoind::ensure(workspace)?;
    step::run(&mut workspace.cargo(["build", "--release", "--locked", "--package", "farthing"]))?;
    let target = workspace.target_folder(workspace::MANIFEST)?;
    let mut farthing = Command::new(format!("{target}/release/farthing"));
    become_program(farthing.arg("demo").args(arguments).env(bitcoind::VARIABLE, bitcoind))
}

/// The benchmarks' program. Returns only if it cannot be started.
pub fn bench(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let bitcoind = bitcoind::ensure(workspace)?;
    let package = ["--package", "farthing-testkit", "--bin", "bench"];
    let mut bench = workspace.cargo(["run", "--release", "--locked"]);
    bench.args(package).arg("--").args(arguments);
    if arguments.iter().any(|argument| argument == "lightspeed") {
        bench.env(PEERS_VARIABLE, peers(workspace)?);
    } else {
        // It measures `farthing` processes too. Built by itself: in one build with the testkit it would get crash points.
        step::run(&mut workspace.cargo(["build", "--release", "--locked", "--package", "farthing"]))?;
    }
    become_program(bench.env(bitcoind::VARIABLE, bitcoind))
}

/// Names the peers' program to the benchmarks'.
const PEERS_VARIABLE: &str = "FARTHING_BENCH_PEERS";

/// The program that measures other protocols' crates. It is a workspace of its own, with its own lock file: what it needs must
/// not be mixed with what is released.
pub const PEERS_MANIFEST: &str = "bench/peers/Cargo.toml";

/// Builds it.
fn peers(workspace: &Workspace) -> Result<String> {
    let mut build = workspace.cargo(["build", "--release", "--locked", "--manifest-path", PEERS_MANIFEST]);
    step::run(&mut build)?;
    let target = workspace.target_folder(PEERS_MANIFEST)?;
    Ok(format!("{target}/release/peers"))
}

/// Replaces this process, so that signals reach the program and its exit code is ours.
fn become_program(command: &mut Command) -> Result<()> {
    step::header(&step::line(command));
    let error = command.exec();
    Err(step::cannot_start(command, &error))
}
