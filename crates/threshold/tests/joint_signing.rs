//! Device and gateway in one process: keys, signatures, and what a bad peer or a bad wire does to them.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

mod common;

use common::*;
use farthing_protocol::device::joint::{
    DeviceShare, Failure, Finisher, GatewayShare, JointSignature, Round, RoundId, Step, Task,
};
use farthing_threshold::{Device, Gateway, KeyGeneration, KeyGenerationStep, Role, Share, SigningRound};
use secp256k1::{PublicKey, ecdsa};

fn id(byte: u8) -> RoundId {
    RoundId([byte; 32])
}

fn sent<R: Role>(step: KeyGenerationStep<R>) -> (KeyGeneration<R>, Vec<u8>) {
    match step {
        KeyGenerationStep::Send(next, message) => (*next, message),
        KeyGenerationStep::Done(_) => panic!("two messages are still to come"),
    }
}

/// What the device's machine releases of a channel with that joint key, at a fee rate (sat/kw): there is no other way to a task.
fn task(joint: PublicKey, rate: u64, finisher: Finisher) -> Task {
    let setup = setup(joint);
    let mut state = opening(&setup);
    match finisher {
        Finisher::Device => holder_task(&setup, &mut state, rate),
        Finisher::Gateway => bridge_task(&setup, &mut state, rate).0,
    }
}

/// Both rounds after the first message has come, with each one's second message.
struct Second {
    device: SigningRound<Device>,
    gateway: SigningRound<Gateway>,
    to_device: Vec<u8>,
    to_gateway: Vec<u8>,
}

fn start(
    (device, gateway): &(Share<Device>, Share<Gateway>),
    number: u8,
    task: &Task,
) -> (SigningRound<Device>, Vec<u8>, SigningRound<Gateway>, Vec<u8>) {
    let (device, to_gateway) = DeviceShare::start(device, id(number), task).unwrap();
    let (digest, finisher) = (task.digest().to_bytes(), task.finisher());
    let (gateway, to_device) = GatewayShare::start(gateway, id(number), digest, finisher).unwrap();
    (device, to_gateway, gateway, to_device)
}

fn second(shares: &(Share<Device>, Share<Gateway>), number: u8, task: &Task) -> Second {
    let (device, to_gateway, gateway, to_device) = start(shares, number, task);
    let (Step::Send(device, second_to_gateway), Step::Send(gateway, second_to_device)) =
        (device.next(&to_device).unwrap(), gateway.next(&to_gateway).unwrap())
    else {
        panic!("the second message goes both ways");
    };
    Second { device, gateway, to_device: second_to_device, to_gateway: second_to_gateway }
}

fn sign(shares: &(Share<Device>, Share<Gateway>), number: u8, task: &Task) -> ecdsa::Signature {
    let Second { device, gateway, to_device, to_gateway } = second(shares, number, task);
    let signed = match (device.next(&to_device).unwrap(), gateway.next(&to_gateway).unwrap()) {
        (Step::Wait(device), Step::SendLast(last)) => {
            assert_eq!(task.finisher(), Finisher::Device);
            match device.next(&last).unwrap() {
                Step::Signed(JointSignature(signature)) => signature,
                _ => panic!("the device finishes"),
            }
        }
        (Step::SendLast(last), Step::Wait(gateway)) => {
            assert_eq!(task.finisher(), Finisher::Gateway);
            match gateway.next(&last).unwrap() {
                Step::Signed(JointSignature(signature)) => signature,
                _ => panic!("the gateway finishes"),
            }
        }
        _ => panic!("one side finishes, and only that side waits"),
    };
    assert!(task.digest().is_signed(&DeviceShare::public_key(&shares.0), &signed));
    signed
}

#[test]
fn two_shares_sign_under_one_key_and_either_side_can_be_the_finisher() {
    let shares = shares();
    let joint = shares.0.public_key();
    assert_eq!(joint, shares.1.public_key());
    for (number, finisher) in [(1, Finisher::Device), (2, Finisher::Gateway)] {
        let signature = sign(&shares, number, &task(joint, 1_000, finisher));
        let mut low = signature;
        low.normalize_s();
        assert_eq!(low, signature, "s is in the lower half");
        assert!(!task(joint, 2_000, finisher).digest().is_signed(&joint, &signature));
    }
}

/// What a narrow link must carry: 0017 in `docs/adr` rests on it.
#[test]
fn a_signature_takes_about_82_kilobytes_of_each_side() {
    let shares = shares();
    let task = task(shares.0.public_key(), 1_000, Finisher::Gateway);
    let (device, to_gateway, gateway, to_device) = start(&shares, 1, &task);
    let (first_of_device, first_of_gateway) = (to_gateway.len(), to_device.len());
    let (Step::Send(_, to_gateway), Step::Send(_, to_device)) =
        (device.next(&to_device).unwrap(), gateway.next(&to_gateway).unwrap())
    else {
        panic!("the second message goes both ways");
    };
    for bytes in [first_of_device + to_gateway.len(), first_of_gateway + to_device.len()] {
        assert!((80_000..84_000).contains(&bytes), "{bytes}");
    }
}

#[test]
fn low_s_in_every_one_of_thirty_signatures() {
    let shares = shares();
    let joint = shares.0.public_key();
    for number in 0..30 {
        // `is_signed` in `sign` asks libsecp256k1, which refuses a high s.
        sign(&shares, number, &task(joint, 1_000 + 10 * u64::from(number), Finisher::Gateway));
    }
}

/// What the gateway holds of a holder commitment, its own halves and all that the device ever sends, makes no signature.
#[test]
fn without_the_devices_last_message_the_gateway_has_nothing() {
    let shares = shares();
    let joint = shares.0.public_key();
    let task_of = |finisher| task(joint, 1_000, finisher);
    let holder = task_of(Finisher::Device);
    let Second { device, gateway, to_device, to_gateway } = second(&shares, 1, &holder);
    let Step::SendLast(own) = gateway.next(&to_gateway).unwrap() else {
        panic!("the gateway has done its part")
    };
    assert!(matches!(device.next(&to_device).unwrap(), Step::Wait(_)), "the device sends no third message");

    // A gateway that lies to its own engine about who finishes does not even get past the first message.
    let (device, _, _, _) = start(&shares, 2, &holder);
    let (gateway, to_device) =
        GatewayShare::start(&shares.1, id(2), holder.digest().to_bytes(), Finisher::Gateway).unwrap();
    assert!(matches!(device.next(&to_device), Err(Failure::Interrupted(_))));
    drop(gateway);

    // And its own half, taken for the device's in a round that it may finish, is refused.
    let Second { device, gateway, to_device, to_gateway } = second(&shares, 3, &task_of(Finisher::Gateway));
    let Step::Wait(gateway) = gateway.next(&to_gateway).unwrap() else { panic!("the gateway waits") };
    assert!(matches!(gateway.next(&own), Err(Failure::Interrupted(_))));
    drop((device, to_device));
}

#[test]
fn a_gateway_that_wants_another_digest_signed_is_refused_at_the_first_message() {
    let shares = shares();
    let joint = shares.0.public_key();
    let (device, _) = DeviceShare::start(&shares.0, id(1), &task(joint, 1_000, Finisher::Gateway)).unwrap();
    let other = task(joint, 2_000, Finisher::Gateway).digest().to_bytes();
    let (_, to_device) = GatewayShare::start(&shares.1, id(1), other, Finisher::Gateway).unwrap();
    assert!(matches!(device.next(&to_device), Err(Failure::Interrupted(_))));
}

/// One flipped bit never gives a signature. In the bulk of the first message, the oblivious transfer, it looks like a cheat: so
/// bytes without a checked tag must not come in here.
#[test]
fn a_flipped_bit_in_the_first_message_bans() {
    let shares = shares();
    let task = task(shares.0.public_key(), 1_000, Finisher::Device);
    let (mut banned, mut interrupted) = (0, 0);
    for number in 0..40_usize {
        let (device, _, _, mut to_device) = start(&shares, number as u8, &task);
        let at = to_device.len() * number / 40;
        to_device[at] ^= 1 << (number % 8);
        match device.next(&to_device) {
            Err(Failure::Cheated(_)) => banned += 1,
            Err(Failure::Interrupted(_)) => interrupted += 1,
            Err(_) | Ok(Step::SendLast(_) | Step::Wait(_) | Step::Signed(_)) => panic!("no such outcome"),
            // The first message also commits to what the second opens; that shows with the second only.
            Ok(Step::Send(..)) => assert!(at < 100, "byte {at} of {} is not checked", to_device.len()),
        }
    }
    assert!(banned > 30, "banned {banned}, interrupted {interrupted}");
}

#[test]
fn a_flipped_bit_in_the_last_message_only_interrupts() {
    let shares = shares();
    let task = task(shares.0.public_key(), 1_000, Finisher::Device);
    for bit in [0, 100, 400] {
        let Second { device, gateway, to_device, to_gateway } = second(&shares, bit as u8, &task);
        let Step::SendLast(mut last) = gateway.next(&to_gateway).unwrap() else {
            panic!("the gateway's last")
        };
        let Step::Wait(device) = device.next(&to_device).unwrap() else { panic!("the device waits") };
        last[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(device.next(&last), Err(Failure::Interrupted(_))), "bit {bit}");
    }
}

#[test]
fn a_message_of_another_round_or_from_oneself_interrupts() {
    let shares = shares();
    let task = task(shares.0.public_key(), 1_000, Finisher::Device);
    let (device, own, _, _) = start(&shares, 1, &task);
    let (_, _, _, of_round_2) = start(&shares, 2, &task);
    assert!(matches!(device.next(&of_round_2), Err(Failure::Interrupted(_))));
    let (device, _, _, _) = start(&shares, 1, &task);
    assert!(matches!(device.next(&own), Err(Failure::Interrupted(_))));
    for bytes in [vec![], vec![0xff; 100], vec![0; 1 << 19]] {
        let (device, _, _, _) = start(&shares, 1, &task);
        assert!(matches!(device.next(&bytes), Err(Failure::Interrupted(_))));
    }
}

#[test]
fn stored_shares_sign_and_are_not_taken_for_each_other() {
    let (device, gateway) = shares();
    let (device_bytes, gateway_bytes) = (device.to_bytes(), gateway.to_bytes());
    assert!(
        device_bytes.len() < 1 << 17,
        "{} bytes do not fit the room that is set aside",
        device_bytes.len()
    );
    assert!(Share::<Device>::from_bytes(&gateway_bytes).is_err());
    assert!(Share::<Gateway>::from_bytes(&device_bytes).is_err());
    assert!(Share::<Device>::from_bytes(&device_bytes[1..]).is_err());

    let restored = (Share::from_bytes(&device_bytes).unwrap(), Share::from_bytes(&gateway_bytes).unwrap());
    assert_eq!(restored.0.public_key(), device.public_key());
    sign(&restored, 7, &task(device.public_key(), 1_000, Finisher::Gateway));
}

#[test]
fn a_public_half_that_was_not_committed_to_is_a_cheat() {
    let (device, _) = KeyGeneration::<Device>::start(id(1));
    // Two keygenerations of one gateway: the second one opens what the first did not commit to.
    let (first, to_device) = KeyGeneration::<Gateway>::start(id(1));
    let (second, _) = KeyGeneration::<Gateway>::start(id(1));
    let (device, to_gateway) = sent(device.next(&to_device).unwrap());
    let (_, fragment) = KeyGeneration::<Device>::start(id(1));
    let (_, commitments) = sent(first.next(&fragment).unwrap());
    let (second, _) = sent(second.next(&fragment).unwrap());
    let (_, openings) = sent(second.next(&to_gateway).unwrap());
    let (device, _) = sent(device.next(&commitments).unwrap());
    assert!(matches!(device.next(&openings), Err(Failure::Cheated(_))));
}

#[test]
fn a_share_prints_no_secret() {
    let (device, _) = shares();
    assert_eq!(format!("{device:?}"), format!("Share({})", device.public_key()));
}
