//! The device's end of a channel: the gateway's [`JointSigner`], made to answer at once. When it has no answer yet, the device does what
//! was ordered, and it is asked again, as LDK asks again after `signer_unblocked`.
//!
//! What the joint signer never signs is answered as the parties would act: the device publishes a holder commitment alone, its second
//! stages with it. What LDK builds to claim outputs on the chain is signed by nobody: the device builds its own.

use std::any::Any;
use std::sync::Arc;

use bitcoin::secp256k1::{All, Secp256k1};
use bitcoin::{FeeRate, Transaction, Txid};
use farthing_gateway::ledger::Outline;
use farthing_gateway::signer::joint::JointSigner;
use farthing_protocol::Msat;
use farthing_protocol::device::bolt3::{CommitmentNumber, Htlc, PaymentHash, Side};
use lightning::bitcoin::hashes::{Hash as _, sha256d};
use lightning::chain::transaction::OutPoint;
use lightning::ln::chan_utils::{
    ChannelPublicKeys, ChannelTransactionParameters, ClosingTransaction, CommitmentTransaction,
    HTLCOutputInCommitment, HolderCommitmentTransaction,
};
use lightning::ln::channel_keys::{DelayedPaymentBasepoint, HtlcBasepoint, RevocationBasepoint};
use lightning::ln::msgs::UnsignedChannelAnnouncement;
use lightning::sign::ecdsa::EcdsaChannelSigner;
use lightning::sign::{ChannelSigner, HTLCDescriptor};
use lightning::types::payment::PaymentPreimage;
use lightning::util::dyn_signer::{DynSignerTrait, InnerSign};
use lightning::util::ser::Writeable as _;
use secp256k1::{Message, PublicKey, SECP256K1, SecretKey, ecdsa};

use crate::channel::{Channel, Obstacle, number};
use crate::report::{self, Help};
use crate::wire::{self, FIRST_INDEX, Signed};

/// The joint signer, and the channel that answers it.
pub struct Ours {
    joint: JointSigner,
    channel: Arc<Channel>,
}

impl Ours {
    /// A signer of that channel. There may be several.
    pub fn new(channel: Arc<Channel>) -> Self {
        let basepoints = &channel.keys.basepoints;
        let keys = ChannelPublicKeys {
            funding_pubkey: channel.keys.funding_key,
            revocation_basepoint: RevocationBasepoint(basepoints.revocation),
            payment_point: basepoints.payment,
            delayed_payment_basepoint: DelayedPaymentBasepoint(basepoints.delayed_payment),
            htlc_basepoint: HtlcBasepoint(basepoints.htlc),
        };
        let learning = channel.clone();
        let learn = move |parameters: &ChannelTransactionParameters| learning.learn_terms(parameters);
        let joint = JointSigner::new(keys, channel.desk.clone(), Arc::new(learn));
        Self { joint, channel }
    }

    /// Asks the joint signer; when it has no answer yet, the device works, and it is asked again.
    fn ask<T>(&self, ask: impl Fn(&JointSigner) -> Result<T, ()>) -> Result<T, ()> {
        if let Ok(answer) = ask(&self.joint) {
            return Ok(answer);
        }
        noted(self.channel.serve())?;
        ask(&self.joint)
    }

    fn funding(parameters: &ChannelTransactionParameters) -> Result<OutPoint, ()> {
        parameters.funding_outpoint.ok_or(())
    }

    /// Hands in the bridge's signatures on our commitments up to that one, as LDK does when they arrive.
    fn hear(&self, funding: OutPoint, up_to: u64) -> Result<(), ()> {
        let from = self.channel.heard(None);
        let wire = wire::of(funding);
        for heard in from..=up_to {
            let Some(Signed { commitment, signature, htlc_signatures, preimages }) =
                wire::lock(&wire).signed.get(&heard).cloned()
            else {
                break;
            };
            let bridge = self.bridge_key(&commitment);
            let ours = self.channel.keys.funding_key;
            let holder =
                HolderCommitmentTransaction::new(commitment, signature, htlc_signatures, &ours, &bridge);
            self.joint.validate_holder_commitment(&holder, preimages)?;
            self.channel.heard(Some(heard + 1));
        }
        Ok(())
    }

    /// Only the order of the two signatures depends on it, which the joint signer does not look at.
    fn bridge_key(&self, commitment: &CommitmentTransaction) -> PublicKey {
        commitment.per_commitment_point()
    }

    /// Hands in the secrets of the bridge's commitments before that one.
    fn hear_secrets(&self, funding: OutPoint, below: u64) -> Result<(), ()> {
        let wire = wire::of(funding);
        let secrets: Vec<_> = {
            let mut passed = wire::lock(&wire);
            let rest = passed.secrets.split_off(&below);
            std::mem::replace(&mut passed.secrets, rest).into_iter().collect()
        };
        for (number, secret) in secrets {
            self.joint.validate_counterparty_revocation(FIRST_INDEX - number, &secret)?;
        }
        Ok(())
    }
}

/// Writes down what stood in the way: LDK hears only that there is no signature.
fn noted<T>(result: Result<T, Obstacle>) -> Result<T, ()> {
    result.map_err(|obstacle| report::obstacle(&obstacle.to_string()))
}

/// What is asked of no device.
fn never<T>(what: &str) -> Result<T, ()> {
    report::obstacle(what);
    Err(())
}

impl DynSignerTrait for Ours {}

impl InnerSign for Ours {
    fn box_clone(&self) -> Box<dyn InnerSign> {
        Box::new(Self::new(self.channel.clone()))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl ChannelSigner for Ours {
    fn get_per_commitment_point(&self, index: u64, secp: &Secp256k1<All>) -> Result<PublicKey, ()> {
        if let Ok(point) = self.joint.get_per_commitment_point(index, secp) {
            return Ok(point);
        }
        noted(self.channel.more_points())?;
        self.joint.get_per_commitment_point(index, secp)
    }

    fn release_commitment_secret(&self, index: u64) -> Result<[u8; 32], ()> {
        let Some(funding) = self.channel.funding() else { return never("no-terms: nothing was signed yet") };
        self.hear(funding, FIRST_INDEX - index + 1)?;
        self.ask(|joint| joint.release_commitment_secret(index))
    }

    fn validate_holder_commitment(
        &self,
        commitment: &HolderCommitmentTransaction,
        preimages: Vec<PaymentPreimage>,
    ) -> Result<(), ()> {
        self.joint.validate_holder_commitment(commitment, preimages)
    }

    fn validate_counterparty_revocation(&self, index: u64, secret: &SecretKey) -> Result<(), ()> {
        self.joint.validate_counterparty_revocation(index, secret)
    }

    fn pubkeys(&self, secp: &Secp256k1<All>) -> ChannelPublicKeys {
        self.joint.pubkeys(secp)
    }

    fn new_funding_pubkey(&self, parent: Txid, secp: &Secp256k1<All>) -> PublicKey {
        self.joint.new_funding_pubkey(parent, secp)
    }

    fn channel_keys_id(&self) -> [u8; 32] {
        self.joint.channel_keys_id()
    }
}

impl EcdsaChannelSigner for Ours {
    fn sign_counterparty_commitment(
        &self,
        parameters: &ChannelTransactionParameters,
        commitment: &CommitmentTransaction,
        inbound: Vec<PaymentPreimage>,
        outbound: Vec<PaymentPreimage>,
        secp: &Secp256k1<All>,
    ) -> Result<(ecdsa::Signature, Vec<ecdsa::Signature>), ()> {
        let funding = Self::funding(parameters)?;
        self.channel.learn_terms(parameters);
        let outline = outline(commitment);
        match outline.number.previous() {
            None => self.channel.learn_gift(commitment),
            Some(previous) => {
                self.hear(funding, 0)?;
                self.hear_secrets(funding, previous.get())?;
                noted(self.channel.approve(&outline))?;
            }
        }
        self.ask(|joint| {
            let (inbound, outbound) = (inbound.clone(), outbound.clone());
            joint.sign_counterparty_commitment(parameters, commitment, inbound, outbound, secp)
        })
    }

    fn sign_holder_commitment(
        &self,
        parameters: &ChannelTransactionParameters,
        commitment: &HolderCommitmentTransaction,
        _: &Secp256k1<All>,
    ) -> Result<ecdsa::Signature, ()> {
        let (number, txid) = (number_of(commitment), commitment.trust().txid());
        self.hear(Self::funding(parameters)?, number.get())?;
        let closed = noted(self.channel.close(number, txid))?;
        joint_signature(&closed, commitment)
    }

    fn unsafe_sign_holder_commitment(
        &self,
        parameters: &ChannelTransactionParameters,
        commitment: &HolderCommitmentTransaction,
        _: &Secp256k1<All>,
    ) -> Result<ecdsa::Signature, ()> {
        let (number, txid) = (number_of(commitment), commitment.trust().txid());
        self.hear(Self::funding(parameters)?, number.get())?;
        let closed = noted(self.channel.close_copy(number, txid))?;
        joint_signature(&closed, commitment)
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
        never("own-claims: LDK built a penalty")
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
        never("own-claims: LDK built a penalty over an HTLC")
    }

    fn sign_holder_htlc_transaction(
        &self,
        transaction: &Transaction,
        _: usize,
        _: &HTLCDescriptor,
        _: &Secp256k1<All>,
    ) -> Result<ecdsa::Signature, ()> {
        let Some(published) = self.channel.second_stage(transaction.compute_txid()) else {
            return never("own-claims: LDK built a second stage that the device does not publish");
        };
        // BOLT 3: nothing, the other's signature, ours, then what opens the HTLC.
        signature_at(&published, 2)
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
        never("own-claims: LDK built a claim on the bridge's commitment")
    }

    fn sign_closing_transaction(
        &self,
        parameters: &ChannelTransactionParameters,
        closing: &ClosingTransaction,
        secp: &Secp256k1<All>,
    ) -> Result<ecdsa::Signature, ()> {
        let funding = Self::funding(parameters)?;
        self.hear(funding, 0)?;
        // Nothing is under way any more: all that the bridge revoked has arrived.
        self.hear_secrets(funding, FIRST_INDEX)?;
        self.ask(|joint| joint.sign_closing_transaction(parameters, closing, secp))
    }

    fn sign_holder_keyed_anchor_input(
        &self,
        _: &ChannelTransactionParameters,
        _: &Transaction,
        _: usize,
        _: &Secp256k1<All>,
    ) -> Result<ecdsa::Signature, ()> {
        never("no-anchors: LDK spends an anchor")
    }

    fn sign_channel_announcement_with_funding_key(
        &self,
        _: &ChannelTransactionParameters,
        announcement: &UnsignedChannelAnnouncement,
        _: &Secp256k1<All>,
    ) -> Result<ecdsa::Signature, ()> {
        report::help(Help::Announcement);
        let digest = sha256d::Hash::hash(&announcement.encode()).to_byte_array();
        Ok(SECP256K1.sign_ecdsa(&Message::from_digest(digest), &self.channel.joint_secret()))
    }

    fn sign_splice_shared_input(
        &self,
        _: &ChannelTransactionParameters,
        _: &Transaction,
        _: usize,
        _: &Secp256k1<All>,
    ) -> ecdsa::Signature {
        report::obstacle("no-splices: LDK splices");
        panic!("the device signs no splice")
    }
}

fn number_of(commitment: &CommitmentTransaction) -> CommitmentNumber {
    number(FIRST_INDEX - commitment.commitment_number())
}

/// The bridge's commitment as far as approvals need it.
fn outline(commitment: &CommitmentTransaction) -> Outline {
    let htlc = |htlc: &HTLCOutputInCommitment| Htlc {
        offered_by: if htlc.offered { Side::Bridge } else { Side::Holder },
        amount: Msat::new(htlc.amount_msat),
        payment_hash: PaymentHash(htlc.payment_hash.0),
        expiry: htlc.cltv_expiry,
    };
    Outline {
        number: number_of(commitment),
        point: commitment.per_commitment_point(),
        txid: commitment.trust().txid(),
        fee_rate: FeeRate::from_sat_per_kwu(u64::from(commitment.negotiated_feerate_per_kw())),
        htlcs: commitment.nondust_htlcs().iter().map(htlc).collect(),
        preimages: Vec::new(),
    }
}

/// Ours of the two signatures on a published commitment.
fn joint_signature(
    published: &Transaction,
    commitment: &HolderCommitmentTransaction,
) -> Result<ecdsa::Signature, ()> {
    let [first, second] = [signature_at(published, 1)?, signature_at(published, 2)?];
    Ok(if first == commitment.counterparty_sig { second } else { first })
}

fn signature_at(transaction: &Transaction, place: usize) -> Result<ecdsa::Signature, ()> {
    let witness = transaction.input[0].witness.nth(place).ok_or(())?;
    let (_, der) = witness.split_last().ok_or(())?;
    ecdsa::Signature::from_der(der).map_err(|_| ())
}
