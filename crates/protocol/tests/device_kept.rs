//! What the owner's store keeps: it closes as the device does, it goes forward only, and nothing that could not be published is acknowledged.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

mod device;

use bitcoin::{FeeRate, Transaction};
use device::*;
use farthing_protocol::Msat;
use farthing_protocol::device::bolt3::{CommitmentNumber, Side};
use farthing_protocol::device::kept::{FromStore, Keeping, Kept, NotKept, StoreEffect, ToStore};
use farthing_protocol::device::machine::Publication;
use farthing_protocol::device::owner::Claim;
use farthing_protocol::device::payments::Source;
use farthing_protocol::device::wire::ChannelKeysId;
use farthing_protocol::device::{Effect, Enrolment, Input, Reject, State};
use serde_json::Value;

const CHANNEL: ChannelKeysId = ChannelKeysId([8; 32]);

fn kept(world: &World) -> Kept {
    world.state.account().to_keep(CHANNEL, &world.setup.terms).expect("a state is complete")
}

/// The store keeps it in place of the one before.
fn keep(before: Option<&Keeping>, next: Kept) -> Result<(Keeping, Vec<StoreEffect>), NotKept> {
    let decided = Keeping::keep(before, &enrolment(), next)?;
    let (next, effects) = decided.commit(|_| Ok::<_, ()>(())).unwrap();
    // As it is stored and read back.
    let bytes = postcard::to_stdvec(&next).unwrap();
    Ok((postcard::from_bytes(&bytes).unwrap(), effects))
}

fn effects(world: &World, state: &State, input: Input) -> Result<Vec<Effect>, Reject> {
    let decided = state.handle(&world.setup, input)?;
    let (next, effects) = decided.commit(|_| Ok::<_, ()>(())).unwrap();
    if let State::Closing(_) = state {
        assert_eq!(next, *state, "nothing leads out of closing alone");
    }
    Ok(effects)
}

fn published(world: &World, state: &State) -> Publication {
    let effects = effects(world, state, Input::CloseAlone).unwrap();
    let Some(Effect::Publish(publication)) = effects.into_iter().next() else { panic!("a publication") };
    *publication
}

#[test]
fn the_owner_closes_as_the_device_does() {
    let mut world = World::open();
    world.pay(1, 20_000_000).unwrap();
    world.approve(invoice(2, 30_000_000), Source::Direct).unwrap();
    world.lock_in(htlc(2, 30_000_000)).unwrap();
    let owners = kept(&world).state(policy());
    assert_eq!(published(&world, &owners), published(&world, &world.state));
    assert_eq!(kept(&world).hashes().collect::<Vec<_>>(), [preimage(2).hash()]);
    // The bridge has closed, with the payment under way, or with a state that it had revoked.
    let take_back = |state: &State| {
        let commitment = bridges(&world, world.bridge.len() - 1).compute_txid();
        effects(&world, state, Input::TakeBack { commitment, fee_rate: FeeRate::BROADCAST_MIN }).unwrap()
    };
    let Effect::Broadcast(transactions) = &take_back(&owners)[0] else { panic!("a transaction") };
    assert_eq!(transactions.len(), 1);
    assert_eq!(take_back(&owners), take_back(&world.state));
    let commitment = bridges(&world, 1);
    let txid = commitment.compute_txid();
    let outputs = (0..).zip(commitment.output.clone());
    let outputs = outputs.map(|(vout, output)| (bitcoin::OutPoint { txid, vout }, output)).collect();
    let fee_rate = FeeRate::BROADCAST_MIN;
    let htlcs = vec![htlc(1, 20_000_000)];
    let revoked = farthing_protocol::device::machine::Revoked { commitment, outputs, htlcs, fee_rate };
    let punish = |state| effects(&world, state, Input::Punish(Box::new(revoked.clone()))).unwrap();
    let Effect::Broadcast(penalty) = &punish(&owners)[0] else { panic!("a transaction") };
    assert_eq!(penalty[0].input.len(), 1, "the HTLC of a payment that was over");
    assert_eq!(punish(&owners), punish(&world.state));
}

fn bridges(world: &World, at: usize) -> Transaction {
    let contents = &world.bridge[at];
    let built =
        farthing_protocol::device::bolt3::Commitment::build(&world.setup.terms, Side::Bridge, contents);
    built.unsigned().clone()
}

/// Whatever the owner's copy is asked for, no secret leaves it and nothing is updated.
#[test]
fn what_is_kept_signs_nothing_else() {
    let mut world = World::open();
    world.pay(1, 20_000_000).unwrap();
    let owners = kept(&world).state(policy());
    let live = world.holder.last().unwrap().number;
    for number in [live, live.previous().unwrap(), CommitmentNumber::FIRST] {
        for input in [Input::Revoke { number }, Input::Erased { number }] {
            assert_eq!(effects(&world, &owners, input), Err(Reject::Stage("closing")));
        }
    }
    let invoice = invoice(2, 30_000_000);
    let approve = Input::Approve { invoice, source: Source::Direct, tip: NOW };
    assert_eq!(effects(&world, &owners, approve), Err(Reject::Stage("closing")));
    assert_eq!(effects(&world, &owners, Input::Fund), Err(Reject::Stage("closing")));
}

/// At each moment of two payments: what may leave the device finds a kept state that is newer than what it revokes, and knows every HTLC that
/// the bridge may have.
#[test]
fn what_leaves_the_device_is_behind_what_is_kept() {
    let mut world = World::open();
    let mut keeping = None;
    let mut numbers = Vec::new();
    for byte in [1, 2] {
        world.approve(invoice(byte, 20_000_000), Source::Direct).unwrap();
        let htlc = htlc(byte, 20_000_000);
        world.commit_bridge(world.next_bridge().add(htlc)).unwrap();
        assert_eq!(kept(&world).hashes().collect::<Vec<_>>(), [htlc.payment_hash]);
        world.revoke_bridge().unwrap();
        let (number, digest) = world.validate_holder(world.next_holder().add(htlc)).unwrap();
        assert_eq!(Some(kept(&world).number()), number.previous(), "not complete yet");
        world.complete_holder(number, &digest).unwrap();
        let revoked = number.previous().unwrap();
        assert!(world.give(Input::Revoke { number: revoked }).unwrap().iter().all(|it| !it.awaits_store()));
        let reveal = world.give(Input::Erased { number: revoked }).unwrap();
        let [Effect::Reveal { secret, .. }] = &reveal[..] else { panic!("a secret, not {reveal:?}") };
        world.revealed.insert(revoked, secret.clone()).unwrap();
        assert!(reveal[0].awaits_store());
        assert_eq!(kept(&world).number(), number);
        world.revoked_by_holder += 1;
        world.settle(|next| next.fulfil(htlc, preimage(byte))).unwrap();
        let (next, effects) = keep(keeping.as_ref(), kept(&world)).unwrap();
        let number = kept(&world).number();
        assert_eq!(effects, [StoreEffect::Erase, StoreEffect::Acknowledge(number)]);
        numbers.push(number.get());
        keeping = Some(next);
    }
    assert_eq!(numbers, [2, 4]);
}

#[test]
fn the_store_goes_forward_only_and_not_at_all_once_it_closes() {
    let mut world = World::open();
    let first = kept(&world);
    world.approve(invoice(1, 20_000_000), Source::Direct).unwrap();
    world.commit_bridge(world.next_bridge().add(htlc(1, 20_000_000))).unwrap();
    let begun = kept(&world);
    world.revoke_bridge().unwrap();
    world.commit_holder(world.next_holder().add(htlc(1, 20_000_000))).unwrap();
    world.revoke_holder().unwrap();
    let second = kept(&world);
    let (keeping, _) = keep(None, first.clone()).unwrap();
    let (keeping, _) = keep(Some(&keeping), begun.clone()).unwrap();
    let back = |side, held: &Kept, got: u64| NotKept::Number {
        side,
        held: CommitmentNumber::try_from(if side == Side::Holder { held.number().get() } else { 1 }).unwrap(),
        got: CommitmentNumber::try_from(got).unwrap(),
    };
    assert_eq!(keep(Some(&keeping), first.clone()).unwrap_err(), back(Side::Bridge, &begun, 0));
    let (keeping, _) = keep(Some(&keeping), second.clone()).unwrap();
    assert_eq!(keep(Some(&keeping), begun).unwrap_err(), back(Side::Holder, &second, 0));
    let (same, effects) = keep(Some(&keeping), second.clone()).unwrap();
    assert_eq!((&same, effects.len()), (&keeping, 2), "the same again is acknowledged again");

    // Another device's channel by the same name.
    let mut other = World::open();
    other.commit_holder(Next { fee_rate: FeeRate::from_sat_per_kwu(2_000), ..other.next_holder() }).unwrap();
    assert_eq!(keep(Some(&keeping), kept(&other)).unwrap_err(), NotKept::RetryDiffers(Side::Holder));
    let stranger = Enrolment { payment: public(0x66), ..enrolment() };
    let refused = Keeping::keep(None, &stranger, second.clone()).map(|_| ()).unwrap_err();
    assert_eq!(refused, NotKept::Card("payment basepoint"));

    let close = |keeping: &Keeping| keeping.close().commit(|_| Ok::<_, ()>(())).unwrap();
    let (closing, effects) = close(&keeping);
    assert_eq!(effects, [StoreEffect::Close(Box::new(second.clone()))]);
    assert_eq!(close(&closing), (closing.clone(), effects));
    for state in [second, first] {
        assert_eq!(keep(Some(&closing), state).unwrap_err(), NotKept::Closing);
    }
}

/// The name of the rule, as the device and its owner read it.
fn rule(refused: &NotKept) -> String {
    refused.to_string().split(':').next().unwrap().to_owned()
}

/// A channel's name stands for the terms with which it came first. Else the owner would close another channel than the one that it has money in.
#[test]
fn a_channel_that_has_begun_with_other_terms_is_not_kept() {
    let world = World::open();
    let (keeping, _) = keep(None, kept(&world)).unwrap();
    let mut other = World::new();
    other.setup.terms.funding.vout += 1;
    other.commit_bridge(Next::first()).unwrap();
    other.commit_holder(Next::first()).unwrap();
    other.give(Input::Fund).unwrap();
    // It is newer, and complete.
    other.pay(1, 20_000_000).unwrap();
    keep(None, kept(&other)).expect("nothing else is wrong with it");
    let refused = keep(Some(&keeping), kept(&other)).unwrap_err();
    assert_eq!((refused, rule(&refused).as_str()), (NotKept::Terms, "store-terms"));

    let renamed = world.state.account().to_keep(ChannelKeysId([9; 32]), &world.setup.terms).unwrap();
    assert_eq!(keep(Some(&keeping), renamed).unwrap_err(), NotKept::Terms);
}

/// Without any one of its signatures the owner could not publish the state, or not take its HTLC back.
#[test]
fn a_state_that_could_not_be_published_is_not_kept() {
    let mut world = World::open();
    world.approve(invoice(1, 20_000_000), Source::Direct).unwrap();
    world.lock_in(htlc(1, 20_000_000)).unwrap();
    let whole = serde_json::to_value(kept(&world)).unwrap();
    let keep_changed = |change: fn(&mut Value)| {
        let mut changed = whole.clone();
        change(&mut changed["holder"]);
        keep(None, serde_json::from_value(changed).unwrap())
    };
    keep_changed(|_| {}).expect("nothing is wrong with it");
    let htlc_signature = |got| Reject::HtlcSignature { index: 0, count: 1, got };
    for (change, broken) in [
        (
            (|holder| holder["bridge_signature"] = holder["joint_signature"].clone()) as fn(&mut Value),
            Reject::BridgeSignature,
        ),
        (|holder| holder["htlc_signatures"] = Value::Array(Vec::new()), htlc_signature(0)),
        (|holder| holder["htlc_signatures"][0] = holder["bridge_signature"].clone(), htlc_signature(1)),
        (|holder| holder["joint_signature"] = holder["bridge_signature"].clone(), Reject::JointSignature),
        (|holder| holder["joint_signature"] = Value::Null, Reject::JointSignature),
    ] {
        let refused = keep_changed(change).unwrap_err();
        assert_eq!((refused, rule(&refused).as_str()), (NotKept::Incomplete(broken), "store-incomplete"));
    }
}

/// Each byte of a message is changed. What is still taken closes the channel by Bitcoin Core's consensus code, and pays the owner the same.
#[test]
fn what_is_acknowledged_can_be_published() {
    let mut world = World::open();
    world.approve(invoice(1, 20_000_000), Source::Direct).unwrap();
    world.lock_in(htlc(1, 20_000_000)).unwrap();
    let message = ToStore::Keep { id: 1, kept: Box::new(kept(&world)) };
    let bytes = message.to_bytes();
    assert_eq!(ToStore::from_bytes(&bytes), Ok(message));
    let expected = published(&world, &world.state);
    let (mut taken, mut refused) = (0, 0);
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        let Ok(ToStore::Keep { kept, .. }) = ToStore::from_bytes(&changed) else { continue };
        match keep(None, (*kept).clone()) {
            Err(_) => refused += 1,
            Ok(_) => {
                taken += 1;
                let publication = published(&world, &kept.state(policy()));
                world.assert_spends_funding(&publication.commitment);
                assert_eq!(publication.commitment.output, expected.commitment.output);
            }
        }
    }
    assert!(refused > 100 && taken > 0, "{refused} refused, {taken} taken: of the bridge's side");
    for answer in [
        FromStore::Kept { id: 7 },
        FromStore::Closing { id: 7 },
        FromStore::Refused { id: 7, why: "store-number".into() },
    ] {
        assert_eq!(FromStore::from_bytes(&answer.to_bytes()), Ok(answer));
    }
}

/// A device that was cut off from its store has published one state more than the store knows: the owner finds its money in it.
#[test]
fn the_owner_finds_its_money_in_any_commitment_of_the_devices() {
    let mut world = World::open();
    world.pay(1, 20_000_000).unwrap();
    let publication = published(&world, &world.state);
    let found = Claim::of_holder_commitment(&world.setup, &publication.commitment).unwrap();
    assert_eq!(publication.claims, [found]);
    let bridges = bridges(&world, world.bridge.len() - 1);
    assert_eq!(Claim::of_holder_commitment(&world.setup, &bridges), None);
    assert_eq!(world.state.account().balance(), Some(Msat::new(980_000_000)));
}
