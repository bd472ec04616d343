//! The rules of the architecture that the compiler cannot check. Each is a table or a list to be changed in review.
//!
//! A rule is a function from what was read to the violations found in it, each one line for the reader of a log.

mod dependencies;
mod lock;
mod purity;
mod size;
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use self::source::Source;
use crate::workspace::Workspace;
use crate::{signer_suite, step};

/// Reads the workspace and applies every rule.
pub fn check(workspace: &Workspace) -> Result<()> {
    step::header("rules of the architecture");
    let metadata = workspace.metadata("Cargo.toml")?;
    let packages = dependencies::packages(&metadata)?;
    let tree = ["tree", "--package", "farthing-protocol", "--edges", "normal", "--target", "all"];
    let tree = step::output(workspace.cargo(tree).args(["--locked", "--prefix", "none", "--format", "{p}"]))?;
    let sources = sources(workspace)?;
    let (ours, suites) = (read(workspace, "Cargo.lock")?, read(workspace, signer_suite::LOCK)?);

    let violations = [
        dependencies::only_where_allowed(&packages),
        dependencies::only_downwards(&packages),
        dependencies::as_listed(&tree, &read(workspace, dependencies::LIST)?),
        lock::one_version("Cargo.lock", &ours),
        lock::one_version(signer_suite::LOCK, &suites),
        lock::same_versions(&ours, signer_suite::LOCK, &suites),
        purity::pure(&sources),
        size::short_enough(&sources, &read(workspace, size::LIST)?),
    ]
    .concat();
    for violation in &violations {
        eprintln!("  {violation}");
    }
    ensure!(violations.is_empty(), "violations: {}", violations.len());
    Ok(())
}

/// Every Rust file of the crates and of xtask, except modules that exist in tests only.
fn sources(workspace: &Workspace) -> Result<Vec<Source>> {
    let mut folders = vec![workspace.path("xtask/src")];
    for entry in fs::read_dir(workspace.path("crates"))? {
        folders.push(entry?.path().join("src"));
    }
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|extension| extension == "rs") => files.push(path),
                false => {}
            }
        }
    }
    files.sort();
    let root = workspace.path("");
    let parse = |file: &PathBuf| -> Result<Source> {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(Source::parse(file.strip_prefix(&root)?, &text))
    };
    let sources = files.iter().map(parse).collect::<Result<Vec<Source>>>()?;
    Ok(without_test_files(sources))
}

fn without_test_files(mut sources: Vec<Source>) -> Vec<Source> {
    let tests: Vec<PathBuf> = sources.iter().flat_map(|source| source.test_modules.clone()).collect();
    let is_test =
        |path: &Path| tests.iter().any(|test| path == test.with_extension("rs") || path.starts_with(test));
    sources.retain(|source| !is_test(&source.path));
    sources
}

fn read(workspace: &Workspace, path: &str) -> Result<String> {
    fs::read_to_string(workspace.path(path)).with_context(|| format!("cannot read {path}"))
}

/// The entries of a list file: no blank lines, no comments.
fn entries(list: &str) -> impl Iterator<Item = &str> {
    list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_of_tests_in_its_own_file_is_no_source() {
        let sources = [
            ("crates/protocol/src/lib.rs", "mod close;\n#[cfg(test)]\nmod fixtures;\n"),
            ("crates/protocol/src/close.rs", "#[cfg(test)] mod tests;\n"),
            ("crates/protocol/src/close/tests.rs", "fn test() {}\n"),
            ("crates/protocol/src/fixtures/mod.rs", "mod keys;\n"),
            ("crates/protocol/src/fixtures/keys.rs", "fn key() {}\n"),
            ("crates/protocol/src/fixtures_of_others.rs", "fn kept() {}\n"),
        ];
        let sources = sources.map(|(path, text)| Source::parse(Path::new(path), text)).into();
        let kept: Vec<PathBuf> = without_test_files(sources).into_iter().map(|source| source.path).collect();
        assert_eq!(
            kept,
            ["lib.rs", "close.rs", "fixtures_of_others.rs"]
                .map(|name| Path::new("crates/protocol/src").join(name))
        );
    }

    #[test]
    fn a_list_may_have_comments() {
        assert_eq!(entries("# heading\n\n one \ntwo\n").collect::<Vec<_>>(), ["one", "two"]);
    }
}
