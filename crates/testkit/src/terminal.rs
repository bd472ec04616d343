//! What a program shows to a person who looks.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::process::{Command, ExitStatus};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context as _, Result};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::wait::PATIENCE;

/// Runs a program whose input and output are a terminal of its own, to its end. Returns how it ended, and what was to be seen: standard
/// error as well.
///
/// # Errors
/// When it cannot be run or does not end.
pub fn watched(mut command: Command) -> Result<(ExitStatus, String)> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let name = ptsname(&ours, Vec::new())?;
    let theirs = File::options().read(true).write(true).open(name.to_str()?)?;
    command.stdin(theirs.try_clone()?).stdout(theirs.try_clone()?).stderr(theirs);
    let mut child = command.spawn()?;
    // Else this process would hold the other end as well, and what is shown would never end.
    drop(command);
    let (sender, seen) = mpsc::channel();
    thread::spawn(move || {
        let (mut ours, mut shown, mut buffer) = (File::from(ours), Vec::new(), [0; 4096]);
        loop {
            match ours.read(&mut buffer) {
                Ok(0) => break,
                Ok(got) => shown.extend_from_slice(&buffer[..got]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Linux says so (EIO) when nobody has the other end any more.
                Err(_) => break,
            }
        }
        sender.send(String::from_utf8_lossy(&shown).into_owned())
    });
    let shown = match seen.recv_timeout(PATIENCE) {
        Ok(shown) => shown,
        Err(error) => {
            child.kill()?;
            return Err(error).context("the program does not end");
        }
    };
    Ok((child.wait()?, shown))
}
