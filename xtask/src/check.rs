//! Everything that CI asks of a change besides its tests. Steps are independent: all run, and all failures are named.

use anyhow::{Result, bail};

use crate::workspace::{self, Workspace};
use crate::{fuzz, programs, rules, signer_suite, step, tools};

type Step = (&'static str, fn(&Workspace) -> Result<()>);

/// The quickest answers first.
const STEPS: [Step; 5] = [
    ("formatting", formatting),
    ("architecture", rules::check),
    ("lints", lints),
    ("licences and sources", dependencies),
    ("documentation", documentation),
];

/// The packages that the workspace excludes: `--all` and `--workspace` do not see them.
const EXCLUDED: [&str; 3] = [programs::PEERS_MANIFEST, fuzz::MANIFEST, signer_suite::MANIFEST];

/// Those of them that build on our crates, so that a change there can break them.
const DEPENDENT: [&str; 2] = [fuzz::MANIFEST, signer_suite::MANIFEST];

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
    for manifest in EXCLUDED {
        step::run(&mut workspace.cargo(["fmt", "--check", "--manifest-path", manifest]))?;
    }
    Ok(())
}

fn lints(workspace: &Workspace) -> Result<()> {
    let lint = |of: &[&str]| {
        let arguments = [&["clippy", "--locked"], of, &["--", "-D", "warnings"]].concat();
        step::run(&mut workspace.cargo(arguments))
    };
    lint(&["--workspace", "--all-targets"])?;
    let output = workspace.target_folder(workspace::MANIFEST)?;
    for manifest in DEPENDENT {
        // Into the workspace's folder: most of what they build on is the same there.
        lint(&["--manifest-path", manifest, "--target-dir", &output])?;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_that_the_workspace_excludes_is_formatted() {
        let manifest = include_str!("../../Cargo.toml");
        let excluded = manifest.lines().find_map(|line| line.strip_prefix("exclude = ")).unwrap();
        // A list of strings in TOML is one in JSON.
        let folders: Vec<String> = serde_json::from_str(excluded).unwrap();
        let manifests: Vec<String> = folders.iter().map(|folder| format!("{folder}/Cargo.toml")).collect();
        assert_eq!(manifests, EXCLUDED);
    }
}
