//! The Lightning nodes of the demo: a stock bridge, the road's own node, and the gateway, a process of its own, with its ordinary node
//! that earns the service fee.
//!
//! ```text
//!   car ── gateway ═══ bridge ═══ ordinary node of the gateway ═══ road
//! ```

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bitcoin::{Address, Amount, Network};
use farthing_gateway::admin;
use farthing_gateway::home::GatewayHome;
use farthing_gateway::ldk::Setup;
use farthing_gateway::ordinary::{News, Ordinary, config, low_fees};
use secp256k1::PublicKey;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::demo::people::{Person, Service};
use crate::demo::stage::{PATIENCE, Stage};

/// What the channels of the operator and the road hold.
const TRUNK: Amount = Amount::from_sat(10_000_000);

/// A Lightning node in this process.
pub struct Stop {
    /// The node.
    pub node: Ordinary,
    news: mpsc::UnboundedReceiver<News>,
    address: SocketAddr,
}

/// Everything at the roadside.
pub struct Road {
    /// The node at the other end of the cars' channels.
    pub bridge: Stop,
    /// Where the tolls go.
    pub toll: Stop,
    /// Who runs the gateway.
    pub operator: Person,
    gateway: Option<Service>,
    /// Where devices reach the gateway.
    pub address: String,
    runtime: Handle,
}

impl Road {
    /// Starts the nodes, opens their channels, and starts the gateway.
    pub fn build(stage: &Stage) -> anyhow::Result<Self> {
        let runtime = Handle::current();
        let start = |name: &'static str, byte: u8| -> anyhow::Result<Stop> {
            let setup = Setup {
                name,
                folder: stage.folder().join(name),
                seed: [byte; 32],
                chain: stage.chain(),
                fees: low_fees(),
                config: config(0),
                poll: Duration::from_millis(100),
            };
            let (sender, news) = mpsc::unbounded_channel();
            let node = Ordinary::start(setup, sender)?;
            let address = runtime.block_on(node.listen("127.0.0.1:0".parse()?))?;
            Ok(Stop { node, news, address })
        };
        let bridge = start("bridge", 1)?;
        let toll = start("toll", 3)?;
        let operator = Person::new(stage, "operator", "road", TRUNK + Amount::from_sat(100_000))?
            .with("FARTHING_GATEWAY__BRIDGE", &format!("{}@{}", bridge.node.id(), bridge.address))
            .with("FARTHING_GATEWAY__ORDINARY_LISTEN", "127.0.0.1:0")
            .with("FARTHING_GATEWAY__COMMITMENT_FEE_RATE", "4");
        let mut road = Self { bridge, toll, operator, gateway: None, address: String::new(), runtime };
        road.run_gateway("127.0.0.1:0")?;
        road.open_trunks(stage)?;
        Ok(road)
    }

    /// The channels behind the bridge: one that the bridge opens to the gateway's ordinary node, and one from there to the road.
    fn open_trunks(&mut self, stage: &Stage) -> anyhow::Result<()> {
        let ordinary =
            self.ask("status")?["ordinary"]["node"].as_str().context("an ordinary node")?.parse()?;
        open(stage, &mut self.bridge, ordinary)?;
        let toll = format!("{}@{}", self.toll.node.id(), self.toll.address);
        let capacity = format!("{}sat", TRUNK.to_sat());
        self.operator.run(&["gateway", "open-channel", &toll, &capacity])?;
        stage.node().mine(8)?;
        until("the channels behind the bridge are open", || {
            let status = self.ask("status")?;
            let is_known = status["known_channels"].as_u64() >= Some(2);
            Ok(is_known && status["ordinary"]["usable"] == 2 && self.toll.node.usable() == 1)
        })
    }

    /// Starts the gateway.
    fn run_gateway(&mut self, listen: &str) -> anyhow::Result<()> {
        let gateway = self.operator.serve(&["gateway", "run", "--listen", listen])?;
        self.address = gateway.url.clone();
        self.gateway = Some(gateway);
        Ok(())
    }

    /// Starts the gateway, and waits until it knows the way to the road.
    pub fn start_gateway(&mut self, listen: &str) -> anyhow::Result<()> {
        self.run_gateway(listen)?;
        until("the gateway knows the way", || {
            Ok(self.ask("status")?["ordinary"]["usable"] == 2 && self.toll.node.usable() == 1)
        })
    }

    /// Starts it again where it was.
    pub fn restart_gateway(&mut self) -> anyhow::Result<()> {
        let listen = self.address.split_once('@').context("an address")?.1.to_owned();
        self.start_gateway(&listen)
    }

    /// The gateway's process is gone, without a word.
    pub fn kill_gateway(&mut self) -> anyhow::Result<()> {
        self.gateway.take().context("the gateway runs")?.kill()
    }

    /// The gateway's folder.
    pub fn gateway_data(&self) -> PathBuf {
        self.operator.folder().to_owned()
    }

    /// Asks the gateway as its operator does.
    pub fn ask(&self, word: &str) -> anyhow::Result<Value> {
        let folder = GatewayHome::folder(&self.gateway_data(), Network::Regtest);
        Ok(self.runtime.block_on(admin::ask(&folder, word))?)
    }

    /// Mines until that many channels of cars can be used.
    pub fn await_usable(&self, stage: &Stage, count: usize) -> anyhow::Result<()> {
        stage.node().mine(8)?;
        until("the cars' channels are open", || {
            let channels = self.ask("channels")?;
            let channels = channels.as_array().context("a list")?;
            Ok(channels.iter().filter(|channel| channel["usable"] == true).count() >= count)
        })
    }

    /// Waits until the cars' channels can be used again, after a restart of the gateway.
    pub fn await_usable_again(&self) -> anyhow::Result<()> {
        until("the cars' channels are usable again", || {
            let channels = self.ask("channels")?;
            let channels = channels.as_array().context("a list")?;
            // Both ends must think so, and of the trunk as well.
            let at_bridge = self.bridge.node.usable() == channels.len() + 1;
            Ok(at_bridge && channels.iter().all(|channel| channel["usable"] == true))
        })
    }

    /// An invoice for a toll.
    pub fn invoice(&self, msat: u64) -> anyhow::Result<String> {
        Ok(self.toll.node.invoice(msat)?)
    }

    /// What the gateway's ordinary node has earned.
    pub fn earned_msat(&self) -> anyhow::Result<u64> {
        self.ask("status")?["ordinary"]["earned_msat"].as_u64().context("a number")
    }

    /// Ends everything in this process; the gateway ends when it is dropped.
    pub fn stop(self) {
        for stop in [&self.bridge, &self.toll] {
            stop.node.stop();
        }
    }
}

/// Opens a channel to a peer that connects by itself.
fn open(stage: &Stage, from: &mut Stop, peer: PublicKey) -> anyhow::Result<()> {
    until("two nodes are connected", || Ok(from.node.is_connected(&peer)))?;
    from.node.open_channel(1, peer, TRUNK, true)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match from.news.try_recv() {
            Ok(News::FundingWanted { temporary, peer, script, capacity, .. }) => {
                let address = Address::from_script(&script, Network::Regtest)?;
                from.node.fund(temporary, peer, stage.node().pay(&address, capacity)?)?;
                break;
            }
            Ok(_other) => {}
            Err(_nothing) => {
                ensure!(Instant::now() < deadline, "a node was not asked to fund its channel");
                std::thread::park_timeout(Duration::from_millis(20));
            }
        }
    }
    until("a channel is signed", || Ok(from.node.is_funded(&peer)))
}

/// Waits for a condition.
pub fn until(what: &str, mut condition: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !condition()? {
        if Instant::now() > deadline {
            bail!("waited {} seconds in vain: {what}", PATIENCE.as_secs());
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    Ok(())
}
