//! A real bitcoind, a stock LDK node as bridge, another as destination, a gateway, and devices.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod device;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitcoin::absolute::LockTime;
use bitcoin::consensus::encode::serialize;
use bitcoin::hashes::Hash as _;
use bitcoin::sighash::{EcdsaSighashType, SighashCache};
use bitcoin::transaction::Version;
use bitcoin::{
    Address, Amount, FeeRate, Network, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness,
};
use farthing_chain::{Chain, RegtestNode};
use farthing_gateway::caller::MOST_UNREAD;
use farthing_gateway::gateway::{Gateway, Limits, Settings};
use farthing_gateway::ldk::Setup;
use farthing_gateway::ldk::fees::FeeRates;
use farthing_gateway::ordinary::{News, Ordinary, config, low_fees};
use farthing_gateway::session::Connection;
use farthing_protocol::Msat;
use farthing_protocol::device::setup::{Bounds, FundingStatement};
use farthing_protocol::device::wire::*;
use farthing_protocol::device::{Enrolment, Policy, SignedPolicy};
use secp256k1::{Keypair, Message, PublicKey, SECP256K1, SecretKey};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use device::{Device, Do};

pub const CAPACITY: Amount = Amount::from_sat(1_000_000);
pub const PATIENCE: Duration = Duration::from_secs(240);
const POLL: Duration = Duration::from_millis(50);

pub fn secret(byte: u8) -> SecretKey {
    SecretKey::from_slice(&[byte; 32]).unwrap()
}

pub fn public(byte: u8) -> PublicKey {
    secret(byte).public_key(SECP256K1)
}

pub const OWNER: u8 = 0x11;
pub const COLD_PAYMENT: u8 = 0x12;
pub const COLD_DELAYED: u8 = 0x13;
pub const COLD: u8 = 0x14;
pub const COIN: u8 = 0x15;
/// What the bridge's keys come from.
pub const BRIDGE: u8 = 0x20;

/// P2WPKH of a test key.
pub fn script(byte: u8) -> ScriptBuf {
    let hash = bitcoin::PublicKey::new(public(byte)).wpubkey_hash().unwrap();
    ScriptBuf::new_p2wpkh(&hash)
}

pub fn policy() -> Policy {
    Policy {
        version: 1,
        paused: false,
        payees: Vec::new(),
        per_payment: Msat::new(60_000_000),
        per_hour: Msat::new(600_000_000),
        per_day: Msat::new(900_000_000),
        in_flight: Msat::new(120_000_000),
        fee_base: Msat::new(10_000),
        fee_ppm: 50_000,
        least_fee_rate: FeeRate::from_sat_per_kwu(500),
        most_fee_rate: FeeRate::from_sat_per_kwu(25_000),
        most_htlcs: 10,
        most_expiry_delta: 1_000,
    }
}

pub fn enrolment() -> Enrolment {
    Enrolment {
        owner: public(OWNER).x_only_public_key().0,
        network: Network::Regtest,
        payment: public(COLD_PAYMENT),
        delayed_payment: public(COLD_DELAYED),
        closing_script: script(COLD),
        bounds: Bounds {
            least_bridge_delay: 1_008,
            most_holder_delay: 2_016,
            most_reserve: Amount::from_sat(10_000),
            most_capacity: CAPACITY,
        },
    }
}

/// Waits for a condition, with a deadline.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A stock node: LDK's own signer, LDK's defaults but for forwarding to a private channel.
pub struct Stock {
    pub node: Ordinary,
    pub address: SocketAddr,
    pub news: mpsc::UnboundedReceiver<News>,
    pub folder: TempDir,
}

impl Stock {
    pub async fn start(name: &'static str, byte: u8, chain: &Chain) -> Self {
        Self::start_with(name, byte, chain, low_fees()).await
    }

    /// With other fee rates.
    pub async fn start_with(name: &'static str, byte: u8, chain: &Chain, fees: FeeRates) -> Self {
        let folder = farthing_chain::temporary_folder("farthing-gateway-").unwrap();
        let setup = Setup {
            name,
            folder: folder.path().to_owned(),
            seed: [byte; 32],
            chain: chain.clone(),
            fees,
            config: config(0),
            poll: POLL,
        };
        let (sender, news) = mpsc::unbounded_channel();
        let node = Ordinary::start(setup, sender).unwrap();
        let address = node.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        Self { node, address, news, folder }
    }

    pub fn invoice(&self, msat: u64) -> String {
        self.node.invoice(msat).unwrap()
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        self.node.stop();
    }
}

/// A way to a node that is shut at first.
pub struct Gate {
    pub address: SocketAddr,
    is_open: watch::Sender<bool>,
}

impl Gate {
    pub async fn before(node: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (is_open, waiting) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut waiting = waiting.clone();
                tokio::spawn(async move {
                    waiting.wait_for(|is_open| *is_open).await.ok()?;
                    let mut far = TcpStream::connect(node).await.ok()?;
                    copy_bidirectional(&mut near, &mut far).await.ok()
                });
            }
        });
        Self { address, is_open }
    }

    pub fn open(&self) {
        self.is_open.send(true).unwrap();
    }
}

/// Everything but devices.
pub struct World {
    pub regtest: RegtestNode,
    pub chain: Chain,
    pub bridge: Stock,
    pub destination: Stock,
    pub gateway: Arc<Gateway>,
    pub folder: TempDir,
}

impl World {
    pub async fn start() -> Self {
        Self::start_on(RegtestNode::start().unwrap()).await
    }

    /// On a chain that a test set up in its own way.
    pub async fn start_on(regtest: RegtestNode) -> Self {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _again = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let chain = regtest.chain();
        let mut bridge = Stock::start("bridge", BRIDGE, &chain).await;
        let destination = Stock::start("destination", 0x30, &chain).await;
        let to = destination.node.id();
        bridge.node.keep_connected(to, destination.address);
        until("the bridge reaches the destination", || bridge.node.is_connected(&to)).await;
        bridge.node.open_channel(1, to, Amount::from_sat(5_000_000), false).unwrap();
        loop {
            let news = tokio::time::timeout(PATIENCE, bridge.news.recv()).await.unwrap().unwrap();
            if let News::FundingWanted { temporary, peer, script, capacity, .. } = news {
                let address = Address::from_script(&script, Network::Regtest).unwrap();
                bridge.node.fund(temporary, peer, regtest.pay(&address, capacity).unwrap()).unwrap();
                break;
            }
        }
        until("the bridge's channel is signed", || bridge.node.is_funded(&to)).await;
        regtest.mine(7).unwrap();
        until("the bridge's channel is open", || bridge.node.usable() == 1 && destination.node.usable() == 1)
            .await;

        let folder = farthing_chain::temporary_folder("farthing-gateway-").unwrap();
        let gateway = open_gateway(&folder, &bridge, bridge.address, &chain);
        let id = gateway.node.id();
        until("the gateway reaches the bridge", || bridge.node.is_connected(&id)).await;
        // An invoice says the way only then.
        until("the destination can be told the way to", || destination.node.reachable() == 1).await;
        Self { regtest, chain, bridge, destination, gateway, folder }
    }

    /// Connects a device that the gateway does not know or knows already.
    pub fn connect(&self, byte: u8, device: Device) -> Connected {
        connect(&self.gateway, byte, device, (0, self.chain.block_hash(0).unwrap().unwrap()))
    }

    /// Connects a device that was here before.
    pub fn reconnect(&self, byte: u8, device: Device) -> Connected {
        let height = device.height();
        connect(&self.gateway, byte, device, (height, self.chain.block_hash(height).unwrap().unwrap()))
    }

    /// The gateway ends and begins again from what it stored.
    pub async fn restart_gateway(&mut self) {
        self.restart_gateway_behind(self.bridge.address);
    }

    /// The same, with another way to the bridge.
    pub fn restart_gateway_behind(&mut self, address: SocketAddr) {
        self.gateway.stop();
        self.gateway = open_gateway(&self.folder, &self.bridge, address, &self.chain);
    }

    /// The node drops what has been in its mempool for two weeks, as this has.
    pub fn forget_mempool(&self, txid: &Txid) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        self.regtest.set_time(now + 15 * 24 * 3_600).unwrap();
        let address = Address::from_script(&script(COIN), Network::Regtest).unwrap();
        self.regtest.send(&address, Amount::from_sat(10_000)).unwrap();
        assert_eq!(self.chain.mempool_transaction(txid).unwrap(), None);
    }

    pub fn mine(&self, blocks: u32) {
        self.regtest.mine(blocks).unwrap();
    }

    /// What the cold address has in the chain.
    pub fn cold(&self) -> Amount {
        self.chain.unspent_paying(&[script(COLD)]).unwrap().iter().map(|(_, output)| output.value).sum()
    }
}

pub fn open_gateway(
    folder: &TempDir,
    bridge: &Stock,
    bridge_address: SocketAddr,
    chain: &Chain,
) -> Arc<Gateway> {
    let settings = Settings {
        folder: folder.path().to_owned(),
        bridge: bridge.node.id(),
        bridge_address,
        fee_ppm: 50_000,
        fee_base: Msat::new(0),
        invitation: String::new(),
        commitment_fee_rate: FeeRate::from_sat_per_kwu(1_000),
        onchain_fee_rate: FeeRate::from_sat_per_kwu(1_000),
        closing_margin: Amount::from_sat(1_000),
        bridge_delay: 2_016,
        keys_ready: 1,
        limits: Limits::default(),
        poll: POLL,
    };
    Gateway::open(settings, [0x40; 32], chain.clone()).unwrap()
}

/// A device that is connected.
pub struct Connected {
    pub wishes: mpsc::UnboundedSender<Do>,
    pub reports: mpsc::UnboundedReceiver<(u64, Report)>,
    pub statements: mpsc::UnboundedReceiver<FundingStatement>,
    pub device: JoinHandle<Device>,
    pub session: JoinHandle<()>,
}

/// A new device.
pub fn new_device(
    byte: u8,
) -> (Device, mpsc::UnboundedReceiver<(u64, Report)>, mpsc::UnboundedReceiver<FundingStatement>) {
    let (statements, of_statements) = mpsc::unbounded_channel();
    let (reports, of_reports) = mpsc::unbounded_channel();
    let policy = policy().sign(&Keypair::from_secret_key(SECP256K1, &secret(OWNER)));
    (Device::new(byte, enrolment(), policy, statements, reports), of_reports, of_statements)
}

pub fn connect(
    gateway: &Arc<Gateway>,
    byte: u8,
    device: Device,
    tip: (u32, bitcoin::BlockHash),
) -> Connected {
    let (to_gateway, incoming) = mpsc::channel(16);
    let (outgoing, to_device) = mpsc::channel(MOST_UNREAD);
    let (wishes, of_wishes) = mpsc::unbounded_channel();
    let hash = farthing_node::entropy::bytes();
    to_gateway.try_send(ToGateway::Hello(device.hello(tip))).unwrap();
    let device = tokio::spawn(device.run(hash, to_device, to_gateway, of_wishes));
    let gateway = gateway.clone();
    let session = tokio::spawn(async move {
        let connection = Connection { device: [byte; 32], hash, incoming, outgoing };
        if let Err(error) = gateway.serve(connection).await {
            eprintln!("the session ended: {error}");
        }
    });
    let (_, reports) = mpsc::unbounded_channel();
    let (_, statements) = mpsc::unbounded_channel();
    Connected { wishes, reports, statements, device, session }
}

impl Connected {
    /// The connection is cut.
    pub async fn cut(self) -> (Device, mpsc::UnboundedReceiver<(u64, Report)>) {
        drop(self.wishes);
        let device = self.device.await.unwrap();
        self.session.await.unwrap();
        (device, self.reports)
    }

    pub fn order(&self, order: Order) {
        self.wishes.send(Do::Order(order)).ok().unwrap();
    }

    pub async fn report(&mut self) -> Report {
        tokio::time::timeout(PATIENCE, self.reports.recv()).await.expect("a report in time").unwrap().1
    }

    /// Enrols, and opens a channel that the owner funds once the device has said that it may.
    pub async fn open(&mut self, world: &World) -> ChannelKeysId {
        let policy = policy().sign(&Keypair::from_secret_key(SECP256K1, &secret(OWNER)));
        self.open_under(world, policy).await
    }

    /// The same, and the gateway is given that policy.
    pub async fn open_under(&mut self, world: &World, policy: SignedPolicy) -> ChannelKeysId {
        self.order(Order::Enrol(Enrol {
            invitation: String::new(),
            name: "car".into(),
            identity: public(1),
            owner: public(OWNER).x_only_public_key().0,
            policy,
        }));
        assert_eq!(self.report().await, Report::Done);
        let (channel, script) = loop {
            self.order(Order::Open { capacity: CAPACITY });
            match self.report().await {
                Report::FundingWanted { channel, script, capacity } => {
                    assert_eq!(capacity, CAPACITY);
                    break (channel, script);
                }
                Report::Refused { .. } => tokio::time::sleep(Duration::from_millis(50)).await,
                other => panic!("{other:?}"),
            }
        };
        let (unsigned, coin) = funding(world, script);
        let outpoint = OutPoint { txid: unsigned.compute_txid(), vout: 0 };
        self.order(Order::Funding { channel, outpoint });
        assert_eq!(self.report().await, Report::Funded { channel });
        // The owner's wallet believes the device and nobody else.
        let statement = self.statements.recv().await.unwrap();
        assert_eq!((statement.outpoint, statement.value), (outpoint, CAPACITY));
        world.chain.broadcast(&sign(unsigned, &coin)).unwrap();
        world.mine(7);
        let gateway = &world.gateway;
        until("the channel is usable", || {
            gateway.details(channel.0).is_some_and(|details| details.is_usable)
        })
        .await;
        channel
    }

    pub async fn pay(&mut self, channel: ChannelKeysId, invoice: String) -> Report {
        self.wishes.send(Do::Pay(channel, invoice)).ok().unwrap();
        loop {
            match self.report().await {
                Report::Paying(_) => {}
                other => return other,
            }
        }
    }
}

/// The owner's funding transaction, not signed, and the coin that it spends.
pub fn funding(world: &World, script_pubkey: ScriptBuf) -> (Transaction, TxOut) {
    let (outpoint, coin) = coin(&world.regtest);
    (spend(outpoint, script_pubkey), coin)
}

/// A coin in a block, of a channel's capacity and a fee.
pub fn coin(regtest: &RegtestNode) -> (OutPoint, TxOut) {
    let address = Address::from_script(&script(COIN), Network::Regtest).unwrap();
    let parent = regtest.pay(&address, CAPACITY + Amount::from_sat(1_000)).unwrap();
    let vout = parent.output.iter().position(|output| output.script_pubkey == script(COIN)).unwrap();
    regtest.mine(1).unwrap();
    (OutPoint { txid: parent.compute_txid(), vout: vout as u32 }, parent.output[vout].clone())
}

/// Pays a channel's capacity out of a coin; not signed.
pub fn spend(previous_output: OutPoint, script_pubkey: ScriptBuf) -> Transaction {
    let input = TxIn {
        previous_output,
        script_sig: ScriptBuf::new(),
        sequence: Sequence::MAX,
        witness: Witness::new(),
    };
    Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![input],
        output: vec![TxOut { value: CAPACITY, script_pubkey }],
    }
}

pub fn sign(mut transaction: Transaction, coin: &TxOut) -> Transaction {
    let sighash = SighashCache::new(&transaction)
        .p2wpkh_signature_hash(0, &coin.script_pubkey, coin.value, EcdsaSighashType::All)
        .unwrap();
    let signature = SECP256K1.sign_ecdsa(&Message::from_digest(sighash.to_byte_array()), &secret(COIN));
    let signature = bitcoin::ecdsa::Signature::sighash_all(signature);
    transaction.input[0].witness = Witness::p2wpkh(&signature, &public(COIN));
    transaction
}

/// Takes the owner's delayed output of a holder commitment to the cold address, as the owner's wallet does.
pub fn sweep(
    commitment: &Transaction,
    witness_script: &ScriptBuf,
    key: &SecretKey,
    delay: u16,
) -> Transaction {
    let vout = commitment
        .output
        .iter()
        .position(|output| output.script_pubkey == witness_script.to_p2wsh())
        .expect("the commitment pays the owner");
    let output = &commitment.output[vout];
    let mut transaction = Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: OutPoint { txid: commitment.compute_txid(), vout: vout as u32 },
            script_sig: ScriptBuf::new(),
            sequence: Sequence::from_height(delay),
            witness: Witness::new(),
        }],
        output: vec![TxOut { value: output.value - Amount::from_sat(1_000), script_pubkey: script(COLD) }],
    };
    let sighash = SighashCache::new(&transaction)
        .p2wsh_signature_hash(0, witness_script, output.value, EcdsaSighashType::All)
        .unwrap();
    let signature = SECP256K1.sign_ecdsa(&Message::from_digest(sighash.to_byte_array()), key);
    let mut der = signature.serialize_der().to_vec();
    der.push(EcdsaSighashType::All as u8);
    let mut witness = Witness::new();
    witness.push(der);
    witness.push([]);
    witness.push(witness_script);
    transaction.input[0].witness = witness;
    assert!(serialize(&transaction).len() > 100);
    transaction
}
