//! LDK's exported signer tests against LNGate's joint signer, with a device in the same process.
//!
//! LDK makes the tests of its channels available to other signers (`_externalize_tests`). Here a node's signer is LNGate's for the
//! channels that it opens: [`farthing_gateway::signer::joint::JointSigner`] and its desk, the gateway's ledger, the device's machine, and
//! a joint round of both halves for each signature. The other end is a stock bridge: LDK's own signer.
//!
//! | file | holds |
//! |---|---|
//! | `node` | the keys of the suite's nodes |
//! | `ours` | the device's end: the joint signer, made to answer at once |
//! | `bridge` | the other end, which LDK signs |
//! | `wire` | what LDK tells a signer and the suite's own checker keeps to itself |
//! | `channel` | the device, and the gateway's half of it |
//! | `shares` | both halves of a joint key |
//! | `owner` | who approves, and who has the cold keys |
//! | `report`, `list` | what came of each test, and `cannot.txt`: what cannot, and why |
//!
//! Each test runs in a process of its own: a test that fails may take its process with it. A test that is not listed must pass; a listed
//! one must fail at the obstacle under which it is listed, so that a reason cannot go stale.

mod bridge;
mod channel;
mod list;
mod node;
mod ours;
mod owner;
mod report;
mod shares;
mod wire;

use std::collections::BTreeMap;
use std::panic;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lightning::util::test_utils::SIGNER_FACTORY;
use tempfile::TempDir;

use crate::list::List;
use crate::wire::lock;

/// The longest that one test may take. Alone the longest takes less than a minute and a half.
const DEADLINE: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        [] => run_all(Signer::Ours),
        ["--stock"] => run_all(Signer::Stock),
        ["--one", name] => run_one(name, Signer::Ours),
        ["--stock", "--one", name] => run_one(name, Signer::Stock),
        ["--list"] => {
            lightning::get_xtests().iter().for_each(|test| println!("{}", test.test_name));
            Ok(())
        }
        _ => Err(anyhow::anyhow!("usage: farthing-ldk-signer --list | [--stock] [--one TEST]")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whose signer the suite's nodes have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Signer {
    /// LNGate's, in the channels that a node opens.
    Ours,
    /// LDK's, everywhere: what fails with it as well says nothing about ours.
    Stock,
}

/// One test, in this process.
fn run_one(name: &str, signer: Signer) -> Result<()> {
    let tests = lightning::get_xtests();
    let test = tests.into_iter().find(|test| test.test_name == name).context("there is no such test")?;
    if signer == Signer::Ours {
        SIGNER_FACTORY.set(Arc::new(node::Factory));
    }
    thread::spawn(|| {
        let start = Instant::now();
        while start.elapsed() < DEADLINE {
            thread::park_timeout(DEADLINE);
        }
        report::obstacle("deadline: the test did not end");
        std::process::exit(3);
    });
    let panicked = panic::catch_unwind(test.test_fn).is_err();
    ensure!(panicked == test.should_panic, "{name} {}", if panicked { "panicked" } else { "did not panic" });
    report::passed();
    Ok(())
}

/// What came of one test.
#[derive(Debug)]
enum Outcome {
    Passed(Passed),
    /// At which obstacle, and in whose words.
    Failed(String, String),
}

/// What a test that passed had our signer do.
#[derive(Debug, Default)]
struct Passed {
    channels: u64,
    joint_signatures: u64,
    bridge_commitments: u64,
    htlc_signatures: u64,
    holder_commitments: u64,
    secrets: u64,
    helps: Vec<String>,
}

impl Passed {
    fn parse(line: &str) -> Option<Self> {
        let (counts, helps) = line.rsplit_once(' ')?;
        let counts: Vec<u64> = counts.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
        let helps = helps.split(',').filter(|help| !help.is_empty()).map(str::to_owned).collect();
        let [channels, joint_signatures, bridge_commitments, htlc_signatures, holder_commitments, secrets] =
            counts[..]
        else {
            return None;
        };
        Some(Self {
            channels,
            joint_signatures,
            bridge_commitments,
            htlc_signatures,
            holder_commitments,
            secrets,
            helps,
        })
    }
}

/// Has one test run in a process of its own.
fn run_apart(name: &str, signer: Signer) -> Result<Outcome> {
    // In memory where that is possible, and gone with this test however it ends.
    let folder = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).context("no folder for a test")?;
    let mut command = Command::new(std::env::current_exe()?);
    command.env("TMPDIR", folder.path());
    if signer == Signer::Stock {
        command.arg("--stock");
    }
    command.args(["--one", name]).stdin(Stdio::null()).stderr(Stdio::piped()).stdout(Stdio::piped());
    let output = command.output().with_context(|| format!("cannot start {name}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let ours = text.lines().filter_map(|line| line.strip_prefix(report::MARK));
    let (mut first, mut passed) = (None, None);
    for line in ours {
        if let Some(obstacle) = line.strip_prefix("obstacle ") {
            first.get_or_insert(obstacle.to_owned());
        }
        passed = line.strip_prefix("passed ").and_then(Passed::parse).or(passed);
    }
    if let Some(passed) = passed.filter(|_| output.status.success()) {
        return Ok(Outcome::Passed(passed));
    }
    let words = first.unwrap_or_else(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        let panicked = said.lines().skip_while(|line| !line.contains("panicked at")).take(3);
        format!("suite: {}", panicked.collect::<Vec<_>>().join(" "))
    });
    let obstacle = words.split(':').next().unwrap_or_default().to_owned();
    Ok(Outcome::Failed(obstacle, words))
}

/// Every test, and the comparison with the list.
fn run_all(signer: Signer) -> Result<()> {
    let list = match signer {
        Signer::Ours => List::parse(include_str!("../cannot.txt"))?,
        Signer::Stock => List::parse("")?,
    };
    let mut names: Vec<&str> = lightning::get_xtests().iter().map(|test| test.test_name).collect();
    names.sort_unstable();
    let total = names.len();
    for listed in list.tests() {
        ensure!(names.contains(&listed), "cannot.txt names {listed}, which LDK does not export");
    }

    let start = Instant::now();
    let (waiting, done) = (Mutex::new(names), Mutex::new(BTreeMap::new()));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let worked: Vec<Result<()>> = thread::scope(|scope| {
        let work = || {
            loop {
                let Some(name) = lock(&waiting).pop() else { return Ok(()) };
                let outcome = run_apart(name, signer)?;
                lock(&done).insert(name, outcome);
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker returns its error")).collect()
    });
    worked.into_iter().collect::<Result<()>>()?;
    let done = done.into_inner().expect("the workers have ended");
    ensure!(done.len() == total, "{} of {total} tests ran", done.len());

    let wrong = compare(&list, &done);
    summary(&done, start.elapsed());
    if wrong > 0 {
        bail!("{wrong} tests did not end as cannot.txt says");
    }
    Ok(())
}

/// Prints what is not as listed, and counts it.
fn compare(list: &List, done: &BTreeMap<&str, Outcome>) -> usize {
    let mut wrong = 0;
    for (name, outcome) in done {
        let complaint = match (list.obstacle(name), outcome) {
            (None, Outcome::Passed(_)) => continue,
            (Some(listed), Outcome::Failed(obstacle, _)) if listed == obstacle => continue,
            (None, Outcome::Failed(_, words)) => format!("failed: {words}"),
            (Some(listed), Outcome::Failed(_, words)) => {
                format!("is listed under [{listed}], failed at {words}")
            }
            (Some(listed), Outcome::Passed(_)) => format!("is listed under [{listed}] and passed"),
        };
        eprintln!("  {name} {complaint}");
        wrong += 1;
    }
    wrong
}

fn summary(done: &BTreeMap<&str, Outcome>, took: Duration) {
    let passed: Vec<&Passed> = done
        .values()
        .filter_map(|outcome| match outcome {
            Outcome::Passed(passed) => Some(passed),
            Outcome::Failed(..) => None,
        })
        .collect();
    let (signing, idle): (Vec<&Passed>, Vec<&Passed>) =
        passed.into_iter().partition(|passed| passed.joint_signatures > 0);
    let unaided = signing.iter().filter(|passed| passed.helps.is_empty()).count();
    let sum = |of: fn(&Passed) -> u64| signing.iter().map(|passed| of(passed)).sum::<u64>();
    println!(
        "{} tests in {:.0} s: {} passed with our signer ({unaided} of them unaided), {} passed without asking it to sign, {} cannot run",
        done.len(),
        took.as_secs_f64(),
        signing.len(),
        idle.len(),
        done.len() - signing.len() - idle.len(),
    );
    println!(
        "our signer: {} channels, {} joint signatures, {} bridge commitments with {} HTLC signatures, {} holder commitments, {} secrets",
        sum(|passed| passed.channels),
        sum(|passed| passed.joint_signatures),
        sum(|passed| passed.bridge_commitments),
        sum(|passed| passed.htlc_signatures),
        sum(|passed| passed.holder_commitments),
        sum(|passed| passed.secrets),
    );
    let count = |of: &dyn Fn(&Outcome) -> Vec<String>| {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        done.values().flat_map(of).for_each(|name| *counts.entry(name).or_default() += 1);
        counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
    };
    let helps = count(&|outcome| match outcome {
        Outcome::Passed(passed) => passed.helps.clone(),
        Outcome::Failed(..) => Vec::new(),
    });
    let obstacles = count(&|outcome| match outcome {
        Outcome::Passed(_) => Vec::new(),
        Outcome::Failed(obstacle, _) => vec![obstacle.clone()],
    });
    println!("helped: {helps}\nobstacles: {obstacles}");
}
