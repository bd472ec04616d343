//! What the bridge sent to the device's end of a channel.
//!
//! The suite puts a checker of its own (`TestChannelSigner`) before each signer, and two things that LDK tells a signer end there: a
//! commitment of ours that the bridge signed (`validate_holder_commitment`), and the secret of one of its commitments
//! (`validate_counterparty_revocation`). Both are taken where they come from: the bridge's own signer, in the same process. It is
//! LDK's, unchanged, and writes here what it gave out.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use lightning::chain::transaction::OutPoint;
use lightning::ln::chan_utils::CommitmentTransaction;
use lightning::types::payment::PaymentPreimage;
use secp256k1::{SecretKey, ecdsa};

/// LDK counts commitments down from here.
pub const FIRST_INDEX: u64 = (1 << 48) - 1;

/// A commitment of the device's that the bridge signed.
#[derive(Clone)]
pub struct Signed {
    /// The commitment.
    pub commitment: CommitmentTransaction,
    /// The bridge's signature.
    pub signature: ecdsa::Signature,
    /// Those on second stages.
    pub htlc_signatures: Vec<ecdsa::Signature>,
    /// Of the device's HTLCs that the bridge fulfilled in it.
    pub preimages: Vec<PaymentPreimage>,
}

/// All that the bridge gave out in one channel, by commitment numbers counted up from 0.
#[derive(Default)]
pub struct Passed {
    /// Signatures on the device's commitments.
    pub signed: BTreeMap<u64, Signed>,
    /// Secrets of the bridge's commitments.
    pub secrets: BTreeMap<u64, SecretKey>,
}

/// One channel's.
pub type Wire = Arc<Mutex<Passed>>;

static WIRES: LazyLock<Mutex<HashMap<OutPoint, Wire>>> = LazyLock::new(Mutex::default);

/// What passed in the channel with that funding.
pub fn of(funding: OutPoint) -> Wire {
    lock(&WIRES).entry(funding).or_default().clone()
}

/// A lock that a failed test may have left.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
