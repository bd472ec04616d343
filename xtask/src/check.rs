//! Everything that CI asks of a change besides its tests. Steps are independent: all run, and all failures are named.

use anyhow::{Result, bail};

use crate::workspace::Workspace;
use crate::{rules, signer_suite, step, tools};

type Step = (&'static str, fn(&Workspace) -> Result<()>);

/// The quickest answers first.
const STEPS: [Step; 5] = [
    ("formatting", formatting),
    ("architecture", rules::check),
    ("lints", lints),
    ("licences and sources", dependencies),
    ("documentation", documentation),
];

/// Runs every step; fails if one of them does.
pub fn check(workspace: &Workspace) -> Result<()> {
    let mut failed = Vec::new();
    for (name, step) in STEPS {
        if let Err(error) = step(workspace) {
            eprintln!("error: {name}: {error:#}");
            failed.push(name);
        }
    }
    match failed.is_empty() {
        true => step::header("check passed"),
        false => bail!("check failed: {}", failed.join(", ")),
    }
    Ok(())
}

fn formatting(workspace: &Workspace) -> Result<()> {
    step::run(&mut workspace.cargo(["fmt", "--all", "--check"]))?;
    step::run(&mut workspace.cargo(["fmt", "--check", "--manifest-path", signer_suite::MANIFEST]))
}

fn lints(workspace: &Workspace) -> Result<()> {
    let arguments = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    step::run(&mut workspace.cargo(arguments))
}

/// Needs no network once cargo-deny is there: advisories, which would, are left to whoever releases.
fn dependencies(workspace: &Workspace) -> Result<()> {
    let mut deny = std::process::Command::new(tools::cargo_deny(workspace)?);
    deny.current_dir(workspace.path("."));
    step::run(deny.args(["--locked", "check", "bans", "licenses", "sources"]))
}

fn documentation(workspace: &Workspace) -> Result<()> {
    let mut doc = workspace.cargo(["doc", "--workspace", "--no-deps", "--locked"]);
    step::run(doc.env("RUSTDOCFLAGS", "-Dwarnings"))
}
