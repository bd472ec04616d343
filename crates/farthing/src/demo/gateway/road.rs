//! The Lightning nodes of the demo: a stock bridge, the gateway's ordinary node that earns the service fee, the road's own node, and
//! the gateway, a process of its own.
//!
//! ```text
//!   car ── gateway ═══ bridge ═══ ordinary node of the gateway's operator ═══ road
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
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::demo::people::{Person, Service};
use crate::demo::stage::{PATIENCE, Stage};

/// The service fee, in millionths: what the operator's ordinary node asks for forwarding.
pub const SERVICE_FEE: u32 = 50_000;
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
    ordinary: Stop,
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
        let start = |name: &'static str, byte: u8, fee| -> anyhow::Result<Stop> {
            let setup = Setup {
                name,
                folder: stage.folder().join(name),
                seed: [byte; 32],
                chain: stage.chain(),
                fees: low_fees(),
                config: config(fee),
                poll: Duration::from_millis(100),
            };
            let (sender, news) = mpsc::unbounded_channel();
            let node = Ordinary::start(setup, sender)?;
            let address = runtime.block_on(node.listen("127.0.0.1:0".parse()?))?;
            Ok(Stop { node, news, address })
        };
        let mut bridge = start("bridge", 1, 0)?;
        let mut ordinary = start("ordinary", 2, SERVICE_FEE)?;
        let toll = start("toll", 3, 0)?;
        // The cars' gateway learns of the first by gossip; the road's invoices name the second.
        open(stage, &mut bridge, &ordinary, true)?;
        open(stage, &mut ordinary, &toll, false)?;
        stage.node().mine(8)?;
        until("the nodes' channels are open", || {
            Ok(bridge.node.usable() == 1 && ordinary.node.usable() == 2 && toll.node.usable() == 1)
        })?;

        let operator = Person::new(stage, "operator", "road", Amount::ZERO)?
            .with("FARTHING_GATEWAY__BRIDGE", &format!("{}@{}", bridge.node.id(), bridge.address))
            .with("FARTHING_GATEWAY__COMMITMENT_FEE_RATE", "4");
        let mut road =
            Self { bridge, ordinary, toll, operator, gateway: None, address: String::new(), runtime };
        road.start_gateway("127.0.0.1:0")?;
        Ok(road)
    }

    /// Starts the gateway, and waits until it knows the way to the road.
    pub fn start_gateway(&mut self, listen: &str) -> anyhow::Result<()> {
        let gateway = self.operator.serve(&["gateway", "run", "--listen", listen])?;
        self.address = gateway.url.clone();
        self.gateway = Some(gateway);
        until("the gateway knows the way", || {
            Ok(self.ask("status")?["known_channels"].as_u64().is_some_and(|known| known > 0))
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
            Ok(channels.as_array().context("a list")?.iter().all(|channel| channel["usable"] == true))
        })
    }

    /// An invoice for a toll.
    pub fn invoice(&self, msat: u64) -> anyhow::Result<String> {
        Ok(self.toll.node.invoice(msat)?)
    }

    /// What the operator's ordinary node has earned.
    pub fn earned_msat(&self) -> u64 {
        self.ordinary.node.earned()
    }

    /// Ends everything in this process; the gateway ends when it is dropped.
    pub fn stop(self) {
        for stop in [&self.bridge, &self.ordinary, &self.toll] {
            stop.node.stop();
        }
    }
}

fn open(stage: &Stage, from: &mut Stop, to: &Stop, is_public: bool) -> anyhow::Result<()> {
    let peer = to.node.id();
    from.node.keep_connected(peer, to.address);
    until("two nodes are connected", || Ok(from.node.is_connected(&peer)))?;
    from.node.open_channel(peer, TRUNK, is_public)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match from.news.try_recv() {
            Ok(News::FundingWanted { temporary, peer, script, capacity }) => {
                let address = Address::from_script(&script, Network::Regtest)?;
                let txid = stage.node().send(&address, capacity)?;
                let funding = stage.chain().mempool_transaction(&txid)?.context("it was just sent")?;
                from.node.fund(temporary, peer, funding)?;
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
