//! A payer of promises against whoever holds them.

use bitcoin::Transaction;

use super::*;
use crate::cheque::held::{self, Held};
use crate::refund;
use crate::testing;

const FINALITY: u32 = 6;

fn sat(sat: u64) -> Msat {
    Msat::new(sat * 1_000)
}

fn secret(byte: u8) -> AdaptorSecret {
    AdaptorSecret::from_bytes(&[byte; 32]).unwrap()
}

fn promise(byte: u8, amount: u64) -> Input {
    Input::Promise(Promise { amount: sat(amount), point: secret(byte).point() })
}

fn handle(drawn: &Drawn, input: Input) -> Result<(Drawn, Vec<Effect>), Reject> {
    let transition = drawn.handle(&testing::channel(), &testing::payer_keys(), input)?;
    Ok(transition.commit(|_| Ok::<_, std::convert::Infallible>(())).unwrap())
}

fn after(drawn: Drawn, inputs: impl IntoIterator<Item = Input>) -> Drawn {
    inputs.into_iter().fold(drawn, |drawn, input| handle(&drawn, input).unwrap().0)
}

fn cheques() -> Drawn {
    Drawn::new(Kind::Cheques, None, Msat::ZERO)
}

fn locks() -> Drawn {
    Drawn::new(Kind::Lock, None, Msat::ZERO)
}

fn sent(effects: &[Effect]) -> Update {
    let sent = effects.iter().find_map(|effect| match effect {
        Effect::Send(update) => Some(update.as_ref().clone()),
        Effect::Report(_) => None,
    });
    sent.expect("an update is sent")
}

fn sighted(by: &Transaction, confirmations: u32) -> Input {
    let funding = Funding::Spent { by: by.clone().into(), confirmations };
    let fee_rate = bitcoin::FeeRate::from_sat_per_vb_u32(2);
    let sighting = Sighting { height: testing::EXPIRY, fee_rate, funding, locked: Vec::new() };
    Input::Sighted { sighting: Box::new(sighting), finality: FINALITY }
}

/// What the payee can publish when it cashes the promise under that point.
fn commitment_of(update: &Update, byte: u8) -> Transaction {
    let channel = testing::channel();
    let take = held::Input::Take { update: Box::new(update.clone()), cost: Msat::ZERO };
    let (height, margin) = (testing::EXPIRY - 1_000, 36);
    let cash = held::Input::Cash { secret: secret(byte), least: sat(1), is_deep: true, height, margin };
    let held = [take, cash].into_iter().fold(Held::new(None, Msat::ZERO), |held, input| {
        held.handle(&channel, input).unwrap().commit(|_| Ok::<_, std::convert::Infallible>(())).unwrap().0
    });
    commitment::complete(&channel, &testing::payee_keys(), &held.ledger().newest.unwrap())
}

#[test]
fn a_secret_is_stored_reported_and_paid_plainly() {
    let (drawn, effects) = handle(&locks(), promise(1, 1_000)).unwrap();
    assert_eq!(sent(&effects).check(&testing::channel()), Ok(()));
    assert_eq!(drawn.resume(&testing::channel(), &testing::payer_keys()), effects, "until it is paid");
    assert_eq!(drawn.most_signed(), sat(1_000));
    for wrong in [secret(2), secret(1).negated()] {
        assert_eq!(handle(&drawn, Input::Secret(wrong)), Err(Reject::Unknown));
    }
    let (drawn, effects) = handle(&drawn, Input::Secret(secret(1))).unwrap();
    let outcome = Outcome::Paid(secret(1));
    assert!(effects.contains(&Effect::Report(outcome.clone())));
    let update = sent(&effects);
    assert_eq!((update.signed.terms.base_total(), update.signed.terms.promises.len()), (sat(1_000), 0));
    assert_eq!((drawn.ledger().spent, drawn.is_open()), (sat(1_000), false));
    assert_eq!(update.signed.terms.settled, [secret(1).point()]);
    let paid = after(drawn.clone(), [Input::Taken(2), Input::Pay { cost: sat(1) }]);
    assert!(paid.terms().settled.is_empty(), "once the payee knows");
    let heard = after(drawn.clone(), [Input::Taken(2)]);
    let again = sent(&heard.resume(&testing::channel(), &testing::payer_keys()));
    assert_eq!(
        (again, heard.awaits_word()),
        (update, false),
        "an update that was taken is the same when it is sent again"
    );

    let resumed = drawn.resume(&testing::channel(), &testing::payer_keys());
    assert!(resumed.contains(&Effect::Report(outcome.clone())), "until it was noted");
    let drawn = after(drawn, [Input::Noted(outcome.clone())]);
    let resumed = drawn.resume(&testing::channel(), &testing::payer_keys());
    assert!(!resumed.contains(&Effect::Report(outcome)));
    assert_eq!(handle(&drawn, promise(1, 1_000)), Err(Reject::PointUsed), "its secret is known");
}

/// A payee can complete a lock silently: taking it back in words frees nothing, nor does a payment that it may not have.
#[test]
fn a_withdrawn_lock_counts_until_its_payee_took_a_plain_total_that_reaches_it() {
    let drawn = after(locks(), [promise(1, 1_000), Input::Withdraw(secret(1).point())]);
    assert!(drawn.is_open());
    assert_eq!(handle(&drawn, promise(2, 1_000)), Err(Reject::LockOpen));
    let drawn = after(drawn, [Input::Pay { cost: sat(999) }]);
    assert_eq!(handle(&drawn, promise(2, 1_000)), Err(Reject::LockOpen));
    let drawn =
        after(drawn, [Input::Taken(3), Input::Pay { cost: sat(1) }, Input::Taken(3), Input::Taken(5)]);
    assert_eq!(handle(&drawn, promise(2, 1_000)), Err(Reject::LockOpen), "the fourth update was not taken");
    let (drawn, effects) = handle(&drawn, Input::Taken(4)).unwrap();
    assert_eq!(effects, [Effect::Report(Outcome::Ended(secret(1).point()))]);
    assert!(!drawn.is_open());
    assert!(handle(&drawn, promise(2, 1_000)).is_ok());
}

#[test]
fn a_lock_is_signed_again_above_each_plain_payment() {
    let (drawn, effects) =
        handle(&after(locks(), [promise(1, 1_000)]), Input::Pay { cost: sat(700) }).unwrap();
    let terms = &sent(&effects).signed.terms;
    assert_eq!((terms.base_total(), terms.most()), (sat(700), Some(sat(1_700))));
    assert_eq!(drawn.most_signed(), sat(1_700), "no plain total below it ends the lock");
    assert_eq!(handle(&drawn, promise(2, 1_000)), Err(Reject::LockOpen));
}

/// Whichever of the states that were ever signed the payee publishes, its secret is found in it, at once.
#[test]
fn the_chain_gives_the_secret_away_whatever_was_signed_since() {
    let channel = testing::channel();
    let (drawn, effects) = handle(&locks(), promise(1, 1_000)).unwrap();
    let first = commitment_of(&sent(&effects), 1);
    let (drawn, effects) = handle(&drawn, Input::Pay { cost: sat(700) }).unwrap();
    let second = commitment_of(&sent(&effects), 1);
    let withdrawn = after(drawn.clone(), [Input::Withdraw(secret(1).point()), Input::Pay { cost: sat(100) }]);
    for drawn in [drawn, withdrawn] {
        for published in [&first, &second] {
            testing::assert_spends_funding(&channel, published);
            let (drawn, effects) = handle(&drawn, sighted(published, 0)).unwrap();
            assert_eq!(effects, [Effect::Report(Outcome::Paid(secret(1)))]);
            assert!(!drawn.is_open());
            let (_, effects) = handle(&drawn, sighted(published, FINALITY)).unwrap();
            assert!(effects.is_empty(), "once: {effects:?}");
        }
    }
}

#[test]
fn a_spend_that_does_not_pay_a_lock_ends_it_when_it_is_deep() {
    let (channel, keys) = (testing::channel(), testing::payer_keys());
    let drawn = after(locks(), [Input::Pay { cost: sat(700) }, promise(1, 1_000)]);
    let payment = drawn.ledger().newest.unwrap();
    let plain = commitment::complete(&channel, &testing::payee_keys(), &payment);
    let refund = refund::complete(&channel, &keys, bitcoin::FeeRate::from_sat_per_vb_u32(2)).unwrap();
    for other in [&plain, &refund] {
        let (same, effects) = handle(&drawn, sighted(other, FINALITY - 1)).unwrap();
        assert_eq!((&same, effects.len()), (&drawn, 0), "not before");
        let (ended, effects) = handle(&drawn, sighted(other, FINALITY)).unwrap();
        assert_eq!(effects, [Effect::Report(Outcome::Ended(secret(1).point()))]);
        assert!(!ended.is_open());
        assert_eq!(ended.resume(&channel, &keys).last(), effects.last(), "until it was noted");
    }
}

#[test]
fn several_cheques_published_together_give_a_joint_secret() {
    let (drawn, effects) = handle(&after(cheques(), [promise(1, 1_000)]), promise(2, 2_000)).unwrap();
    let channel = testing::channel();
    let update = sent(&effects);
    let payment = update.signed.open(&channel, &[Some(secret(1)), Some(secret(2))]).unwrap();
    let both = commitment::complete(&channel, &testing::payee_keys(), &payment);
    let (drawn, effects) = handle(&drawn, sighted(&both, 1)).unwrap();
    let [Effect::Report(Outcome::PaidJointly(points, joint))] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    assert_eq!(*points, [secret(1).point(), secret(2).point()]);
    assert_eq!(joint.point(), crate::cheque::point::joint_point(points));
    assert_eq!(drawn.ledger().spent, sat(3_000));
    // The payee says which secret is whose, after the fact.
    assert!(drawn.lacks_secrets() && drawn.awaits_word());
    let (drawn, effects) = handle(&drawn, Input::Secret(secret(2))).unwrap();
    assert_eq!(effects, [Effect::Report(Outcome::Paid(secret(2)))]);
    assert_eq!(handle(&drawn, Input::Secret(secret(2))), Err(Reject::Unknown), "once");
    let (drawn, effects) = handle(&drawn, Input::Secret(secret(1))).unwrap();
    assert_eq!((effects.len(), drawn.lacks_secrets(), drawn.ledger().spent), (1, false, sat(3_000)));
}

/// What was signed for two together stands when one of them was settled since: the agent may publish that state, and the writer's receipt of
/// the other is in it.
#[test]
fn a_secret_is_found_in_a_state_that_pays_it_together_with_what_was_settled_since() {
    let channel = testing::channel();
    let (both, effects) = handle(&after(cheques(), [promise(1, 1_000)]), promise(2, 2_000)).unwrap();
    let update = sent(&effects);
    let payment = update.signed.open(&channel, &[Some(secret(1)), Some(secret(2))]).unwrap();
    let published = commitment::complete(&channel, &testing::payee_keys(), &payment);
    let settled = after(both.clone(), [Input::Secret(secret(2))]);
    let taken_back = after(settled.clone(), [Input::Withdraw(secret(1).point())]);
    // Others were promised and settled with it meanwhile.
    let later = after(settled.clone(), [promise(3, 500), Input::Secret(secret(3)), promise(4, 700)]);
    for (drawn, spent) in [(settled, 3_000), (taken_back, 3_000), (later, 3_500)] {
        let (drawn, effects) = handle(&drawn, sighted(&published, 0)).unwrap();
        assert_eq!(effects, [Effect::Report(Outcome::Paid(secret(1)))]);
        assert_eq!((drawn.ledger().spent, drawn.lacks_secrets()), (sat(spent), false));
    }
    // One that was taken back, and one that is open.
    let loose = after(both, [Input::Withdraw(secret(2).point())]);
    let (drawn, effects) = handle(&loose, sighted(&published, 0)).unwrap();
    let [Effect::Report(Outcome::PaidJointly(points, _))] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!((points.len(), drawn.is_open(), drawn.lacks_secrets()), (2, false, true));
}

/// What nobody needs any more takes no room.
#[test]
fn sets_that_were_signed_together_are_kept_until_all_of_them_are_over() {
    let drawn = after(cheques(), [promise(1, 1_000), promise(2, 2_000), promise(3, 700)]);
    assert_eq!(drawn.together.size(), (1, 0), "the larger set has the smaller ones in it");
    let drawn = after(drawn, [Input::Secret(secret(1)), Input::Secret(secret(2))]);
    assert_eq!(drawn.together.size(), (1, 2));
    let drawn = after(drawn, [Input::Secret(secret(3))]);
    assert_eq!(drawn.together.size(), (0, 0));
}

#[test]
fn a_writer_has_four_cheques_and_replaces_them() {
    let all = [promise(1, 1_000), promise(2, 1_000), promise(3, 1_000), promise(4, 1_000)];
    let drawn = after(cheques(), all);
    assert_eq!(handle(&drawn, promise(5, 1_000)), Err(Reject::BadTerms(BadUpdate::TooMany(5))));
    let drawn = after(drawn, [Input::Withdraw(secret(2).point()), promise(5, 7_000)]);
    assert_eq!(handle(&drawn, promise(2, 1_000)), Err(Reject::PointUsed));
    assert_eq!(drawn.most_signed(), sat(10_000), "of the newest state; the withdrawn one is below");
    assert_eq!(
        handle(&drawn, Input::StillHeld(secret(2).point())),
        Err(Reject::BadTerms(BadUpdate::TooMany(5)))
    );
    let drawn = after(drawn, [Input::Withdraw(secret(5).point()), Input::StillHeld(secret(2).point())]);
    assert_eq!(drawn.terms().promises.len(), 4);
    // The agent cashed one that was withdrawn: it is owed all the same.
    let (drawn, effects) = handle(&drawn, Input::Secret(secret(5))).unwrap();
    assert!(effects.contains(&Effect::Report(Outcome::Paid(secret(5)))));
    assert_eq!(drawn.ledger().paid(), sat(7_000));
}

#[test]
fn nothing_is_promised_that_could_not_be_enforced_or_paid() {
    assert_eq!(handle(&locks(), promise(1, 599)), Err(Reject::Dust { least: sat(600), got: sat(599) }));
    let most = testing::channel().max_total();
    let over = Err(Reject::BadTerms(BadUpdate::OverCapacity { most }));
    assert_eq!(handle(&locks(), promise(1, 99_999)), over);
    let drawn = after(cheques(), [promise(1, 90_000)]);
    assert_eq!(
        handle(&drawn, Input::Pay { cost: sat(20_000) }),
        over,
        "a payment leaves room for what is open"
    );
    assert_eq!(handle(&drawn, Input::Pay { cost: Msat::new(u64::MAX) }), over);
    assert_eq!(handle(&drawn, Input::Withdraw(secret(2).point())), Err(Reject::Unknown));
}
