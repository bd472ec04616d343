//! Both shares of a joint key, and a device's channel that is about to be opened with it.

#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

use bitcoin::hashes::Hash;
use bitcoin::{Amount, FeeRate, Network, OutPoint, ScriptBuf, Txid, WPubkeyHash};
use farthing_protocol::Msat;
use farthing_protocol::device::bolt3::{
    Basepoints, Commitment, CommitmentNumber, Contents, PartyTerms, Side, Terms,
};
use farthing_protocol::device::joint::{RoundId, Task};
use farthing_protocol::device::keys::DeviceSecret;
use farthing_protocol::device::setup::Bounds;
use farthing_protocol::device::{Effect, Enrolment, Input, Policy, Proposal, Setup, State, Tip};
use farthing_threshold::{Device, Gateway, KeyGeneration, KeyGenerationStep, Role, Share};
use secp256k1::{Keypair, PublicKey, Secp256k1, SecretKey};

pub fn secret(byte: u8) -> SecretKey {
    SecretKey::from_slice(&[byte; 32]).unwrap()
}

pub fn public(byte: u8) -> PublicKey {
    secret(byte).public_key(&Secp256k1::new())
}

pub const OWNER: u8 = 1;
pub const BRIDGE: u8 = 2;

pub fn shares() -> (Share<Device>, Share<Gateway>) {
    fn sent<R: Role>(step: KeyGenerationStep<R>) -> (KeyGeneration<R>, Vec<u8>) {
        let KeyGenerationStep::Send(next, message) = step else { panic!("a message") };
        (*next, message)
    }
    let (mut device, mut to_gateway) = KeyGeneration::<Device>::start(RoundId([1; 32]));
    let (mut gateway, mut to_device) = KeyGeneration::<Gateway>::start(RoundId([1; 32]));
    for _ in 0..2 {
        let (of_device, of_gateway) =
            (sent(device.next(&to_device).unwrap()), sent(gateway.next(&to_gateway).unwrap()));
        ((device, to_gateway), (gateway, to_device)) = (of_device, of_gateway);
    }
    let (device, gateway) = (device.next(&to_device).unwrap(), gateway.next(&to_gateway).unwrap());
    let (KeyGenerationStep::Done(device), KeyGenerationStep::Done(gateway)) = (device, gateway) else {
        panic!("two shares")
    };
    (device, gateway)
}

pub fn setup(joint: PublicKey) -> Setup {
    let keys = DeviceSecret::new([7; 32]).channel_keys(&[8; 32]);
    let enrolment = Enrolment {
        owner: public(OWNER).x_only_public_key().0,
        network: Network::Regtest,
        payment: public(3),
        delayed_payment: public(4),
        closing_script: ScriptBuf::new_p2wpkh(&WPubkeyHash::from_byte_array([9; 20])),
        bounds: Bounds {
            least_bridge_delay: 144,
            most_holder_delay: 144,
            most_reserve: Amount::from_sat(1_000),
            most_capacity: Amount::from_sat(100_000),
        },
    };
    let holder = Basepoints {
        payment: enrolment.payment,
        delayed_payment: enrolment.delayed_payment,
        htlc: keys.htlc_basepoint(),
        revocation: keys.revocation_basepoint(),
    };
    let point = public(5);
    let bridge = Basepoints { payment: point, delayed_payment: point, htlc: point, revocation: point };
    let party = |funding_key, basepoints| PartyTerms {
        funding_key,
        basepoints,
        dust_limit: Amount::from_sat(354),
        delay: 144,
    };
    let terms = Terms {
        funding: OutPoint { txid: Txid::from_byte_array([5; 32]), vout: 0 },
        capacity: Amount::from_sat(100_000),
        holder: party(joint, holder),
        bridge: party(public(BRIDGE), bridge),
    };
    Setup::new(enrolment, keys, terms, joint, Amount::ZERO).unwrap()
}

pub fn policy() -> Policy {
    Policy {
        version: 1,
        paused: false,
        payees: vec![],
        per_payment: Msat::ZERO,
        per_hour: Msat::ZERO,
        per_day: Msat::ZERO,
        in_flight: Msat::ZERO,
        fee_base: Msat::ZERO,
        fee_ppm: 0,
        least_fee_rate: FeeRate::from_sat_per_kwu(253),
        most_fee_rate: FeeRate::from_sat_per_kwu(5_000),
        most_htlcs: 1,
        most_expiry_delta: 1_000,
    }
}

/// State 0 of one side.
pub fn first(setup: &Setup, broadcaster: Side, point: PublicKey, rate: u64) -> (Proposal, Commitment) {
    let (number, fee_rate, to_holder) =
        (CommitmentNumber::FIRST, FeeRate::from_sat_per_kwu(rate), Msat::new(100_000_000));
    let contents = Contents { number, point, fee_rate, to_holder, to_bridge: Msat::ZERO, htlcs: vec![] };
    let built = Commitment::build(&setup.terms, broadcaster, &contents);
    let (htlcs, preimages, txid) = (vec![], vec![], built.txid());
    let proposal = Proposal { number, fee_rate, to_holder, to_bridge: Msat::ZERO, htlcs, preimages, txid };
    (proposal, built)
}

/// A device that has agreed to nothing yet.
pub fn opening(setup: &Setup) -> State {
    let owner = Keypair::from_secret_key(&Secp256k1::new(), &secret(OWNER));
    let opened = State::open(setup, policy().sign(&owner)).unwrap();
    opened.commit(|_| Ok::<_, ()>(())).unwrap().0
}

pub fn give(state: &mut State, setup: &Setup, input: Input) -> Vec<Effect> {
    let (next, effects) = state.handle(setup, input).unwrap().commit(|_| Ok::<_, ()>(())).unwrap();
    *state = next;
    effects
}

/// The bridge's first commitment at that fee rate (sat/kw): the gateway finishes it.
pub fn bridge_task(setup: &Setup, state: &mut State, rate: u64) -> (Task, Commitment) {
    let (proposal, built) = first(setup, Side::Bridge, public(6), rate);
    let tip = Tip { height: 800_000, time: 1_700_000_000 };
    let effects = give(state, setup, Input::SignBridge { proposal, point: public(6), tip });
    let [Effect::SignBridge { task, .. }] = effects[..] else { panic!("a round, not {effects:?}") };
    (task, built)
}

/// The holder's first commitment at that fee rate (sat/kw): the device finishes it.
pub fn holder_task(setup: &Setup, state: &mut State, rate: u64) -> Task {
    let (proposal, built) = first(setup, Side::Holder, setup.point(CommitmentNumber::FIRST), rate);
    let signature = built.digest().sign(&secret(BRIDGE));
    let effects = give(state, setup, Input::ValidateHolder { proposal, signature, htlc_signatures: vec![] });
    let [Effect::SignHolder { task, .. }] = effects[..] else { panic!("a round, not {effects:?}") };
    task
}
