//! Each party against one that sends anything at any time, and both against absurd terms.

mod common;

use bitcoin::{Amount, FeeRate, OutPoint, ScriptBuf, Transaction, TxOut};
use common::payee_story::{Payee, opening_signature};
use common::payer_story::{Payer, acceptance};
use common::*;
use farthing_protocol::amount::DUST;
use farthing_protocol::channel::{BadParams, Expiry, SpendKind};
use farthing_protocol::closing::{self, Settlement};
use farthing_protocol::sighting::{Funding, Sighting};
use farthing_protocol::{Channel, Msat, Params, Payment, commitment, payee, payer, refund};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

fn amount() -> impl Strategy<Value = u64> {
    let edges = vec![0, 1, 329, 330, 599_999, 600_000, 99_592_000, 99_592_001, u64::MAX / 1_000, u64::MAX];
    prop_oneof![3 => 0..1_000_000_u64, 3 => 0..100_000_000_u64, 1 => select(edges), 1 => any::<u64>()]
}

fn fee_rate() -> impl Strategy<Value = FeeRate> {
    prop_oneof![4 => 0..3_000_u64, 1 => 0..1_000_000_u64, 1 => any::<u64>()]
        .prop_map(FeeRate::from_sat_per_kwu)
}

fn height() -> impl Strategy<Value = u32> {
    prop_oneof![6 => TIP..TIP + 50, 1 => EXPIRY - 50..EXPIRY + 50, 1 => any::<u32>()]
}

/// A payment that is genuine, or whose total or signature is not.
fn any_payment() -> impl Strategy<Value = Payment> {
    let (impostor, elsewhere) = (payee_keys(), channel_with(|params| params.funding.vout = 1));
    let (here, payer) = (channel(), payer_keys());
    let signed = (amount(), amount(), 0..5).prop_map(move |(total, other, kind)| {
        let total = Msat::new(total);
        match kind {
            0 => Payment { total, ..payment(Msat::new(other)) },
            1 => commitment::sign(&here, &impostor, total),
            2 => commitment::sign(&elsewhere, &payer, total),
            _ => payment(total),
        }
    });
    prop_oneof![9 => signed, 1 => any::<[u8; 32]>().prop_map(|noise| {
        let bytes = [[0; 8].as_slice(), &noise, &noise].concat();
        Payment::from_bytes(&bytes).expect("72 bytes")
    })]
}

/// One of the ways in which the funding is, or is not, spent.
fn any_spend() -> impl Strategy<Value = Transaction> {
    let commitments = (330..99_592_u64).prop_map(|total| commitment_to(sat(total)));
    let closings = (0..99_000_u64).prop_map(|to_payee| closing_of(&settlement(to_payee)));
    let refunds = (1..500_u32).prop_map(|sat_per_vbyte| refund_at(rate(sat_per_vbyte)));
    let stranger = Just(transaction(OutPoint::null(), vec![channel().funding_txout()]));
    let nothing = Just(Transaction { input: vec![], ..transaction(OutPoint::null(), vec![]) });
    let unsigned = Just(transaction(channel().params().funding, vec![]));
    prop_oneof![3 => commitments, 3 => closings, 3 => refunds, 1 => stranger, 1 => nothing, 1 => unsigned]
}

fn any_funding() -> impl Strategy<Value = Funding> {
    let wrong = TxOut { value: Amount::from_sat(1), script_pubkey: ScriptBuf::new() };
    let depth = || prop_oneof![0..9_u32, any::<u32>()];
    prop_oneof![
        2 => Just(Funding::Unseen),
        2 => Just(unconfirmed()),
        12 => depth().prop_map(confirmed),
        1 => Just(Funding::Unconfirmed(wrong.clone())),
        1 => depth().prop_map(move |confirmations| Funding::Confirmed { output: wrong.clone(), confirmations }),
        2 => (any_spend(), depth()).prop_map(|(by, depth)| spent(&by, depth)),
    ]
}

fn sighting() -> impl Strategy<Value = Sighting> {
    (height(), fee_rate(), any_funding()).prop_map(|(height, fee_rate, funding)| Sighting {
        height,
        fee_rate,
        funding,
        locked: Vec::new(),
    })
}

fn payee_input() -> impl Strategy<Value = payee::Input> {
    let settlement = (amount(), fee_rate())
        .prop_map(|(sat, fee_rate)| Settlement { to_payee: Amount::from_sat(sat / 1_000), fee_rate });
    prop_oneof![
        16 => (prop::option::of(any_payment()), amount())
            .prop_map(|(payment, cost)| payee::Input::Charge { payment, cost: Msat::new(cost) }),
        2 => (settlement, height())
            .prop_map(|(settlement, height)| payee::Input::Settle { settlement, height }),
        2 => any_spend().prop_map(|transaction| payee::Input::Settled { transaction }),
        1 => Just(payee::Input::Close),
        4 => sighting().prop_map(payee::Input::Sighted),
    ]
}

fn payer_input() -> impl Strategy<Value = payer::Input> {
    prop_oneof![
        1 => Just(payer::Input::Accepted(acceptance())),
        1 => Just(payer::Input::Accepted(opening_signature())),
        1 => Just(payer::Input::Refused),
        10 => amount().prop_map(|cost| payer::Input::Buy { cost: Msat::new(cost) }),
        1 => (fee_rate(), of(amount().prop_map(Msat::new)))
            .prop_map(|(fee_rate, charged)| payer::Input::Close { fee_rate, charged }),
        2 => any_spend().prop_map(|transaction| payer::Input::Countersigned { transaction }),
        4 => sighting().prop_map(payer::Input::Sighted),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_payee_loses_nothing_to_any_payer(inputs in vec(payee_input(), 0..60)) {
        let mut payee = Payee::awaiting_depth();
        let (mut was_open, mut stopped, mut claim) = (false, false, Msat::ZERO);
        for input in inputs {
            let Ok(transition) = payee.state.handle(&payee.setup, input.clone()) else { continue };
            let before = payee.state.ledger();
            let (next, effects) = commit(transition);
            let ledger = next.ledger();
            was_open |= matches!(next, payee::State::Open(_));

            prop_assert!(ledger.spent <= ledger.paid());
            prop_assert!(ledger.paid() >= claim, "the claim fell");
            prop_assert!(ledger.paid() <= payee.setup.channel.max_total());
            prop_assert!(was_open || ledger.spent <= POLICY.unconfirmed_cap);
            if !matches!(input, payee::Input::Charge { .. }) || stopped {
                prop_assert_eq!(ledger, before, "only a charge moves money, and none after a closing");
            }
            claim = ledger.paid();
            for effect in effects.into_iter().chain(next.resume(&payee.setup)) {
                match effect {
                    payee::Effect::Serve { cost } => {
                        prop_assert!(!stopped);
                        prop_assert_eq!(before.spent.checked_add(cost), Some(ledger.spent));
                    }
                    payee::Effect::Cosign(settlement) => {
                        prop_assert!(settlement.to_payee >= closing::due(ledger.spent, ledger.paid()));
                        prop_assert!(settlement.fee_rate >= rate(2));
                        prop_assert!(closing::build(&payee.setup.channel, &settlement).is_ok());
                    }
                    payee::Effect::Publish(publication) => {
                        let commitment = publication.commitment;
                        assert_valid(&payee.setup.channel, &commitment);
                        let paid = Channel::paid_to(&commitment, &payee.setup.channel.params().payee);
                        prop_assert_eq!(paid, ledger.paid().floor());
                    }
                    payee::Effect::Broadcast(closing) => {
                        assert_valid(&payee.setup.channel, &closing);
                        let paid = Channel::paid_to(&closing, &payee.setup.channel.params().payee);
                        prop_assert!(paid >= closing::due(ledger.spent, ledger.paid()));
                    }
                    payee::Effect::Accept(_) => prop_assert!(false, "only the opening is accepted"),
                    payee::Effect::Answer | payee::Effect::Spread { .. } => {
                        prop_assert!(false, "no call was served");
                    }
                }
            }
            stopped |= !matches!(next, payee::State::AwaitingDepth(_) | payee::State::Open(_));
            prop_assert!(!stopped || !matches!(next, payee::State::AwaitingDepth(_) | payee::State::Open(_)));
            payee.state = next;
        }
    }

    #[test]
    fn a_payer_loses_nothing_to_any_payee(inputs in vec(payer_input(), 0..60), accepted in any::<bool>()) {
        let mut payer = if accepted { Payer::awaiting_funding() } else { Payer::awaiting_acceptance() };
        let (mut stopped, mut bought, mut shown) = (false, Msat::ZERO, Vec::new());
        for input in inputs {
            match &input {
                payer::Input::Countersigned { transaction } => shown.push(transaction.clone()),
                payer::Input::Sighted(Sighting { funding: Funding::Spent { by, .. }, .. }) => shown.push(Transaction::clone(by)),
                _ => {}
            }
            let Ok(transition) = payer.state.handle(&payer.setup, input.clone()) else { continue };
            let before = payer.state.ledger();
            let (next, effects) = commit(transition);
            let ledger = next.ledger();
            if let payer::Input::Buy { cost } = input {
                bought = bought.checked_add(cost).unwrap();
            } else {
                prop_assert_eq!(ledger, before, "only a purchase moves money");
            }
            prop_assert_eq!(ledger.spent, bought);
            prop_assert!(ledger.paid() <= bought.max(sat(600)), "pays more than it bought and prepaid");
            prop_assert!(ledger.paid() >= before.paid());
            for effect in effects {
                match effect {
                    payer::Effect::Pay(payment) => {
                        prop_assert!(!stopped);
                        prop_assert_eq!(commitment::verify(&payer.setup.channel, &payment), Ok(()));
                        prop_assert_eq!(payment.total, ledger.paid());
                        prop_assert!(payment.total <= payer.setup.channel.max_total());
                    }
                    payer::Effect::ProposeClosing(settlement) => {
                        // Whatever the payee says that it charged: never more than was bought.
                        let payer::Input::Close { charged, .. } = &input else { panic!("it was told to close") };
                        let spent = charged.unwrap_or(ledger.spent).min(ledger.spent);
                        prop_assert_eq!(settlement.to_payee, closing::due(spent, ledger.paid()));
                        prop_assert!(settlement.to_payee <= closing::due(ledger.spent, ledger.paid()));
                        prop_assert!(closing::build(&payer.setup.channel, &settlement).is_ok());
                    }
                    payer::Effect::Broadcast(transaction) => check_broadcast(&payer, &input, &shown, &transaction)?,
                    payer::Effect::Propose(_) => prop_assert!(false, "it proposes once"),
                    payer::Effect::Announce(..) | payer::Effect::AnnounceBatch(_) | payer::Effect::Call(_) => {
                        prop_assert!(false, "this channel pays for pieces");
                    }
                    payer::Effect::ReleaseCoins => {
                        prop_assert!(matches!(payer.state, payer::State::AwaitingAcceptance));
                    }
                }
            }
            let pays = matches!(next, payer::State::AwaitingFunding(_) | payer::State::Open(_));
            prop_assert!(!stopped || !pays, "pays again");
            stopped |= !pays && !matches!(next, payer::State::AwaitingAcceptance);
            next.resume(&payer.setup);
            payer.state = next;
        }
    }

    /// Parameters from anywhere: an error, or a channel whose every total is a valid commitment.
    #[test]
    fn absurd_terms_make_no_channel(
        (capacity, prepaid) in (amount(), amount()),
        fee_rate in fee_rate(),
        expiry in prop_oneof![1..500_000_000_u32, any::<u32>()],
        same in 0..8,
        total in amount(),
    ) {
        let mut terms = Params {
            capacity: Amount::from_sat(capacity),
            prepaid: Amount::from_sat(prepaid),
            fee_rate,
            expiry: Expiry::at_height(expiry),
            ..params()
        };
        match same {
            0 => terms.payee.funding = terms.payer.funding,
            1 => terms.payee.funding = terms.payer.funding.negate(secp256k1::SECP256K1),
            2 => terms.payer.output = ScriptBuf::new(),
            _ => {}
        }
        let Ok(channel) = Channel::new(terms) else { return Ok(()) };
        prop_assert!(same > 2);
        prop_assert!((1..500_000_000).contains(&expiry));
        prop_assert!(channel.params().capacity <= Amount::MAX_MONEY);
        prop_assert!(channel.params().prepaid >= DUST);
        prop_assert!(Msat::from_amount(channel.params().prepaid).unwrap() <= channel.max_total());
        let total = Msat::new(total.clamp(prepaid * 1_000, channel.max_total().get()));
        let payment = commitment::sign(&channel, &payer_keys(), total);
        prop_assert_eq!(commitment::verify(&channel, &payment), Ok(()));
        let commitment = commitment::complete(&channel, &payee_keys(), &payment);
        assert_valid(&channel, &commitment);
        prop_assert_eq!(Channel::paid_to(&commitment, &channel.params().payee), total.floor());
        if let Ok(refund) = refund::complete(&channel, &payer_keys(), rate(1)) {
            assert_valid(&channel, &refund);
            prop_assert_eq!(channel.spend_kind(&refund), Some(SpendKind::Refund));
        }
        // Signing and judging any other total does not panic either.
        let beyond = commitment::sign(&channel, &payer_keys(), Msat::new(u64::MAX));
        prop_assert!(commitment::verify(&channel, &beyond).is_ok());
    }
}

#[test]
fn terms_that_make_no_channel_are_refused_with_their_numbers() {
    let refused = |change: fn(&mut Params)| {
        let mut terms = params();
        change(&mut terms);
        Channel::new(terms).err()
    };
    let sat = Amount::from_sat;
    let capacity = |capacity, needed| {
        Some(BadParams::Capacity { capacity: sat(capacity), needed: sat(needed), fee: sat(408) })
    };
    let script = ScriptBuf::new();
    assert_eq!(refused(|p| p.payee.funding = p.payer.funding), Some(BadParams::SameKey));
    assert_eq!(
        refused(|p| p.payee.output = ScriptBuf::new()),
        Some(BadParams::NotTaproot { who: "payee", script })
    );
    for expiry in [0, 500_000_000, u32::MAX] {
        let terms = Params { expiry: Expiry::at_height(expiry), ..params() };
        assert_eq!(Channel::new(terms).err(), Some(BadParams::Expiry(expiry)));
    }
    assert_eq!(
        refused(|p| p.prepaid = DUST - Amount::ONE_SAT),
        Some(BadParams::PrepaidDust { got: sat(329) })
    );
    assert_eq!(refused(|p| p.prepaid = DUST), None);
    assert_eq!(refused(|p| p.capacity = Amount::from_sat(1_007)), capacity(1_007, 1_008));
    assert_eq!(refused(|p| p.capacity = Amount::from_sat(1_008)), None);
    assert_eq!(refused(|p| p.capacity = Amount::MAX_MONEY), None);
    let too_much = Amount::MAX_MONEY.to_sat() + 1;
    assert_eq!(refused(|p| p.capacity = Amount::MAX_MONEY + Amount::ONE_SAT), capacity(too_much, 1_008));
    assert_eq!(refused(|p| p.fee_rate = FeeRate::MAX), Some(BadParams::FeeRate(u64::MAX)));
    assert_eq!(refused(|p| p.prepaid = Amount::from_sat(u64::MAX)), Some(BadParams::FeeRate(500)));
}

/// The funding only after the acceptance, a refund only after the expiry, and else what somebody else has shown.
fn check_broadcast(
    payer: &Payer,
    input: &payer::Input,
    shown: &[Transaction],
    transaction: &Transaction,
) -> Result<(), TestCaseError> {
    if transaction == &payer.setup.funding {
        let accepted = matches!(input, payer::Input::Accepted(_));
        prop_assert!(accepted || !matches!(payer.state, payer::State::AwaitingAcceptance));
    } else if !shown.contains(transaction) {
        let payer::Input::Sighted(sighting) = input else {
            panic!("a refund without a look: {transaction:?}")
        };
        let is_there_to_take = match &sighting.funding {
            Funding::Spent { by, confirmations: 0 } => {
                payer.setup.channel.spend_kind(by) == Some(SpendKind::Refund)
            }
            Funding::Confirmed { .. } => {
                prop_assert!(sighting.height >= EXPIRY);
                true
            }
            Funding::Spent { .. } | Funding::Unseen | Funding::Unconfirmed(_) => false,
        };
        prop_assert!(is_there_to_take, "nothing to take back");
        prop_assert_eq!(transaction.lock_time.to_consensus_u32(), EXPIRY);
        assert_valid(&payer.setup.channel, transaction);
        prop_assert_eq!(payer.setup.channel.spend_kind(transaction), Some(SpendKind::Refund));
    }
    Ok(())
}
