//! A tab and a payer that sends anything: words right and wrong, of any chain, with any number, and rungs that lie.

mod common;

use common::call_story::*;
use common::payee_story::Payee;
use common::*;
use farthing_protocol::hashlock::Delay;
use farthing_protocol::lightspeed::tab::Claim;
use farthing_protocol::lightspeed::{Call, Ladder, Shape, Tab, Word, Words};
use farthing_protocol::{Msat, payee};
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Attempt {
    Announce { skip: u32, lies: Vec<usize> },
    Call { counter: u64, epoch: u32, chain: u32, index: u32, cost: u64, word: bool, last: bool },
    End { counter: u64, charged: Option<u64> },
    TopUp { counter: u64, by: u64 },
    Pay(u64),
    Restart,
}

fn attempt() -> impl Strategy<Value = Attempt> {
    let cost = || prop_oneof![8 => 0..40_000_u64, 4 => 0..400_000_u64, 1 => any::<u64>()];
    let counter = || prop_oneof![10 => 0..60_u64, 1 => any::<u64>()];
    let index = prop_oneof![20 => 0..60_u32, 1 => any::<u32>()];
    let right = || prop::bool::weighted(0.9);
    prop_oneof![
        3 => (0..3_u32, vec(0..8_usize, 0..2)).prop_map(|(skip, lies)| Attempt::Announce { skip, lies }),
        24 => (counter(), 0..2_u32, 0..4_u32, index, cost(), right(), right()).prop_map(
            |(counter, epoch, chain, index, cost, word, last)| Attempt::Call {
                counter, epoch, chain, index, cost, word, last,
            }),
        12 => (counter(), prop::option::weighted(0.8, cost())).prop_map(|(counter, charged)| Attempt::End { counter, charged }),
        2 => (counter(), cost()).prop_map(|(counter, by)| Attempt::TopUp { counter, by }),
        1 => (0..3_000_000_u64).prop_map(Attempt::Pay),
        1 => Just(Attempt::Restart),
    ]
}

/// The payer's side: every chain that it has drawn, and the most that its genuine words and payments pay.
struct Liar {
    shape: Shape,
    chains: Vec<(Words, Msat)>,
    revealed: Msat,
}

impl Liar {
    fn word(&mut self, chain: u32, index: u32) -> Option<Word> {
        let (words, base) = self.chains.iter_mut().find(|(words, _)| words.terms().number == chain)?;
        let word = words.word(index)?;
        self.revealed = self.revealed.max(base.saturating_add(self.shape.worth(index)));
        Some(word)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_payee_of_calls_loses_nothing_to_a_payer_that_sends_anything(
        (unit, words, rungs) in (1..20_000_u64, 7..50_u32, 1..8_u32),
        attempts in vec(attempt(), 0..120),
    ) {
        let shape = Shape { unit: Msat::new(unit), words, rungs: rungs.min(words), delay: Delay::blocks(36) };
        let channel = channel();
        let mut counter = Counter::of(shape);
        let mut liar =
            Liar { shape, chains: vec![(self::words(shape, 1), PREPAID)], revealed: PREPAID };
        let (mut claimed, mut alone) = (Msat::ZERO, Msat::ZERO);
        for attempt in attempts {
            let before = counter.tab.clone();
            match attempt {
                Attempt::Announce { skip, lies } => {
                    let Ok((number, base)) = counter.tab.next_chain() else { continue };
                    let number = (number + skip).saturating_sub(1);
                    let others = self::rungs(shape, number + 1_000, base);
                    let mut rungs = self::rungs(shape, number, base);
                    for lie in lies.into_iter().filter(|lie| *lie < others.len()) {
                        rungs[lie] = others[lie];
                    }
                    let terms = terms(shape, number);
                    let ladder = Ladder::verify(&channel, terms, base, rungs, LEAST_DELAY).unwrap();
                    if counter.tab.announce(&ladder).is_ok() {
                        counter.ladders.push(ladder);
                        liar.chains.push((self::words(shape, number), base));
                    }
                }
                Attempt::Call { counter: of, epoch, chain, index, cost, word, last } => {
                    let (present, ..) = counter.tab.newest_word().unwrap_or((1, 0, Word::from_bytes([0; 32])));
                    let chain = (present + chain).saturating_sub(1);
                    let epoch = counter.tab.numbers().epoch() - epoch.min(1);
                    let number = number(epoch, of);
                    let index = if index > 60 { index } else { index.min(words + 1) };
                    let garbage = Word::from_bytes([7; 32]);
                    let word = word.then(|| liar.word(chain, index)).flatten().unwrap_or(garbage);
                    let below = liar.chains.iter().map(|(words, _)| words.terms().number).filter(|n| *n < chain).max();
                    let last = last.then(|| below.and_then(|below| liar.word(below, words))).flatten();
                    let (channel, cost) = (channel.id(), Msat::new(cost));
                    let call = Call { channel, number, cost, chain, index, word, last };
                    if counter.tab.admit(&counter.ladders, &call, None).is_err() {
                        let left = counter.tab.numbers().pending();
                        prop_assert_eq!((counter.tab.spent(), left), (before.spent(), before.numbers().pending()));
                    }
                }
                Attempt::End { counter: of, charged } => {
                    let number = number(counter.tab.numbers().epoch(), of);
                    let charged = counter.tab.end(number, charged.map(Msat::new));
                    prop_assert_eq!(before.spent().saturating_add(charged), counter.tab.spent());
                }
                Attempt::TopUp { counter: of, by } => {
                    let number = number(counter.tab.numbers().epoch(), of);
                    drop(counter.tab.top_up(number, Msat::new(by), None));
                }
                Attempt::Pay(total) => {
                    let total = Msat::new(total);
                    if counter.tab.pay(&channel, payment(total)).is_ok() {
                        liar.revealed = liar.revealed.max(total);
                    }
                }
                Attempt::Restart => {
                    let bytes = postcard::to_stdvec(&counter.tab).unwrap();
                    counter.tab = postcard::from_bytes(&bytes).unwrap();
                    let epoch = counter.tab.numbers().epoch() + 1;
                    counter.tab.begin(epoch);
                }
            }
            let tab = &counter.tab;
            let taken = tab.spent().saturating_add(tab.numbers().pending());
            prop_assert!(taken <= tab.paid(), "serves what was not paid for");
            prop_assert!(tab.paid() <= liar.revealed, "counts words that were not sent");
            prop_assert!(tab.spent() >= before.spent() && tab.paid() >= before.paid());
            prop_assert!(tab.uncovered(&channel) <= tab.exposure(&channel), "more at stake than was said");
            prop_assert!(tab.net(&channel) >= alone, "what closing alone brings fell");
            prop_assert!(tab.net(&channel) >= PREPAID, "a rung hides the plain payment");
            alone = tab.net(&channel);
            let claim = match tab.claim() {
                Claim::Batch(_) => panic!("this channel pays with words"),
                Claim::Plain(payment) => payment.total,
                Claim::Rung(rung) => rung.total,
            };
            prop_assert!(claim >= claimed, "the claim fell");
            if claim > claimed {
                judge(&channel, &tab.claim());
                judge_net(tab);
            }
            claimed = claim;
        }
    }
}

/// What a payee of this tab publishes brings what the tab says at the agreed rate: never less than its plain payment.
fn judge_net(tab: &Tab) {
    let mut payee = Payee::with(PREPAID, Msat::ZERO);
    payee.takes(payee::Input::Fold(Box::new(tab.clone())));
    let effects = payee.takes(payee::Input::Close);
    let [payee::Effect::Publish(publication)] = effects.as_slice() else {
        panic!("a commitment: {effects:?}")
    };
    let agreed = payee.setup.channel.params().fee_rate;
    let brings = publication.best(agreed).brings(agreed);
    let plain = tab.ledger().newest.expect("it was signed").total;
    assert!(brings >= plain.floor(), "closing alone brings {brings}, the plain payment {plain}");
    assert!(
        brings >= tab.net(&payee.setup.channel).floor(),
        "closing alone brings {brings}, less than was said"
    );
}

/// Whatever the payee relies on is valid by consensus, with the words that it has.
fn judge(channel: &farthing_protocol::Channel, claim: &Claim) {
    match claim {
        Claim::Batch(_) => panic!("this channel pays with words"),
        Claim::Plain(payment) => {
            assert_valid(channel, &farthing_protocol::commitment::complete(channel, &payee_keys(), payment));
        }
        Claim::Rung(rung) => {
            let commitment = rung.commitment(channel, &payee_keys());
            assert_valid(channel, &commitment);
            let fee = bitcoin::Amount::from_sat(150);
            let child = rung.claim(channel, &payee_keys(), &commitment, fee).expect("above dust");
            assert!(spends(&commitment.output[..1], &child), "consensus rejects {child:#?}");
        }
    }
}
