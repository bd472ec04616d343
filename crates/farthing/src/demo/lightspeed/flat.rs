//! The flat mode's transactions on the real chain: each call reveals one secret, and each secret opens one output. Both sides'
//! keys are in this process and nothing travels: no machine and no program drives this mode yet.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use bitcoin::hashes::Hash as _;
use bitcoin::key::{Keypair, TapTweak as _};
use bitcoin::psbt::Psbt;
use bitcoin::secp256k1::{All, Message, Secp256k1};
use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType};
use bitcoin::{Address, Amount, FeeRate, Network, OutPoint, ScriptBuf, Transaction, TxOut, Witness};
use farthing_node::entropy;
use farthing_protocol::channel::Expiry;
use farthing_protocol::flat::{Commitment, FeeInput, Micropayment, Outputs, Preimages, Terms};
use farthing_protocol::flat::{claim, micropayment, refund};
use farthing_protocol::hashlock::Delay;
use farthing_protocol::keys::{KeyId, Seed};
use farthing_protocol::{Channel, Msat, Params, Party};
use serde::Serialize;

use crate::demo::stage::Stage;

const MARGIN: u32 = 36;
const FEE_RATE: FeeRate = FeeRate::from_sat_per_vb_u32(2);
/// How many calls are made of those that the batch could pay.
const CALLS: u32 = 1_234;
const TERMS: Terms = Terms {
    outputs: 2_000,
    unit: Amount::from_sat(1_000),
    prepaid: Amount::from_sat(1_000),
    d1: Delay::blocks(36),
    d2: Delay::blocks(40),
    most_fee_rate: FeeRate::from_sat_per_vb_u32(5),
};

/// What the chain shows in the end.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Flat {
    calls: u32,
    outputs: u32,
    claimed: u32,
    refunded: u32,
    #[serde(skip)]
    vsize: Sizes,
}

/// What it took, in vbytes.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    commitment: usize,
    micropayment: usize,
    claims: usize,
    refunds: usize,
}

impl Flat {
    /// Whether each output went to whom it is due.
    pub fn is_ok(&self) -> bool {
        self.claimed == self.calls && self.claimed + self.refunded == self.outputs
    }

    /// In words.
    pub fn outcome(&self) -> String {
        let Self { calls, outputs, claimed, refunded, vsize } = self;
        format!(
            "{calls} of {outputs} secrets revealed: {claimed} outputs claimed, {refunded} refunded; commitment {} vB, micropayment \
             transaction {} vB, claims {} vB, refunds {} vB. The transactions only: no program drives this mode yet",
            vsize.commitment, vsize.micropayment, vsize.claims, vsize.refunds
        )
    }
}

/// Plays it.
pub fn play(stage: &Stage) -> anyhow::Result<Flat> {
    eprintln!("The flat mode: {CALLS} calls, {} outputs …", TERMS.outputs);
    let secp = Secp256k1::new();
    let seed = || Seed::new(entropy::bytes(), Network::Regtest);
    let [payer, payee] = [seed(), seed()].map(|seed| seed.channel_keys(KeyId::from_u64(1)));
    let [payer_key, payee_key] =
        [(); 2].map(|()| Keypair::new(&secp, &mut bitcoin::secp256k1::rand::thread_rng()));
    let output = |key: &Keypair| ScriptBuf::new_p2tr(&secp, key.x_only_public_key().0, None);
    let expiry = Expiry::at_height(stage.chain().tip()?.height + 1_000);
    let mut params = Params {
        network: Network::Regtest,
        funding: OutPoint::null(),
        capacity: Amount::from_sat(2_100_000),
        expiry,
        fee_rate: FEE_RATE,
        prepaid: TERMS.prepaid,
        payer: Party { funding: payer.funding(), session: payer.session(), output: output(&payer_key) },
        payee: Party { funding: payee.funding(), session: payee.session(), output: output(&payee_key) },
    };
    // What is locked does not depend on where it will be.
    let locked = Channel::new(params.clone())?.funding_txout();
    params.funding = send(stage, &locked.script_pubkey, locked.value)?;
    let channel = Channel::new(params)?;
    TERMS.check(&channel, MARGIN)?;

    // Ahead of the calls: the locks, and the payer's two signatures in this order.
    let preimages = Preimages::new(entropy::bytes(), channel.id(), 1);
    let outputs = Outputs::new(&channel, &TERMS, preimages.locks(&TERMS)?);
    let commitment = Commitment::new(&channel, &TERMS, Msat::ZERO)?;
    let payments = Micropayment::new(commitment.lsf(), &outputs)?;
    let signatures = (payments.sign(&payer), commitment.sign(&payer));
    payments.verify(&channel, &signatures.0)?;
    commitment.verify(&channel, &signatures.1)?;

    // The calls: in any order, each with its own secret.
    let mut revealed = BTreeMap::new();
    for index in (0..TERMS.outputs).map(|call| call * 7 % TERMS.outputs).take(CALLS as usize) {
        let preimage = preimages.preimage(index);
        ensure!(outputs.locks().opens(index, &preimage), "secret {index} opens nothing");
        revealed.insert(index, preimage);
    }

    // The payee closes alone.
    let fee = micropayment::fee_at(TERMS.outputs, 1, FEE_RATE);
    let script = output(&payee_key);
    let coin = FeeInput {
        outpoint: send(stage, &script, fee)?,
        output: TxOut { value: fee, script_pubkey: script },
    };
    let closed = commitment.complete(&channel, &payee, &signatures.1);
    confirm(stage, &[&closed])?;
    let spread = signed(&secp, &payee_key, payments.complete(&payee, &signatures.0, &[coin], fee)?)?;
    confirm(stage, &[&spread])?;
    let txid = payments.published_as(&spread).context("the micropayment transaction")?;
    let claims = claim::claim(&channel, &payee, &outputs, txid, &revealed, FEE_RATE)?.transactions;
    confirm(stage, &claims.iter().collect::<Vec<_>>())?;
    // The payer takes the rest back.
    stage.node().mine(TERMS.d2.get().into())?;
    let unclaimed: BTreeSet<u32> = (0..TERMS.outputs).filter(|index| !revealed.contains_key(index)).collect();
    let refunds = refund::outputs(&channel, &payer, &outputs, txid, &unclaimed, FEE_RATE)?.transactions;
    confirm(stage, &refunds.iter().collect::<Vec<_>>())?;

    let chain = stage.transactions()?;
    let spent_to = |key: &Keypair| {
        let pays =
            |transaction: &&Transaction| transaction.output.iter().all(|to| to.script_pubkey == output(key));
        let inputs = chain.values().filter(pays).flat_map(|transaction| &transaction.input);
        inputs.filter(|input| input.previous_output.txid == txid).count() as u32
    };
    let sum = |all: &[Transaction]| all.iter().map(Transaction::vsize).sum();
    let vsize = Sizes {
        commitment: closed.vsize(),
        micropayment: spread.vsize(),
        claims: sum(&claims),
        refunds: sum(&refunds),
    };
    let calls = revealed.len() as u32;
    let (claimed, refunded) = (spent_to(&payee_key), spent_to(&payer_key));
    Ok(Flat { calls, outputs: TERMS.outputs, claimed, refunded, vsize })
}

/// Coins of the node's own, in a block.
fn send(stage: &Stage, script: &ScriptBuf, amount: Amount) -> anyhow::Result<OutPoint> {
    let txid = stage.node().send(&Address::from_script(script, Network::Regtest)?, amount)?;
    let transaction = stage.chain().mempool_transaction(&txid)?.context("the payment")?;
    let vout =
        transaction.output.iter().position(|output| output.script_pubkey == *script).context("its output")?;
    stage.node().mine(1)?;
    Ok(OutPoint { txid, vout: vout as u32 })
}

fn confirm(stage: &Stage, transactions: &[&Transaction]) -> anyhow::Result<()> {
    for transaction in transactions {
        stage.chain().broadcast(transaction)?;
    }
    stage.node().mine(1)?;
    Ok(())
}

/// Signs the coin that pays the fee, as a wallet does.
fn signed(secp: &Secp256k1<All>, key: &Keypair, mut psbt: Psbt) -> anyhow::Result<Transaction> {
    let spent: Option<Vec<TxOut>> = psbt.inputs.iter().map(|input| input.witness_utxo.clone()).collect();
    let spent = spent.context("what each input spends")?;
    let digest = SighashCache::new(&psbt.unsigned_tx).taproot_key_spend_signature_hash(
        1,
        &Prevouts::All(&spent),
        TapSighashType::Default,
    )?;
    let key = key.tap_tweak(secp, None).to_keypair();
    let signature = secp.sign_schnorr_no_aux_rand(&Message::from_digest(digest.to_byte_array()), &key);
    psbt.inputs[1].final_script_witness = Some(Witness::from_slice(&[signature.as_ref()]));
    Ok(psbt.extract_tx_unchecked_fee_rate())
}
