//! The LSF output ("Lightspeed funding"): the commitment's output that holds what N calls may cost.
//!
//! | leaf | who | script |
//! |---|---|---|
//! | micropayment | payee, with the payer's signature | `<payer> CHECKSIGVERIFY <payee> CHECKSIG` |
//! | payer | payer, `d1` blocks after the commitment confirmed (BIP68, BIP112) | `<payer> CHECKSIGVERIFY <d1> CSV` |
//!
//! Without the payer's leaf, a payee that publishes the commitment and then withholds the micropayment transaction
//! would hold the money hostage. There is no key path: the internal key is BIP341's point that nobody has the secret of.

use bitcoin::opcodes::all::{OP_CHECKSIG, OP_CHECKSIGVERIFY};
use bitcoin::script::Builder;
use bitcoin::taproot::{LeafVersion, TapLeafHash, TaprootBuilder, TaprootSpendInfo};
use bitcoin::{Amount, OutPoint, ScriptBuf, TxOut, Witness};
use secp256k1::SECP256K1;

use crate::channel::Channel;
use crate::hashlock::{Delay, nobody, timeout_leaf};

/// The scripts of a channel's LSF output.
#[derive(Clone, Debug)]
pub struct Lsf {
    micropayment_leaf: ScriptBuf,
    payer_leaf: ScriptBuf,
    spend_info: TaprootSpendInfo,
    script_pubkey: ScriptBuf,
    delay: Delay,
}

impl Lsf {
    /// The scripts between a channel's two parties, with `d1` as the payer's delay.
    pub fn new(channel: &Channel, d1: Delay) -> Self {
        let (payer, payee) = (channel.params().payer.funding_xonly(), channel.params().payee.funding_xonly());
        let micropayment_leaf = Builder::new()
            .push_x_only_key(&payer)
            .push_opcode(OP_CHECKSIGVERIFY)
            .push_x_only_key(&payee)
            .push_opcode(OP_CHECKSIG)
            .into_script();
        let payer_leaf = timeout_leaf(&payer, d1);
        let spend_info = TaprootBuilder::new()
            .add_leaf(1, micropayment_leaf.clone())
            .and_then(|tree| tree.add_leaf(1, payer_leaf.clone()))
            .expect("two leaves at depth one make a tree")
            .finalize(SECP256K1, nobody())
            .expect("the tree is complete");
        let script_pubkey = ScriptBuf::new_p2tr_tweaked(spend_info.output_key());
        Self { micropayment_leaf, payer_leaf, spend_info, script_pubkey, delay: d1 }
    }

    /// The script that the commitment pays.
    pub fn script_pubkey(&self) -> &ScriptBuf {
        &self.script_pubkey
    }

    /// How many blocks after the commitment confirmed the payer may take it back.
    pub fn delay(&self) -> Delay {
        self.delay
    }

    pub(crate) fn micropayment_leaf(&self) -> &ScriptBuf {
        &self.micropayment_leaf
    }

    pub(crate) fn payer_leaf(&self) -> &ScriptBuf {
        &self.payer_leaf
    }

    pub(crate) fn leaf_hash(leaf: &ScriptBuf) -> TapLeafHash {
        TapLeafHash::from_script(leaf, LeafVersion::TapScript)
    }

    /// What ends a witness: the leaf, and the way from it to the output key.
    pub(crate) fn push_leaf(&self, witness: &mut Witness, leaf: &ScriptBuf) {
        let control = self.spend_info.control_block(&(leaf.clone(), LeafVersion::TapScript));
        witness.push(leaf.as_bytes());
        witness.push(control.expect("the leaf is one of the two in the tree").serialize());
    }
}

/// The LSF output of one commitment. Only [`super::Commitment::lsf`] makes one, so whoever signs a spend of it has built
/// the commitment itself.
#[derive(Clone, Debug)]
pub struct LsfOutput {
    pub(crate) outpoint: OutPoint,
    pub(crate) value: Amount,
    pub(crate) scripts: Lsf,
}

impl LsfOutput {
    /// Where it is: what names the micropayment transaction on chain, whichever fee inputs that has.
    pub fn outpoint(&self) -> OutPoint {
        self.outpoint
    }

    /// What it holds.
    pub fn value(&self) -> Amount {
        self.value
    }

    /// Its scripts.
    pub fn scripts(&self) -> &Lsf {
        &self.scripts
    }

    /// The output as the chain must show it.
    pub fn txout(&self) -> TxOut {
        TxOut { value: self.value, script_pubkey: self.scripts.script_pubkey.clone() }
    }
}
