//! A rung on the chain: who can take it, and when, and what either machine does until that is settled.

mod common;

use bitcoin::{Amount, FeeRate, Transaction};
use common::call_story::*;
use common::payee_story::Payee;
use common::payer_story::Payer;
use common::*;
use farthing_protocol::channel::{Ending, SpendKind};
use farthing_protocol::hashlock::{self, HashLock, Locked};
use farthing_protocol::lightspeed::{RungClaim, Word};
use farthing_protocol::sighting::{self, Funding, Sighting};
use farthing_protocol::{Channel, Msat, payee, payer};

const DELAY: u32 = LEAST_DELAY as u32;
const FEE: Amount = Amount::from_sat(400);

/// A rung with its word, which the payee may not have yet.
fn claim_of(chain: u32, rung: u32, base: Msat) -> RungClaim {
    let index = SHAPE.rung_index(rung);
    let word = words(SHAPE, chain).word(index).expect("on the chain");
    let signature = rungs(SHAPE, chain, base)[rung as usize - 1].signature;
    RungClaim { total: base.saturating_add(SHAPE.worth(index)), delay: SHAPE.delay, word, signature }
}

/// Rung 2 of the first chain, which pays 800 sat, on the chain.
fn published() -> (RungClaim, Transaction) {
    let claim = claim_of(1, 2, PREPAID);
    let commitment = claim.commitment(&channel(), &payee_keys());
    (claim, commitment)
}

fn take(claim: &RungClaim, commitment: &Transaction) -> Transaction {
    claim.claim(&channel(), &payee_keys(), commitment, FEE).expect("worth its fee")
}

fn unspent(commitment: &Transaction, confirmations: u32) -> Funding {
    Funding::Confirmed { output: commitment.output[0].clone(), confirmations }
}

/// The commitment, so deep, and what became of its locked output.
fn look(commitment: &Transaction, depth: u32, status: Funding) -> Sighting {
    let outpoint = bitcoin::OutPoint { txid: commitment.compute_txid(), vout: 0 };
    let locked = vec![sighting::Locked { outpoint, status }];
    Sighting { locked, ..at(TIP + depth, spent(commitment, depth)) }
}

fn ending(commitment: &Transaction, received: u64) -> Ending {
    let (kind, txid) = (SpendKind::Commitment, commitment.compute_txid());
    Ending { kind, txid, received: Amount::from_sat(received), left: Amount::ZERO }
}

/// And nobody took the rung.
fn left(commitment: &Transaction, received: u64) -> Ending {
    Ending { left: Amount::from_sat(800), ..ending(commitment, received) }
}

/// What was paid before the chain is inside the lock too: else the payee could take the first rung of a chain that was
/// announced ahead, with words that were never revealed.
#[test]
fn a_rung_that_is_published_before_its_words_are_out_cannot_be_claimed() {
    let (channel, payee) = (channel(), payee_keys());
    let base = sat(1_100);
    let claim = claim_of(2, 1, base);
    let commitment = claim.commitment(&channel, &payee);
    assert_valid(&channel, &commitment);
    assert_eq!(Channel::paid_to(&commitment, &channel.params().payee), Amount::ZERO, "nothing is outside");
    let lock = rungs(SHAPE, 2, base)[0].lock;
    let scripts = HashLock::new(&channel, &lock, SHAPE.delay);
    assert_eq!(*scripts.script_pubkey(), commitment.output[0].script_pubkey);
    assert_eq!(commitment.output[0].value, Amount::from_sat(1_200));
    let outpoint = bitcoin::OutPoint { txid: commitment.compute_txid(), vout: 0 };
    let output = Locked { outpoint, value: commitment.output[0].value, scripts: &scripts };
    let with = |preimage: [u8; 32]| {
        let claim = hashlock::claim(&channel, &payee, &[(output, preimage)], commitment.version, FEE);
        spends(&commitment.output[..1], &claim.expect("worth its fee"))
    };
    // All that the payee has: every word of the first chain, those of the second below the rung, every lock.
    let (mut first, mut second) = (words(SHAPE, 1), words(SHAPE, 2));
    for index in 0..=50 {
        assert!(!with(*first.word(index).unwrap().as_bytes()));
    }
    for index in 0..10 {
        assert!(!with(*second.word(index).unwrap().as_bytes()));
    }
    for rung in rungs(SHAPE, 2, base) {
        assert!(!with(rung.lock));
        assert!(!with(*Word::from_bytes(rung.lock).before().as_bytes()));
    }
    assert!(with(*second.word(10).unwrap().as_bytes()), "its own word opens it");
}

#[test]
fn an_unclaimed_rung_is_the_payers_again_after_the_delay() {
    let (_, commitment) = published();
    let mut payer = payer_of_calls();
    // The payee has time until then, and the channel is not over.
    for depth in [0, 1, FINALITY, DELAY - 1] {
        assert_eq!(
            payer.takes(payer::Input::Sighted(look(&commitment, depth, unspent(&commitment, depth)))),
            []
        );
        assert_eq!(payer.state.name(), "closing");
    }
    let effects = payer.takes(payer::Input::Sighted(look(&commitment, DELAY, unspent(&commitment, DELAY))));
    let [payer::Effect::Broadcast(back)] = &effects[..] else { panic!("it takes it back: {effects:?}") };
    assert!(spends(&commitment.output[..1], back));
    assert_eq!(back.input[0].sequence.to_consensus_u32(), DELAY);
    // Until that is final it is broadcast again when it is not seen, and waited for when it is.
    let waiting = payer::Input::Sighted(look(&commitment, DELAY + 1, spent(back, FINALITY - 1)));
    assert_eq!(payer.takes(waiting), []);
    let again = payer::Input::Sighted(look(&commitment, DELAY + 2, unspent(&commitment, DELAY + 2)));
    assert_eq!(payer.takes(again), [payer::Effect::Broadcast(back.clone())]);
    payer.takes(payer::Input::Sighted(look(&commitment, DELAY + 9, spent(back, FINALITY))));
    let payer::State::Closed(closed) = &payer.state else { panic!("{:?}", payer.state) };
    let fee = 800 - back.output[0].value.to_sat();
    assert_eq!(closed.ending, ending(&commitment, 100_000 - 408 - fee));
}

/// While its own transaction waits for a block and fees rise, the payer sends a better one, as replacement asks (BIP125); of the
/// payee's it sends none.
#[test]
fn a_take_back_that_waits_is_replaced_once_a_quarter_more_confirms() {
    let (claim, commitment) = published();
    let mut payer = payer_of_calls();
    let mut looks = |fee_rate, status| {
        let sighting = Sighting { fee_rate, ..look(&commitment, DELAY, status) };
        let effects = payer.takes(payer::Input::Sighted(sighting)).into_iter();
        let broadcast =
            |effect| if let payer::Effect::Broadcast(back) = effect { back } else { panic!("{effect:?}") };
        effects.map(broadcast).collect::<Vec<Transaction>>()
    };
    let kwu = FeeRate::from_sat_per_kwu;
    let back = looks(kwu(500), unspent(&commitment, DELAY)).remove(0);
    let fee = |back: &Transaction| 800 - back.output[0].value.to_sat();
    assert_eq!(looks(kwu(740), spent(&back, 0)), [], "by less than 1 sat/vB");
    assert_eq!(looks(kwu(760), spent(&back, 1)), [], "it is in a block");
    let better = looks(kwu(760), spent(&back, 0)).remove(0);
    assert!(spends(&commitment.output[..1], &better));
    assert!(fee(&better) >= fee(&back) + better.vsize() as u64);
    assert_eq!(looks(kwu(9_000), spent(&better, 0)), [], "more than it holds");
    assert_eq!(looks(kwu(760), spent(&take(&claim, &commitment), 0)), [], "the payee's");
}

#[test]
fn a_rung_that_the_payee_claimed_leaves_the_payer_its_share() {
    let (claim, commitment) = published();
    let child = take(&claim, &commitment);
    for mut payer in [payer_of_calls(), closing_payer()] {
        let waiting = look(&commitment, FINALITY, spent(&child, FINALITY - 1));
        assert_eq!(payer.takes(payer::Input::Sighted(waiting)), []);
        assert_eq!(payer.state.name(), "closing");
        payer.takes(payer::Input::Sighted(look(&commitment, FINALITY + 1, spent(&child, FINALITY))));
        let payer::State::Closed(closed) = &payer.state else { panic!("{:?}", payer.state) };
        assert_eq!(closed.ending, ending(&commitment, 100_000 - 408 - 800));
    }
}

fn closing_payer() -> Payer {
    let mut payer = payer_of_calls();
    let sum = payer.sum(sat(829));
    payer.calls(sum);
    payer.takes(payer::Input::Close { fee_rate: rate(2), charged: None });
    payer
}

/// It waits a week for lower fees; what is then not worth it is left.
#[test]
fn a_rung_that_costs_the_payer_more_than_it_brings_waits_for_lower_fees() {
    let (_, commitment) = published();
    let mut payer = payer_of_calls();
    let sighting = |depth| look(&commitment, depth, unspent(&commitment, depth));
    let dear = |depth| Sighting { fee_rate: FeeRate::from_sat_per_vb_u32(5), ..sighting(depth) };
    for depth in [DELAY, DELAY + 1_007] {
        assert_eq!(payer.takes(payer::Input::Sighted(dear(depth))), []);
        assert_eq!(payer.state.name(), "closing");
    }
    let back = payer.takes(payer::Input::Sighted(sighting(DELAY + 1_007)));
    assert!(matches!(&back[..], [payer::Effect::Broadcast(_)]), "fees fell: {back:?}");
    assert_eq!(payer.takes(payer::Input::Sighted(dear(DELAY + 1_008))), []);
    let payer::State::Closed(closed) = &payer.state else { panic!("{:?}", payer.state) };
    assert_eq!(closed.ending, left(&commitment, 100_000 - 408 - 800));
}

#[test]
fn a_plain_commitment_in_a_channel_of_calls_ends_it_when_it_is_final() {
    let commitment = commitment_to(PREPAID);
    let mut payer = payer_of_calls();
    payer.sees(TIP + FINALITY, spent(&commitment, FINALITY));
    let payer::State::Closed(closed) = &payer.state else { panic!("{:?}", payer.state) };
    assert_eq!(closed.ending, ending(&commitment, 100_000 - 408 - 600));
}

// The payee.

fn publishes(payee: &Payee, effects: &[payee::Effect]) -> payee::Publication {
    let [payee::Effect::Publish(publication)] = effects else { panic!("a rung: {effects:?}") };
    assert_valid(&payee.setup.channel, &publication.commitment);
    (**publication).clone()
}

#[test]
fn a_payee_that_closes_alone_publishes_its_best_rung_with_its_word() {
    let (claim, commitment) = published();
    let closes: [fn(&mut Payee) -> Vec<payee::Effect>; 3] = [
        |payee| payee.takes(payee::Input::Close),
        |payee| payee.sees(EXPIRY - POLICY.margin, confirmed(500)),
        |payee| {
            payee.takes(common::payee_story::settle(settlement(830)));
            payee.sees(TIP + POLICY.patience, confirmed(9))
        },
    ];
    for close in closes {
        let mut payee = payee_of_calls();
        let effects = close(&mut payee);
        let publication = publishes(&payee, &effects);
        assert_eq!(publication.rung, Some(claim));
        assert_eq!((publication.commitment, publication.fee), (commitment.clone(), Amount::from_sat(408)));
        assert_eq!(payee.state.resume(&payee.setup), effects, "and again after a restart");
    }
}

/// The rung holds 800 sat and the first payment 600; the agreed rate is 2 sat/vB, and the rung's claim has 154 vB.
#[test]
fn a_rung_gives_way_to_the_first_payment_where_its_claim_costs_more_than_it_adds() {
    let (claim, commitment) = published();
    let mut payee = payee_of_calls();
    let effects = payee.takes(payee::Input::Close);
    let rung = publishes(&payee, &effects);
    let plain = rung.plain.clone().expect("it comes with the rung");
    assert_eq!((&rung.commitment, rung.rung), (&commitment, Some(claim)));
    assert_eq!(*plain, common::payee_story::publication_of(PREPAID));
    assert_valid(&payee.setup.channel, &plain.commitment);
    for (fee_rate, by_rung, by_plain) in [(1, 646, 600), (2, 492, 600), (3, 0, 0)] {
        let fee_rate = rate(fee_rate);
        let brings = (rung.brings(fee_rate).to_sat(), plain.brings(fee_rate).to_sat());
        assert_eq!(brings, (by_rung, by_plain), "{fee_rate}");
        let best = rung.best(fee_rate);
        assert_eq!(best.rung.is_some(), by_rung > by_plain, "{fee_rate}");
        assert_eq!(plain.best(fee_rate), &*plain, "it has no other in its place");
    }
}

#[test]
fn the_end_with_the_first_payment_says_what_was_left_of_the_rung() {
    let plain = commitment_to(PREPAID);
    let mut payee = payee_of_calls();
    payee.takes(payee::Input::Close);
    payee.sees(TIP + POLICY.finality, spent(&plain, POLICY.finality));
    let payee::State::Closed(closed) = &payee.state else { panic!("{:?}", payee.state) };
    let left = Amount::from_sat(200);
    assert_eq!(closed.ending, Some(Ending { left, ..ending(&plain, 600) }));
}

#[test]
fn the_payee_is_done_when_its_claim_is_final_and_not_before() {
    let (claim, commitment) = published();
    let child = take(&claim, &commitment);
    let mut payee = payee_of_calls();
    payee.takes(payee::Input::Close);
    let depth = POLICY.finality;
    for status in [unspent(&commitment, depth), Funding::Unseen, spent(&child, 0), spent(&child, depth - 1)] {
        let effects = payee.takes(payee::Input::Sighted(look(&commitment, depth, status)));
        assert_eq!(publishes(&payee, &effects).rung, Some(claim));
    }
    payee.takes(payee::Input::Sighted(look(&commitment, depth + 1, spent(&child, depth))));
    let payee::State::Closed(closed) = &payee.state else { panic!("{:?}", payee.state) };
    assert_eq!(closed.ending, Some(ending(&commitment, 800 - FEE.to_sat())));
}

#[test]
fn a_payee_that_did_not_find_the_claim_worth_its_fee_has_received_nothing() {
    let (_, commitment) = published();
    let mut payee = payee_of_calls();
    payee.takes(payee::Input::Close);
    let depth = POLICY.finality + DELAY;
    payee.takes(payee::Input::Sighted(look(&commitment, depth - 1, unspent(&commitment, depth - 1))));
    assert_eq!(payee.state.name(), "closing alone");
    payee.takes(payee::Input::Sighted(look(&commitment, depth, unspent(&commitment, depth))));
    let payee::State::Closed(closed) = &payee.state else { panic!("{:?}", payee.state) };
    assert_eq!(closed.ending, Some(left(&commitment, 0)));
}

#[test]
fn a_rung_that_the_payer_took_back_has_brought_the_payee_nothing() {
    let (claim, commitment) = published();
    let scripts = claim.scripts(&channel());
    let outpoint = bitcoin::OutPoint { txid: commitment.compute_txid(), vout: 0 };
    let output = Locked { outpoint, value: commitment.output[0].value, scripts: &scripts };
    let back = hashlock::take_back(&channel(), &payer_keys(), &[output], rate(2)).unwrap();
    let mut payee = payee_of_calls();
    payee.takes(payee::Input::Close);
    payee.takes(payee::Input::Sighted(look(&commitment, 99, spent(&back, POLICY.finality))));
    let payee::State::Closed(closed) = &payee.state else { panic!("{:?}", payee.state) };
    assert_eq!(closed.ending, Some(left(&commitment, 0)));
}
