//! The honest ways: sold directly and through nodes, while the writer is off, over restarts.

use super::carriers::{Carriers, FEE, ask_for, sat};
use farthing_node::cheques::Teller;
use farthing_node::cheques::paper::{Fate, Issued};
use farthing_node::cheques::selling::{LockError, Towards, Trunk};
use farthing_protocol::channel::SpendKind;
use farthing_protocol::cheque::drawn::Kind;

#[test]
fn a_cheque_is_cashed_while_its_writer_is_off_and_the_receipt_waits_for_it() {
    let story = Carriers::begin(&["writer", "agent", "payee"]);
    let behind = story.open("writer", "agent", Kind::Cheques, 200);
    let towards = story.open("agent", "payee", Kind::Lock, 100);
    let issued = story.write(behind, 2_000, 1);
    story.sync("writer", "agent", behind);
    story.stop("writer");

    assert_eq!(story.cash_directly(&issued, towards), sat(2_000));
    assert_eq!(story.totals("payee", towards), (2_000, 2_000), "paid plainly by now");
    assert_eq!(
        story.totals("agent", behind),
        (2_001, 2_001),
        "the agent can claim what it paid, and its fee"
    );

    // Everybody forgets what it had in memory.
    story.start("agent");
    story.start("payee");
    story.start("writer");
    assert_eq!(story.fate(&issued.written.point), Fate::Pending);
    story.sync("writer", "agent", behind);
    let receipt = story.receipt(&issued);
    assert_eq!((receipt.terms.amount, receipt.terms.memo.as_str()), (sat(2_000), "a coffee"));
    assert_eq!(receipt.terms.payee, issued.written.cheque.terms.payee);
    assert_eq!(story.totals("writer", behind), (2_001, 2_001));

    // And on the chain.
    for (name, id, expected) in [("payee", towards, 2_000), ("agent", behind, 2_001)] {
        story.does(name, |side| side.close(id)).unwrap();
        story.look();
        story.mine(7);
        let ending = story.ending(name, id).unwrap();
        assert_eq!((ending.kind, ending.received.to_sat()), (SpendKind::Commitment, expected));
    }
}

#[test]
fn a_cheque_is_cashed_through_a_node() {
    let (story, [behind, middle, last]) = Carriers::with_node();
    let issued = story.write(behind, 2_000, 2);
    story.sync("writer", "agent", behind);
    story.stop("writer");

    story.lock_through(&issued, &[("node", middle)], last);
    assert_eq!(story.cash(&issued), sat(2_000));
    story.sync("node", "payee", last);
    assert_eq!(story.totals("node", middle), (2_001, 2_001), "the node has its price");
    story.sync("agent", "node", middle);
    assert_eq!(story.totals("agent", behind), (2_002, 2_002), "and the agent its own");
    story.start("writer");
    story.sync("writer", "agent", behind);
    story.receipt(&issued);
    assert_eq!(FEE, sat(1));
}

/// Each knows the one before and the one after it: no point is seen twice on the way.
#[test]
fn a_cheque_is_cashed_through_two_nodes_and_each_has_its_fee() {
    let story = Carriers::begin(&["writer", "agent", "node", "other", "payee"]);
    let behind = story.open("writer", "agent", Kind::Cheques, 200);
    let first = story.open("agent", "node", Kind::Lock, 170);
    let second = story.open("node", "other", Kind::Lock, 140);
    let last = story.open("other", "payee", Kind::Lock, 100);
    let issued = story.write(behind, 2_000, 3);
    story.sync("writer", "agent", behind);
    story.stop("writer");

    let mut points = story.lock_through(&issued, &[("node", first), ("other", second)], last);
    points.push(issued.written.point);
    points.sort_unstable();
    points.dedup();
    assert_eq!(points.len(), 4);
    assert_eq!(story.cash(&issued), sat(2_000));
    for (payer, payee, channel, paid) in
        [("other", "payee", last, 2_000), ("node", "other", second, 2_001), ("agent", "node", first, 2_002)]
    {
        story.sync(payer, payee, channel);
        assert_eq!(story.totals(payee, channel), (paid, paid), "{payee}");
    }
    assert_eq!(story.totals("agent", behind), (2_003, 2_003));
    story.start("writer");
    story.sync("writer", "agent", behind);
    story.receipt(&issued);
}

#[test]
fn a_payee_that_stays_silent_holds_one_channel_to_the_node_and_not_the_others() {
    let (story, [behind, held, silent]) = Carriers::with_node();
    let trunk = || story.at("agent").trunk("node").unwrap().held;
    assert_eq!(trunk(), [false]);
    let first = story.write(behind, 2_000, 2);
    let second = story.write(behind, 1_500, 2);
    story.sync("writer", "agent", behind);

    story.lock_through(&first, &[("node", held)], silent);
    assert_eq!(trunk(), [true], "time to open another");
    let free = story.open("agent", "node", Kind::Lock, 150);
    assert_eq!(trunk().into_iter().filter(|is_held| *is_held).count(), 1);
    let last = story.open("node", "payee", Kind::Lock, 100);
    story.lock_through(&second, &[("node", free)], last);
    assert_eq!(story.cash(&second), sat(1_500));
    story.sync("node", "payee", last);
    story.sync("agent", "node", free);
    assert_eq!(trunk().into_iter().filter(|is_held| *is_held).count(), 1, "only the first is held still");
    assert_eq!(story.totals("node", free), (1_501, 1_501));
}

/// What a node wants may change while a cheque is cashed: the payee asks for the same again, and no lock is lost.
#[test]
fn a_cheque_is_cashed_over_a_lock_that_was_made_before_a_fee_had_changed() {
    let (story, [behind, middle, last]) = Carriers::with_node();
    let issued = story.write(behind, 2_000, 2);
    story.sync("writer", "agent", behind);
    let (presented, _) = story.plan(&issued.written.cheque, last, &["node"]);
    let plan = |fee: u64| {
        let plan =
            |payee: &Teller| payee.plan_sale(&presented.point, last, vec!["node".to_owned()], &[sat(fee)]);
        let (planned, route) = story.does("payee", plan).unwrap();
        let amount = planned.sale.unwrap().amounts[0];
        let ask = ask_for(&presented, &route, 0, amount, Towards::Node("node".to_owned()));
        story.does("agent", |agent| agent.lock(&ask))
    };
    assert_eq!(plan(1).unwrap(), middle);
    assert_eq!(plan(0).unwrap(), middle, "the same lock");
    story.sync("agent", "node", middle);
    story.lock_through(&issued, &[("node", middle)], last);
    assert_eq!(story.cash(&issued), sat(2_000));
}

/// A writer whose payees stay silent leaves others a way to the node.
#[test]
fn the_cheques_of_one_writer_do_not_hold_the_last_channel_to_a_node() {
    let (story, [behind, first, one]) = Carriers::with_node();
    let open = |payer, payee, lifetime| story.open(payer, payee, Kind::Lock, lifetime);
    // As many as the agent has to one node, each to end a block before the one before it.
    let to_node = [first, open("agent", "node", 147), open("agent", "node", 145), open("agent", "node", 143)];
    let silent = [one, open("node", "payee", 100), open("node", "payee", 100)];
    let cheques = [2_000, 1_900, 1_800, 1_700].map(|amount| story.write(behind, amount, 2));
    story.sync("writer", "agent", behind);
    for ((cheque, channel), last) in cheques.iter().zip(to_node).zip(silent) {
        story.lock_through(cheque, &[("node", channel)], last);
    }
    let last = open("node", "payee", 100);
    let lock = |issued: &Issued| {
        let (presented, route) = story.plan(&issued.written.cheque, last, &["node"]);
        let amount = presented.cheque.terms.amount.saturating_add(FEE);
        let ask = ask_for(&presented, &route, 0, amount, Towards::Node("node".to_owned()));
        story.does("agent", |agent| agent.lock(&ask))
    };
    let refused = lock(&cheques[3]).unwrap_err();
    assert!(matches!(refused, LockError::HoldsEnough(3)), "{refused}");
    // Somebody else's, or one that was cashed, makes no difference to it.
    let another = story.open("writer", "agent", Kind::Cheques, 200);
    let other = story.write(another, 2_000, 2);
    story.sync("writer", "agent", another);
    story.lock_through(&other, &[("node", to_node[3])], last);
    assert_eq!(story.cash(&other), sat(2_000));
    story.sync("node", "payee", last);
    story.sync("agent", "node", to_node[3]);
    assert_eq!(story.cash(&cheques[0]), sat(2_000));
    story.sync("node", "payee", silent[0]);
    story.sync("agent", "node", to_node[0]);
    lock(&cheques[3]).unwrap();
}

/// A writer's channel that is older than the agent's to the node ends too early for it. The agent is told how long the next may live.
#[test]
fn a_channel_to_a_node_that_ends_too_late_for_a_cheque_that_waits_is_passed_over() {
    let story = Carriers::begin(&["writer", "agent", "node", "payee"]);
    let behind = story.open("writer", "agent", Kind::Cheques, 200);
    let late = story.open("agent", "node", Kind::Lock, 199);
    let amount = sat(2_001);
    let trunk = || story.at("agent").trunk("node").unwrap();
    let way = |latest| story.at("agent").way("node", amount, latest, None).unwrap();
    assert_eq!((trunk().held, trunk().latest), (vec![false], u32::MAX), "nothing waits");
    let issued = story.write(behind, 2_000, 2);
    story.sync("writer", "agent", behind);
    let latest = issued.written.cheque.latest.height();
    let expected = Trunk { held: Vec::new(), live: 1, latest };
    assert_eq!((trunk(), way(latest)), (expected, None));
    // A payee with more nodes on its way asks for an earlier end.
    assert_eq!(way(latest - 1), None);
    assert_eq!(trunk().latest, latest - 1);
    let latest = latest - 1;

    let height = story.chain.tip().unwrap().height;
    let good = story.open("agent", "node", Kind::Lock, latest - height);
    assert_eq!((trunk().held, trunk().live), (vec![false], 2));
    assert_eq!(trunk().latest, latest + 1, "what was asked for is there by now");
    assert_eq!((way(latest), way(u32::MAX)), (Some(latest), Some(height + 198)));
    let last = story.open("node", "payee", Kind::Lock, 100);
    story.lock_through(&issued, &[("node", good)], last);
    assert_eq!(story.cash(&issued), sat(2_000));
    assert_ne!(good, late);
}

/// A payee that comes again, after it had its first lock made, is told of the channel that the lock is in: it is free for nobody else.
#[test]
fn the_way_of_a_lock_that_was_made_is_the_channel_that_it_is_in() {
    let (story, [behind, middle, last]) = Carriers::with_node();
    let issued = story.write(behind, 2_000, 2);
    story.sync("writer", "agent", behind);
    let points = story.lock_through(&issued, &[("node", middle)], last);
    let (point, latest) = (issued.written.point, issued.written.cheque.latest.height());
    let way = |at: &str, held| story.at(at).way("node", sat(2_001), latest, held).unwrap();
    let expiry = |id| story.at("node").params(id).unwrap().expiry.height();
    assert_eq!((way("agent", None), way("agent", Some(point))), (None, Some(expiry(middle))));
    assert_eq!(way("agent", Some(points[1])), None, "the agent holds nothing under that");
    assert_eq!(way("node", Some(points[0])), Some(expiry(last)));
    assert_eq!(story.cash(&issued), sat(2_000));
}

/// A way that was asked for and never came about does not stand in the way of those that are asked for when it is too late for it.
#[test]
fn a_way_that_was_asked_for_too_long_ago_is_wanted_no_more() {
    let story = Carriers::begin(&["agent", "node"]);
    story.open("agent", "node", Kind::Lock, 300);
    let height = story.chain.tip().unwrap().height;
    let way = |latest| story.at("agent").way("node", sat(1_000), latest, None).unwrap();
    let wanted = || story.at("agent").trunk("node").unwrap().latest;
    assert_eq!((way(height + 100), wanted()), (None, height + 100));
    assert_eq!((way(height + 150), wanted()), (None, height + 100), "the earliest of all");
    story.mine_to(height + 60);
    // No payee would have time behind the first by now.
    assert_eq!((way(height + 150), wanted()), (None, height + 150));
}
