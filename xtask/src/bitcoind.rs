//! The bitcoind that tests, demo and benchmarks run: the one that is there, or one fetched into `tools/bitcoind`.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};

use crate::debian::Package;
use crate::workspace::Workspace;
use crate::{step, tools};

/// Names the bitcoind to use; passed on to every program that is started after a set-up.
pub const VARIABLE: &str = "BITCOIND_EXE";

/// The oldest release that can be used: it relays packages of version 3 transactions and pays to anchors.
const OLDEST: u32 = 29;

const PACKAGE: Package = Package { name: "bitcoin-knots", programs: &["bitcoind", "bitcoin-cli"] };

/// A bitcoind that was seen to run.
#[derive(Debug)]
struct Bitcoind {
    program: PathBuf,
    /// As it states it: "Bitcoin Core daemon version v29.0.0".
    version: String,
}

/// Finds a bitcoind, or fetches one, and returns its full path.
pub fn ensure(workspace: &Workspace) -> Result<PathBuf> {
    let bitcoind = match find(workspace)? {
        Some(bitcoind) => bitcoind,
        None => fetch(workspace)?,
    };
    step::header(&format!("bitcoind is {} ({})", bitcoind.program.display(), bitcoind.version));
    Ok(bitcoind.program)
}

/// Looks in the order in which `farthing` looks, too: `BITCOIND_EXE`, PATH, `tools/bitcoind`.
fn find(workspace: &Workspace) -> Result<Option<Bitcoind>> {
    let wanted = env::var_os(VARIABLE);
    if let Some(bitcoind) = from_variable(wanted)? {
        return Ok(Some(bitcoind));
    }
    for program in tools::on_path("bitcoind") {
        match Bitcoind::try_from_program(&program) {
            Ok(bitcoind) => return Ok(Some(bitcoind)),
            Err(error) => step::header(&format!("passing over a bitcoind on PATH: {error:#}")),
        }
    }
    Ok(fetched(workspace))
}

/// A variable that is set is an order: what it names must run.
fn from_variable(value: Option<OsString>) -> Result<Option<Bitcoind>> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(None) };
    let program = std::path::absolute(&value)?;
    Bitcoind::try_from_program(&program)
        .map(Some)
        .with_context(|| format!("correct or unset {VARIABLE}={}", value.display()))
}

/// The one that an earlier set-up fetched, if it is there and still runs.
fn fetched(workspace: &Workspace) -> Option<Bitcoind> {
    Bitcoind::try_from_program(&workspace.tools().join("bitcoind/bin/bitcoind")).ok()
}

/// Fetches a bitcoind into `tools/bitcoind`.
fn fetch(workspace: &Workspace) -> Result<Bitcoind> {
    let _lock = tools::lock(workspace)?;
    if let Some(bitcoind) = fetched(workspace) {
        // Another set-up was quicker.
        return Ok(bitcoind);
    }
    step::header("fetching bitcoind from the Debian mirror of this machine's apt (about 20 MB)");
    let outcome = tools::from_debian(workspace, PACKAGE, "bitcoind", |tree| {
        Bitcoind::try_from_program(&tree.join("bin/bitcoind")).map(drop)
    });
    let bitcoind = outcome.and_then(|()| {
        fetched(workspace).context("the fetched bitcoind stopped running when it was moved into place")
    });
    bitcoind.map_err(|error| {
        anyhow!(
            "no bitcoind is here and none could be fetched: {error:#}\n\n\
             Install Bitcoin Core {OLDEST} or later yourself, then set {VARIABLE} to its bitcoind or put it on PATH."
        )
    })
}

impl Bitcoind {
    /// Asks the program for its version; refuses what does not run or is too old.
    fn try_from_program(program: &Path) -> Result<Self> {
        let said = step::output(Command::new(program).arg("-version"))
            .with_context(|| format!("{} does not run", program.display()))?;
        let version = said.lines().next().unwrap_or_default();
        check_version(version).with_context(|| format!("{} is of no use", program.display()))?;
        Ok(Self { program: program.to_owned(), version: version.to_owned() })
    }
}

/// Accepts "Bitcoin Knots daemon version v29.4.3.knots20260508".
fn check_version(line: &str) -> Result<()> {
    let number =
        line.rsplit_once(" version v").and_then(|(_, version)| version.split('.').next()?.parse().ok());
    let major: u32 = number.with_context(|| format!("it states no version, but `{line}`"))?;
    ensure!(major >= OLDEST, "it is too old: {line}; {OLDEST} or later is needed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_and_knots_are_accepted_from_29_on() {
        for line in [
            "Bitcoin Core daemon version v29.0.0",
            "Bitcoin Core daemon version v30.0.0rc1 bitcoind",
            "Bitcoin Knots daemon version v29.4.3.knots20260508",
        ] {
            check_version(line).unwrap();
        }
        let old = check_version("Bitcoin Core daemon version v28.1.0").unwrap_err().to_string();
        assert!(old.starts_with("it is too old"), "{old}");
        let other = check_version("Python 3.11.2").unwrap_err().to_string();
        assert_eq!(other, "it states no version, but `Python 3.11.2`");
    }

    #[test]
    fn the_variable_must_name_a_bitcoind() {
        assert!(from_variable(None).unwrap().is_none());
        assert!(from_variable(Some("".into())).unwrap().is_none());
        for (program, reason) in
            [("/nowhere/bitcoind", "does not run"), ("/bin/echo", "it states no version")]
        {
            let error = format!("{:#}", from_variable(Some(program.into())).unwrap_err());
            assert!(error.starts_with(&format!("correct or unset BITCOIND_EXE={program}: ")), "{error}");
            assert!(error.contains(reason), "{error}");
        }
    }
}
