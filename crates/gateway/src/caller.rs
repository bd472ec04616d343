//! Asks a device over its connection: numbers requests, matches answers, and takes the gateway's part in joint rounds.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use farthing_protocol::device::Finisher;
use farthing_protocol::device::bolt3::{CommitmentNumber, Digest};
use farthing_protocol::device::joint::{Failure, GatewayShare as _, JointSignature, Round as _, Step};
use farthing_protocol::device::wire::{Answer, ChannelKeysId, Report, Request, ToDevice, round_id};
use farthing_threshold::{Gateway, KeyGeneration, KeyGenerationStep, Share};
use secp256k1::ecdsa;
use tokio::sync::mpsc;

use crate::records::ChannelKeys;

/// Why a device did not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// It is not connected any more. The request is made again when it comes back.
    #[error("the device is not connected")]
    Gone,
    /// A rule of the device's forbids it.
    #[error("the device refused: {why}")]
    Refused {
        /// The rule.
        rule: String,
        /// In words.
        why: String,
    },
    /// A joint round ended without a result. It may be tried again.
    #[error("the round was interrupted: {0}")]
    Interrupted(String),
    /// The device cheated in a joint round: its share is banned.
    #[error("the device cheated: {0}")]
    Cheated(String),
    /// An answer to another question.
    #[error("the device gave an answer of another kind")]
    OutOfTurn,
}

impl From<Failure> for CallError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Cheated(why) => Self::Cheated(why),
            other => Self::Interrupted(other.to_string()),
        }
    }
}

/// What comes back for a request.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one is under way at a time, and it is taken apart at once")]
pub enum Reply {
    /// The answer.
    Answer(Answer),
    /// The device's next messages of the round.
    Round(Vec<Vec<u8>>),
}

/// One connection to a device.
pub struct Caller {
    out: mpsc::UnboundedSender<ToDevice>,
    connection: [u8; 32],
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, mpsc::UnboundedSender<Reply>>>,
}

/// A request that was sent.
struct Pending<'a> {
    caller: &'a Caller,
    id: u64,
    replies: mpsc::UnboundedReceiver<Reply>,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.caller.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Pending<'_> {
    async fn reply(&mut self) -> Result<Reply, CallError> {
        match self.replies.recv().await {
            Some(Reply::Answer(Answer::Refused { rule, why })) => Err(CallError::Refused { rule, why }),
            Some(Reply::Answer(Answer::Interrupted)) => Err(CallError::Interrupted("at the device".into())),
            Some(reply) => Ok(reply),
            None => Err(CallError::Gone),
        }
    }

    async fn answer(&mut self) -> Result<Answer, CallError> {
        match self.reply().await? {
            Reply::Answer(answer) => Ok(answer),
            Reply::Round(_) => Err(CallError::OutOfTurn),
        }
    }

    async fn round<const N: usize>(&mut self) -> Result<[Vec<u8>; N], CallError> {
        match self.reply().await? {
            Reply::Round(messages) => messages.try_into().map_err(|_| CallError::OutOfTurn),
            Reply::Answer(_) => Err(CallError::OutOfTurn),
        }
    }

    fn send_round(&self, messages: Vec<Vec<u8>>) -> Result<(), CallError> {
        self.caller.send(ToDevice::Round { id: self.id, messages })
    }
}

impl Caller {
    /// Over that connection, whose handshake has that hash.
    pub fn new(out: mpsc::UnboundedSender<ToDevice>, connection: [u8; 32]) -> Self {
        Self { out, connection, next: AtomicU64::new(1), waiting: Mutex::default() }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&self, message: ToDevice) -> Result<(), CallError> {
        self.out.send(message).map_err(|_| CallError::Gone)
    }

    /// Tells the device what became of an order.
    pub fn report(&self, id: u64, report: Report) {
        // A device that is gone asks again when it is back.
        let _gone = self.send(ToDevice::Report { id, report });
    }

    /// Hands in what came for a request. What nobody waits for is dropped.
    pub fn take(&self, id: u64, reply: Reply) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = waiting.get(&id) {
            let _nobody = waiting.send(reply);
        }
    }

    /// The connection has ended: nobody waits any longer.
    pub fn hang_up(&self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn begin(&self) -> Pending<'_> {
        let id = self.next.fetch_add(1, Ordering::SeqCst);
        let (sender, replies) = mpsc::unbounded_channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, sender);
        Pending { caller: self, id, replies }
    }

    fn request(&self, pending: &Pending<'_>, channel: [u8; 32], request: Request) -> Result<(), CallError> {
        self.send(ToDevice::Request { id: pending.id, channel: ChannelKeysId(channel), request })
    }

    /// Asks what needs no round.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn ask(&self, channel: [u8; 32], request: Request) -> Result<Answer, CallError> {
        let mut pending = self.begin();
        self.request(&pending, channel, request)?;
        pending.answer().await
    }

    /// Has something signed that the gateway finishes. Gives the joint signature and the device's own.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn sign(
        &self,
        channel: [u8; 32],
        share: &Share<Gateway>,
        digest: Digest,
        request: impl FnOnce(Vec<u8>) -> Request,
    ) -> Result<(ecdsa::Signature, Vec<ecdsa::Signature>), CallError> {
        let mut pending = self.begin();
        let id = round_id(&self.connection, pending.id);
        let (round, first) = share.start(id, digest.to_bytes(), Finisher::Gateway)?;
        self.request(&pending, channel, request(first))?;
        let (htlc_signatures, [one, two]) = signing(pending.answer().await?)?;
        let Step::Send(round, second) = round.next(&one)? else { return Err(CallError::OutOfTurn) };
        pending.send_round(vec![second])?;
        let Step::Wait(round) = round.next(&two)? else { return Err(CallError::OutOfTurn) };
        let [three] = pending.round().await?;
        match round.next(&three)? {
            Step::Signed(JointSignature(signature)) => Ok((signature, htlc_signatures)),
            Step::Send(..) | Step::SendLast(_) | Step::Wait(_) => Err(CallError::OutOfTurn),
        }
    }

    /// Helps the device to complete a holder commitment. The gateway never has the signature.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn complete(
        &self,
        channel: [u8; 32],
        share: &Share<Gateway>,
        digest: Digest,
        number: CommitmentNumber,
        request: impl FnOnce(Vec<u8>) -> Request,
    ) -> Result<(), CallError> {
        let mut pending = self.begin();
        let id = round_id(&self.connection, pending.id);
        let (round, first) = share.start(id, digest.to_bytes(), Finisher::Device)?;
        self.request(&pending, channel, request(first))?;
        let messages = match pending.answer().await? {
            // It was complete already.
            Answer::HolderComplete { number: got } if got == number => return Ok(()),
            other => signing(other)?.1,
        };
        let [one, two] = messages;
        let Step::Send(round, second) = round.next(&one)? else { return Err(CallError::OutOfTurn) };
        let Step::SendLast(third) = round.next(&two)? else { return Err(CallError::OutOfTurn) };
        pending.send_round(vec![second, third])?;
        match pending.answer().await? {
            Answer::HolderComplete { number: got } if got == number => Ok(()),
            _other => Err(CallError::OutOfTurn),
        }
    }

    /// Makes a key with the device, for a channel to come.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn generate_key(&self) -> Result<(ChannelKeys, Share<Gateway>), CallError> {
        let mut pending = self.begin();
        let id = round_id(&self.connection, pending.id);
        let (generation, first) = KeyGeneration::<Gateway>::start(id);
        self.send(ToDevice::GenerateKey { id: pending.id, first })?;
        let [one, two] = pending.round().await?;
        let (generation, second) = next_step(generation.next(&one)?)?;
        let (generation, third) = next_step(generation.next(&two)?)?;
        pending.send_round(vec![second, third])?;
        let Answer::Key { channel, funding_key, basepoints, closing_script, last } = pending.answer().await?
        else {
            return Err(CallError::OutOfTurn);
        };
        let KeyGenerationStep::Done(share) = generation.next(&last)? else {
            return Err(CallError::OutOfTurn);
        };
        if share.public_key() != funding_key {
            return Err(CallError::Interrupted("the two sides have different keys".into()));
        }
        Ok((ChannelKeys { channel: channel.0, funding_key, basepoints, closing_script }, share))
    }
}

fn signing(answer: Answer) -> Result<(Vec<ecdsa::Signature>, [Vec<u8>; 2]), CallError> {
    match answer {
        Answer::Signing { htlc_signatures, messages } => {
            let messages = messages.try_into().map_err(|_| CallError::OutOfTurn)?;
            Ok((htlc_signatures, messages))
        }
        _other => Err(CallError::OutOfTurn),
    }
}

fn next_step(step: KeyGenerationStep<Gateway>) -> Result<(KeyGeneration<Gateway>, Vec<u8>), CallError> {
    match step {
        KeyGenerationStep::Send(generation, message) => Ok((*generation, message)),
        KeyGenerationStep::Done(_) => Err(CallError::OutOfTurn),
    }
}
