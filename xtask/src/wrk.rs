//! The load generator that a story lets loose on a paying proxy: a stock program that nobody here wrote.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::debian::Package;
use crate::workspace::Workspace;
use crate::{step, tools};

/// Names the wrk to use; passed on to the tests.
pub const VARIABLE: &str = "WRK_EXE";

const PACKAGE: Package = Package { name: "wrk", programs: &["wrk"] };

/// Finds wrk, or fetches it, and returns its full path. Where it cannot be had there is none: an error in CI, and elsewhere the reason
/// why its story is skipped.
pub fn find_or_fetch(workspace: &Workspace) -> Result<Option<PathBuf>> {
    let wanted = env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    let ours = workspace.tools().join("wrk/bin/wrk");
    let found = || {
        wanted.clone().into_iter().chain(tools::on_path("wrk")).chain([ours.clone()]).find(|wrk| is_wrk(wrk))
    };
    if let Some(wrk) = found() {
        return Ok(Some(wrk));
    }
    let _lock = tools::lock(workspace)?;
    if let Some(wrk) = found() {
        return Ok(Some(wrk));
    }
    step::header("fetching wrk from the Debian mirror of this machine's apt (about 8 MB)");
    let runs = |tree: &Path| {
        ensure!(is_wrk(&tree.join("bin/wrk")), "the fetched wrk does not run");
        Ok(())
    };
    let fetched = tools::from_debian(workspace, PACKAGE, "wrk", runs).with_context(|| {
        format!("no wrk is here and none could be fetched: install it, then set {VARIABLE} to it or put it on PATH")
    });
    match fetched {
        Ok(()) => Ok(Some(ours)),
        Err(error) if env::var_os("CI").is_some() => Err(error),
        Err(error) => {
            step::header(&format!("the story with a load generator is skipped, because {error:#}"));
            Ok(None)
        }
    }
}

/// It tells its name, and ends with a failure all the same.
fn is_wrk(program: &Path) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.stdout.starts_with(b"wrk "))
}
