//! People: each runs the program in processes of its own, with a data folder of its own.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bitcoin::{OutPoint, Txid};
use farthing_chain::RpcAuth;
use serde::Deserialize;
use serde_json::Value;

use crate::process::{Ended, Process};
use crate::terminal;
use crate::world::World;

/// The exit code of whoever cannot reach somebody.
const UNREACHED: i32 = 4;
/// How long a program that died takes to begin anew, on a busy machine.
const TO_BEGIN_ANEW: Duration = Duration::from_secs(3);

/// Somebody with a wallet.
#[derive(Clone, Debug)]
pub struct Person {
    program: PathBuf,
    folder: PathBuf,
    environment: Vec<(String, String)>,
    /// Bytes that no file may outgrow.
    disk: Option<u64>,
    /// Its programs die and begin anew.
    dies: bool,
}

/// What is sold, and how.
#[derive(Clone, Debug)]
pub struct Goods {
    /// The file.
    pub file: PathBuf,
    /// Its price.
    pub price: &'static str,
    /// The size of its pieces.
    pub piece: &'static str,
}

/// A channel as `channels list` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ChannelRow {
    /// Its name.
    pub channel: String,
    /// `payer` or `payee`.
    pub role: String,
    /// Where it stands.
    pub state: String,
    /// What it locks.
    pub capacity_sat: u64,
    /// What is signed.
    pub paid_msat: u64,
    /// What was bought for it.
    pub spent_msat: u64,
    /// A height.
    pub expiry: u32,
    /// The funding.
    pub funding: OutPoint,
    /// How it ended.
    pub ending: Option<Ending>,
}

/// How a channel ended.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Ending {
    /// `closing`, `commitment` or `refund`.
    pub kind: String,
    /// The transaction.
    pub txid: Txid,
    /// What it paid to this side.
    pub received_sat: u64,
    /// What this side did not take, since that costs more than it brings.
    pub left_sat: u64,
}

impl Person {
    /// A person with a new wallet that holds `sat`.
    ///
    /// # Errors
    /// When the program does not run or the node refuses.
    pub fn new(world: &World, name: &str, sat: u64) -> Result<Self> {
        let folder = world.folder().join(name);
        let rpc = world.rpc_config();
        let person = Self {
            program: world.program().into(),
            folder,
            environment: Vec::new(),
            disk: None,
            dies: false,
        };
        let person = person
            .with("FARTHING_NETWORK", "regtest")
            .with("FARTHING_DATA", &person.folder.display().to_string())
            .with("FARTHING_BITCOIND__URL", &rpc.url)
            .with("FARTHING_SELL__LIFETIME", "[20, 1000]")
            .with("FARTHING_SELL__MARGIN", "6")
            .with("FARTHING_BUY__PATIENCE_SECONDS", "20");
        let person = match rpc.auth {
            RpcAuth::Cookie(path) => person.with("FARTHING_BITCOIND__COOKIE", &path.display().to_string()),
            RpcAuth::UserPass { user, password } => {
                person.with("FARTHING_BITCOIND__USER", &user).with("FARTHING_BITCOIND__PASSWORD", &password)
            }
        };
        person.run(&["init"])?;
        if sat > 0 {
            world.give(&person.address()?, sat)?;
        }
        Ok(person)
    }

    /// The same person, with this variable in the environment.
    #[must_use]
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut person = self.without(name);
        person.environment.push((name.to_owned(), value.to_owned()));
        person
    }

    /// The same person, without that variable in the environment.
    #[must_use]
    pub fn without(&self, name: &str) -> Self {
        let mut person = self.clone();
        person.environment.retain(|(known, _)| known != name);
        person
    }

    /// The same person, whose program dies at its `point`-th crash point.
    #[must_use]
    pub fn crashing_at(&self, point: u64) -> Self {
        self.with("FARTHING_CRASH_AT", &point.to_string())
    }

    /// The same person: each of its programs dies at its `point`-th crash point and begins anew, and leaves a file that says so.
    #[must_use]
    pub fn dying_at(&self, point: u64, mark: &Path) -> Self {
        Self { dies: true, ..self.with("FARTHING_CRASH_AT", &format!("{point}:{}", mark.display())) }
    }

    /// The same person on a full disk: none of its files may outgrow so many bytes.
    #[must_use]
    pub fn with_disk_of(&self, bytes: u64) -> Self {
        Self { disk: Some(bytes), ..self.clone() }
    }

    /// A file in the person's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Starts the program.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn start(&self, arguments: &[&str]) -> Result<Process> {
        Process::start(self.command(arguments))
    }

    /// Starts the program, which reads these lines.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn feed(&self, arguments: &[&str], lines: &[String]) -> Result<Process> {
        let path = self.path("input");
        std::fs::write(&path, lines.join("\n"))?;
        Process::start_with(self.command(arguments), File::open(path)?.into())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match self.disk {
            None => Command::new(&self.program),
            Some(bytes) => {
                // POSIX counts in blocks of 512 bytes. Without the trap the system would kill the program.
                let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", bytes.div_ceil(512));
                let mut command = Command::new("sh");
                command.args(["-c", &script]).arg(&self.program);
                command
            }
        };
        command.args(arguments);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("FARTHING_") {
                command.env_remove(name);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// When it cannot be run or does not end.
    pub fn attempt(&self, arguments: &[&str]) -> Result<Ended> {
        self.persevere(|| self.start(arguments)?.wait())
    }

    /// Where everybody dies, whom one cannot reach is about to begin anew: then one does the same again, as the program says.
    pub(crate) fn persevere(&self, run: impl Fn() -> Result<Ended>) -> Result<Ended> {
        let begun = Instant::now();
        loop {
            let ended = run()?;
            let is_unreached = ended.status.code() == Some(UNREACHED);
            if !(self.dies && is_unreached && begun.elapsed() < TO_BEGIN_ANEW) {
                return Ok(ended);
            }
        }
    }

    /// Runs a command that must succeed, on a terminal. Returns what it shows there.
    ///
    /// # Errors
    /// When it fails.
    pub fn watch(&self, arguments: &[&str]) -> Result<String> {
        let (status, shown) = terminal::watched(self.command(arguments))?;
        ensure!(status.success(), "`{}` ended with {status}: {shown}", arguments.join(" "));
        Ok(shown)
    }

    /// Runs a command that must succeed, and reads its result.
    ///
    /// # Errors
    /// When it fails.
    pub fn run(&self, arguments: &[&str]) -> Result<Value> {
        self.attempt(arguments)?.result()
    }

    /// An address of the wallet that was never handed out.
    ///
    /// # Errors
    /// When the program fails.
    pub fn address(&self) -> Result<String> {
        let told = self.run(&["wallet", "address"])?;
        Ok(told["address"].as_str().context("an address")?.to_owned())
    }

    /// Everything in the wallet, in satoshi.
    ///
    /// # Errors
    /// When the program fails.
    pub fn balance(&self) -> Result<u64> {
        let balance = self.run(&["wallet", "balance"])?;
        let held = ["confirmed_sat", "pending_sat", "immature_sat"].map(|kind| balance[kind].as_u64());
        held.into_iter().sum::<Option<u64>>().context("a balance")
    }

    /// All channels. Of one who dies, without those that never held anything: a proposal that was not funded before a death is given up.
    ///
    /// # Errors
    /// When the program fails.
    pub fn channels(&self) -> Result<Vec<ChannelRow>> {
        let mut channels: Vec<ChannelRow> = serde_json::from_value(self.run(&["channels", "list"])?)?;
        if self.dies {
            let is_worthless = |channel: &ChannelRow| match channel.state.as_str() {
                "abandoned" => true,
                state => state == "awaiting depth" && channel.paid_msat == 0,
            };
            channels.retain(|channel| !is_worthless(channel));
        }
        Ok(channels)
    }

    /// The only channel.
    ///
    /// # Errors
    /// When there is none, or another.
    pub fn channel(&self) -> Result<ChannelRow> {
        let mut channels = self.channels()?;
        ensure!(channels.len() == 1, "one channel was expected: {channels:?}");
        channels.pop().context("a channel")
    }

    /// Starts selling, at any free port.
    ///
    /// # Errors
    /// When the program fails.
    pub fn sell(&self, goods: &Goods) -> Result<Seller> {
        // One that begins anew is to be found where it was.
        self.sell_at(goods, &free_address()?)
    }

    /// Starts selling at an address.
    ///
    /// # Errors
    /// When the program fails.
    pub fn sell_at(&self, goods: &Goods, address: &str) -> Result<Seller> {
        Seller::of(self.start_selling(goods, address)?)
    }

    /// Starts selling, perhaps in vain.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn start_selling(&self, goods: &Goods, address: &str) -> Result<Process> {
        let file = goods.file.to_str().context("the file's name is not text")?;
        self.start(&["sell", file, "--price", goods.price, "--piece", goods.piece, "--listen", address])
    }

    /// Starts buying into a file of the person's folder.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn start_buying(&self, url: &str, out: &str, options: &[&str]) -> Result<Process> {
        let out = self.path(out);
        let out = out.to_str().context("the folder's name is not text")?;
        let mut arguments = vec!["buy", url, "-o", out, "--events"];
        if !options.contains(&"--max-cost") {
            arguments.extend(["--max-cost", "1btc"]);
        }
        arguments.extend(options);
        self.start(&arguments)
    }

    /// Buys to the end, however it is.
    ///
    /// # Errors
    /// When the program cannot be run or does not end.
    pub fn buy(&self, url: &str, out: &str, options: &[&str]) -> Result<Ended> {
        self.persevere(|| self.start_buying(url, out, options)?.wait())
    }
}

/// A running `farthing sell`.
pub struct Seller {
    /// The process.
    pub process: Process,
    /// Where the file is sold.
    pub url: String,
    /// Host and port.
    pub address: String,
    /// How many pieces it has.
    pub pieces: u64,
    /// What it costs.
    pub cost_msat: u64,
}

impl Seller {
    /// Waits until a process sells.
    ///
    /// # Errors
    /// When it ends before.
    pub fn of(mut process: Process) -> Result<Self> {
        let offer = process.await_step("it sold anything", |line| line["url"].is_string())?;
        let url = offer["url"].as_str().context("an address")?.to_owned();
        let address = url.split('/').nth(2).context("a host")?.to_owned();
        let count = |key: &str| offer[key].as_u64().context("a number");
        Ok(Self { url, address, pieces: count("pieces")?, cost_msat: count("cost_msat")?, process })
    }

    /// The seller is gone, without a word.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(self) -> Result<()> {
        self.process.kill()
    }
}

/// An address at which nobody listens now, for a seller that is to come back to it. It lies below the ports that the
/// system hands out to connections by itself.
///
/// # Errors
/// When there is none.
pub fn free_address() -> Result<String> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..1_000 {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 10_000 + (std::process::id() * 64 + step) % 20_000;
        let address = format!("127.0.0.1:{port}");
        if TcpListener::bind(&address).is_ok() {
            return Ok(address);
        }
    }
    anyhow::bail!("there is no free port")
}
