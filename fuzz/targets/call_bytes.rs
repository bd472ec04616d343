//! A call's bytes: exactly those that were read are written again, and no MAC fits by chance. As if it had fitted, the call
//! goes to a tab, between calls that are genuine but for a byte or two. Whatever comes, nothing is served that was not paid
//! for, and the claim never falls.
#![no_main]

use std::sync::LazyLock;

use farthing_fuzz::{Choices, fixture};
use farthing_protocol::lightspeed::call::{LENGTH, LENGTH_WITH_LAST, MacKey, Target};
use farthing_protocol::lightspeed::numbers::Standing;
use farthing_protocol::lightspeed::tab::Claim;
use farthing_protocol::lightspeed::{Call, CallNumber, Ladder, Tab};
use farthing_protocol::session::CallKey;
use farthing_protocol::{Msat, commitment};
use libfuzzer_sys::fuzz_target;

/// A run of more steps than this finds nothing new.
const MOST_STEPS: usize = 60;

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::maybe_endless(data);
    let mut table = Table::new();
    if choices.byte().is_multiple_of(4) {
        return match Call::from_bytes(choices.peek()) {
            Ok((call, mac)) => {
                assert_eq!(call.to_bytes(&mac), choices.peek());
                not_authentic(&call, &mac);
                table.admit(&call);
            }
            Err(_) => assert!(![LENGTH, LENGTH_WITH_LAST].contains(&choices.peek().len())),
        };
    }
    for _ in 0..MOST_STEPS {
        if choices.is_empty() {
            break;
        }
        table.step(&mut choices);
    }
});

fn not_authentic(call: &Call, mac: &[u8; 32]) {
    let fixture = fixture::fixture();
    let channel = &fixture.payee.channel;
    let key = CallKey::agree(&fixture.payee.keys, &fixture.payer.keys.session(), channel.id());
    let target = Target { method: "GET", authority: "files.example:8402", uri: "/", body: [0; 32] };
    assert!(MacKey::new(&key).verify(call, &target, mac).is_err(), "nobody guesses a MAC");
}

/// Verifying the rungs costs more than a run.
static TABLE: LazyLock<Table> = LazyLock::new(Table::laid);

/// A tab on the fixture's chains, the second announced ahead.
#[derive(Clone)]
struct Table {
    tab: Tab,
    ladders: Vec<Ladder>,
    /// What genuine words pay that were sent.
    revealed: Msat,
    claimed: Msat,
}

impl Table {
    fn new() -> Self {
        Table::clone(&TABLE)
    }

    fn laid() -> Self {
        let channel = &fixture::fixture().payee.channel;
        let mut tab = Tab::new(fixture::prepayment(), Msat::ZERO);
        tab.begin(1);
        let mut ladders = Vec::new();
        for chain in fixture::chains() {
            let (terms, rungs) = (*chain.terms(), chain.rungs.clone());
            let ladder = Ladder::verify(channel, terms, chain.base, rungs, fixture::POLICY.margin as u16);
            let ladder = ladder.expect("the fixture's chains fit");
            tab.announce(&ladder).expect("the next chain");
            ladders.push(ladder);
        }
        let paid = tab.paid();
        Self { tab, ladders, revealed: paid, claimed: paid }
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        let epoch = self.tab.numbers().epoch();
        let number = CallNumber { epoch, counter: u64::from(choices.byte() % 64) };
        match choices.byte() % 8 {
            0..=4 => {
                let call = self.call(choices, number);
                self.admit(&call);
            }
            5 => {
                let charged = (choices.byte() > 60).then(|| Msat::new(choices.amount()));
                self.tab.end(number, charged);
            }
            6 => drop(self.tab.top_up(number, Msat::new(choices.amount()), None)),
            _ if choices.byte() > 200 => self.tab.begin(epoch + 1),
            _ if choices.byte() > 200 => drop(self.tab.reconcile(number)),
            _ => self.refuse(number),
        }
        self.check();
    }

    /// A genuine call, or one with some of its bytes exchanged.
    fn call(&mut self, choices: &mut Choices<'_>, number: CallNumber) -> Call {
        let chains = fixture::chains();
        let at = usize::from(choices.byte() % 2);
        let index = u32::from(choices.byte()) % (fixture::SHAPE.words + 1);
        let last = (choices.byte() > 60 && at > 0).then(|| chains[at - 1].word(fixture::SHAPE.words));
        let cost = match choices.byte() {
            0..=220 => Msat::new(choices.u64() % 200_000),
            _ => Msat::new(choices.amount()),
        };
        let chain = &chains[at];
        let reached = chain.base.saturating_add(fixture::SHAPE.worth(index));
        self.revealed = self.revealed.max(reached);
        let channel = fixture::fixture().payee.channel.id();
        let word = chain.word(index);
        let call = Call { channel, number, cost, chain: chain.terms().number, index, word, last };
        let mut bytes = call.to_bytes(&choices.array());
        for _ in 0..choices.byte() / 100 {
            let at = usize::from(choices.byte()) % bytes.len();
            bytes[at] = choices.byte();
        }
        Call::from_bytes(&bytes).expect("the length is one of the two").0
    }

    fn admit(&mut self, call: &Call) {
        let before = (self.tab.spent(), self.tab.numbers().pending());
        if self.tab.admit(&self.ladders, call, None).is_err() {
            assert_eq!(
                (self.tab.spent(), self.tab.numbers().pending()),
                before,
                "a refused call costs nothing"
            );
        }
        self.check();
    }

    /// Only a new call can be refused: of any other its payer is to hear what became of it.
    fn refuse(&mut self, number: CallNumber) {
        let before = self.tab.numbers().standing(number);
        let refused = self.tab.refuse(number).is_ok();
        assert_eq!(refused, before == Standing::New, "a call refused that was {before:?}");
        let expected = if refused { Standing::Void } else { before };
        assert_eq!(self.tab.numbers().standing(number), expected);
    }

    fn check(&mut self) {
        let tab = &self.tab;
        let channel = &fixture::fixture().payee.channel;
        let taken = tab.spent().saturating_add(tab.numbers().pending());
        assert!(taken <= tab.paid(), "serves what was not paid for");
        assert!(tab.paid() <= self.revealed, "counts words that were not sent");
        assert!(tab.uncovered(channel) <= tab.exposure(channel), "more at stake than was said");
        let claim = match tab.claim() {
            Claim::Plain(payment) => {
                assert!(commitment::verify(channel, &payment).is_ok());
                payment.total
            }
            Claim::Rung(rung) => rung.total,
            Claim::Batch(_) => panic!("this channel pays with words"),
        };
        assert!(claim >= self.claimed, "the claim fell");
        self.claimed = claim;
    }
}
