//! A channel that holds promises, from its opening to its end.

use bitcoin::{Amount, FeeRate};

use super::*;
use crate::channel::{Channel, ChannelId, Expiry};
use crate::cheque::held::{Conditions, Onward};
use crate::cheque::point::AdaptorSecret;
use crate::cheque::promises::{BadUpdate, Promise, Terms};
use crate::closing::Settlement;
use crate::commitment;
use crate::opening;
use crate::payee::Policy;
use crate::sighting::{Funding, Sighting};
use crate::testing;

const TIP: u32 = testing::EXPIRY - 1_000;

fn sat(sat: u64) -> Msat {
    Msat::new(sat * 1_000)
}

fn secret(byte: u8) -> AdaptorSecret {
    AdaptorSecret::from_bytes(&[byte; 32]).unwrap()
}

fn setup() -> Setup {
    let policy = Policy { confirmations: 3, unconfirmed_cap: sat(700), margin: 36, patience: 6, finality: 6 };
    Setup { channel: testing::channel(), keys: testing::payee_keys(), policy }
}

fn handle(holder: &Holder, input: Input) -> Result<(Holder, Vec<Effect>), Reject> {
    let transition = holder.handle(&setup(), input)?;
    Ok(transition.commit(|_| Ok::<_, std::convert::Infallible>(())).unwrap())
}

fn sighted(height: u32, funding: Funding) -> Input {
    let fee_rate = FeeRate::from_sat_per_vb_u32(2);
    Input::Channel(payee::Input::Sighted(Sighting { height, fee_rate, funding, locked: Vec::new() }))
}

fn confirmed(confirmations: u32) -> Funding {
    Funding::Confirmed { output: testing::channel().funding_txout(), confirmations }
}

fn awaiting_depth() -> Holder {
    let signature = opening::sign_opening(&testing::channel(), &testing::payer_keys());
    let accepted = payee::accept(&setup(), &signature).unwrap();
    Holder::new(accepted.next().clone()).unwrap()
}

fn open() -> Holder {
    handle(&awaiting_depth(), sighted(TIP, confirmed(3))).unwrap().0
}

fn update(number: u64, base: u64, promises: &[(u8, u64)], cost: u64) -> Input {
    let (channel, keys) = (testing::channel(), testing::payer_keys());
    let base = (base > 0).then(|| commitment::sign(&channel, &keys, sat(base)));
    let promise = |(byte, amount): &(u8, u64)| Promise { amount: sat(*amount), point: secret(*byte).point() };
    let is_left_out = |byte: &u8| !promises.iter().any(|(other, _)| other == byte);
    let settled = (1..=4).filter(is_left_out).map(|byte| secret(byte).point()).collect();
    let terms = Terms { number, base, promises: promises.iter().map(promise).collect(), settled };
    let update = Box::new(terms.sign(&channel, &keys));
    Input::Promises(held::Input::Take { update, cost: sat(cost) })
}

/// Locks the promise under point 1, one tweak away.
fn lock(amount: u64) -> Input {
    let tweak = secret(200);
    let point = secret(1).point().tweaked(&tweak.negated()).unwrap();
    let (held, channel) = (secret(1).point(), ChannelId::from_bytes([9; 32]));
    let conditions = Conditions {
        expiry: Expiry::at_height(testing::EXPIRY - 144),
        paid: Msat::ZERO,
        least: sat(600),
        delta: 144,
        fee: Msat::ZERO,
        is_deep: true,
        height: TIP,
    };
    Input::Promises(held::Input::Lock(
        Onward { held, channel, point, tweak, amount: sat(amount) },
        conditions,
    ))
}

fn learned() -> Input {
    Input::Promises(held::Input::Learned(secret(1).plus(&secret(200).negated()).unwrap()))
}

fn settle(to_payee: u64) -> Input {
    let settlement =
        Settlement { to_payee: Amount::from_sat(to_payee), fee_rate: FeeRate::from_sat_per_vb_u32(2) };
    Input::Channel(payee::Input::Settle { settlement, height: TIP })
}

fn after(holder: Holder, inputs: impl IntoIterator<Item = Input>) -> Holder {
    inputs.into_iter().fold(holder, |holder, input| handle(&holder, input).unwrap().0)
}

/// What is published, checked by consensus: what it pays the holder, in satoshi.
fn published(effects: &[Effect]) -> u64 {
    let [Effect::Channel(payee::Effect::Publish(publication))] = effects else { panic!("{effects:?}") };
    testing::assert_spends_funding(&testing::channel(), &publication.commitment);
    Channel::paid_to(&publication.commitment, &testing::channel().params().payee).to_sat()
}

#[test]
fn what_was_bought_is_published_at_the_margin() {
    let holder = after(open(), [update(1, 600, &[(1, 1_000), (2, 2_000)], 0), lock(1_000), learned()]);
    assert_eq!(holder.life().ledger(), holder.held().ledger());
    let (holder, effects) = handle(&holder, sighted(testing::EXPIRY - 36, confirmed(900))).unwrap();
    assert_eq!(published(&effects), 1_600);
    assert_eq!(holder.life().name(), "closing alone");
    assert_eq!(
        handle(&holder, update(2, 1_600, &[], 0)),
        Err(payee::Reject::NotOpen("closing alone").into())
    );
}

#[test]
fn while_a_lock_is_open_nothing_is_closed_or_settled() {
    let holder = after(open(), [update(1, 600, &[(1, 1_000)], 0), lock(1_000)]);
    let close = || Input::Channel(payee::Input::Close);
    assert_eq!(handle(&holder, close()), Err(held::Reject::LockOpen.into()));
    assert_eq!(handle(&holder, settle(50_000)), Err(held::Reject::LockOpen.into()));
    let holder = after(holder, [learned()]);
    let (_, effects) = handle(&holder, close()).unwrap();
    assert_eq!(published(&effects), 1_600);
    let (due, got) = (Amount::from_sat(1_000), Amount::from_sat(999));
    assert_eq!(handle(&holder, settle(999)), Err(payee::Reject::Underpaid { due, got }.into()));
    let (closing, effects) = handle(&holder, settle(1_000)).unwrap();
    assert!(matches!(effects.as_slice(), [Effect::Channel(payee::Effect::Cosign(_))]));
    assert_eq!(handle(&closing, update(2, 5_000, &[], 0)), Err(payee::Reject::NotOpen("closing").into()));
}

/// The payee has stored that it closes: a cheque that was written before is not locked any more.
#[test]
fn a_closing_channel_locks_and_cashes_nothing() {
    let holder = after(open(), [update(1, 600, &[(1, 1_000)], 0), settle(0)]);
    assert_eq!(handle(&holder, lock(1_000)), Err(payee::Reject::NotOpen("closing").into()));
    let cash = held::Input::Cash { secret: secret(1), least: sat(1), is_deep: true, height: TIP, margin: 36 };
    assert_eq!(handle(&holder, Input::Promises(cash)), Err(payee::Reject::NotOpen("closing").into()));
    // Its payer hears that, and the secrets; nobody else does.
    assert_eq!(handle(&holder, update(2, 600, &[], 0)), Err(payee::Reject::NotOpen("closing").into()));
    let terms = Terms { number: 2, base: None, promises: Vec::new(), settled: Vec::new() };
    let update = Box::new(terms.sign(&testing::channel(), &testing::payee_keys()));
    let refused = handle(&holder, Input::Promises(held::Input::Take { update, cost: Msat::ZERO }));
    assert_eq!(refused, Err(held::Reject::BadUpdate(BadUpdate::Statement).into()));
}

/// Such a channel may be forgotten, and the same opening may come again, with the promise that was given up.
#[test]
fn nothing_is_given_up_in_a_channel_that_nobody_has_funded() {
    let give_up = || Input::Promises(held::Input::GiveUp(secret(1).point()));
    let holder = after(awaiting_depth(), [update(1, 600, &[], 0)]);
    assert_eq!(handle(&holder, give_up()), Err(held::Reject::NotDeep.into()));
    let (holder, effects) = handle(&after(holder, [sighted(TIP, confirmed(1))]), give_up()).unwrap();
    assert_eq!(effects, [Effect::Promises(held::Effect::GiveUp(secret(1).point(), 1))]);
    assert!(holder.held().has_given_up());
}

#[test]
fn before_the_funding_is_deep_promises_are_held_and_nothing_is_handed_over_for_them() {
    let holder = after(awaiting_depth(), [sighted(TIP, confirmed(1)), update(1, 1_000, &[(1, 1_000)], 700)]);
    assert_eq!(handle(&holder, lock(1_000)), Err(held::Reject::NotDeep.into()), "whatever the input says");
    let cap = payee::Reject::NotDeepEnough { cap: sat(700), got: sat(701) };
    assert_eq!(handle(&holder, update(2, 1_001, &[(1, 1_000)], 1)), Err(cap.into()));
    let holder = after(holder, [sighted(TIP, confirmed(3)), lock(1_000)]);
    assert_eq!(holder.held().may_close(), Err(held::Reject::LockOpen));
}

/// A reorganisation takes the funding's depth away while a lock is open. The secret counts all the same.
#[test]
fn a_secret_is_never_refused() {
    // More was spent already than a funding without depth allows.
    let holder = after(open(), [update(1, 800, &[(1, 1_000)], 800), lock(1_000), sighted(TIP, confirmed(1))]);
    assert_eq!(holder.life().name(), "awaiting depth");
    let (holder, effects) = handle(&holder, learned()).unwrap();
    assert_eq!(effects, [Effect::Promises(held::Effect::HandOver(secret(1)))]);
    let (due, got) = (Amount::from_sat(1_800), Amount::from_sat(800));
    assert_eq!(handle(&holder, settle(800)), Err(payee::Reject::Underpaid { due, got }.into()));
    let (_, effects) = handle(&holder, sighted(testing::EXPIRY - 36, confirmed(900))).unwrap();
    assert_eq!(published(&effects), 1_800);
    let deep = after(holder, [sighted(TIP, confirmed(3)), sighted(TIP, confirmed(4))]);
    assert_eq!(
        deep.life().ledger(),
        deep.held().ledger(),
        "and all of it counts when the funding is deep again"
    );
}

#[test]
fn plain_payments_come_with_updates_only() {
    let payment = commitment::sign(&testing::channel(), &testing::payer_keys(), sat(700));
    let charge = payee::Input::Charge { payment: Some(payment), cost: sat(700) };
    assert_eq!(handle(&open(), Input::Channel(charge)), Err(Reject::PaysByUpdates));
    let holder = after(open(), [update(1, 700, &[], 700)]);
    assert_eq!(holder.life().ledger().spent, sat(700));
}
