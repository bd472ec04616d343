//! LDK's exported signer tests, run against LNGate's joint signer.

use anyhow::Result;

use crate::step;
use crate::workspace::{self, Workspace};

/// A package of its own beside the workspace: LDK's tests link another bitcoinconsensus, so its lock file differs.
pub const MANIFEST: &str = "interop/ldk-signer/Cargo.toml";
/// That lock file.
pub const LOCK: &str = "interop/ldk-signer/Cargo.lock";

/// Runs those that can run, and checks that the others still cannot, for the reasons in `interop/ldk-signer/cannot.txt`.
pub fn run(workspace: &Workspace) -> Result<()> {
    // Most of what it builds is the same there.
    let output = workspace.target_folder(workspace::MANIFEST)?;
    let arguments = ["run", "--locked", "--manifest-path", MANIFEST, "--target-dir", &output];
    step::run(&mut workspace.cargo(arguments))
}
