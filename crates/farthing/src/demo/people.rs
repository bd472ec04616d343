//! The people of the demo: each runs this program in a process of its own, with a data folder of its own.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context as _, bail};
use bitcoin::{Amount, Network};
use farthing_chain::RpcAuth;
use farthing_node::home::Home;
use serde_json::Value;

use crate::demo::stage::{PATIENCE, Stage};

/// Somebody with a wallet.
pub struct Person {
    name: &'static str,
    folder: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl Person {
    /// A person with a new wallet and `amount` in it.
    pub fn new(stage: &Stage, name: &'static str, act: &str, amount: Amount) -> anyhow::Result<Self> {
        let folder = stage.folder().join(format!("{act}-{name}"));
        let rpc = stage.node().rpc_config();
        let mut environment = vec![
            ("FARTHING_NETWORK", "regtest".to_owned()),
            ("FARTHING_DATA", folder.display().to_string()),
            ("FARTHING_BITCOIND__URL", rpc.url),
            ("FARTHING_SELL__LIFETIME", "[20, 1000]".to_owned()),
            ("FARTHING_SELL__MARGIN", "6".to_owned()),
            ("FARTHING_BUY__PATIENCE_SECONDS", "10".to_owned()),
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
        let person = Self { name, folder, environment };
        person.run(&["init"])?;
        if amount > Amount::ZERO {
            let address = person.run(&["wallet", "address"])?;
            stage.give(address["address"].as_str().context("an address")?, amount)?;
        }
        Ok(person)
    }

    /// The same person, with this variable in the environment.
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.environment.retain(|(known, _)| *known != name);
        self.environment.push((name, value.to_owned()));
        self
    }

    /// The person's data folder, for a program that is not a process of its own.
    pub fn home(&self) -> anyhow::Result<Home> {
        Ok(Home::open(&self.folder, Network::Regtest)?)
    }

    /// Starts a program that serves until it is killed, and waits until it says where.
    pub fn serve(&self, arguments: &[&str]) -> anyhow::Result<Service> {
        let mut process = Process(self.command(arguments)?.spawn()?);
        let mut output = BufReader::new(process.0.stdout.take().context("standard output")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let said: Value = serde_json::from_str(&line).with_context(|| {
            format!("the {}'s `farthing {}` did not start", self.name, arguments.join(" "))
        })?;
        let url = said["url"].as_str().or(said["address"].as_str()).context("an address")?.to_owned();
        Ok(Service { process, url, _output: output })
    }

    /// The person's data folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts a command that runs until it ends by itself or is killed.
    pub fn talk(&self, arguments: &[&str]) -> anyhow::Result<Running> {
        Ok(Running(Process(self.command(arguments)?.stdout(Stdio::null()).spawn()?)))
    }

    /// Runs a command that answers each line of its input with a line of JSON, and gives the answers.
    pub fn feed(&self, arguments: &[&str], lines: &[String]) -> anyhow::Result<Vec<Value>> {
        let mut process = Process(self.command(arguments)?.stdin(Stdio::piped()).spawn()?);
        let mut input = process.0.stdin.take().context("standard input")?;
        let mut output = BufReader::new(process.0.stdout.take().context("standard output")?);
        let mut answers = Vec::new();
        for line in lines {
            writeln!(input, "{line}")?;
            let mut answer = String::new();
            output.read_line(&mut answer)?;
            let read = serde_json::from_str(&answer);
            answers.push(read.with_context(|| format!("`farthing {}` ended", arguments.join(" ")))?);
        }
        drop(input);
        let status = process.0.wait()?;
        anyhow::ensure!(status.success(), "`farthing {}` ended with {status}", arguments.join(" "));
        Ok(answers)
    }

    /// Where the person puts what it buys.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Everything in the wallet, in satoshi.
    pub fn balance(&self) -> anyhow::Result<u64> {
        let balance = self.run(&["wallet", "balance"])?;
        let held = ["confirmed_sat", "pending_sat", "immature_sat"].map(|kind| balance[kind].as_u64());
        held.into_iter().sum::<Option<u64>>().context("a balance")
    }

    /// The person's only channel.
    pub fn channel(&self) -> anyhow::Result<Value> {
        let channels = self.run(&["channels", "list"])?;
        channels.get(0).cloned().with_context(|| format!("the {} has no channel", self.name))
    }

    /// Runs a command to its end and reads its JSON.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let output = self.command(arguments)?.stderr(Stdio::piped()).output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!("the {}'s `farthing {}` failed: {}", self.name, shortened(arguments), error.trim());
        }
        let text = String::from_utf8(output.stdout)?;
        let last = text.lines().last().unwrap_or_default();
        serde_json::from_str(last)
            .with_context(|| format!("`farthing {}` printed {last}", arguments.join(" ")))
    }

    /// Starts selling.
    pub fn sell(&self, file: &Path, price: &str, piece: &str) -> anyhow::Result<Seller> {
        let file = file.to_str().context("the file's name is not text")?;
        let arguments = ["sell", file, "--price", price, "--piece", piece, "--listen", "127.0.0.1:0"];
        let mut process = Process(self.command(&arguments)?.spawn()?);
        let mut output = BufReader::new(process.0.stdout.take().context("standard output")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let offer: Value = serde_json::from_str(&line).context("the seller did not start")?;
        let url = offer["url"].as_str().context("an address")?.to_owned();
        let count = |key| offer[key].as_u64().context("a number");
        let (pieces, cost_msat) = (count("pieces")?, count("cost_msat")?);
        Ok(Seller { process, url, pieces, cost_msat, _output: output })
    }

    /// Starts buying.
    pub fn buy(&self, url: &str, out: &str, options: &[&str]) -> anyhow::Result<Buyer> {
        let out = self.path(out);
        let out = out.to_str().context("the folder's name is not text")?;
        let arguments = ["buy", url, "-o", out, "--max-cost", "1btc", "--events"];
        let arguments: Vec<&str> = arguments.iter().chain(options).copied().collect();
        let mut process = Process(self.command(&arguments)?.spawn()?);
        let output = BufReader::new(process.0.stdout.take().context("standard output")?);
        Ok(Buyer { process, output })
    }

    fn command(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(command)
    }
}

/// A command as people read it: an invoice would hide what comes behind it.
fn shortened(arguments: &[&str]) -> String {
    let short = |argument: &&str| match argument.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &argument[..end]),
        None => (*argument).to_owned(),
    };
    arguments.iter().map(short).collect::<Vec<_>>().join(" ")
}

/// A process that does not outlive the demo.
struct Process(Child);

impl Process {
    /// Ends it at once, as a power cut would.
    fn kill(&mut self) -> anyhow::Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _ended_already = self.0.wait();
    }
}

/// A running command.
pub struct Running(Process);

impl Running {
    /// It is gone, without a word.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.0.kill()
    }
}

/// A running program that serves.
pub struct Service {
    process: Process,
    /// Where it listens.
    pub url: String,
    _output: BufReader<ChildStdout>,
}

impl Service {
    /// It is gone, without a word.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.process.kill()
    }
}

/// A running `farthing sell`.
pub struct Seller {
    process: Process,
    /// Where the file is sold.
    pub url: String,
    /// How many pieces it has.
    pub pieces: u64,
    /// What it costs, in millisatoshi.
    pub cost_msat: u64,
    _output: BufReader<ChildStdout>,
}

impl Seller {
    /// The seller is gone, without a word.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.process.kill()
    }
}

/// A running `farthing buy`.
pub struct Buyer {
    process: Process,
    output: BufReader<ChildStdout>,
}

impl Buyer {
    /// The next step that it reports, or its result.
    fn step(&mut self) -> anyhow::Result<Option<Value>> {
        let mut line = String::new();
        match self.output.read_line(&mut line)? {
            0 => Ok(None),
            _some => Ok(Some(serde_json::from_str(&line)?)),
        }
    }

    /// Waits until that many pieces are there.
    pub fn await_pieces(&mut self, pieces: u64) -> anyhow::Result<()> {
        while let Some(step) = self.step()? {
            if step["pieces"].as_u64().is_some_and(|count| count >= pieces) && step["event"] == "piece" {
                return Ok(());
            }
        }
        bail!("the buyer ended before it had {pieces} pieces")
    }

    /// Waits for the end and returns the result.
    pub fn finish(mut self) -> anyhow::Result<Value> {
        let mut last = Value::Null;
        while let Some(step) = self.step()? {
            last = step;
        }
        let status = self.process.0.wait()?;
        anyhow::ensure!(status.success(), "the buyer ended with {status}");
        Ok(last)
    }

    /// Waits for it to give up, which it must within a while. Returns its exit code.
    pub fn await_failure(mut self) -> anyhow::Result<i32> {
        while self.step()?.is_some() {}
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.0.try_wait()? {
                return status.code().context("the buyer was killed");
            }
            anyhow::ensure!(std::time::Instant::now() < deadline, "the buyer neither ends nor fails");
            std::thread::park_timeout(std::time::Duration::from_millis(20));
        }
    }

    /// The buyer is gone, without a word.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.process.kill()
    }
}
