//! Whatever happens, nobody loses: two honest parties over a bad wire and with crashes, and each party alone against
//! one that sends anything.

mod common;
mod world;

use bitcoin::Amount;
use farthing_protocol::Msat;
use proptest::collection::vec;
use proptest::prelude::*;
use world::{Balances, Crash, END, EXPIRY, World};

#[derive(Clone, Debug)]
enum Action {
    Buy(u64),
    Deliver(usize),
    Lose(usize),
    Double(usize),
    AskAgain,
    RestartPayer,
    RestartPayee,
    Close(u32),
    PayeeCloses,
    Mine { blocks: u32, which: Option<usize>, seen: usize },
    Reorganise { evicted: bool, seen: usize },
}

fn action() -> impl Strategy<Value = Action> {
    let block = (1..4_u32, prop::option::weighted(0.8, 0..4_usize), 0..4_usize);
    prop_oneof![
        12 => cost().prop_map(Action::Buy),
        30 => any::<usize>().prop_map(Action::Deliver),
        4 => any::<usize>().prop_map(Action::Lose),
        4 => any::<usize>().prop_map(Action::Double),
        4 => Just(Action::AskAgain),
        2 => Just(Action::RestartPayer),
        2 => Just(Action::RestartPayee),
        2 => (1..20_u32).prop_map(Action::Close),
        1 => Just(Action::PayeeCloses),
        8 => block.prop_map(|(blocks, which, seen)| Action::Mine { blocks, which, seen }),
        2 => (any::<bool>(), 0..4_usize).prop_map(|(evicted, seen)| Action::Reorganise { evicted, seen }),
    ]
}

/// Of one item, in millisatoshi: mostly small, sometimes the whole channel.
fn cost() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 1..2_000_u64, 4 => 1_000..2_000_000_u64, 1 => 0..110_000_000_u64]
}

fn crashes() -> impl Strategy<Value = Vec<Option<Crash>>> {
    let crash = prop_oneof![Just(Crash::BeforeSave), Just(Crash::BeforeEffects)];
    vec(prop::option::weighted(0.25, crash), 0..100)
}

/// Takes one message from the wire, at any place.
fn take(world: &mut World, which: usize) -> Option<world::Message> {
    let length = world.wire.len();
    (length > 0).then(|| world.wire.swap_remove(which % length))
}

fn act(world: &mut World, action: Action) {
    match action {
        Action::Buy(msat) => world.buy(Msat::new(msat)),
        Action::Deliver(which) => take(world, which).into_iter().for_each(|message| world.deliver(message)),
        Action::Lose(which) => drop(take(world, which)),
        Action::Double(which) => {
            let message = take(world, which);
            world.wire.extend(message.clone());
            world.wire.extend(message);
        }
        Action::AskAgain => world.ask_again(),
        Action::RestartPayer => world.restart_payer(),
        Action::RestartPayee => world.restart_payee(),
        Action::Close(sat_per_vbyte) => world.close(common::rate(sat_per_vbyte)),
        Action::PayeeCloses => world.payee_closes(),
        Action::Mine { blocks, which, seen } => {
            for _ in 0..blocks {
                if world.chain.height < END {
                    world.mine(which, seen);
                    world.check();
                }
            }
        }
        Action::Reorganise { evicted, seen } => {
            world.chain.reorganise(evicted);
            world.look(seen);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any order of anything, and both come to an end in which each has what it is owed.
    #[test]
    fn whatever_happens_nobody_loses(actions in vec(action(), 0..80), crashes in crashes()) {
        let mut world = World::new(crashes);
        for action in actions {
            act(&mut world, action);
            world.check();
        }
        if world.payer_awaits_acceptance() {
            world.refuse();
        }
        wait_for_the_end(&mut world);
        prop_assert!(world.is_over());
        let Some(balances) = world.balances() else {
            // The funding never came, so nothing was sold.
            prop_assert_eq!(world.due(), Amount::ZERO);
            return Ok(());
        };
        prop_assert!(balances.payee >= world.due(), "the payee served for nothing: {balances:?}");
        let fees_and_dust = Amount::from_sat(20 * 154 + 330);
        let owed = Amount::from_sat(100_000).checked_sub(world.payer_paid().floor()).unwrap();
        prop_assert!(balances.payer + fees_and_dust >= owed, "the payer paid for nothing: {balances:?}");
    }

    /// The same purchases end in the same balances, however often either side dies and whatever the wire does.
    #[test]
    fn crashes_change_no_balance(
        costs in vec(cost().prop_filter("one of several", |msat| *msat < 10_000_000), 0..9),
        wire in vec(any::<usize>(), 0..40),
        crashes in crashes(),
        ending in prop_oneof![Just(End::Together), Just(End::PayeeAlone), Just(End::Margin)],
    ) {
        let smooth = story(&costs, &[], vec![], ending);
        let rough = story(&costs, &wire, crashes, ending);
        prop_assert_eq!(&smooth.payer_spent, &smooth.payee_spent);
        prop_assert_eq!(smooth, rough);
    }
}

#[derive(Clone, Copy, Debug)]
enum End {
    Together,
    PayeeAlone,
    Margin,
}

/// A session in which everything that is bought is served in the end, over a wire as bad as `noise`.
fn story(costs: &[u64], noise: &[usize], crashes: Vec<Option<Crash>>, end: End) -> Balances {
    let mut world = World::new(crashes);
    let mut noise = noise.iter().copied();
    until(&mut world, &mut noise, |world| !world.payer_awaits_acceptance(), World::restart_payer);
    for _ in 0..8 {
        world.mine(Some(0), 0);
    }
    for cost in costs {
        world.buy(Msat::new(*cost));
        until(&mut world, &mut noise, |_| true, |_| {});
    }
    until(&mut world, &mut noise, |world| !world.has_unserved(), World::ask_again);
    match end {
        End::Together => {
            let close = |world: &mut World| world.close(common::rate(3));
            until(&mut world, &mut noise, |world| world.chain.has_spend(), close);
        }
        End::PayeeAlone => world.payee_closes(),
        End::Margin => {}
    }
    wait_for_the_end(&mut world);
    assert!(world.is_over());
    world.balances().expect("the funding was spent")
}

/// Quiet blocks, up to well past the expiry if it takes that.
fn wait_for_the_end(world: &mut World) {
    while !world.is_over() && world.chain.height < EXPIRY + 20 {
        world.mine(Some(0), 0);
        world.check();
    }
}

/// Delivers everything, badly, and again until it is done.
fn until(
    world: &mut World,
    noise: &mut impl Iterator<Item = usize>,
    done: impl Fn(&World) -> bool,
    again: impl Fn(&mut World),
) {
    for _ in 0..200 {
        while !world.wire.is_empty() {
            let which = noise.next().unwrap_or(0);
            let action = match which % 7 {
                5 if which > 0 => Action::Lose(which),
                6 if which > 0 => Action::Double(which),
                _ => Action::Deliver(which),
            };
            act(world, action);
            world.check();
        }
        if done(world) {
            return;
        }
        again(world);
    }
    panic!("the wire is bad, but not that bad");
}

/// The story above is about something: the smooth one of each kind, spelled out.
#[test]
fn each_end_pays_what_it_should() {
    let sat = Amount::from_sat;
    let costs = [1_000_000, 2_000_500, 40_000_000];
    let ends = [
        (End::Together, sat(43_000), sat(100_000 - 43_000 - 462)),
        (End::PayeeAlone, sat(43_000), sat(100_000 - 43_000 - 408)),
        (End::Margin, sat(43_000), sat(100_000 - 43_000 - 408)),
    ];
    for (end, payee, payer) in ends {
        let spent = Msat::new(43_000_500);
        let expected = Balances { payer, payee, payer_spent: spent, payee_spent: spent };
        assert_eq!(story(&costs, &[], vec![], end), expected, "{end:?}");
    }
    let unused = story(&[], &[], vec![], End::Margin);
    assert_eq!((unused.payee, unused.payer), (sat(0), sat(100_000 - 276)));
    let little = story(&[1], &[], vec![], End::Together);
    assert_eq!((little.payee, little.payer), (sat(330), sat(100_000 - 330 - 462)));
}
