//! The operator's ordinary node: peers that go away while it opens a channel, and the fee that it earns.

use std::sync::{Arc, Mutex};

use bitcoin::{Amount, OutPoint, ScriptBuf, Transaction, TxOut, Txid};
use farthing_chain::RegtestNode;
use farthing_gateway::ldk::Setup;
use farthing_gateway::operator::{OpenChannelError, Operator, Wallet, WalletError};
use farthing_gateway::ordinary::{News, config, low_fees};
use farthing_protocol::Msat;
use farthing_protocol::device::Policy;
use tempfile::TempDir;

use crate::car::Car;
use crate::world::*;

/// One coin, and what became of it.
#[derive(Clone)]
struct Purse {
    coin: (OutPoint, TxOut),
    /// Goes away as soon as it is to be paid.
    coward: Option<Arc<Stock>>,
    did: Arc<Mutex<Vec<Did>>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Did {
    Pay(Txid),
    Release(Txid),
}

impl Wallet for Purse {
    fn pay(&self, script: ScriptBuf, amount: Amount) -> Result<Transaction, WalletError> {
        if amount != CAPACITY {
            return Err(format!("there is no {amount} in it").into());
        }
        let (outpoint, coin) = &self.coin;
        let payment = sign(spend(*outpoint, script), coin);
        self.did.lock().unwrap().push(Did::Pay(payment.compute_txid()));
        if let Some(peer) = &self.coward {
            peer.node.stop();
        }
        Ok(payment)
    }

    fn release(&self, payment: Txid) -> Result<(), WalletError> {
        self.did.lock().unwrap().push(Did::Release(payment));
        Ok(())
    }

    fn address(&self) -> Result<ScriptBuf, WalletError> {
        Ok(script(COLD))
    }
}

impl Purse {
    fn new(regtest: &RegtestNode, coward: Option<Arc<Stock>>) -> Self {
        Self { coin: coin(regtest), coward, did: Arc::default() }
    }

    fn did(&self) -> Vec<Did> {
        self.did.lock().unwrap().clone()
    }
}

fn operator(regtest: &RegtestNode, purse: &Purse, fee_ppm: u32) -> (Arc<Operator>, TempDir) {
    let folder = farthing_chain::temporary_folder("farthing-gateway-").unwrap();
    let setup = Setup {
        name: "ordinary",
        folder: folder.path().to_owned(),
        seed: [0x50; 32],
        chain: regtest.chain(),
        fees: low_fees(),
        config: config(fee_ppm),
        poll: std::time::Duration::from_millis(50),
    };
    (Operator::start(setup, purse.clone()).unwrap(), folder)
}

/// What a channel leaves lies at keys that no wallet knows, whoever closed it and how.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_closed_channels_leave_comes_to_the_operators_wallet() {
    let regtest = RegtestNode::start().unwrap();
    let chain = regtest.chain();
    let peer = Stock::start("peer", 0x60, &chain).await;
    let wallet = || -> Amount {
        chain.unspent_paying(&[script(COLD)]).unwrap().iter().map(|(_, output)| output.value).sum()
    };
    for is_alone in [false, true] {
        let before = wallet();
        let purse = Purse::new(&regtest, None);
        let (operator, _folder) = operator(&regtest, &purse, 10_000);
        operator.open_channel(peer.node.id(), peer.address, CAPACITY, false).await.unwrap();
        regtest.mine(7).unwrap();
        until("the channel is open", || operator.node.usable() == 1).await;
        let closed = operator.close_channels(&peer.node.id(), is_alone).unwrap();
        assert_eq!(closed, 1);
        until("it is closed", || operator.node.channels_with(&peer.node.id()) == 0).await;
        assert!(operator.close_channels(&peer.node.id(), is_alone).is_err());
        // Closed alone, it waits for the peer's delay of 144 blocks.
        until("the wallet has what it left", || {
            // Blocks come no faster than the node looks at them.
            if operator.node.height() == chain.tip().unwrap().height {
                regtest.mine(6).unwrap();
            }
            wallet() > before
        })
        .await;
        let left = wallet().checked_sub(before).unwrap();
        assert!(left > Amount::from_sat(990_000) && left < CAPACITY, "{left}");
        operator.node.stop();
    }
}

/// The operator's coins are free again when the peer was gone before it had signed, and nothing of theirs was sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_goes_away_before_it_signs() {
    let regtest = RegtestNode::start().unwrap();
    let peer = Arc::new(Stock::start("peer", 0x60, &regtest.chain()).await);
    let purse = Purse::new(&regtest, Some(peer.clone()));
    let (operator, _folder) = operator(&regtest, &purse, 0);
    let opened = operator.open_channel(peer.node.id(), peer.address, CAPACITY, false).await;
    // Before or after LDK took the funding.
    assert!(matches!(opened, Err(OpenChannelError::Ldk(_) | OpenChannelError::Refused(_))), "{opened:?}");
    until("the coins are released", || purse.did().len() == 2).await;
    let [Did::Pay(paid), Did::Release(released)] = purse.did()[..] else { panic!("{:?}", purse.did()) };
    assert_eq!(paid, released);
    assert!(regtest.chain().mempool_transaction(&paid).unwrap().is_none());
    operator.node.stop();
}

/// What the operator reads is what happened: a funding that both signed is on its way, and a wallet without money says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_peer_signs_and_a_poor_wallet_pays_nothing() {
    let regtest = RegtestNode::start().unwrap();
    let peer = Stock::start("peer", 0x60, &regtest.chain()).await;
    let purse = Purse::new(&regtest, None);
    let (operator, _folder) = operator(&regtest, &purse, 0);
    let too_much = CAPACITY + Amount::from_sat(1);
    let opened = operator.open_channel(peer.node.id(), peer.address, too_much, false).await;
    assert!(matches!(opened, Err(OpenChannelError::Wallet(_))), "{opened:?}");
    assert_eq!(purse.did(), []);
    let funding = operator.open_channel(peer.node.id(), peer.address, CAPACITY, false).await.unwrap();
    assert_eq!(purse.did(), [Did::Pay(funding)]);
    until("it is sent", || regtest.chain().mempool_transaction(&funding).unwrap().is_some()).await;
    operator.node.stop();
}

/// A payment that finds no way through the ordinary node goes without its fee. The next one that finds one carries it, within what the
/// owner allows; the one after that pays its own fee and no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fee_that_could_not_be_asked_for_comes_with_the_next_payment() {
    const FEE_PPM: u32 = 50_000;
    /// What the ordinary node asks for besides, in millisatoshi: LDK's default.
    const BASE: u64 = 1_000;
    let fee = |amount: u64| amount * u64::from(FEE_PPM) / 1_000_000;
    let mut world = World::start().await;
    let mut car = Car::with(Policy { fee_ppm: 200_000, ..policy() });
    car.connect(&world.gateway).await;
    car.open(&world).await;
    let device = car.link_key();
    let purse = Purse::new(&world.regtest, None);
    let (operator, _folder) = operator(&world.regtest, &purse, FEE_PPM);
    world.gateway.earn_through(operator.clone());
    let earned = || operator.status()["earned_msat"].as_u64().unwrap();

    car.pay(&world.destination.invoice(20_000_000)).await;
    assert_eq!(world.gateway.owed(&device), Msat::new(fee(20_000_000)));
    assert_eq!(earned(), 0);

    // To the ordinary node, and on from it.
    let (bridge, node) = (&mut world.bridge, operator.node.id());
    operator.node.keep_connected(bridge.node.id(), bridge.address);
    until("the bridge is connected", || bridge.node.is_connected(&node)).await;
    bridge.node.open_channel(2, node, CAPACITY, false).unwrap();
    let (outpoint, coin) = coin(&world.regtest);
    loop {
        let news = tokio::time::timeout(PATIENCE, bridge.news.recv()).await.unwrap().unwrap();
        if let News::FundingWanted { opening: 2, temporary, peer, script, .. } = news {
            bridge.node.fund(temporary, peer, sign(spend(outpoint, script), &coin)).unwrap();
            break;
        }
    }
    let destination = &world.destination;
    operator.open_channel(destination.node.id(), destination.address, CAPACITY, false).await.unwrap();
    until("the bridge has signed", || world.bridge.node.is_funded(&node)).await;
    world.mine(7);
    until("both channels are open", || operator.node.reachable() == 2).await;

    car.pay(&world.destination.invoice(40_000_000)).await;
    until("both fees are earned", || earned() == BASE + fee(40_000_000) + fee(20_000_000)).await;
    assert_eq!(world.gateway.owed(&device), Msat::ZERO);
    car.pay(&world.destination.invoice(20_000_000)).await;
    until("its own fee is earned", || earned() == 2 * BASE + fee(40_000_000) + 2 * fee(20_000_000)).await;
    operator.node.stop();
}
