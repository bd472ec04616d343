//! A stock bridge that keeps every commitment it ever had: read from its own files, where LDK holds the newest one ready.

use std::sync::{Arc, Mutex};

use bitcoin::{OutPoint, Transaction};
use farthing_gateway::ldk::fees::Fees;
use farthing_gateway::ldk::log::Log;
use farthing_gateway::ldk::vault::Vault;
use farthing_gateway::ordinary::low_fees;
use farthing_gateway::stored::stored_channels;
use farthing_protocol::device::bolt3::{Commitment, Side};
use lightning::chain::chaininterface::BroadcasterInterface;
use lightning::sign::KeysManager;
use lightning::util::persist::read_channel_monitors;

use crate::world::*;

/// Takes what LDK would send.
#[derive(Default)]
struct Caught(Mutex<Vec<Transaction>>);

impl BroadcasterInterface for Caught {
    fn broadcast_transactions(&self, transactions: &[&Transaction]) {
        self.0.lock().unwrap().extend(transactions.iter().map(|transaction| (*transaction).clone()));
    }
}

/// The bridge's newest commitment, once it is the one that the device signed last: complete, as the bridge could publish it.
pub async fn newest(world: &World) -> Transaction {
    let expected = || {
        let [channel] = &stored_channels(world.folder.path()).unwrap()[..] else { panic!("one channel") };
        let contents = channel.ledger.newest(Side::Bridge).unwrap();
        (channel.terms.funding, Commitment::build(&channel.terms, Side::Bridge, contents).txid())
    };
    let mut found = None;
    until("the bridge has stored its newest state", || {
        let (funding, txid) = expected();
        found = commitment(world, &funding).filter(|commitment| commitment.compute_txid() == txid);
        found.is_some()
    })
    .await;
    found.unwrap()
}

/// What the bridge has now, whether or not the device has signed more.
pub async fn stored(world: &World, funding: &OutPoint) -> Transaction {
    let mut found = None;
    until("the bridge's files are written", || {
        found = commitment(world, funding);
        found.is_some()
    })
    .await;
    found.unwrap()
}

/// As its files have it at this moment; `None` when they are being written.
fn commitment(world: &World, funding: &OutPoint) -> Option<Transaction> {
    let vault = Vault::open(world.bridge.folder.path()).unwrap();
    let keys = Arc::new(KeysManager::new(&[BRIDGE; 32], 1, 1, true));
    let monitors = read_channel_monitors(&vault.room(), keys.clone(), keys).unwrap();
    let is_it = |funded: lightning::chain::transaction::OutPoint| {
        (funded.txid, u32::from(funded.index)) == (funding.txid, funding.vout)
    };
    let monitor = monitors.into_iter().map(|(_, monitor)| monitor);
    let monitor = monitor.into_iter().find(|monitor| is_it(monitor.get_funding_txo())).expect("it is stored");
    let caught = Arc::new(Caught::default());
    let (fees, log) = (Arc::new(Fees::new(low_fees())), Arc::new(Log { node: "bridge's copy" }));
    vault.catch_up(&monitor, |update| monitor.update_monitor(update, &caught, &fees, &log).is_ok()).ok()?;
    monitor.broadcast_latest_holder_commitment_txn(&caught, &fees, &log);
    let caught = caught.0.lock().unwrap();
    let spends =
        |transaction: &&Transaction| transaction.input.iter().any(|input| input.previous_output == *funding);
    Some(caught.iter().find(spends).expect("LDK can always close").clone())
}
