//! A gateway that repeats, reorders, delays and cuts what it says, or keeps its half of a signature; and somebody on the wire.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use farthing_node::device::alone::Closer;
use farthing_node::device::{ConnectionError, Said};
use farthing_node::link::{Link, LinkError, StaticKey};
use farthing_protocol::Msat;
use farthing_protocol::device::bolt3::Side;
use farthing_protocol::device::joint::{Finisher, Round as _, Step};
use farthing_protocol::device::wire::{Answer, ChannelKeysId, Order, Report, Request, ToDevice, ToGateway};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex, split};

use crate::car::{Car, gateway_key};
use crate::hostile::{In, Liar, Out, Tap};
use crate::vanished::end;
use crate::world::*;

/// The gateway's message of the handshake.
const SECOND_BYTES: usize = 48;

/// Numbers that the real gateway does not use.
const OURS: u64 = 1 << 40;

/// What a tap saw.
pub type Heard = Arc<Mutex<Vec<String>>>;

pub fn note(heard: &Heard, text: &str) {
    heard.lock().unwrap().push(text.to_owned());
}

pub fn count(heard: &Heard, text: &str) -> usize {
    heard.lock().unwrap().iter().filter(|heard| *heard == text).count()
}

/// Says everything twice. What the device answers to the second is noted, and kept from the real gateway.
///
/// A message in the middle of a round ends that round when it comes again. So of the rounds that the device finishes only one has its
/// middle twice: the real gateway hears of that, and begins another.
fn twice(heard: Heard) -> Tap {
    let mut holder_rounds = BTreeSet::new();
    let mut broken = None;
    let mut has_heard_of_it = false;
    Box::new(move |message| match message {
        In::FromGateway(message) => {
            let mut is_middle = false;
            match &message {
                ToDevice::Request { id, request: Request::ValidateHolder { .. }, .. } => {
                    holder_rounds.insert(*id);
                }
                // The next message of that round is its last.
                ToDevice::Round { id, .. } if holder_rounds.remove(id) => {
                    is_middle = broken.is_some();
                    broken.get_or_insert(*id);
                }
                _other => {}
            }
            let again = (!is_middle).then(|| Out::ToDevice(message.clone()));
            std::iter::once(Out::ToDevice(message)).chain(again).collect()
        }
        In::FromDevice(ToGateway::Answer { answer: Answer::Refused { rule, .. }, .. }) => {
            note(&heard, &rule);
            Vec::new()
        }
        In::FromDevice(message @ ToGateway::Answer { answer: Answer::Interrupted, .. }) => {
            note(&heard, "interrupted");
            let is_news = matches!(&message, ToGateway::Answer { id, .. } if broken == Some(*id));
            if is_news && !std::mem::replace(&mut has_heard_of_it, true) {
                vec![Out::ToGateway(message)]
            } else {
                Vec::new()
            }
        }
        other => vec![other.pass()],
    })
}

/// Asks for each secret before the state after it is complete, and for each state before the bridge has revoked the one before.
fn too_early(heard: Heard) -> Tap {
    let mut asked = OURS;
    let mut held: Option<ToDevice> = None;
    let (mut is_signed, mut was_held) = (false, false);
    let mut completing: Option<(ChannelKeysId, Request)> = None;
    Box::new(move |message| {
        let message = match message {
            In::FromDevice(ToGateway::Answer { id, answer }) if id >= OURS => {
                note(&heard, if let Answer::Refused { rule, .. } = &answer { rule } else { "DONE" });
                return Vec::new();
            }
            In::FromDevice(message) => return vec![Out::ToGateway(message)],
            In::FromGateway(message) => message,
        };
        let mut outs = Vec::new();
        let mut early = |channel, request| {
            asked += 1;
            Out::ToDevice(ToDevice::Request { id: asked, channel, request })
        };
        match &message {
            ToDevice::Request { id, channel, request } => match request {
                // Not one of before, which the device has already.
                Request::BridgeRevoked { .. } if is_signed && !was_held => {
                    was_held = true;
                    // The real gateway believes that the device has it.
                    let answer = ToGateway::Answer { id: *id, answer: Answer::Done };
                    held = Some(message);
                    return vec![Out::ToGateway(answer)];
                }
                Request::SignBridge { .. } => {
                    is_signed = true;
                    if let Some(held) = held.take() {
                        outs.extend([early(*channel, request.clone()), Out::ToDevice(held)]);
                    }
                }
                Request::ValidateHolder { proposal, .. } => {
                    if let Some(number) = proposal.number.previous() {
                        let revoke = Request::Revoke { number };
                        outs.push(early(*channel, revoke.clone()));
                        completing = Some((*channel, revoke));
                    }
                }
                _other => {}
            },
            // In the middle of the round that completes the state.
            ToDevice::Round { .. } => {
                outs.extend(completing.take().map(|(channel, revoke)| early(channel, revoke)))
            }
            _other => {}
        }
        outs.push(Out::ToDevice(message));
        outs
    })
}

/// Holds what comes when a state is to be completed, until there is a new block.
fn late(heard: Heard) -> Tap {
    let mut held = Vec::new();
    Box::new(move |message| match message {
        In::FromGateway(message @ ToDevice::Request { request: Request::ValidateHolder { .. }, .. })
            if count(&heard, "held") == 0 =>
        {
            note(&heard, "held");
            held.push(Out::ToDevice(message));
            Vec::new()
        }
        In::FromGateway(ToDevice::Headers(headers)) => {
            let mut outs = vec![Out::ToDevice(ToDevice::Headers(headers))];
            outs.append(&mut held);
            outs
        }
        other => vec![other.pass()],
    })
}

/// Everything twice; too early; twenty blocks too late. What must not be repeated or come so early is refused by its rule, the rest is
/// answered as before, and each payment is made once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_repeats_reorders_and_delays() {
    let world = World::start().await;
    let mut car = Car::new();
    let heard = Heard::default();
    car.connect_through(&world.gateway, twice(heard.clone())).await;
    car.open(&world).await;
    car.pay(&world.destination.invoice(20_000_000)).await;
    car.hang_up();
    // The states of the opening and of one payment, three of each side, and the round that was broken.
    assert!(count(&heard, "round-number") >= 7, "{heard:?}");
    assert!(count(&heard, "interrupted") >= 7, "{heard:?}");

    let heard = Heard::default();
    car.connect_through(&world.gateway, too_early(heard.clone())).await;
    car.usable(&world).await;
    car.pay(&world.destination.invoice(20_000_000)).await;
    car.hang_up();
    assert_eq!(count(&heard, "commitment-previous-revoked"), 1, "{heard:?}");
    assert_eq!(count(&heard, "revoke-new-commitment-signed"), 4, "{heard:?}");
    assert_eq!(count(&heard, "DONE"), 0, "{heard:?}");

    let heard = Heard::default();
    car.connect_through(&world.gateway, late(heard.clone())).await;
    car.usable(&world).await;
    let invoice = world.destination.invoice(20_000_000);
    let order = car.begin_to_pay(&invoice).await;
    car.answer_until("it is held", |_| count(&heard, "held") == 1).await;
    world.mine(20);
    car.finish_paying(order, &invoice).await;
    car.finish_together(&world).await;
}

/// Lets so many requests and messages of rounds through to the device after a payment was ordered; then the connection is cut.
fn cut_after(passed: u64) -> Tap {
    let mut left = None;
    Box::new(move |message| {
        match (&message, &mut left) {
            (In::FromDevice(ToGateway::Order { order: Order::Pay { .. }, .. }), _) => left = Some(passed),
            (In::FromGateway(ToDevice::Request { .. } | ToDevice::Round { .. }), Some(left)) => {
                if *left == 0 {
                    return vec![Out::Cut];
                }
                *left -= 1;
            }
            (In::FromGateway(_) | In::FromDevice(_), _) => {}
        }
        vec![message.pass()]
    })
}

/// The gateway goes away before each message of a payment, and the device's power with it. Each time it goes on from the disk, and pays
/// once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_goes_away_before_each_message_of_a_payment() {
    let world = World::start().await;
    let mut car = Car::new();
    car.connect(&world.gateway).await;
    car.open(&world).await;
    car.hang_up();
    let mut cuts = 0;
    loop {
        car.connect_through(&world.gateway, cut_after(cuts)).await;
        car.usable(&world).await;
        let invoice = world.destination.invoice(5_000_000);
        let order = car.begin_to_pay(&invoice).await;
        let mut paid = None;
        let is_cut = loop {
            let Ok(heard) = car.hear().await else { break true };
            for said in heard {
                if let Said::Report(id, Report::Paid { fee, .. }) = said
                    && id == order
                {
                    paid = Some(fee);
                }
            }
            if paid.is_some() && car.state().account().is_settled() {
                break false;
            }
        };
        if is_cut {
            cuts += 1;
            car.power_cut();
            car.connect(&world.gateway).await;
            car.usable(&world).await;
            let order = car.begin_to_pay(&invoice).await;
            car.finish_paying(order, &invoice).await;
        } else {
            car.spent = car.spent.saturating_add(Msat::new(5_000_000)).saturating_add(paid.unwrap());
            car.settle().await;
        }
        car.hang_up();
        if !is_cut {
            break;
        }
    }
    assert!(cuts >= 12, "a payment has at least twelve messages, {cuts} were cut");
    car.connect(&world.gateway).await;
    car.usable(&world).await;
    car.finish_together(&world).await;
}

/// What somebody on the wire does to one frame.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Truncated,
    Changed,
    Repeated,
    LeftOut,
    Swapped,
}

/// The bytes between device and gateway, of which the second frame to the device is harmed once `is_armed`.
async fn wire(device: DuplexStream, gateway: DuplexStream, harm: Harm, is_armed: Arc<AtomicBool>) {
    let (mut from_device, mut to_device) = split(device);
    let (mut from_gateway, mut to_gateway) = split(gateway);
    let back = async { tokio::io::copy(&mut from_device, &mut to_gateway).await.map(drop) };
    let there = async {
        let mut handshake = [0; SECOND_BYTES];
        from_gateway.read_exact(&mut handshake).await?;
        to_device.write_all(&handshake).await?;
        let (mut seen, mut held) = (0, None);
        loop {
            let length = from_gateway.read_u16().await?;
            let mut frame = vec![0; 2 + usize::from(length)];
            frame[..2].copy_from_slice(&length.to_be_bytes());
            from_gateway.read_exact(&mut frame[2..]).await?;
            seen += u64::from(is_armed.load(Ordering::SeqCst));
            let out = match (seen, harm) {
                (2, Harm::Truncated) => {
                    to_device.write_all(&frame[..frame.len() / 2]).await?;
                    return Ok(());
                }
                (2, Harm::Changed) => {
                    *frame.last_mut().expect("a frame has a tag") ^= 1;
                    frame
                }
                (2, Harm::Repeated) => frame.repeat(2),
                (2, Harm::LeftOut) => Vec::new(),
                (2, Harm::Swapped) if held.is_none() => {
                    held = Some(frame);
                    Vec::new()
                }
                _other => [frame, held.take().unwrap_or_default()].concat(),
            };
            to_device.write_all(&out).await?;
        }
    };
    let ended: std::io::Result<()> = tokio::select! { ended = back => ended, ended = there => ended };
    drop(ended);
}

/// Somebody on the wire truncates, changes, repeats, leaves out or swaps a frame in the middle of a payment; the gateway itself sends half
/// messages in good frames. The connection ends, and nothing else: no half of a message reaches a round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_and_messages_are_cut_changed_and_swapped() {
    let mut world = World::start().await;
    let mut car = Car::new();
    car.connect(&world.gateway).await;
    car.open(&world).await;
    car.hang_up();
    for harm in [Harm::Truncated, Harm::Changed, Harm::Repeated, Harm::LeftOut, Harm::Swapped] {
        let (near, near_end) = duplex(1 << 20);
        let (far, far_end) = duplex(1 << 20);
        let is_armed = Arc::new(AtomicBool::new(false));
        tokio::spawn(wire(near_end, far_end, harm, is_armed.clone()));
        let own = StaticKey::new(*car.device().secret().link());
        let (key, public) = (gateway_key(), gateway_key().public());
        let (ours, theirs) =
            tokio::try_join!(Link::connect(near, &own, &public), Link::accept(far, &key)).unwrap();
        car.connect_over(&world.gateway, ours, theirs).await;
        car.usable(&world).await;
        let invoice = world.destination.invoice(5_000_000);
        is_armed.store(true, Ordering::SeqCst);
        car.begin_to_pay(&invoice).await;
        let deadline = Instant::now() + PATIENCE;
        let error = loop {
            assert!(Instant::now() < deadline, "{harm:?}: nobody noticed");
            match car.hear_for(Duration::from_secs(1)).await {
                Ok(_) => {}
                // What was left out was the last that the gateway had to say. It goes on with the next block.
                Err(ConnectionError::Link(LinkError::Silent)) => world.mine(1),
                Err(error) => break error,
            }
        };
        let is_expected = match harm {
            Harm::Truncated => matches!(error, ConnectionError::Link(LinkError::Closed)),
            Harm::Changed | Harm::Repeated | Harm::LeftOut | Harm::Swapped => {
                matches!(error, ConnectionError::Link(LinkError::Forged))
            }
        };
        assert!(is_expected, "{harm:?}: {error}");
        car.power_cut();
        car.connect(&world.gateway).await;
        car.usable(&world).await;
        let order = car.begin_to_pay(&invoice).await;
        car.finish_paying(order, &invoice).await;
        car.hang_up();
    }

    world.gateway.stop();
    let before = car.state();
    for part in [0, 1, 2, 3] {
        let mut liar = Liar::meet(&world, &mut car).await;
        let request = liar.sign_bridge(liar.newest(Side::Bridge));
        let message = ToDevice::Request { id: 1, channel: liar.channel.id, request }.to_bytes();
        assert!(liar.blurt(&mut car, &message[..message.len() * part / 4]).await, "{part}/4 of a message");
        car.hang_up();
    }
    let mut liar = Liar::meet(&world, &mut car).await;
    let newest = liar.newest(Side::Bridge).clone();
    let digest = liar.build(Side::Bridge, &newest).digest();
    for part in [0, 1, 2, 3] {
        let proposal = liar.proposal(Side::Bridge, &newest, &[]);
        let point = newest.point;
        let request = move |first| Request::SignBridge { proposal, point, first };
        let (id, _, second, _) = liar.begin(&mut car, digest, Finisher::Gateway, request).await;
        let said = liar.go_on(&mut car, id, vec![second[..second.len() * part / 4].to_vec()]).await;
        assert!(matches!(said[..], [ToGateway::Answer { answer: Answer::Interrupted, .. }]), "{said:?}");
    }
    assert_eq!(car.state(), before);
    drop(liar);
    car.goes_on(&mut world).await;
}

/// What a gateway writes down that wants to finish a holder's signature later.
#[derive(Default)]
struct Kept {
    /// The states that it asked to complete, oldest first.
    states: Vec<Request>,
    /// Its last messages of the rounds that completed them: its halves.
    halves: Vec<Vec<u8>>,
    /// The rounds that the device finishes, by the gateway's number, with how many messages the gateway sent in each.
    holder_rounds: BTreeMap<u64, usize>,
    /// How often the device sent messages of a round behind its first one.
    rounds: usize,
    /// How often it signed for the bridge.
    signed: usize,
    /// How often it made a key.
    keys: usize,
}

/// Writes down everything; keeps the fourth state from the device, and cuts.
fn keeping(kept: Arc<Mutex<Kept>>) -> Tap {
    Box::new(move |message| {
        let mut kept = kept.lock().unwrap();
        match &message {
            In::FromGateway(ToDevice::Request { id, request, .. }) => match request {
                Request::ValidateHolder { .. } => {
                    kept.states.push(request.clone());
                    if kept.states.len() == 4 {
                        return vec![Out::Cut];
                    }
                    kept.holder_rounds.insert(*id, 0);
                }
                Request::SignBridge { .. } => kept.signed += 1,
                _other => {}
            },
            In::FromGateway(ToDevice::GenerateKey { .. }) => kept.keys += 1,
            In::FromGateway(ToDevice::Round { id, messages }) => {
                let sent = kept.holder_rounds.get_mut(id).map(|sent| {
                    *sent += 1;
                    *sent
                });
                // Its second message of such a round is its half.
                if sent == Some(2) {
                    kept.halves.push(messages[0].clone());
                }
            }
            In::FromDevice(ToGateway::Round { .. }) => kept.rounds += 1,
            In::FromGateway(_) | In::FromDevice(_) => {}
        }
        drop(kept);
        vec![message.pass()]
    })
}

/// The gateway keeps its half of every signature on the device's commitments, and the revoked secrets. It can finish none: the device's
/// half never left, no other round's message stands in for it, and no round over an old state is begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_keeps_its_half_of_old_signatures() {
    let world = World::start().await;
    let mut car = Car::new();
    let kept: Arc<Mutex<Kept>> = Arc::default();
    car.connect_through(&world.gateway, keeping(kept.clone())).await;
    car.open(&world).await;
    car.pay(&world.destination.invoice(20_000_000)).await;
    let invoice = world.destination.invoice(30_000_000);
    car.begin_to_pay(&invoice).await;
    while car.hear().await.is_ok() {}
    car.hang_up();
    world.gateway.stop();
    let Kept { states, halves, holder_rounds, rounds, signed, keys } =
        std::mem::take(&mut *kept.lock().unwrap());
    assert_eq!((states.len(), holder_rounds.len()), (4, 3));
    // Of a round that the gateway finishes the device sends its second and its last message, of one that it finishes itself the second
    // alone, of a key generation its first two together.
    assert_eq!(rounds, 2 * signed + holder_rounds.len() + keys, "and of no other round a last one");

    let mut liar = Liar::meet(&world, &mut car).await;
    let newest = liar.newest(Side::Holder).clone();
    let digest = liar.build(Side::Holder, &newest).digest();
    let Some(Request::ValidateHolder { proposal, signature, htlc_signatures, .. }) = states.last() else {
        panic!()
    };
    assert_eq!(proposal.number, newest.number);
    let old = newest.number.previous().unwrap();
    let complete = |first| Request::ValidateHolder {
        proposal: proposal.clone(),
        signature: *signature,
        htlc_signatures: htlc_signatures.clone(),
        first,
    };
    // Its own half alone: the device waits, and says nothing more.
    let (id, step, second, _) = liar.begin(&mut car, digest, Finisher::Device, complete).await;
    let Step::SendLast(half) = step else { panic!("the device finishes") };
    let said = liar.go_on(&mut car, id, vec![second.clone()]).await;
    assert!(said.is_empty(), "{said:?}");
    let revoke = Request::Revoke { number: old };
    assert_eq!(liar.refused(&mut car, revoke.clone()).await, "revoke-new-commitment-signed");
    let said = liar.go_on(&mut car, id, vec![half.clone()]).await;
    assert!(
        matches!(said[..], [ToGateway::Answer { answer: Answer::HolderComplete { .. }, .. }]),
        "{said:?}"
    );
    assert!(matches!(liar.ask(&mut car, revoke).await, Answer::Secret { .. }), "as it should be");

    // Every half that it kept, in the place of the device's in a round of its own.
    let bridge = liar.newest(Side::Bridge).clone();
    let digest = liar.build(Side::Bridge, &bridge).digest();
    assert!(halves.len() >= 3, "{}", halves.len());
    for half in halves.into_iter().chain([half, second]) {
        let (proposal, point) = (liar.proposal(Side::Bridge, &bridge, &[]), bridge.point);
        let request = move |first| Request::SignBridge { proposal, point, first };
        let (_, step, _, _) = liar.begin(&mut car, digest, Finisher::Gateway, request).await;
        let Step::Wait(round) = step else { panic!("the gateway finishes") };
        assert!(round.next(&half).is_err());
    }
    // The states themselves, with the bridge's signatures, which it has.
    for request in &states[..3] {
        assert_eq!(liar.refused(&mut car, request.clone()).await, "commitment-number");
    }
    let round = |said: &ToGateway| if let ToGateway::Round { id, .. } = said { Some(*id) } else { None };
    let rounds: Vec<u64> = liar.heard.iter().filter_map(round).collect();
    let once: BTreeSet<u64> = rounds.iter().copied().collect();
    assert_eq!(rounds.len(), once.len(), "its second message of each round, and no half of the device's");
    drop(liar);
    car.power_cut();

    let besides = car.balance().floor();
    let ended = car.close_alone(&world);
    assert_eq!((ended.by, ended.sent.len()), (Closer::Device, 2));
    world.mine(1);
    end(&world, &mut car, besides, &ended);
}
