//! LND, a Lightning node that nobody here wrote: the bridge and the destination in the tests of interoperability.
//!
//! There is no package of it. Its Go module is built as published; `interop/lnd/go.mod` says which, and `go.sum` what it must hash to.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;
use crate::{step, tools};

/// Names the lnd to use; passed on to the tests. Its `lncli` lies beside it.
pub const VARIABLE: &str = "LND_EXE";

const PROGRAMS: [&str; 2] =
    ["github.com/lightningnetwork/lnd/cmd/lnd", "github.com/lightningnetwork/lnd/cmd/lncli"];

/// Finds LND, or builds it with Go, and returns its full path. Without Go there is none: an error in CI, and elsewhere the reason
/// why its tests are skipped.
pub fn find_or_build(workspace: &Workspace) -> Result<Option<PathBuf>> {
    let wanted = env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    let ours = workspace.tools().join("lnd/lnd");
    let found = || {
        wanted.clone().into_iter().chain(tools::on_path("lnd")).chain([ours.clone()]).find(|lnd| is_lnd(lnd))
    };
    if let Some(lnd) = found() {
        return Ok(Some(lnd));
    }
    if Command::new("go").arg("version").output().is_err() {
        let missing = format!(
            "LND needs Go 1.24 or later on PATH to be built, or {VARIABLE} to name one with lncli beside it"
        );
        if env::var_os("CI").is_some() {
            bail!("{missing}");
        }
        step::header(&format!("the tests with LND are skipped, because {missing}"));
        return Ok(None);
    }
    let _lock = tools::lock(workspace)?;
    if let Some(lnd) = found() {
        return Ok(Some(lnd));
    }
    build(workspace, &ours)?;
    Ok(Some(ours))
}

/// Go moves each program to its place only when it is complete, and lncli goes first: where lnd is, both are.
fn build(workspace: &Workspace, lnd: &Path) -> Result<()> {
    let folder = lnd.parent().context("a folder")?;
    step::header("building LND from its Go module, which takes some minutes");
    // What was fetched stays fetched.
    step::try_again(|| {
        let mut go = Command::new("go");
        step::run(go.current_dir(workspace.path("interop/lnd")).args(["mod", "download"]))
    })
    .context("LND's modules could not be fetched; is the Go module proxy within reach?")?;
    for program in PROGRAMS.iter().rev() {
        let mut go = Command::new("go");
        go.current_dir(workspace.path("interop/lnd"));
        go.args(["build", "-trimpath", "-ldflags", "-s -w", "-o"]).arg(folder.join("")).arg(program);
        step::run(&mut go).context("LND could not be built")?;
    }
    if !is_lnd(lnd) {
        bail!("{} does not run; delete it and try again", lnd.display());
    }
    Ok(())
}

fn is_lnd(program: &Path) -> bool {
    let says = |program: &Path| Command::new(program).arg("--version").output();
    says(program).is_ok_and(|output| output.stdout.starts_with(b"lnd version"))
        && says(&program.with_file_name("lncli")).is_ok_and(|output| output.status.success())
}
