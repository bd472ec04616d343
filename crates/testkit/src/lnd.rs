//! LND, a Lightning node that nobody here wrote, run as its users do: the daemon and its command line.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use bitcoin::OutPoint;
use farthing_chain::RpcAuth;
use serde_json::Value;

use crate::people::free_address;
use crate::process::Process;
use crate::wait::until;
use crate::world::World;

/// Names the program.
const VARIABLE: &str = "LND_EXE";

/// A node with a wallet of its own. Dropped, it is gone.
pub struct Lnd {
    program: PathBuf,
    folder: PathBuf,
    arguments: Vec<String>,
    /// Where other nodes reach it.
    pub address: String,
    rpc: String,
    /// Its name in the network.
    pub id: String,
    process: Option<Child>,
}

/// The program to run, if there is one. CI must have it.
pub fn find() -> Option<PathBuf> {
    let named = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    if named.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{VARIABLE} must name lnd: `cargo xtask test` sees to it");
        eprintln!(
            "skipped, because {VARIABLE} names no lnd: `cargo xtask test` builds one where there is Go"
        );
    }
    named
}

impl Lnd {
    /// Starts a new node with nothing in its wallet.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(world: &World, program: PathBuf, name: &str) -> Result<Self> {
        let folder = world.folder().join(name);
        let [address, rpc, rest] = [free_address()?, free_address()?, free_address()?];
        let config = world.rpc_config();
        let host = config.url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let mut arguments = vec![
            format!("--lnddir={}", folder.display()),
            format!("--alias={name}"),
            format!("--listen={address}"),
            format!("--rpclisten={rpc}"),
            format!("--restlisten={rest}"),
            format!("--bitcoind.rpchost={host}"),
        ];
        // Blocks are asked for, since the node publishes none by itself; and gossip is not held back for minutes.
        let fixed = [
            "--bitcoin.regtest",
            "--bitcoin.node=bitcoind",
            "--bitcoind.rpcpolling",
            "--bitcoind.blockpollinginterval=200ms",
            "--bitcoind.txpollinginterval=200ms",
            "--noseedbackup",
            "--trickledelay=50",
            "--nobootstrap",
        ];
        arguments.extend(fixed.map(str::to_owned));
        match config.auth {
            RpcAuth::Cookie(path) => arguments.push(format!("--bitcoind.rpccookie={}", path.display())),
            RpcAuth::UserPass { user, password } => {
                arguments.push(format!("--bitcoind.rpcuser={user}"));
                arguments.push(format!("--bitcoind.rpcpass={password}"));
            }
        }
        let mut node = Self { program, folder, arguments, address, rpc, id: String::new(), process: None };
        node.begin()?;
        node.id = node.ask(&["getinfo"])?["identity_pubkey"].as_str().context("a name")?.to_owned();
        Ok(node)
    }

    /// Starts it where it was, and waits until it has the chain.
    fn begin(&mut self) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(command.spawn().with_context(|| format!("{}", self.program.display()))?);
        until("LND has the chain", || {
            let ended = self.process.as_mut().context("it was started")?.try_wait()?;
            ensure!(ended.is_none(), "LND ended: {}", self.log());
            // It answers long before it can be used.
            let is_active = self.ask(&["state"]).is_ok_and(|state| state["state"] == "SERVER_ACTIVE");
            Ok(self.ask(&["getinfo"]).ok().filter(|info| is_active && info["synced_to_chain"] == true))
        })?;
        Ok(())
    }

    /// Waits until it has seen the newest block: before that it refuses channels, and says no more than "internal error".
    ///
    /// # Errors
    /// When it does not in time.
    pub fn await_chain(&self, world: &World) -> Result<()> {
        until("LND has the newest block", || {
            let (height, Ok(info)) = (u64::from(world.height()?), self.ask(&["getinfo"])) else {
                return Ok(None);
            };
            let is_there = info["synced_to_chain"] == true && number(&info["block_height"]) >= height;
            Ok(is_there.then_some(()))
        })
    }

    /// The last lines of its log.
    fn log(&self) -> String {
        let path = self.folder.join("logs/bitcoin/regtest/lnd.log");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Asks it, or has it do something, by its command line.
    ///
    /// # Errors
    /// When it refuses.
    pub fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.command(arguments).stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`lncli {}`: {}", arguments.join(" "), said.trim());
        serde_json::from_slice(&output.stdout).with_context(|| format!("`lncli {}`", arguments.join(" ")))
    }

    /// Has it begin something that takes others to end.
    ///
    /// # Errors
    /// When its command line cannot be run.
    pub fn begin_to(&self, arguments: &[&str]) -> Result<Process> {
        Process::start(self.command(arguments))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program.with_file_name("lncli"));
        command.arg(format!("--lnddir={}", self.folder.display()));
        command.arg(format!("--rpcserver={}", self.rpc)).arg("--network=regtest").args(arguments);
        command
    }

    /// The process is killed and begins again.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        self.begin()
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ended_already = process.kill();
            let _ended_already = process.wait();
        }
    }

    /// How devices' gateways and other nodes name it: `KEY@HOST:PORT`.
    pub fn uri(&self) -> String {
        format!("{}@{}", self.id, self.address)
    }

    /// Puts coins into its wallet.
    ///
    /// # Errors
    /// When they do not arrive.
    pub fn fund(&self, world: &World, sat: u64) -> Result<()> {
        let address = self.ask(&["newaddress", "p2wkh"])?;
        world.give(address["address"].as_str().context("an address")?, sat)?;
        until("LND's wallet has its coins", || {
            let balance = self.ask(&["walletbalance"])?;
            Ok((number(&balance["confirmed_balance"]) >= sat).then_some(()))
        })
    }

    /// Opens a public channel to `KEY@HOST:PORT`, and waits until it can be used. Gives its funding.
    ///
    /// # Errors
    /// When it is not open in time.
    pub fn open_channel(&self, world: &World, to: &str, sat: u64, options: &[&str]) -> Result<OutPoint> {
        self.connect(to)?;
        self.await_chain(world)?;
        let key = to.split('@').next().unwrap_or_default();
        let amount = sat.to_string();
        let command = [&["openchannel", "--node_key", key, "--local_amt", &amount][..], options].concat();
        // Its peer may see the newest block later than it does, and refuses until then.
        let mut refused = String::new();
        let opening = until("LND opens a channel", || {
            let answer = self.ask(&command);
            if let Err(error) = &answer {
                refused = error.to_string();
            }
            Ok(answer.ok())
        });
        let opening = opening.with_context(|| refused)?;
        let funding = opening["funding_txid"].as_str().context("a funding")?.to_owned();
        world.mine(7)?;
        until("LND's channel is open", || {
            let active = self.ask(&["listchannels", "--active_only"])?;
            let channels = active["channels"].as_array().context("a list")?;
            let mut points = channels.iter().filter_map(|channel| channel["channel_point"].as_str());
            let point = points.find(|point| point.starts_with(&funding));
            Ok(point.map(str::parse).transpose()?)
        })
    }

    /// Connects to a node at once: LND waits longer each time before it tries again by itself.
    ///
    /// # Errors
    /// When it cannot.
    pub fn connect(&self, to: &str) -> Result<()> {
        let mut refused = String::new();
        let connected = until("LND connects", || {
            let answer = self.ask(&["connect", to]);
            if let Err(error) = &answer {
                refused = error.to_string();
            }
            Ok((answer.is_ok() || refused.contains("already connected")).then_some(()))
        });
        connected.with_context(|| refused)
    }

    /// An invoice.
    ///
    /// # Errors
    /// When it refuses.
    pub fn invoice(&self, msat: u64) -> Result<String> {
        let invoice = self.ask(&["addinvoice", "--amt_msat", &msat.to_string()])?;
        Ok(invoice["payment_request"].as_str().context("an invoice")?.to_owned())
    }

    /// How many of its invoices are paid.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn paid(&self) -> Result<usize> {
        let invoices = self.ask(&["listinvoices", "--max_invoices", "1000"])?;
        let invoices = invoices["invoices"].as_array().context("a list")?;
        Ok(invoices.iter().filter(|invoice| invoice["state"] == "SETTLED").count())
    }
}

impl Drop for Lnd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// LND's JSON has most numbers as text.
pub fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_default()
}
