//! The flat mode on the real chain: each call reveals one secret, and each secret opens one output. Seller and buyer are the
//! library's own, in this process, each with its data folder and its wallet; only HTTP is left out.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, ensure};
use bitcoin::{Address, Amount, FeeRate, Network, OutPoint, ScriptBuf, Transaction, Txid};
use farthing_http::caller::Means;
use farthing_node::buyer::Buyer;
use farthing_node::buyer::calls::Allowed;
use farthing_node::home::Home;
use farthing_node::seller::{self, Seller};
use farthing_node::tabs::Announced;
use farthing_node::watch::Pace;
use farthing_protocol::flat::Terms;
use farthing_protocol::hashlock::Delay;
use farthing_protocol::lightspeed::Call;
use farthing_protocol::lightspeed::call::Target;
use farthing_protocol::opening::Limits;
use farthing_protocol::{ChannelId, Msat, Party, payee, payer};
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::demo::stage::Stage;

/// How many calls are made of those that the batch could pay.
const CALLS: u32 = 1_234;
/// How many of them run at once.
const AT_ONCE: usize = 32;
const CAPACITY: Amount = Amount::from_sat(2_100_000);
const LIFETIME: u32 = 500;
const MARGIN: u32 = 36;
const FINALITY: u32 = 6;
const TERMS: Terms = Terms {
    outputs: 2_000,
    unit: Amount::from_sat(1_000),
    prepaid: Amount::ZERO,
    d1: Delay::blocks(36),
    d2: Delay::blocks(40),
    most_fee_rate: FeeRate::from_sat_per_vb_u32(5),
};
const TARGET: Target<'static> = Target { method: "GET", authority: "in process", uri: "/", body: [0; 32] };

/// What the chain shows in the end.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Flat {
    calls: u32,
    outputs: u32,
    claimed: u32,
    refunded: u32,
    /// Both sides call the channel closed, and neither left anything.
    #[serde(skip)]
    settled: bool,
    #[serde(skip)]
    vsize: Sizes,
}

/// What it took, in vbytes.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    commitment: usize,
    micropayment: usize,
    claims: usize,
    refunds: usize,
}

impl Flat {
    /// Whether each output went to whom it is due.
    pub fn is_ok(&self) -> bool {
        self.settled && self.claimed == self.calls && self.claimed + self.refunded == self.outputs
    }

    /// In words.
    pub fn outcome(&self) -> String {
        let Self { calls, outputs, claimed, refunded, vsize, .. } = self;
        format!(
            "{calls} of {outputs} secrets revealed: {claimed} outputs claimed, {refunded} refunded; commitment {} vB, micropayment \
             transaction {} vB, claims {} vB, refunds {} vB",
            vsize.commitment, vsize.micropayment, vsize.claims, vsize.refunds
        )
    }
}

/// Plays it.
pub fn play(stage: &Stage) -> anyhow::Result<Flat> {
    eprintln!("The flat mode: {CALLS} calls, {} outputs …", TERMS.outputs);
    let pace = Pace::for_network(Network::Regtest);
    let home = |name: &str| Home::init(&stage.folder().join(name), Network::Regtest);
    let (sellers, buyers) = (home("flat seller")?.0, home("flat buyer")?.0);
    let terms = seller::Terms { margin: MARGIN, flat: Some(TERMS), ..seller::Terms::default() };
    let scene = Arc::new(Scene {
        seller: Seller::start(&sellers, stage.chain(), pace, terms)?,
        buyer: Buyer::start(&buyers, stage.chain(), pace, FINALITY)?,
    });
    let coins = [(scene.seller.offer().0.payee.output, 500_000), (scene.buyers_script()?, 2_200_000)];
    for (script, amount) in coins {
        let address = Address::from_script(&script, Network::Regtest)?;
        stage.node().send(&address, Amount::from_sat(amount))?;
    }
    scene.mine(stage, 1)?;
    let channel = scene.open(stage)?;
    Handle::current().block_on(scene.clone().calls(channel))?;
    scene.close(stage, channel)?;
    scene.count(stage, channel)
}

struct Scene {
    seller: Seller,
    buyer: Buyer,
}

impl Scene {
    fn buyers_script(&self) -> anyhow::Result<ScriptBuf> {
        Ok(self.buyer.new_address()?.script_pubkey())
    }

    /// Blocks one by one; both take each in before the next.
    fn mine(&self, stage: &Stage, blocks: u32) -> anyhow::Result<()> {
        for _ in 0..blocks {
            stage.node().mine(1)?;
            self.seller.look()?;
            self.buyer.look()?;
        }
        Ok(())
    }

    /// A channel whose first batch the seller has taken. The buyer computes what it means before anything is locked.
    fn open(&self, stage: &Stage) -> anyhow::Result<ChannelId> {
        let (seller, buyer) = (&self.seller, &self.buyer);
        let limits = Limits { most_capacity: CAPACITY, ..Means::default().limits };
        let (offer, key) = seller.offer();
        let explanation = buyer.explain(&offer, &limits, (CAPACITY, LIFETIME), &TERMS)?;
        eprintln!("{explanation}");
        let peer = "in process".to_owned();
        let (channel, opening) = buyer.propose(&offer, &limits, CAPACITY, LIFETIME, peer)?;
        let (_, signature) = seller.accept(&offer, key, opening)?;
        let runtime = Handle::current();
        runtime.block_on(buyer.accepted(channel, signature))?;
        buyer.look()?;
        self.mine(stage, 2)?;
        let told = buyer.announce_batch(channel, &TERMS)?;
        ensure!(told.batch.terms.outputs == TERMS.outputs, "the capacity covers the whole batch");
        let announced = Announced::Batch(told.batch, told.signed);
        let epoch = runtime.block_on(seller.announce(channel, announced, told.payment))?;
        runtime.block_on(buyer.announced(channel, told.batch.number, Some(epoch)))?;
        Ok(channel)
    }

    async fn calls(self: Arc<Self>, channel: ChannelId) -> anyhow::Result<()> {
        let left = Arc::new(AtomicU32::new(CALLS));
        let mut clients = JoinSet::new();
        for _ in 0..AT_ONCE {
            let (scene, left) = (self.clone(), left.clone());
            clients.spawn(async move {
                let take = |left: u32| left.checked_sub(1);
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                    scene.call(channel).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(client) = clients.join_next().await {
            client??;
        }
        Ok(())
    }

    /// One call, as the caller and the gate make it: stored, sent as bytes, admitted, ended, stored, answered, stored.
    async fn call(&self, channel: ChannelId) -> anyhow::Result<()> {
        let price = Msat::from_amount(TERMS.unit).context("an amount")?;
        let prepared = self.buyer.call(channel, price, &TARGET, Allowed::ANYTHING).await?;
        let (call, mac) = Call::from_bytes(&prepared.bytes)?;
        let admission = self.seller.admit(&call, &TARGET, &mac).await?;
        let ended = self.seller.end(admission, Some(price));
        let charged = ended.charged;
        ended.stored().await?;
        Ok(self.buyer.answered(&prepared, Some(charged)).await?)
    }

    /// The payee closes alone; the payer takes the rest back.
    fn close(&self, stage: &Stage, channel: ChannelId) -> anyhow::Result<()> {
        Handle::current().block_on(self.seller.close(channel))?;
        self.seller.look()?;
        // Commitment, micropayment transaction, claims; the delay; refunds.
        self.mine(stage, 3 + u32::from(TERMS.d2.get()) + 1 + FINALITY)
    }

    fn count(&self, stage: &Stage, channel: ChannelId) -> anyhow::Result<Flat> {
        let runtime = Handle::current();
        let params = self.buyer.params(channel).context("the channel")?;
        let chain = stage.transactions()?;
        let commitment = spender(&chain, params.funding).context("the commitment")?;
        let lsf = OutPoint { txid: commitment.compute_txid(), vout: 1 };
        let micropayment = spender(&chain, lsf).context("the micropayment transaction")?;
        let txid = micropayment.compute_txid();
        let spends = |party: &Party| -> BTreeMap<Txid, (u32, usize)> {
            let pays = |by: &&Transaction| by.output.iter().all(|to| to.script_pubkey == party.output);
            let count = |by: &Transaction| {
                let inputs = by.input.iter().filter(|input| input.previous_output.txid == txid).count();
                (by.compute_txid(), (inputs as u32, by.vsize()))
            };
            chain.values().filter(pays).map(count).filter(|(_, (inputs, _))| *inputs > 0).collect()
        };
        let sum = |all: &BTreeMap<Txid, (u32, usize)>| {
            all.values().fold((0, 0), |sum, spend| (sum.0 + spend.0, sum.1 + spend.1))
        };
        let ((claimed, claims), (refunded, refunds)) =
            (sum(&spends(&params.payee)), sum(&spends(&params.payer)));
        let sellers = runtime.block_on(self.seller.channels())?;
        let buyers = runtime.block_on(self.buyer.channels())?;
        let is_settled = |ending: &farthing_protocol::channel::Ending| ending.left == Amount::ZERO;
        let sellers_is = sellers.iter().any(|entry| match &entry.state {
            payee::State::Closed(closed) => closed.ending.as_ref().is_some_and(is_settled),
            _open => false,
        });
        let buyers_is = buyers.iter().any(|entry| match &entry.state {
            payer::State::Closed(closed) => is_settled(&closed.ending),
            _open => false,
        });
        let vsize =
            Sizes { commitment: commitment.vsize(), micropayment: micropayment.vsize(), claims, refunds };
        let settled = sellers_is && buyers_is;
        let spent: Msat = sellers.iter().map(|entry| entry.state.ledger().spent).sum();
        let price = Msat::from_amount(TERMS.unit).context("an amount")?;
        let calls = u32::try_from(spent.get() / price.get())?;
        let outputs = u32::try_from(micropayment.output.len())?;
        ensure!(calls == CALLS, "{CALLS} calls were made, and {calls} are counted");
        Ok(Flat { calls, outputs, claimed, refunded, settled, vsize })
    }
}

fn spender(chain: &HashMap<Txid, Transaction>, outpoint: OutPoint) -> Option<&Transaction> {
    chain.values().find(|by| by.input.iter().any(|input| input.previous_output == outpoint))
}
