//! How a channel ends: together, alone, by refund, and while one side was off.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

mod common;

use bitcoin::Transaction;
use common::*;
use farthing_node::buyer::Buyer;
use farthing_protocol::ChannelId;
use farthing_protocol::channel::SpendKind;

const REST: u64 = 60_000;

#[test]
fn both_close_together_and_each_has_its_share() {
    let story = Story::begin();
    let id = story.open(39_000);
    story.buy(id, 1_000).unwrap();
    let change = story.buyer().balance().total();

    story.close_together(id);

    story.mine(FINALITY - 1);
    assert_eq!((story.sellers(id).name(), story.buyers(id).name()), ("closing", "closing"));
    story.mine(1);
    story.assert_ended(id, SpendKind::Closing, 40_000, REST - 2 * CLOSING);
    assert_eq!(story.seller().balance().confirmed, sat(40_000));
    assert_eq!(story.buyer().balance().confirmed, change + sat(REST - 2 * CLOSING));
}

#[test]
fn what_was_prepaid_and_not_spent_comes_back() {
    let story = Story::begin();
    let id = story.open(400);
    assert_eq!(story.sellers(id).ledger().paid().floor(), sat(552));

    story.close_together(id);

    story.mine(FINALITY);
    story.assert_ended(id, SpendKind::Closing, 400, CAPACITY.to_sat() - 400 - 2 * CLOSING);
}

#[test]
fn a_closing_that_the_buyer_never_publishes_gives_way_to_the_commitment() {
    let story = Story::begin();
    let id = story.open(40_000);
    let propose = || wait(story.buyer().propose_closing(id, rate(2), None));
    let proposal = story.survive(propose).unwrap().unwrap();
    story.survive(|| story.seller().settle(id, proposal.settlement(), &proposal.public_nonce())).unwrap();

    story.mine(PATIENCE - 1);
    assert_eq!((story.sellers(id).name(), story.spender(id)), ("closing", None));
    story.mine(1);

    assert_eq!(story.spender(id), Some(story.commitment(id)));
    story.mine(FINALITY);
    story.assert_ended(id, SpendKind::Commitment, 40_000, REST - 2 * COMMITMENT);
}

/// Else a refund could replace it from the expiry on, and the seller would have nothing.
#[test]
fn an_agreed_closing_that_pays_too_little_gives_way_to_the_commitment_before_the_expiry() {
    let mut story = Story::begin();
    let id = story.open(40_000);
    let margin = story.expiry(id) - MARGIN;
    story.mine_to(margin - 3);
    story.look();
    let closing = story.close_together(id);
    story.fees_become(30);
    story.mine_empty(2);
    assert_eq!(story.spender(id), Some(closing));

    story.mine_empty(1);

    let commitment = story.commitment(id);
    assert_eq!(story.spender(id), Some(commitment.clone()));
    assert_eq!(story.package(&commitment), (30 * (COMMITMENT + CHILD), COMMITMENT + CHILD));
    story.mine(FINALITY);
    story.assert_ended(id, SpendKind::Commitment, 40_000, REST - 2 * COMMITMENT);
}

/// The buyer's child pays little for its size, so the closing does not confirm.
#[test]
fn a_closing_that_the_buyer_pins_gives_way_to_the_commitment_before_the_expiry() {
    let (story, id, pin) = pinned_closing_at_the_margin(2, 30);
    assert_closing_gave_way(&story, id, &pin, 30);
}

/// To replace the closing takes more than its child pays, which here is more than the commitment needs to confirm.
#[test]
fn a_closing_that_the_buyer_pins_with_more_than_is_needed_gives_way_as_well() {
    let (story, id, pin) = pinned_closing_at_the_margin(3, 5);
    assert_closing_gave_way(&story, id, &pin, 5);
}

#[test]
fn a_closing_that_confirms_since_the_buyers_child_pays_enough_is_left_in_place() {
    let (story, id, pin) = pinned_closing_at_the_margin(6, 5);
    assert!(story.is_in_mempool(&pin));
    story.mine(FINALITY);
    story.assert_ended(id, SpendKind::Closing, 40_000, REST - 2 * CLOSING);
    assert_eq!(story.seller().balance().confirmed, sat(40_000), "and nothing is paid to replace it");
}

/// The buyer attaches a child to the closing that pays `own` sat/vB for itself. Then `fees` confirm, nothing is mined, and
/// the margin is reached.
fn pinned_closing_at_the_margin(own: u32, fees: u32) -> (Story, ChannelId, Transaction) {
    let mut story = Story::begin();
    let id = story.open(40_000);
    story.mine_to(story.expiry(id) - MARGIN - 3);
    story.look();
    let closing = story.close_together(id);
    let pin = story.buyer_pins(id, &closing, rate(own));
    story.chain.broadcast(&pin).unwrap();
    story.fees_become(fees);
    story.mine_empty(2);
    assert_eq!((story.spender(id), story.is_in_mempool(&pin)), (Some(closing), true));
    story.mine_empty(1);
    (story, id, pin)
}

fn assert_closing_gave_way(story: &Story, id: ChannelId, pin: &Transaction, fees: u64) {
    let commitment = story.commitment(id);
    assert!(story.is_in_mempool(&commitment) && !story.is_in_mempool(pin), "the closing stays");
    let (fee, vsize) = story.package(&commitment);
    assert!(fee >= fees * vsize, "{fee} sat for {vsize} vB");
    story.mine(FINALITY);
    story.assert_ended(id, SpendKind::Commitment, 40_000, REST - 2 * COMMITMENT);
    assert_eq!(story.seller().balance().confirmed, sat(40_000 - (fee - 2 * COMMITMENT)));
}

#[test]
fn the_seller_closes_alone_by_itself_before_the_expiry() {
    let story = Story::begin();
    let id = story.open(40_000);
    let margin = story.expiry(id) - MARGIN;
    story.mine_to(margin - 1);
    story.look();
    assert_eq!(story.sellers(id).name(), "open");

    story.mine(1);

    assert_eq!(story.sellers(id).name(), "closing alone");
    story.mine(FINALITY);
    story.assert_ended(id, SpendKind::Commitment, 40_000, REST - 2 * COMMITMENT);
}

#[test]
fn a_seller_that_starts_within_the_margin_publishes_at_once() {
    let mut story = Story::begin();
    let id = story.open(40_000);
    let commitment = story.commitment(id);
    let late = story.expiry(id) - 3;
    story.stop_seller();
    story.mine_to(late);

    story.start_seller();
    story.look();

    assert!(story.is_in_mempool(&commitment));
    story.mine(FINALITY);
    story.assert_ended(id, SpendKind::Commitment, 40_000, REST - 2 * COMMITMENT);
}

/// A seller that wakes after the expiry, when the refund is in the mempool at 20 sat/vB. Its own target would not do.
fn woken_late(paid: u64) -> (Story, ChannelId) {
    woken_late_after(paid, |_, _| {})
}

/// The same, and more that the payer did before.
fn woken_late_after(paid: u64, before: impl FnOnce(&Story, ChannelId)) -> (Story, ChannelId) {
    let mut story = Story::begin();
    let id = story.open(paid);
    let expiry = story.expiry(id);
    story.stop_seller();
    story.mine_to(expiry);
    story.fees_become(20);
    assert_eq!(story.buyers(id).name(), "refunding");
    before(&story, id);

    story.setting.pace.fallback_fee_rate = rate(2);
    story.start_seller();
    story.look();
    assert_eq!(story.sellers(id).name(), "closing alone", "it tries");
    story.mine(FINALITY);
    (story, id)
}

/// The child pays what the refund pays, and more for each byte.
#[test]
fn a_seller_that_sleeps_past_the_expiry_takes_the_place_of_a_refund_while_it_is_unconfirmed() {
    let (story, id) = woken_late(40_000);
    story.assert_ended(id, SpendKind::Commitment, 40_000, REST - 2 * COMMITMENT);
    let left = story.seller().balance().confirmed;
    assert!(sat(33_000) < left && left < sat(40_000 - 20 * CHILD), "{left}");
}

/// A closing that pays the seller was agreed with it. A refund was not, whatever it pays.
#[test]
fn a_refund_that_pays_the_seller_is_displaced_like_any_other() {
    let gives = |story: &Story, id: ChannelId| {
        let refund = story.refund_to_seller(id, rate(30));
        story.chain.broadcast(&refund).unwrap();
        assert!(story.is_in_mempool(&refund), "it has the other refund's place");
    };
    let (story, id) = woken_late_after(40_000, gives);
    story.assert_ended(id, SpendKind::Commitment, 40_000, REST - 2 * COMMITMENT);
}

#[test]
fn a_seller_that_sleeps_past_the_expiry_loses_everything_to_a_refund_that_pays_more_than_its_claim() {
    let (story, id) = woken_late(4_000);
    story.assert_ended(id, SpendKind::Refund, 0, CAPACITY.to_sat() - refund_fee(20));
    assert_eq!(story.seller().balance().total(), sat(0));
}

/// Nothing but fees decides from the expiry on: a commitment and its child that pay more take the refund's place.
#[test]
fn a_seller_that_sleeps_past_the_expiry_may_still_be_lucky() {
    let mut story = Story::begin();
    let id = story.open(40_000);
    let expiry = story.expiry(id);
    story.stop_seller();
    story.mine_to(expiry);
    story.look();
    assert_eq!(story.buyers(id).name(), "refunding");

    story.setting.pace.fallback_fee_rate = rate(20);
    story.start_seller();
    story.look();

    story.mine(FINALITY);
    story.assert_ended(id, SpendKind::Commitment, 40_000, REST - 2 * COMMITMENT);
}

#[test]
fn a_channel_that_nothing_was_bought_in_is_refunded() {
    let story = Story::begin();
    let id = story.fund();
    story.mine(1);
    let (expiry, margin) = (story.expiry(id), story.expiry(id) - MARGIN);
    story.mine_to(margin);
    story.look();
    assert_eq!(story.sellers_end(id), None);

    story.mine_to(expiry);
    story.look();
    story.mine(FINALITY);

    assert_eq!(story.buyers_end(id).kind, SpendKind::Refund);
}

#[test]
fn a_seller_that_was_off_for_fifty_blocks_finds_the_closing() {
    let mut story = Story::begin();
    let id = story.open(40_000);
    story.close_together(id);
    story.stop_seller();
    story.node.mine(50).unwrap();

    story.start_seller();
    story.look();

    story.assert_ended(id, SpendKind::Closing, 40_000, REST - 2 * CLOSING);
    assert_eq!(story.seller().balance().confirmed, sat(40_000));
}

#[test]
fn a_buyer_that_was_off_for_fifty_blocks_finds_the_commitment() {
    let mut story = Story::begin();
    let id = story.open(40_000);
    story.stop_buyer();
    story.close_alone(id);
    story.node.mine(50).unwrap();

    story.start_buyer();
    story.look();

    story.assert_ended(id, SpendKind::Commitment, 40_000, REST - 2 * COMMITMENT);
}

#[test]
fn a_seller_that_was_off_for_fifty_blocks_finds_the_refund() {
    let mut story = Story::begin();
    let id = story.open(40_000);
    let expiry = story.expiry(id);
    story.stop_seller();
    story.mine_to(expiry);
    story.look();
    story.node.mine(50).unwrap();

    story.start_seller();
    story.look();

    story.assert_ended(id, SpendKind::Refund, 0, CAPACITY.to_sat() - refund_fee(2));
}

/// A block is taken in once, by whichever role runs in the folder.
#[test]
fn blocks_that_a_wallet_command_took_in_are_not_lost_to_the_seller() {
    let mut story = Story::begin();
    let id = story.open(40_000);
    story.close_together(id);
    story.stop_seller();
    story.node.mine(50).unwrap();
    let wallet =
        Buyer::start(&story.home("seller"), story.chain.clone(), story.setting.pace, FINALITY).unwrap();
    wallet.look().unwrap();
    assert_eq!(wallet.balance().confirmed, sat(40_000));
    drop(wallet);

    story.start_seller();
    story.look();

    story.assert_ended(id, SpendKind::Closing, 40_000, REST - 2 * CLOSING);
    assert_eq!(story.seller().balance().confirmed, sat(40_000));
}

#[test]
fn a_refund_is_replaced_when_fees_rise_by_a_quarter_and_not_by_less() {
    let mut story = Story::set(|setting| setting.pace.fallback_fee_rate = rate(8));
    let id = story.open(40_000);
    let (funding, expiry) = (story.funding(id), story.expiry(id));
    let refund = |story: &Story| story.chain.mempool_spender(&funding).unwrap().unwrap();
    story.stop_seller();
    story.mine_to(expiry);
    story.look();
    let first = refund(&story);

    story.fees_become(9);
    story.mine_empty(1);
    assert_eq!(refund(&story), first);
    story.fees_become(10);
    let second = refund(&story);
    assert_ne!(second, first);

    story.mine(FINALITY);
    assert_eq!(story.buyers_end(id).txid, second.compute_txid());
}

#[test]
fn a_refund_is_replaced_with_the_next_block_when_fees_rise() {
    let mut story = Story::set(|setting| setting.node = &["-fallbackfee=0.0003"]);
    let id = story.open(40_000);
    let (funding, expiry) = (story.funding(id), story.expiry(id));
    story.stop_seller();
    story.mine_to(expiry);
    story.look();

    for _ in 0..10 {
        story.others_pay();
    }

    let refund = story.chain.mempool_spender(&funding).unwrap().unwrap();
    let (fee, vsize) = story.package(&refund);
    assert!(fee >= 29 * vsize, "{fee} sat for {vsize} vB");
    story.mine(FINALITY);
    assert_eq!(story.buyers_end(id).txid, refund.compute_txid());
}
