//! Channels in flat mode, as they end on the chain.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

mod common;

use bitcoin::transaction::Version;
use bitcoin::{Address, Amount, Network, Transaction};
use common::flat::*;
use common::*;
use farthing_chain::OutputStatus;
use farthing_node::buyer::Buyer;
use farthing_node::buyer::calls::Allowed;
use farthing_node::start::StartError;
use farthing_node::tabs::{AnnounceError, Announced, Durability};
use farthing_protocol::ChannelId;
use farthing_protocol::channel::SpendKind;

/// The first payment of a channel at 2 sat/vB, which its first batch stands on.
const PREPAID: u64 = 552;
/// What a flat commitment with three outputs weighs, in virtual bytes.
const FLAT_COMMITMENT: u64 = 247;
/// What the payer's output of the first batch's commitment holds.
const REST: u64 = 100_000 - PREPAID - 20 * UNIT - 2 * FLAT_COMMITMENT;
/// What a micropayment transaction of 20 outputs weighs with one fee input, in virtual bytes.
const MICROPAYMENT: u64 = 43 * 20 + 176;
/// What the transaction that makes its coin costs at 2 sat/vB: one input, two outputs.
const COIN: u64 = 309;

/// What claiming so many outputs costs at that rate.
fn claims_cost(outputs: u64, sat_per_vb: u64) -> u64 {
    ((214 + 399 * outputs) * sat_per_vb).div_ceil(4)
}

/// What taking so many outputs back costs at that rate.
fn refunds_cost(outputs: u64, sat_per_vb: u64) -> u64 {
    (214 + 334 * outputs).div_ceil(4) * sat_per_vb
}

/// So many calls were served.
fn calls(story: &Story, count: u32) -> ChannelId {
    let id = story.open_flat();
    for _ in 0..count {
        story.flat_call(id).unwrap();
    }
    id
}

fn is_over(story: &Story, id: ChannelId) -> bool {
    story.sellers(id).name() == "closed" && story.buyers(id).name() == "closed"
}

/// The commitment and the micropayment transaction are in blocks, and the claim is in the mempool.
fn published(story: &Story, id: ChannelId) -> (Transaction, Transaction) {
    let commitment = story.flat_commitment(id);
    story.close_alone(id);
    assert!(story.is_in_mempool(&commitment));
    story.mine(1);
    let spread = story.spends(&commitment, 1).expect("the micropayment transaction is in the mempool");
    assert_eq!((spread.version, spread.vsize() as u64), (Version::TWO, MICROPAYMENT));
    story.mine(1);
    (commitment, spread)
}

#[test]
fn a_cooperative_close_pays_what_was_spent_in_one_transaction() {
    let story = Story::flat();
    let id = calls(&story, 7);
    story.close_together(id);
    story.mine(FINALITY);
    story.assert_ended(id, SpendKind::Closing, 14_000, CAPACITY.to_sat() - 14_000 - 2 * CLOSING);
    assert_eq!(story.seller().balance().confirmed, sat(SELLERS_PURSE + 14_000));
}

/// The payer is gone: commitment, micropayment transaction, claim. It comes back and takes the rest.
#[test]
fn the_seller_closes_alone_and_each_output_goes_to_whom_it_is_due() {
    let mut story = Story::flat();
    let id = calls(&story, 12);
    let before = story.buyer().balance().total();
    story.stop_buyer();
    let (commitment, spread) = published(&story, id);
    let claim = story.spends(&spread, 0).expect("the claim is in the mempool");
    assert_eq!((claim.input.len(), story.spends(&spread, 12)), (12, None));
    story.mine(FINALITY);
    let claimed = 12 * UNIT - claims_cost(12, 2);
    let ending = story.sellers_end(id).unwrap();
    assert_eq!((ending.kind, ending.txid), (SpendKind::Commitment, commitment.compute_txid()));
    assert_eq!((ending.received, ending.left), (sat(PREPAID + claimed), sat(0)));
    let paid = COIN + 2 * MICROPAYMENT;
    assert_eq!(story.seller().balance().confirmed, sat(SELLERS_PURSE - paid + PREPAID + claimed));

    story.start_buyer();
    story.mine(D2 - FINALITY - 2);
    assert_eq!(story.spends(&spread, 12), None, "the delay has not passed");
    story.mine(1);
    let refund = story.spends(&spread, 12).expect("the refund is in the mempool");
    assert_eq!(refund.input.len(), 8);
    story.mine(FINALITY);
    let back = REST + 8 * UNIT - refunds_cost(8, 2);
    let ending = story.buyers_end(id);
    assert_eq!((ending.txid, ending.received, ending.left), (commitment.compute_txid(), sat(back), sat(0)));
    assert_eq!(story.buyer().balance().confirmed, before + sat(back));
}

/// The seller's wallet bought before. A funding that no seller has accepted stays back, though its change could pay a fee.
#[test]
fn a_funding_that_is_kept_back_pays_for_no_micropayment_transaction() {
    let mut story = Story::flat();
    let id = calls(&story, 12);
    let (offer, _) = story.seller().offer();
    let address = Address::from_script(&offer.payee.output, Network::Regtest).unwrap();
    story.node.send(&address, PURSE).unwrap();
    story.mine(1);
    story.stop_seller();
    let buyer =
        Buyer::start(&story.home("seller"), story.chain.clone(), story.setting.pace, FINALITY).unwrap();
    buyer.look().unwrap();
    let (kept_back, _) = buyer.propose(&offer, &limits(), CAPACITY, LIFETIME, "silent".to_owned()).unwrap();
    let funding = buyer.params(kept_back).unwrap().funding;
    drop(buyer);
    story.node.send(&address, sat(SELLERS_PURSE)).unwrap();
    story.mine(1);
    story.start_seller();
    published(&story, id);
    assert_eq!(story.chain.output(&funding).unwrap(), OutputStatus::Absent);
}

#[test]
fn the_payee_is_gone_and_the_payer_takes_everything_back_after_the_expiry() {
    let mut story = Story::flat();
    let id = calls(&story, 12);
    story.stop_seller();
    story.mine_to(story.buyer().params(id).unwrap().expiry.height());
    story.look();
    story.mine(FINALITY);
    let ending = story.buyers_end(id);
    assert_eq!((ending.kind, ending.received), (SpendKind::Refund, sat(CAPACITY.to_sat() - refund_fee(2))));
    assert_eq!(story.buyer().balance().confirmed, PURSE - sat(COIN + refund_fee(2)));
}

/// A payee that publishes the commitment and withholds the micropayment transaction.
#[test]
fn the_lsf_output_is_the_payers_again_after_d1() {
    let mut story = Story::flat();
    let id = calls(&story, 12);
    let commitment = story.flat_commitment(id);
    story.stop_seller();
    story.chain.broadcast(&commitment).unwrap();
    story.mine(D1 - 1);
    assert_eq!(story.spends(&commitment, 1), None);
    story.mine(1);
    let back = story.spends(&commitment, 1).expect("the buyer takes it back");
    story.mine(FINALITY);
    let received = back.output[0].value;
    assert_eq!(received, sat(20 * UNIT) - sat((2 * back.weight().to_wu()).div_ceil(4)));
    let ending = story.buyers_end(id);
    assert_eq!((ending.kind, ending.received), (SpendKind::Commitment, sat(REST) + received));
    // The seller that wakes up late says what it left.
    story.start_seller();
    story.look();
    let ending = story.sellers_end(id).unwrap();
    assert_eq!((ending.received, ending.left), (sat(PREPAID), sat(12 * UNIT)));
}

/// 20 outputs cost 1,036 vB and a claim 154 vB: at 2 sat/vB one call of 2,000 sat is not worth it.
#[test]
fn outputs_that_cost_more_than_they_bring_are_left_and_the_report_says_so() {
    let story = Story::flat();
    let id = calls(&story, 1);
    let commitment = story.flat_commitment(id);
    story.close_alone(id);
    story.mine(D1);
    let back = story.spends(&commitment, 1).expect("only the buyer wants it");
    assert_eq!(back.version, Version::TWO);
    assert_eq!(back.output.len(), 1);
    story.mine(FINALITY);
    let ending = story.sellers_end(id).unwrap();
    assert_eq!((ending.received, ending.left), (sat(PREPAID), sat(UNIT)));
    assert_eq!(story.seller().balance().confirmed, sat(SELLERS_PURSE + PREPAID));
    assert!(is_over(&story, id));
}

#[test]
fn a_reorganisation_takes_back_one_two_or_all_three_and_they_confirm_again() {
    for depth in [1, 2, 3] {
        let story = Story::flat();
        let id = calls(&story, 12);
        let (_, _) = published(&story, id);
        story.mine(1);
        let after = story.seller().balance().confirmed;

        story.reorganise(depth);
        story.look();
        assert_eq!((story.sellers(id).name(), story.buyers(id).name()), ("closing alone", "closing"));

        story.mine(FINALITY + 2);
        // A coin may have to be made afresh, out of one or two.
        let again = story.seller().balance().confirmed;
        assert!(again <= after && again + sat(500) >= after, "{depth}: {again}, {after} before");
        let ending = story.sellers_end(id).unwrap();
        assert_eq!(ending.received, sat(PREPAID + 12 * UNIT - claims_cost(12, 2)));
        story.mine(D2);
        assert!(is_over(&story, id));
    }
}

/// Fees rise between any two steps: what waits in the mempool is replaced.
#[test]
fn what_pays_too_little_by_now_is_replaced() {
    let mut story = Story::flat();
    let script = story.seller().offer().0.payee.output;
    let address = bitcoin::Address::from_script(&script, bitcoin::Network::Regtest).unwrap();
    story.node.send(&address, sat(5 * MICROPAYMENT)).unwrap(); // the coin for the higher fee
    let id = calls(&story, 12);
    let commitment = story.flat_commitment(id);
    story.close_alone(id);
    story.node.mine_with(std::slice::from_ref(&commitment)).unwrap();
    story.look();
    let first = story.spends(&commitment, 1).unwrap();
    story.fees_become(5);
    story.mine_empty(1);
    let second = story.spends(&commitment, 1).unwrap();
    assert_ne!(first.compute_txid(), second.compute_txid(), "it has another coin");
    assert_eq!(first.output, second.output);
    story.mine(1);
    let claim = story.spends(&second, 0).unwrap();
    story.fees_become(9);
    story.mine_empty(1);
    let dearer = story.spends(&second, 0).unwrap();
    assert_ne!(claim.compute_txid(), dearer.compute_txid());
    story.mine(FINALITY);
    let ending = story.sellers_end(id).unwrap();
    assert_eq!(ending.received, sat(PREPAID + 12 * UNIT - claims_cost(12, 9)));
    assert_eq!(story.seller().balance().pending, Amount::ZERO, "the first coin is free again");
}

/// When a batch is used up the next one takes its place: its base is all of the first.
#[test]
fn a_second_batch_pays_for_the_first() {
    let story = Story::flat();
    let id = calls(&story, 20);
    story.announce_batch(id);
    for _ in 0..8 {
        story.flat_call(id).unwrap();
    }
    assert_eq!(story.sellers(id).ledger().spent.floor(), sat(28 * UNIT));
    let (commitment, _) = published(&story, id);
    let base = PREPAID + 20 * UNIT;
    assert_eq!(commitment.output[0].value, sat(base));
    story.mine(FINALITY);
    assert_eq!(story.sellers_end(id).unwrap().received, sat(base + 8 * UNIT - claims_cost(8, 2)));
}

/// Calls whose preimages never arrived are paid by nobody.
#[test]
fn preimages_that_were_lost_are_the_payers_outputs() {
    let story = Story::flat();
    let id = calls(&story, 5);
    let cost = farthing_protocol::Msat::new(1_000 * UNIT);
    story.in_peace(|| {
        for _ in 0..3 {
            let _lost = wait(story.buyer().call(id, cost, &common::calls::TARGET, Allowed::ANYTHING));
        }
    });
    story.survive(|| story.reconcile(id)).unwrap();
    for _ in 0..4 {
        story.flat_call(id).unwrap();
    }
    let (_, spread) = published(&story, id);
    assert!(story.spends(&spread, 4).is_some() && story.spends(&spread, 8).is_some());
    assert_eq!([5, 6, 7].map(|lost| story.spends(&spread, lost)), [None, None, None]);
    story.mine(D2 + FINALITY);
    assert!(is_over(&story, id));
    let claimed = 9 * UNIT - claims_cost(9, 2);
    assert_eq!(story.sellers_end(id).unwrap().received, sat(PREPAID + claimed));
    assert_eq!(story.buyers_end(id).received, sat(REST + 11 * UNIT - refunds_cost(11, 2)));
}

// What the seller does not take.

/// To publish 20 outputs costs 2,072 sat at 2 sat/vB, and to make the coin for that 309. All payers may be gone at once.
#[test]
fn one_coin_covers_as_many_batches_as_it_could_publish_and_no_more() {
    let mut story = Story::set(|setting| setting.terms.flat = Some(flat_terms()));
    story.fund_seller(5_000);
    let announce = |story: &Story, id| {
        let told = story.survive(|| story.buyer().announce_batch(id, &flat_terms())).unwrap();
        let announced = || Announced::Batch(told.batch, told.signed.clone());
        let taken = story.survive(|| wait(story.seller().announce(id, announced(), told.payment)));
        story.announced(id, told.batch.number, taken.as_ref().ok().copied());
        taken
    };
    let ids = [story.fund(), story.fund(), story.fund()];
    story.mine(1);
    announce(&story, ids[0]).unwrap();
    announce(&story, ids[1]).unwrap();

    // Also by a seller that starts anew, and although nothing is revealed of the two.
    story.start_seller();
    let refused = announce(&story, ids[2]);
    let Err(AnnounceError::NoCoins { got, needed }) = refused else { panic!("{refused:?}") };
    assert_eq!((got, needed), (sat(5_000), sat(3 * (2 * MICROPAYMENT + COIN))));

    // A channel that is over needs no coin any more.
    story.close_together(ids[0]);
    story.mine(FINALITY);
    announce(&story, ids[2]).unwrap();
}

#[test]
fn a_seller_without_a_coin_takes_no_batch_whose_outputs_it_could_not_publish() {
    let story = Story::set(|setting| setting.terms.flat = Some(flat_terms()));
    let id = story.fund();
    story.mine(1);
    let told = story.survive(|| story.buyer().announce_batch(id, &flat_terms())).unwrap();
    let announced = || Announced::Batch(told.batch, told.signed.clone());
    let refused = story.survive(|| wait(story.seller().announce(id, announced(), told.payment)));
    assert!(matches!(refused, Err(AnnounceError::NoCoins { .. })), "{refused:?}");
    // With one it would, but its payer was told that this batch is refused.
    let script = story.seller().offer().0.payee.output;
    let address = bitcoin::Address::from_script(&script, bitcoin::Network::Regtest).unwrap();
    story.node.send(&address, sat(SELLERS_PURSE)).unwrap();
    story.mine(1);
    let late = story.survive(|| wait(story.seller().announce(id, announced(), told.payment)));
    assert!(late.is_err(), "{late:?}");
    story.announced(id, told.batch.number, None);
    story.announce_batch(id);
    story.flat_call(id).unwrap();
}

#[test]
fn a_batch_of_other_terms_and_a_chain_of_words_are_refused() {
    let story = Story::flat();
    let id = story.fund();
    story.mine(1);
    let other = farthing_protocol::flat::Terms { unit: sat(UNIT + 1), ..flat_terms() };
    let told = story.survive(|| story.buyer().announce_batch(id, &other)).unwrap();
    let announced = || Announced::Batch(told.batch, told.signed.clone());
    let refused = story.survive(|| wait(story.seller().announce(id, announced(), told.payment)));
    assert!(matches!(refused, Err(AnnounceError::OtherTerms)), "{refused:?}");
    let id = story.fund();
    story.mine(1);
    let told = story.survive(|| story.buyer().announce(id, common::calls::rungs(1_000, 5))).unwrap();
    let announced = || Announced::Chain(told.terms, told.rungs.clone());
    let refused = story.survive(|| wait(story.seller().announce(id, announced(), told.payment)));
    assert!(matches!(refused, Err(AnnounceError::OtherMode(_))), "{refused:?}");
}

#[test]
fn flat_mode_with_a_store_every_so_often_does_not_start() {
    let story = Story::flat();
    let terms = farthing_node::seller::Terms {
        durability: Durability::Batch(std::time::Duration::from_millis(10)),
        ..story.setting.terms
    };
    let home = story.home("buyer");
    let started = farthing_node::seller::Seller::start(&home, story.chain.clone(), story.setting.pace, terms);
    assert!(matches!(started, Err(StartError::FlatInBatches)));
}
