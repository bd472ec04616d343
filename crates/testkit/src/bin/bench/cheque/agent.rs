//! Cheques a second that one agent holds, locks for a payee, and is paid for: through [`Teller`], as its routes call it, with its
//! own database on a disk, `synchronous = FULL`, its chain watch running, and channels whose fundings are in a block of a real
//! bitcoind. Each cheque is five steps that are stored: taken, locked, its secret learnt, what the payee has taken, and paid plainly.
//!
//! Writers and payees are elsewhere: what they send was made beforehand, and what the agent signs for a payee is verified after the
//! clock has stopped. HTTP and JSON are not counted.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bitcoin::{Amount, Network, OutPoint};
use farthing_chain::RegtestNode;
use farthing_node::cheques::opening::Plan;
use farthing_node::cheques::selling::{Answer, Ask, Towards};
use farthing_node::cheques::{Teller, Terms};
use farthing_node::entropy;
use farthing_node::home::Home;
use farthing_node::tabs::Durability;
use farthing_protocol::channel::Expiry;
use farthing_protocol::cheque::drawn::Kind;
use farthing_protocol::cheque::point::AdaptorSecret;
use farthing_protocol::cheque::promises::{Promise, Update};
use farthing_protocol::opening::{Offer, Opening};
use farthing_protocol::{Channel, ChannelId, Msat, Params, payee, payer};

use crate::cheque::parties::{CAPACITY, FEE_RATE, Paid, Paying, policy};
use crate::farthing::Folder;
use crate::opened::{self, Coin};
use crate::payer::{keys, party, unsaved};
use crate::stats::median;

/// Writers, each with a channel, and as many payees.
pub const LANES: usize = 64;
pub const ROUNDS: usize = 5;
/// Cheques of one round in one lane.
const EACH: usize = 16;
const AMOUNT: Msat = Msat::new(5_000_000);

/// Medians over the rounds.
pub struct Agent {
    pub cheques_per_s: f64,
}

/// A writer's channel, and a payee's.
struct Lane {
    behind: ChannelId,
    towards: ChannelId,
    writer: Paying,
    payee: Paid,
}

/// What is sent for one cheque.
struct Cheque {
    promise: Box<Update>,
    ask: Ask,
    /// Of the lock.
    secret: AdaptorSecret,
    plain: Box<Update>,
}

/// Measures.
pub fn measure(node: &RegtestNode, folder: &Folder) -> anyhow::Result<Agent> {
    let (home, _words) = Home::init(&folder.path().join("agent"), Network::Regtest)?;
    let defaults = Terms::default();
    let terms = Terms {
        paid: opened::terms(CAPACITY, LANES, Durability::Call),
        fee: Msat::ZERO,
        most_onward: CAPACITY * (LANES as u64 + 1),
        ..defaults
    };
    let pace = opened::pace(Duration::from_secs(5));
    let teller = Arc::new(Teller::start(&home, node.chain(), pace, terms)?);
    let mut lanes = lanes(node, &teller)?;
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        rounds.push(round(&teller, &mut lanes)?);
    }
    let all = AMOUNT.checked_mul((ROUNDS * EACH) as u64).context("an amount")?;
    for lane in &mut lanes {
        let update = teller.update(lane.towards)?.context("an update")?;
        lane.payee.take(&update)?;
        ensure!(lane.payee.claim() == all, "each cheque is paid to its payee");
        let entry = teller.channels()?.into_iter().find(|entry| entry.id == lane.behind);
        let claim = entry.context("the writer's channel")?.state.ledger().paid();
        ensure!(claim == all, "each cheque is paid to the agent");
    }
    Ok(Agent { cheques_per_s: median(rounds) })
}

/// Cheques a second.
fn round(teller: &Arc<Teller>, lanes: &mut [Lane]) -> anyhow::Result<f64> {
    let prepared = lanes.iter_mut().map(|lane| {
        let cheques = (0..EACH).map(|_| lane.cheque()).collect::<anyhow::Result<Vec<_>>>()?;
        Ok((lane.behind, lane.towards, cheques))
    });
    let prepared = prepared.collect::<anyhow::Result<Vec<_>>>()?;
    let start = Instant::now();
    let selling: Vec<_> = prepared
        .into_iter()
        .map(|(behind, towards, cheques)| {
            let teller = teller.clone();
            thread::spawn(move || cheques.into_iter().try_for_each(|one| sell(&teller, behind, towards, one)))
        })
        .collect();
    for lane in selling {
        lane.join().map_err(|_| anyhow::anyhow!("a lane has panicked"))??;
    }
    Ok((lanes.len() * EACH) as f64 / start.elapsed().as_secs_f64())
}

/// What the agent does for one cheque.
fn sell(teller: &Teller, behind: ChannelId, towards: ChannelId, cheque: Cheque) -> anyhow::Result<()> {
    let Cheque { promise, ask, secret, plain } = cheque;
    ensure!(teller.take(behind, promise, Msat::ZERO)?.taken.is_some(), "the cheque is held");
    teller.lock(&ask)?;
    let lock = teller.update(towards)?.context("the payee fetches its lock")?;
    ensure!(lock.signed.terms.promises.len() == 1, "there is a lock");
    let cashed = Answer { secrets: vec![secret], ..Answer::default() };
    ensure!(teller.hear(towards, &cashed)?, "what was cashed is paid plainly");
    let paid = teller.update(towards)?.context("the payee fetches what it is paid")?;
    let taken = Answer { taken: Some(paid.signed.terms.number), ..Answer::default() };
    teller.hear(towards, &taken)?;
    ensure!(teller.take(behind, plain, Msat::ZERO)?.taken.is_some(), "and the agent is paid");
    Ok(())
}

impl Lane {
    /// Writes a cheque and works out everything that its payee and its writer will send.
    fn cheque(&mut self) -> anyhow::Result<Cheque> {
        let scalar = || AdaptorSecret::from_bytes(&entropy::bytes()).context("a scalar");
        let (own, tweak) = (scalar()?, scalar()?);
        let promise = self.writer.promise(Promise { amount: AMOUNT, point: own.point() })?;
        self.writer.taken(promise.signed.terms.number)?;
        let plain = self.writer.learn(&own)?;
        self.writer.taken(plain.signed.terms.number)?;
        let secret = own.plus(&tweak).context("a secret")?;
        let ask = Ask {
            held: own.point(),
            point: secret.point(),
            tweak: tweak.negated(),
            amount: AMOUNT,
            towards: Towards::Channel(self.towards),
        };
        Ok(Cheque { promise, ask, secret, plain })
    }
}

/// Opens every channel, and has them in a block.
fn lanes(node: &RegtestNode, teller: &Teller) -> anyhow::Result<Vec<Lane>> {
    for _ in 0..LANES {
        node.send(&teller.new_address()?, CAPACITY + Amount::from_sat(10_000))?;
    }
    node.mine(1)?;
    teller.look()?;
    let height = node.chain().tip()?.height;
    let coin = Coin::from(node, CAPACITY * (LANES as u64 + 1))?;
    let offers: Vec<_> = (0..LANES).map(|_| teller.offer()).collect();
    let agreed = offers.iter().enumerate().map(|(index, (offer, _))| Params {
        network: Network::Regtest,
        funding: OutPoint::null(),
        capacity: CAPACITY,
        expiry: Expiry::at_height(height + 1_000),
        fee_rate: FEE_RATE,
        prepaid: Offer::prepaid(FEE_RATE),
        payer: party(&keys(2 * index as u64)),
        payee: offer.payee.clone(),
    });
    let agreed: Vec<Params> = agreed.collect();
    let outputs = agreed.iter().map(|params| Ok(Channel::new(params.clone())?.funding_txout()));
    let funding = coin.spend(outputs.collect::<anyhow::Result<_>>()?)?;
    let txid = funding.compute_txid();
    let mut lanes = Vec::with_capacity(LANES);
    for (index, (mut params, (offer, key))) in agreed.into_iter().zip(offers).enumerate() {
        params.funding = OutPoint { txid, vout: index as u32 };
        let channel = Channel::new(params.clone())?;
        let setup =
            payer::Setup { channel, keys: keys(2 * index as u64), funding: funding.clone(), finality: 6 };
        let (proposed, signature) = Paying::propose(setup, Kind::Cheques)?;
        let (behind, accepted) = teller.accept(&offer, key, Opening { params, signature }, None)?;
        let writer = proposed.accepted(accepted)?;
        let (towards, payee) = payee(teller, index as u64, height)?;
        lanes.push(Lane { behind, towards, writer, payee });
    }
    node.chain().broadcast(&funding)?;
    teller.look()?;
    node.mine(1)?;
    teller.look()?;
    Ok(lanes)
}

/// A payee, and the agent's channel to it.
fn payee(teller: &Teller, index: u64, height: u32) -> anyhow::Result<(ChannelId, Paid)> {
    let own = keys(2 * index + 1);
    let terms = opened::terms(CAPACITY, 1, Durability::Call);
    let offer = Offer {
        network: Network::Regtest,
        payee: party(&own),
        capacity: terms.capacity,
        fee_rate: terms.fee_rate,
        lifetime: terms.lifetime,
        margin: terms.margin,
        confirmations: terms.confirmations,
    };
    let plan = Plan { capacity: CAPACITY, expiry: height + 500, kind: Kind::Lock, peer: None };
    let (id, opening) = teller.propose(&offer, plan)?;
    let setup = payee::Setup { channel: Channel::new(opening.params)?, keys: own, policy: policy() };
    let (life, effects) = unsaved(payee::accept(&setup, &opening.signature)?);
    let [payee::Effect::Accept(signature)] = effects.as_slice() else { anyhow::bail!("it accepts") };
    teller.accepted(id, *signature)?;
    Ok((id, Paid::opened(setup, life, height)?))
}
