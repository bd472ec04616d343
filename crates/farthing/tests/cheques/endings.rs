//! How cheques end when somebody goes away or cheats: each on a real bitcoind, through the driver.

use super::carriers::{
    CAPACITY, COMMITMENT_FEE, Carriers, DELTA, FEE, FINALITY, MARGIN, MOST_ONWARD, PURSE, REFUND_FEE, sat,
};
use std::convert::Infallible;
use std::time::Duration;

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash as _;
use bitcoin::transaction::Version;
use bitcoin::{Amount, Network, OutPoint, ScriptBuf, Transaction, Txid};
use farthing_node::books::OrderError;
use farthing_node::cheques::Teller;
use farthing_node::cheques::cashing::CashError;
use farthing_node::cheques::opening::{Direction, OpenError, Plan};
use farthing_node::cheques::paper::{Fate, Issued};
use farthing_node::cheques::selling::{Ask, LockError, Towards};
use farthing_node::cheques::writing::WriteError;
use farthing_protocol::channel::{Expiry, SpendKind};
use farthing_protocol::cheque::book;
use farthing_protocol::cheque::drawn::{self, Kind};
use farthing_protocol::cheque::held;
use farthing_protocol::cheque::point::AdaptorSecret;
use farthing_protocol::cheque::promises::{BadUpdate, Update};
use farthing_protocol::cheque::side::Reject;
use farthing_protocol::cheque::{drawer, holder};
use farthing_protocol::keys::{KeyId, Seed};
use farthing_protocol::opening::Offer;
use farthing_protocol::{Channel, ChannelId, Msat, Params, Party, payer};

/// Writer, agent and payee, with a channel each, and a cheque that the agent has.
pub(super) fn sale() -> (Carriers, ChannelId, ChannelId, Issued) {
    let story = Carriers::begin(&["writer", "agent", "payee"]);
    let behind = story.open("writer", "agent", Kind::Cheques, 200);
    let towards = story.open("agent", "payee", Kind::Lock, 100);
    let issued = story.write(behind, 5_000, 1);
    story.sync("writer", "agent", behind);
    (story, behind, towards, issued)
}

pub(super) fn expiry(story: &Carriers, name: &str, id: ChannelId) -> u32 {
    story.at(name).params(id).expect("the channel is there").expiry.height()
}

#[test]
fn a_payee_that_completes_its_lock_silently_pays_with_the_secret_at_the_last_moment() {
    let (story, behind, towards, issued) = sale();
    story.stop("writer");
    story.lock_directly(&issued, towards);
    story.cash(&issued);
    // It says nothing, and comes back just before it must close.
    story.stop("payee");
    story.mine_to(expiry(&story, "agent", towards) - MARGIN);
    story.start("payee");
    story.look();
    story.mine(FINALITY + 1);
    let ending = story.ending("payee", towards).unwrap();
    assert_eq!(ending.kind, SpendKind::Commitment);
    assert_eq!(story.totals("agent", behind), (5_001, 5_001), "the agent has the secret from the chain");
    story.start("writer");
    story.sync("writer", "agent", behind);
    story.receipt(&issued);
}

#[test]
fn a_payee_that_never_comes_back_costs_nobody_anything() {
    let (story, behind, towards, issued) = sale();
    story.lock_directly(&issued, towards);
    story.stop("payee");
    // Its writer cannot take the cheque back while the lock is open.
    story.does("writer", |writer| writer.cancel(&issued.written.point)).unwrap();
    story.sync("writer", "agent", behind);
    assert!(
        story.does("writer", |writer| writer.reinstated(&issued.written.point)).unwrap(),
        "it is promised again"
    );
    let closing = story.does("agent", |agent| agent.close(behind)).unwrap_err();
    assert!(closing.to_string().contains("lock"), "{closing}");

    story.mine_to(expiry(&story, "agent", towards));
    story.mine(FINALITY + 1);
    let refund = story.ending("agent", towards).unwrap();
    assert_eq!(refund.kind, SpendKind::Refund);
    story.does("writer", |writer| writer.cancel(&issued.written.point)).unwrap();
    story.sync("writer", "agent", behind);
    assert!(
        !story.does("writer", |writer| writer.reinstated(&issued.written.point)).unwrap(),
        "the cancel counts by now"
    );
    assert_eq!(story.totals("agent", behind), (0, 0));

    story.stop("agent");
    story.mine_to(expiry(&story, "writer", behind));
    story.mine(FINALITY + 1);
    assert_eq!(story.ending("writer", behind).unwrap().kind, SpendKind::Refund);
    assert_eq!(story.fate(&issued.written.point), Fate::Ended);
}

/// A lock that is asked for again while its channel is closing is not taken for one that was never made.
#[test]
fn a_lock_stays_open_while_its_channel_closes_whatever_is_repeated() {
    let (story, behind, towards, issued) = sale();
    story.lock_directly(&issued, towards);
    story.cash(&issued);
    story.stop("agent");
    story.does("payee", |payee| payee.close(towards)).unwrap();
    story.does("payee", Teller::look).unwrap();
    // The commitment waits in the mempool. The agent comes back, sees it, and repeats what it wanted.
    story.start("agent");
    story.does("agent", Teller::tend).unwrap();
    story.start("agent");
    story.does("agent", Teller::tend).unwrap();
    story.does("writer", |writer| writer.cancel(&issued.written.point)).unwrap();
    story.sync("writer", "agent", behind);
    story.mine(FINALITY + 1);
    assert_eq!(story.totals("agent", behind), (5_001, 5_001), "it has the secret, and is paid for it");
    story.sync("writer", "agent", behind);
    story.receipt(&issued);
}

#[test]
fn an_agent_that_goes_away_in_the_middle_finds_the_secret_on_the_chain_and_claims_in_time() {
    let (story, behind, towards, issued) = sale();
    story.stop("writer");
    story.lock_directly(&issued, towards);
    story.stop("agent");
    story.cash(&issued);
    story.mine_to(expiry(&story, "payee", towards) - MARGIN);
    story.mine(1);
    assert_eq!(story.ending("payee", towards), None, "in a block, and not deep");
    story.mine(FINALITY);
    assert_eq!(story.ending("payee", towards).unwrap().kind, SpendKind::Commitment);

    // It comes back with nothing in memory, just before its own claim would be too late.
    story.mine_to(expiry(&story, "payee", towards) + DELTA - MARGIN);
    story.start("agent");
    story.look();
    assert_eq!(story.totals("agent", behind), (5_001, 5_001));
    story.mine_to(expiry(&story, "agent", behind) - MARGIN);
    story.mine(FINALITY + 1);
    let ending = story.ending("agent", behind).unwrap();
    assert_eq!(ending.kind, SpendKind::Commitment);
    // The commitment on the chain gives the writer its receipt: the agent hands over nothing.
    story.stop("agent");
    story.start("writer");
    story.look();
    story.receipt(&issued);
}

/// They have the secret, and tell neither end: the node pays nothing plainly, the agent only claims.
#[test]
fn an_agent_and_a_node_that_collude_keep_neither_the_payees_money_nor_the_writers_receipt() {
    let (story, [behind, middle, last]) = Carriers::with_node();
    let issued = story.write(behind, 5_000, 2);
    story.sync("writer", "agent", behind);
    story.stop("writer");
    story.lock_through(&issued, &[("node", middle)], last);
    assert_eq!(story.cash(&issued), sat(5_000));
    story.hand_over("payee", "node", last);
    story.hand_over("node", "agent", middle);
    story.stop("payee");

    // The agent takes its price at once; the node waits for the payee to miss its time.
    assert_eq!(story.totals("agent", behind), (5_002, 5_002));
    story.does("agent", |agent| agent.close(behind)).unwrap();
    story.look();
    story.mine(FINALITY + 1);
    let claimed = (SpendKind::Commitment, CAPACITY - 5_002 - COMMITMENT_FEE, 5_002);
    assert_eq!(story.shares("agent", behind), claimed);

    // The payee comes back when it must, and needs nobody's word.
    story.mine_to(expiry(&story, "node", last) - MARGIN);
    story.start("payee");
    story.mine(FINALITY + 1);
    let paid = (SpendKind::Commitment, CAPACITY - 5_000 - COMMITMENT_FEE, 5_000);
    assert_eq!(story.shares("payee", last), paid);
    assert_eq!(story.at("payee").balance().total(), PURSE + Amount::from_sat(5_000));

    // Nor does the writer: the claim on the chain holds its receipt.
    story.stop("agent");
    story.stop("node");
    story.start("writer");
    assert_eq!(story.receipt(&issued).terms.amount, sat(5_000));
    let ending = story.ending("writer", behind).unwrap();
    assert_eq!((ending.kind, ending.received.to_sat()), (claimed.0, claimed.1));
}

#[test]
fn an_agent_that_goes_away_for_good_after_the_sale_has_paid_it_out_of_its_own_pocket() {
    let (story, behind, towards, issued) = sale();
    story.lock_directly(&issued, towards);
    story.cash(&issued);
    story.hand_over("payee", "agent", towards);
    assert_eq!(story.totals("agent", behind), (5_001, 5_001), "it has the secret, and could claim");
    story.stop("agent");

    story.mine_to(expiry(&story, "payee", towards) - MARGIN);
    story.mine(FINALITY + 1);
    let paid = (SpendKind::Commitment, CAPACITY - 5_000 - COMMITMENT_FEE, 5_000);
    assert_eq!(story.shares("payee", towards), paid, "out of the agent's own channel");
    assert_eq!(story.at("payee").balance().total(), PURSE + Amount::from_sat(5_000));
    assert_eq!(story.fate(&issued.written.point), Fate::Pending, "it has heard of nothing");

    // Nobody has claimed anything of the writer, so it has no receipt either.
    story.mine_to(expiry(&story, "writer", behind));
    story.mine(FINALITY + 1);
    assert_eq!(story.shares("writer", behind), (SpendKind::Refund, CAPACITY - REFUND_FEE, 0));
    assert_eq!(story.fate(&issued.written.point), Fate::Ended);

    // Whatever the agent knows is worth nothing by now.
    story.start("agent");
    let ending = story.ending("agent", behind).unwrap();
    assert_eq!((ending.kind, ending.received), (SpendKind::Refund, Amount::ZERO));
}

/// Two cheques of one channel, cashed one after the other while the writer is off. Both are with the agent.
fn two_sales() -> (Carriers, ChannelId, [Issued; 2]) {
    let (story, behind, towards, first) = sale();
    let second = story.write(behind, 6_000, 1);
    story.sync("writer", "agent", behind);
    story.stop("writer");
    assert_eq!(story.cash_directly(&first, towards), sat(5_000));
    (story, behind, [first, second])
}

/// On the chain they are paid by one signature; whose secret is whose, the agent still says.
#[test]
fn an_agent_that_closes_over_two_cheques_hands_each_receipt_over_afterwards() {
    let (story, behind, [first, second]) = two_sales();
    let another = story.open("agent", "payee", Kind::Lock, 100);
    assert_eq!(story.cash_directly(&second, another), sat(6_000));
    story.does("agent", |agent| agent.close(behind)).unwrap();
    story.look();
    story.mine(FINALITY + 1);
    assert_eq!(story.ending("agent", behind).unwrap().kind, SpendKind::Commitment);

    story.start("writer");
    for issued in [&first, &second] {
        let fate = story.fate(&issued.written.point);
        assert!(matches!(fate, Fate::PaidJointly(..)), "{fate:?}");
    }
    assert_eq!(
        story.at("writer").awaiting_word().unwrap(),
        [behind],
        "the agent is asked, though all is over"
    );
    story.sync("writer", "agent", behind);
    story.receipt(&first);
    story.receipt(&second);
    assert!(story.at("writer").awaiting_word().unwrap().is_empty());
}

/// It publishes what was signed for both, though the writer has paid for one of them since.
#[test]
fn a_receipt_is_found_in_a_state_that_pays_another_cheque_too_which_was_settled_since() {
    let (story, behind, [first, second]) = two_sales();
    story.start("writer");
    // The writer hears of the first, and dies before its next update is sent.
    story.hand_over("agent", "writer", behind);
    story.receipt(&first);
    story.stop("writer");
    let another = story.open("agent", "payee", Kind::Lock, 100);
    assert_eq!(story.cash_directly(&second, another), sat(6_000));
    story.does("agent", |agent| agent.close(behind)).unwrap();
    story.look();
    story.mine(FINALITY + 1);
    let both = (SpendKind::Commitment, CAPACITY - 11_002 - COMMITMENT_FEE, 11_002);
    assert_eq!(story.shares("agent", behind), both);

    story.stop("agent");
    story.start("writer");
    story.receipt(&second);
    story.receipt(&first);
}

/// The same with another cheque that is cashed, while its writer is on: it says that it holds the first one still, and publishes both.
#[test]
fn a_signed_cancellation_is_undone_by_no_other_word_and_is_kept_when_it_is_broken_with_another_cheque() {
    let (story, behind, towards, first) = sale();
    let second = story.write(behind, 6_000, 1);
    story.sync("writer", "agent", behind);
    let copy = story.copy("agent");
    let point = first.written.point;
    story.does("writer", |writer| writer.cancel(&point)).unwrap();
    story.sync("writer", "agent", behind);
    let word = story.give_up(&first, behind);

    story.restore("agent", &copy);
    story.lock_directly(&first, towards);
    let update = || story.at("writer").update(behind).unwrap().unwrap();
    let answer = story.does("agent", |agent| agent.take(behind, update(), Msat::ZERO)).unwrap();
    assert_eq!(answer.still_held, Some(point));
    assert!(!story.does("writer", |writer| writer.hear(behind, &answer)).unwrap());
    let promised: Vec<_> = update().signed.terms.promises.iter().map(|promise| promise.point).collect();
    assert_eq!(promised, [second.written.point], "it is not promised again");
    assert!(!story.does("writer", |writer| writer.reinstated(&point)).unwrap());
    assert_eq!(story.fate(&point), Fate::GivenUp(word.clone()));

    assert_eq!(story.cash(&first), sat(5_000));
    story.sync("agent", "payee", towards);
    let another = story.open("agent", "payee", Kind::Lock, 100);
    assert_eq!(story.cash_directly(&second, another), sat(6_000));
    story.does("agent", |agent| agent.close(behind)).unwrap();
    story.look();
    story.mine(FINALITY + 1);
    let fate = story.fate(&point);
    assert!(matches!(&fate, Fate::PaidJointlyAllTheSame(.., kept) if *kept == word), "{fate:?}");
    story.sync("writer", "agent", behind);
    let fate = story.fate(&point);
    assert!(matches!(&fate, Fate::PaidAllTheSame(_, kept) if *kept == word), "{fate:?}");
    story.receipt(&second);
}

/// The payee knows the secrets of both points, and so the tweak between them.
#[test]
fn no_lock_is_made_under_a_point_that_was_paid_before_and_its_cheque_is_as_free_as_it_was() {
    let (story, behind, towards, first) = sale();
    assert_eq!(story.cash_directly(&first, towards), sat(5_000));
    story.sync("writer", "agent", behind);
    let second = story.write(behind, 6_000, 1);
    story.sync("writer", "agent", behind);

    let (_, route) = story.plan(&first.written.cheque, towards, &[]);
    let secret = |issued: &Issued| {
        let (mut prekeys, cheque) = (story.home("payee").prekeys().unwrap(), issued.written.cheque.clone());
        let offered = cheque.terms.amount;
        prekeys.handle(book::Input::Endorse { cheque: Box::new(cheque.clone()), offered }).unwrap();
        prekeys.book().unwrap().secret(prekeys.keys(), &cheque).unwrap()
    };
    let paid = secret(&first).plus(&route.payee).unwrap();
    let tweak = secret(&second).plus(&paid.negated()).unwrap();
    let (held, point) = (second.written.point, paid.point());
    let ask = Ask { held, point, tweak, amount: sat(6_000), towards: Towards::Channel(towards) };
    let refused = story.does("agent", |agent| agent.lock(&ask)).unwrap_err();
    let is_used = |error: &LockError| match error {
        LockError::Refused(Reject::Drawer(drawer::Reject::Promises(reject))) => {
            *reject == drawn::Reject::PointUsed
        }
        _other => false,
    };
    assert!(is_used(&refused), "{refused}");
    assert_eq!(story.cash_directly(&second, towards), sat(6_000));
}

/// The agent goes back to a copy of its folder from before: the signatures that it has there open with the payee's secret all the same.
#[test]
fn an_agent_that_signed_a_cancellation_and_cashes_all_the_same_leaves_proof_of_both() {
    let (story, behind, towards, issued) = sale();
    let copy = story.copy("agent");
    story.does("writer", |writer| writer.cancel(&issued.written.point)).unwrap();
    story.sync("writer", "agent", behind);
    let word = story.give_up(&issued, behind);
    story.stop("writer");

    story.restore("agent", &copy);
    assert_eq!(story.cash_directly(&issued, towards), sat(5_000));
    story.does("agent", |agent| agent.close(behind)).unwrap();
    story.look();
    story.start("writer");
    story.look();
    let Fate::PaidAllTheSame(receipt, kept) = story.fate(&issued.written.point) else {
        panic!("{:?}", story.fate(&issued.written.point))
    };
    receipt.verify().unwrap();
    assert_eq!((receipt.terms, &kept), (issued.written.cheque.terms, &word));
    let channel = Channel::new(story.at("writer").params(behind).unwrap()).unwrap();
    assert_eq!(kept.check(&channel, &issued.written.point), Ok(()));
}

#[test]
fn a_cheque_that_was_taken_back_bounces_and_its_payee_has_given_nothing_away() {
    let (story, behind, towards, issued) = sale();
    story.does("writer", |writer| writer.cancel(&issued.written.point)).unwrap();
    story.sync("writer", "agent", behind);
    let word = story.give_up(&issued, behind);
    assert_eq!(story.fate(&issued.written.point), Fate::GivenUp(word));
    let (presented, asked) = story.ask_directly(&issued.written.cheque, towards);
    let refused = asked.unwrap_err();
    assert!(refused.to_string().contains("no promise is held"), "{refused}");
    assert!(matches!(story.try_to_cash(&presented.point), Err(CashError::NoLock)));
    let lock = story.at("agent").update(towards).unwrap();
    assert!(lock.is_none(), "nothing was locked");
    // Its prekey is as good as before.
    assert_eq!(story.home("payee").prekeys().unwrap().book().unwrap().unused(), 1);
}

/// With another blinding it has another point, under which nobody holds anything.
#[test]
fn a_cheque_whose_blinding_was_changed_bounces_and_the_right_one_is_cashed_all_the_same() {
    let (story, behind, towards, issued) = sale();
    let unused = || story.home("payee").prekeys().unwrap().book().unwrap().unused();
    let mut changed = issued.written.cheque.clone();
    changed.blinding = AdaptorSecret::from_bytes(&[9; 32]).unwrap();
    let (presented, asked) = story.ask_directly(&changed, towards);
    assert_ne!(presented.point, issued.written.point);
    let refused = asked.unwrap_err();
    assert!(matches!(refused, LockError::Unknown), "{refused}");
    assert!(story.at("agent").update(towards).unwrap().is_none(), "nothing was locked");
    let nothing = story.try_to_cash(&presented.point);
    assert!(matches!(nothing, Err(CashError::NoLock)), "{nothing:?}");

    // The right one's lock is none for it either, and a prekey that signed nothing yet is as good as before.
    story.lock_directly(&issued, towards);
    let nothing = story.try_to_cash(&presented.point);
    assert!(matches!(nothing, Err(CashError::NoLock)), "{nothing:?}");
    assert_eq!(unused(), 1);
    assert_eq!(story.cash(&issued), sat(5_000));
    assert_eq!(unused(), 0);
    story.sync("agent", "payee", towards);
    assert_eq!(story.totals("payee", towards), (5_000, 5_000), "paid plainly by now");
    story.sync("writer", "agent", behind);
    story.receipt(&issued);
}

#[test]
fn two_cheques_over_the_same_money_are_not_both_promised() {
    let (story, behind, _, issued) = sale();
    let prekey = story.at("payee").issue_prekeys(1).unwrap()[0];
    let mut order = story.order(behind, prekey, 99_000, 1);
    let refused = story.try_to_write(&order).unwrap_err();
    assert!(refused.wants_another_channel(), "{refused}");
    assert_eq!(story.at("writer").papers().unwrap().len(), 1, "and no cheque was written");
    // After the first is taken back there is room.
    story.does("writer", |writer| writer.cancel(&issued.written.point)).unwrap();
    story.sync("writer", "agent", behind);
    order.amount = sat(90_000);
    story.write_order(&order);
    story.sync("writer", "agent", behind);
}

#[test]
fn a_lock_that_could_not_end_in_time_or_brings_the_agent_nothing_is_refused_by_name() {
    let story = Carriers::begin(&["writer", "agent", "payee"]);
    let behind = story.open("writer", "agent", Kind::Cheques, 200);
    let late = story.open("agent", "payee", Kind::Lock, 200 - DELTA);
    let good = story.open("agent", "payee", Kind::Lock, 100);
    let issued = story.write(behind, 5_000, 1);
    story.sync("writer", "agent", behind);
    let tweak = AdaptorSecret::from_bytes(&[9; 32]).unwrap();
    let ask = |towards, amount: Msat, point, tweak: &AdaptorSecret| {
        let held = issued.written.point;
        let tweak = tweak.clone();
        let ask = Ask { held, point, tweak, amount, towards: Towards::Channel(towards) };
        story.does("agent", |agent| agent.lock(&ask))
    };
    let (point, back) = (issued.written.point.tweaked(&tweak).unwrap(), tweak.negated());
    let refusal = |error: LockError| match error {
        LockError::Order(OrderError::Rejected(Reject::Holder(holder::Reject::Promises(reject)))) => reject,
        other => panic!("{other}"),
    };
    // The second channel was opened a block after the first, so its expiry is a block too late.
    let reject = refusal(ask(late, sat(5_000), point, &back).unwrap_err());
    assert!(matches!(reject, held::Reject::TooLate { delta: DELTA, .. }), "{reject}");
    let reject = refusal(ask(good, sat(5_001), point, &back).unwrap_err());
    assert!(matches!(reject, held::Reject::Unprofitable { .. }), "{reject}");
    let reject = refusal(ask(good, sat(5_000), point, &tweak).unwrap_err());
    assert_eq!(reject, held::Reject::WrongTweak);
    let reject = refusal(ask(good, sat(1), point, &back).unwrap_err());
    assert!(matches!(reject, held::Reject::Dust { .. }), "{reject}");
    let unknown = ask(ChannelId::from_bytes([7; 32]), sat(5_000), point, &back).unwrap_err();
    assert!(matches!(unknown, LockError::NoWay), "{unknown}");
    let backwards = ask(behind, sat(5_000), point, &back).unwrap_err();
    assert!(matches!(backwards, LockError::NoWay), "{backwards}");
    assert_eq!(ask(good, sat(5_000), point, &back).unwrap(), good, "and the right one is made");
    assert_eq!(FEE, sat(1));
}

#[test]
fn a_prekey_is_used_for_one_receipt_also_when_two_payers_write_on_it() {
    let (story, behind, towards, _) = sale();
    let prekey = story.at("payee").issue_prekeys(1).unwrap()[0];
    let write = |amount| {
        let issued = story.write_order(&story.order(behind, prekey, amount, 1));
        story.sync("writer", "agent", behind);
        issued
    };
    let (first, second) = (write(6_000), write(7_000));
    assert_eq!(story.cash_directly(&first, towards), sat(6_000));
    let receive = |payee: &Teller| payee.receive(second.written.cheque.clone(), "agent".to_owned());
    let refused = story.does("payee", receive).unwrap_err();
    assert!(refused.to_string().contains("was used for another receipt"), "{refused}");
}

#[test]
fn bad_updates_are_refused_by_name_and_change_nothing() {
    let (story, behind, _, _) = sale();
    let good = story.at("writer").update(behind).unwrap().unwrap();
    let take = |update: Update| {
        story.does("agent", |agent| agent.take(behind, Box::new(update.clone()), Msat::ZERO))
    };
    let refusal = |update| match take(update).unwrap_err() {
        OrderError::Rejected(Reject::Holder(holder::Reject::Promises(held::Reject::BadUpdate(bad)))) => bad,
        other => panic!("{other}"),
    };
    // A newer number, so that it is looked at.
    let newer = {
        let mut update = (*good).clone();
        update.signed.terms.number += 1;
        update
    };
    assert_eq!(refusal(newer.clone()), BadUpdate::Statement);
    let mut fewer = newer.clone();
    fewer.signed.signatures.clear();
    assert!(matches!(refusal(fewer), BadUpdate::Count { .. }));
    let mut nothing = newer.clone();
    nothing.signed.terms.promises[0].amount = Msat::ZERO;
    assert_eq!(refusal(nothing), BadUpdate::Nothing);
    let mut too_much = newer;
    too_much.signed.terms.promises[0].amount = sat(1_000_000);
    assert!(matches!(refusal(too_much), BadUpdate::OverCapacity { .. }));
    // The same again is answered again.
    assert_eq!(take((*good).clone()).unwrap().taken, Some(good.signed.terms.number));
    // And to whom it does not belong it is nothing.
    let take = |writer: &Teller| writer.take(behind, good.clone(), Msat::ZERO);
    let wrong_side = story.does("writer", take).unwrap_err();
    assert!(matches!(wrong_side, OrderError::Rejected(Reject::OtherSide)));
    let nobodys = AdaptorSecret::from_bytes(&[3; 32]).unwrap().point();
    let unknown = story.does("writer", |writer| writer.cancel(&nobodys)).unwrap_err();
    assert!(matches!(unknown, WriteError::Unknown), "{unknown}");
    let another = story.open("writer", "agent", Kind::Cheques, 200);
    let prekey = story.at("payee").issue_prekeys(1).unwrap()[0];
    let dust = story.try_to_write(&story.order(another, prekey, 100, 1));
    match dust.unwrap_err() {
        WriteError::Order(OrderError::Rejected(Reject::Drawer(drawer::Reject::Promises(reject)))) => {
            assert!(matches!(reject, drawn::Reject::Dust { .. }), "{reject}")
        }
        other => panic!("{other}"),
    }
}

#[test]
fn whoever_asks_for_channels_and_accepts_none_ties_up_no_more_than_the_agent_allows() {
    let story = Carriers::begin(&["agent", "payee"]);
    for _ in 0..2 {
        story.give("agent", PURSE);
    }
    story.mine(1);
    let (offer, _key) = story.at("payee").offer();
    let latest = story.chain.tip().unwrap().height + 500;
    // Whoever asks again gets another.
    let ask = || {
        let least = Amount::from_sat(20_000);
        let ask = || story.at("agent").propose_onward(&offer, least, latest, Direction::Authorised);
        story.in_peace(ask)
    };
    let (mut locked, mut asked) = (Amount::ZERO, Vec::new());
    for _ in 0..2 {
        let (id, opening) = ask().unwrap();
        locked += opening.params.capacity;
        asked.push(id);
    }
    let refused = ask().unwrap_err();
    assert!(
        matches!(refused, OpenError::TooMuchLocked { locked: told, most } if told == locked && most == MOST_ONWARD),
        "{refused}"
    );
    // What is given up leaves nothing, and its coins are free: also if the agent died right after it had noted that.
    let refuse = |id: ChannelId| move |agent: &Teller| agent.refused(id);
    for id in asked {
        match story.does("agent", refuse(id)) {
            Ok(()) | Err(OrderError::NoChannel(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(story.at("agent").channels().unwrap().len(), 0);
    assert_eq!(story.at("agent").balance().confirmed, PURSE * 3);
    ask().unwrap();
}

#[test]
fn a_lock_is_not_lost_when_its_payee_has_thought_of_another_way_since() {
    let (story, _behind, towards, issued) = sale();
    let other = story.open("agent", "payee", Kind::Lock, 100);
    story.lock_directly(&issued, towards);
    let (_, route) = story.plan(&issued.written.cheque, towards, &[]);
    let (_, another) = story.plan(&issued.written.cheque, other, &[]);
    assert_ne!(route, another);
    let lost = story.try_to_cash(&issued.written.point);
    assert!(matches!(lost, Err(CashError::NoLock)), "{lost:?}");
    story.lock_directly(&issued, towards);
    assert_eq!(story.cash(&issued), issued.written.cheque.terms.amount);
}

/// Anybody may ask an agent to be paid by cheques in a channel that is never funded.
#[test]
fn openings_that_nobody_funds_give_way_to_the_next_and_leave_nothing() {
    let story = Carriers::begin(&["writer", "agent"]);
    let most = 3;
    story.make_room(most, Duration::from_secs(600));
    let open = |story: &Carriers| {
        let (offer, key) = story.at("agent").offer();
        let expiry = story.chain.tip().unwrap().height + 200;
        let plan = Plan { capacity: Amount::from_sat(CAPACITY), expiry, kind: Kind::Cheques, peer: None };
        // It is never told that it was accepted, and takes its coins back.
        let (id, opening) = story.in_peace(|| story.at("writer").propose(&offer, plan)).unwrap();
        story.in_peace(|| story.at("writer").refused(id)).unwrap();
        story.does("agent", |agent| agent.accept(&offer, key, opening.clone(), None)).map(drop)
    };
    for _ in 0..most {
        open(&story).unwrap();
    }
    let refused = open(&story).unwrap_err();
    assert!(matches!(refused, OpenError::TooManyUnfunded(waiting) if waiting == most), "{refused}");
    assert_eq!(story.at("agent").channels().unwrap().len(), most);

    // As one that has waited long enough, the first gives up its place.
    story.make_room(most, Duration::ZERO);
    open(&story).unwrap();
    assert_eq!(story.at("agent").channels().unwrap().len(), most);
}

/// An opening over any output, and an update with a payment out of it, by whoever has neither.
fn junk(story: &Carriers, funding: OutPoint) -> (ChannelId, Box<Update>) {
    try_junk(story, funding).expect("it is accepted")
}

fn try_junk(story: &Carriers, funding: OutPoint) -> Result<(ChannelId, Box<Update>), OpenError> {
    let (offer, key) = story.at("agent").offer();
    let keys = Seed::new([9; 64], Network::Regtest).channel_keys(KeyId::from_u64(1));
    let fee_rate = offer.fee_rate.0;
    let output = ScriptBuf::new_p2tr(secp256k1::SECP256K1, keys.session().x_only_public_key().0, None);
    let params = Params {
        network: Network::Regtest,
        funding,
        capacity: Amount::from_sat(CAPACITY),
        expiry: Expiry::at_height(story.chain.tip().expect("the chain has a tip").height + 200),
        fee_rate,
        prepaid: Offer::prepaid(fee_rate),
        payer: Party { funding: keys.funding(), session: keys.session(), output },
        payee: offer.payee.clone(),
    };
    let channel = Channel::new(params).expect("parameters of a channel");
    let pay = drawn::Input::Pay { cost: Msat::ZERO };
    let paid = drawn::Drawn::new(Kind::Cheques, None, Msat::ZERO).handle(&channel, &keys, pay);
    let paid = paid.expect("a payment");
    let (_, effects) = paid.commit(|_| Ok::<_, Infallible>(())).unwrap();
    let [drawn::Effect::Send(update)] = effects.as_slice() else { panic!("{effects:?}") };
    let nothing =
        Transaction { version: Version::TWO, lock_time: LockTime::ZERO, input: vec![], output: vec![] };
    let setup = payer::Setup { channel, keys, funding: nothing, finality: FINALITY };
    let (_, effects) = payer::propose(&setup).commit(|_| Ok::<_, Infallible>(())).unwrap();
    let [payer::Effect::Propose(opening)] = effects.as_slice() else { panic!("{effects:?}") };
    let accept = |agent: &Teller| agent.accept(&offer, key, (**opening).clone(), None);
    let (id, _) = story.does("agent", accept)?;
    Ok((id, update.clone()))
}

/// Anybody signs payments out of outputs that he does not have.
#[test]
fn an_opening_that_nobody_funds_is_forgotten_whatever_was_paid_in_it_and_one_over_another_output_leaves_the_memory()
 {
    let story = Carriers::begin(&["agent", "writer"]);
    let most = 2;
    story.make_room(most, Duration::ZERO);
    let invented = |byte| OutPoint { txid: Txid::from_byte_array([byte; 32]), vout: 0 };
    for byte in 1..=4 {
        let (id, update) = junk(&story, invented(byte));
        let taken = story.does("agent", |agent| agent.take(id, update.clone(), Msat::ZERO)).unwrap();
        assert_eq!(taken.taken, Some(1));
        assert!(story.at("agent").channels().unwrap().len() <= most);
    }

    // What anybody can see is refused. Whoever makes a transaction knows its outputs before.
    let tip = story.chain.tip().unwrap();
    let coinbase = story.chain.block(&tip.hash).unwrap().txdata[0].compute_txid();
    let seen = OutPoint { txid: coinbase, vout: 0 };
    let refused = try_junk(&story, seen).unwrap_err();
    assert!(matches!(refused, OpenError::OtherOutput(named) if named == seen), "{refused}");
    let (offer, key) = story.at("agent").offer();
    let plan = Plan {
        capacity: Amount::from_sat(CAPACITY),
        expiry: tip.height + 200,
        kind: Kind::Cheques,
        peer: None,
    };
    let (right, opening) = story.in_peace(|| story.at("writer").propose(&offer, plan)).unwrap();
    let kept_back = opening.params.funding;
    let (id, _) = junk(&story, OutPoint { vout: 1 - kept_back.vout, ..kept_back });
    story.make_room(most + 1, Duration::ZERO);
    let accept = |agent: &Teller| agent.accept(&offer, key, opening.clone(), None);
    let (_, signature) = story.does("agent", accept).unwrap();
    story.in_peace(|| story.at("writer").accepted(right, signature)).unwrap();
    story.look();
    let listed = story.at("agent").channels().unwrap();
    assert_eq!(listed.iter().find(|entry| entry.id == id).map(|entry| entry.state.name()), Some("closed"));
    assert!(story.at("agent").call_key(id).is_none(), "it is on disk only");
    assert_eq!(story.at("agent").params(id).map(|params| params.funding.txid), Some(kept_back.txid));
}

/// The payee has accepted a channel, and its word never came to the agent, which gave the proposal up.
#[test]
fn a_payee_forgets_a_channel_that_its_agent_has_given_up_and_none_that_holds_anything() {
    let story = Carriers::begin(&["agent", "payee"]);
    let (offer, key) = story.at("payee").offer();
    let expiry = story.chain.tip().unwrap().height + 100;
    let plan = Plan { capacity: Amount::from_sat(CAPACITY), expiry, kind: Kind::Lock, peer: None };
    let (id, opening) = story.in_peace(|| story.at("agent").propose(&offer, plan)).unwrap();
    let accept = |payee: &Teller| payee.accept(&offer, key, opening.clone(), Some("agent".to_owned()));
    let (_, signature) = story.does("payee", accept).unwrap();
    story.in_peace(|| story.at("agent").refused(id)).unwrap();
    let late = story.does("agent", |agent| agent.accepted(id, signature)).unwrap_err();
    assert!(matches!(late, OrderError::NoChannel(_)), "{late}");
    assert_eq!(story.at("payee").cashing_channels("agent").unwrap().len(), 1);
    // Whoever has died right after it had deleted the channel finds nothing to delete.
    story.does("payee", |payee| payee.forget_unfunded(id)).unwrap();
    assert!(story.at("payee").cashing_channels("agent").unwrap().is_empty());

    let funded = story.open("agent", "payee", Kind::Lock, 100);
    assert!(!story.does("payee", |payee| payee.forget_unfunded(funded)).unwrap());
    let left = story.at("payee").cashing_channels("agent").unwrap();
    assert!(left.iter().any(|(id, _)| *id == funded));
}

/// It may come after the acceptance: then the funding is out, and its coins are spent.
#[test]
fn a_refusal_that_comes_too_late_frees_no_coins() {
    let (story, behind, ..) = sale();
    let held = || story.at("writer").balance().total();
    let before = held();
    assert!(before < PURSE);
    story.does("writer", |writer| writer.refused(behind)).unwrap();
    assert_eq!((held(), story.at("writer").channels().unwrap().len()), (before, 1));
    // And while the funding is in no block yet, when the wallet knows of it by itself alone.
    let (offer, key) = story.at("agent").offer();
    let expiry = story.chain.tip().unwrap().height + 200;
    let plan = Plan { capacity: Amount::from_sat(CAPACITY), expiry, kind: Kind::Cheques, peer: None };
    let fresh = story.in_peace(|| {
        let (id, opening) = story.at("writer").propose(&offer, plan).unwrap();
        let (_, signature) = story.at("agent").accept(&offer, key, opening, None).unwrap();
        story.at("writer").accepted(id, signature).unwrap();
        id
    });
    let before = held();
    story.does("writer", |writer| writer.refused(fresh)).unwrap();
    assert_eq!(held(), before, "its coins are not free for anything else");
}
