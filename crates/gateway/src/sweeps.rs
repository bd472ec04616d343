//! What the ordinary node's channels left in the chain, on its way to the operator's wallet.
//!
//! When a channel is over, its money lies at keys that LDK derives and no wallet knows. LDK names such an output once, as soon as it can be
//! spent, and takes no further care of it. So it is stored before LDK is told that it was heard, and swept with each block until what spends
//! it is deep in the chain. Outputs of devices' channels never come here: they pay the owners' cold keys.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bitcoin::secp256k1::Secp256k1;
use bitcoin::{FeeRate, OutPoint, ScriptBuf};
use farthing_chain::{BroadcastError, Chain, ChainError, OutputStatus};
use lightning::sign::{KeysManager, OutputSpender as _, SpendableOutputDescriptor};
use lightning::util::ser::{Readable as _, Writeable as _};
use serde::{Deserialize, Serialize};

use crate::operator::{Wallet, WalletError};
use crate::shelf::{Shelf, ShelfError};

/// An output that something in a block has spent is forgotten after so many blocks. No reorganisation goes back as far.
const DEEP: u32 = 100;
/// The owner's name on the shelf: there is only one.
const HERE: [u8; 32] = [0; 32];
/// The value that has all of them.
const OUTPUTS: &str = "outputs";

/// Why an output was not swept. It is tried again with the next block.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SweepError {
    /// The bitcoind.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// It did not take the transaction.
    #[error(transparent)]
    Broadcast(#[from] BroadcastError),
    /// Storage.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    /// Where it should go.
    #[error("the wallet gives no address: {0}")]
    Wallet(WalletError),
    /// LDK wrote it, so it should be able to read it.
    #[error("what LDK said of this output cannot be read: {0}")]
    Unreadable(String),
    /// LDK says no more than that.
    #[error("LDK cannot spend it: it holds less than what its transaction costs at onchain_fee_rate")]
    TooSmall,
}

/// An output that is not the wallet's yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Waiting {
    /// In LDK's encoding.
    descriptor: Vec<u8>,
    /// The wallet's address, asked for once.
    to: Option<ScriptBuf>,
    /// At which height it was first seen to be spent.
    spent_at: Option<u32>,
}

/// All such outputs.
pub(crate) struct Sweeps {
    shelf: Shelf,
    waiting: Mutex<BTreeMap<OutPoint, Waiting>>,
}

impl Sweeps {
    /// Those that were stored.
    ///
    /// # Errors
    /// When the shelf cannot be read.
    pub(crate) fn open(shelf: Shelf) -> Result<Self, ShelfError> {
        let waiting = shelf.get(&HERE, OUTPUTS)?.unwrap_or_default();
        Ok(Self { shelf, waiting: Mutex::new(waiting) })
    }

    /// Stores what LDK named. It may name it again after a crash.
    ///
    /// # Errors
    /// When it was not stored.
    pub(crate) fn note(&self, outputs: &[SpendableOutputDescriptor]) -> Result<(), ShelfError> {
        self.change(|waiting| {
            for output in outputs {
                let outpoint = output.spendable_outpoint().into_bitcoin_outpoint();
                let new = Waiting { descriptor: output.encode(), to: None, spent_at: None };
                waiting.entry(outpoint).or_insert(new);
            }
        })
    }

    /// How many outputs are not the wallet's yet, or not for long.
    pub(crate) fn count(&self) -> usize {
        self.waiting().len()
    }

    /// Looks after each of them once. Blocks.
    pub(crate) fn sweep(&self, chain: &Chain, keys: &KeysManager, fee_rate: FeeRate, wallet: &dyn Wallet) {
        let all = self.waiting().clone();
        for (outpoint, one) in all {
            if let Err(error) = self.sweep_one(chain, keys, fee_rate, wallet, outpoint, one) {
                tracing::warn!(%outpoint, %error, "money of a closed channel of the ordinary node waits for the next block");
            }
        }
    }

    fn sweep_one(
        &self,
        chain: &Chain,
        keys: &KeysManager,
        fee_rate: FeeRate,
        wallet: &dyn Wallet,
        outpoint: OutPoint,
        one: Waiting,
    ) -> Result<(), SweepError> {
        let height = chain.tip()?.height;
        match (chain.output(&outpoint)?, one.spent_at) {
            (OutputStatus::Absent, Some(at)) if at.saturating_add(DEEP) <= height => {
                return Ok(self.change(|waiting| {
                    waiting.remove(&outpoint);
                })?);
            }
            (OutputStatus::Absent, Some(_)) => return Ok(()),
            (OutputStatus::Absent, None) => {
                return Ok(self.update(outpoint, Waiting { spent_at: Some(height), ..one })?);
            }
            // A reorganisation has brought it back, or nothing in a block has spent it yet.
            (
                OutputStatus::Confirmed { .. }
                | OutputStatus::SpentInMempool { .. }
                | OutputStatus::Unconfirmed { .. },
                _,
            ) => {}
        }
        let descriptor = SpendableOutputDescriptor::read(&mut &one.descriptor[..]);
        let descriptor = descriptor.map_err(|error| SweepError::Unreadable(format!("{error:?}")))?;
        let to = match &one.to {
            Some(to) => to.clone(),
            None => wallet.address().map_err(SweepError::Wallet)?,
        };
        let next = Waiting { to: Some(to.clone()), spent_at: None, ..one.clone() };
        if next != one {
            self.update(outpoint, next)?;
        }
        let rate = u32::try_from(fee_rate.to_sat_per_kwu()).unwrap_or(u32::MAX);
        let spent =
            keys.spend_spendable_outputs(&[&descriptor], Vec::new(), to, rate, None, &Secp256k1::new());
        let transaction = spent.map_err(|()| SweepError::TooSmall)?;
        // The same one again, unless the operator has changed the fee rate: it may have been dropped, or replaces itself.
        chain.broadcast(&transaction)?;
        tracing::info!(%outpoint, txid = %transaction.compute_txid(), "on its way to the wallet");
        Ok(())
    }

    /// Writes one of them again.
    fn update(&self, outpoint: OutPoint, one: Waiting) -> Result<(), ShelfError> {
        self.change(|waiting| {
            waiting.insert(outpoint, one);
        })
    }

    /// Changes nothing when it cannot be stored.
    fn change(&self, change: impl FnOnce(&mut BTreeMap<OutPoint, Waiting>)) -> Result<(), ShelfError> {
        let mut waiting = self.waiting();
        let mut next = waiting.clone();
        change(&mut next);
        self.shelf.put(&HERE, OUTPUTS, &next)?;
        *waiting = next;
        Ok(())
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<OutPoint, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use bitcoin::{Address, Amount, Network, Transaction, Txid};
    use farthing_chain::RegtestNode;
    use farthing_node::cabinet::Cabinet;
    use lightning::chain::transaction::OutPoint as LdkOutPoint;
    use lightning::sign::SignerProvider as _;

    use super::*;

    /// A wallet that cannot be used the first time that it is asked, as while another process has it.
    struct Purse {
        asked: AtomicU32,
        script: ScriptBuf,
    }

    impl Wallet for Purse {
        fn pay(&self, _: ScriptBuf, _: Amount) -> Result<Transaction, WalletError> {
            Err("nothing is to be paid".into())
        }

        fn release(&self, _: Txid) -> Result<(), WalletError> {
            Err("nothing was paid".into())
        }

        fn address(&self) -> Result<ScriptBuf, WalletError> {
            match self.asked.fetch_add(1, Ordering::SeqCst) {
                0 => Err("another process has it".into()),
                _later => Ok(self.script.clone()),
            }
        }
    }

    #[test]
    fn what_a_closed_channel_left_comes_to_the_wallet_after_a_restart_and_is_then_forgotten() {
        let regtest = RegtestNode::start().unwrap();
        let chain = regtest.chain();
        let folder = tempfile::tempdir().unwrap();
        let open = || {
            let cabinet = Arc::new(Cabinet::open(&folder.path().join("operator.sqlite")).unwrap());
            Sweeps::open(Shelf::new(cabinet, "sweep")).unwrap()
        };
        // Where LDK lets a closing of both sides pay to.
        let keys = KeysManager::new(&[7; 32], 0, 0, true);
        let left = keys.get_destination_script([0; 32]).unwrap();
        let txid =
            regtest.send(&Address::from_script(&left, Network::Regtest).unwrap(), Amount::from_sat(100_000));
        let txid = txid.unwrap();
        let closing = chain.mempool_transaction(&txid).unwrap().unwrap();
        let index = closing.output.iter().position(|output| output.script_pubkey == left).unwrap();
        let outpoint = OutPoint { txid, vout: u32::try_from(index).unwrap() };
        let descriptor = SpendableOutputDescriptor::StaticOutput {
            outpoint: LdkOutPoint { txid, index: u16::try_from(index).unwrap() },
            output: closing.output[index].clone(),
            channel_keys_id: None,
        };
        regtest.mine(1).unwrap();
        open().note(std::slice::from_ref(&descriptor)).unwrap();

        let purse = Purse { asked: AtomicU32::new(0), script: ScriptBuf::new_p2wsh(&left.wscript_hash()) };
        let sweep = |sweeps: &Sweeps| {
            sweeps.sweep(&chain, &keys, FeeRate::from_sat_per_vb_u32(2), &purse);
        };
        let sweeps = open();
        sweep(&sweeps);
        assert_eq!(chain.mempool_spender(&outpoint).unwrap(), None);
        drop(sweeps);
        let sweeps = open();
        sweep(&sweeps);
        let spender = chain.mempool_spender(&outpoint).unwrap().expect("it is swept");
        assert_eq!(spender.output[0].script_pubkey, purse.script);
        assert!(spender.output[0].value > Amount::from_sat(99_000));

        // LDK names it again after a crash. In a block it is not swept again, nor forgotten at once.
        sweeps.note(&[descriptor]).unwrap();
        regtest.mine(1).unwrap();
        sweep(&sweeps);
        sweep(&sweeps);
        assert_eq!((sweeps.count(), purse.asked.load(Ordering::SeqCst)), (1, 2));
        regtest.mine(DEEP).unwrap();
        sweep(&sweeps);
        assert_eq!(sweeps.count(), 0);
        drop(sweeps);
        assert_eq!(open().count(), 0);
    }
}
