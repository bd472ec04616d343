//! The device's machine with real joint signatures: a channel is opened, and the device closes it without the gateway.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

use bitcoin::consensus::encode::serialize;
use bitcoin::hashes::Hash;
use bitcoin::{Amount, FeeRate, Network, OutPoint, ScriptBuf, Transaction, Txid, WPubkeyHash};
use farthing_protocol::Msat;
use farthing_protocol::device::bolt3::{
    Basepoints, Commitment, CommitmentNumber, Contents, Digest, PartyTerms, Side, Terms,
};
use farthing_protocol::device::joint::{DeviceShare, Finisher, GatewayShare, Round, RoundId, Step};
use farthing_protocol::device::keys::DeviceSecret;
use farthing_protocol::device::setup::Bounds;
use farthing_protocol::device::{Effect, Enrolment, Input, Policy, Proposal, Setup, State, Tip};
use farthing_threshold::{Device, Gateway, KeyGeneration, KeyGenerationStep, Role, Share};
use secp256k1::{Keypair, PublicKey, Secp256k1, SecretKey, ecdsa};

fn secret(byte: u8) -> SecretKey {
    SecretKey::from_slice(&[byte; 32]).unwrap()
}

fn public(byte: u8) -> PublicKey {
    secret(byte).public_key(&Secp256k1::new())
}

const OWNER: u8 = 1;
const BRIDGE: u8 = 2;

fn shares() -> (Share<Device>, Share<Gateway>) {
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

fn setup(joint: PublicKey) -> Setup {
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

fn policy() -> Policy {
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
fn first(setup: &Setup, broadcaster: Side, point: PublicKey) -> (Proposal, Commitment) {
    let (number, fee_rate, to_holder) =
        (CommitmentNumber::FIRST, FeeRate::from_sat_per_kwu(1_000), Msat::new(100_000_000));
    let contents = Contents { number, point, fee_rate, to_holder, to_bridge: Msat::ZERO, htlcs: vec![] };
    let built = Commitment::build(&setup.terms, broadcaster, &contents);
    let (htlcs, preimages, txid) = (vec![], vec![], built.txid());
    let proposal = Proposal { number, fee_rate, to_holder, to_bridge: Msat::ZERO, htlcs, preimages, txid };
    (proposal, built)
}

/// A round to its end. Who finishes gets the signature; the other side got nothing, and the caller sees what it sent.
fn sign(
    (device, gateway): &(Share<Device>, Share<Gateway>),
    id: u8,
    digest: &Digest,
    finisher: Finisher,
) -> ecdsa::Signature {
    let id = RoundId([id; 32]);
    let (device, to_gateway) = DeviceShare::start(device, id, digest, finisher).unwrap();
    let (gateway, to_device) = GatewayShare::start(gateway, id, digest.to_bytes(), finisher).unwrap();
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

fn give(state: &mut State, setup: &Setup, input: Input) -> Vec<Effect> {
    let (next, effects) = state.handle(setup, input).unwrap().commit(|_| Ok::<_, ()>(())).unwrap();
    *state = next;
    effects
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
    let owner = Keypair::from_secret_key(&Secp256k1::new(), &secret(OWNER));
    let opened = State::open(&setup, policy().sign(&owner)).unwrap();
    let (mut state, _) = opened.commit(|_| Ok::<_, ()>(())).unwrap();

    // The bridge's commitment: the gateway gets the signature, and with it the bridge could publish.
    let (proposal, theirs) = first(&setup, Side::Bridge, public(6));
    let tip = Tip { height: 800_000, time: 1_700_000_000 };
    let effects = give(&mut state, &setup, Input::SignBridge { proposal, point: public(6), tip });
    let [Effect::SignBridge { digest, .. }] = &effects[..] else { panic!("a round") };
    let joint = sign(&shares, 1, digest, Finisher::Gateway);
    let bridge = theirs.digest().sign(&secret(BRIDGE));
    assert_spends_funding(&setup, &theirs.complete(&setup.terms, &joint, &bridge));

    // The holder's: the device gets it.
    let (proposal, ours) = first(&setup, Side::Holder, setup.point(CommitmentNumber::FIRST));
    let signature = ours.digest().sign(&secret(BRIDGE));
    let input = Input::ValidateHolder { proposal, signature, htlc_signatures: vec![] };
    let effects = give(&mut state, &setup, input);
    let [Effect::SignHolder { number, digest }] = effects[..] else { panic!("a round") };
    let signature = sign(&shares, 2, &digest, Finisher::Device);
    give(&mut state, &setup, Input::HolderSigned { number, signature });

    // Now the owner's wallet may sign the funding, and from here on the gateway is not needed.
    assert!(matches!(give(&mut state, &setup, Input::Fund)[..], [Effect::Fund(_)]));
    drop(shares);
    let effects = give(&mut state, &setup, Input::CloseAlone);
    let [Effect::Publish(publication)] = &effects[..] else { panic!("a publication") };
    assert_spends_funding(&setup, &publication.commitment);
}
