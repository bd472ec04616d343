//! Handing transactions to the node.
//!
//! A driver repeats its broadcasts after a restart, so both calls are idempotent: a transaction that is already in the
//! mempool, or in the chain, is a success. One case cannot be told apart without an index of all transactions: one
//! that was mined and whose outputs have *all* been spent in blocks since looks like one whose inputs are gone. Who
//! repeats a broadcast therefore asks about the outputs it is interested in first.
//!
//! An answer of the node is sorted by what the sender can do about it: see [`BroadcastError`]. Bitcoin Core gives its
//! reasons as text; they are those of `src/validation.cpp` and `src/policy`, stable enough that its own tests match on
//! them. An unknown reason counts as [`BroadcastError::Rejected`].

use std::collections::BTreeMap;

use bitcoin::consensus::encode::serialize_hex;
use bitcoin::transaction::Version;
use bitcoin::{OutPoint, Transaction, Wtxid};
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

use crate::Chain;
use crate::rpc::{ChainError, code};

/// A transaction that the node did not take, sorted by what can be done about it. Each reason is in the node's words.
#[derive(Debug, Error)]
pub enum BroadcastError {
    /// It pays less than the mempool takes, or less than it must to replace what it conflicts with: raise the fee.
    #[error("the fee is too low: {reason}")]
    FeeTooLow {
        /// The node's words.
        reason: String,
    },
    /// An input does not exist (yet), or another transaction has spent it and cannot be replaced. A transaction that
    /// was mined long ago ends here too, once all its own outputs have been spent in blocks.
    #[error("an input is missing or spent: {reason}")]
    MissingInputs {
        /// The node's words.
        reason: String,
    },
    /// A timelock (nLockTime, a relative one, or a coinbase's maturity) has not passed: wait for blocks.
    #[error("a timelock has not passed: {reason}")]
    TooEarly {
        /// The node's words.
        reason: String,
    },
    /// It breaks a rule of consensus or policy and will not be taken like this.
    #[error("the node rejects the transaction: {reason}")]
    Rejected {
        /// The node's words.
        reason: String,
    },
    /// The node gave no usable answer, which says nothing about the transaction: see [`ChainError::is_transient`].
    #[error(transparent)]
    Chain(#[from] ChainError),
}

/// The version whose transactions may pay less than the minimum when a child pays for them.
const VERSION_3: Version = Version(3);

#[derive(Deserialize)]
struct PackageAnswer {
    #[serde(rename = "package_msg")]
    message: String,
    #[serde(rename = "tx-results", default)]
    results: BTreeMap<Wtxid, PackageMember>,
}

#[derive(Deserialize)]
struct PackageMember {
    error: Option<String>,
}

impl Chain {
    /// Hands a transaction to the node, which checks and relays it. One that is already in the mempool or in the chain
    /// is a success (with the one exception that [`BroadcastError::MissingInputs`] names). The node rejects one that
    /// pays more than 0.1 BTC per 1,000 vB, taking it for a mistake.
    ///
    /// # Errors
    /// [`BroadcastError`], by what the caller can do.
    pub fn broadcast(&self, transaction: &Transaction) -> Result<(), BroadcastError> {
        match self.rpc.call::<Value>("sendrawtransaction", &[json!(serialize_hex(transaction))]) {
            Ok(_) => Ok(()),
            Err(error) => taken_or_explained(error),
        }
    }

    /// Hands a parent and the child that pays for it to the node, as one package, so that the parent may pay less than
    /// the minimum, or nothing (both must be version 3 for that). When the parent is already in the mempool or in the
    /// chain, the child goes alone; a version 3 child that pays enough then takes the place of another child, even one
    /// of another of the parent's outputs. Success means that both are in the mempool or in the chain.
    ///
    /// # Errors
    /// [`BroadcastError`], by what the caller can do. The parent may have been taken although the child was not.
    pub fn broadcast_package(&self, parent: &Transaction, child: &Transaction) -> Result<(), BroadcastError> {
        if self.has(parent)? || self.has(child)? {
            return self.broadcast(child);
        }
        let package = json!([serialize_hex(parent), serialize_hex(child)]);
        match self.rpc.call::<PackageAnswer>("submitpackage", &[package]) {
            Ok(answer) => answer.verdict(parent, child),
            Err(error) => taken_or_explained(error),
        }
    }

    /// Whether the transaction is in the mempool, or in the chain with an output that is still unspent there.
    fn has(&self, transaction: &Transaction) -> Result<bool, ChainError> {
        let txid = transaction.compute_txid();
        if self.mempool_entry(&txid)?.is_some() {
            return Ok(true);
        }
        for vout in 0..transaction.output.len() {
            let vout = u32::try_from(vout).expect("a transaction has fewer outputs than bytes");
            if self.is_unspent_in_chain(&OutPoint { txid, vout })? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl PackageAnswer {
    /// Finds the reason that matters. The node first tries each transaction alone, then both together, and leaves the
    /// errors of the first try standing: a parent without a fee is "too low" whatever is wrong with its child, and its
    /// child misses an input whatever is wrong with the package.
    fn verdict(&self, parent: &Transaction, child: &Transaction) -> Result<(), BroadcastError> {
        use BroadcastError::{FeeTooLow, MissingInputs};

        match (self.about(parent), self.about_both(), self.about(child)) {
            (Some(Ok(())), None, Some(verdict)) => verdict,
            // No child can help this parent.
            (Some(Err(error)), _, _) if !matches!(error, FeeTooLow { .. }) => Err(error),
            (_, Some(verdict), _) => verdict,
            // Below version 3 a parent that pays too little is not tried together with its child at all.
            (Some(Err(low)), None, Some(Err(MissingInputs { .. }))) if parent.version != VERSION_3 => {
                Err(low)
            }
            (Some(Err(_)), None, Some(Err(error))) => Err(error),
            (Some(Err(low)), None, _) => Err(low),
            (_, None, _) => Err(BroadcastError::Rejected { reason: self.message.clone() }),
        }
    }

    /// What the node says about one of the two; `None` when it did not come to look at it.
    fn about(&self, transaction: &Transaction) -> Option<Result<(), BroadcastError>> {
        match self.results.get(&transaction.compute_wtxid())?.error.as_deref() {
            Some("package-not-validated") => None,
            Some(reason) => Some(explain(reason.to_owned())),
            None => Some(Ok(())),
        }
    }

    /// What is wrong with the two together, when each alone is not to blame.
    fn about_both(&self) -> Option<Result<(), BroadcastError>> {
        match self.message.as_str() {
            "success" | "transaction failed" => None,
            reason => Some(explain(reason.to_owned())),
        }
    }
}

fn taken_or_explained(error: ChainError) -> Result<(), BroadcastError> {
    match error {
        ChainError::Refused { code: code::ALREADY_IN_CHAIN, .. } => Ok(()),
        ChainError::Refused {
            code: code::MALFORMED | code::TRANSACTION_ERROR | code::TRANSACTION_REJECTED,
            message,
            ..
        } => explain(message),
        error => Err(BroadcastError::Chain(error)),
    }
}

/// What the node says of a package whose child has an input that neither the chain nor the parent has: it takes that
/// for another unconfirmed parent.
const UNKNOWN_PARENT: &str = "package-not-child-with-unconfirmed-parents";

/// Sorts the node's reason.
fn explain(reason: String) -> Result<(), BroadcastError> {
    let says = |words: &[&str]| words.iter().any(|words| reason.contains(words));
    if says(&["txn-already-in-mempool", "txn-already-known", "txn-same-nonwitness-data-in-mempool"]) {
        return Ok(());
    }
    Err(if says(&["fee not met", "insufficient fee", "insufficient anti-DoS fees", "mempool full"]) {
        BroadcastError::FeeTooLow { reason }
    } else if says(&["inputs-missingorspent", "missing-inputs", "txn-mempool-conflict", UNKNOWN_PARENT]) {
        BroadcastError::MissingInputs { reason }
    } else if says(&["non-final", "non-BIP68-final", "premature-spend-of-coinbase"]) {
        BroadcastError::TooEarly { reason }
    } else {
        BroadcastError::Rejected { reason }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitcoin::absolute::LockTime;
    use bitcoin::{Amount, ScriptBuf, TxOut};

    /// The reasons in the words of Bitcoin Core and Knots 29.
    #[test]
    fn reasons_are_sorted_by_what_can_be_done() {
        let low = [
            "min relay fee not met, 0 < 14",
            "mempool min fee not met, 96 < 500",
            "mempool full",
            "insufficient fee, rejecting replacement 4fe6; new feerate 0.0001 BTC/kvB <= old feerate 0.0002 BTC/kvB",
            "insufficient fee (including sibling eviction), rejecting replacement 4fe6; less fees than conflicting txs",
            "package RBF failed: insufficient anti-DoS fees, rejecting replacement 9b9e, not enough additional fees",
        ];
        let missing = ["bad-txns-inputs-missingorspent", "txn-mempool-conflict", UNKNOWN_PARENT];
        let early = ["non-final", "non-BIP68-final", "bad-txns-premature-spend-of-coinbase, tried to spend"];
        let rejected =
            ["dust, tx with dust output must be 0-fee", "truc-child-toobig, 1773 > 1000", "anything else"];

        assert!(low.iter().all(|why| matches!(explain_str(why), Err(BroadcastError::FeeTooLow { .. }))));
        assert!(
            missing.iter().all(|why| matches!(explain_str(why), Err(BroadcastError::MissingInputs { .. })))
        );
        assert!(early.iter().all(|why| matches!(explain_str(why), Err(BroadcastError::TooEarly { .. }))));
        assert!(rejected.iter().all(|why| matches!(explain_str(why), Err(BroadcastError::Rejected { .. }))));
        assert!(explain_str("txn-same-nonwitness-data-in-mempool").is_ok());
    }

    #[test]
    fn a_package_is_taken_only_when_both_its_members_are() {
        assert!(verdict("success", Some(None), Some(None)).is_ok());
        assert!(verdict("success", None, Some(None)).is_err());
        assert!(verdict("success", Some(None), None).is_err());
        assert!(verdict("success", Some(None), Some(Some("dust"))).is_err());
    }

    #[test]
    fn what_is_wrong_with_a_child_outweighs_that_its_parent_pays_nothing() {
        let low = Some(Some("min relay fee not met, 0 < 14"));

        let early = verdict("transaction failed", low, Some(Some("non-final")));
        let missing = verdict("transaction failed", low, Some(Some("bad-txns-inputs-missingorspent")));
        let large =
            verdict("truc-child-toobig, 1773 > 1000", low, Some(Some("bad-txns-inputs-missingorspent")));
        let unseen = verdict("transaction failed", low, Some(Some("package-not-validated")));

        assert!(matches!(early, Err(BroadcastError::TooEarly { .. })), "{early:?}");
        assert!(matches!(missing, Err(BroadcastError::MissingInputs { .. })), "{missing:?}");
        assert!(matches!(large, Err(BroadcastError::Rejected { .. })), "{large:?}");
        assert!(matches!(unseen, Err(BroadcastError::FeeTooLow { .. })), "{unseen:?}");
    }

    #[test]
    fn what_is_wrong_with_a_parent_outweighs_the_rest() {
        let spent = Some(Some("bad-txns-inputs-missingorspent"));

        let verdict = verdict("transaction failed", spent, Some(Some("dust")));

        assert!(matches!(verdict, Err(BroadcastError::MissingInputs { .. })), "{verdict:?}");
    }

    fn explain_str(reason: &str) -> Result<(), BroadcastError> {
        explain(reason.to_owned())
    }

    /// The verdict on an answer; for each member `None` when the answer lacks it, else its error.
    fn verdict(
        message: &str,
        parent: Option<Option<&str>>,
        child: Option<Option<&str>>,
    ) -> Result<(), BroadcastError> {
        let transaction = |sat| Transaction {
            version: VERSION_3,
            lock_time: LockTime::ZERO,
            input: Vec::new(),
            output: vec![TxOut { value: Amount::from_sat(sat), script_pubkey: ScriptBuf::new() }],
        };
        let (first, second) = (transaction(1), transaction(2));
        let member = |transaction: &Transaction, error: Option<Option<&str>>| {
            let error = error?.map(str::to_owned);
            Some((transaction.compute_wtxid(), PackageMember { error }))
        };
        let results = [member(&first, parent), member(&second, child)].into_iter().flatten().collect();
        PackageAnswer { message: message.to_owned(), results }.verdict(&first, &second)
    }
}
