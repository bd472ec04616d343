//! The workspace on disk, and cargo run in it.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::step;

/// The workspace's own manifest.
pub const MANIFEST: &str = "Cargo.toml";

/// The folder that holds the workspace's `Cargo.toml`.
pub struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The workspace from which cargo started this program.
    pub fn locate() -> Self {
        // Cargo sets the variable when it runs a program; the built-in value is stale once the folder was moved.
        let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&package).parent().expect("xtask is a folder of the workspace").to_owned();
        Self { root }
    }

    /// A path under the workspace's root.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Where everything goes that set-up fetches or builds.
    pub fn tools(&self) -> PathBuf {
        self.path("tools")
    }

    /// The cargo that runs us, in the workspace's root.
    pub fn cargo<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&self.root).args(arguments);
        cargo
    }

    /// `cargo metadata` without dependencies for a manifest, given relative to the root.
    pub fn metadata(&self, manifest: &str) -> Result<Value> {
        let arguments =
            ["metadata", "--no-deps", "--format-version", "1", "--locked", "--manifest-path", manifest];
        let json = step::output(&mut self.cargo(arguments))?;
        serde_json::from_str(&json).context("cannot read the output of `cargo metadata`")
    }

    /// Where cargo puts what it builds for a manifest, given relative to the root.
    pub fn target_folder(&self, manifest: &str) -> Result<String> {
        let metadata = self.metadata(manifest)?;
        let folder =
            metadata["target_directory"].as_str().context("`cargo metadata` names no target folder")?;
        Ok(folder.to_owned())
    }
}
