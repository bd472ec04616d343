//! Random honest channels with crashes: device and bridge agree on every transaction, no money comes or goes, and at each moment
//! the device can close alone with what is the owner's.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

mod device;

use bitcoin::{Amount, FeeRate};
use device::*;
use farthing_protocol::Msat;
use farthing_protocol::device::bolt3::{Htlc, Side};
use farthing_protocol::device::payments::Source;
use farthing_protocol::device::{Effect, Input, Policy};
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Op {
    /// The device approves an invoice and the gateway offers an HTLC for it, of so many satoshi.
    Pay(u16),
    /// The bridge offers an HTLC of so many satoshi.
    Receive(u16),
    /// The bridge fulfils one of ours, or fails it; one of its own is failed.
    Settle { which: u8, is_paid: bool },
    /// The fee rate changes, in sat/kw.
    Fee(u16),
    /// All that is due goes into the side's next commitment, or its old one is revoked.
    Commit(bool),
    /// The save behind the next decision fails.
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => (300_u16..6_000).prop_map(Op::Pay),
        1 => (300_u16..3_000).prop_map(Op::Receive),
        3 => (any::<u8>(), any::<bool>()).prop_map(|(which, is_paid)| Op::Settle { which, is_paid }),
        1 => (500_u16..3_000).prop_map(Op::Fee),
        8 => any::<bool>().prop_map(Op::Commit),
        2 => Just(Op::Crash),
    ]
}

/// What is to be done to both commitments, the first side's first (BOLT 2: the one of who receives the update).
#[derive(Clone, Copy, Debug)]
struct Change {
    kind: Kind,
    first: Side,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Add(Htlc),
    Fulfil(Htlc, u8),
    Fail(Htlc),
    Fee(FeeRate),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Proposed,
    InFirst,
    RevokedFirst,
    InSecond,
    Done,
}

struct Run {
    world: World,
    changes: Vec<Change>,
    /// Irrevocably with both, and nobody has settled them.
    locked: Vec<(Htlc, u8)>,
    /// All that were ever offered, with the number of their preimage.
    offered: Vec<(Htlc, u8)>,
    paid: Msat,
}

impl Run {
    fn new() -> Self {
        let mut world = World::open();
        let plenty = Msat::new(1_000_000_000);
        let policy = Policy {
            version: 2,
            per_hour: plenty,
            per_day: plenty,
            in_flight: plenty,
            most_htlcs: 400,
            ..policy()
        };
        world.give(Input::Policy(signed(policy))).unwrap();
        // Something for the bridge to offer.
        world.pay(255, 50_000_000).unwrap();
        Self { world, changes: vec![], locked: vec![], offered: vec![], paid: Msat::new(50_000_000) }
    }

    fn act(&mut self, op: Op) {
        match op {
            Op::Pay(sat) => {
                let (number, msat) = (self.offered.len() as u8 + 1, u64::from(sat) * 1_000 + 7);
                let htlc = htlc(number, msat);
                self.world.approve(invoice(number, msat), Source::Gateway).unwrap();
                self.offered.push((htlc, number));
                self.propose(Kind::Add(htlc), Side::Bridge);
            }
            Op::Receive(sat) => {
                let number = self.offered.len() as u8 + 1;
                let htlc = from_bridge(number, u64::from(sat) * 1_000 + 3);
                let pending = self.changes.iter().filter_map(|change| match change.kind {
                    Kind::Add(htlc) if htlc.offered_by == Side::Bridge => Some(htlc.amount),
                    Kind::Add(_) | Kind::Fulfil(..) | Kind::Fail(_) | Kind::Fee(_) => None,
                });
                let least = self.world.next_bridge().to_bridge.min(self.world.next_holder().to_bridge);
                if pending.sum::<Msat>().saturating_add(htlc.amount) <= least {
                    self.offered.push((htlc, number));
                    self.propose(Kind::Add(htlc), Side::Holder);
                }
            }
            Op::Settle { which, is_paid } => {
                if self.locked.is_empty() {
                    return;
                }
                let (htlc, number) = self.locked.swap_remove(usize::from(which) % self.locked.len());
                match htlc.offered_by {
                    Side::Holder if is_paid => {
                        self.paid = self.paid.saturating_add(htlc.amount);
                        self.propose(Kind::Fulfil(htlc, number), Side::Holder);
                    }
                    Side::Holder => self.propose(Kind::Fail(htlc), Side::Holder),
                    Side::Bridge => self.propose(Kind::Fail(htlc), Side::Bridge),
                }
            }
            // One at a time, as the two sides would otherwise go through the rates in different orders.
            Op::Fee(rate) if !self.changes.iter().any(|change| matches!(change.kind, Kind::Fee(_))) => {
                self.propose(Kind::Fee(FeeRate::from_sat_per_kwu(u64::from(rate))), Side::Bridge);
            }
            Op::Fee(_) => {}
            Op::Commit(true) => self.step(Side::Bridge),
            Op::Commit(false) => self.step(Side::Holder),
            Op::Crash => self.world.crashes += 1,
        }
        self.check();
    }

    fn propose(&mut self, kind: Kind, first: Side) {
        self.changes.push(Change { kind, first, stage: Stage::Proposed });
    }

    /// Revokes the side's old commitment if there is one, else makes the next with all that is due.
    fn step(&mut self, side: Side) {
        if self.world.has_previous(side) {
            match side {
                Side::Bridge => self.world.revoke_bridge().unwrap(),
                Side::Holder => self.world.revoke_holder().unwrap(),
            }
            self.advance(side, Stage::InFirst, Stage::RevokedFirst);
            self.advance(side.other(), Stage::InSecond, Stage::Done);
            self.forget_done();
            return;
        }
        let is_due = |change: &&Change| match change.stage {
            Stage::Proposed => change.first == side,
            Stage::RevokedFirst => change.first != side,
            Stage::InFirst | Stage::InSecond | Stage::Done => false,
        };
        let due: Vec<Kind> = self.changes.iter().filter(is_due).map(|change| change.kind).collect();
        if due.is_empty() {
            return;
        }
        let next = match side {
            Side::Bridge => self.world.next_bridge(),
            Side::Holder => self.world.next_holder(),
        };
        let next = due.into_iter().fold(next, |next, kind| match kind {
            Kind::Add(htlc) => next.add(htlc),
            Kind::Fulfil(htlc, number) => next.fulfil(htlc, preimage(number)),
            Kind::Fail(htlc) => next.fail(htlc),
            Kind::Fee(fee_rate) => Next { fee_rate, ..next },
        });
        match side {
            Side::Bridge => drop(self.world.commit_bridge(next).unwrap()),
            Side::Holder => self.world.commit_holder(next).unwrap(),
        }
        self.advance(side, Stage::Proposed, Stage::InFirst);
        self.advance(side.other(), Stage::RevokedFirst, Stage::InSecond);
    }

    fn advance(&mut self, first: Side, from: Stage, to: Stage) {
        for change in self.changes.iter_mut().filter(|change| change.first == first && change.stage == from) {
            change.stage = to;
        }
    }

    fn forget_done(&mut self) {
        for change in self.changes.iter().filter(|change| change.stage == Stage::Done) {
            if let Kind::Add(htlc) = change.kind {
                let offered = self.offered.iter().find(|(offered, _)| *offered == htlc);
                self.locked.push(*offered.expect("every HTLC was offered"));
            }
        }
        self.changes.retain(|change| change.stage != Stage::Done);
    }

    fn check(&self) {
        let capacity = Msat::from_amount(CAPACITY);
        let unrevoked = [self.world.bridge.last(), self.world.holder.last()];
        assert!(unrevoked.into_iter().flatten().all(|contents| contents.total() == capacity));

        // What the device publishes if it stops here pays the owner all that it did not spend or offer.
        let state = stored(&self.world.state);
        let (_, effects) =
            state.handle(&self.world.setup, Input::CloseAlone).unwrap().commit(|_| Ok::<_, ()>(())).unwrap();
        let [Effect::Publish(publication)] = &effects[..] else { panic!("a publication, not {effects:?}") };
        self.world.assert_spends_funding(&publication.commitment);
        for timeout in &publication.htlc_timeouts {
            let spent = timeout.input[0].previous_output.vout as usize;
            assert!(spends(&publication.commitment.output[spent], timeout));
        }
        let outputs: Amount = publication.commitment.output.iter().map(|output| output.value).sum();
        assert!(outputs <= CAPACITY);
        let largest = publication.commitment.output.iter().map(|output| output.value).max().unwrap();
        let ours = self.offered.iter().filter(|(htlc, _)| htlc.offered_by == Side::Holder);
        let at_most_gone =
            ours.map(|(htlc, _)| htlc.amount).sum::<Msat>().saturating_add(Msat::new(50_000_000));
        let fee = Amount::from_sat(3 * (724 + 172 * 60));
        assert!(
            largest + at_most_gone.ceil() + fee >= CAPACITY,
            "{largest} of {CAPACITY}, {at_most_gone} offered"
        );
    }

    /// Everything that was begun comes to its end.
    fn finish(&mut self) {
        for _ in 0..200 {
            while !self.locked.is_empty() {
                self.act(Op::Settle { which: 0, is_paid: self.locked.len().is_multiple_of(2) });
            }
            self.step(Side::Bridge);
            self.step(Side::Holder);
        }
        assert!(self.changes.is_empty(), "{:?}", self.changes);
        let (bridge, holder) = (self.world.next_bridge(), self.world.next_holder());
        assert_eq!(bridge, holder);
        assert!(bridge.htlcs.is_empty());
        assert_eq!(bridge.to_bridge, self.paid);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn honest_channels_agree_and_conserve_money(ops in vec(op(), 1..60)) {
        let mut run = Run::new();
        for op in ops {
            run.act(op);
        }
        run.finish();
    }
}
