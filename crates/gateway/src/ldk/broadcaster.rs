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
        if let [parent, child] = transactions {
            if let Err(error) = self.chain.broadcast_package(parent, child) {
                let txids = [parent.compute_txid(), child.compute_txid()];
                tracing::warn!(?txids, %error, "not broadcast");
            }
            return;
        }
        // Each, whatever becomes of the others: what is refused because it is spent already says nothing of the rest.
        for transaction in transactions {
            if let Err(error) = self.chain.broadcast(transaction) {
                tracing::warn!(txid = %transaction.compute_txid(), %error, "not broadcast");
            }
        }
    }
}
