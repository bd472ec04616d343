//! `tools/`: what this workspace needs and does not compile itself. Only set-up writes there, one run at a time.

use std::env;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::debian::Package;
use crate::workspace::Workspace;
use crate::{debian, step};

/// The version of cargo-deny that `deny.toml` is written for.
const CARGO_DENY: &str = "0.20.2";

/// It runs for two seconds: compile it quickly rather than well. One minute on two cores; with its own profile, 2.5.
const QUICK_BUILD: [(&str, &str); 4] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"),
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "false"),
];

/// Waits until no other run changes `tools/`; the next one waits until the returned file is dropped.
pub fn lock(workspace: &Workspace) -> Result<File> {
    let tools = workspace.tools();
    fs::create_dir_all(&tools).with_context(|| format!("cannot create {}", tools.display()))?;
    let path = tools.join(".lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => step::header("waiting for another set-up to finish"),
        Err(TryLockError::Error(error)) => bail!("cannot lock {}: {error}", path.display()),
    }
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// Fetches a package from Debian into the folder `tools/NAME`, as [`place`] does.
pub fn from_debian(
    workspace: &Workspace,
    package: Package,
    name: &str,
    check: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    place(workspace, name, |partial| {
        let tree = debian::fetch(package, partial)?;
        check(&tree)?;
        Ok(tree)
    })
}

/// Makes the folder `tools/NAME` of the tree that `build` leaves in the folder that it is given: it appears only when it is complete,
/// and `build` has found it to run. Whoever calls holds the lock.
pub fn place(workspace: &Workspace, name: &str, build: impl FnOnce(&Path) -> Result<PathBuf>) -> Result<()> {
    let complete = workspace.tools().join(name);
    let prefix = format!("{name}.partial.");
    remove_partial(workspace, &prefix)?;
    // A name of our own: a killed run may have left an apt that still writes into its folder.
    let partial = workspace.tools().join(format!("{prefix}{}", std::process::id()));
    let moved = build(&partial).and_then(|tree| {
        if complete.exists() {
            fs::remove_dir_all(&complete).with_context(|| format!("cannot remove {}", complete.display()))?;
        }
        fs::rename(&tree, &complete).with_context(|| format!("cannot create {}", complete.display()))
    });
    remove_partial(workspace, &prefix)?;
    moved
}

/// Removes what this run and interrupted ones leave behind, as far as that is possible.
fn remove_partial(workspace: &Workspace, prefix: &str) -> Result<()> {
    for entry in fs::read_dir(workspace.tools())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// The right cargo-deny: from PATH, from `tools/bin`, or newly built into `tools/bin`.
pub fn cargo_deny(workspace: &Workspace) -> Result<PathBuf> {
    let ours = workspace.tools().join("bin/cargo-deny");
    let right = || on_path("cargo-deny").chain([ours.clone()]).find(|deny| is_cargo_deny(deny));
    if let Some(deny) = right() {
        return Ok(deny);
    }
    let _lock = lock(workspace)?;
    if let Some(deny) = right() {
        return Ok(deny);
    }
    let mut install = workspace.cargo(["install", "--quiet", "--locked", "--force", "--root", "tools"]);
    install.args(["cargo-deny", "--version", CARGO_DENY]).envs(QUICK_BUILD);
    step::run(&mut install).context("cargo-deny could not be built; is the crate registry within reach?")?;
    if !is_cargo_deny(&ours) {
        bail!("{} does not run, or is not version {CARGO_DENY}; delete it and try again", ours.display());
    }
    Ok(ours)
}

/// Every file of this name in the folders of PATH, in their order, with its full path.
pub fn on_path(name: &str) -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let files: Vec<PathBuf> = env::split_paths(&path).map(|folder| folder.join(name)).collect();
    files.into_iter().filter(|file| file.is_file()).filter_map(|file| std::path::absolute(file).ok())
}

fn is_cargo_deny(program: &Path) -> bool {
    step::output(Command::new(program).arg("--version"))
        .is_ok_and(|version| version.trim() == format!("cargo-deny {CARGO_DENY}"))
}
