//! Whatever the wire loses, doubles and reorders, and whoever crashes: a session of calls never stalls, and each served
//! call is charged once.

mod calls;
mod common;

use calls::Calls;
use calls::seller::{Durability, End};
use farthing_protocol::Msat;
use farthing_protocol::hashlock::Delay;
use farthing_protocol::lightspeed::Shape;
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Action {
    Call(u64),
    TopUp { which: usize, by: u64 },
    Announce(Shape),
    DeliverUp { which: usize, refuse: bool },
    DeliverDown(usize),
    LoseUp(usize),
    LoseDown(usize),
    DoubleUp,
    DoubleDown(usize),
    Finish { which: usize, end: End },
    AskAgain,
    AskForTheSum,
    Flush,
    RestartBuyer,
    CrashSeller,
}

/// Fewest words of a chain, and so the most that a call costs.
const FEWEST: u32 = 7;
/// The smallest unit.
const UNIT: u64 = 1_000;

fn shape() -> impl Strategy<Value = Shape> {
    (UNIT..20_000_u64, FEWEST..51_u32, 1..8_u32).prop_map(|(unit, words, rungs)| Shape {
        unit: Msat::new(unit),
        words,
        rungs,
        delay: Delay::blocks(36),
    })
}

/// From a part of a word to several words.
fn cost() -> impl Strategy<Value = u64> {
    prop_oneof![1 => Just(0), 3 => 1..UNIT, 6 => 1..u64::from(FEWEST) * UNIT]
}

fn action() -> impl Strategy<Value = Action> {
    let end = prop_oneof![
        12 => (0..3_000_u64).prop_map(|discount| End::Served { discount: discount.saturating_sub(1_500) }),
        3 => Just(End::Failed),
        1 => Just(End::Crash),
    ];
    prop_oneof![
        16 => cost().prop_map(Action::Call),
        4 => (any::<usize>(), cost()).prop_map(|(which, by)| Action::TopUp { which, by }),
        3 => shape().prop_map(Action::Announce),
        20 => (any::<usize>(), prop::bool::weighted(0.1)).prop_map(|(which, refuse)| Action::DeliverUp { which, refuse }),
        14 => any::<usize>().prop_map(Action::DeliverDown),
        3 => any::<usize>().prop_map(Action::LoseUp),
        3 => any::<usize>().prop_map(Action::LoseDown),
        3 => Just(Action::DoubleUp),
        3 => any::<usize>().prop_map(Action::DoubleDown),
        14 => (any::<usize>(), end).prop_map(|(which, end)| Action::Finish { which, end }),
        2 => Just(Action::AskAgain),
        3 => Just(Action::AskForTheSum),
        1 => Just(Action::Flush),
        1 => Just(Action::RestartBuyer),
        2 => Just(Action::CrashSeller),
    ]
}

fn act(calls: &mut Calls, action: Action, shape: Shape) {
    match action {
        Action::Call(cost) => {
            if calls.call(Msat::new(cost)).is_err() {
                calls.announce(shape);
            }
        }
        Action::TopUp { which, by } => calls.top_up(which, Msat::new(by)),
        Action::Announce(shape) => drop(calls.announce(shape)),
        Action::DeliverUp { which, refuse } => calls.deliver_up(which, refuse),
        Action::DeliverDown(which) => calls.deliver_down(which),
        Action::LoseUp(which) => {
            if !calls.up.is_empty() {
                let which = which % calls.up.len();
                drop(calls.up.swap_remove(which));
            }
        }
        Action::LoseDown(which) => {
            if !calls.down.is_empty() {
                let which = which % calls.down.len();
                calls.down.swap_remove(which);
            }
        }
        // The payer's retry is a copy of what is under way.
        Action::DoubleUp | Action::AskAgain => calls.ask_again(),
        Action::DoubleDown(which) => {
            if !calls.down.is_empty() {
                let copy = calls.down[which % calls.down.len()].clone();
                calls.down.push(copy);
            }
        }
        Action::AskForTheSum => calls.ask_for_the_sum(),
        Action::Finish { which, end } => calls.finish(which, end),
        Action::Flush => calls.seller.flush(),
        Action::RestartBuyer => {
            let again = calls.buyer.restart();
            calls.up.extend(again);
        }
        Action::CrashSeller => calls.seller.crash(),
    }
}

/// Chaos, and then quiet.
fn story(durability: Durability, actions: Vec<Action>, shape: Shape) -> Calls {
    let mut calls = Calls::new(durability);
    calls.announce(shape);
    for action in actions {
        act(&mut calls, action, shape);
        calls.check();
    }
    calls.settle();
    calls.check();
    calls
}

/// Calls until nothing is left.
fn use_up(calls: &mut Calls, shape: Shape) -> usize {
    // Every chain, of whatever unit, pays for one such call at least: no chain may be worth less than a call.
    let cost = Msat::new(u64::from(FEWEST) * UNIT);
    let mut served = 0;
    while calls.is_served_afresh(cost, shape) {
        calls.check();
        served += 1;
    }
    served
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_session_never_stalls_and_charges_each_served_call_once(
        actions in vec(action(), 0..160),
        shape in shape(),
    ) {
        let mut calls = story(Durability::Call, actions, shape);
        prop_assert_eq!(calls.buyer.purse().ledger().spent, calls.seller.ledger().spent);
        use_up(&mut calls, shape);
        prop_assert_eq!(calls.buyer.purse().ledger().spent, calls.seller.ledger().spent);
        calls.close();
    }

    /// With answers that leave before they are stored a crash costs the payee, never the payer, and stops nobody.
    #[test]
    fn a_batch_that_a_crash_takes_stalls_nothing(actions in vec(action(), 0..160), shape in shape()) {
        let mut calls = story(Durability::Batch, actions, shape);
        prop_assert!(calls.seller.ledger().spent <= calls.buyer.purse().ledger().spent);
        use_up(&mut calls, shape);
        calls.close();
    }
}
