//! Where the `bitcoind` program is.
//!
//! The order lets a developer point at any build (`BITCOIND_EXE`), uses what the system has installed, and otherwise
//! falls back on the copy that `cargo xtask setup` puts into the workspace. Nothing is ever fetched from here.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Names the program to run, before everything else.
const VARIABLE: &str = "BITCOIND_EXE";
/// Where `cargo xtask setup` puts the program, seen from the workspace's root.
const TOOL: &str = "tools/bitcoind/bin/bitcoind";

/// There is no `bitcoind` to run.
#[derive(Debug, Error)]
pub enum BitcoindNotFound {
    /// `BITCOIND_EXE` is set, but to something that cannot be run. Nothing else is tried then: whoever set it does not
    /// want another program.
    #[error("BITCOIND_EXE names {}, which is not a program: correct or unset it", .0.display())]
    NotAProgram(PathBuf),
    /// None of the places has it.
    #[error(
        "no bitcoind found: BITCOIND_EXE is not set, PATH has none, and there is no {TOOL} beside or above this \
         program: run `cargo xtask setup`"
    )]
    Nowhere,
}

/// Finds `bitcoind`: what `BITCOIND_EXE` names, else the first on `PATH`, else `tools/bitcoind/bin/bitcoind` beside
/// the running program or in the nearest folder above it.
///
/// # Errors
/// [`BitcoindNotFound`], whose text says what to do.
pub fn find_bitcoind() -> Result<PathBuf, BitcoindNotFound> {
    search(env::var_os(VARIABLE), env::var_os("PATH"), env::current_exe().ok().as_deref())
}

fn search(
    named: Option<OsString>,
    path: Option<OsString>,
    running: Option<&Path>,
) -> Result<PathBuf, BitcoindNotFound> {
    if let Some(named) = named.map(PathBuf::from) {
        return if is_program(&named) { Ok(named) } else { Err(BitcoindNotFound::NotAProgram(named)) };
    }
    let on_path = path.iter().flat_map(env::split_paths).map(|folder| folder.join("bitcoind"));
    let above = running.into_iter().flat_map(Path::ancestors).skip(1).map(|folder| folder.join(TOOL));
    on_path.chain(above).find(|candidate| is_program(candidate)).ok_or(BitcoindNotFound::Nowhere)
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    /// A folder with an executable file at each of these places.
    fn folder_with(programs: &[&str]) -> TempDir {
        let folder = TempDir::new().unwrap();
        for program in programs {
            let program = folder.path().join(program);
            fs::create_dir_all(program.parent().unwrap()).unwrap();
            fs::write(&program, "").unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
        folder
    }

    #[test]
    fn the_variable_comes_first_then_path_then_the_workspace() {
        let folder = folder_with(&["mine", "usr/bin/bitcoind", TOOL]);
        let at = |place: &str| folder.path().join(place);
        let (named, path) = (at("mine").into_os_string(), at("usr/bin").into_os_string());
        let running = at("target/debug/deps/story");

        let all = search(Some(named), Some(path.clone()), Some(&running));
        let unnamed = search(None, Some(path), Some(&running));
        let fetched = search(None, None, Some(&running));

        assert_eq!(all.unwrap(), at("mine"));
        assert_eq!(unnamed.unwrap(), at("usr/bin/bitcoind"));
        assert_eq!(fetched.unwrap(), at(TOOL));
    }

    #[test]
    fn the_first_program_on_path_wins_and_other_files_do_not_count() {
        let folder = folder_with(&["first/bitcoind", "second/bitcoind"]);
        let at = |place: &str| folder.path().join(place);
        fs::create_dir_all(at("text")).unwrap();
        fs::write(at("text/bitcoind"), "not executable").unwrap();
        let path = env::join_paths([at("text"), at("first"), at("second")]).unwrap();

        assert_eq!(search(None, Some(path), None).unwrap(), at("first/bitcoind"));
    }

    #[test]
    fn the_nearest_folder_above_the_running_program_wins() {
        let folder = folder_with(&[TOOL, "inner/tools/bitcoind/bin/bitcoind"]);
        let inner = folder.path().join("inner");

        let beside = search(None, None, Some(&inner.join("farthing")));
        let above = search(None, None, Some(&folder.path().join("other/farthing")));

        assert_eq!(beside.unwrap(), inner.join(TOOL));
        assert_eq!(above.unwrap(), folder.path().join(TOOL));
    }

    #[test]
    fn a_variable_that_names_no_program_is_an_error_although_path_has_one() {
        let folder = folder_with(&["bitcoind"]);
        let path = folder.path().as_os_str().to_owned();

        let error = search(Some("/nowhere/bitcoind".into()), Some(path), None).unwrap_err();

        assert!(error.to_string().contains("/nowhere/bitcoind"), "{error}");
    }

    #[test]
    fn when_nothing_is_found_the_error_says_what_to_run() {
        let folder = folder_with(&[]);

        let error =
            search(None, Some(folder.path().into()), Some(&folder.path().join("farthing"))).unwrap_err();

        assert!(error.to_string().contains("cargo xtask setup"), "{error}");
    }
}
