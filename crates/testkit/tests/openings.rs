//! How deep a funding must be, and openings whose funding is not what it should be.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

mod common;

use std::time::Duration;

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash as _;
use bitcoin::transaction::Version;
use bitcoin::{Address, Amount, Network, OutPoint, ScriptBuf, Transaction, TxOut, Txid};
use common::*;
use farthing_node::books::OrderError;
use farthing_node::buyer::ProposeError;
use farthing_node::seller::{AcceptError, SettleError};
use farthing_protocol::channel::Expiry;
use farthing_protocol::closing::{Proposal, Settlement};
use farthing_protocol::keys::{KeyId, Seed};
use farthing_protocol::opening::{Offer, Opening};
use farthing_protocol::{Channel, ChannelId, Msat, Params, Party, commitment, payee, payer};
use farthing_testkit::wait::never;

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

#[test]
fn a_funding_of_one_satoshi_less_opens_nothing() {
    let story = Story::begin();
    let stranger = Stranger::meets(&story);
    let wrong = stranger.pays(&story, &stranger.script(), CAPACITY - sat(1));
    let id = stranger.opens(&story, wrong);
    story.look();
    assert_never_opens(&story, id);
}

#[test]
fn a_funding_of_another_script_opens_nothing_when_it_is_in_a_block() {
    let story = Story::begin();
    let stranger = Stranger::meets(&story);
    let own = story.buyer().new_address().unwrap().script_pubkey();
    let wrong = stranger.pays(&story, &own, CAPACITY);
    story.mine(1);
    let id = stranger.opens(&story, wrong);
    story.look();
    assert_never_opens(&story, id);
}

#[test]
fn another_output_of_the_right_transaction_opens_nothing() {
    let story = Story::begin();
    let stranger = Stranger::meets(&story);
    let right = stranger.pays(&story, &stranger.script(), CAPACITY);
    let id = stranger.opens(&story, OutPoint { vout: 1 - right.vout, ..right });
    story.look();
    assert_never_opens(&story, id);
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
    assert!(wait(story.seller().channels()).unwrap().is_empty());
    stranger.tries_to_open(&story, good).unwrap();
}

/// Somebody else holds the database for so long that the write fails, as on a full disk.
#[test]
fn the_coins_of_a_proposal_that_could_not_be_stored_are_free_again() {
    let mut story = Story::begin();
    let (mut database, (offer, _)) = (story.home("buyer").store().unwrap(), story.seller().offer());
    let everything = PURSE - sat(1_000);
    let propose = |story: &Story| {
        story.buyer().propose(&offer, &limits(), everything, LIFETIME, "story".to_owned()).map(|(id, _)| id)
    };

    let held = database.batch().unwrap();
    let refused = propose(&story);
    assert!(matches!(refused, Err(ProposeError::Order(OrderError::Store(_)))), "{refused:?}");
    drop(held);

    assert_eq!(story.buyer().balance().confirmed, PURSE);
    assert!(wait(story.buyer().channels()).unwrap().is_empty());
    let id = propose(&story).unwrap();
    wait(story.buyer().refused(id)).unwrap();
    story.mine(1);
    story.start_buyer();
    assert_eq!(story.buyer().balance().confirmed, PURSE, "also as it is stored");
    propose(&story).unwrap();
}

/// However many come while the first is being stored.
#[test]
fn no_more_openings_are_accepted_than_may_wait_for_their_funding() {
    let story = Story::set(|setting| setting.terms.most_unfunded = 2);
    let mut database = story.home("seller").store().unwrap();
    let tries = |number| {
        let (stranger, story) = (Stranger::meets(&story), &story);
        let funding = OutPoint { txid: Txid::from_byte_array([number; 32]), vout: 0 };
        move || stranger.tries_to_open(story, Params { funding, ..stranger.params.clone() })
    };

    let answers: Vec<_> = std::thread::scope(|scope| {
        let held = database.batch().unwrap();
        let threads: Vec<_> = (0..16).map(tries).map(|tries| scope.spawn(tries)).collect();
        let answered = || Ok(threads.iter().any(|thread| thread.is_finished()).then_some(()));
        never("an answer before anything is stored", Duration::from_millis(500), answered).unwrap();
        drop(held);
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });

    let (accepted, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((accepted.len(), refused.len()), (2, 14));
    assert!(refused.iter().all(|answer| matches!(answer, Err(AcceptError::TooManyUnfunded(2)))));
    assert_eq!(wait(story.seller().channels()).unwrap().len(), 2);
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
    wait(story.seller().charge(id, item, Some(payment))).unwrap();
    let (second, _) = open(2);
    let states = wait(story.seller().channels()).unwrap();
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
    let refused = story.seller().settle(id, proposal.settlement(), &proposal.public_nonce());
    assert!(matches!(refused, Err(SettleError::Unfunded)), "{refused:?}");
    let second = stranger.tries_to_open(&story, at(2));
    assert!(matches!(second, Err(AcceptError::TooManyUnfunded(1))), "{second:?}");
}

fn assert_never_opens(story: &Story, id: ChannelId) {
    assert_eq!(story.sellers_end(id), None, "there is nothing to claim");
    let item = farthing_node::books::Item { id: [1; 32], cost: Msat::ZERO };
    let refused = wait(story.seller().charge(id, item, None));
    assert!(matches!(refused, Err(OrderError::Rejected(payee::Reject::NotOpen("closed")))), "{refused:?}");
}

/// The stranger never has to broadcast anything.
fn nothing() -> Transaction {
    Transaction { version: Version::TWO, lock_time: LockTime::ZERO, input: Vec::new(), output: Vec::new() }
}

/// A buyer of the test's own, which may lie about its funding.
struct Stranger {
    seed: Seed,
    offer: Offer,
    key: KeyId,
    params: Params,
}

impl Stranger {
    const KEY: u64 = 7;

    fn meets(story: &Story) -> Self {
        let seed = Seed::new([7; 64], Network::Regtest);
        let keys = seed.channel_keys(KeyId::from_u64(Self::KEY));
        let (offer, key) = story.seller().offer();
        let output = story.buyer().new_address().unwrap().script_pubkey();
        let params = Params {
            network: Network::Regtest,
            funding: OutPoint::null(),
            capacity: CAPACITY,
            expiry: Expiry::at_height(story.chain.tip().unwrap().height + LIFETIME),
            fee_rate: rate(2),
            prepaid: Offer::prepaid(rate(2)),
            payer: Party { funding: keys.funding(), session: keys.session(), output },
            payee: offer.payee.clone(),
        };
        Self { seed, offer, key, params }
    }

    /// What its funding should pay.
    fn script(&self) -> ScriptBuf {
        Channel::new(self.params.clone()).unwrap().funding_txout().script_pubkey
    }

    /// An unconfirmed output.
    fn pays(&self, story: &Story, script: &ScriptBuf, amount: Amount) -> OutPoint {
        let txid = story.node.send(&Address::from_script(script, Network::Regtest).unwrap(), amount).unwrap();
        let transaction = story.chain.mempool_transaction(&txid).unwrap().unwrap();
        assert_eq!(transaction.output.len(), 2, "a payment and change");
        let is_it = |output: &TxOut| output.script_pubkey == *script;
        let vout = transaction.output.iter().position(is_it).unwrap();
        OutPoint { txid, vout: u32::try_from(vout).unwrap() }
    }

    /// Opens a channel on that output; the seller accepts, since it has not looked.
    fn opens(&self, story: &Story, funding: OutPoint) -> ChannelId {
        self.tries_to_open(story, Params { funding, ..self.params.clone() }).unwrap()
    }

    fn tries_to_open(&self, story: &Story, params: Params) -> Result<ChannelId, AcceptError> {
        let setup = payer::Setup {
            channel: Channel::new(params).unwrap(),
            keys: self.seed.channel_keys(KeyId::from_u64(Self::KEY)),
            funding: nothing(),
            finality: FINALITY,
        };
        let (_, effects) = payer::propose(&setup).commit(|_| Ok::<_, ()>(())).unwrap();
        let opening = effects.into_iter().find_map(|effect| match effect {
            payer::Effect::Propose(opening) => Some(*opening),
            _ => None,
        });
        let opening: Opening = opening.expect("a proposal");
        Ok(story.seller().accept(&self.offer, self.key, opening)?.0)
    }
}
