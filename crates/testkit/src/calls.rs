//! People who sell and buy calls: `farthing sell --upstream`, `farthing call` and `farthing proxy`.

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::message::Message;
use crate::people::Person;
use crate::process::{Ended, Process};

/// A running `farthing sell --upstream`.
pub struct Api {
    /// The process.
    pub process: Process,
    /// Host and port.
    pub address: String,
}

/// A running `farthing proxy`.
pub struct Proxy {
    /// The process.
    pub process: Process,
    /// Where it listens, without a slash at the end.
    pub url: String,
}

impl Api {
    /// Waits until a process sells calls.
    ///
    /// # Errors
    /// When it ends before.
    pub fn of(mut process: Process) -> Result<Self> {
        let offer = process.await_step("it sold anything", |line| line["upstream"].is_string())?;
        let url = offer["url"].as_str().context("an address")?;
        let address = url.split('/').nth(2).context("a host")?.to_owned();
        Ok(Self { process, address })
    }

    /// The address of a path.
    pub fn at(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The seller is gone, without a word.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(self) -> Result<()> {
        self.process.kill()
    }
}

impl Person {
    /// Puts a price on a service, at any free port.
    ///
    /// # Errors
    /// When the program fails.
    pub fn sell_calls(&self, upstream: &str, price: &str, options: &[&str]) -> Result<Api> {
        self.sell_calls_at(upstream, price, options, "127.0.0.1:0")
    }

    /// Puts a price on a service, at an address.
    ///
    /// # Errors
    /// When the program fails.
    pub fn sell_calls_at(&self, upstream: &str, price: &str, options: &[&str], address: &str) -> Result<Api> {
        Api::of(self.start_selling_calls(upstream, price, options, address)?)
    }

    /// Puts a price on a service, perhaps in vain.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn start_selling_calls(
        &self,
        upstream: &str,
        price: &str,
        options: &[&str],
        address: &str,
    ) -> Result<Process> {
        let fixed = ["sell", "--upstream", upstream, "--price", price, "--listen", address];
        self.start(&[&fixed[..], options].concat())
    }

    /// Starts a call whose answer goes to a file of the person's folder.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn start_calling(&self, url: &str, options: &[&str]) -> Result<Process> {
        let out = self.path(ANSWER);
        let out = out.to_str().context("the folder's name is not text")?;
        self.start(&[&["call", url, "-i", "-o", out], options].concat())
    }

    /// Calls to the end, however it is.
    ///
    /// # Errors
    /// When the program cannot be run or does not end.
    pub fn try_to_call(&self, url: &str, options: &[&str]) -> Result<Ended> {
        self.persevere(|| self.start_calling(url, options)?.wait())
    }

    /// Calls, and reads the answer.
    ///
    /// # Errors
    /// When the program fails.
    pub fn call(&self, url: &str, options: &[&str]) -> Result<Message> {
        self.try_to_call(url, options)?.success()?;
        self.answer()
    }

    /// The answer to the last call that got one.
    ///
    /// # Errors
    /// When there is none.
    pub fn answer(&self) -> Result<Message> {
        let file = std::fs::File::open(self.path(ANSWER)).context("no call was answered")?;
        Message::read_saved(&mut BufReader::new(file))?.context("the answer is empty")
    }

    /// Starts to pay for what others call through a local address.
    ///
    /// # Errors
    /// When the program fails.
    pub fn proxy(&self, target: &str, options: &[&str]) -> Result<Proxy> {
        let fixed = ["proxy", target, "--listen", "127.0.0.1:0"];
        let mut process = self.start(&[&fixed[..], options].concat())?;
        let told = process.await_step("it listened", |line| line["target"].is_string())?;
        Ok(Proxy { url: told["url"].as_str().context("an address")?.to_owned(), process })
    }
}

const ANSWER: &str = "answer";

/// Runs curl, and gives what it prints.
///
/// # Errors
/// When curl is missing or fails.
pub fn curl(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "80"]).args(arguments);
    let ended = command.output().context("curl is not installed, and this story needs it")?;
    ensure!(
        ended.status.success(),
        "curl ended with {}: {}",
        ended.status,
        String::from_utf8_lossy(&ended.stderr)
    );
    Ok(String::from_utf8(ended.stdout)?)
}

/// The load generator to run, if there is one. CI must have it.
pub fn find_wrk() -> Option<PathBuf> {
    let named = std::env::var_os("WRK_EXE").filter(|value| !value.is_empty()).map(PathBuf::from);
    if named.is_none() {
        assert!(std::env::var_os("CI").is_none(), "WRK_EXE must name wrk: `cargo xtask test` sees to it");
        eprintln!(
            "skipped, because WRK_EXE names no wrk: `cargo xtask test` fetches it from Debian packages"
        );
    }
    named
}

/// Lets wrk loose on an address, a load generator that nobody here wrote: 16 connections for two seconds. How many requests
/// were answered, all of them with success.
///
/// # Errors
/// When it does not run, or an answer is no success.
pub fn wrk(program: &Path, url: &str) -> Result<u64> {
    let mut command = Command::new(program);
    command.args(["--threads", "2", "--connections", "16", "--duration", "2s", "--timeout", "60s", url]);
    let ended = command.output().context("wrk does not run")?;
    let said = String::from_utf8(ended.stdout)?;
    let failed = said.contains("Non-2xx") || said.contains("Socket errors");
    ensure!(ended.status.success() && !failed, "wrk ended with {}: {said}", ended.status);
    let count = said.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok());
    count.with_context(|| format!("wrk counts no requests: {said}"))
}

/// A stock web server that nobody here wrote: the one of Python's standard library, for the files of a folder.
pub struct StockServer {
    _process: Process,
    /// Where it is.
    pub url: String,
}

impl StockServer {
    /// Starts it.
    ///
    /// # Errors
    /// When Python is missing, or it does not come up.
    pub fn of(folder: &std::path::Path) -> Result<Self> {
        let address = crate::people::free_address()?;
        let (host, port) = address.split_once(':').context("host and port")?;
        let mut command = Command::new("python3");
        command.args(["-m", "http.server", port, "--bind", host, "--directory"]).arg(folder);
        let process = Process::start(command)
            .context("python3 is not installed, and this story needs its web server")?;
        crate::wait::until("the stock server listens", || Ok(std::net::TcpStream::connect(&address).ok()))?;
        Ok(Self { _process: process, url: format!("http://{address}") })
    }
}
