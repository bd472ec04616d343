//! One connection to the gateway, without IO: what it asks, what is answered, and the joint rounds in between.
//!
//! Rounds live here, in memory, and end with the connection: nothing of them is stored, and after a restart the gateway asks again
//! and a new round begins, under another id. Their memory is given back without being wiped; a program that is to hide from who can read
//! its memory does not belong on such a machine.

use std::collections::BTreeMap;

use bitcoin::Transaction;
use farthing_protocol::device::bolt3::CommitmentNumber;
use farthing_protocol::device::joint::{DeviceShare as _, Failure, Round as _, Step, Task};
use farthing_protocol::device::kept::Kept;
use farthing_protocol::device::machine::Publication;
use farthing_protocol::device::setup::FundingStatement;
use farthing_protocol::device::wire::{
    Answer, ChannelKeysId, Hello, MOST_POINTS, Order, Report, Request, ToDevice, ToGateway, Welcome, round_id,
};
use farthing_protocol::device::{Effect, Input};
use farthing_threshold::{Device as DeviceSide, KeyGeneration, KeyGenerationStep, SigningRound};
use secp256k1::ecdsa;

use super::{Device, GiveError, MOST_CHANNELS, MOST_READY};
use crate::store::StoreError;

/// How many rounds run at once on a connection: a payment has two under way at most.
const MOST_RUNNING: usize = 16;

/// What comes out of a message.
#[expect(clippy::large_enum_variant, reason = "one message at a time is in memory")]
#[derive(Debug)]
pub enum Said {
    /// Send this to the gateway.
    Send(ToGateway),
    /// Have the owner's store acknowledge this. Nothing that comes after it may be sent before: the connection ends instead.
    Keep(Box<Kept>),
    /// The gateway greets.
    Welcome(Welcome),
    /// What became of an order.
    Report(u64, Report),
    /// The owner's wallet may sign the funding of this channel.
    Funded(ChannelKeysId, FundingStatement),
    /// Bring these into blocks through a node of the owner's. The channel is being closed.
    Publish(ChannelKeysId, Box<Publication>),
    /// By the gateway's word the bridge has closed this channel. These bring what was under way in it back, or take what it may not have;
    /// the gateway was given them.
    ClosedByBridge(ChannelKeysId, Vec<Transaction>),
    /// The gateway's request broke a rule. It was told.
    Refused {
        /// The rule's name.
        rule: String,
        /// In words.
        why: String,
    },
}

/// One connection.
pub struct Session {
    connection: [u8; 32],
    orders: u64,
    running: BTreeMap<u64, Running>,
    /// The highest number of a request that began a round on this connection.
    last_round: u64,
}

enum Running {
    Keys(Box<KeyGeneration<DeviceSide>>),
    Signing { channel: ChannelKeysId, round: Box<SigningRound<DeviceSide>>, holder: Option<CommitmentNumber> },
}

impl Running {
    /// Whose share it uses.
    fn channel(&self) -> Option<ChannelKeysId> {
        match self {
            Self::Keys(_) => None,
            Self::Signing { channel, .. } => Some(*channel),
        }
    }
}

/// What is said and done about one request.
type Outcome = Result<Vec<Said>, Failed>;

enum Failed {
    Give(GiveError),
    Round(ChannelKeysId, Failure),
    /// The gateway's number for a round is not new: after this one only higher numbers are.
    Number(u64),
}

impl From<GiveError> for Failed {
    fn from(error: GiveError) -> Self {
        Self::Give(error)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Give(error.into())
    }
}

impl Session {
    /// A new connection with that name, and the first thing to say.
    pub fn begin(device: &Device, connection: [u8; 32]) -> (Self, ToGateway) {
        let (network, tip) = (device.enrolled().enrolment.network, device.headers().newest());
        let hello = Hello { network, tip, channels: device.standings() };
        (Self { connection, orders: 0, running: BTreeMap::new(), last_round: 0 }, ToGateway::Hello(hello))
    }

    /// An order, and its number in the reports about it.
    pub fn order(&mut self, order: Order) -> (u64, ToGateway) {
        self.orders += 1;
        (self.orders, ToGateway::Order { id: self.orders, order })
    }

    /// Takes a message. `now` is the device's own clock, in seconds since 1970: it only guards against blocks from the future.
    ///
    /// # Errors
    /// When the disk fails: then nothing was said, and the connection is to be ended.
    pub fn take(
        &mut self,
        device: &mut Device,
        message: ToDevice,
        now: u64,
    ) -> Result<Vec<Said>, StoreError> {
        let (id, outcome) = match message {
            ToDevice::Welcome(welcome) => return Ok(vec![Said::Welcome(welcome)]),
            ToDevice::Report { id, report } => return Ok(vec![Said::Report(id, report)]),
            ToDevice::Headers(headers) => {
                if let Err(bad) = device.extend(&headers, now)? {
                    tracing::warn!("the gateway's headers are not taken: {bad}");
                }
                return Ok(Vec::new());
            }
            ToDevice::GenerateKey { id, first } => (id, self.generate(device, id, &first)),
            ToDevice::Request { id, channel, request } => (id, self.request(device, id, channel, request)),
            ToDevice::Round { id, messages } => (id, self.advance(device, id, messages)),
        };
        match outcome {
            Ok(said) => Ok(said),
            Err(Failed::Give(GiveError::Store(error))) => Err(error),
            Err(Failed::Give(error)) => Ok(refused(id, &error.to_string())),
            Err(Failed::Number(last)) => {
                Ok(refused(id, &format!("round-number: a round {id} after round {last}: none is repeated")))
            }
            Err(Failed::Round(channel, Failure::Cheated(why))) => {
                // No other round of that share goes on: each could be another try.
                self.running.retain(|_, running| running.channel() != Some(channel));
                cheated(device, id, channel, &why)
            }
            Err(Failed::Round(_, failure)) => {
                tracing::debug!("round {id}: {failure}");
                Ok(answer(id, Answer::Interrupted))
            }
        }
    }

    fn generate(&mut self, device: &Device, id: u64, first: &[u8]) -> Outcome {
        if device.ready() >= MOST_READY || device.standings().len() >= MOST_CHANNELS {
            let why = format!(
                "keys-ready: {MOST_READY} keys without a channel are enough, and {MOST_CHANNELS} channels"
            );
            return Ok(refused(id, &why));
        }
        self.check_number(id)?;
        self.last_round = id;
        let (generation, ours) = KeyGeneration::<DeviceSide>::start(round_id(&self.connection, id));
        match generation.next(first) {
            Ok(KeyGenerationStep::Send(generation, second)) => {
                self.run(id, Running::Keys(generation));
                Ok(vec![Said::Send(ToGateway::Round { id, messages: vec![ours, second] })])
            }
            // No key comes of it, so even a cheat costs nothing but this attempt.
            Ok(KeyGenerationStep::Done(_)) | Err(_) => Ok(answer(id, Answer::Interrupted)),
        }
    }

    fn request(&mut self, device: &mut Device, id: u64, channel: ChannelKeysId, request: Request) -> Outcome {
        let tip = device.headers().tip();
        let (input, first) = match request {
            Request::Points { from, count } => {
                let points =
                    device.points(channel, from, count.min(MOST_POINTS)).ok_or(GiveError::Unknown)?;
                return Ok(answer(id, Answer::Points(points)));
            }
            Request::Open(terms) => {
                device.begin(channel, terms)?;
                return Ok(answer(id, Answer::Done));
            }
            Request::BridgeRevoked { number, secret } => {
                device.give(channel, Input::BridgeRevoked { number, secret })?;
                return Ok(answer(id, Answer::Done));
            }
            Request::SignBridge { proposal, point, first } => {
                (Input::SignBridge { proposal, point, tip }, Some(first))
            }
            Request::ValidateHolder { proposal, signature, htlc_signatures, first } => {
                (Input::ValidateHolder { proposal, signature, htlc_signatures }, Some(first))
            }
            Request::CloseTogether { settlement, first } => (Input::CloseTogether(settlement), Some(first)),
            Request::Revoke { number } => (Input::Revoke { number }, None),
            Request::Fund => (Input::Fund, None),
            Request::CloseAlone => (Input::CloseAlone, None),
            Request::TakeBack { commitment, fee_rate } => (Input::TakeBack { commitment, fee_rate }, None),
            Request::Punish(mut revoked) => {
                revoked.htlcs.extend(device.htlcs_of_revoked(channel, &revoked.commitment)?);
                (Input::Punish(revoked), None)
            }
        };
        if first.is_some() {
            self.check_number(id)?;
        }
        let effects = device.give(channel, input)?;
        self.carry_out(device, id, channel, effects, first.as_deref().unwrap_or_default())
    }

    /// A number names a round ([`round_id`]), and two rounds of one name would give the engine's secrets away: what it makes for a
    /// name is fresh only once.
    fn check_number(&self, id: u64) -> Result<(), Failed> {
        if id > self.last_round { Ok(()) } else { Err(Failed::Number(self.last_round)) }
    }

    /// Each request has one effect; a closing alone may have none, when there is nothing to publish.
    fn carry_out(
        &mut self,
        device: &mut Device,
        id: u64,
        channel: ChannelKeysId,
        effects: Vec<Effect>,
        first: &[u8],
    ) -> Outcome {
        let mut said = Vec::new();
        for effect in effects {
            if effect.awaits_store() {
                said.extend(device.to_keep(channel).map(|kept| Said::Keep(Box::new(kept))));
            }
            match effect {
                Effect::SignBridge { task, htlc_signatures, .. } => {
                    said.extend(self.sign(device, id, channel, &task, None, htlc_signatures, first)?);
                }
                Effect::SignHolder { number, task } => {
                    said.extend(self.sign(device, id, channel, &task, Some(number), Vec::new(), first)?);
                }
                Effect::SignClosing(task) => {
                    said.extend(self.sign(device, id, channel, &task, None, Vec::new(), first)?);
                }
                Effect::HolderComplete(number) => said.extend(answer(id, Answer::HolderComplete { number })),
                Effect::Erase(number) => {
                    let effects = device.erase(channel, number)?;
                    said.extend(self.carry_out(device, id, channel, effects, first)?);
                }
                Effect::Reveal { number, secret } => {
                    said.extend(answer(id, Answer::Secret { number, secret }))
                }
                Effect::Fund(statement) => {
                    said.extend(answer(id, Answer::Fund(statement.clone())));
                    said.push(Said::Funded(channel, statement));
                }
                Effect::Publish(publication) => {
                    let commitment = std::iter::once(&publication.commitment);
                    let transactions = commitment.chain(&publication.htlc_timeouts).cloned().collect();
                    said.extend(answer(id, Answer::Transactions(transactions)));
                    said.push(Said::Publish(channel, publication));
                }
                Effect::Broadcast(transactions) => {
                    said.extend(answer(id, Answer::Transactions(transactions.clone())));
                    said.push(Said::ClosedByBridge(channel, transactions));
                }
                // The program that gave the invoice sends the order to pay it.
                Effect::Approved(_) => {}
            }
        }
        if said.is_empty() {
            return Ok(answer(id, Answer::Transactions(Vec::new())));
        }
        Ok(said)
    }

    /// The device's first two messages of a round over what its machine released. They go one by one: the gateway begins to answer the first
    /// while the second is still on its way.
    #[expect(clippy::too_many_arguments, reason = "a round is named by all of these")]
    fn sign(
        &mut self,
        device: &Device,
        id: u64,
        channel: ChannelKeysId,
        task: &Task,
        holder: Option<CommitmentNumber>,
        htlc_signatures: Vec<ecdsa::Signature>,
        first: &[u8],
    ) -> Result<[Said; 2], Failed> {
        let failed = |failure| Failed::Round(channel, failure);
        let share = device.share(channel).ok_or(GiveError::Unknown)?;
        self.last_round = id;
        let (round, ours) = share.start(round_id(&self.connection, id), task).map_err(failed)?;
        let Step::Send(round, second) = round.next(first).map_err(failed)? else {
            return Err(failed(Failure::Interrupted("a round of another length".to_owned())));
        };
        self.run(id, Running::Signing { channel, round: Box::new(round), holder });
        let answer = Answer::Signing { htlc_signatures, first: ours };
        let second = ToGateway::Round { id, messages: vec![second] };
        Ok([Said::Send(ToGateway::Answer { id, answer }), Said::Send(second)])
    }

    fn advance(&mut self, device: &mut Device, id: u64, messages: Vec<Vec<u8>>) -> Outcome {
        match self.running.remove(&id) {
            None => Ok(answer(id, Answer::Interrupted)),
            Some(Running::Keys(generation)) => finish_keys(device, id, generation, messages),
            Some(Running::Signing { channel, round, holder }) => {
                self.advance_signing(device, id, channel, *round, holder, messages)
            }
        }
    }

    fn advance_signing(
        &mut self,
        device: &mut Device,
        id: u64,
        channel: ChannelKeysId,
        mut round: SigningRound<DeviceSide>,
        holder: Option<CommitmentNumber>,
        messages: Vec<Vec<u8>>,
    ) -> Outcome {
        for message in messages {
            match (round.next(&message).map_err(|failure| Failed::Round(channel, failure))?, holder) {
                // The gateway finishes: this side has done its part.
                (Step::SendLast(last), None) => {
                    return Ok(vec![Said::Send(ToGateway::Round { id, messages: vec![last] })]);
                }
                (Step::Signed(signature), Some(number)) => {
                    let effects = device.give(channel, Input::HolderSigned { number, signature })?;
                    return self.carry_out(device, id, channel, effects, &[]);
                }
                (Step::Wait(next), Some(_)) => round = next,
                // Not in this order, or by the wrong side: nothing leaves.
                (Step::SendLast(_), Some(_))
                | (Step::Signed(_), None)
                | (Step::Wait(_), None)
                | (Step::Send(..), _) => return Ok(answer(id, Answer::Interrupted)),
            }
        }
        self.run(id, Running::Signing { channel, round: Box::new(round), holder });
        Ok(Vec::new())
    }

    /// The oldest rounds give way: the gateway that began more cannot want them any more.
    fn run(&mut self, id: u64, running: Running) {
        self.running.insert(id, running);
        while self.running.len() > MOST_RUNNING {
            self.running.pop_first();
        }
    }
}

fn finish_keys(
    device: &mut Device,
    id: u64,
    generation: Box<KeyGeneration<DeviceSide>>,
    messages: Vec<Vec<u8>>,
) -> Outcome {
    let interrupted = || Ok(answer(id, Answer::Interrupted));
    let [second, third] = &messages[..] else { return interrupted() };
    let Ok(KeyGenerationStep::Send(generation, last)) = generation.next(second) else { return interrupted() };
    let Ok(KeyGenerationStep::Done(share)) = generation.next(third) else { return interrupted() };
    let funding_key = share.public_key();
    let channel = device.keep(share)?;
    let basepoints = device.basepoints(channel);
    let closing_script = device.enrolled().enrolment.closing_script.clone();
    Ok(answer(id, Answer::Key { channel, funding_key, basepoints, closing_script, last }))
}

fn cheated(device: &mut Device, id: u64, channel: ChannelKeysId, why: &str) -> Result<Vec<Said>, StoreError> {
    tracing::error!("the gateway cheated in a joint round; the channel is closed: {why}");
    let effects = match device.give(channel, Input::GatewayCheated) {
        Ok(effects) => effects,
        Err(GiveError::Store(error)) => return Err(error),
        Err(_nothing_to_close) => Vec::new(),
    };
    let mut said = refused(id, &format!("joint-honest: {why}"));
    for effect in effects {
        if let Effect::Publish(publication) = effect {
            said.push(Said::Publish(channel, publication));
        }
    }
    Ok(said)
}

fn answer(id: u64, answer: Answer) -> Vec<Said> {
    vec![Said::Send(ToGateway::Answer { id, answer })]
}

/// A refusal begins with its rule's name.
fn refused(id: u64, text: &str) -> Vec<Said> {
    let rule = text.split(':').next().unwrap_or_default().to_owned();
    let why = text.to_owned();
    let said = Answer::Refused { rule: rule.clone(), why: why.clone() };
    vec![Said::Send(ToGateway::Answer { id, answer: said }), Said::Refused { rule, why }]
}
