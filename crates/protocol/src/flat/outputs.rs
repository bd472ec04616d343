//! The micropayment outputs of one batch: N hash-locked outputs ([`crate::hashlock`]), all of one unit, each with a lock of
//! its own.

use bitcoin::{Amount, OutPoint, TxOut, Txid};

use crate::channel::Channel;
use crate::flat::preimages::Locks;
use crate::flat::terms::Terms;
use crate::hashlock::{Delay, HashLock, Locked};

/// The N hash-locked outputs of one batch: the same ones under each commitment that carries it. Making them costs a
/// Taproot tweak each, so keep them as long as the batch.
#[derive(Clone, Debug)]
pub struct Outputs {
    scripts: Vec<HashLock>,
    locks: Locks,
    unit: Amount,
    delay: Delay,
}

impl Outputs {
    /// Output i holds a unit and is locked with lock i for the payee, with d2 for the payer.
    pub fn new(channel: &Channel, terms: &Terms, locks: Locks) -> Self {
        let scripts = locks.as_slice().iter().map(|lock| HashLock::new(channel, lock, terms.d2)).collect();
        Self { scripts, locks, unit: terms.unit, delay: terms.d2 }
    }

    /// The locks.
    pub fn locks(&self) -> &Locks {
        &self.locks
    }

    /// What each output holds.
    pub fn unit(&self) -> Amount {
        self.unit
    }

    /// How long the payee has to claim them: d2.
    pub fn delay(&self) -> Delay {
        self.delay
    }

    /// Output `index`, once the micropayment transaction has confirmed under that txid; `None` beyond the last.
    pub fn locked(&self, micropayment: Txid, index: u32) -> Option<Locked<'_>> {
        let scripts = self.scripts.get(index as usize)?;
        Some(Locked { outpoint: OutPoint { txid: micropayment, vout: index }, value: self.unit, scripts })
    }

    /// What they hold together; `None` when that is more than can be counted.
    pub(crate) fn sum(&self) -> Option<Amount> {
        self.unit.checked_mul(self.scripts.len() as u64)
    }

    pub(crate) fn txouts(&self) -> Vec<TxOut> {
        let txout =
            |scripts: &HashLock| TxOut { value: self.unit, script_pubkey: scripts.script_pubkey().clone() };
        self.scripts.iter().map(txout).collect()
    }
}
