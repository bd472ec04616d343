//! The signer of one channel. LDK calls it with its locks held, so nothing here waits for anybody.

use std::sync::Arc;

use bitcoin::secp256k1::{All, Secp256k1};
use bitcoin::{Amount, FeeRate, ScriptBuf, Transaction, Txid};
use farthing_protocol::Msat;
use farthing_protocol::device::bolt3::closing::Settlement;
use farthing_protocol::device::bolt3::{
    CommitmentNumber, CommitmentSecret, Htlc, PaymentHash, Preimage, Side,
};
use lightning::ln::chan_utils::{
    ChannelPublicKeys, ChannelTransactionParameters, ClosingTransaction, CommitmentTransaction,
    HTLCOutputInCommitment, HolderCommitmentTransaction,
};
use lightning::ln::msgs::UnsignedChannelAnnouncement;
use lightning::sign::ecdsa::EcdsaChannelSigner;
use lightning::sign::{ChannelSigner, HTLCDescriptor};
use lightning::types::payment::PaymentPreimage;
use secp256k1::{PublicKey, SecretKey, ecdsa};

use super::desk::{Desk, ToValidate};
use crate::ledger::Outline;

/// LDK counts commitments down from here.
const FIRST_INDEX: u64 = (1 << 48) - 1;

/// A channel's signer, whose funding key is shared with a device and whose other keys the device and its owner have.
pub struct JointSigner {
    keys: ChannelPublicKeys,
    desk: Arc<Desk>,
    on_parameters: Arc<dyn Fn(&ChannelTransactionParameters) + Send + Sync>,
}

impl JointSigner {
    /// A signer at that desk. `on_parameters` is told the channel's terms whenever LDK shows them.
    pub fn new(
        keys: ChannelPublicKeys,
        desk: Arc<Desk>,
        on_parameters: Arc<dyn Fn(&ChannelTransactionParameters) + Send + Sync>,
    ) -> Self {
        Self { keys, desk, on_parameters }
    }
}

/// The number of a commitment that LDK names by its index.
fn number_of(index: u64) -> CommitmentNumber {
    let number = FIRST_INDEX.checked_sub(index).and_then(|number| CommitmentNumber::try_from(number).ok());
    number.expect("LDK's indexes are below 2^48")
}

fn preimages(of: &[PaymentPreimage]) -> Vec<Preimage> {
    of.iter().map(|preimage| Preimage(preimage.0)).collect()
}

fn outline(commitment: &CommitmentTransaction, broadcaster: Side, preimages: Vec<Preimage>) -> Outline {
    let htlc = |htlc: &HTLCOutputInCommitment| Htlc {
        offered_by: if htlc.offered { broadcaster } else { broadcaster.other() },
        amount: Msat::new(htlc.amount_msat),
        payment_hash: PaymentHash(htlc.payment_hash.0),
        expiry: htlc.cltv_expiry,
    };
    Outline {
        number: number_of(commitment.commitment_number()),
        point: commitment.per_commitment_point(),
        txid: commitment.trust().txid(),
        fee_rate: FeeRate::from_sat_per_kwu(u64::from(commitment.negotiated_feerate_per_kw())),
        htlcs: commitment.nondust_htlcs().iter().map(htlc).collect(),
        preimages,
    }
}

impl ChannelSigner for JointSigner {
    fn get_per_commitment_point(&self, index: u64, _: &Secp256k1<All>) -> Result<PublicKey, ()> {
        self.desk.point(number_of(index)).ok_or(())
    }

    fn release_commitment_secret(&self, index: u64) -> Result<[u8; 32], ()> {
        self.desk.secret(number_of(index)).map(|secret| secret.to_bytes()).ok_or(())
    }

    fn validate_holder_commitment(
        &self,
        commitment: &HolderCommitmentTransaction,
        outbound: Vec<PaymentPreimage>,
    ) -> Result<(), ()> {
        let stored = self.desk.to_validate(ToValidate {
            outline: outline(commitment, Side::Holder, preimages(&outbound)),
            signature: commitment.counterparty_sig,
            htlc_signatures: commitment.counterparty_htlc_sigs.clone(),
        });
        stored.map_err(|error| tracing::error!(%error, "a commitment was not stored"))
    }

    fn validate_counterparty_revocation(&self, index: u64, secret: &SecretKey) -> Result<(), ()> {
        let secret = CommitmentSecret::new(secret.secret_bytes());
        let stored = self.desk.bridge_revoked(number_of(index), secret);
        stored.map_err(|error| tracing::error!(%error, "a revocation was not stored"))
    }

    fn pubkeys(&self, _: &Secp256k1<All>) -> ChannelPublicKeys {
        self.keys.clone()
    }

    fn new_funding_pubkey(&self, _: Txid, _: &Secp256k1<All>) -> PublicKey {
        // Splices are refused (`reject_inbound_splices`) and never begun.
        self.keys.funding_pubkey
    }

    fn channel_keys_id(&self) -> [u8; 32] {
        self.desk.channel()
    }
}

impl EcdsaChannelSigner for JointSigner {
    fn sign_counterparty_commitment(
        &self,
        parameters: &ChannelTransactionParameters,
        commitment: &CommitmentTransaction,
        inbound: Vec<PaymentPreimage>,
        outbound: Vec<PaymentPreimage>,
        _: &Secp256k1<All>,
    ) -> Result<(ecdsa::Signature, Vec<ecdsa::Signature>), ()> {
        (self.on_parameters)(parameters);
        let mut known = preimages(&outbound);
        known.extend(preimages(&inbound));
        let outline = outline(commitment, Side::Bridge, known);
        let (number, txid) = (outline.number, outline.txid);
        let signatures = self.desk.bridge_signatures(|| outline, number, txid).ok_or(())?;
        Ok((signatures.commitment, signatures.htlcs))
    }

    /// The device alone completes a holder commitment, and publishes it: the gateway never can.
    fn sign_holder_commitment(
        &self,
        _: &ChannelTransactionParameters,
        _: &HolderCommitmentTransaction,
        _: &Secp256k1<All>,
    ) -> Result<ecdsa::Signature, ()> {
        Err(())
    }

    /// LDK's own tests ask for it, to publish states that are revoked later. Neither device nor gateway gives one out.
    #[cfg(feature = "signer-suite")]
    fn unsafe_sign_holder_commitment(
        &self,
        _: &ChannelTransactionParameters,
        _: &HolderCommitmentTransaction,
        _: &Secp256k1<All>,
    ) -> Result<ecdsa::Signature, ()> {
        Err(())
    }

    fn sign_justice_revoked_output(
        &self,
        _: &ChannelTransactionParameters,
        _: &Transaction,
        _: usize,
        _: u64,
        _: &SecretKey,
        _: &Secp256k1<All>,
    ) -> Result<ecdsa::Signature, ()> {
        Err(())
    }

    fn sign_justice_revoked_htlc(
        &self,
        _: &ChannelTransactionParameters,
        _: &Transaction,
        _: usize,
        _: u64,
        _: &SecretKey,
        _: &HTLCOutputInCommitment,
        _: &Secp256k1<All>,
    ) -> Result<ecdsa::Signature, ()> {
        Err(())
    }

    fn sign_holder_htlc_transaction(
        &self,
        _: &Transaction,
        _: usize,
        _: &HTLCDescriptor,
        _: &Secp256k1<All>,
    ) -> Result<ecdsa::Signature, ()> {
        Err(())
    }

    fn sign_counterparty_htlc_transaction(
        &self,
        _: &ChannelTransactionParameters,
        _: &Transaction,
        _: usize,
        _: u64,
        _: &PublicKey,
        _: &HTLCOutputInCommitment,
        _: &Secp256k1<All>,
    ) -> Result<ecdsa::Signature, ()> {
        Err(())
    }

    fn sign_closing_transaction(
        &self,
        _: &ChannelTransactionParameters,
        closing: &ClosingTransaction,
        _: &Secp256k1<All>,
    ) -> Result<ecdsa::Signature, ()> {
        let settlement = Settlement {
            to_holder: Amount::from_sat(closing.to_holder_value_sat()),
            holder_script: ScriptBuf::from(closing.to_holder_script()),
            to_bridge: Amount::from_sat(closing.to_counterparty_value_sat()),
            bridge_script: ScriptBuf::from(closing.to_counterparty_script()),
        };
        let txid = closing.trust().built_transaction().compute_txid();
        self.desk.closing_signature(&settlement, txid).ok_or(())
    }

    /// There are no anchors.
    fn sign_holder_keyed_anchor_input(
        &self,
        _: &ChannelTransactionParameters,
        _: &Transaction,
        _: usize,
        _: &Secp256k1<All>,
    ) -> Result<ecdsa::Signature, ()> {
        Err(())
    }

    /// Channels are not announced.
    fn sign_channel_announcement_with_funding_key(
        &self,
        _: &ChannelTransactionParameters,
        _: &UnsignedChannelAnnouncement,
        _: &Secp256k1<All>,
    ) -> Result<ecdsa::Signature, ()> {
        Err(())
    }

    fn sign_splice_shared_input(
        &self,
        _: &ChannelTransactionParameters,
        _: &Transaction,
        _: usize,
        _: &Secp256k1<All>,
    ) -> ecdsa::Signature {
        unreachable!("splices are refused and never begun")
    }
}
