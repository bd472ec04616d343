//! A running program: what it prints line by line, and how it ends.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::wait::{PATIENCE, until};

/// The signal with which a crash point ends the process.
const ABORTED: i32 = 6;

/// A process that does not outlive its story.
pub struct Process {
    name: String,
    child: Child,
    lines: Receiver<String>,
    errors: Option<JoinHandle<String>>,
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    /// What was run.
    pub name: String,
    /// Its exit status.
    pub status: ExitStatus,
    /// The JSON lines that nobody had read yet.
    pub output: Vec<Value>,
    /// What it wrote to standard error.
    pub errors: String,
}

impl Process {
    /// Starts a program.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn start(command: Command) -> Result<Self> {
        Self::start_with(command, Stdio::null())
    }

    /// Starts a program that reads this.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn start_with(mut command: Command, input: Stdio) -> Result<Self> {
        let arguments: Vec<_> = command.get_args().map(|text| text.to_string_lossy().into_owned()).collect();
        let name = format!("`{}`", arguments.join(" "));
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| name.clone())?;
        let output = child.stdout.take().context("standard output")?;
        let mut errors = child.stderr.take().context("standard error")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(std::io::Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _what_there_is = errors.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Ok(Self { name, child, lines, errors: Some(errors) })
    }

    /// The operating system's name for it.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line of JSON, or nothing when there will be no more.
    ///
    /// # Errors
    /// When the line is something else or does not come.
    pub fn step(&mut self) -> Result<Option<Value>> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Ok(Some(serde_json::from_str(&line).with_context(|| line.clone())?)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!("{} prints nothing more and does not end", self.name),
        }
    }

    /// Reads on until this step, which must come.
    ///
    /// # Errors
    /// When it does not.
    pub fn await_step(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
        while let Some(step) = self.step()? {
            if is_it(&step) {
                return Ok(step);
            }
        }
        let errors = self.errors.take().and_then(|errors| errors.join().ok()).unwrap_or_default();
        bail!("{} ended before {what}: {errors}", self.name)
    }

    /// Reads on until a buyer has that many pieces.
    ///
    /// # Errors
    /// When it ends before.
    pub fn await_pieces(&mut self, pieces: u64) -> Result<()> {
        let enough = |step: &Value| step["event"] == "piece" && step["pieces"].as_u64() >= Some(pieces);
        self.await_step(&format!("it had {pieces} pieces"), enough).map(drop)
    }

    /// Whether it has ended by itself.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end in time, or prints something else than JSON.
    pub fn wait(mut self) -> Result<Ended> {
        let mut output = Vec::new();
        while let Some(step) = self.step()? {
            output.push(step);
        }
        let name = self.name.clone();
        let status = until(&format!("{name} ends"), || Ok(self.child.try_wait()?))?;
        let errors = self.errors.take().and_then(|errors| errors.join().ok()).unwrap_or_default();
        Ok(Ended { name, status, output, errors })
    }

    /// Ends it at once, as a power cut would.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end, as Ctrl-C would, and waits.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop(self) -> Result<Ended> {
        let asked = Command::new("sh").args(["-c", &format!("kill -TERM {}", self.child.id())]).status()?;
        ensure!(asked.success(), "{} could not be asked to stop", self.name);
        self.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ended_already = self.child.wait();
    }
}

impl Ended {
    /// Its result: the last line of JSON.
    ///
    /// # Errors
    /// When it failed, with what it said.
    pub fn result(self) -> Result<Value> {
        ensure!(self.status.success(), "{} ended with {}: {}", self.name, self.status, self.errors.trim());
        self.output.into_iter().next_back().with_context(|| format!("{} printed nothing", self.name))
    }

    /// It must have succeeded, whatever it printed.
    ///
    /// # Errors
    /// When it failed, with what it said.
    pub fn success(self) -> Result<()> {
        ensure!(self.status.success(), "{} ended with {}: {}", self.name, self.status, self.errors.trim());
        Ok(())
    }

    /// What it said when it failed with that exit code.
    ///
    /// # Errors
    /// When it ended otherwise.
    pub fn failure(self, code: i32) -> Result<String> {
        let Self { name, status, errors, output } = self;
        ensure!(
            status.code() == Some(code),
            "{name} ended with {status} instead of {code}: {errors} {output:?}"
        );
        Ok(errors)
    }

    /// Whether a crash point ended it.
    pub fn has_crashed(&self) -> bool {
        self.status.signal() == Some(ABORTED)
    }
}
