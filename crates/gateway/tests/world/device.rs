//! A device in this process: the machine of `protocol`, its share, and nothing else. The real program around it is in `node`.

use std::collections::BTreeMap;

use bitcoin::{Network, Transaction};
use farthing_protocol::device::bolt3::{Basepoints, CommitmentNumber, PartyTerms, Terms};
use farthing_protocol::device::joint::{DeviceShare as _, Round as _, Step, Task};
use farthing_protocol::device::keys::{DeviceKeys, DeviceSecret};
use farthing_protocol::device::payments::Source;
use farthing_protocol::device::setup::FundingStatement;
use farthing_protocol::device::wire::*;
use farthing_protocol::device::{Effect, Enrolment, Input, Invoice, Setup, SignedPolicy, State, Tip};
use farthing_threshold::{Device as DeviceSide, KeyGeneration, KeyGenerationStep, Share, SigningRound};
use tokio::sync::mpsc;

/// What the test tells the device to do.
#[expect(clippy::large_enum_variant, reason = "a test sends few of them")]
pub enum Do {
    /// Say this to the gateway.
    Order(Order),
    /// Approve and pay.
    Pay(ChannelKeysId, String),
    /// Close with what is stored; the transactions go back to the test.
    CloseAlone(mpsc::UnboundedSender<Vec<Transaction>>),
}

enum Running {
    Generating(Box<KeyGeneration<DeviceSide>>, ChannelKeysId),
    Signing(Box<SigningRound<DeviceSide>>, Option<CommitmentNumber>),
}

/// The device.
pub struct Device {
    pub secret: DeviceSecret,
    pub enrolment: Enrolment,
    pub policy: SignedPolicy,
    shares: BTreeMap<ChannelKeysId, Share<DeviceSide>>,
    setups: BTreeMap<ChannelKeysId, Setup>,
    states: BTreeMap<ChannelKeysId, State>,
    running: BTreeMap<u64, Running>,
    current: BTreeMap<u64, ChannelKeysId>,
    tip: Tip,
    entropy: u8,
    orders: u64,
    pub statements: mpsc::UnboundedSender<FundingStatement>,
    pub reports: mpsc::UnboundedSender<(u64, Report)>,
}

impl Device {
    pub fn new(
        byte: u8,
        enrolment: Enrolment,
        policy: SignedPolicy,
        statements: mpsc::UnboundedSender<FundingStatement>,
        reports: mpsc::UnboundedSender<(u64, Report)>,
    ) -> Self {
        Self {
            secret: DeviceSecret::new([byte; 32]),
            enrolment,
            policy,
            shares: BTreeMap::new(),
            setups: BTreeMap::new(),
            states: BTreeMap::new(),
            running: BTreeMap::new(),
            current: BTreeMap::new(),
            tip: Tip::default(),
            entropy: byte,
            orders: 0,
            statements,
            reports,
        }
    }

    pub fn height(&self) -> u32 {
        self.tip.height
    }

    pub fn hello(&self, tip: (u32, bitcoin::BlockHash)) -> Hello {
        let standing = |channel: &ChannelKeysId| match self.states.get(channel) {
            None => Standing::Ready,
            Some(State::Opening(_)) => Standing::Opening,
            Some(State::Open(_)) => Standing::Open,
            Some(State::Closing(_)) => Standing::Closing,
        };
        let channels = self.shares.keys().map(|channel| (*channel, standing(channel))).collect();
        Hello { network: Network::Regtest, tip, channels }
    }

    fn keys(&self, channel: &ChannelKeysId) -> DeviceKeys {
        self.secret.channel_keys(&channel.0)
    }

    fn basepoints(&self, channel: &ChannelKeysId) -> Basepoints {
        let keys = self.keys(channel);
        Basepoints {
            payment: self.enrolment.payment,
            delayed_payment: self.enrolment.delayed_payment,
            htlc: keys.htlc_basepoint(),
            revocation: keys.revocation_basepoint(),
        }
    }

    /// Runs until either end is gone.
    pub async fn run(
        mut self,
        connection: [u8; 32],
        mut incoming: mpsc::Receiver<ToDevice>,
        outgoing: mpsc::Sender<ToGateway>,
        mut wishes: mpsc::UnboundedReceiver<Do>,
    ) -> Self {
        loop {
            let answers = tokio::select! {
                message = incoming.recv() => match message {
                    Some(message) => self.take(&connection, message),
                    None => return self,
                },
                wish = wishes.recv() => match wish {
                    Some(wish) => self.wish(wish),
                    None => return self,
                },
            };
            for answer in answers {
                if outgoing.send(answer).await.is_err() {
                    return self;
                }
            }
        }
    }

    fn wish(&mut self, wish: Do) -> Vec<ToGateway> {
        let order = match wish {
            Do::Order(order) => order,
            Do::Pay(channel, invoice) => {
                let read = Invoice::parse(&invoice, Network::Regtest).unwrap();
                let input = Input::Approve { invoice: read, source: Source::Direct, tip: self.tip };
                self.give(&channel, input).unwrap();
                Order::Pay { channel, invoice }
            }
            Do::CloseAlone(to) => {
                let channels: Vec<_> = self.states.keys().copied().collect();
                for channel in channels {
                    for effect in self.give(&channel, Input::CloseAlone).unwrap() {
                        if let Effect::Publish(publication) = effect {
                            let mut all = vec![publication.commitment];
                            all.extend(publication.htlc_timeouts);
                            to.send(all).unwrap();
                        }
                    }
                }
                return Vec::new();
            }
        };
        self.orders += 1;
        vec![ToGateway::Order { id: self.orders, order }]
    }

    fn give(&mut self, channel: &ChannelKeysId, input: Input) -> Result<Vec<Effect>, String> {
        let state = self.states.get(channel).ok_or("no such channel")?;
        let setup = &self.setups[channel];
        let transition = state.handle(setup, input).map_err(|reject| reject.to_string())?;
        let (next, effects) = transition.commit(|_| Ok::<_, ()>(())).unwrap();
        self.states.insert(*channel, next);
        Ok(effects)
    }

    fn take(&mut self, connection: &[u8; 32], message: ToDevice) -> Vec<ToGateway> {
        match message {
            ToDevice::Welcome(_) => Vec::new(),
            ToDevice::Headers(headers) => {
                self.tip.height += headers.len() as u32;
                self.tip.time = headers.last().map_or(self.tip.time, |last| u64::from(last.time));
                Vec::new()
            }
            ToDevice::GenerateKey { id, first } => {
                self.entropy += 1;
                let channel = ChannelKeysId([self.entropy; 32]);
                let (generation, one) = KeyGeneration::start(round_id(connection, id));
                let KeyGenerationStep::Send(generation, two) = generation.next(&first).unwrap() else {
                    panic!()
                };
                self.running.insert(id, Running::Generating(generation, channel));
                vec![ToGateway::Round { id, messages: vec![one, two] }]
            }
            ToDevice::Request { id, channel, request } => {
                match self.request(connection, id, channel, request) {
                    Ok(answers) => answers,
                    Err(why) => {
                        let rule = why.split(':').next().unwrap().to_owned();
                        vec![ToGateway::Answer { id, answer: Answer::Refused { rule, why } }]
                    }
                }
            }
            ToDevice::Round { id, messages } => self.round(id, messages),
            ToDevice::Report { id, report } => {
                self.reports.send((id, report)).unwrap();
                Vec::new()
            }
        }
    }

    fn start(
        &mut self,
        (connection, id): (&[u8; 32], u64),
        channel: &ChannelKeysId,
        task: &Task,
        first: &[u8],
        number: Option<CommitmentNumber>,
        htlc_signatures: Vec<secp256k1::ecdsa::Signature>,
    ) -> Vec<ToGateway> {
        let share = &self.shares[channel];
        let (round, one) = share.start(round_id(connection, id), task).unwrap();
        let Step::Send(round, two) = round.next(first).unwrap() else { panic!("the second goes both ways") };
        self.running.insert(id, Running::Signing(Box::new(round), number));
        // The number is known to the round's end by its channel.
        self.current.insert(id, *channel);
        let answer = Answer::Signing { htlc_signatures, first: one };
        vec![ToGateway::Answer { id, answer }, ToGateway::Round { id, messages: vec![two] }]
    }

    fn request(
        &mut self,
        connection: &[u8; 32],
        id: u64,
        channel: ChannelKeysId,
        request: Request,
    ) -> Result<Vec<ToGateway>, String> {
        let tip = self.tip;
        let (input, first) = match request {
            Request::Points { from, count } => {
                let keys = self.keys(&channel);
                let numbers = (from.get()..from.get() + u64::from(count)).map(|n| n.try_into().unwrap());
                let points = numbers.map(|number| keys.point(number)).collect();
                return Ok(vec![ToGateway::Answer { id, answer: Answer::Points(points) }]);
            }
            Request::Open(terms) => {
                self.open(channel, terms)?;
                return Ok(vec![ToGateway::Answer { id, answer: Answer::Done }]);
            }
            Request::SignBridge { proposal, point, first } => {
                (Input::SignBridge { proposal, point, tip }, first)
            }
            Request::ValidateHolder { proposal, signature, htlc_signatures, first } => {
                (Input::ValidateHolder { proposal, signature, htlc_signatures }, first)
            }
            Request::Revoke { number } => (Input::Revoke { number }, Vec::new()),
            Request::BridgeRevoked { number, secret } => {
                (Input::BridgeRevoked { number, secret }, Vec::new())
            }
            Request::Fund => (Input::Fund, Vec::new()),
            Request::CloseTogether { settlement, first } => (Input::CloseTogether(settlement), first),
            Request::CloseAlone => (Input::CloseAlone, Vec::new()),
            Request::TakeBack { commitment, fee_rate } => {
                (Input::TakeBack { commitment, fee_rate }, Vec::new())
            }
            Request::Punish(revoked) => (Input::Punish(revoked), Vec::new()),
        };
        let mut effects = self.give(&channel, input)?;
        if let Some(Effect::Erase(number)) = effects.first() {
            effects = self.give(&channel, Input::Erased { number: *number })?;
        }
        let answer = |answer| Ok(vec![ToGateway::Answer { id, answer }]);
        match effects.into_iter().next() {
            None => answer(Answer::Done),
            Some(Effect::SignBridge { task, htlc_signatures, .. }) => {
                Ok(self.start((connection, id), &channel, &task, &first, None, htlc_signatures))
            }
            Some(Effect::SignHolder { number, task }) => {
                Ok(self.start((connection, id), &channel, &task, &first, Some(number), Vec::new()))
            }
            Some(Effect::SignClosing(task)) => {
                Ok(self.start((connection, id), &channel, &task, &first, None, Vec::new()))
            }
            Some(Effect::HolderComplete(number)) => answer(Answer::HolderComplete { number }),
            Some(Effect::Reveal { number, secret }) => answer(Answer::Secret { number, secret }),
            Some(Effect::Fund(statement)) => {
                self.statements.send(statement.clone()).unwrap();
                answer(Answer::Fund(statement))
            }
            Some(Effect::Publish(publication)) => answer(Answer::Transactions(vec![publication.commitment])),
            Some(Effect::Broadcast(transactions)) => answer(Answer::Transactions(transactions)),
            Some(Effect::Approved(_) | Effect::Erase(_)) => panic!("no request leads there"),
        }
    }

    fn open(&mut self, channel: ChannelKeysId, terms: OpenTerms) -> Result<(), String> {
        let joint = self.shares[&channel].public_key();
        let holder = PartyTerms {
            funding_key: joint,
            basepoints: self.basepoints(&channel),
            dust_limit: terms.holder_dust_limit,
            delay: terms.holder_delay,
        };
        let OpenTerms { funding, capacity, bridge, reserve, .. } = terms;
        let terms = Terms { funding, capacity, holder, bridge };
        let setup = Setup::new(self.enrolment.clone(), self.keys(&channel), terms, joint, reserve);
        let setup = setup.map_err(|bad| bad.to_string())?;
        let opened = State::open(&setup, self.policy.clone()).map_err(|reject| reject.to_string())?;
        let (state, _) = opened.commit(|_| Ok::<_, ()>(())).unwrap();
        self.setups.insert(channel, setup);
        self.states.insert(channel, state);
        Ok(())
    }

    fn round(&mut self, id: u64, messages: Vec<Vec<u8>>) -> Vec<ToGateway> {
        match self.running.remove(&id) {
            Some(Running::Generating(generation, channel)) => {
                let [two, three] = &messages[..] else { panic!("two messages") };
                let KeyGenerationStep::Send(generation, last) = generation.next(two).unwrap() else {
                    panic!()
                };
                let KeyGenerationStep::Done(share) = generation.next(three).unwrap() else { panic!() };
                let funding_key = share.public_key();
                self.shares.insert(channel, share);
                let (basepoints, closing_script) =
                    (self.basepoints(&channel), self.enrolment.closing_script.clone());
                let answer = Answer::Key { channel, funding_key, basepoints, closing_script, last };
                vec![ToGateway::Answer { id, answer }]
            }
            Some(Running::Signing(round, number)) => {
                let [message] = &messages[..] else { panic!("one message") };
                match (round.next(message).unwrap(), number) {
                    (Step::SendLast(last), None) => vec![ToGateway::Round { id, messages: vec![last] }],
                    (Step::Wait(round), Some(number)) => {
                        self.running.insert(id, Running::Signing(Box::new(round), Some(number)));
                        Vec::new()
                    }
                    (Step::Signed(signature), Some(number)) => {
                        let channel = self.current.remove(&id).unwrap();
                        self.give(&channel, Input::HolderSigned { number, signature }).unwrap();
                        vec![ToGateway::Answer { id, answer: Answer::HolderComplete { number } }]
                    }
                    _ => panic!("one side finishes"),
                }
            }
            None => Vec::new(),
        }
    }
}
