//! Brings LDK's transactions to the node.

use bitcoin::Transaction;
use farthing_chain::Chain;
use lightning::chain::chaininterface::BroadcasterInterface;

/// Hands transactions to a bitcoind. LDK tries again with every block, so a failure is only logged.
#[derive(Clone, Debug)]
pub struct Broadcaster {
    chain: Chain,
}

impl Broadcaster {
    /// Through that node.
    pub fn new(chain: Chain) -> Self {
        Self { chain }
    }
}

impl BroadcasterInterface for Broadcaster {
    fn broadcast_transactions(&self, transactions: &[&Transaction]) {
        let sent = match transactions {
            [parent, child] => self.chain.broadcast_package(parent, child),
            others => others.iter().try_for_each(|transaction| self.chain.broadcast(transaction)),
        };
        if let Err(error) = sent {
            let txids: Vec<_> = transactions.iter().map(|transaction| transaction.compute_txid()).collect();
            tracing::warn!(?txids, %error, "not broadcast");
        }
    }
}
