//! Batches of preimages in the channel of the stories, for a payee and a payer in flat mode.

use std::collections::BTreeMap;

use bitcoin::{OutPoint, Transaction, TxOut, Witness};
use farthing_protocol::flat::{Batch, BatchTerms, FeeInput, Terms, micropayment};
use farthing_protocol::hashlock::Delay;
use farthing_protocol::lightspeed::{Call, CallNumber, Tab, Word};
use farthing_protocol::payer::call;
use farthing_protocol::sighting::{Funding, Locked, Sighting};
use farthing_protocol::{Msat, payee};

use super::call_story::PREPAID;
use super::payee_story::Payee;
use super::payer_story::Payer;
use super::*;

pub const D1: u32 = 36;
pub const D2: u32 = 40;
/// 20 outputs of 2,000 sat each, on top of the 600 sat that were paid first.
pub const TERMS: Terms = Terms {
    outputs: 20,
    unit: Amount::from_sat(2_000),
    prepaid: Amount::from_sat(600),
    d1: Delay::blocks(D1 as u16),
    d2: Delay::blocks(D2 as u16),
    most_fee_rate: FeeRate::from_sat_per_vb_u32(15),
};
pub const FIRST: BatchTerms = BatchTerms { number: 1, terms: TERMS };

/// The next batch, on top of so much.
pub fn batch_on(number: u32, base: Msat) -> BatchTerms {
    BatchTerms { number, terms: Terms { prepaid: base.ceil(), ..TERMS } }
}

pub fn verified(batch: BatchTerms) -> Batch {
    let signed = batch.sign(&FIXTURE.0, &payer_keys()).expect("terms that fit");
    Batch::verify(&FIXTURE.0, batch, signed, POLICY.margin).expect("the payer signed")
}

pub fn preimage(batch: &BatchTerms, index: u32) -> Word {
    Word::from_bytes(*batch.preimages(&FIXTURE.0, &payer_keys()).preimage(index).as_bytes())
}

pub fn call_of(batch: &BatchTerms, number: CallNumber, cost: Msat, index: u32) -> Call {
    let word = preimage(batch, index);
    Call { channel: FIXTURE.0.id(), number, cost, chain: batch.number, index, word, last: None }
}

/// A tab in epoch 7 that has taken the first batch.
pub fn flat_tab() -> Tab {
    let mut tab = Tab::new(payment(PREPAID), Msat::ZERO);
    tab.begin(7);
    tab.take_batch(verified(FIRST)).expect("the first batch");
    tab
}

/// A payee that is open; these outputs' preimages were revealed, each by a call that cost a unit.
pub fn flat_payee(revealed: &[u32]) -> Payee {
    let mut payee = Payee::with(PREPAID, Msat::ZERO);
    let mut tab = flat_tab();
    for (counter, index) in (1..).zip(revealed) {
        let number = CallNumber { epoch: 7, counter };
        tab.admit([], &call_of(&FIRST, number, FIRST.unit(), *index), None).expect("an honest call");
        tab.end(number, Some(FIRST.unit()));
    }
    payee.takes(payee::Input::Fold(Box::new(tab)));
    payee
}

/// A payer whose first batch was taken.
pub fn flat_payer() -> Payer {
    let mut payer = Payer::open();
    payer.calls(call::Input::AnnounceBatch(FIRST));
    payer.calls(call::Input::Taken { chain: 1, epoch: 7 });
    payer
}

/// The first batch's transactions, as the payee publishes them.
pub struct Published {
    pub batch: Batch,
    pub commitment: Transaction,
    pub micropayment: Transaction,
}

impl Published {
    pub fn new() -> Self {
        let batch = verified(FIRST);
        let channel = channel();
        let (commitment, _) = batch.commitment(&channel, &payee_keys()).expect("a batch");
        let (payments, signature, _) = batch.micropayment(&channel).expect("a batch");
        let fee = micropayment::fee_at(20, 1, rate(2));
        let output = TxOut { value: fee, script_pubkey: channel.params().payee.output.clone() };
        let outpoint = OutPoint { txid: commitment.compute_txid(), vout: 77 };
        let mut psbt = payments
            .complete(&payee_keys(), &signature, &[FeeInput { outpoint, output }], fee)
            .expect("a coin that fits");
        psbt.inputs[1].final_script_witness = Some(Witness::from_slice(&[[0; 64]]));
        let micropayment = psbt.extract_tx_unchecked_fee_rate();
        Self { batch, commitment, micropayment }
    }

    pub fn lsf(&self) -> OutPoint {
        OutPoint { txid: self.commitment.compute_txid(), vout: 1 }
    }

    /// The commitment, so deep, and what became of its LSF output.
    pub fn look(&self, depth: u32, lsf: Funding) -> Sighting {
        let locked = vec![Locked { outpoint: self.lsf(), status: lsf }];
        Sighting { locked, ..at(TIP + depth, spent(&self.commitment, depth)) }
    }

    pub fn unspent_lsf(&self, confirmations: u32) -> Funding {
        Funding::Confirmed { output: self.commitment.output[1].clone(), confirmations }
    }

    /// And the micropayment transaction a block later, so deep, with outputs that others have spent.
    pub fn spread(&self, depth: u32, spenders: &BTreeMap<u32, (Transaction, u32)>) -> Sighting {
        let mut sighting = self.look(depth + 1, spent(&self.micropayment, depth));
        let txid = self.micropayment.compute_txid();
        for (vout, output) in (0..).zip(&self.micropayment.output) {
            let status = match spenders.get(&vout) {
                Some((by, confirmations)) => spent(by, *confirmations),
                None => Funding::Confirmed { output: output.clone(), confirmations: depth },
            };
            sighting.locked.push(Locked { outpoint: OutPoint { txid, vout }, status });
        }
        sighting
    }

    /// Each input of these with the transaction and how deep it is.
    pub fn spenders(&self, of: &[Transaction], depth: u32) -> BTreeMap<u32, (Transaction, u32)> {
        let txid = self.micropayment.compute_txid();
        let spends = |by: &Transaction| {
            let by = by.clone();
            let outputs: Vec<u32> = by
                .input
                .iter()
                .filter(|input| input.previous_output.txid == txid)
                .map(|input| input.previous_output.vout)
                .collect();
            outputs.into_iter().map(move |vout| (vout, (by.clone(), depth)))
        };
        of.iter().flat_map(spends).collect()
    }

    /// Whether consensus lets a transaction spend what it names of the micropayment transaction.
    pub fn can_be_spent_by(&self, by: &Transaction) -> bool {
        let spent: Vec<TxOut> = by
            .input
            .iter()
            .map(|input| self.micropayment.output[input.previous_output.vout as usize].clone())
            .collect();
        spends(&spent, by)
    }
}
