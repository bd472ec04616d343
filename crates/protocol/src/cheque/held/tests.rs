//! A holder against a payer, a payee and a node that send anything.

use bitcoin::Amount;
use proptest::prelude::*;

use super::*;
use crate::cheque::promises::{BadUpdate, Terms};
use crate::commitment;
use crate::testing;

const DELTA: u32 = 144;

fn sat(sat: u64) -> Msat {
    Msat::new(sat * 1_000)
}

fn secret(byte: u8) -> AdaptorSecret {
    AdaptorSecret::from_bytes(&[byte; 32]).unwrap()
}

/// An update with a plain total and promises `(point, amount)`, all in satoshi.
fn update(number: u64, base: u64, promises: &[(u8, u64)]) -> Input {
    let (channel, keys) = (testing::channel(), testing::payer_keys());
    let base = (base > 0).then(|| commitment::sign(&channel, &keys, sat(base)));
    let promise = |(byte, amount): &(u8, u64)| Promise { amount: sat(*amount), point: secret(*byte).point() };
    let is_left_out = |byte: &u8| !promises.iter().any(|(other, _)| other == byte);
    let settled = (1..=4).filter(is_left_out).map(|byte| secret(byte).point()).collect();
    let terms = Terms { number, base, promises: promises.iter().map(promise).collect(), settled };
    Input::Take { update: Box::new(terms.sign(&channel, &keys)), cost: Msat::ZERO }
}

fn handle(held: &Held, input: Input) -> Result<(Held, Vec<Effect>), Reject> {
    let transition = held.handle(&testing::channel(), input)?;
    Ok(transition.commit(|_| Ok::<_, std::convert::Infallible>(())).unwrap())
}

fn holding(base: u64, promises: &[(u8, u64)]) -> Held {
    handle(&Held::new(None, Msat::ZERO), update(1, base, promises)).unwrap().0
}

/// The lock for the promise under that point: its own point is two tweaks away.
fn onward(byte: u8, amount: u64) -> Onward {
    let tweak = secret(200);
    Onward {
        held: secret(byte).point(),
        channel: ChannelId::from_bytes([9; 32]),
        point: secret(byte).point().tweaked(&tweak.negated()).unwrap(),
        tweak,
        amount: sat(amount),
    }
}

fn conditions() -> Conditions {
    Conditions {
        expiry: Expiry::at_height(testing::EXPIRY - DELTA),
        paid: Msat::ZERO,
        least: sat(600),
        delta: DELTA,
        fee: sat(5),
        is_deep: true,
        height: testing::EXPIRY - 1_000,
    }
}

fn lock(byte: u8, amount: u64) -> Input {
    Input::Lock(onward(byte, amount), conditions())
}

/// The secret of that lock's point.
fn lock_secret(byte: u8) -> AdaptorSecret {
    secret(byte).plus(&secret(200).negated()).unwrap()
}

fn cash(byte: u8, least: u64) -> Input {
    let height = testing::EXPIRY - 1_000;
    Input::Cash { secret: secret(byte), least: sat(least), is_deep: true, height, margin: 36 }
}

/// Else whoever wrote both would cash the dear one, and the cheap one would be found by the secret.
#[test]
fn no_two_promises_depend_on_locks_under_one_point() {
    let held = holding(0, &[(1, 1_000), (2, 2_000)]);
    let (held, _) = handle(&held, lock(2, 1_995)).unwrap();
    let tweak = secret(1).plus(&lock_secret(2).negated()).unwrap();
    for channel in [9, 8] {
        let same = Onward {
            held: secret(1).point(),
            channel: ChannelId::from_bytes([channel; 32]),
            point: lock_secret(2).point(),
            tweak: tweak.clone(),
            amount: sat(900),
        };
        let refused = handle(&held, Input::Lock(same.clone(), conditions())).unwrap_err();
        assert_eq!(refused, Reject::LockTaken(same.point));
    }
    let (held, _) = handle(&held, lock(1, 995)).unwrap();
    let (_, effects) = handle(&held, Input::Learned(lock_secret(2))).unwrap();
    assert_eq!(effects, [Effect::HandOver(secret(2))]);
}

/// Else a writer would have the agent sign that it holds nothing under a point, promise under it, and accuse it when it is cashed.
#[test]
fn nothing_is_promised_under_a_point_that_was_signed_to_be_given_up() {
    let give_up = |byte| Input::GiveUp(secret(byte).point());
    assert_eq!(
        handle(&Held::new(None, Msat::ZERO), give_up(1)),
        Err(Reject::NotGivenUp),
        "nothing was taken"
    );
    let held = holding(600, &[(1, 1_000), (2, 2_000)]);
    assert_eq!(handle(&held, give_up(1)), Err(Reject::NotGivenUp), "it is held");
    let (held, _) = handle(&held, update(2, 600, &[(2, 2_000)])).unwrap();
    // One that was promised, and one that never was.
    let mut held = held;
    for byte in [1, 3] {
        let (next, effects) = handle(&held, give_up(byte)).unwrap();
        assert_eq!(effects, [Effect::GiveUp(secret(byte).point(), 2)]);
        held = next;
        let refused = handle(&held, update(3, 600, &[(2, 2_000), (byte, 1_000)])).unwrap_err();
        assert_eq!(refused, Reject::GivenUp(secret(byte).point()));
    }
    // As often as it is asked; and what was paid for is not given up.
    let (held, effects) = handle(&held, give_up(1)).unwrap();
    assert_eq!(effects, [Effect::GiveUp(secret(1).point(), 2)]);
    let (held, _) = handle(&held, cash(2, 2_000)).unwrap();
    assert_eq!(handle(&held, give_up(2)), Err(Reject::NotGivenUp));
    let (mut held, _) = handle(&held, update(3, 2_600, &[])).unwrap();
    assert_eq!(handle(&held, give_up(2)), Err(Reject::NotGivenUp));
    // Whoever asks for points without an end fills nothing.
    let signed = (10..=254).take_while(|byte| {
        let next = handle(&held, give_up(*byte));
        next.map(|(next, _)| held = next).is_ok()
    });
    assert_eq!(signed.count(), 245);
    let more =
        |byte: u8| AdaptorSecret::from_bytes(&[[byte; 16], [0; 16]].concat().try_into().unwrap()).unwrap();
    let mut refused = None;
    for byte in 1..=10 {
        match handle(&held, Input::GiveUp(more(byte).point())) {
            Ok((next, _)) => held = next,
            Err(reject) => refused = refused.or(Some((byte, reject))),
        }
    }
    assert_eq!(refused, Some((10, Reject::TooManyGivenUp)), "{MOST_GIVEN_UP} of them");
}

#[test]
fn a_promise_is_locked_bought_and_paid() {
    let held = holding(0, &[(1, 1_000)]);
    assert_eq!(held.ledger().paid(), Msat::ZERO);
    let (held, effects) = handle(&held, lock(1, 995)).unwrap();
    assert_eq!(effects, [Effect::Lock(onward(1, 995))]);
    assert_eq!(held.may_close(), Err(Reject::LockOpen));
    assert_eq!(held.resume(), [Effect::Lock(onward(1, 995))]);

    let (held, effects) = handle(&held, Input::Learned(lock_secret(1))).unwrap();
    assert_eq!(effects, [Effect::HandOver(secret(1))]);
    assert_eq!(held.resume(), effects, "until it is paid plainly");
    assert_eq!(
        (held.may_close(), held.ledger().paid(), held.ledger().spent),
        (Ok(()), sat(1_000), sat(1_000))
    );
    let newest = held.ledger().newest.unwrap();
    assert_eq!(commitment::verify(&testing::channel(), &newest), Ok(()));
    let transaction = commitment::complete(&testing::channel(), &testing::payee_keys(), &newest);
    testing::assert_spends_funding(&testing::channel(), &transaction);
    assert_eq!(Channel::paid_to(&transaction, &testing::channel().params().payee), Amount::from_sat(1_000));

    let (held, effects) = handle(&held, update(2, 1_000, &[])).unwrap();
    assert_eq!(effects, [Effect::Taken(2)]);
    assert!(held.is_empty() && held.resume().is_empty());
    assert_eq!(held.ledger().spent, sat(1_000), "and nothing is earned twice");
}

#[test]
fn a_locked_promise_cannot_be_left_out_lowered_or_moved() {
    let (held, _) = handle(&holding(600, &[(1, 1_000), (2, 2_000)]), lock(1, 900)).unwrap();
    let refused = Err(Reject::LeavesOut(secret(1).point()));
    assert_eq!(handle(&held, update(2, 600, &[(2, 2_000)])), refused, "left out");
    assert_eq!(handle(&held, update(2, 90_000, &[])), refused, "left out for a higher total");
    assert_eq!(handle(&held, update(2, 600, &[(1, 999)])), refused, "lowered");
    assert_eq!(handle(&held, update(2, 600, &[(3, 1_000)])), refused, "under another point");
    let (held, _) = handle(&held, update(2, 700, &[(3, 1_000), (1, 1_000)])).unwrap();
    assert_eq!(held.may_close(), Err(Reject::LockOpen), "signed again above a new total, it is locked still");
    let (held, _) = handle(&held, Input::Learned(lock_secret(1))).unwrap();
    assert_eq!(held.ledger().paid(), sat(1_700));
}

#[test]
fn an_open_promise_can_be_taken_back_until_it_is_locked_and_after_the_lock_has_ended() {
    let held = holding(0, &[(1, 1_000)]);
    let (without, _) = handle(&held, update(2, 0, &[])).unwrap();
    assert_eq!(handle(&without, lock(1, 900)), Err(Reject::Unknown));
    let (locked, _) = handle(&held, lock(1, 900)).unwrap();
    let (held, effects) = handle(&locked, Input::Unlocked(onward(1, 900).point)).unwrap();
    assert!(effects.is_empty());
    assert_eq!(held.may_close(), Ok(()));
    assert!(handle(&held, update(2, 0, &[])).is_ok());
    let (still, _) = handle(&locked, Input::Unlocked(secret(1).point())).unwrap();
    assert_eq!(still, locked, "by the point of the lock, not of the promise");
}

#[test]
fn what_was_bought_stays_covered() {
    let (held, _) = handle(&holding(600, &[(1, 1_000), (2, 2_000)]), lock(1, 900)).unwrap();
    let (held, _) = handle(&held, Input::Learned(lock_secret(1))).unwrap();
    let falls = |got| Err(Reject::ClaimFalls { claim: sat(1_600), got: sat(got) });
    assert_eq!(handle(&held, update(2, 600, &[(2, 2_000)])), falls(600));
    assert_eq!(handle(&held, update(2, 1_599, &[])), falls(1_599));
    let sold = Err(Reject::Sold(secret(1).point()));
    assert_eq!(handle(&held, update(2, 1_600, &[(1, 900)])), sold, "the same secret for more money");
    let (kept, _) = handle(&held, update(2, 700, &[(1, 1_000)])).unwrap();
    assert_eq!(kept.ledger().paid(), sat(1_700));
    let (paid, _) = handle(&held, update(2, 1_600, &[(2, 2_000)])).unwrap();
    assert_eq!(handle(&paid, update(3, 1_600, &[(1, 1_000)])), sold, "nor later");
}

/// A payer that does not know the secret yet pays for something else, just as much: that is not the secret's price.
#[test]
fn what_was_bought_is_settled_by_whoever_knows_its_secret() {
    let (held, _) = handle(&holding(600, &[(1, 1_000)]), lock(1, 900)).unwrap();
    let (held, _) = handle(&held, Input::Learned(lock_secret(1))).unwrap();
    let Input::Take { update: known, .. } = update(2, 1_600, &[]) else { panic!("an update") };
    let terms = Terms { settled: Vec::new(), ..known.signed.terms };
    let unknown = Box::new(terms.sign(&testing::channel(), &testing::payer_keys()));
    let unsettled = Err(Reject::Unsettled(secret(1).point()));
    assert_eq!(handle(&held, Input::Take { update: unknown, cost: Msat::ZERO }), unsettled);
    assert!(handle(&held, update(2, 1_600, &[])).is_ok());
}

#[test]
fn an_old_update_changes_nothing() {
    let held = holding(600, &[(1, 1_000)]);
    let (held, _) = handle(&held, update(2, 600, &[(1, 1_000), (2, 2_000)])).unwrap();
    assert_eq!(handle(&held, update(1, 600, &[(1, 1_000)])), Err(Reject::Stale { newest: 2, got: 1 }));
    let (again, effects) = handle(&held, update(2, 600, &[(1, 1_000), (2, 2_000)])).unwrap();
    assert_eq!((again, effects), (held.clone(), vec![Effect::Taken(2)]), "the same again is answered again");
    assert_eq!(handle(&held, update(2, 600, &[])), Err(Reject::Stale { newest: 2, got: 2 }));
    // What is answered to an old one has secrets in it, and is for nobody but the payer.
    let terms = Terms { number: 1, base: None, promises: Vec::new(), settled: Vec::new() };
    let update_of_a_stranger = Box::new(terms.sign(&testing::channel(), &testing::payee_keys()));
    let refused = handle(&held, Input::Take { update: update_of_a_stranger, cost: Msat::ZERO });
    assert_eq!(refused, Err(Reject::BadUpdate(BadUpdate::Statement)));
    let claim = sat(600);
    assert_eq!(handle(&held, update(3, 0, &[])), Err(Reject::ClaimFalls { claim, got: Msat::ZERO }));
}

#[test]
fn a_plain_payment_pays_for_something_else() {
    let held = Held::new(None, Msat::ZERO);
    let with_cost = |input: Input, cost: u64| match input {
        Input::Take { update, .. } => Input::Take { update, cost: sat(cost) },
        other => panic!("{other:?}"),
    };
    let first = Reject::FirstTooSmall { least: sat(600), got: sat(599) };
    assert_eq!(handle(&held, update(1, 599, &[])), Err(first));
    let unpaid = Reject::Unpaid { needed: sat(701), paid: sat(700) };
    assert_eq!(handle(&held, with_cost(update(1, 700, &[(1, 5_000)]), 701)), Err(unpaid));
    let (held, _) = handle(&held, with_cost(update(1, 700, &[(1, 5_000)]), 700)).unwrap();
    assert_eq!(held.ledger().spent, sat(700));
}

/// A cheque whose lock could not end in time, or that brings too little, is not locked.
#[test]
fn nothing_is_locked_that_could_cost_the_holder_money() {
    let held = holding(0, &[(1, 1_000)]);
    let with = |change: fn(&mut Onward, &mut Conditions)| {
        let (mut onward, mut conditions) = (onward(1, 995), conditions());
        change(&mut onward, &mut conditions);
        handle(&held, Input::Lock(onward, conditions)).map(|(_, effects)| effects.len())
    };
    assert_eq!(with(|_, _| {}), Ok(1));
    let expires = testing::EXPIRY;
    assert_eq!(
        with(|_, conditions| conditions.expiry = Expiry::at_height(testing::EXPIRY - DELTA + 1)),
        Err(Reject::TooLate { ends: expires - DELTA + 1, delta: DELTA, expires })
    );
    let ended = expires - DELTA;
    assert_eq!(
        with(|_, conditions| conditions.height = testing::EXPIRY - DELTA),
        Err(Reject::TooNear { expiry: ended, height: ended })
    );
    assert_eq!(
        with(|onward, _| onward.amount = sat(996)),
        Err(Reject::Unprofitable { brings: sat(1_000), takes: sat(1_001) })
    );
    assert_eq!(
        with(|onward, _| onward.amount = Msat::ZERO),
        Err(Reject::Unprofitable { brings: sat(1_000), takes: sat(5) })
    );
    assert_eq!(with(|onward, _| onward.tweak = secret(201)), Err(Reject::WrongTweak));
    assert_eq!(with(|onward, _| onward.point = secret(1).point()), Err(Reject::WrongTweak));
    assert_eq!(with(|onward, _| onward.held = secret(2).point()), Err(Reject::Unknown));
    assert_eq!(with(|_, conditions| conditions.is_deep = false), Err(Reject::NotDeep));
    assert_eq!(
        with(|_, conditions| conditions.least = sat(996)),
        Err(Reject::Dust { least: sat(996), got: sat(995) })
    );
    let small = holding(0, &[(1, 599)]);
    let mut free = conditions();
    (free.least, free.fee) = (sat(330), Msat::ZERO);
    assert_eq!(
        handle(&small, Input::Lock(onward(1, 590), free)),
        Err(Reject::Dust { least: sat(600), got: sat(599) })
    );
}

#[test]
fn a_promise_is_locked_once_and_opens_with_its_secret_alone() {
    let (held, _) = handle(&holding(0, &[(1, 1_000)]), lock(1, 995)).unwrap();
    assert_eq!(handle(&held, lock(1, 994)), Err(Reject::Locked));
    let (same, effects) = handle(&held, lock(1, 995)).unwrap();
    assert_eq!((same, effects.len()), (held.clone(), 1));
    for wrong in [secret(1), secret(2), lock_secret(1).negated()] {
        assert_eq!(handle(&held, Input::Learned(wrong)), Err(Reject::Unknown));
    }
    assert_eq!(handle(&held, cash(1, 1)), Err(Reject::Locked));
    let (held, _) = handle(&held, Input::Learned(lock_secret(1))).unwrap();
    assert_eq!(handle(&held, lock(1, 995)), Err(Reject::Bought));
}

#[test]
fn a_payee_cashes_only_what_it_can_enforce() {
    let held = holding(0, &[(1, 1_000)]);
    let (cashed, effects) = handle(&held, cash(1, 1_000)).unwrap();
    assert_eq!(effects, [Effect::HandOver(secret(1))]);
    assert!(commitment::verify(&testing::channel(), &cashed.ledger().newest.unwrap()).is_ok());
    let (again, effects) = handle(&cashed, cash(1, 1_000)).unwrap();
    assert_eq!((again, effects), (cashed, vec![Effect::HandOver(secret(1))]));

    assert_eq!(handle(&held, cash(1, 1_001)), Err(Reject::TooLittle { least: sat(1_001), got: sat(1_000) }));
    assert_eq!(handle(&held, cash(2, 1)), Err(Reject::Unknown), "a secret that does not fit");
    let with = |is_deep, height| {
        handle(&held, Input::Cash { secret: secret(1), least: sat(1), is_deep, height, margin: 36 })
    };
    let near = testing::EXPIRY - 36;
    assert_eq!(with(true, near), Err(Reject::TooNear { expiry: testing::EXPIRY, height: near }));
    assert_eq!(with(false, near - 1), Err(Reject::NotDeep));
    assert!(with(true, near - 1).is_ok());
    let dust = Reject::Dust { least: sat(600), got: sat(599) };
    assert_eq!(handle(&holding(0, &[(1, 599)]), cash(1, 1)), Err(dust));
}

/// However up to four locks resolve, one state covers all that was paid onward.
#[test]
fn whichever_locks_are_cashed_one_commitment_covers_them() {
    let promises = [(1, 1_000), (2, 2_000), (3, 4_000), (4, 8_000)];
    let mut held = holding(600, &promises);
    for (byte, amount) in promises {
        held = handle(&held, lock(byte, amount - 5)).unwrap().0;
    }
    for resolution in 0..16_u32 {
        let mut held = held.clone();
        let mut paid_onward = 0;
        for (index, (byte, amount)) in promises.iter().enumerate() {
            let input = if resolution >> index & 1 == 1 {
                paid_onward += amount - 5;
                Input::Learned(lock_secret(*byte))
            } else {
                Input::Unlocked(onward(*byte, amount - 5).point)
            };
            held = handle(&held, input).unwrap().0;
        }
        let newest = held.ledger().newest.unwrap();
        assert_eq!(commitment::verify(&testing::channel(), &newest), Ok(()));
        assert!(newest.total >= sat(600 + paid_onward), "resolution {resolution:b}");
        assert_eq!(newest.total, sat(600).saturating_add(held.ledger().spent));
    }
}

/// What a payer, a payee and an operator may try.
#[derive(Clone, Debug)]
enum Attack {
    Update { number: u64, base: u64, promises: Vec<(u8, u64)>, settled: Vec<u8> },
    Lock { byte: u8, amount: u64 },
    Learn(u8),
    Unlock(u8),
}

fn attack() -> impl Strategy<Value = Attack> {
    let promises = proptest::collection::btree_map(1..4_u8, 2..4_u64, 0..=3);
    // A payer that says it knows every secret may leave out what was bought, if the claim stays.
    let settled = prop_oneof![Just(vec![1, 2, 3, 4]), proptest::collection::vec(1..4_u8, 0..=3)];
    prop_oneof![
        4 => (prop_oneof![4 => Just(2_u64), 1 => Just(1)], 0..4_u64, promises, settled).prop_map(|(number, base, promises, settled)| {
            let promises = promises.into_iter().map(|(byte, amount)| (byte, amount * 1_000)).collect();
            Attack::Update { number, base: base * 1_000, promises, settled }
        }),
        4 => (1..4_u8, 1..3_u64).prop_map(|(byte, amount)| Attack::Lock { byte, amount: amount * 1_000 - 5 }),
        4 => (1..4_u8).prop_map(Attack::Learn),
        1 => (1..4_u8).prop_map(Attack::Unlock),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever a payer signs and whoever cashes what: with every way in which the open locks may resolve, the agent can
    /// publish one commitment that covers all it has paid onward, and its claim never falls.
    #[test]
    fn an_agent_is_covered_whatever_it_is_sent(attacks in proptest::collection::vec(attack(), 1..40)) {
        let (channel, keys) = (testing::channel(), testing::payer_keys());
        let mut held = Held::new(None, Msat::ZERO);
        let mut newest = 0;
        let mut claim = Msat::ZERO;
        // Locks that were made, by their promise: what each pays, and whether its payee has cashed it.
        let mut open: std::collections::BTreeMap<u8, u64> = std::collections::BTreeMap::new();
        let mut paid_onward = 0;
        for attack in attacks {
            let next = match &attack {
                Attack::Update { number, base, promises, settled } => {
                    let payment = (*base > 0).then(|| commitment::sign(&channel, &keys, sat(*base)));
                    let promise =
                        |(byte, amount): &(u8, u64)| Promise { amount: sat(*amount), point: secret(*byte).point() };
                    let terms = Terms {
                        number: newest + number - 1,
                        base: payment,
                        promises: promises.iter().map(promise).collect(),
                        settled: settled.iter().map(|byte| secret(*byte).point()).collect(),
                    };
                    let update = Box::new(terms.sign(&channel, &keys));
                    let next = handle(&held, Input::Take { update, cost: Msat::ZERO });
                    newest = next.as_ref().map_or(newest, |_| terms.number);
                    next
                }
                Attack::Lock { byte, amount } => {
                    let next = handle(&held, lock(*byte, *amount));
                    if next.is_ok() {
                        open.insert(*byte, *amount);
                    }
                    next
                }
                // Only a lock that was made gives its secret away.
                Attack::Learn(byte) if open.contains_key(byte) => {
                    paid_onward += open.remove(byte).unwrap();
                    handle(&held, Input::Learned(lock_secret(*byte)))
                }
                Attack::Unlock(byte) if open.contains_key(byte) => {
                    open.remove(byte);
                    handle(&held, Input::Unlocked(onward(*byte, 1).point))
                }
                Attack::Learn(_) | Attack::Unlock(_) => continue,
            };
            let is_update = matches!(attack, Attack::Update { .. });
            prop_assert!(is_update || next.is_ok() || matches!(attack, Attack::Lock { .. }), "{:?}", next);
            if let Ok((next, _)) = next {
                held = next;
            }
            prop_assert!(held.ledger().paid() >= claim, "the claim fell");
            claim = held.ledger().paid();
            prop_assert_eq!(held.may_close().is_ok(), open.is_empty());
            for resolution in 0..1_u32 << open.len() {
                let mut then = held.clone();
                let mut paid = paid_onward;
                for (index, (byte, amount)) in open.iter().enumerate() {
                    if resolution >> index & 1 == 1 {
                        then = handle(&then, Input::Learned(lock_secret(*byte))).unwrap().0;
                        paid += amount;
                    }
                }
                prop_assert!(then.ledger().paid() >= sat(paid), "{paid} sat were paid, {:?}", then.ledger());
                if let Some(payment) = &then.ledger().newest {
                    prop_assert_eq!(commitment::verify(&channel, payment), Ok(()));
                }
            }
        }
    }
}
