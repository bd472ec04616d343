//! The device's machine through whole stories, each step from a stored state.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

mod device;

use bitcoin::hashes::Hash;
use bitcoin::{Amount, FeeRate, OutPoint, TxOut};
use device::*;
use farthing_protocol::Msat;
use farthing_protocol::device::bolt3::closing::Settlement;
use farthing_protocol::device::bolt3::commitment::to_remote_script;
use farthing_protocol::device::bolt3::{Commitment, Preimage, Side};
use farthing_protocol::device::machine::Revoked;
use farthing_protocol::device::payments::Source;
use farthing_protocol::device::{Effect, Input, Reject};

fn settlement(world: &World, fee: u64) -> Settlement {
    let newest = world.holder.last().unwrap();
    Settlement {
        to_holder: newest.to_holder.floor() - Amount::from_sat(fee),
        holder_script: owner_script(),
        to_bridge: newest.to_bridge.floor(),
        bridge_script: to_remote_script(&public(0x66)),
    }
}

#[test]
fn opens_pays_and_closes_with_the_bridge() {
    let mut world = World::open();
    world.pay(1, 50_000_000).unwrap();
    world.pay(2, 20_000_000).unwrap();
    assert_eq!(world.next_holder(), world.next_bridge());
    assert_eq!(world.next_holder().to_bridge, Msat::new(70_000_000));
    assert_eq!(world.state.account().payments().preimage(&preimage(1).hash()), Some(preimage(1)));

    let effects = world.give(Input::CloseTogether(settlement(&world, 500))).unwrap();
    assert!(matches!(effects[..], [Effect::SignClosing(_)]));
    // Another fee is another round of the negotiation.
    world.give(Input::CloseTogether(settlement(&world, 600))).unwrap();
    // From here on nothing changes any more.
    let number = world.holder.last().unwrap().number;
    assert_eq!(world.give(Input::Revoke { number }), Err(Reject::Stage("closing")));
    assert_eq!(world.commit_bridge(world.next_bridge()), Err(Reject::Stage("closing")));
    assert_eq!(world.commit_holder(world.next_holder()), Err(Reject::Stage("closing")));
}

#[test]
fn a_failed_payment_gives_the_money_back_and_can_be_tried_again() {
    let mut world = World::open();
    world.approve(invoice(1, 50_000_000), Source::Gateway).unwrap();
    let first = htlc(1, 50_100_000);
    world.lock_in(first).unwrap();
    world.settle(|next| next.fail(first)).unwrap();
    assert_eq!(world.next_holder().to_holder, Next::first().to_holder);

    let second = htlc(1, 50_000_000);
    world.lock_in(second).unwrap();
    world.settle(|next| next.fulfil(second, preimage(1))).unwrap();
    assert_eq!(world.next_bridge().to_bridge, Msat::new(50_000_000));
}

#[test]
fn what_the_bridge_offers_is_failed() {
    let mut world = World::open();
    world.pay(1, 50_000_000).unwrap();
    let theirs = from_bridge(9, 10_000_000);
    world.lock_in_from_bridge(theirs).unwrap();
    // The gateway fails it: first in the bridge's commitment, then in the holder's.
    world.commit_bridge(world.next_bridge().fail(theirs)).unwrap();
    world.revoke_bridge().unwrap();
    world.commit_holder(world.next_holder().fail(theirs)).unwrap();
    world.revoke_holder().unwrap();
    assert_eq!(world.next_holder().to_bridge, Msat::new(50_000_000));
}

#[test]
fn the_fee_rate_may_change_within_bounds() {
    let mut world = World::open();
    let change = |next: Next| Next { fee_rate: FeeRate::from_sat_per_kwu(2_000), ..next };
    world.commit_bridge(change(world.next_bridge())).unwrap();
    world.revoke_bridge().unwrap();
    world.commit_holder(change(world.next_holder())).unwrap();
    world.revoke_holder().unwrap();
}

/// The device closes with an HTLC in flight: commitment and HTLC-timeout are complete and valid without anybody's help.
#[test]
fn closes_alone_with_what_it_stored() {
    let mut world = World::open();
    world.approve(invoice(1, 50_000_000), Source::Direct).unwrap();
    world.lock_in(htlc(1, 50_000_000)).unwrap();
    let effects = world.give(Input::CloseAlone).unwrap();
    let [Effect::Publish(publication)] = &effects[..] else { panic!("a publication, not {effects:?}") };
    world.assert_spends_funding(&publication.commitment);
    let [timeout] = &publication.htlc_timeouts[..] else { panic!("one HTLC of ours") };
    let spent = timeout.input[0].previous_output;
    assert_eq!(spent.txid, publication.commitment.compute_txid());
    assert!(spends(&publication.commitment.output[spent.vout as usize], timeout));
    assert_eq!(timeout.lock_time.to_consensus_u32(), NOW.height + 100);
    // After a restart it goes out again, and no secret does.
    assert_eq!(world.state.resume(&world.setup), effects);
    let number = world.holder.last().unwrap().number;
    assert_eq!(world.give(Input::Revoke { number }), Err(Reject::Stage("closing")));
}

/// A gateway that does not finish the round over the new state cannot hold the money to ransom: the old one is not revoked.
#[test]
fn closes_alone_with_the_old_state_while_the_new_one_is_not_complete() {
    let mut world = World::open();
    world.approve(invoice(1, 50_000_000), Source::Direct).unwrap();
    let ours = htlc(1, 50_000_000);
    world.commit_bridge(world.next_bridge().add(ours)).unwrap();
    world.revoke_bridge().unwrap();
    world.validate_holder(world.next_holder().add(ours)).unwrap();
    let effects = world.give(Input::CloseAlone).unwrap();
    let [Effect::Publish(publication)] = &effects[..] else { panic!("a publication, not {effects:?}") };
    world.assert_spends_funding(&publication.commitment);
    assert_eq!(publication.commitment.output.len(), 1, "state 0: everything to the holder");
}

#[test]
fn a_cheating_gateway_is_banned_and_the_channel_closed() {
    let mut world = World::open();
    world.pay(1, 50_000_000).unwrap();
    let effects = world.give(Input::GatewayCheated).unwrap();
    assert!(matches!(effects[..], [Effect::Publish(_)]));
    assert!(world.state.is_banned());
    let together = Input::CloseTogether(settlement(&world, 500));
    assert_eq!(world.give(together), Err(Reject::Stage("closing")));
    world.give(Input::CloseAlone).unwrap();
    assert!(world.state.is_banned(), "for good");
}

/// What stands on the disk after the erasure holds nothing that could publish the old state.
#[test]
fn an_erased_state_holds_none_of_its_signatures() {
    let mut world = World::open();
    world.pay(1, 50_000_000).unwrap();
    let bytes = postcard::to_stdvec(&world.state).unwrap();
    let holds = |signature: secp256k1::ecdsa::Signature| {
        let compact = signature.serialize_compact();
        let der = signature.serialize_der();
        bytes.windows(64).any(|window| window == compact)
            || bytes.windows(der.len()).any(|window| window == &der[..])
    };
    let signatures = |contents: &farthing_protocol::device::bolt3::Contents| {
        let built = Commitment::build(&world.setup.terms, Side::Holder, contents);
        [built.digest().sign(&secret(JOINT)), built.digest().sign(&secret(0x20))]
    };
    let (newest, revoked) = world.holder.split_last().unwrap();
    assert!(signatures(newest).into_iter().all(holds), "the newest one can be published");
    for old in revoked {
        assert!(!signatures(old).into_iter().any(holds), "state {} is gone", old.number);
    }
}

#[test]
fn the_owner_pins_who_says_that_the_funding_is_safe() {
    let mut world = World::open();
    let effects = world.give(Input::Fund).unwrap();
    let [Effect::Fund(statement)] = &effects[..] else { panic!("a statement, not {effects:?}") };
    assert!(statement.is_from(&world.setup.keys.identity()));
    assert!(!statement.is_from(&public(0x77)));
    let funding = world.setup.terms.funding_txout();
    assert_eq!((statement.value, &statement.script), (funding.value, &funding.script_pubkey));
    let mut changed = statement.clone();
    changed.outpoint.vout = 0;
    assert!(!changed.is_from(&world.setup.keys.identity()));
}

/// The bridge publishes its newest commitment, and our HTLC in it expires.
#[test]
fn takes_its_htlc_back_out_of_the_bridges_commitment() {
    let mut world = World::open();
    world.approve(invoice(1, 50_000_000), Source::Direct).unwrap();
    let ours = htlc(1, 50_000_000);
    let published = world.commit_bridge(world.next_bridge().add(ours)).unwrap();
    let fee_rate = FeeRate::from_sat_per_kwu(1_000);
    let take_back = |commitment, fee_rate| Input::TakeBack { commitment, fee_rate };
    let effects = world.give(take_back(published.compute_txid(), fee_rate)).unwrap();
    let [Effect::Broadcast(transactions)] = &effects[..] else { panic!("a transaction, not {effects:?}") };
    let [transaction] = &transactions[..] else { panic!("one HTLC") };
    let spent = &published.output[transaction.input[0].previous_output.vout as usize];
    assert!(spends(spent, transaction));
    assert_eq!(transaction.output[0].script_pubkey, owner_script());
    assert_eq!(transaction.lock_time.to_consensus_u32(), ours.expiry);
    let fee = spent.value - transaction.output[0].value;
    assert!(fee >= fee_rate * transaction.weight());

    // A bridge that has closed gets no further signature.
    assert_eq!(world.commit_bridge(world.next_bridge()), Err(Reject::Stage("closing")));
    let unknown = bitcoin::Txid::from_byte_array([1; 32]);
    assert_eq!(world.give(take_back(unknown, fee_rate)), Err(Reject::UnknownCommitment(unknown)));
    // However high a rate the gateway names, no more than the owner allows goes to miners.
    let at = |world: &mut World, fee_rate| world.give(take_back(published.compute_txid(), fee_rate)).unwrap();
    let dearest = at(&mut world, policy().most_fee_rate);
    assert_ne!(dearest, effects);
    assert_eq!(at(&mut world, FeeRate::MAX), dearest);
}

/// The bridge publishes a state that it had revoked, when an HTLC of either side was under way, and loses everything.
#[test]
fn punishes_a_bridge_that_publishes_a_revoked_state() {
    let mut world = World::open();
    world.pay(1, 50_000_000).unwrap();
    let theirs = from_bridge(9, 20_000_000);
    world.commit_holder(world.next_holder().add(theirs)).unwrap();
    world.revoke_holder().unwrap();
    world.approve(invoice(2, 30_000_000), Source::Direct).unwrap();
    let ours = htlc(2, 30_000_000);
    let published = world.commit_bridge(world.next_bridge().add(theirs).add(ours)).unwrap();
    world.revoke_bridge().unwrap();
    let mut outputs: Vec<_> = (0..published.output.len())
        .map(|vout| {
            (OutPoint { txid: published.compute_txid(), vout: vout as u32 }, published.output[vout].clone())
        })
        .collect();
    // And a second stage of the bridge's, which has the same script as its own output.
    let built = Commitment::build(&world.setup.terms, Side::Bridge, world.bridge.last().unwrap());
    let second_stage = OutPoint { txid: bitcoin::Txid::from_byte_array([3; 32]), vout: 0 };
    let of_second_stage =
        TxOut { value: Amount::from_sat(20_000), script_pubkey: built.delayed_script().to_p2wsh() };
    outputs.push((second_stage, of_second_stage));
    let spent_by = |input: &bitcoin::TxIn| {
        let output = outputs.iter().find(|(outpoint, _)| *outpoint == input.previous_output);
        output.map(|(_, output)| output.clone()).expect("it takes nothing else")
    };
    let revoked = |commitment: &bitcoin::Transaction| Revoked {
        commitment: commitment.clone(),
        outputs: outputs.clone(),
        htlcs: vec![theirs, ours],
        fee_rate: FeeRate::from_sat_per_kwu(2_000),
    };

    // It can still be published by right.
    let refused = world.give(Input::Punish(Box::new(revoked(&published))));
    assert_eq!(refused, Err(Reject::NotRevoked));
    let near = ours.expiry - 50..=ours.expiry + 50;
    let by_trying = |world: &World, heights| {
        let hashes = [htlc(1, 0).payment_hash, ours.payment_hash];
        world.state.account().revoked_htlcs(&world.setup, &published, &hashes, heights)
    };
    assert_eq!(by_trying(&world, near.clone()), []);
    world.commit_bridge(world.next_bridge()).unwrap();
    world.revoke_bridge().unwrap();
    // Nobody has to remember which HTLCs of ours it had.
    assert_eq!(by_trying(&world, near), [ours]);
    assert_eq!(by_trying(&world, ours.expiry..=ours.expiry), [ours]);
    assert_eq!(by_trying(&world, ours.expiry - 9..=ours.expiry - 1), []);

    let effects = world.give(Input::Punish(Box::new(revoked(&published)))).unwrap();
    let [Effect::Broadcast(transactions)] = &effects[..] else { panic!("a transaction, not {effects:?}") };
    let [penalty] = &transactions[..] else { panic!("one penalty") };
    assert_eq!(
        penalty.input.len(),
        4,
        "the bridge's own, both HTLCs, the second stage; ours is the owner's anyway"
    );
    for (index, input) in penalty.input.iter().enumerate() {
        assert!(spends_input(&spent_by(input), penalty, index));
    }
    let taken: Amount = penalty.input.iter().map(|input| spent_by(input).value).sum();
    assert_eq!(penalty.output.len(), 1);
    assert_eq!(penalty.output[0].script_pubkey, owner_script());
    let fee = taken - penalty.output[0].value;
    assert!(fee >= FeeRate::from_sat_per_kwu(2_000) * penalty.weight() - Amount::from_sat(1));
    assert!(fee <= Amount::from_sat(4_500), "{fee}");

    let mut other = published;
    other.input[0].previous_output.vout = 0;
    assert_eq!(world.give(Input::Punish(Box::new(revoked(&other)))), Err(Reject::NotRevoked));
}

/// What the device keeps of invoices has an end, whoever shows them to it. One that has expired makes room.
#[test]
fn a_thousand_invoices_are_approved_at_once_and_no_more() {
    let mut world = World::open();
    let numbered = |number: u16, time: u64| {
        let mut preimage = [7; 32];
        preimage[..2].copy_from_slice(&number.to_be_bytes());
        invoice_for(Preimage(preimage).hash(), time, PAYEE, 1_000)
    };
    // The first one expires half an hour before the others.
    for number in 0..1_000 {
        let invoice = numbered(number, if number == 0 { NOW.time - 1_800 } else { NOW.time });
        let input = Input::Approve { invoice, source: Source::Direct, tip: NOW };
        // Not written down and read back after each: that would take minutes.
        let approved = world.state.handle(&world.setup, input).unwrap();
        (world.state, _) = approved.commit(|_| Ok::<_, ()>(())).unwrap();
    }
    let before = world.state.clone();
    let refused = world.approve(numbered(1_000, NOW.time), Source::Direct).unwrap_err();
    assert_eq!(refused.rule(), "payment-count");
    assert_eq!(refused, Reject::TooManyApproved { most: 1_000 });
    assert_eq!(world.state, before);
    world.approve(numbered(999, NOW.time), Source::Direct).unwrap();

    world.tip.time = NOW.time + 1_800;
    world.approve(numbered(1_000, NOW.time), Source::Direct).unwrap();
    let refused = world.approve(numbered(1_001, NOW.time), Source::Direct).unwrap_err();
    assert_eq!(refused.rule(), "payment-count", "it made room for one");
}
