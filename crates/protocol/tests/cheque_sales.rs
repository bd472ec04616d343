//! Cheques from the writer to the receipt: through an agent and a node, with crashes and a bad wire, and with the chain as the
//! last word.

mod common;
mod sale;

use farthing_protocol::Msat;
use proptest::collection::vec;
use proptest::prelude::*;
use sale::{Crash, FEE, Message, World};

#[derive(Clone, Debug)]
enum Action {
    Write(u64),
    Cancel(usize),
    WithdrawLock(usize),
    Ask(usize),
    Pay { channel: usize, cost: u64 },
    Deliver(usize),
    Lose(usize),
    Double(usize),
    Restart(usize),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => (1_000..15_000_u64).prop_map(Action::Write),
        2 => any::<usize>().prop_map(Action::Cancel),
        2 => (1..3_usize).prop_map(Action::WithdrawLock),
        8 => any::<usize>().prop_map(Action::Ask),
        2 => (0..3_usize, 1..3_000_u64).prop_map(|(channel, cost)| Action::Pay { channel, cost }),
        40 => any::<usize>().prop_map(Action::Deliver),
        3 => any::<usize>().prop_map(Action::Lose),
        4 => any::<usize>().prop_map(Action::Double),
        4 => (0..4_usize).prop_map(Action::Restart),
    ]
}

fn crashes() -> impl Strategy<Value = Vec<Option<Crash>>> {
    let crash = prop_oneof![Just(Crash::BeforeSave), Just(Crash::BeforeEffects)];
    vec(prop::option::weighted(0.2, crash), 0..120)
}

fn take(world: &mut World, which: usize) -> Option<Message> {
    let length = world.wire.len();
    (length > 0).then(|| world.wire.swap_remove(which % length))
}

fn act(world: &mut World, action: Action) {
    match action {
        Action::Write(amount) => world.write(amount),
        Action::Cancel(which) => world.cancel(which),
        Action::WithdrawLock(channel) => world.withdraw_lock(channel),
        Action::Ask(which) => world.ask(which),
        Action::Pay { channel, cost } => world.pay(channel, Msat::new(cost * 1_000)),
        Action::Deliver(which) => take(world, which).into_iter().for_each(|message| world.deliver(message)),
        Action::Lose(which) => drop(take(world, which)),
        Action::Double(which) => {
            let message = take(world, which);
            world.wire.extend(message.clone());
            world.wire.extend(message);
        }
        Action::Restart(program) => world.restart(program),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whenever it all stops, nobody in the middle has paid more than it gets, the payee gets what it sold, and the writer has a
    /// receipt for whatever it paid.
    #[test]
    fn whenever_it_stops_nobody_has_lost(
        actions in vec(action(), 1..120), crashes in crashes(), payee_stays_away in prop::bool::weighted(0.2)
    ) {
        let mut world = World::new(crashes);
        for action in actions {
            act(&mut world, action);
            world.check();
        }
        let written: Vec<u64> =
            world.cheques.iter().map(|written| written.cheque.terms.amount.floor().to_sat()).collect();
        let balances = world.finish(payee_stays_away);
        let [agent, node, payee] = [0, 1, 2].map(|i| balances.received[i] as i64 - balances.goods[i] as i64);
        prop_assert!(agent >= node, "the agent lost: {balances:?}");
        prop_assert!(payee_stays_away || node >= payee, "the node lost: {balances:?}");

        let receipts: i64 = world
            .cheques
            .iter()
            .zip(written)
            .filter(|(written, _)| world.receipts.contains_key(&written.point))
            .map(|(_, amount)| amount as i64)
            .sum();
        let fees = FEE.floor().to_sat() as i64 * balances.receipts as i64;
        prop_assert!(agent <= receipts + 2 * fees, "the writer paid without a receipt: {balances:?}");
        if !payee_stays_away {
            prop_assert_eq!(payee, receipts, "what the payee sold was paid, {:?}", balances);
            prop_assert_eq!(balances.receipts, balances.cashed);
        }
    }
}

/// Delivers everything, in order.
fn run(world: &mut World) {
    while !world.wire.is_empty() {
        let message = world.wire.remove(0);
        world.deliver(message);
        world.check();
    }
}

#[test]
fn a_cheque_is_sold_through_a_node_while_its_writer_is_away() {
    let mut world = World::new(Vec::new());
    world.write(10_000);
    run(&mut world);
    world.ask(0);
    run(&mut world);
    assert_eq!(world.receipts.len(), 1);
    let balances = world.finish(false);
    assert_eq!(balances.received, [10_010, 10_005, 10_000]);
}

#[test]
fn four_cheques_are_sold_one_after_the_other() {
    let mut world = World::new(Vec::new());
    for amount in [1_000, 2_000, 4_000, 8_000, 16_000] {
        world.write(amount);
    }
    run(&mut world);
    assert_eq!(world.cheques.len(), 4, "there is room for no fifth");
    for cheque in [2, 0, 3, 1] {
        world.ask(cheque);
        run(&mut world);
    }
    let balances = world.finish(false);
    assert_eq!(balances.received, [15_040, 15_020, 15_000]);
    assert_eq!(balances.receipts, 4);
}

/// The node sees a point and a secret on each side, and none of them on both, nor any that the writer's channel has.
#[test]
fn no_point_and_no_secret_is_seen_on_both_sides() {
    let mut world = World::new(Vec::new());
    for amount in [1_000, 2_000] {
        world.write(amount);
        run(&mut world);
        world.ask(world.cheques.len() - 1);
        run(&mut world);
    }
    assert_eq!(world.receipts.len(), 2);
    let [towards_agent, towards_payee] = &world.node_saw;
    assert!(towards_agent.len() >= 4 && towards_payee.len() >= 4, "points and secrets of two sales");
    for seen in towards_agent {
        assert!(!towards_payee.contains(seen));
        assert!(!world.cheques.iter().any(|written| written.point.to_bytes().as_slice() == seen.as_slice()));
    }
    for seen in towards_payee {
        assert!(!world.cheques.iter().any(|written| written.point.to_bytes().as_slice() == seen.as_slice()));
    }
}

/// The payee completes the lock on chain and says nothing; the secret comes back from the chain all the way.
#[test]
fn a_silent_payee_pays_with_its_secret_all_the_same() {
    let mut world = World::new(Vec::new());
    world.write(10_000);
    run(&mut world);
    world.ask(0);
    while !matches!(world.wire.first(), Some(Message::Secret(2, _))) {
        let message = world.wire.remove(0);
        world.deliver(message);
    }
    let balances = world.finish(false);
    assert_eq!(balances.received, [10_010, 10_005, 10_000]);
    assert_eq!(balances.receipts, 1);
}

#[test]
fn a_lock_that_nobody_cashes_costs_nobody_anything() {
    let mut world = World::new(Vec::new());
    world.write(10_000);
    run(&mut world);
    world.ask(0);
    while !matches!(world.wire.first(), Some(Message::Update(2, _))) {
        let message = world.wire.remove(0);
        world.deliver(message);
    }
    let balances = world.finish(true);
    assert_eq!(balances.received, [0, 0, 0]);
    assert_eq!(balances.receipts, 0);
}

/// The node does not want its lock any more and pays just as much for something else, while the payee has cashed the lock
/// already. The payment gets lost, or comes and is not mistaken for the secret's price.
#[test]
fn a_plain_payment_is_not_the_price_of_a_secret() {
    for is_lost in [true, false] {
        let mut world = World::new(Vec::new());
        world.write(10_000);
        run(&mut world);
        world.ask(0);
        while !matches!(world.wire.first(), Some(Message::Secret(2, _))) {
            let message = world.wire.remove(0);
            world.deliver(message);
        }
        world.wire.clear();
        world.withdraw_lock(2);
        world.pay(2, Msat::new(10_000_000));
        if !is_lost {
            run(&mut world);
        }
        let balances = world.finish(false);
        assert_eq!(balances.received[..2], [10_010, 10_005]);
        let (received, goods) = if is_lost { (10_000, 0) } else { (20_000, 10_000) };
        assert_eq!((balances.received[2], balances.goods[2], balances.receipts), (received, goods, 1));
    }
}
