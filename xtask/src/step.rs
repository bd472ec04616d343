//! Running other programs: a header per step, and an error that names the command which failed.

use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Error, Result, anyhow, bail};

/// How long to wait before what failed is tried again.
const PAUSES: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(10), Duration::from_secs(30)];

/// Prints the one line by which a step is found in a log.
pub fn header(text: &str) {
    eprintln!("==> {text}");
}

/// Runs a step whose output the reader should see.
pub fn run(command: &mut Command) -> Result<()> {
    header(&line(command));
    let status = command.status().map_err(|error| cannot_start(command, &error))?;
    if !status.success() {
        bail!("`{}` failed ({status})", line(command));
    }
    Ok(())
}

/// Does again what failed, after a pause: for what depends on a network.
pub fn try_again<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    for pause in PAUSES {
        match attempt() {
            Err(error) => header(&format!("once more in {} s, because {error:#}", pause.as_secs())),
            done => return done,
        }
        thread::sleep(pause);
    }
    attempt()
}

/// Runs a program quietly and returns what it printed; its error output is shown only when it fails.
pub fn output(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().map_err(|error| cannot_start(command, &error))?;
    if !status.success() {
        let said = String::from_utf8_lossy(&stderr);
        bail!("`{}` failed ({status}):\n{}", line(command), said.trim_end());
    }
    Ok(String::from_utf8(stdout)?)
}

/// The error for a program that could not be started at all.
pub fn cannot_start(command: &Command, error: &std::io::Error) -> Error {
    let program = command.get_program().display();
    match error.kind() {
        ErrorKind::NotFound => anyhow!("`{program}` is not there"),
        _ => anyhow!("`{program}` cannot be started: {error}"),
    }
}

/// The command as one would type it. A full path to cargo is shown as `cargo`.
pub fn line(command: &Command) -> String {
    let program = command.get_program();
    let name = Path::new(program).file_name().unwrap_or(program);
    let words = std::iter::once(name).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
