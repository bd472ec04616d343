//! How deep a funding must be, and openings whose funding is not what it should be.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

mod common;

use std::time::Duration;

use bitcoin::hashes::Hash as _;
use bitcoin::{Amount, OutPoint, Txid};
use common::stranger::Stranger;
use common::*;
use farthing_node::books::OrderError;
use farthing_node::buyer::{ProposeError, SendError};
use farthing_node::seller::{AcceptError, SettleError};
use farthing_node::wallet::WalletError;
use farthing_protocol::channel::Expiry;
use farthing_protocol::closing::{Proposal, Settlement};
use farthing_protocol::keys::KeyId;
use farthing_protocol::{Channel, ChannelId, Msat, Params, Party, commitment, payee};

#[test]
fn a_channel_of_more_money_serves_after_more_blocks() {
    let story = Story::set(|setting| setting.terms.confirmations.one_more_per = sat(50_000));
    let id = story.fund();
    for _ in 0..2 {
        story.mine(1);
        assert_eq!(story.sellers(id).name(), "awaiting depth");
        assert!(is_not_deep_enough(&story.buy(id, 1)));
    }

    story.mine(1);

    assert_eq!(story.sellers(id).name(), "open");
    story.buy(id, 1).unwrap();
}

#[test]
fn what_may_be_spent_of_an_unconfirmed_funding_is_counted_to_the_last_satoshi() {
    let story = Story::set(|setting| setting.terms.unconfirmed_cap = Msat::new(1_000_000));
    let id = story.fund();
    story.buy(id, 600).unwrap();
    story.buy(id, 400).unwrap();

    assert!(is_not_deep_enough(&story.buy(id, 1)));

    assert_eq!(story.sellers(id).ledger().spent.floor(), sat(1_000));
    story.mine(1);
    story.buy(id, 1).unwrap();
}

/// Anybody can name one.
#[test]
fn of_a_funding_that_nobody_has_seen_nothing_may_be_spent() {
    let story = Story::set(|setting| setting.terms.unconfirmed_cap = Msat::new(1_000_000));
    let stranger = Stranger::meets(&story);
    let funding = OutPoint { txid: Txid::from_byte_array([9; 32]), vout: 0 };
    let id = stranger.opens(&story, funding);
    story.look();
    let channel = Channel::new(Params { funding, ..stranger.params.clone() }).unwrap();
    let keys = stranger.seed.channel_keys(KeyId::from_u64(Stranger::KEY));
    let payment = commitment::sign(&channel, &keys, Msat::new(1_000_000));
    let item = farthing_node::books::Item { id: [1; 32], cost: Msat::new(1_000) };
    let bought = story.survive(|| wait(story.seller().charge(id, item, Some(payment))));
    assert!(is_not_deep_enough(&bought), "{bought:?}");
    assert!(story.sellers(id).is_unfunded(), "so it is forgotten in time");
}

#[test]
fn a_funding_of_one_satoshi_less_opens_nothing() {
    let story = Story::begin();
    let stranger = Stranger::meets(&story);
    let wrong = stranger.pays(&story, &stranger.script(), CAPACITY - sat(1));
    assert_leaves_nothing(&story, &stranger, wrong);
}

#[test]
fn a_funding_of_another_script_opens_nothing_when_it_is_in_a_block() {
    let story = Story::begin();
    let stranger = Stranger::meets(&story);
    let own = story.buyers_address().script_pubkey();
    let wrong = stranger.pays(&story, &own, CAPACITY);
    story.mine(1);
    assert_leaves_nothing(&story, &stranger, wrong);
}

#[test]
fn another_output_of_the_right_transaction_opens_nothing() {
    let story = Story::begin();
    let stranger = Stranger::meets(&story);
    let right = stranger.pays(&story, &stranger.script(), CAPACITY);
    assert_leaves_nothing(&story, &stranger, OutPoint { vout: 1 - right.vout, ..right });
}

/// Only whoever makes a transaction can name its outputs before it is there.
#[test]
fn an_output_that_turns_out_to_be_another_opens_nothing() {
    let story = Story::begin();
    let stranger = Stranger::meets(&story);
    let (id, signature) = story.propose();
    let kept_back = story.funding(id);
    let wrong = stranger.opens(&story, OutPoint { vout: 1 - kept_back.vout, ..kept_back });
    story.accepted(id, signature);
    assert_never_opens(&story, wrong);
    story.mine(1);
    assert_eq!(story.sellers(id).name(), "open");
}

/// That the ones above fail for their own reasons.
#[test]
fn a_stranger_that_pays_what_it_should_is_served() {
    let story = Story::begin();
    let stranger = Stranger::meets(&story);
    let right = stranger.pays(&story, &stranger.script(), CAPACITY);
    let id = stranger.opens(&story, right);
    story.mine(1);
    assert_eq!(story.sellers(id).name(), "open");
}

/// Else a payer could spend the same money in each, and the seller claim it once.
#[test]
fn one_funding_backs_one_channel_whatever_else_differs() {
    let story = Story::begin();
    let stranger = Stranger::meets(&story);
    let funding = stranger.pays(&story, &stranger.script(), CAPACITY);
    let first = stranger.opens(&story, funding);
    story.mine(1);
    let same = Params { funding, ..stranger.params.clone() };

    let more_prepaid = Params { prepaid: same.prepaid + sat(1), ..same.clone() };
    let other_fees = Params { fee_rate: rate(1), ..same.clone() };
    let other_output =
        Params { payer: Party { output: stranger.script(), ..same.payer.clone() }, ..same.clone() };

    for params in [more_prepaid, other_fees, other_output] {
        let refused = stranger.tries_to_open(&story, params);
        assert!(matches!(refused, Err(AcceptError::Order(OrderError::FundingTaken(_)))), "{refused:?}");
    }
    assert_eq!(stranger.tries_to_open(&story, same).unwrap(), first, "the same opening gets the same answer");
}

#[test]
fn an_opening_that_is_never_funded_is_forgotten_at_its_expiry() {
    let story = Story::begin();
    let (id, _) = story.propose();
    let expiry = story.expiry(id);
    story.mine_to(expiry - 1);
    story.look();
    assert_eq!(story.sellers(id).name(), "awaiting depth");

    story.mine(1);

    assert_never_opens(&story, id);
}

/// What would spend the change of a funding that is kept back could not be sent when its seller refuses.
#[test]
fn the_change_of_a_funding_that_is_kept_back_pays_for_nothing() {
    let story = Story::begin();
    let elsewhere = story.seller().offer().0.payee.output;
    let (id, signature) = story.propose();
    let (offer, _) = story.seller().offer();
    let peer = || "another".to_owned();

    let refused = story.survive(|| story.buyer().propose(&offer, &limits(), CAPACITY, LIFETIME, peer()));
    assert!(matches!(refused, Err(ProposeError::Wallet(WalletError::Insufficient { .. }))), "{refused:?}");
    for amount in [Some(sat(10_000)), None] {
        let refused = story.survive(|| story.buyer().send(elsewhere.clone(), amount));
        assert!(matches!(refused, Err(SendError::Wallet(WalletError::Insufficient { .. }))), "{refused:?}");
    }
    let refused = story.survive(|| story.buyer().prepare_payment(elsewhere.clone(), sat(10_000)));
    assert!(matches!(refused, Err(SendError::Wallet(WalletError::Insufficient { .. }))), "{refused:?}");

    story.accepted(id, signature);
    story.fund();
}

/// A payment that waits for its signatures may never be sent either. Once it is, its change is money.
#[test]
fn the_change_of_a_payment_that_is_not_signed_pays_for_nothing() {
    let story = Story::begin();
    let (offer, _) = story.seller().offer();
    let elsewhere = || offer.payee.output.clone();
    let prepared = story.in_peace(|| story.buyer().prepare_payment(elsewhere(), sat(20_000))).unwrap();
    let refused = story.survive(|| story.buyer().send(elsewhere(), Some(sat(10_000))));
    assert!(matches!(refused, Err(SendError::Wallet(WalletError::Insufficient { .. }))), "{refused:?}");

    let sent = story.survive(|| story.buyer().send_prepared(prepared.clone())).unwrap();
    assert!(story.is_in_mempool(&sent));
    let spends_change = story.in_peace(|| story.buyer().send(elsewhere(), Some(sat(10_000)))).unwrap();
    assert_eq!(spends_change.input[0].previous_output.txid, sent.compute_txid());
}

#[test]
fn the_coins_of_a_payment_that_is_given_up_before_it_is_signed_are_free() {
    let story = Story::begin();
    let elsewhere = story.seller().offer().0.payee.output;
    let prepare =
        || story.in_peace(|| story.buyer().prepare_payment(elsewhere.clone(), sat(20_000))).unwrap();
    let given_up = prepare().unsigned_tx.compute_txid();
    story
        .survive(|| match story.buyer().give_up_prepared(given_up) {
            // It was stored before the death.
            Err(SendError::NotPrepared(_)) => Ok(()),
            done => done,
        })
        .unwrap();
    let again = story.buyer().give_up_prepared(given_up);
    assert!(matches!(again, Err(SendError::NotPrepared(txid)) if txid == given_up), "{again:?}");

    let prepared = prepare();
    let sent = story.survive(|| story.buyer().send_prepared(prepared.clone())).unwrap();
    let refused = story.buyer().give_up_prepared(sent.compute_txid());
    assert!(matches!(refused, Err(SendError::NotPrepared(_))), "{refused:?}");
    assert!(story.is_in_mempool(&sent));
}

#[test]
fn one_seller_that_refuses_leaves_another_its_funding_and_the_buyer_its_coin() {
    let story = Story::begin();
    story.node.send(&story.buyers_address(), PURSE).unwrap();
    story.mine(1);
    let (first, _) = story.propose();
    let (second, signature) = story.propose();
    story.accepted(second, signature);

    // Only the first one waits.
    story.survive(|| wait(story.buyer().give_up_interrupted_openings())).unwrap();
    story.look();
    assert_eq!(story.buyers(first).name(), "abandoned");

    let funding = story.funding_transaction(second);
    assert!(story.chain.mempool_transaction(&funding.compute_txid()).unwrap().is_some());
    let fee = story.survive(|| wait(story.buyer().funding_fee(second))).unwrap().unwrap();
    assert_eq!(story.buyer().balance().total(), PURSE * 2 - CAPACITY - fee);
    story.mine(1);
    assert_eq!(story.buyers(second).name(), "open");
}

/// A hostile buyer need not keep to the offer.
#[test]
fn terms_beyond_what_the_seller_offers_are_refused_and_nothing_is_stored() {
    let story = Story::begin();
    let stranger = Stranger::meets(&story);
    let (good, tip) = (stranger.params.clone(), story.chain.tip().unwrap().height);
    let at = |blocks: u32| Expiry::at_height(tip + blocks);
    let bad = [
        Params { fee_rate: rate(3), ..good.clone() },
        Params { capacity: sat(9_999), ..good.clone() },
        Params { capacity: sat(100_000_001), ..good.clone() },
        Params { expiry: at(MARGIN), ..good.clone() },
        Params { expiry: at(1_200), ..good.clone() },
    ];
    for params in bad {
        let refused = stranger.tries_to_open(&story, params.clone());
        assert!(matches!(refused, Err(AcceptError::Refused(_))), "{refused:?} {params:?}");
    }
    assert!(story.survive(|| wait(story.seller().channels())).unwrap().is_empty());
    stranger.tries_to_open(&story, good).unwrap();
}

/// Also of those that sign a payment out of nothing, and ask for a channel of calls.
#[test]
fn whoever_never_funds_gives_up_its_place_whatever_it_signed() {
    let story = Story::set(|setting| {
        setting.terms.most_unfunded = 1;
        setting.terms.time_to_fund = Duration::ZERO;
    });
    let open = |number| {
        let stranger = Stranger::meets(&story);
        let funding = OutPoint { txid: Txid::from_byte_array([number; 32]), vout: 0 };
        let params = Params { funding, ..stranger.params.clone() };
        stranger.tries_to_open(&story, params.clone()).unwrap();
        let channel = Channel::new(params).unwrap();
        let keys = stranger.seed.channel_keys(KeyId::from_u64(Stranger::KEY));
        let payment = commitment::sign(&channel, &keys, channel.max_total());
        (channel.id(), payment)
    };
    let (id, payment) = open(1);
    let item = farthing_node::books::Item { id: [1; 32], cost: Msat::ZERO };
    story.survive(|| wait(story.seller().charge(id, item, Some(payment)))).unwrap();
    let (second, _) = open(2);
    let states = story.survive(|| wait(story.seller().channels())).unwrap();
    let is_waiting = |id| states.iter().any(|entry| entry.id == id && entry.state.is_unfunded());
    assert!(!is_waiting(id) && is_waiting(second));
}

#[test]
fn an_opening_that_nobody_funds_does_not_get_out_of_its_place_by_being_closed() {
    let story = Story::set(|setting| setting.terms.most_unfunded = 1);
    let stranger = Stranger::meets(&story);
    let at = |number| {
        let funding = OutPoint { txid: Txid::from_byte_array([number; 32]), vout: 0 };
        Params { funding, ..stranger.params.clone() }
    };
    let id = stranger.tries_to_open(&story, at(1)).unwrap();
    let (channel, keys) =
        (Channel::new(at(1)).unwrap(), stranger.seed.channel_keys(KeyId::from_u64(Stranger::KEY)));
    let nothing = Settlement { to_payee: Amount::ZERO, fee_rate: rate(2) };
    let proposal = Proposal::new(&channel, &keys, nothing, [5; 32]).unwrap();
    let refused =
        story.survive(|| story.seller().settle(id, proposal.settlement(), &proposal.public_nonce()));
    assert!(matches!(refused, Err(SettleError::Unfunded)), "{refused:?}");
    let second = stranger.tries_to_open(&story, at(2));
    assert!(matches!(second, Err(AcceptError::TooManyUnfunded(1))), "{second:?}");
}

/// Naming what anybody can see takes up no room.
fn assert_leaves_nothing(story: &Story, stranger: &Stranger, funding: OutPoint) {
    let refused = stranger.tries_to_open(story, Params { funding, ..stranger.params.clone() });
    assert!(matches!(refused, Err(AcceptError::OtherOutput(named)) if named == funding), "{refused:?}");
    assert_eq!(story.survive(|| wait(story.seller().channels())).unwrap().len(), 0);
}

fn assert_never_opens(story: &Story, id: ChannelId) {
    assert_eq!(story.sellers_end(id), None, "there is nothing to claim");
    let item = farthing_node::books::Item { id: [1; 32], cost: Msat::ZERO };
    let refused = story.survive(|| wait(story.seller().charge(id, item, None)));
    assert!(matches!(refused, Err(OrderError::Rejected(payee::Reject::NotOpen("closed")))), "{refused:?}");
}
