//! Whatever a payer sends in flat mode, the payee serves nothing that is not paid for; whatever a payee or the chain says, the
//! payer gives nothing away.

mod common;

use std::sync::LazyLock;

use bitcoin::{Amount, OutPoint, Transaction, Txid};
use common::call_story::PREPAID;
use common::flat_story::*;
use common::*;
use farthing_protocol::flat::{Batch, BatchTerms, Terms};
use farthing_protocol::lightspeed::{Call, CallNumber, Tab, Word};
use farthing_protocol::payer::call::Input;
use farthing_protocol::sighting::{Funding, Locked, Sighting};
use farthing_protocol::{Msat, payee, payer};
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Attack {
    /// Any output with any output's preimage, under any batch's number.
    Call {
        counter: u64,
        epoch: u32,
        cost: u64,
        batch: u32,
        index: u32,
        of: u32,
        garbled: bool,
    },
    /// A batch of any number on any base, with parts that do not belong together.
    Batch {
        number: u32,
        base: u64,
        part: u8,
    },
    /// The call that runs ends.
    End {
        counter: u64,
        charged: Option<u64>,
    },
    TopUp {
        counter: u64,
        by: u64,
    },
    Refuse(u32),
    Reconcile(u64),
    Plain(u64),
    Restart,
}

fn attack() -> impl Strategy<Value = Attack> {
    let amount = || prop_oneof![4 => 0..5_000_000_u64, 1 => any::<u64>()];
    let index = || prop_oneof![9 => 0..20_u32, 1 => any::<u32>()];
    let counter = || prop_oneof![9 => 0..60_u64, 1 => any::<u64>()];
    prop_oneof![
        12 => (counter(), 0..4_u32, amount(), 0..5_u32, index(), index(), prop::bool::weighted(0.2)).prop_map(
            |(counter, epoch, cost, batch, index, of, garbled)| {
                let of = if garbled { of } else { index };
                Attack::Call { counter, epoch, cost, batch, index, of, garbled }
            }
        ),
        2 => (0..6_u32, 0..50_000_u64, 0..6_u8).prop_map(|(number, base, part)| Attack::Batch { number, base, part }),
        8 => (counter(), prop::option::of(amount())).prop_map(|(counter, charged)| Attack::End { counter, charged }),
        2 => (counter(), amount()).prop_map(|(counter, by)| Attack::TopUp { counter, by }),
        1 => (0..6_u32).prop_map(Attack::Refuse),
        1 => any::<u64>().prop_map(Attack::Reconcile),
        1 => (0..60_000_u64).prop_map(Attack::Plain),
        1 => Just(Attack::Restart),
    ]
}

/// What the payee was given of one batch, if it hangs together.
fn announced(number: u32, base: u64, part: u8) -> Option<Batch> {
    let channel = channel();
    let batch = batch_on(number, sat(base));
    let honest = batch.sign(&channel, &payer_keys()).ok()?;
    let other = batch_on(number + 1, sat(base)).sign(&channel, &payer_keys()).ok()?;
    let mut signed = honest.clone();
    let mut terms = batch;
    match part {
        0 => signed.micropayment = other.micropayment,
        1 => signed.commitment = honest.micropayment,
        2 => signed.locks = other.locks,
        3 => terms.terms = Terms { outputs: 19, ..terms.terms },
        _ => {}
    }
    let verified = Batch::verify(&channel, terms, signed, POLICY.margin);
    assert!(part > 3 || verified.is_err(), "parts that do not belong together are taken");
    verified.ok()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_payee_serves_nothing_that_no_payer_paid(attacks in vec(attack(), 0..120)) {
        let mut tab = flat_tab();
        tab.begin(1);
        let mut epoch = 1;
        let mut claimed = Msat::ZERO;
        for attack in attacks {
            let before = (tab.spent(), tab.paid());
            match attack {
                Attack::Call { counter, epoch, cost, batch, index, of, garbled } => {
                    let honest = preimage(&batch_on(batch, PREPAID), of);
                    let word = if garbled && of % 3 == 0 { Word::from_bytes([7; 32]) } else { honest };
                    let number = CallNumber { epoch, counter };
                    let (channel, last) = (channel().id(), None);
                    let call = Call { channel, number, cost: Msat::new(cost), chain: batch, index, word, last };
                    let _refused = tab.admit([], &call, None);
                }
                Attack::Batch { number, base, part } => {
                    if let Some(batch) = announced(number, base, part) {
                        let _refused = tab.take_batch(batch);
                    }
                }
                Attack::End { counter, charged } => {
                    tab.end(CallNumber { epoch, counter }, charged.map(Msat::new));
                }
                Attack::TopUp { counter, by } => {
                    let _refused = tab.top_up(CallNumber { epoch, counter }, Msat::new(by), None);
                }
                Attack::Refuse(number) => tab.refuse_chain(number),
                Attack::Reconcile(counter) => drop(tab.reconcile(CallNumber { epoch, counter })),
                Attack::Plain(total) => {
                    let _refused = tab.pay(&channel(), payment(sat(total)));
                }
                Attack::Restart => {
                    let stored = postcard::to_stdvec(&tab).unwrap();
                    tab = postcard::from_bytes::<Tab>(&stored).unwrap();
                    epoch += 1;
                    tab.begin(epoch);
                }
            }
            let taken = tab.spent().saturating_add(tab.numbers().pending());
            prop_assert!(taken <= tab.paid(), "serves what was not paid for");
            prop_assert!(tab.spent() >= before.0 && tab.paid() >= before.1, "an account went back");
            prop_assert!(tab.paid() <= channel().max_total());
            prop_assert!(tab.uncovered(&channel()) <= tab.exposure(&channel()));
            // What it would publish pays plainly at least what it did.
            let base = match tab.batch() {
                Some(batch) => {
                    let opens = |(index, word): (u32, Word)| word.lock() == lock(batch, index);
                    prop_assert!(batch.preimages().all(opens));
                    batch.terms().base()
                }
                None => tab.ledger().newest.unwrap().total,
            };
            prop_assert!(base >= claimed, "the base fell");
            claimed = base;
        }
    }

    /// Amounts and times at which a payer signs nothing and takes nothing that is not its own.
    #[test]
    fn a_payer_is_not_talked_into_anything(
        inputs in vec(payer_input(), 0..80),
        looks in vec(sighting(), 0..12),
    ) {
        let mut payer = flat_payer();
        let mut sent = Msat::ZERO;
        for mut input in inputs {
            if let Input::Reconcile { last, .. } = &mut input {
                // The payer knows what it had sent.
                *last = payer.state.purse().unwrap().last_number();
            }
            let before = payer.state.ledger();
            let asks = match &input {
                Input::Call { cost, .. } | Input::TopUp { by: cost, .. } => *cost,
                _ => Msat::ZERO,
            };
            let Ok(transition) = payer.state.handle(&payer.setup, payer::Input::Call(input)) else { continue };
            payer.state = commit(transition).0;
            let ledger = payer.state.ledger();
            sent = sent.saturating_add(asks);
            prop_assert!(ledger.spent <= sent, "counts more than its calls allowed");
            let one = FIRST.unit().saturating_add(Msat::new(1_000));
            prop_assert!(ledger.paid() <= before.paid().saturating_add(one), "reveals two for one call");
            prop_assert!(ledger.paid() <= payer.setup.channel.max_total());
        }
        for look in looks {
            let Ok(transition) = payer.state.handle(&payer.setup, payer::Input::Sighted(look)) else { continue };
            let (state, effects) = commit(transition);
            for effect in effects {
                let payer::Effect::Broadcast(transaction) = effect else { continue };
                let own = &payer.setup.channel.params().payer.output;
                let is_funding = transaction == payer.setup.funding;
                prop_assert!(
                    is_funding || transaction.output.iter().all(|output| output.script_pubkey == *own)
                );
            }
            payer.state = state;
        }
    }

    #[test]
    fn a_payee_that_closes_alone_pays_itself_whatever_the_chain_shows(looks in vec(sighting(), 0..20)) {
        let mut payee = flat_payee(&[0, 3, 5, 6, 19]);
        let opened = payee.takes(payee::Input::Close);
        let [payee::Effect::Publish(publication)] = &opened[..] else { panic!("a commitment") };
        let commitment = publication.commitment.clone();
        for look in looks {
            for effect in payee.takes(payee::Input::Sighted(look)) {
                match effect {
                    payee::Effect::Publish(publication) => prop_assert_eq!(&publication.commitment, &commitment),
                    payee::Effect::Broadcast(claim) => {
                        let own = &payee.setup.channel.params().payee.output;
                        prop_assert!(claim.output.iter().all(|output| output.script_pubkey == *own));
                    }
                    payee::Effect::Spread { batch, .. } => prop_assert_eq!(batch.revealed(), 5),
                    other => prop_assert!(false, "{other:?}"),
                }
            }
        }
    }
}

fn lock(batch: &Batch, index: u32) -> [u8; 32] {
    batch.outputs(&channel()).expect("a batch").locks().as_slice()[index as usize]
}

fn payer_input() -> impl Strategy<Value = Input> {
    let amount = || prop_oneof![6 => 0..2_500_000_u64, 1 => any::<u64>()].prop_map(Msat::new);
    let number = || (0..9_u32, 0..40_u64).prop_map(|(epoch, counter)| CallNumber { epoch, counter });
    let chain = || 0..4_u32;
    prop_oneof![
        10 => amount().prop_map(Input::call),
        2 => (number(), amount()).prop_map(|(number, by)| Input::top_up(number, by)),
        8 => (number(), prop::option::of(amount()))
            .prop_map(|(number, charged)| Input::Answered { number, charged }),
        2 => (chain(), 0..9_u32).prop_map(|(chain, epoch)| Input::Taken { chain, epoch }),
        1 => chain().prop_map(|chain| Input::Refused { chain }),
        1 => (0..9_u32).prop_map(Input::Epoch),
        1 => (number(), amount()).prop_map(|(last, spent)| Input::Reconcile { last, spent }),
        2 => (chain(), 0..60_000_u64).prop_map(|(number, base)| {
            Input::AnnounceBatch(BatchTerms { number, ..batch_on(number, sat(base)) })
        }),
    ]
}

static PUBLISHED: LazyLock<Published> = LazyLock::new(Published::new);

/// Looks at a published batch, in every state and out of order, and at strangers in its place.
fn sighting() -> impl Strategy<Value = Sighting> {
    let depth = || prop_oneof![6 => 0..60_u32, 1 => 1_000..1_100_u32, 1 => any::<u32>()];
    (0..6_u8, depth(), depth(), depth(), 1..60_u32, vec((0..20_u32, 0..4_u8, depth()), 0..20)).prop_map(
        |(kind, deep, lsf, spread, fee_rate, outputs)| {
            let published = &*PUBLISHED;
            let funding = match kind {
                0 => confirmed(deep),
                1 => spent(&stranger(), deep),
                _ => spent(&published.commitment, deep),
            };
            let mut locked = Vec::new();
            match kind {
                2 => locked.push(Locked { outpoint: published.lsf(), status: published.unspent_lsf(lsf) }),
                3 => locked.push(Locked { outpoint: published.lsf(), status: spent(&stranger(), lsf) }),
                4 | 5 => {
                    let status = spent(&published.micropayment, spread);
                    locked.push(Locked { outpoint: published.lsf(), status });
                    let txid = published.micropayment.compute_txid();
                    locked.extend(outputs.into_iter().map(|(vout, status, depth)| {
                        let output = published.micropayment.output[vout as usize].clone();
                        let status = match status {
                            0 => Funding::Confirmed { output, confirmations: depth },
                            1 => spent(&stranger(), depth),
                            2 => Funding::Unconfirmed(output),
                            _ => Funding::Unseen,
                        };
                        Locked { outpoint: OutPoint { txid, vout }, status }
                    }));
                }
                _ => {}
            }
            let height = TIP.saturating_add(deep);
            Sighting { height, fee_rate: rate(fee_rate), funding, locked }
        },
    )
}

fn stranger() -> Transaction {
    let output =
        bitcoin::TxOut { value: Amount::from_sat(1), script_pubkey: channel().params().payer.output.clone() };
    let from = OutPoint { txid: <Txid as bitcoin::hashes::Hash>::from_byte_array([8; 32]), vout: 3 };
    transaction(from, vec![output])
}
