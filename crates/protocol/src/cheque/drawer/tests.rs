//! A channel that makes promises, from its opening to its end.

use bitcoin::absolute::LockTime;
use bitcoin::transaction::Version;
use bitcoin::{FeeRate, Transaction};

use super::*;
use crate::cheque::drawn::Outcome;
use crate::cheque::point::AdaptorSecret;
use crate::cheque::promises::Promise;
use crate::closing::Settlement;
use crate::commitment;
use crate::opening;
use crate::payment::Payment;
use crate::sighting::{Funding, Sighting};
use crate::testing;

fn sat(sat: u64) -> Msat {
    Msat::new(sat * 1_000)
}

fn secret() -> AdaptorSecret {
    AdaptorSecret::from_bytes(&[1; 32]).unwrap()
}

fn setup() -> Setup {
    let channel = testing::channel();
    let output = vec![channel.funding_txout()];
    let funding = Transaction { version: Version::TWO, lock_time: LockTime::ZERO, input: Vec::new(), output };
    Setup { channel, keys: testing::payer_keys(), funding, finality: 6 }
}

fn handle(drawer: &Drawer, input: Input) -> Result<(Drawer, Vec<Effect>), Reject> {
    let transition = drawer.handle(&setup(), input)?;
    Ok(transition.commit(|_| Ok::<_, std::convert::Infallible>(())).unwrap())
}

fn after(drawer: Drawer, inputs: impl IntoIterator<Item = Input>) -> Drawer {
    inputs.into_iter().fold(drawer, |drawer, input| handle(&drawer, input).unwrap().0)
}

fn proposed() -> Drawer {
    Drawer::new(State::AwaitingAcceptance, Kind::Lock).unwrap()
}

fn open() -> Drawer {
    let acceptance = opening::sign_acceptance(&testing::channel(), &testing::payee_keys());
    after(proposed(), [Input::Channel(payer::Input::Accepted(acceptance))])
}

fn promise() -> Input {
    Input::Promises(drawn::Input::Promise(Promise { amount: sat(1_000), point: secret().point() }))
}

fn spent(by: &Transaction, confirmations: u32) -> Input {
    let funding = Funding::Spent { by: by.clone().into(), confirmations };
    let fee_rate = FeeRate::from_sat_per_vb_u32(2);
    let sighting = Sighting { height: testing::EXPIRY - 1_000, fee_rate, funding, locked: Vec::new() };
    Input::Channel(payer::Input::Sighted(sighting))
}

/// What the payee completes with its secret.
fn cashed(drawer: &Drawer) -> Transaction {
    let update = drawer.resume(&setup()).into_iter().find_map(|effect| match effect {
        Effect::Promises(drawn::Effect::Send(update)) => Some(update),
        Effect::Promises(drawn::Effect::Report(_)) | Effect::Channel(_) => None,
    });
    let channel = testing::channel();
    let payment: Payment = update.unwrap().signed.open(&channel, &[Some(secret())]).unwrap();
    commitment::complete(&channel, &testing::payee_keys(), &payment)
}

#[test]
fn promises_are_made_while_the_channel_is_open() {
    assert_eq!(handle(&proposed(), promise()), Err(payer::Reject::NotOpen("awaiting acceptance").into()));
    let drawer = after(open(), [promise()]);
    let commitment = cashed(&drawer);
    let seen = after(drawer, [spent(&commitment, 0)]);
    assert_eq!(handle(&seen, promise()), Err(payer::Reject::NotOpen("closing").into()));
    let buy = payer::Input::Buy { cost: sat(1) };
    assert_eq!(handle(&open(), Input::Channel(buy)), Err(Reject::PaysByUpdates));
}

#[test]
fn a_look_at_the_chain_gives_the_secret_and_ends_the_channel() {
    let drawer = after(open(), [promise()]);
    let commitment = cashed(&drawer);
    testing::assert_spends_funding(&testing::channel(), &commitment);
    let (drawer, effects) = handle(&drawer, spent(&commitment, 0)).unwrap();
    let paid = Outcome::Paid(secret());
    assert_eq!(effects, [Effect::Promises(drawn::Effect::Report(paid.clone()))]);
    let (drawer, effects) = handle(&drawer, spent(&commitment, 6)).unwrap();
    assert_eq!((drawer.life().name(), effects.len()), ("closed", 0));
    let report = Effect::Promises(drawn::Effect::Report(paid));
    assert!(drawer.resume(&setup()).contains(&report), "until it was noted");
}

#[test]
fn a_closing_settles_what_was_promised_and_paid() {
    let pay = Input::Promises(drawn::Input::Pay { cost: sat(700) });
    let secret = Input::Promises(drawn::Input::Secret(secret()));
    let drawer = after(open(), [pay, promise(), secret]);
    assert_eq!(drawer.life().ledger().spent, sat(1_700));
    let fee_rate = FeeRate::from_sat_per_vb_u32(2);
    let (_, effects) =
        handle(&drawer, Input::Channel(payer::Input::Close { fee_rate, charged: None })).unwrap();
    let settlement = Settlement { to_payee: bitcoin::Amount::from_sat(1_700), fee_rate };
    assert_eq!(effects, [Effect::Channel(payer::Effect::ProposeClosing(settlement))]);
}

/// The payee hands the secret over when the channel is closing already: what waits for it gets it.
#[test]
fn a_secret_is_taken_while_the_channel_closes() {
    let fee_rate = FeeRate::from_sat_per_vb_u32(2);
    let drawer = after(open(), [promise(), Input::Channel(payer::Input::Close { fee_rate, charged: None })]);
    let (_, effects) = handle(&drawer, Input::Promises(drawn::Input::Secret(secret()))).unwrap();
    assert!(effects.contains(&Effect::Promises(drawn::Effect::Report(Outcome::Paid(secret())))));
}
