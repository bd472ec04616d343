//! Real processes of the program `farthing`, each with a data folder of its own on a real disk.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bitcoin::address::NetworkUnchecked;
use bitcoin::{Address, Amount, Network};
use farthing_chain::{RegtestNode, RpcAuth};
use serde_json::Value;
use tempfile::TempDir;

/// `statfs` says so of a file system in memory.
const TMPFS: i64 = 0x0102_1994;
/// Only a build with crash points knows this variable.
const CRASH_POINT: &[u8] = b"FARTHING_CRASH_AT";

/// Where everything is written: beside the bench itself, so under the workspace's target folder. Removed at the end.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> anyhow::Result<Self> {
        let here = std::env::current_exe()?;
        let here = here.parent().context("a program is in a folder")?;
        ensure!(
            rustix::fs::statfs(here)?.f_type as i64 != TMPFS,
            "{} is in memory: what reaches the disk cannot be measured there",
            here.display()
        );
        Ok(Self(TempDir::with_prefix_in("farthing-bench-", here)?))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// The program, built for release beside the bench.
fn program() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("farthing");
    let bytes = fs::read(&program)
        .with_context(|| format!("{} is not there: use `cargo xtask bench`", program.display()))?;
    ensure!(
        !bytes.windows(CRASH_POINT.len()).any(|window| window == CRASH_POINT),
        "{} was built together with the testkit, with crash points: use `cargo xtask bench`",
        program.display()
    );
    Ok(program)
}

/// Somebody with a wallet.
pub struct Person {
    program: PathBuf,
    folder: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl Person {
    /// A person with a new wallet and `amount` in it.
    pub fn new(node: &RegtestNode, folder: &Path, amount: Amount) -> anyhow::Result<Self> {
        let person = Self::without_wallet(node, folder)?;
        person.run(&["init"])?;
        if amount > Amount::ZERO {
            person.receive(node, amount)?;
            node.mine(1)?;
        }
        Ok(person)
    }

    /// A person who needs no wallet: a gateway's operator, a device.
    pub fn without_wallet(node: &RegtestNode, folder: &Path) -> anyhow::Result<Self> {
        let rpc = node.rpc_config();
        let mut environment = vec![
            ("FARTHING_NETWORK", "regtest".to_owned()),
            ("FARTHING_DATA", folder.display().to_string()),
            ("FARTHING_BITCOIND__URL", rpc.url),
            // Nobody waits for blocks here, and none come in the middle of a measurement.
            ("FARTHING_SELL__UNCONFIRMED_CAP", Amount::ONE_BTC.to_sat().to_string()),
        ];
        match rpc.auth {
            RpcAuth::Cookie(cookie) => {
                environment.push(("FARTHING_BITCOIND__COOKIE", cookie.display().to_string()))
            }
            RpcAuth::UserPass { user, password } => {
                environment.push(("FARTHING_BITCOIND__USER", user));
                environment.push(("FARTHING_BITCOIND__PASSWORD", password));
            }
        }
        Ok(Self { program: program()?, folder: folder.to_owned(), environment })
    }

    /// Sends coins to the person's wallet. They are not mined yet.
    pub fn receive(&self, node: &RegtestNode, amount: Amount) -> anyhow::Result<()> {
        let address = self.run(&["wallet", "address"])?;
        let address: Address<NetworkUnchecked> =
            address["address"].as_str().context("an address")?.parse()?;
        node.send(&address.require_network(Network::Regtest)?, amount)?;
        Ok(())
    }

    /// The same person, with this variable in the environment.
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.environment.push((name, value.to_owned()));
        self
    }

    /// The person's data folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the person puts what it buys.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Sells a file, until dropped.
    pub fn sell(&self, file: &Path, price: &str) -> anyhow::Result<Seller> {
        let file = text(file)?;
        let mut process =
            self.start(&["sell", file, "--price", price, "--piece", "1MiB", "--listen", "127.0.0.1:0"])?;
        let mut output = process.output()?;
        let mut line = String::new();
        output.read_line(&mut line)?;
        let offer: Value = serde_json::from_str(&line).context("the seller did not start")?;
        let url = offer["url"].as_str().context("an address")?.to_owned();
        Ok(Seller { process, url, _output: output })
    }

    /// Buys a file, and closes the channel if there is one.
    pub fn buy(&self, url: &str, out: &str) -> anyhow::Result<Bought> {
        let out = self.path(out);
        let mut process = self.start(&["buy", url, "-o", text(&out)?, "--max-cost", "1btc"])?;
        let mut output = process.output()?;
        let reader = thread::spawn(move || {
            let mut said = String::new();
            output.read_to_string(&mut said).map(|_| said)
        });
        let mut peak_mib = None;
        let status = loop {
            // The mark only ever rises, so the last look counts; the process ends a few milliseconds after it.
            peak_mib = process.peak_mib().or(peak_mib);
            match process.0.try_wait()? {
                Some(status) => break status,
                None => thread::sleep(Duration::from_millis(5)),
            }
        };
        ensure!(status.success(), "the buyer ended with {status}");
        let said = reader.join().expect("reading does not panic")?;
        let report: Value = serde_json::from_str(said.lines().last().unwrap_or_default())?;
        fs::remove_file(&out)?;
        let number = |key: &str| report[key].as_u64().with_context(|| format!("the buyer states no {key}"));
        Ok(Bought {
            bytes: number("bytes")?,
            pieces: number("pieces")?,
            payments: number("payments")?,
            seconds: report["transfer_seconds"].as_f64().context("the buyer states no transfer_seconds")?,
            peak_mib: peak_mib.context("the buyer was never seen")?,
        })
    }

    /// Runs a command to its end and reads its JSON.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let output = self.command(arguments).stderr(Stdio::piped()).output()?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("`farthing {}` failed: {}", arguments.join(" "), error.trim());
        }
        let said = String::from_utf8(output.stdout)?;
        Ok(serde_json::from_str(said.lines().last().unwrap_or_default())?)
    }

    fn start(&self, arguments: &[&str]) -> anyhow::Result<Process> {
        Process::start(&mut self.command(arguments))
    }

    /// The program with these arguments; its output goes to a pipe.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }
}

/// What a buyer reports, and its peak of memory.
pub struct Bought {
    pub bytes: u64,
    pub pieces: u64,
    pub payments: u64,
    /// From the first request for a piece until the last piece is checked and written.
    pub seconds: f64,
    pub peak_mib: f64,
}

impl Bought {
    pub fn mib_per_s(&self) -> f64 {
        self.bytes as f64 / f64::from(1 << 20) / self.seconds
    }
}

/// A running `farthing sell`.
pub struct Seller {
    process: Process,
    /// Where the file is sold.
    pub url: String,
    _output: BufReader<ChildStdout>,
}

impl Seller {
    pub fn peak_mib(&self) -> anyhow::Result<f64> {
        self.process.peak_mib().context("the seller is gone")
    }
}

/// A process that does not outlive the bench.
pub struct Process(Child);

impl Process {
    /// Starts it.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        let name = command.get_program().display().to_string();
        Ok(Self(command.spawn().with_context(|| format!("{name} cannot be started"))?))
    }

    /// What it prints, if that goes to a pipe.
    pub fn output(&mut self) -> anyhow::Result<BufReader<ChildStdout>> {
        Ok(BufReader::new(self.0.stdout.take().context("standard output")?))
    }

    /// What it reads, if that comes from a pipe.
    pub fn input(&mut self) -> anyhow::Result<ChildStdin> {
        self.0.stdin.take().context("standard input")
    }

    /// The operating system's name for it.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// The most memory that was ever resident, `VmHWM` in `/proc/PID/status`; `None` once the process has ended.
    pub fn peak_mib(&self) -> Option<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib / 1_024.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _ended_already = self.0.wait();
    }
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("the folder's name is not text")
}
