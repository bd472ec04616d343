//! Electrum, a wallet that is a Lightning node, and ElectrumX, the server without which it sees no chain: the destination in the
//! tests of interoperability.
//!
//! Debian 12 has the wallet, the Python that it runs with, and most of what the server needs. The rest are a few Python packages:
//! the files in `interop/electrum` say which, and what they must hash to. Debian's pip fetches them from where this machine is
//! configured to get such packages. All of it goes into a folder of its own, and nothing of this machine's Python is used.
//!
//! ```text
//! bin/python3                          starts libexec/python3 with the loader and the libraries of lib
//! bin/electrum, bin/electrumx_server   start it with what it is to run
//! lib/…                                libc, its loader, and the other libraries
//! libexec/…                            the interpreter, and Electrum's script
//! python/lib/…                         Python's own modules, and those from Debian
//! electrumx/…                          those from pip
//! ```

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::workspace::Workspace;
use crate::{debian, step, tools};

/// Names the `electrum` to use; passed on to the tests.
pub const WALLET: &str = "ELECTRUM_EXE";
/// Names the `electrumx_server` to use; passed on to the tests.
pub const SERVER: &str = "ELECTRUMX_EXE";

/// What the tests are written for: the commands differ from one to the next.
const WALLET_SERIES: &str = "4.3.";
const SERVER_SERIES: &str = "version=1.";

const SUITE: &str = "bookworm";
/// Its Python.
const PYTHON: &str = "python3.11";
const PACKAGES: [&str; 6] = [
    "electrum",
    "python3-electrum",
    "python3-aiohttp",
    "python3-pip",
    "python3-plyvel",
    "python3-websockets",
];
/// For pip, each with its hash: what builds the server, and the server.
const BUILDER: &str = "interop/electrum/build.txt";
const SERVER_PARTS: &str = "interop/electrum/requirements.txt";

/// Both programs.
#[derive(Debug)]
pub struct Electrum {
    pub wallet: PathBuf,
    pub server: PathBuf,
}

/// Finds Electrum and its server, or fetches both. Where they cannot be had there are none: an error in CI, and elsewhere the
/// reason why their tests are skipped.
pub fn find_or_fetch(workspace: &Workspace) -> Result<Option<Electrum>> {
    if let Some(electrum) = find(workspace) {
        return Ok(Some(electrum));
    }
    let _lock = tools::lock(workspace)?;
    if let Some(electrum) = find(workspace) {
        return Ok(Some(electrum));
    }
    step::header(
        "fetching Electrum and its server from the Debian mirror of this machine's apt (about 35 MB), and by pip",
    );
    let fetched = tools::place(workspace, "electrum", |partial| build(workspace, partial));
    match fetched {
        Ok(()) => find(workspace).context("the fetched Electrum stopped running when it was moved into place").map(Some),
        Err(error) if env::var_os("CI").is_some() => Err(error.context(format!(
            "no Electrum is here and none could be fetched: set {WALLET} and {SERVER} to Electrum {WALLET_SERIES}x and ElectrumX 1.x"
        ))),
        Err(error) => {
            step::header(&format!(
                "the tests with Electrum are skipped, because it is not here ({WALLET} and {SERVER} name none) and could not be \
                 fetched: {error:#}"
            ));
            Ok(None)
        }
    }
}

/// Each of the two by its variable, then on PATH, then as an earlier set-up fetched it.
fn find(workspace: &Workspace) -> Option<Electrum> {
    let one = |variable: &str, name: &str, is_it: fn(&Path) -> bool| {
        let wanted = env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
        let ours = workspace.tools().join("electrum/bin").join(name);
        wanted.into_iter().chain(tools::on_path(name)).chain([ours]).find(|program| is_it(program))
    };
    let wallet = one(WALLET, "electrum", is_wallet)?;
    Some(Electrum { wallet, server: one(SERVER, "electrumx_server", is_server)? })
}

fn build(workspace: &Workspace, folder: &Path) -> Result<PathBuf> {
    let unpacked =
        debian::unpack(SUITE, &PACKAGES, &[&debian::LIBRARIES[..], &["python3"]].concat(), folder)?;
    let tree = folder.join("tree");
    arrange(&unpacked, &tree)?;
    let builder = folder.join("builder");
    for (requirements, target) in [(BUILDER, &builder), (SERVER_PARTS, &tree.join("electrumx"))] {
        let mut pip = Command::new(tree.join("bin/python3"));
        pip.env("PYTHONPATH", &builder).args(["-sP", "-m", "pip", "install", "--disable-pip-version-check"]);
        pip.args(["--retries", "10", "--timeout", "60"]);
        pip.args(["--require-hashes", "--no-deps", "--no-build-isolation", "--target"]).arg(target);
        pip.arg("--requirement").arg(workspace.path(requirements));
        step::output(&mut pip)
            .context("pip could not fetch the server; is its package index within reach?")?;
    }
    ensure!(
        is_wallet(&tree.join("bin/electrum")),
        "the fetched Electrum does not run, or is not {WALLET_SERIES}x"
    );
    ensure!(is_server(&tree.join("bin/electrumx_server")), "the fetched ElectrumX does not run");
    Ok(tree)
}

/// Builds the tree out of the unpacked packages.
fn arrange(unpacked: &Path, tree: &Path) -> Result<()> {
    let loader = debian::gather_libraries(unpacked, tree)?;
    for folder in ["libexec", "python/lib"] {
        fs::create_dir_all(tree.join(folder))?;
    }
    let usr = unpacked.join("usr");
    let moves = [
        (format!("bin/{PYTHON}"), "libexec/python3".to_owned()),
        ("bin/electrum".to_owned(), "libexec/electrum".to_owned()),
        (format!("lib/{PYTHON}"), format!("python/lib/{PYTHON}")),
        ("lib/python3".to_owned(), "python/lib/python3".to_owned()),
    ];
    for (from, to) in moves {
        fs::rename(usr.join(&from), tree.join(to))
            .with_context(|| format!("the packages hold no usr/{from}"))?;
    }
    debian::start_by(tree, "python3", &interpreter_script(&loader))?;
    debian::start_by(tree, "electrum", &starter_script("", "\"$here/libexec/electrum\""))?;
    let server = "-m electrumx.cli.electrumx_server";
    debian::start_by(tree, "electrumx_server", &starter_script("\"$here/electrumx\"", server))
}

/// It takes itself for the script, and starts that when it starts itself.
fn interpreter_script(loader: &str) -> String {
    format!(
        r#"#!/bin/sh
# Runs Python with the libc and the libraries that it was built for.
here=$(dirname "$(readlink -f "$0")")/..
export PYTHONHOME="$here/python"
exec "$here/lib/{loader}" --library-path "$here/lib" --argv0 "$here/bin/python3" "$here/libexec/python3" "$@"
"#
    )
}

/// Neither the user's modules get in, nor those of the current folder.
fn starter_script(modules: &str, program: &str) -> String {
    format!(
        r#"#!/bin/sh
here=$(dirname "$(readlink -f "$0")")/..
export PYTHONPATH={modules}
exec "$here/bin/python3" -sP {program} "$@"
"#
    )
}

/// It tells its version, and makes a folder for data, wherever that is.
fn is_wallet(program: &Path) -> bool {
    let data = env::temp_dir().join(format!("farthing-electrum-{}", std::process::id()));
    let mut electrum = Command::new(program);
    let version = electrum.args(["version", "--offline", "-D"]).arg(&data).stdin(Stdio::null()).output();
    let _was_not_made = fs::remove_dir_all(&data);
    version.is_ok_and(|output| output.status.success() && output.stdout.starts_with(WALLET_SERIES.as_bytes()))
}

/// It tells its version as it starts, and without settings it starts no further.
fn is_server(program: &Path) -> bool {
    let started = Command::new(program).env_remove("DB_DIRECTORY").stdin(Stdio::null()).output();
    started.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(SERVER_SERIES))
}
