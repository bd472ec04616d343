use std::str::FromStr as _;

use bitcoin::{Amount, OutPoint};
use farthing_protocol::device::bolt3::{Basepoints, PartyTerms};
use secp256k1::{SECP256K1, SecretKey};

use super::*;

/// Everything below about 2,000 sat has no output.
const FEE_RATE: FeeRate = FeeRate::from_sat_per_kwu(2_500);

fn key(byte: u8) -> PublicKey {
    SecretKey::from_slice(&[byte; 32]).unwrap().public_key(SECP256K1)
}

fn terms() -> Terms {
    let party = |byte| PartyTerms {
        funding_key: key(byte),
        basepoints: Basepoints {
            payment: key(byte + 1),
            delayed_payment: key(byte + 2),
            htlc: key(byte + 3),
            revocation: key(byte + 4),
        },
        dust_limit: Amount::from_sat(354),
        delay: 144,
    };
    let funding = "8984484a580b825b9972d7adb15050b3ab624ccd731946b3eeddb92f4e7ef6be:0";
    Terms {
        funding: OutPoint::from_str(funding).unwrap(),
        capacity: Amount::from_sat(1_000_000),
        holder: party(0x10),
        bridge: party(0x20),
    }
}

fn preimage(byte: u8) -> Preimage {
    Preimage([byte; 32])
}

fn htlc(byte: u8, sat: u64) -> Htlc {
    Htlc {
        offered_by: Side::Holder,
        amount: Msat::new(sat * 1_000),
        payment_hash: preimage(byte).hash(),
        expiry: 500 + u32::from(byte),
    }
}

fn stands(stage: Stage) -> impl Fn(Htlc) -> UnderWay {
    move |htlc| UnderWay { htlc, stage }
}

/// A channel whose true states are known.
struct Scene {
    ledger: Ledger,
    states: BTreeMap<Side, Contents>,
}

impl Scene {
    /// A fresh channel: everything is the holder's.
    fn new() -> Self {
        let mut scene = Self { ledger: Ledger::default(), states: BTreeMap::new() };
        for side in [Side::Holder, Side::Bridge] {
            let contents = Contents {
                number: CommitmentNumber::FIRST,
                point: key(0x30),
                fee_rate: FEE_RATE,
                to_holder: Msat::new(1_000_000_000),
                to_bridge: Msat::ZERO,
                htlcs: Vec::new(),
            };
            scene.shows(side, contents, &[], None);
        }
        scene
    }

    /// LDK builds that side's next commitment with these HTLCs, and shows these preimages; what is proposed is the truth.
    fn goes_on(&mut self, side: Side, htlcs: &[Htlc], preimages: &[Preimage], under_way: &[UnderWay]) {
        let from = &self.states[&side];
        let update = Update::between(&from.htlcs, htlcs);
        let (to_holder, to_bridge) =
            update.balances(from, |hash| preimages.iter().any(|preimage| preimage.hash() == *hash));
        let number = from.number.next().unwrap();
        let next = Contents { number, to_holder, to_bridge, htlcs: htlcs.to_vec(), ..from.clone() };
        self.shows(side, next, preimages, Some(under_way));
    }

    fn shows(&mut self, side: Side, truth: Contents, preimages: &[Preimage], under_way: Option<&[UnderWay]>) {
        let terms = terms();
        let small = |htlc: &&Htlc| htlc.is_trimmed(side, FEE_RATE, terms.of(side).dust_limit);
        let outline = Outline {
            number: truth.number,
            point: truth.point,
            txid: Commitment::build(&terms, side, &truth).txid(),
            fee_rate: FEE_RATE,
            htlcs: truth.htlcs.iter().filter(|htlc| !small(htlc)).copied().collect(),
            preimages: preimages.to_vec(),
        };
        let proposal = self.ledger.propose(&terms, side, &outline, under_way).unwrap();
        let (mut proposed, mut htlcs) = (proposal.htlcs, truth.htlcs.clone());
        proposed.sort_unstable();
        htlcs.sort_unstable();
        assert_eq!(proposed, htlcs, "in the {side:?} commitment {}", truth.number);
        assert_eq!((proposal.to_holder, proposal.to_bridge), (truth.to_holder, truth.to_bridge));
        self.states.insert(side, truth);
    }

    fn adds(&mut self, before: &[Htlc], new: Htlc) {
        let all = [before, &[new]].concat();
        let committed = before.iter().copied().map(stands(Stage::Committed));
        let under_way: Vec<_> = committed.chain([stands(Stage::Adding)(new)]).collect();
        self.goes_on(Side::Bridge, &all, &[], &under_way);
        let under_way: Vec<_> = all.iter().copied().map(stands(Stage::Committed)).collect();
        self.goes_on(Side::Holder, &all, &[], &under_way);
    }

    fn removes(&mut self, gone: Htlc, left: &[Htlc], preimages: &[Preimage]) {
        let committed = left.iter().copied().map(stands(Stage::Committed));
        let under_way: Vec<_> = committed.chain([stands(Stage::Removing)(gone)]).collect();
        self.goes_on(Side::Holder, left, preimages, &under_way);
        self.goes_on(Side::Bridge, left, preimages, &under_way);
    }
}

/// As long as the bridge has less than dust, a fulfilled payment changes no transaction.
#[test]
fn the_first_small_payments_of_a_channel_are_in_no_commitment_once_they_are_fulfilled() {
    let mut scene = Scene::new();
    for byte in 1..=12 {
        let payment = htlc(byte, 20);
        scene.adds(&[], payment);
        scene.removes(payment, &[], &[preimage(byte)]);
    }
    let large = htlc(13, 5_000);
    scene.adds(&[], large);
    scene.removes(large, &[], &[preimage(13)]);
}

#[test]
fn of_two_equal_amounts_the_one_that_failed_is_gone_whichever_it_was() {
    for (failed, hangs) in [(1, 2), (2, 1)] {
        let mut scene = Scene::new();
        scene.adds(&[], htlc(1, 1_000));
        scene.adds(&[htlc(1, 1_000)], htlc(2, 1_000));
        scene.removes(htlc(failed, 1_000), &[htlc(hangs, 1_000)], &[]);
        scene.removes(htlc(hangs, 1_000), &[], &[preimage(hangs)]);
    }
}

/// LDK shows a preimage as soon as it has it, and is asked where its HTLCs stand when it has gone on.
#[test]
fn the_bridges_commitment_has_an_htlc_until_the_holders_is_without() {
    let mut scene = Scene::new();
    let (first, second) = (htlc(1, 100), htlc(2, 50));
    scene.adds(&[], first);
    let under_way = [stands(Stage::Removing)(first), stands(Stage::Adding)(second)];
    scene.goes_on(Side::Bridge, &[first, second], &[preimage(1)], &under_way);
    let under_way = [stands(Stage::Removing)(first), stands(Stage::Committed)(second)];
    scene.goes_on(Side::Holder, &[second], &[preimage(1)], &under_way);
    scene.goes_on(Side::Bridge, &[second], &[preimage(1)], &under_way);
}

/// What LDK tells is newer than the commitment, and the commitment's id is what counts.
#[test]
fn what_is_not_as_expected_is_found_by_its_transaction() {
    let mut scene = Scene::new();
    let large = htlc(1, 100_000);
    scene.adds(&[], large);
    scene.removes(large, &[], &[preimage(1)]);
    let many: Vec<Htlc> = (2..14).map(|byte| htlc(byte, 1_000 + u64::from(byte))).collect();
    let under_way: Vec<_> = many.iter().copied().map(stands(Stage::Adding)).collect();
    scene.goes_on(Side::Bridge, &many, &[], &under_way);
    // Two were announced only after the bridge had signed.
    let under_way: Vec<_> = many.iter().copied().map(stands(Stage::Committed)).collect();
    scene.goes_on(Side::Holder, &many[2..], &[], &under_way);
    // The channel is no longer LDK's.
    let unknown = Contents {
        number: scene.states[&Side::Holder].number.next().unwrap(),
        ..scene.states[&Side::Holder].clone()
    };
    scene.shows(Side::Holder, unknown, &[], None);
}

/// Of two equal amounts, too: the new one is in the bridge's commitment, and in LDK's eyes in the holder's before that is asked for.
#[test]
fn of_two_equal_amounts_the_new_one_is_not_yet_in_the_holders_commitment() {
    let mut scene = Scene::new();
    let (hangs, gone, new) = (htlc(1, 1_000), htlc(2, 500), htlc(3, 1_000));
    scene.adds(&[], hangs);
    scene.adds(&[hangs], gone);
    let under_way =
        [stands(Stage::Committed)(hangs), stands(Stage::Committed)(gone), stands(Stage::Adding)(new)];
    scene.goes_on(Side::Bridge, &[hangs, gone, new], &[], &under_way);
    let under_way =
        [stands(Stage::Committed)(hangs), stands(Stage::Removing)(gone), stands(Stage::Committed)(new)];
    scene.goes_on(Side::Holder, &[hangs], &[preimage(2)], &under_way);
    scene.goes_on(Side::Holder, &[hangs, new], &[preimage(2)], &under_way);
    scene.goes_on(Side::Bridge, &[hangs, new], &[preimage(2)], &under_way);
}

#[test]
fn a_transaction_that_follows_from_nothing_is_no_state() {
    let mut scene = Scene::new();
    let outline = Outline {
        number: CommitmentNumber::FIRST.next().unwrap(),
        point: key(0x30),
        // That of the commitment before.
        txid: Commitment::build(&terms(), Side::Bridge, &scene.states[&Side::Bridge]).txid(),
        fee_rate: FEE_RATE,
        htlcs: Vec::new(),
        preimages: Vec::new(),
    };
    let before = scene.ledger.clone();
    assert!(scene.ledger.propose(&terms(), Side::Bridge, &outline, Some(&[])).is_err());
    assert_eq!(scene.ledger, before);
}
