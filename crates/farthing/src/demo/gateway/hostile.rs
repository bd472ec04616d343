//! A gateway that cheats, alone and with the bridge: it has the real one's key, share and books, and asks the car for what it should
//! not get. The car refuses each, with the name of the rule.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use bitcoin::hashes::Hash as _;
use bitcoin::{FeeRate, Network, ScriptBuf, Txid, WPubkeyHash};
use farthing_gateway::home::GatewayHome;
use farthing_gateway::stored::{StoredChannel, stored_channels};
use farthing_node::link::{Link, Receiver, Sender};
use farthing_protocol::Msat;
use farthing_protocol::device::Proposal;
use farthing_protocol::device::bolt3::closing::Settlement;
use farthing_protocol::device::bolt3::{
    Commitment, CommitmentNumber, CommitmentSecret, Contents, Htlc, PaymentHash, Side,
};
use farthing_protocol::device::wire::{Answer, ChannelKeysId, Request, ToDevice, ToGateway, Welcome};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::demo::gateway::TOLL_MSAT;
use crate::demo::gateway::acts::Act;
use crate::demo::gateway::cars::Car;
use crate::demo::gateway::road::Road;

/// How long the car may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is asked of the car, and the rule that must stop it.
type Attack = (&'static str, Request, &'static str);

/// The gateway alone: states that were revoked, and secrets that would make the live one worthless.
pub fn revoked_state_refused(road: &mut Road, car: &Car) -> anyhow::Result<Act> {
    attack(road, car, "revoked_state_refused", |channel| {
        let (bridge, holder) = newest(channel)?;
        let old = Contents { number: before(bridge.number)?, ..bridge.clone() };
        let old_holder = Contents { number: before(holder.number)?, ..holder.clone() };
        let signature = {
            // Any signature: the number comes first.
            let key = secp256k1_key();
            let built = Commitment::build(&channel.terms, Side::Holder, &old_holder);
            built.digest().sign(&key)
        };
        Ok(vec![
            ("to sign a revoked state of the bridge's", sign_bridge(channel, &old), "commitment-number"),
            (
                "to complete a revoked state of its own",
                Request::ValidateHolder {
                    proposal: proposal(channel, Side::Holder, &old_holder),
                    signature,
                    htlc_signatures: Vec::new(),
                    first: Vec::new(),
                },
                "commitment-number",
            ),
            (
                "for the secret of its live state",
                Request::Revoke { number: holder.number },
                "revoke-new-commitment-signed",
            ),
        ])
    })
}

/// Gateway and bridge together: other balances, outputs, hashes, fees, addresses.
pub fn collusion_refused(road: &mut Road, car: &Car) -> anyhow::Result<Act> {
    attack(road, car, "collusion_refused", |channel| {
        let (bridge, _) = newest(channel)?;
        let next = Contents {
            number: bridge.number.next().context("a next number")?,
            point: secp256k1_key().public_key(bitcoin::secp256k1::SECP256K1),
            ..bridge.clone()
        };
        let stolen = Msat::new(100_000_000);
        let moved = Contents {
            to_holder: next.to_holder.saturating_sub(stolen),
            to_bridge: next.to_bridge.saturating_add(stolen),
            ..next.clone()
        };
        let htlc = Htlc {
            offered_by: Side::Holder,
            amount: Msat::new(TOLL_MSAT),
            payment_hash: PaymentHash([7; 32]),
            expiry: 500,
        };
        let unasked = Contents {
            to_holder: next.to_holder.saturating_sub(htlc.amount),
            htlcs: vec![htlc],
            ..next.clone()
        };
        let dear = Contents { fee_rate: FeeRate::from_sat_per_kwu(100_000), ..next.clone() };
        let other = |request: Request| match request {
            Request::SignBridge { proposal, point, first } => {
                let proposal = Proposal { txid: Txid::from_byte_array([9; 32]), ..proposal };
                Request::SignBridge { proposal, point, first }
            }
            same => same,
        };
        let thief = ScriptBuf::new_p2wpkh(&WPubkeyHash::from_byte_array([6; 20]));
        let settlement = Settlement {
            to_holder: next.to_holder.floor() - bitcoin::Amount::from_sat(1_000),
            holder_script: thief.clone(),
            to_bridge: next.to_bridge.floor(),
            bridge_script: thief,
        };
        Ok(vec![
            ("to move 100,000 sat to the bridge", sign_bridge(channel, &moved), "commitment-balance"),
            ("to pay a hash that no invoice has", sign_bridge(channel, &unasked), "routing-balanced"),
            ("to burn money as fees", sign_bridge(channel, &dear), "commitment-fee-range"),
            (
                "to sign a transaction that it did not build",
                other(sign_bridge(channel, &next)),
                "commitment-no-unrecognized-outputs",
            ),
            (
                "to close to the gateway's address",
                Request::CloseTogether { settlement, first: Vec::new() },
                "mutual-destination",
            ),
            (
                "to take a secret that is none of the bridge's",
                Request::BridgeRevoked { number: bridge.number, secret: CommitmentSecret::new([5; 32]) },
                "revoke-",
            ),
        ])
    })
}

/// Puts a hostile gateway in the place of the real one, asks, and puts the real one back: the car must then pay as before.
fn attack(
    road: &mut Road,
    car: &Car,
    name: &'static str,
    attacks: impl FnOnce(&StoredChannel) -> anyhow::Result<Vec<Attack>>,
) -> anyhow::Result<Act> {
    let identity = car.device.run(&["device", "status"])?;
    road.kill_gateway()?;
    let listen = road.address.split_once('@').context("an address")?.1.to_owned();
    let home = GatewayHome::open(&road.gateway_data(), Network::Regtest)?;
    let (_, key) = home.secrets()?;
    let channels = stored_channels(home.path())?;
    let handle = tokio::runtime::Handle::current();
    let connected = car.device.talk(&["device", "run"])?;
    let seen = handle.block_on(async {
        let listener = TcpListener::bind(&listen).await?;
        let (stream, _) = timeout(PATIENCE, listener.accept()).await??;
        let mut liar = Liar::greet(Link::accept(stream, &key).await?).await?;
        let channel = liar.channel_of(&channels)?;
        let mut seen = Vec::new();
        for (what, request, rule) in attacks(channel)? {
            let refused = liar.ask(channel.id, request).await?;
            seen.push((what, rule, refused));
        }
        anyhow::Ok(seen)
    })?;
    connected.kill()?;
    drop(home);
    road.restart_gateway()?;
    let is_refused = seen.iter().all(|(_, rule, refused)| refused.starts_with(rule));
    for (what, rule, refused) in seen.iter().filter(|(_, rule, refused)| !refused.starts_with(rule)) {
        eprintln!("FAILED: the car was asked {what}: expected {rule}, got {refused}");
    }
    let balance = |status: &serde_json::Value| status["channels"].clone();
    let is_same = balance(&identity) == balance(&car.device.run(&["device", "status"])?);
    road.await_usable_again()?;
    let pays = car.pay(&road.invoice(TOLL_MSAT)?)?["paid"] == true;
    let rules: Vec<&str> = seen.iter().map(|(_, rule, _)| *rule).collect();
    let outcome = format!("{} attacks refused, by {}; then it paid as before", seen.len(), rules.join(", "));
    Ok(Act { name, ok: is_refused && is_same && pays, outcome })
}

fn newest(channel: &StoredChannel) -> anyhow::Result<(&Contents, &Contents)> {
    let of = |side| channel.ledger.newest(side).context("the channel has states");
    Ok((of(Side::Bridge)?, of(Side::Holder)?))
}

fn before(number: CommitmentNumber) -> anyhow::Result<CommitmentNumber> {
    number.previous().context("the channel has old states")
}

fn proposal(channel: &StoredChannel, side: Side, contents: &Contents) -> Proposal {
    let txid = Commitment::build(&channel.terms, side, contents).txid();
    let Contents { number, fee_rate, to_holder, to_bridge, htlcs, .. } = contents.clone();
    Proposal { number, fee_rate, to_holder, to_bridge, htlcs, preimages: Vec::new(), txid }
}

fn sign_bridge(channel: &StoredChannel, contents: &Contents) -> Request {
    let proposal = proposal(channel, Side::Bridge, contents);
    Request::SignBridge { proposal, point: contents.point, first: Vec::new() }
}

fn secp256k1_key() -> bitcoin::secp256k1::SecretKey {
    bitcoin::secp256k1::SecretKey::from_slice(&[3; 32]).expect("a key")
}

/// A gateway's side of a connection, without a gateway behind it.
struct Liar {
    sender: Sender,
    receiver: Receiver,
    channels: Vec<ChannelKeysId>,
    asked: u64,
}

impl Liar {
    async fn greet(link: Link) -> anyhow::Result<Self> {
        let (mut sender, mut receiver) = link.split();
        let first = timeout(PATIENCE, receiver.receive()).await??;
        let ToGateway::Hello(hello) = ToGateway::from_bytes(&first)? else {
            anyhow::bail!("the device begins with a hello")
        };
        let welcome = Welcome { enrolled: true, fee_ppm: 0, fee_base: Msat::ZERO, policy: u64::MAX };
        sender.send(&ToDevice::Welcome(welcome).to_bytes()).await?;
        sender.send(&ToDevice::Headers(Vec::new()).to_bytes()).await?;
        let channels = hello.channels.iter().map(|(channel, _)| *channel).collect();
        Ok(Self { sender, receiver, channels, asked: 0 })
    }

    fn channel_of<'a>(&self, all: &'a [StoredChannel]) -> anyhow::Result<&'a StoredChannel> {
        let its = |channel: &&StoredChannel| self.channels.contains(&channel.id);
        all.iter().find(its).context("the car has a channel here")
    }

    /// Asks, and gives what the car said: why it refused, or what it did.
    async fn ask(&mut self, channel: ChannelKeysId, request: Request) -> anyhow::Result<String> {
        self.asked += 1;
        let id = self.asked;
        self.sender.send(&ToDevice::Request { id, channel, request }.to_bytes()).await?;
        loop {
            let bytes = timeout(PATIENCE, self.receiver.receive()).await??;
            match ToGateway::from_bytes(&bytes)? {
                ToGateway::Answer { id: answered, answer } if answered == id => {
                    return Ok(match answer {
                        Answer::Refused { why, .. } => why,
                        other => format!("DONE: {other:?}"),
                    });
                }
                ToGateway::Answer { .. } | ToGateway::Round { .. } | ToGateway::Order { .. } => {}
                ToGateway::Hello(_) => ensure!(false, "one hello"),
            }
        }
    }
}
