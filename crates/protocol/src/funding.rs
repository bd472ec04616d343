//! The funding output: a Taproot output (BIP341) that locks the capacity until one of three things happens.
//!
//! | path | who | script | when |
//! |---|---|---|---|
//! | key | both, MuSig2 (BIP327) | – | cooperative close |
//! | leaf | payee, with the payer's signature | `<payer> CHECKSIGVERIFY <payee> CHECKSIG` | any time |
//! | leaf | payer | `<payer> CHECKSIGVERIFY <expiry> CHECKLOCKTIMEVERIFY` | from the expiry |
//!
//! The refund is a leaf, not a transaction signed in advance: the payee can hold nothing hostage, so the payer needs
//! nothing from it before it locks money.
//!
//! The funding *transaction* is whatever the payer's wallet builds to pay this output.

use bitcoin::opcodes::all::{OP_CHECKSIG, OP_CHECKSIGVERIFY, OP_CLTV};
use bitcoin::script::Builder;
use bitcoin::taproot::{LeafVersion, TapLeafHash, TaprootBuilder};
use bitcoin::{ScriptBuf, XOnlyPublicKey};
use musig2::KeyAggContext;
use secp256k1::{PublicKey, SECP256K1};

use crate::channel::Params;

/// The scripts of one channel's funding output.
#[derive(Debug)]
pub struct FundingOutput {
    commitment_leaf: ScriptBuf,
    refund_leaf: ScriptBuf,
    script_pubkey: ScriptBuf,
    // What is needed of the tree, not the tree itself: a payee keeps one for each of very many channels.
    output_key: XOnlyPublicKey,
    merkle_root: [u8; 32],
    commitment_control: [u8; CONTROL_BLOCK],
    refund_control: [u8; CONTROL_BLOCK],
}

/// Leaf version, internal key, and the other leaf's hash.
const CONTROL_BLOCK: usize = 65;

impl FundingOutput {
    pub(crate) fn new(params: &Params) -> Self {
        let (payer, payee) = (params.payer.funding_xonly(), params.payee.funding_xonly());
        let commitment_leaf = Builder::new()
            .push_x_only_key(&payer)
            .push_opcode(OP_CHECKSIGVERIFY)
            .push_x_only_key(&payee)
            .push_opcode(OP_CHECKSIG)
            .into_script();
        let refund_leaf = Builder::new()
            .push_x_only_key(&payer)
            .push_opcode(OP_CHECKSIGVERIFY)
            .push_int(i64::from(params.expiry.height()))
            .push_opcode(OP_CLTV)
            .into_script();
        let internal = internal_key(&params.payer.funding, &params.payee.funding);
        let spend_info = TaprootBuilder::new()
            .add_leaf(1, commitment_leaf.clone())
            .and_then(|tree| tree.add_leaf(1, refund_leaf.clone()))
            .expect("two leaves at depth one make a tree")
            .finalize(SECP256K1, internal)
            .expect("the tree is complete");
        let control_block = |leaf: &ScriptBuf| {
            let block = spend_info.control_block(&(leaf.clone(), LeafVersion::TapScript));
            let block = block.expect("the leaf is one of the two in the tree").serialize();
            block.try_into().expect("a leaf at depth one has one sibling")
        };
        let root = spend_info.merkle_root().expect("the tree has leaves");
        Self {
            script_pubkey: ScriptBuf::new_p2tr_tweaked(spend_info.output_key()),
            output_key: spend_info.output_key().to_x_only_public_key(),
            merkle_root: *AsRef::<[u8; 32]>::as_ref(&root),
            commitment_control: control_block(&commitment_leaf),
            refund_control: control_block(&refund_leaf),
            commitment_leaf,
            refund_leaf,
        }
    }

    /// The script that the funding transaction pays.
    pub fn script_pubkey(&self) -> &ScriptBuf {
        &self.script_pubkey
    }

    /// The payee's leaf.
    pub fn commitment_leaf(&self) -> &ScriptBuf {
        &self.commitment_leaf
    }

    /// The payer's leaf.
    pub fn refund_leaf(&self) -> &ScriptBuf {
        &self.refund_leaf
    }

    pub(crate) fn output_key(&self) -> XOnlyPublicKey {
        self.output_key
    }

    pub(crate) fn merkle_root(&self) -> [u8; 32] {
        self.merkle_root
    }

    pub(crate) fn leaf_hash(leaf: &ScriptBuf) -> TapLeafHash {
        TapLeafHash::from_script(leaf, LeafVersion::TapScript)
    }

    pub(crate) fn control_block(&self, leaf: &ScriptBuf) -> Vec<u8> {
        let control =
            if *leaf == self.commitment_leaf { self.commitment_control } else { self.refund_control };
        control.to_vec()
    }
}

/// The MuSig2 aggregate of the two funding keys, payer first, before the Taproot tweak. A party cannot choose its key
/// so as to cancel the other's: BIP327 weighs each key by a hash of both.
pub(crate) fn key_aggregation(payer: &PublicKey, payee: &PublicKey) -> KeyAggContext {
    let point = |key: &PublicKey| secp::Point::from_slice(&key.serialize()).expect("a valid public key");
    KeyAggContext::new([point(payer), point(payee)])
        .expect("the weighted sum of two chosen keys is the point at infinity with odds of 2^-256")
}

fn internal_key(payer: &PublicKey, payee: &PublicKey) -> XOnlyPublicKey {
    let aggregate: secp::Point = key_aggregation(payer, payee).aggregated_pubkey();
    XOnlyPublicKey::from_slice(&aggregate.serialize_xonly()).expect("a valid point")
}
