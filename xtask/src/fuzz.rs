//! Fuzzing on the stable toolchain: libFuzzer with coverage feedback and no sanitizer.

use std::fs;
use std::num::NonZero;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::step;
use crate::workspace::Workspace;

/// How long one target runs when nothing else is said.
pub const DEFAULT_SECONDS: u32 = 20;

/// A package of its own beside the workspace: its build flags and its lock file differ.
pub const MANIFEST: &str = "fuzz/Cargo.toml";

/// What `cargo fuzz` passes to the compiler, less the sanitizer: only that would need a nightly toolchain.
const COVERAGE: &str = "\
    -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    --cfg fuzzing \
    -Ccodegen-units=1";

/// Whether there is anything to fuzz.
pub fn exists(workspace: &Workspace) -> bool {
    workspace.path(MANIFEST).is_file()
}

/// How much of the inputs' space a run looks at.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// For how long, in seconds, each target.
    pub seconds: u32,
    /// Where libFuzzer's randomness begins: with a seed, and no corpus yet, a run tries the same inputs as the run before. Each
    /// run without one looks elsewhere.
    pub seed: Option<u32>,
}

/// Builds the targets, then runs one or each of them. What a target finds stays in `fuzz/artifacts`.
pub fn fuzz(workspace: &Workspace, target: Option<&str>, effort: Effort) -> Result<()> {
    ensure!(exists(workspace), "there is no {MANIFEST}, so there is nothing to fuzz");
    let metadata = workspace.metadata(MANIFEST)?;
    let targets = selected(targets(&metadata)?, target)?;
    // Given a target triple, cargo keeps the flags away from build scripts and procedural macros.
    let triple = host_triple()?;

    let mut build = workspace.cargo(["build", "--release", "--locked", "--manifest-path", MANIFEST]);
    build.args(["--target", &triple]);
    if let Some(target) = target {
        build.args(["--bin", target]);
    }
    step::run(build.env("RUSTFLAGS", COVERAGE))?;

    let output = workspace.target_folder(MANIFEST)?;
    let programs = Path::new(&output).join(triple).join("release");
    let failed = run_all(workspace, &programs, targets, effort)?;
    ensure!(
        failed.is_empty(),
        "failures found by: {}\nThe inputs are in fuzz/artifacts/TARGET; to see one fail again: {}/TARGET INPUT",
        failed.join(", "),
        programs.display(),
    );
    Ok(())
}

/// One target on each core. Gives those that found something.
fn run_all<'a>(
    workspace: &Workspace,
    programs: &Path,
    targets: Vec<&'a str>,
    effort: Effort,
) -> Result<Vec<&'a str>> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get).min(targets.len());
    let waiting = Mutex::new(targets.into_iter());
    let work = || -> Result<Vec<&'a str>> {
        let mut failed = Vec::new();
        loop {
            let next = waiting.lock().expect("no holder of this lock panics").next();
            let Some(target) = next else { return Ok(failed) };
            if run(workspace, programs, target, effort)? == Outcome::Failure {
                failed.push(target);
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let found = workers.into_iter().map(|worker| worker.join().expect("a worker does not panic"));
        Ok(found.collect::<Result<Vec<_>>>()?.concat())
    })
}

#[derive(PartialEq, Eq)]
enum Outcome {
    Nothing,
    Failure,
}

fn run(workspace: &Workspace, programs: &Path, target: &str, effort: Effort) -> Result<Outcome> {
    let corpus = format!("fuzz/corpus/{target}");
    let artifacts = format!("fuzz/artifacts/{target}/");
    for folder in [&corpus, &artifacts] {
        fs::create_dir_all(workspace.path(folder)).with_context(|| format!("cannot create {folder}"))?;
    }
    let mut command = Command::new(programs.join(target));
    command.current_dir(workspace.path(".")).arg(corpus).args([
        format!("-max_total_time={}", effort.seconds),
        // libFuzzer takes 0 for "any".
        format!("-seed={}", effort.seed.unwrap_or(0)),
        "-rss_limit_mb=2048".into(),
        format!("-artifact_prefix={artifacts}"),
    ]);
    step::header(&step::line(&command));
    // Several run at once: what one says is shown together, and when nothing was found only how it ended.
    let ended = command.output().map_err(|error| step::cannot_start(&command, &error))?;
    let said = String::from_utf8_lossy(&ended.stderr);
    if ended.status.success() {
        eprintln!("{target}: {}", said.lines().last().unwrap_or_default());
        return Ok(Outcome::Nothing);
    }
    eprintln!("{said}");
    Ok(Outcome::Failure)
}

/// The binary targets of the package.
fn targets(metadata: &Value) -> Result<Vec<&str>> {
    let targets =
        metadata["packages"][0]["targets"].as_array().context("`cargo metadata` names no targets")?;
    let programs = targets.iter().filter(|target| target["kind"][0] == "bin");
    let names: Vec<&str> = programs.filter_map(|target| target["name"].as_str()).collect();
    ensure!(!names.is_empty(), "{MANIFEST} has no [[bin]] targets");
    Ok(names)
}

fn selected<'a>(all: Vec<&'a str>, wanted: Option<&str>) -> Result<Vec<&'a str>> {
    let Some(wanted) = wanted else { return Ok(all) };
    match all.iter().find(|target| **target == wanted) {
        Some(target) => Ok(vec![target]),
        None => bail!("there is no fuzz target `{wanted}`; there are: {}", all.join(", ")),
    }
}

/// The machine's own target triple.
fn host_triple() -> Result<String> {
    let version = step::output(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn targets_are_the_packages_programs() {
        let metadata = json!({"packages": [{"targets": [
            {"name": "decode", "kind": ["bin"]},
            {"name": "fuzz", "kind": ["lib"]},
            {"name": "two_parties", "kind": ["bin"]},
        ]}]});
        let all = targets(&metadata).unwrap();
        assert_eq!(all, ["decode", "two_parties"]);
        assert_eq!(selected(all.clone(), None).unwrap(), all);
        assert_eq!(selected(all.clone(), Some("decode")).unwrap(), ["decode"]);
        assert_eq!(
            selected(all, Some("decoder")).unwrap_err().to_string(),
            "there is no fuzz target `decoder`; there are: decode, two_parties"
        );
    }
}
