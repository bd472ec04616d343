//! Brings LDK's transactions to the node, and again with each block until what they spend is spent in one.
//!
//! LDK repeats what it claims, but sends a closing of both sides once and forgets the channel. A node that refused it then, or dropped it
//! since, would never hear of it again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use bitcoin::{OutPoint, Transaction};
use farthing_chain::{Chain, OutputStatus};
use lightning::chain::chaininterface::BroadcasterInterface;

/// Who is told of each transaction before it is sent.
type OnSend = Box<dyn Fn(&Transaction) + Send + Sync>;

/// Hands transactions to a bitcoind.
pub struct Broadcaster {
    chain: Chain,
    /// What was sent last for each output, until a block spends that.
    waiting: Mutex<HashMap<OutPoint, Transaction>>,
    on_send: OnceLock<OnSend>,
}

impl Broadcaster {
    /// Through that node.
    pub fn new(chain: Chain) -> Self {
        Self { chain, waiting: Mutex::default(), on_send: OnceLock::new() }
    }

    /// Who is told of each transaction before it is sent, to store what must not be lost. LDK may hold locks of its own then.
    pub fn on_send(&self, on_send: impl Fn(&Transaction) + Send + Sync + 'static) {
        let _the_first_stays = self.on_send.set(Box::new(on_send));
    }

    /// Has a transaction sent with each block until what it spends first is spent in one.
    pub fn keep(&self, transaction: &Transaction) {
        if let Some(input) = transaction.input.first() {
            self.waiting().insert(input.previous_output, transaction.clone());
        }
    }

    /// Sends what is not in a block yet once more, where nothing in the mempool is before it.
    pub fn send_again(&self) {
        let waiting: Vec<_> = self.waiting().clone().into_iter().collect();
        for (spends, transaction) in waiting {
            match self.chain.output(&spends) {
                Ok(OutputStatus::Absent) => {
                    self.waiting().remove(&spends);
                }
                Ok(OutputStatus::Confirmed { .. } | OutputStatus::Unconfirmed { .. }) => {
                    self.send(&transaction);
                }
                Ok(OutputStatus::SpentInMempool { .. }) => {}
                Err(error) => {
                    tracing::warn!(%error, "what waits for a block is sent again after the next one")
                }
            }
        }
    }

    fn send(&self, transaction: &Transaction) {
        if let Err(error) = self.chain.broadcast(transaction) {
            tracing::warn!(txid = %transaction.compute_txid(), %error, "not broadcast");
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<OutPoint, Transaction>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
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
            if let Some(on_send) = self.on_send.get() {
                on_send(transaction);
            }
            self.keep(transaction);
            self.send(transaction);
        }
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::absolute::LockTime;
    use bitcoin::transaction::Version;
    use bitcoin::{Address, Amount, Network, ScriptBuf, Sequence, TxIn, TxOut, Witness};
    use farthing_chain::RegtestNode;

    use super::*;

    /// Anybody can spend it.
    fn script() -> ScriptBuf {
        ScriptBuf::from_bytes(vec![0x51])
    }

    #[test]
    fn what_the_node_refused_is_sent_again_with_each_block_until_it_is_in_one() {
        let regtest = RegtestNode::start().unwrap();
        let chain = regtest.chain();
        let coin = regtest
            .pay(
                &Address::from_script(&script().to_p2wsh(), Network::Regtest).unwrap(),
                Amount::from_sat(10_000),
            )
            .unwrap();
        regtest.mine(1).unwrap();
        let vout = coin.output.iter().position(|output| output.script_pubkey == script().to_p2wsh()).unwrap();
        let spends = OutPoint { txid: coin.compute_txid(), vout: u32::try_from(vout).unwrap() };
        let early = Transaction {
            version: Version::TWO,
            lock_time: LockTime::from_consensus(chain.tip().unwrap().height + 2),
            input: vec![TxIn {
                previous_output: spends,
                script_sig: ScriptBuf::new(),
                sequence: Sequence::ENABLE_LOCKTIME_NO_RBF,
                witness: Witness::from_slice(&[script().to_bytes()]),
            }],
            output: vec![TxOut { value: Amount::from_sat(9_000), script_pubkey: script().to_p2wsh() }],
        };
        let (broadcaster, txid) = (Broadcaster::new(chain.clone()), early.compute_txid());
        let told = std::sync::Arc::new(Mutex::new(Vec::new()));
        let heard = told.clone();
        broadcaster.on_send(move |sent| heard.lock().unwrap().push(sent.compute_txid()));
        broadcaster.broadcast_transactions(&[&early]);
        assert_eq!(*told.lock().unwrap(), [txid]);
        assert_eq!(chain.mempool_transaction(&txid).unwrap(), None, "its lock time has not come");

        regtest.mine(2).unwrap();
        broadcaster.send_again();
        assert!(chain.mempool_transaction(&txid).unwrap().is_some());
        broadcaster.send_again();
        assert_eq!(broadcaster.waiting().len(), 1, "it is in no block yet");
        regtest.mine(1).unwrap();
        broadcaster.send_again();
        assert_eq!(broadcaster.waiting().len(), 0);
    }
}
