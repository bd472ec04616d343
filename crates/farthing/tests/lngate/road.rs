//! A bridge and a destination, which are stock Lightning nodes in this process, and a gateway in one of its own.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bitcoin::{Address, Amount, Network};
use farthing_gateway::ldk::Setup;
use farthing_gateway::ordinary::{News, Ordinary, config, low_fees};
use farthing_testkit::process::Process;
use farthing_testkit::wait::until;
use farthing_testkit::{Person, World};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// What the device's channel holds, in satoshi.
pub const CAPACITY: u64 = 1_000_000;
/// What the bridge's channel to the destination holds.
const TRUNK: Amount = Amount::from_sat(5_000_000);

/// Everything but the device.
pub struct Road {
    pub world: World,
    bridge: Ordinary,
    destination: Ordinary,
    operator: Person,
    gateway: Option<Process>,
    /// Where devices reach the gateway.
    pub address: String,
    runtime: Runtime,
}

impl Road {
    /// A bridge with a channel to a destination; no gateway runs yet.
    pub fn new() -> Result<Self> {
        let world = World::new(env!("CARGO_BIN_EXE_farthing"))?;
        let runtime = Runtime::new()?;
        let _inside = runtime.enter();
        let start =
            |name: &'static str, byte| -> Result<(Ordinary, SocketAddr, mpsc::UnboundedReceiver<News>)> {
                let setup = Setup {
                    name,
                    folder: world.folder().join(name),
                    seed: [byte; 32],
                    chain: world.chain(),
                    fees: low_fees(),
                    config: config(0),
                    poll: Duration::from_millis(50),
                };
                let (sender, news) = mpsc::unbounded_channel();
                let node = Ordinary::start(setup, sender)?;
                let address = runtime.block_on(node.listen("127.0.0.1:0".parse()?))?;
                Ok((node, address, news))
            };
        let (bridge, bridge_address, mut news) = start("bridge", 1)?;
        let (destination, address, _) = start("destination", 2)?;
        let to = destination.id();
        bridge.keep_connected(to, address);
        until("the nodes are connected", || Ok(bridge.is_connected(&to).then_some(())))?;
        // Public, so that its end is found by the map of the network, which a gateway that was killed has lost.
        bridge.open_channel(1, to, TRUNK, true)?;
        until("the bridge's channel is funded", || match news.try_recv() {
            Ok(News::FundingWanted { temporary, peer, script, capacity, .. }) => {
                let address = Address::from_script(&script, Network::Regtest)?;
                bridge.fund(temporary, peer, world.pay(&address, capacity)?)?;
                Ok(Some(()))
            }
            Ok(_) | Err(_) => Ok(None),
        })?;
        until("the bridge's channel is signed", || Ok(bridge.is_funded(&to).then_some(())))?;
        world.mine(8)?;
        let is_open = || (bridge.usable() == 1 && destination.usable() == 1).then_some(());
        until("the bridge's channel is open", || Ok(is_open()))?;
        let operator = Person::new(&world, "operator", 0)?
            .with("FARTHING_GATEWAY__BRIDGE", &format!("{}@{bridge_address}", bridge.id()))
            .with("FARTHING_GATEWAY__COMMITMENT_FEE_RATE", "4");
        let (gateway, address) = (None, String::new());
        Ok(Self { world, bridge, destination, operator, gateway, address, runtime })
    }

    /// Starts the gateway, where it was before; with a crash point if one is given. Says whether it came to listen.
    pub fn start_gateway(&mut self, crash_at: Option<u64>) -> Result<bool> {
        let operator = match crash_at {
            Some(point) => self.operator.crashing_at(point),
            None => self.operator.clone(),
        };
        let listen = self.address.split_once('@').map_or("127.0.0.1:0", |(_, listen)| listen).to_owned();
        let mut process = operator.start(&["gateway", "run", "--listen", &listen])?;
        let is_there = match process.step()? {
            Some(said) => {
                self.address = said["address"].as_str().context("an address")?.to_owned();
                true
            }
            None if crash_at.is_some() => false,
            None => bail!("the gateway did not start: {}", process.wait()?.errors),
        };
        self.gateway = Some(process);
        Ok(is_there)
    }

    /// The gateway's process is gone, without a word.
    pub fn kill_gateway(&mut self) -> Result<()> {
        self.gateway.take().context("the gateway runs")?.kill()
    }

    /// Waits until the device's channel can be used. Says whether the gateway lived to see it.
    pub fn await_usable(&mut self) -> Result<bool> {
        let gateway = self.gateway.as_mut().context("the gateway runs")?;
        let (operator, bridge) = (&self.operator, &self.bridge);
        until("the channel is usable", || {
            if gateway.has_ended()? {
                return Ok(Some(false));
            }
            let asked = operator.attempt(&["gateway", "channels"])?;
            let Ok(channels) = asked.result() else { return Ok(None) };
            let channels = channels.as_array().context("a list")?;
            // Both ends must think so.
            let is_usable = channels.iter().any(|channel| channel["usable"] == true) && bridge.usable() == 2;
            Ok(is_usable.then_some(true))
        })
    }

    /// Whether the gateway is gone by itself; it must then have crashed.
    pub fn has_crashed(&mut self) -> Result<bool> {
        let mut gateway = self.gateway.take().context("the gateway was started")?;
        if !gateway.has_ended()? {
            self.gateway = Some(gateway);
            return Ok(false);
        }
        let ended = gateway.wait()?;
        ensure!(ended.has_crashed(), "the gateway ended: {ended:?}");
        Ok(true)
    }

    /// Waits for the gateway's crash: whoever talks to it may hear of it first.
    pub fn await_crash(&mut self) -> Result<()> {
        until("the gateway is gone", || Ok(self.has_crashed()?.then_some(())))
    }

    /// A file that goes from one machine to another.
    pub fn file(&self, name: &str) -> Result<String> {
        let path = self.world.folder().join(name);
        Ok(path.to_str().context("the folder's name is not text")?.to_owned())
    }

    /// An invoice of the destination.
    pub fn invoice(&self, msat: u64) -> Result<String> {
        let _inside = self.runtime.enter();
        Ok(self.destination.invoice(msat)?)
    }
}

impl Drop for Road {
    fn drop(&mut self) {
        self.bridge.stop();
        self.destination.stop();
    }
}
