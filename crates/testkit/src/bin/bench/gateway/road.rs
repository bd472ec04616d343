//! The Lightning nodes: a bridge and a destination, stock LDK in this process, and the gateway, a process of its own.
//!
//! ```text
//!   device ── gateway ═══ bridge ═══ destination
//! ```
//!
//! Each node in this process has a runtime of its own, whose threads carry its name: so what it uses of the processors can be told apart.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bitcoin::{Address, Amount, Network};
use farthing_chain::{Chain, RegtestNode};
use farthing_gateway::admin;
use farthing_gateway::home::GatewayHome;
use farthing_gateway::ldk::Setup;
use farthing_gateway::ordinary::{ChannelId, News, Ordinary, config, low_fees};
use farthing_testkit::wait::until;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

use crate::farthing::{Person, Process};

/// What the channel between bridge and destination holds.
const TRUNK: Amount = Amount::ONE_BTC;
/// More than devices: each may have a payment under way.
const MOST_HTLCS: u16 = 200;
/// What the gateway's commitments pay, in sat/vB: so low that a toll has an output.
const FEE_RATE: &str = "4";

/// A Lightning node in this process.
pub struct Lightning {
    pub node: Ordinary,
    pub news: mpsc::UnboundedReceiver<News>,
    pub runtime: Runtime,
    pub address: SocketAddr,
    /// Its channels that could be used since it was last asked.
    pub ready: Vec<ChannelId>,
}

impl Lightning {
    pub fn start(name: &'static str, byte: u8, chain: &Chain, folder: &Path) -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread().thread_name(name).enable_all().build()?;
        let mut config = config(0);
        config.channel_handshake_config.our_max_accepted_htlcs = MOST_HTLCS;
        config.channel_handshake_limits.max_funding_satoshis = TRUNK.to_sat();
        let setup = Setup {
            name,
            folder: folder.join(name),
            seed: [byte; 32],
            chain: chain.clone(),
            fees: low_fees(),
            config,
            poll: Duration::from_millis(100),
        };
        let (sender, news) = mpsc::unbounded_channel();
        let node = Ordinary::start(setup, sender)?;
        let address = runtime.block_on(node.listen("127.0.0.1:0".parse()?))?;
        Ok(Self { node, news, runtime, address, ready: Vec::new() })
    }

    /// Connects to another node for as long as both live.
    pub fn connect(&self, to: &Self) -> anyhow::Result<()> {
        let _within = self.runtime.enter();
        let peer = to.node.id();
        self.node.keep_connected(peer, to.address);
        until("two nodes are connected", || Ok(self.node.is_connected(&peer).then_some(())))
    }

    /// Opens a channel, which waits for its confirmations then.
    pub fn open(&mut self, node: &RegtestNode, to: &Self, capacity: Amount) -> anyhow::Result<()> {
        self.node.open_channel(1, to.node.id(), capacity, false)?;
        loop {
            match self.hear()? {
                News::FundingWanted { temporary, peer, script, capacity, .. } => {
                    let address = Address::from_script(&script, Network::Regtest)?;
                    self.node.fund(temporary, peer, node.pay(&address, capacity)?)?;
                }
                News::Signed { .. } => return Ok(()),
                News::Closed { why, .. } => bail!("a channel was not opened: {why}"),
                // One that was opened before.
                News::Ready(channel) => self.ready.push(channel),
                News::Discarded(_)
                | News::Waiting(_)
                | News::Received(_)
                | News::Forwarded(_)
                | News::Paid(_)
                | News::NotPaid(..) => {}
            }
        }
    }

    /// The next thing that the node has to say.
    pub fn hear(&mut self) -> anyhow::Result<News> {
        let news = async { tokio::time::timeout(farthing_testkit::wait::PATIENCE, self.news.recv()).await };
        self.runtime.block_on(news).context("a node has nothing to say")?.context("a node ended")
    }
}

/// Everything but devices.
pub struct Road {
    pub bridge: Lightning,
    pub destination: Lightning,
    operator: Person,
    gateway: Process,
    /// Where devices reach the gateway, as they are told.
    pub address: String,
}

impl Road {
    /// Starts the nodes, opens the channel between them, and starts the gateway on that address of this machine.
    pub fn build(regtest: &RegtestNode, folder: &Path, listen: &str) -> anyhow::Result<Self> {
        let chain = regtest.chain();
        let mut bridge = Lightning::start("bridge", 1, &chain, folder)?;
        let destination = Lightning::start("destination", 2, &chain, folder)?;
        bridge.connect(&destination)?;
        bridge.open(regtest, &destination, TRUNK)?;
        regtest.mine(8)?;
        until("the channel to the destination is open", || {
            Ok((bridge.node.usable() == 1 && destination.node.usable() == 1).then_some(()))
        })?;
        let operator = Person::without_wallet(regtest, &folder.join("operator"))?
            .with("FARTHING_GATEWAY__BRIDGE", &format!("{}@{}", bridge.node.id(), bridge.address))
            .with("FARTHING_GATEWAY__COMMITMENT_FEE_RATE", FEE_RATE);
        let mut gateway = Process::start(&mut operator.command(&["gateway", "run", "--listen", listen]))?;
        let mut line = String::new();
        std::io::BufRead::read_line(&mut gateway.output()?, &mut line)?;
        let said: Value = serde_json::from_str(&line).context("the gateway did not start")?;
        let address = said["address"].as_str().context("an address")?.to_owned();
        Ok(Self { bridge, destination, operator, gateway, address })
    }

    /// The gateway's process.
    pub fn gateway(&self) -> &Process {
        &self.gateway
    }

    /// Asks the gateway as its operator does.
    pub fn ask(&self, word: &str) -> anyhow::Result<Value> {
        let folder = GatewayHome::folder(self.operator.folder(), Network::Regtest);
        Ok(self.bridge.runtime.block_on(admin::ask(&folder, word))?)
    }

    /// A number of the gateway's status.
    pub fn count(&self, key: &str) -> anyhow::Result<u64> {
        self.ask("status")?[key].as_u64().with_context(|| format!("{key} in the gateway's status"))
    }

    /// Waits until that many channels of devices can be used.
    pub fn await_usable(&self, count: usize) -> anyhow::Result<()> {
        until("the devices' channels are open", || {
            let channels = self.ask("channels")?;
            let channels = channels.as_array().context("a list")?;
            let usable = channels.iter().filter(|channel| channel["usable"] == true).count();
            Ok((usable >= count).then_some(()))
        })
    }

    pub fn invoice(&self, msat: u64) -> anyhow::Result<String> {
        Ok(self.destination.node.invoice(msat)?)
    }

    /// Ends the nodes of this process.
    pub fn stop(self) {
        self.bridge.node.stop();
        self.destination.node.stop();
    }
}
