//! Benchmarks: `cargo xtask bench channel [--json]`, and so `lightspeed`, `cheque` and `gateway`.
//!
//! Every number is a ratio taken in one run on one machine, or has the floor beside it that this machine allows. The
//! things that are compared take turns, round by round, and what is reported is the median of the rounds: another
//! program that wakes up now and then, or a processor that changes its clock, then weighs on both sides alike.
//!
//! | file | measures |
//! |---|---|
//! | [`cpu`] | what a payment costs both sides, against one signature and one verification; no disk |
//! | [`durable`] | payments a second that a seller accepts and stores |
//! | [`transfer`] | a paid download against a free one, and both sides' memory; real processes |
//! | [`lightspeed`] | what paying per call costs a seller |
//! | [`cheque`] | what it costs to be paid while one is offline |
//! | [`gateway`] | how long a device waits for a payment, and what it costs everybody |

mod cheque;
mod cpu;
mod durable;
mod farthing;
mod gateway;
mod lightspeed;
mod opened;
mod payer;
mod report;
mod stats;
mod transfer;

use std::process::ExitCode;

use anyhow::bail;
use farthing_chain::RegtestNode;

use crate::farthing::Folder;
use crate::gateway::link;
use crate::lightspeed::idle;
use crate::report::Report;

const HELP: &str = "usage: bench channel|lightspeed|cheque|gateway [--json]\n       bench lightspeed --stage accept|open|call|batch|idle";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> anyhow::Result<()> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (what, json) = match arguments.as_slice() {
        [idle::COMMAND, database, ids] => return idle::open(database, ids),
        [link::COMMAND, address] => return link::probe(address),
        ["lightspeed", "--stage", stage] => {
            println!("{}", lightspeed::stage(stage)?);
            return Ok(());
        }
        [what] | [what, "--json"] | ["--json", what] => (*what, arguments.len() > 1),
        _other => bail!("{HELP}"),
    };
    if cfg!(debug_assertions) {
        eprintln!("this is a build for debugging: the numbers mean nothing");
    }
    let (line, table) = match what {
        "channel" => channel().map(|report| (report.to_json(), report.to_table()))?,
        "lightspeed" => lightspeed::measure().map(|report| (report.to_json(), report.to_table()))?,
        "cheque" => cheque::measure().map(|report| (report.to_json(), report.to_table()))?,
        "gateway" => gateway::measure().map(|report| (report.to_json(), report.to_table()))?,
        _other => bail!("{HELP}"),
    };
    println!("{}", if json { line.to_string() } else { table });
    Ok(())
}

/// The one-way channel.
fn channel() -> anyhow::Result<Report> {
    let folder = Folder::new()?;
    let node = RegtestNode::start()?;
    eprintln!("what a payment costs …");
    let cpu = cpu::measure()?;
    eprintln!("payments that are stored …");
    let durable = durable::measure(&node, &folder)?;
    eprintln!("paid and free downloads …");
    let rates = transfer::rates(&node, &folder)?;
    eprintln!("memory …");
    let memory = transfer::memory(&node, &folder)?;
    Ok(Report { cpu, durable, rates, memory })
}
