//! Electrum, a wallet that is a Lightning node and that nobody here wrote, run as its users do: the daemon, asked over JSON-RPC, and a
//! server of its own, ElectrumX, which indexes the story's chain.

use std::fs::File;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bitcoin::{Amount, Denomination, OutPoint, Txid};
use farthing_chain::RpcAuth;
use serde_json::{Value, json};

use crate::message::Message;
use crate::people::free_address;
use crate::wait::until;
use crate::world::World;

/// Names the wallet's program.
const WALLET: &str = "ELECTRUM_EXE";
/// Names the server's program.
const SERVER: &str = "ELECTRUMX_EXE";
/// Who may ask the daemon. It listens on the loopback interface, and holds nothing.
const USER: &str = "story";

/// The programs to run.
#[derive(Clone, Debug)]
pub struct Programs {
    wallet: PathBuf,
    server: PathBuf,
}

/// A node with a wallet of its own, and its server. Dropped, both are gone.
pub struct Electrum {
    program: PathBuf,
    folder: PathBuf,
    /// Where other nodes reach it.
    pub address: String,
    rpc: String,
    /// Its name in the network.
    pub id: String,
    daemon: Option<Running>,
    _server: Running,
}

/// The programs to run, if they are here. CI must have them.
pub fn find() -> Option<Programs> {
    let named = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let (Some(wallet), Some(server)) = (named(WALLET), named(SERVER)) {
        return Some(Programs { wallet, server });
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "{WALLET} and {SERVER} must name electrum and electrumx_server: `cargo xtask test` sees to it"
    );
    eprintln!(
        "skipped, because {WALLET} and {SERVER} do not name electrum and electrumx_server: `cargo xtask test` fetches them from Debian \
         and by pip"
    );
    None
}

impl Electrum {
    /// Starts a server, and a new node with nothing in its wallet. The world must have an index (`World::indexed`).
    ///
    /// # Errors
    /// When one of them does not start.
    pub fn start(world: &World, programs: &Programs, name: &str) -> Result<Self> {
        let folder = world.folder().join(name);
        let database = folder.join("server");
        std::fs::create_dir_all(&database)?;
        let [at, address, rpc] = [free_address()?, free_address()?, free_address()?];
        let server = serve(world, &programs.server, &database, &at)?;
        let (program, id) = (programs.wallet.clone(), String::new());
        let mut node = Self { program, folder, address, rpc, id, daemon: None, _server: server };
        node.configure(&at)?;
        node.begin()?;
        node.ask("create", json!({}))?;
        node.load(world)?;
        let name = node.ask("nodeid", json!({}))?;
        node.id = name.as_str().and_then(|name| name.split('@').next()).context("a name")?.to_owned();
        Ok(node)
    }

    /// It listens, which it does not by itself; talks to its own server only; and needs no estimates of fees.
    fn configure(&self, server: &str) -> Result<()> {
        let (host, port) = self.rpc.split_once(':').context("HOST:PORT")?;
        let config = json!({
            "auto_connect": false,
            "check_updates": false,
            // Else it takes this for one of an old version, and changes the server to one with TLS.
            "config_version": 3,
            "dynamic_fees": false,
            "fee_per_kb": 5_000,
            "lightning_listen": self.address,
            "log_to_file": true,
            "oneserver": true,
            "rpchost": host,
            "rpcpassword": USER,
            "rpcport": port.parse::<u16>()?,
            "rpcsock": "tcp",
            "rpcuser": USER,
            "server": format!("{server}:t"),
        });
        let folder = self.folder.join("regtest");
        std::fs::create_dir_all(&folder)?;
        Ok(std::fs::write(folder.join("config"), config.to_string())?)
    }

    /// Starts the daemon, and waits until it answers.
    fn begin(&mut self) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.args(["daemon", "--regtest", "-D"]).arg(&self.folder);
        self.daemon = Some(Running::start(command, &self.folder.join("daemon.log"))?);
        until("Electrum answers", || {
            self.daemon.as_mut().context("it was started")?.is_alive()?;
            Ok(self.ask("getinfo", json!({})).ok())
        })?;
        Ok(())
    }

    /// Opens the wallet, and waits until it has the chain.
    fn load(&self, world: &World) -> Result<()> {
        self.ask("load_wallet", json!({}))?;
        self.await_chain(world)
    }

    /// Waits until it has seen every block.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn await_chain(&self, world: &World) -> Result<()> {
        let height = world.height()?;
        let mut seen = Value::Null;
        let waited = until("Electrum has the chain", || {
            let (Ok(info), Ok(synchronized)) =
                (self.ask("getinfo", json!({})), self.ask("is_synchronized", json!({})))
            else {
                return Ok(None);
            };
            seen = info;
            Ok((synchronized == true && seen["blockchain_height"].as_u64() >= Some(u64::from(height)))
                .then_some(()))
        });
        waited.with_context(|| format!("{height} is the tip, and it says {seen}"))
    }

    /// Asks it, or has it do something, as its command line does.
    ///
    /// # Errors
    /// When it refuses.
    pub fn ask(&self, method: &str, parameters: Value) -> Result<Value> {
        let request = Message::request("POST", "/", &self.rpc)
            .with("authorization", &format!("Basic {}", STANDARD.encode(format!("{USER}:{USER}"))))
            .with_body(json!({ "id": 1, "method": method, "params": parameters }).to_string().into_bytes());
        let answer = request.send_to(&self.rpc)?;
        ensure!(answer.status() == 200, "`electrum {method}`: {}", answer.start);
        let mut answer: Value = serde_json::from_slice(&answer.body)?;
        ensure!(answer["error"].is_null(), "`electrum {method}`: {}", answer["error"]);
        Ok(answer["result"].take())
    }

    /// The process is killed and begins again.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self, world: &World) -> Result<()> {
        self.daemon = None;
        self.begin()?;
        self.load(world)
    }

    /// How other nodes name it: `KEY@HOST:PORT`.
    pub fn uri(&self) -> String {
        format!("{}@{}", self.id, self.address)
    }

    /// An invoice.
    ///
    /// # Errors
    /// When it refuses, or the amount is no whole number of satoshi.
    pub fn invoice(&self, msat: u64) -> Result<String> {
        ensure!(msat.is_multiple_of(1_000), "Electrum counts in satoshi");
        let sat = msat / 1_000;
        let amount = format!("{}.{:08}", sat / 100_000_000, sat % 100_000_000);
        // An address goes with it, of which it makes more where too many wait.
        let request = self.ask("add_request", json!({ "amount": amount, "force": true }))?;
        Ok(request["lightning_invoice"].as_str().with_context(|| request.to_string())?.to_owned())
    }

    /// How many of its invoices are paid.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn paid(&self) -> Result<usize> {
        let requests = self.ask("list_requests", json!({ "paid": true }))?;
        Ok(requests.as_array().context("a list")?.len())
    }

    /// What its wallet holds in the chain, in satoshi, and deep enough to be spent.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn balance(&self) -> Result<u64> {
        let balance = self.ask("getbalance", json!({}))?;
        let text = balance["confirmed"].as_str().context("a balance")?;
        Ok(Amount::from_str_in(text, Denomination::Bitcoin)?.to_sat())
    }

    /// Closes a channel together with its peer, or alone. Gives the transaction that did.
    ///
    /// # Errors
    /// When it, or its peer, refuses.
    pub fn close_channel(&self, funding: OutPoint, alone: bool) -> Result<Txid> {
        let closed =
            self.ask("close_channel", json!({ "channel_point": funding.to_string(), "force": alone }))?;
        Ok(closed.as_str().context("a transaction")?.parse()?)
    }

    /// Its channels, as it lists them.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn channels(&self) -> Result<Vec<Value>> {
        self.ask("list_channels", json!({}))?.as_array().cloned().context("a list")
    }
}

/// Starts a server that looks at the chain often, and waits until it listens.
fn serve(world: &World, program: &Path, database: &Path, at: &str) -> Result<Running> {
    let config = world.rpc_config();
    let user = match config.auth {
        RpcAuth::Cookie(path) => std::fs::read_to_string(path)?,
        RpcAuth::UserPass { user, password } => format!("{user}:{password}"),
    };
    let host = config.url.trim_start_matches("http://");
    let mut command = Command::new(program);
    let service = format!("tcp://{at}");
    let url = format!("http://{user}@{host}");
    command
        .env("DB_DIRECTORY", database)
        .envs([("DAEMON_URL", url.as_str()), ("SERVICES", service.as_str())])
        .envs([
            ("COIN", "Bitcoin"),
            ("NET", "regtest"),
            ("PEER_DISCOVERY", "off"),
            ("REPORT_SERVICES", ""),
            ("ALLOW_ROOT", "yes"),
            // Its only client asks as often as it likes.
            ("COST_SOFT_LIMIT", "0"),
            ("COST_HARD_LIMIT", "0"),
            ("DAEMON_POLL_INTERVAL_BLOCKS", "200"),
            ("DAEMON_POLL_INTERVAL_MEMPOOL", "200"),
            ("CACHE_MB", "50"),
        ]);
    let mut server = Running::start(command, &database.join("log"))?;
    until("Electrum's server listens", || {
        server.is_alive()?;
        Ok(TcpStream::connect(at).ok())
    })?;
    Ok(server)
}

/// A process that does not outlive its story, and the file that has what it prints.
struct Running {
    process: Child,
    log: PathBuf,
}

impl Running {
    fn start(mut command: Command, log: &Path) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let program = command.get_program().to_owned();
        let process = command.spawn().with_context(|| format!("{}", program.display()))?;
        Ok(Self { process, log: log.to_owned() })
    }

    fn is_alive(&mut self) -> Result<()> {
        let ended = self.process.try_wait()?;
        ensure!(ended.is_none(), "it ended: {}", self.last_words());
        Ok(())
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended_already = self.process.kill();
        let _ended_already = self.process.wait();
    }
}
