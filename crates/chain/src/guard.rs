//! Makes sure that a private node does not outlive the process that started it.
//!
//! `Drop` does not run in a process that is killed, and a `bitcoind` left behind keeps its port, its memory and its
//! folder. So a tiny shell waits at the other end of a pipe whose writing end only the owner holds. The kernel closes
//! it when the owner ends, however it ends, and the shell then kills the node and removes the folder. An owner that
//! has cleaned up by itself says so first.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// What the owner writes to dismiss the guard.
const DISMISSED: &[u8] = b"dismissed\n";

/// The folder is `$1`. Signals are for the owner: the guard must live to see it end. A node that has just been started
/// gets five seconds to write its process id.
const WATCH: &str = r#"
trap '' HUP INT TERM
read -r word && [ "$word" = dismissed ] && exit
tries=50
until [ -s "$1/bitcoind.pid" ] || [ "$tries" -eq 0 ]; do sleep 0.1; tries=$((tries - 1)); done
kill -9 "$(cat "$1/bitcoind.pid")"
tries=50
until rm -rf "$1" || [ "$tries" -eq 0 ]; do sleep 0.1; tries=$((tries - 1)); done
"#;

/// Watches over the node in one folder until it is dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    shell: Child,
    pipe: ChildStdin,
}

impl Guard {
    /// Starts to watch over the node in `folder`, before that node is started. The node must be told to write its
    /// process id to [`pid_file`].
    pub(crate) fn over(folder: &Path) -> io::Result<Guard> {
        let mut shell = Command::new("sh")
            .args(["-c", WATCH, "farthing-guard"])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let pipe = shell.stdin.take().expect("its standard input is piped");
        Ok(Guard { shell, pipe })
    }
}

/// Where the node in `folder` writes its process id.
pub(crate) fn pid_file(folder: &Path) -> PathBuf {
    folder.join("bitcoind.pid")
}

impl Drop for Guard {
    /// Dismisses the guard: the owner has stopped the node itself.
    fn drop(&mut self) {
        // A guard that somebody has killed needs no dismissal.
        let _ = self.pipe.write_all(DISMISSED);
        let _ = self.shell.wait();
    }
}
