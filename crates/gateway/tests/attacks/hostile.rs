//! Gateways that cheat. Each has what the real one has: the key of the link, the share, the books.
//!
//! A [`Tap`] is a real gateway that says something else than it should; a [`Liar`] says what the test wants, with no Lightning node
//! behind it.

use std::sync::Arc;

use farthing_gateway::caller::MOST_UNREAD;
use farthing_gateway::gateway::Gateway;
use farthing_gateway::session::Connection;
use farthing_gateway::shelf::Shelf;
use farthing_gateway::stored::{StoredChannel, stored_channels};
use farthing_node::cabinet::Cabinet;
use farthing_node::link::{Link, Receiver, Sender};
use farthing_protocol::Msat;
use farthing_protocol::device::bolt3::{Commitment, Contents, Digest, Preimage, Side};
use farthing_protocol::device::joint::{Finisher, GatewayShare as _, JointSignature, Round as _, Step};
use farthing_protocol::device::wire::*;
use farthing_protocol::device::{Proposal, RoundId};
use farthing_threshold::{Gateway as GatewaySide, Share, SigningRound};
use secp256k1::ecdsa;
use tokio::sync::mpsc;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::car::Car;
use crate::world::*;

/// A message that a tap lets out.
pub enum Out {
    ToDevice(ToDevice),
    ToGateway(ToGateway),
    /// The connection is cut here.
    Cut,
}

/// What comes to a tap.
pub enum In {
    FromGateway(ToDevice),
    FromDevice(ToGateway),
}

impl In {
    /// As it should be.
    pub fn pass(self) -> Out {
        match self {
            Self::FromGateway(message) => Out::ToDevice(message),
            Self::FromDevice(message) => Out::ToGateway(message),
        }
    }
}

/// What a cheating gateway makes of each message.
pub type Tap = Box<dyn FnMut(In) -> Vec<Out> + Send>;

impl Car {
    /// Connects to the real gateway through a tap.
    pub async fn connect_through(&mut self, gateway: &Arc<Gateway>, tap: Tap) {
        let (ours, theirs) = self.links().await;
        tokio::spawn(serve_through(gateway.clone(), theirs, tap));
        self.greet(ours).await;
    }
}

async fn serve_through(gateway: Arc<Gateway>, link: Link, mut tap: Tap) {
    let (device, hash) = (link.peer(), link.connection());
    let (mut sender, mut receiver) = link.split();
    let (to_session, incoming) = mpsc::channel(16);
    let (outgoing, mut from_session) = mpsc::channel(MOST_UNREAD);
    let session = tokio::spawn(async move {
        let connection = Connection { device, hash, incoming, outgoing };
        if let Err(error) = gateway.serve(connection).await {
            eprintln!("a session ended: {error}");
        }
    });
    'link: loop {
        let outs = tokio::select! {
            message = from_session.recv() => match message {
                Some(message) => tap(In::FromGateway(message)),
                None => break,
            },
            bytes = receiver.receive() => match bytes {
                Ok(bytes) => tap(In::FromDevice(ToGateway::from_bytes(&bytes).unwrap())),
                Err(_) => break,
            },
        };
        for out in outs {
            let is_sent = match out {
                Out::ToDevice(message) => sender.send(&message.to_bytes()).await.is_ok(),
                Out::ToGateway(message) => to_session.send(message).await.is_ok(),
                Out::Cut => false,
            };
            if !is_sent {
                break 'link;
            }
        }
    }
    drop((to_session, from_session, sender, receiver));
    session.await.unwrap();
}

/// A gateway without a Lightning node, connected to a device.
pub struct Liar {
    sender: Sender,
    receiver: Receiver,
    hash: [u8; 32],
    asked: u64,
    pub channel: StoredChannel,
    pub share: Share<GatewaySide>,
    /// All that the device has said.
    pub heard: Vec<ToGateway>,
}

impl Liar {
    /// Takes the place of the real one, which is gone.
    pub async fn meet(world: &World, car: &mut Car) -> Self {
        let [channel] = &stored_channels(world.folder.path()).unwrap()[..] else { panic!("one channel") };
        let channel = channel.clone();
        let cabinet = Arc::new(Cabinet::open(&world.folder.path().join("devices.sqlite")).unwrap());
        let share = Shelf::new(cabinet, "channel").get::<Zeroizing<Vec<u8>>>(&channel.id.0, "share");
        let share = Share::from_bytes(&share.unwrap().unwrap()).unwrap();

        let (ours, theirs) = car.links().await;
        let hash = theirs.connection();
        let (mut sender, mut receiver) = theirs.split();
        let greet = async {
            let hello = ToGateway::from_bytes(&receiver.receive().await.unwrap()).unwrap();
            assert!(matches!(hello, ToGateway::Hello(_)));
            let welcome = Welcome { enrolled: true, fee_ppm: 0, fee_base: Msat::ZERO, policy: u64::MAX };
            sender.send(&ToDevice::Welcome(welcome).to_bytes()).await.unwrap();
            sender.send(&ToDevice::Headers(Vec::new()).to_bytes()).await.unwrap();
        };
        tokio::join!(greet, car.greet(ours));
        Self { sender, receiver, hash, asked: 0, channel, share, heard: Vec::new() }
    }

    /// The newest state of one side, as the real gateway's books have it.
    pub fn newest(&self, side: Side) -> &Contents {
        self.channel.ledger.newest(side).unwrap()
    }

    pub fn build(&self, side: Side, contents: &Contents) -> Commitment {
        Commitment::build(&self.channel.terms, side, contents)
    }

    /// What a gateway says of a state.
    pub fn proposal(&self, side: Side, contents: &Contents, preimages: &[Preimage]) -> Proposal {
        let txid = self.build(side, contents).txid();
        let Contents { number, fee_rate, to_holder, to_bridge, htlcs, .. } = contents.clone();
        Proposal { number, fee_rate, to_holder, to_bridge, htlcs, preimages: preimages.to_vec(), txid }
    }

    /// A request for a signature on a state of the bridge's, without a round.
    pub fn sign_bridge(&self, contents: &Contents) -> Request {
        let proposal = self.proposal(Side::Bridge, contents, &[]);
        Request::SignBridge { proposal, point: contents.point, first: Vec::new() }
    }

    /// Says something; the device takes it, and says what it has to.
    pub async fn say(&mut self, car: &mut Car, message: ToDevice) -> Vec<ToGateway> {
        let bytes = message.to_bytes();
        let (sent, heard) = tokio::join!(self.sender.send(&bytes), car.hear());
        sent.unwrap();
        // What was answered lies on the link already.
        drop(heard.unwrap());
        let mut said = Vec::new();
        while let Ok(bytes) = timeout(std::time::Duration::from_millis(50), self.receiver.receive()).await {
            said.push(ToGateway::from_bytes(&bytes.unwrap()).unwrap());
        }
        self.heard.extend(said.iter().cloned());
        said
    }

    fn next(&mut self) -> u64 {
        self.asked += 1;
        self.asked
    }

    /// Asks for something, and gives the answer.
    pub async fn ask(&mut self, car: &mut Car, request: Request) -> Answer {
        let channel = self.channel.id;
        self.ask_of(car, channel, request).await
    }

    /// The same, of any channel.
    pub async fn ask_of(&mut self, car: &mut Car, channel: ChannelKeysId, request: Request) -> Answer {
        let id = self.next();
        let said = self.say(car, ToDevice::Request { id, channel, request }).await;
        match <[ToGateway; 1]>::try_from(said) {
            Ok([ToGateway::Answer { id: of, answer }]) => {
                assert_eq!(of, id);
                answer
            }
            other => panic!("{other:?}"),
        }
    }

    /// Asks for what the device must refuse, and gives the rule.
    pub async fn refused(&mut self, car: &mut Car, request: Request) -> String {
        match self.ask(car, request).await {
            Answer::Refused { rule, .. } => rule,
            other => format!("DONE: {other:?}"),
        }
    }

    /// Begins a round, and gives the number of the request, the gateway's side of the round after the device's first two messages, and
    /// its own second message.
    pub async fn begin(
        &mut self,
        car: &mut Car,
        digest: Digest,
        finisher: Finisher,
        request: impl FnOnce(Vec<u8>) -> Request,
    ) -> (u64, Step<SigningRound<GatewaySide>>, Vec<u8>, Vec<ecdsa::Signature>) {
        let RoundId(name) = round_id(&self.hash, self.asked + 1);
        let (round, first) = self.share.start(RoundId(name), digest.to_bytes(), finisher).unwrap();
        let (id, channel) = (self.next(), self.channel.id);
        let said = self.say(car, ToDevice::Request { id, channel, request: request(first) }).await;
        let Ok([ToGateway::Answer { answer, .. }, ToGateway::Round { messages, .. }]) =
            <[ToGateway; 2]>::try_from(said)
        else {
            panic!("an answer and a message of the round")
        };
        let Answer::Signing { htlc_signatures, first } = answer else { panic!("{answer:?}") };
        let Step::Send(round, second) = round.next(&first).unwrap() else { panic!() };
        (id, round.next(&messages[0]).unwrap(), second, htlc_signatures)
    }

    /// Goes on with a round. Gives what the device said, which may be nothing.
    pub async fn go_on(&mut self, car: &mut Car, id: u64, messages: Vec<Vec<u8>>) -> Vec<ToGateway> {
        self.say(car, ToDevice::Round { id, messages }).await
    }

    /// A whole round over a state of the bridge's: the gateway has the signature then.
    pub async fn sign(&mut self, car: &mut Car, contents: &Contents) -> ecdsa::Signature {
        let digest = self.build(Side::Bridge, contents).digest();
        let proposal = self.proposal(Side::Bridge, contents, &[]);
        let point = contents.point;
        let request = move |first| Request::SignBridge { proposal, point, first };
        let (id, step, second, _) = self.begin(car, digest, Finisher::Gateway, request).await;
        let Step::Wait(round) = step else { panic!("the gateway finishes") };
        let said = self.go_on(car, id, vec![second]).await;
        let [ToGateway::Round { messages, .. }] = &said[..] else { panic!("{said:?}") };
        let Step::Signed(JointSignature(signature)) = round.next(&messages[0]).unwrap() else { panic!() };
        signature
    }

    /// Sends bytes that are no message, in good frames.
    pub async fn blurt(&mut self, car: &mut Car, bytes: &[u8]) -> bool {
        let (sent, heard) = tokio::join!(self.sender.send(bytes), car.hear());
        sent.unwrap();
        heard.is_err()
    }
}
