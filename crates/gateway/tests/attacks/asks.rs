//! A gateway that asks for what it must not have.

use std::sync::{Arc, Mutex};

use bitcoin::hashes::Hash as _;
use bitcoin::{Amount, FeeRate, ScriptBuf, TxOut, Txid, WPubkeyHash};
use farthing_protocol::Msat;
use farthing_protocol::device::bolt3::closing::Settlement;
use farthing_protocol::device::bolt3::{CommitmentSecret, Contents, Htlc, PaymentHash, Side};
use farthing_protocol::device::machine::Revoked;
use farthing_protocol::device::wire::{Answer, ChannelKeysId, Request, ToDevice, ToGateway};

use crate::car::Car;
use crate::hostile::{In, Liar, Out, Tap};
use crate::world::*;

/// Writes down every request of the real gateway's.
fn recorder() -> (Tap, Arc<Mutex<Vec<Request>>>) {
    let record: Arc<Mutex<Vec<Request>>> = Arc::default();
    let written = record.clone();
    let tap = move |message: In| {
        if let In::FromGateway(ToDevice::Request { request, .. }) = &message {
            written.lock().unwrap().push(request.clone());
        }
        vec![message.pass()]
    };
    (Box::new(tap), record)
}

fn thief() -> ScriptBuf {
    ScriptBuf::new_p2wpkh(&WPubkeyHash::from_byte_array([6; 20]))
}

/// With all that the real gateway ever had: its share, its books, every old state with the bridge's signatures. The device refuses each
/// request by the name of its rule, nothing changes, and afterwards the channel pays and closes as if nothing had been.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_asks_for_what_it_must_not_have() {
    let mut world = World::start().await;
    let mut car = Car::new();
    let (tap, record) = recorder();
    car.connect_through(&world.gateway, tap).await;
    car.open(&world).await;
    car.pay(&world.destination.invoice(20_000_000)).await;
    car.pay(&world.destination.invoice(10_000_000)).await;
    world.gateway.stop();
    car.hang_up();
    // An invoice that the device has approved, so that only what is wrong is refused.
    let invoice = car.approve(&world.destination.invoice(5_000_000));
    let before = car.state();

    let mut liar = Liar::meet(&world, &mut car).await;
    let (bridge, holder) = (liar.newest(Side::Bridge).clone(), liar.newest(Side::Holder).clone());
    let next = Contents {
        number: bridge.number.next().unwrap(),
        point: secret(3).public_key(secp256k1::SECP256K1),
        ..bridge.clone()
    };
    let offer = |amount: u64, payment_hash| {
        let htlc = Htlc { offered_by: Side::Holder, amount: Msat::new(amount), payment_hash, expiry: 250 };
        let to_holder = next.to_holder.saturating_sub(htlc.amount);
        Contents { to_holder, htlcs: vec![htlc], ..next.clone() }
    };
    let stolen = Msat::new(100_000_000);
    let moved = Contents {
        to_holder: next.to_holder.saturating_sub(stolen),
        to_bridge: next.to_bridge.saturating_add(stolen),
        ..next.clone()
    };
    let rate = |rate| Contents { fee_rate: FeeRate::from_sat_per_kwu(rate), ..next.clone() };
    // The transaction that the device would build, and an output of the gateway's in it.
    let mut larger = liar.build(Side::Bridge, &next).unsigned().clone();
    larger.output.push(TxOut { value: Amount::from_sat(50_000), script_pubkey: thief() });
    let with_output = |txid: Txid| match liar.sign_bridge(&next) {
        Request::SignBridge { mut proposal, point, first } => {
            proposal.txid = txid;
            Request::SignBridge { proposal, point, first }
        }
        other => other,
    };
    let to = |to_holder: Amount, holder_script: &ScriptBuf, to_bridge: Amount| Request::CloseTogether {
        settlement: Settlement {
            to_holder,
            holder_script: holder_script.clone(),
            to_bridge,
            bridge_script: thief(),
        },
        first: Vec::new(),
    };
    let (ours, theirs) = (bridge.to_holder.floor(), bridge.to_bridge.floor());
    let (own, fee) = (script(COLD), Amount::from_sat(1_000));
    let punish = |contents: &Contents| {
        let commitment = liar.build(Side::Bridge, contents).unsigned().clone();
        let (outputs, htlcs) = (Vec::new(), Vec::new());
        Request::Punish(Box::new(Revoked { commitment, outputs, htlcs, fee_rate: FeeRate::BROADCAST_MIN }))
    };
    let mut attacks = vec![
        ("a state of another balance", liar.sign_bridge(&moved), "commitment-balance"),
        (
            "the newest number with another balance",
            liar.sign_bridge(&Contents { number: bridge.number, ..moved.clone() }),
            "commitment-retry-same",
        ),
        (
            "an output of the gateway's",
            with_output(larger.compute_txid()),
            "commitment-no-unrecognized-outputs",
        ),
        (
            "another payment hash",
            liar.sign_bridge(&offer(5_000_000, PaymentHash([7; 32]))),
            "routing-balanced",
        ),
        (
            "more than the invoice and its fee",
            liar.sign_bridge(&offer(6_000_000, invoice.payment_hash())),
            "invoice-amount",
        ),
        (
            "less than the invoice",
            liar.sign_bridge(&offer(4_000_000, invoice.payment_hash())),
            "invoice-amount",
        ),
        ("a fee rate above the owner's bounds", liar.sign_bridge(&rate(25_001)), "commitment-fee-range"),
        ("a fee rate below them", liar.sign_bridge(&rate(499)), "commitment-fee-range"),
        (
            "the secret of the live state",
            Request::Revoke { number: holder.number },
            "revoke-new-commitment-signed",
        ),
        (
            "to believe a secret that is none of the bridge's",
            Request::BridgeRevoked { number: bridge.number, secret: CommitmentSecret::new([5; 32]) },
            "revoke-secret-matches-point",
        ),
        ("its own address at the close", to(ours - fee, &thief(), theirs), "mutual-destination-allowlisted"),
        (
            "more for the bridge at the close",
            to(ours - fee - stolen.floor(), &own, theirs + stolen.floor()),
            "mutual-value-matches-commitment",
        ),
        ("a close that burns the owner's money", to(ours - stolen.floor(), &own, theirs), "mutual-fee-range"),
        ("a penalty for the state that is in force", punish(&bridge), "onchain-revoked"),
        (
            "signatures for a transaction that nobody knows",
            Request::TakeBack {
                commitment: Txid::from_byte_array([1; 32]),
                fee_rate: FeeRate::BROADCAST_MIN,
            },
            "onchain-known-commitment",
        ),
    ];
    // Every state that was ever signed, as it was asked for then, the newest two aside: those the device would sign again.
    let old = record.lock().unwrap().clone();
    let old = old.into_iter().filter_map(|request| match &request {
        Request::SignBridge { proposal, .. } if proposal.number < bridge.number => {
            Some(("a revoked state of the bridge's", request, "commitment-number"))
        }
        Request::ValidateHolder { proposal, .. } if proposal.number < holder.number => {
            Some(("a revoked state of its own", request, "commitment-number"))
        }
        _other => None,
    });
    attacks.extend(old);
    assert!(attacks.len() >= 15 + 8, "two payments leave four old states of each side");
    for (what, request, rule) in attacks {
        assert_eq!(liar.refused(&mut car, request).await, rule, "asked for {what}");
    }
    let other = ChannelKeysId([8; 32]);
    let answer = liar.ask_of(&mut car, other, Request::Fund).await;
    assert!(matches!(answer, Answer::Refused { ref rule, .. } if rule == "channel-unknown"), "{answer:?}");
    assert_eq!(car.state(), before, "nothing has changed");

    drop(liar);
    car.goes_on(&mut world).await;
}

/// Before everything that it says at the opening the gateway asks for the word that lets the owner sign the funding. It gets it when
/// both first states stand, and not before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_asks_for_the_funding_before_the_first_state_is_complete() {
    /// Numbers that the real gateway does not use.
    const OURS: u64 = 1 << 40;
    let world = World::start().await;
    let mut car = Car::new();
    let answers: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = answers.clone();
    let (mut asked, mut opening, mut is_complete) = (OURS, None, false);
    let tap = move |message: In| {
        match &message {
            In::FromDevice(ToGateway::Answer { id, answer }) if *id >= OURS => {
                heard.lock().unwrap().push(match answer {
                    Answer::Refused { rule, .. } => rule.clone(),
                    Answer::Fund(_) if is_complete => "given".into(),
                    other => format!("given too soon: {other:?}"),
                });
                return Vec::new();
            }
            In::FromDevice(ToGateway::Answer { answer: Answer::HolderComplete { .. }, .. }) => {
                is_complete = true;
            }
            In::FromGateway(ToDevice::Request { channel, request: Request::Open(_), .. }) => {
                opening = Some(*channel);
                return vec![message.pass()];
            }
            In::FromDevice(_) | In::FromGateway(_) => {}
        }
        match (&message, opening) {
            (In::FromGateway(_), Some(channel)) => {
                asked += 1;
                let fund = ToDevice::Request { id: asked, channel, request: Request::Fund };
                vec![Out::ToDevice(fund), message.pass()]
            }
            (In::FromGateway(_) | In::FromDevice(_), _) => vec![message.pass()],
        }
    };
    car.connect_through(&world.gateway, Box::new(tap)).await;
    // In there: nothing is broadcast before the device has spoken.
    car.open(&world).await;
    let answers = answers.lock().unwrap().clone();
    let refused = answers.iter().take_while(|answer| *answer == "funding-commitment-complete").count();
    // The bridge's state, its round, the device's state, its round: at least these came before.
    assert!(refused >= 4, "{answers:?}");
    assert!(answers[refused..].iter().all(|answer| answer == "given"), "{answers:?}");
    car.pay(&world.destination.invoice(20_000_000)).await;
    car.finish_together(&world).await;
}
