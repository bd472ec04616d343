//! Asks a device over its connection: numbers requests, matches answers, and takes the gateway's part in joint rounds.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use farthing_protocol::device::Finisher;
use farthing_protocol::device::bolt3::{CommitmentNumber, Digest};
use farthing_protocol::device::joint::{Failure, GatewayShare as _, JointSignature, Round as _, Step};
use farthing_protocol::device::wire::{Answer, ChannelKeysId, Report, Request, ToDevice, round_id};
use farthing_threshold::{Gateway, KeyGeneration, KeyGenerationStep, Share};
use secp256k1::ecdsa;
use tokio::sync::{Notify, mpsc};

use crate::records::ChannelKeys;

/// How many replies to one request may come before the first is taken: a round has one at a time.
const MOST_REPLIES: usize = 4;

/// How many messages to a device wait in memory. One that reads none while it asks for more is let go: what it is told would fill the memory.
pub const MOST_UNREAD: usize = 256;
/// When so many wait, what can wait is not read for it yet.
const CROWDED: usize = 16;

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

/// Who waits for replies, by the number of the request.
type Waiting = Arc<Mutex<HashMap<u64, mpsc::Sender<Reply>>>>;

/// One connection to a device.
pub struct Caller {
    out: mpsc::Sender<ToDevice>,
    connection: [u8; 32],
    next: AtomicU64,
    waiting: Waiting,
    is_over: AtomicBool,
    over: Notify,
}

/// A request that was sent.
pub struct Pending {
    out: mpsc::Sender<ToDevice>,
    waiting: Waiting,
    id: u64,
    replies: mpsc::Receiver<Reply>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Pending {
    async fn reply(&mut self) -> Result<Reply, CallError> {
        match self.replies.recv().await {
            Some(Reply::Answer(Answer::Refused { rule, why })) => Err(CallError::Refused { rule, why }),
            Some(Reply::Answer(Answer::Interrupted)) => Err(CallError::Interrupted("at the device".into())),
            Some(reply) => Ok(reply),
            None => Err(CallError::Gone),
        }
    }

    /// Waits for the answer. May be cancelled at any time: an answer that came is not lost.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn answer(&mut self) -> Result<Answer, CallError> {
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

    /// A round goes on only while there is room: a device that answers has read what came before.
    fn send_round(&self, messages: Vec<Vec<u8>>) -> Result<(), CallError> {
        self.out.try_send(ToDevice::Round { id: self.id, messages }).map_err(|_| CallError::Gone)
    }
}

impl Caller {
    /// Over that connection, whose handshake has that hash.
    pub fn new(out: mpsc::Sender<ToDevice>, connection: [u8; 32]) -> Self {
        let (next, waiting) = (AtomicU64::new(1), Waiting::default());
        Self { out, connection, next, waiting, is_over: AtomicBool::new(false), over: Notify::new() }
    }

    /// Sends a message. A device that has left too many unread is let go.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&self, message: ToDevice) -> Result<(), CallError> {
        if self.is_over.load(Ordering::SeqCst) {
            return Err(CallError::Gone);
        }
        self.out.try_send(message).map_err(|not_sent| {
            if let mpsc::error::TrySendError::Full(_) = not_sent {
                tracing::info!("a device that reads nothing is let go");
                self.hang_up();
            }
            CallError::Gone
        })
    }

    /// Whether what can wait should: the device has not read what it was sent.
    pub(crate) fn is_crowded(&self) -> bool {
        self.out.max_capacity() - self.out.capacity() >= CROWDED
    }

    /// Tells the device what became of an order.
    pub fn report(&self, id: u64, report: Report) {
        // A device that is gone asks again when it is back.
        let _gone = self.send(ToDevice::Report { id, report });
    }

    /// Hands in what came for a request. What nobody waits for is dropped. A device that says more than it was asked is not listened to
    /// any longer: replies that are waited for later would fill the memory.
    pub fn take(&self, id: u64, reply: Reply) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        if let Some(waiting) = waiting
            && let Err(mpsc::error::TrySendError::Full(_)) = waiting.try_send(reply)
        {
            self.hang_up();
        }
    }

    /// The connection is over, be it that it ended or that the device has a newer one: nothing is asked over it any more, nobody waits any
    /// longer, and no round over it goes on. Else a device could bring rounds of one share to the same point on many connections, and
    /// cheat in all of them before the first is seen to be a cheat.
    pub fn hang_up(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.over.notify_one();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Waits until [`Self::hang_up`]. For the session alone.
    pub(crate) async fn ended(&self) {
        self.over.notified().await;
    }

    fn begin(&self) -> Pending {
        let id = self.next.fetch_add(1, Ordering::SeqCst);
        let (sender, replies) = mpsc::channel(MOST_REPLIES);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_over.load(Ordering::SeqCst) {
            waiting.insert(id, sender);
        }
        drop(waiting);
        Pending { out: self.out.clone(), waiting: self.waiting.clone(), id, replies }
    }

    fn request(&self, pending: &Pending, channel: [u8; 32], request: Request) -> Result<(), CallError> {
        self.send(ToDevice::Request { id: pending.id, channel: ChannelKeysId(channel), request })
    }

    /// Asks what needs no round.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn ask(&self, channel: [u8; 32], request: Request) -> Result<Answer, CallError> {
        self.begin_to_ask(channel, request)?.answer().await
    }

    /// The same, but the answer is waited for later. The device carries out what it is asked for in order.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn begin_to_ask(&self, channel: [u8; 32], request: Request) -> Result<Pending, CallError> {
        let pending = self.begin();
        self.request(&pending, channel, request)?;
        Ok(pending)
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
        let (htlc_signatures, one) = signing(pending.answer().await?)?;
        let Step::Send(round, second) = round.next(&one)? else { return Err(CallError::OutOfTurn) };
        pending.send_round(vec![second])?;
        let [two] = pending.round().await?;
        let Step::Wait(round) = round.next(&two)? else { return Err(CallError::OutOfTurn) };
        let [three] = pending.round().await?;
        match round.next(&three)? {
            Step::Signed(JointSignature(signature)) => Ok((signature, htlc_signatures)),
            Step::Send(..) | Step::SendLast(_) | Step::Wait(_) => Err(CallError::OutOfTurn),
        }
    }

    /// Helps the device to complete a holder commitment. The gateway never has the signature. What may be asked for next goes right
    /// behind the last messages of the round, without waiting for the word that it is complete: the device takes one after the other,
    /// and refuses what is asked too early. Gives the answer to it.
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
        then: Option<Request>,
    ) -> Result<Option<Answer>, CallError> {
        let mut pending = self.begin();
        let id = round_id(&self.connection, pending.id);
        let (round, first) = share.start(id, digest.to_bytes(), Finisher::Device)?;
        self.request(&pending, channel, request(first))?;
        let ask_then = || then.map(|then| self.begin_to_ask(channel, then)).transpose();
        let following = match pending.answer().await? {
            // It was complete already.
            Answer::HolderComplete { number: got } if got == number => ask_then()?,
            other => {
                let (_, one) = signing(other)?;
                let Step::Send(round, second) = round.next(&one)? else { return Err(CallError::OutOfTurn) };
                pending.send_round(vec![second])?;
                let [two] = pending.round().await?;
                let Step::SendLast(third) = round.next(&two)? else { return Err(CallError::OutOfTurn) };
                pending.send_round(vec![third])?;
                let following = ask_then()?;
                match pending.answer().await? {
                    Answer::HolderComplete { number: got } if got == number => following,
                    _other => return Err(CallError::OutOfTurn),
                }
            }
        };
        match following {
            Some(mut following) => following.answer().await.map(Some),
            None => Ok(None),
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

/// The device's signatures on second stages, and its first message of the round.
fn signing(answer: Answer) -> Result<(Vec<ecdsa::Signature>, Vec<u8>), CallError> {
    match answer {
        Answer::Signing { htlc_signatures, first } => Ok((htlc_signatures, first)),
        _other => Err(CallError::OutOfTurn),
    }
}

fn next_step(step: KeyGenerationStep<Gateway>) -> Result<(KeyGeneration<Gateway>, Vec<u8>), CallError> {
    match step {
        KeyGenerationStep::Send(generation, message) => Ok((*generation, message)),
        KeyGenerationStep::Done(_) => Err(CallError::OutOfTurn),
    }
}
