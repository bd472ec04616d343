//! The device's machine with real joint signatures: a channel is opened, and the device closes it without the gateway.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

mod common;

use bitcoin::Transaction;
use bitcoin::consensus::encode::serialize;
use common::*;
use farthing_protocol::device::bolt3::CommitmentNumber;
use farthing_protocol::device::joint::{
    DeviceShare, GatewayShare, JointSignature, Round, RoundId, Step, Task,
};
use farthing_protocol::device::{Effect, Input, Setup};
use farthing_threshold::{Device, Gateway, Share};

/// A round to its end. Who finishes gets the signature; the other side got nothing, and the caller sees what it sent.
fn sign((device, gateway): &(Share<Device>, Share<Gateway>), id: u8, task: &Task) -> JointSignature {
    let id = RoundId([id; 32]);
    let (device, to_gateway) = DeviceShare::start(device, id, task).unwrap();
    let (digest, finisher) = (task.digest().to_bytes(), task.finisher());
    let (gateway, to_device) = GatewayShare::start(gateway, id, digest, finisher).unwrap();
    let (Step::Send(device, to_gateway), Step::Send(gateway, to_device)) =
        (device.next(&to_device).unwrap(), gateway.next(&to_gateway).unwrap())
    else {
        panic!("the second message goes both ways")
    };
    let last = match (device.next(&to_device).unwrap(), gateway.next(&to_gateway).unwrap()) {
        (Step::Wait(device), Step::SendLast(last)) => device.next(&last).unwrap(),
        (Step::SendLast(last), Step::Wait(gateway)) => {
            let Step::Signed(signature) = gateway.next(&last).unwrap() else { panic!("a signature") };
            return signature;
        }
        _ => panic!("one side finishes"),
    };
    let Step::Signed(signature) = last else { panic!("a signature") };
    signature
}

fn assert_spends_funding(setup: &Setup, transaction: &Transaction) {
    let funding = setup.terms.funding_txout();
    let (script, bytes) = (funding.script_pubkey.as_bytes(), serialize(transaction));
    bitcoinconsensus::verify(script, funding.value.to_sat(), &bytes, None, 0).unwrap();
}

#[test]
fn opens_a_channel_and_closes_it_without_the_gateway() {
    let shares = shares();
    let setup = setup(shares.0.public_key());
    let mut state = opening(&setup);

    // The bridge's commitment: the gateway gets the signature, and with it the bridge could publish.
    let (task, theirs) = bridge_task(&setup, &mut state, 1_000);
    let joint = sign(&shares, 1, &task);
    let bridge = theirs.digest().sign(&secret(BRIDGE));
    assert_spends_funding(&setup, &theirs.complete(&setup.terms, &joint.0, &bridge));

    // The holder's: the device gets it.
    let task = holder_task(&setup, &mut state, 1_000);
    let (number, signature) = (CommitmentNumber::FIRST, sign(&shares, 2, &task));
    give(&mut state, &setup, Input::HolderSigned { number, signature });

    // Now the owner's wallet may sign the funding, and from here on the gateway is not needed.
    assert!(matches!(give(&mut state, &setup, Input::Fund)[..], [Effect::Fund(_)]));
    drop(shares);
    let effects = give(&mut state, &setup, Input::CloseAlone);
    let [Effect::Publish(publication)] = &effects[..] else { panic!("a publication") };
    assert_spends_funding(&setup, &publication.commitment);
}
