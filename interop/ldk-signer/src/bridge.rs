//! The bridge's end of a channel: LDK's own signer. What it gives out is noted on the wire.

use std::any::Any;
use std::sync::{Arc, Mutex};

use bitcoin::secp256k1::{All, Secp256k1};
use bitcoin::{Transaction, Txid};
use lightning::chain::transaction::OutPoint;
use lightning::ln::chan_utils::{
    ChannelPublicKeys, ChannelTransactionParameters, ClosingTransaction, CommitmentTransaction,
    HTLCOutputInCommitment, HolderCommitmentTransaction,
};
use lightning::ln::msgs::UnsignedChannelAnnouncement;
use lightning::sign::ecdsa::EcdsaChannelSigner;
use lightning::sign::{ChannelSigner, HTLCDescriptor};
use lightning::types::payment::PaymentPreimage;
use lightning::util::dyn_signer::{DynSigner, DynSignerTrait, InnerSign};
use secp256k1::{PublicKey, SecretKey, ecdsa};

use crate::wire::{self, FIRST_INDEX, Signed};

/// Which funding a signer signs for: known from its first signature on, to all copies of it.
pub type Funding = Arc<Mutex<Option<OutPoint>>>;

/// LDK's signer, and the wire it speaks on.
#[derive(Clone)]
pub struct Bridge {
    stock: DynSigner,
    funding: Funding,
}

impl Bridge {
    /// Around LDK's signer.
    pub fn new(stock: DynSigner, funding: Funding) -> Self {
        Self { stock, funding }
    }
}

impl DynSignerTrait for Bridge {}

impl InnerSign for Bridge {
    fn box_clone(&self) -> Box<dyn InnerSign> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl ChannelSigner for Bridge {
    fn get_per_commitment_point(&self, index: u64, secp: &Secp256k1<All>) -> Result<PublicKey, ()> {
        self.stock.get_per_commitment_point(index, secp)
    }

    fn release_commitment_secret(&self, index: u64) -> Result<[u8; 32], ()> {
        let secret = self.stock.release_commitment_secret(index)?;
        if let Some(funding) = *wire::lock(&self.funding) {
            let key = SecretKey::from_slice(&secret).map_err(|_| ())?;
            wire::lock(&wire::of(funding)).secrets.insert(FIRST_INDEX - index, key);
        }
        Ok(secret)
    }

    fn validate_holder_commitment(
        &self,
        commitment: &HolderCommitmentTransaction,
        preimages: Vec<PaymentPreimage>,
    ) -> Result<(), ()> {
        self.stock.validate_holder_commitment(commitment, preimages)
    }

    fn validate_counterparty_revocation(&self, index: u64, secret: &SecretKey) -> Result<(), ()> {
        self.stock.validate_counterparty_revocation(index, secret)
    }

    fn pubkeys(&self, secp: &Secp256k1<All>) -> ChannelPublicKeys {
        self.stock.pubkeys(secp)
    }

    fn new_funding_pubkey(&self, parent: Txid, secp: &Secp256k1<All>) -> PublicKey {
        self.stock.new_funding_pubkey(parent, secp)
    }

    fn channel_keys_id(&self) -> [u8; 32] {
        self.stock.channel_keys_id()
    }
}

impl EcdsaChannelSigner for Bridge {
    fn sign_counterparty_commitment(
        &self,
        parameters: &ChannelTransactionParameters,
        commitment: &CommitmentTransaction,
        inbound: Vec<PaymentPreimage>,
        outbound: Vec<PaymentPreimage>,
        secp: &Secp256k1<All>,
    ) -> Result<(ecdsa::Signature, Vec<ecdsa::Signature>), ()> {
        let (signature, htlc_signatures) = self.stock.sign_counterparty_commitment(
            parameters,
            commitment,
            inbound.clone(),
            outbound,
            secp,
        )?;
        if let Some(funding) = parameters.funding_outpoint {
            *wire::lock(&self.funding) = Some(funding);
            let signed = Signed {
                commitment: commitment.clone(),
                signature,
                htlc_signatures: htlc_signatures.clone(),
                preimages: inbound,
            };
            let number = FIRST_INDEX - commitment.commitment_number();
            wire::lock(&wire::of(funding)).signed.insert(number, signed);
        }
        Ok((signature, htlc_signatures))
    }

    fn sign_holder_commitment(
        &self,
        parameters: &ChannelTransactionParameters,
        commitment: &HolderCommitmentTransaction,
        secp: &Secp256k1<All>,
    ) -> Result<ecdsa::Signature, ()> {
        self.stock.sign_holder_commitment(parameters, commitment, secp)
    }

    fn unsafe_sign_holder_commitment(
        &self,
        parameters: &ChannelTransactionParameters,
        commitment: &HolderCommitmentTransaction,
        secp: &Secp256k1<All>,
    ) -> Result<ecdsa::Signature, ()> {
        self.stock.unsafe_sign_holder_commitment(parameters, commitment, secp)
    }

    fn sign_justice_revoked_output(
        &self,
        parameters: &ChannelTransactionParameters,
        justice: &Transaction,
        input: usize,
        amount: u64,
        key: &SecretKey,
        secp: &Secp256k1<All>,
    ) -> Result<ecdsa::Signature, ()> {
        self.stock.sign_justice_revoked_output(parameters, justice, input, amount, key, secp)
    }

    fn sign_justice_revoked_htlc(
        &self,
        parameters: &ChannelTransactionParameters,
        justice: &Transaction,
        input: usize,
        amount: u64,
        key: &SecretKey,
        htlc: &HTLCOutputInCommitment,
        secp: &Secp256k1<All>,
    ) -> Result<ecdsa::Signature, ()> {
        self.stock.sign_justice_revoked_htlc(parameters, justice, input, amount, key, htlc, secp)
    }

    fn sign_holder_htlc_transaction(
        &self,
        transaction: &Transaction,
        input: usize,
        descriptor: &HTLCDescriptor,
        secp: &Secp256k1<All>,
    ) -> Result<ecdsa::Signature, ()> {
        self.stock.sign_holder_htlc_transaction(transaction, input, descriptor, secp)
    }

    fn sign_counterparty_htlc_transaction(
        &self,
        parameters: &ChannelTransactionParameters,
        transaction: &Transaction,
        input: usize,
        amount: u64,
        point: &PublicKey,
        htlc: &HTLCOutputInCommitment,
        secp: &Secp256k1<All>,
    ) -> Result<ecdsa::Signature, ()> {
        self.stock.sign_counterparty_htlc_transaction(
            parameters,
            transaction,
            input,
            amount,
            point,
            htlc,
            secp,
        )
    }

    fn sign_closing_transaction(
        &self,
        parameters: &ChannelTransactionParameters,
        closing: &ClosingTransaction,
        secp: &Secp256k1<All>,
    ) -> Result<ecdsa::Signature, ()> {
        self.stock.sign_closing_transaction(parameters, closing, secp)
    }

    fn sign_holder_keyed_anchor_input(
        &self,
        parameters: &ChannelTransactionParameters,
        transaction: &Transaction,
        input: usize,
        secp: &Secp256k1<All>,
    ) -> Result<ecdsa::Signature, ()> {
        self.stock.sign_holder_keyed_anchor_input(parameters, transaction, input, secp)
    }

    fn sign_channel_announcement_with_funding_key(
        &self,
        parameters: &ChannelTransactionParameters,
        announcement: &UnsignedChannelAnnouncement,
        secp: &Secp256k1<All>,
    ) -> Result<ecdsa::Signature, ()> {
        self.stock.sign_channel_announcement_with_funding_key(parameters, announcement, secp)
    }

    fn sign_splice_shared_input(
        &self,
        parameters: &ChannelTransactionParameters,
        transaction: &Transaction,
        input: usize,
        secp: &Secp256k1<All>,
    ) -> ecdsa::Signature {
        self.stock.sign_splice_shared_input(parameters, transaction, input, secp)
    }
}
