//! The closing that both sides publish together: BOLT 3's legacy closing transaction (`shutdown`, `closing_signed`).

use bitcoin::absolute::LockTime;
use bitcoin::transaction::Version;
use bitcoin::{Amount, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Weight, Witness};
use secp256k1::ecdsa;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::funding;
use super::terms::Terms;

/// Who gets what in the end. An amount of zero has no output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settlement {
    /// To the owner, less the fee.
    pub to_holder: Amount,
    /// Where the owner is paid.
    pub holder_script: ScriptBuf,
    /// To the bridge.
    pub to_bridge: Amount,
    /// Where the bridge is paid.
    pub bridge_script: ScriptBuf,
}

/// A closing that was built here, without signatures.
#[derive(Clone, Debug)]
pub struct Closing {
    transaction: Transaction,
    digest: Digest,
}

impl Closing {
    /// Builds it. Outputs in BIP69 order.
    pub fn build(terms: &Terms, settlement: &Settlement) -> Self {
        let outputs = [
            (settlement.to_holder, &settlement.holder_script),
            (settlement.to_bridge, &settlement.bridge_script),
        ];
        let mut output: Vec<TxOut> = outputs
            .into_iter()
            .filter(|(value, _)| *value > Amount::ZERO)
            .map(|(value, script)| TxOut { value, script_pubkey: script.clone() })
            .collect();
        output.sort_by(|a, b| a.value.cmp(&b.value).then_with(|| a.script_pubkey.cmp(&b.script_pubkey)));
        let transaction = Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: vec![TxIn {
                previous_output: terms.funding,
                script_sig: ScriptBuf::new(),
                sequence: Sequence::MAX,
                witness: Witness::new(),
            }],
            output,
        };
        let digest = funding::digest(terms, &transaction);
        Self { transaction, digest }
    }

    /// What both sides sign.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its id; it does not depend on signatures.
    pub fn txid(&self) -> Txid {
        self.transaction.compute_txid()
    }

    /// Its weight when complete, with signatures of 73 bytes as BOLT 3 counts them.
    pub fn weight(&self) -> Weight {
        const WITNESS: u64 = 224; // marker, flag, count, empty item, two signatures, 71 bytes of script
        self.transaction.weight() + Weight::from_wu(WITNESS)
    }

    /// Puts both signatures in: ready to be published.
    pub fn complete(
        &self,
        terms: &Terms,
        holder: &ecdsa::Signature,
        bridge: &ecdsa::Signature,
    ) -> Transaction {
        funding::complete(terms, self.transaction.clone(), holder, bridge)
    }
}
