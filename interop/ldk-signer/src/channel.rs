//! One channel of a device: the device's machine, the gateway's desk, and a joint round wherever a signature is asked for. What the
//! gateway's clerk does over a connection, request by request, is done here at once, within LDK's call.

use std::sync::{Arc, Mutex, MutexGuard};

use bitcoin::{Amount, OutPoint, ScriptBuf, Transaction, Txid};
use farthing_gateway::ledger::{Ledger, NoSuchState, Outline};
use farthing_gateway::records::ChannelKeys;
use farthing_gateway::shelf::{Shelf, ShelfError};
use farthing_gateway::signer::desk::{BridgeSignatures, Desk, Order, ToValidate};
use farthing_node::cabinet::Cabinet;
use farthing_protocol::Msat;
use farthing_protocol::device::bolt3::closing::Closing;
use farthing_protocol::device::bolt3::{
    Basepoints, Commitment, CommitmentNumber, Contents, Digest, PartyTerms, Side, Terms, fees,
};
use farthing_protocol::device::joint::{Failure, Task};
use farthing_protocol::device::machine::Publication;
use farthing_protocol::device::payments::Source;
use farthing_protocol::device::setup::BadTerms;
use farthing_protocol::device::wire::MOST_POINTS;
use farthing_protocol::device::{Effect, Input, Proposal, Reject, Setup, State, Tip};
use lightning::ln::chan_utils::{ChannelTransactionParameters, CommitmentTransaction};
use secp256k1::{SecretKey, ecdsa};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::owner::OWNER;
use crate::report::{self, Help};
use crate::shares::Shares;
use crate::wire::lock;

/// LDK's own, of both ends.
const DUST_LIMIT: Amount = Amount::from_sat(354);
/// No header is shown to the device: it believes that it is at the very beginning.
const TIP: Tip = Tip { height: 0, time: 0 };

/// Why the device did not do what LDK asked for.
#[derive(Debug, thiserror::Error)]
pub enum Obstacle {
    /// A rule of the device's.
    #[error(transparent)]
    Refused(#[from] Reject),
    /// The terms of the channel.
    #[error(transparent)]
    Terms(#[from] BadTerms),
    /// What LDK shows a signer does not say what is in the commitment.
    #[error("no-such-state: {0}")]
    State(#[from] NoSuchState),
    /// The joint round.
    #[error("joint-round: {0}")]
    Round(#[from] Failure),
    /// The desk's storage.
    #[error("storage: {0}")]
    Shelf(#[from] ShelfError),
    /// What the device publishes is not what LDK would.
    #[error("other-publication: {0}")]
    Publication(&'static str),
    /// LDK names no terms.
    #[error("no-terms: the channel has no funding yet")]
    NoTerms,
}

/// A device's channel, and its gateway's half.
pub struct Channel {
    /// Its public keys.
    pub keys: ChannelKeys,
    /// Where LDK's signer leaves orders and finds answers.
    pub desk: Arc<Desk>,
    books: Mutex<Books>,
}

struct Books {
    id: [u8; 32],
    closing_script: ScriptBuf,
    shares: Shares,
    terms: Option<Terms>,
    device: Option<(Setup, State)>,
    ledger: Ledger,
    /// What the bridge was given at the opening.
    gift: Msat,
    /// How many of the bridge's signatures were handed in.
    heard: u64,
    published: Vec<Publication>,
}

impl Channel {
    /// A new channel with fresh keys, whose closing pays that script.
    pub fn new(id: [u8; 32], closing_script: ScriptBuf, cabinet: &Arc<Cabinet>) -> Result<Self, Obstacle> {
        let shares = Shares::generate(id);
        let device = OWNER.device.channel_keys(&id);
        let enrolment = OWNER.enrolment(closing_script.clone());
        let basepoints = Basepoints {
            payment: enrolment.payment,
            delayed_payment: enrolment.delayed_payment,
            htlc: device.htlc_basepoint(),
            revocation: device.revocation_basepoint(),
        };
        let funding_key = shares.public_key();
        let keys =
            ChannelKeys { channel: id, funding_key, basepoints, closing_script: closing_script.clone() };
        let desk = Desk::open(id, Shelf::new(cabinet.clone(), "suite"), Arc::default())?;
        let books = Books {
            id,
            closing_script,
            shares,
            terms: None,
            device: None,
            ledger: Ledger::default(),
            gift: Msat::ZERO,
            heard: 0,
            published: Vec::new(),
        };
        let channel = Self { keys, desk, books: Mutex::new(books) };
        channel.more_points()?;
        report::opened();
        Ok(channel)
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        lock(&self.books)
    }

    /// Gives LDK further points of the device's.
    pub fn more_points(&self) -> Result<(), Obstacle> {
        let (from, _) = self.desk.points_left();
        let keys = OWNER.device.channel_keys(&self.keys.channel);
        let numbers = (from.get()..from.get() + u64::from(MOST_POINTS)).map(number);
        let points: Vec<_> = numbers.map(|number| keys.point(number)).collect();
        Ok(self.desk.add_points(from, &points)?)
    }

    /// LDK shows the channel's terms.
    pub fn learn_terms(&self, parameters: &ChannelTransactionParameters) {
        let mut books = self.books();
        let (Some(theirs), Some(funding)) =
            (&parameters.counterparty_parameters, parameters.funding_outpoint)
        else {
            return;
        };
        let keys = &theirs.pubkeys;
        books.terms = Some(Terms {
            funding: OutPoint { txid: funding.txid, vout: u32::from(funding.index) },
            capacity: Amount::from_sat(parameters.channel_value_satoshis),
            holder: PartyTerms {
                funding_key: self.keys.funding_key,
                basepoints: self.keys.basepoints,
                dust_limit: DUST_LIMIT,
                delay: theirs.selected_contest_delay,
            },
            bridge: PartyTerms {
                funding_key: keys.funding_pubkey,
                basepoints: Basepoints {
                    payment: keys.payment_point,
                    delayed_payment: keys.delayed_payment_basepoint.to_public_key(),
                    htlc: keys.htlc_basepoint.to_public_key(),
                    revocation: keys.revocation_basepoint.to_public_key(),
                },
                dust_limit: DUST_LIMIT,
                delay: parameters.holder_selected_contest_delay,
            },
        });
    }

    /// The funding output, once LDK has shown it.
    pub fn funding(&self) -> Option<lightning::chain::transaction::OutPoint> {
        let terms = self.books().terms?;
        let index = u16::try_from(terms.funding.vout).ok()?;
        Some(lightning::chain::transaction::OutPoint { txid: terms.funding.txid, index })
    }

    /// LDK's first state of the bridge: it says what the bridge was given.
    pub fn learn_gift(&self, first: &CommitmentTransaction) {
        let mut books = self.books();
        let Some(terms) = books.terms else { return };
        let rate = u64::from(first.negotiated_feerate_per_kw());
        let fee = fees::fee(bitcoin::FeeRate::from_sat_per_kwu(rate), fees::commitment_weight(0)).to_sat();
        // A signer sees whole satoshi, each side's rounded down.
        let missing = terms.capacity.to_sat().saturating_sub(first.to_countersignatory_value_sat() + fee);
        let shown = first.to_broadcaster_value_sat();
        books.gift = match (missing, shown) {
            // The suite's usual 10,001 msat, too little for an output.
            (11, 0) => Msat::new(10_001),
            (missing, shown) if shown > 0 && missing > shown => Msat::new(shown * 1_000 + 1),
            (missing, _) => Msat::new(missing * 1_000),
        };
        if books.gift > Msat::ZERO {
            report::help(Help::Gift);
        }
    }

    /// How many of the bridge's signatures on our commitments were handed to LDK's signer; sets it.
    pub fn heard(&self, now: Option<u64>) -> u64 {
        let mut books = self.books();
        if let Some(now) = now {
            books.heard = now;
        }
        books.heard
    }

    /// Does everything that LDK ordered, in order. What is refused stays, and so does all that comes after it.
    pub fn serve(&self) -> Result<(), Obstacle> {
        let mut books = self.books();
        while let Some(order) = self.desk.next(|_| true) {
            books.carry_out(&self.desk, order)?;
        }
        Ok(())
    }

    /// Has the owner approve what LDK pays with that commitment of the bridge's. The device checks the rest.
    pub fn approve(&self, outline: &Outline) -> Result<(), Obstacle> {
        let mut books = self.books();
        if outline.number > CommitmentNumber::FIRST {
            books.fund(&self.desk)?;
        }
        let known = books.ledger.newest(Side::Bridge).map(|newest| newest.htlcs.clone()).unwrap_or_default();
        let ours = outline.htlcs.iter().filter(|htlc| htlc.offered_by == Side::Holder);
        for htlc in ours.filter(|htlc| !known.contains(htlc)) {
            let input = Input::Approve { invoice: OWNER.invoice(htlc), source: Source::Direct, tip: TIP };
            // A hash that was approved before is not approved again; whether it may be paid is for the machine to say.
            if let Err(Obstacle::Refused(refused)) = books.give(input) {
                report::remark(&refused.to_string());
            }
        }
        Ok(())
    }

    /// The device closes alone, with that commitment, and its part in it comes back.
    pub fn close(&self, number: CommitmentNumber, txid: Txid) -> Result<Transaction, Obstacle> {
        self.books().publish(&self.desk, number, txid)
    }

    /// A copy of the device does: the device itself goes on as if nothing had happened. So does a thief with a copy, or an owner who
    /// restores an old backup.
    pub fn close_copy(&self, number: CommitmentNumber, txid: Txid) -> Result<Transaction, Obstacle> {
        let mut books = self.books();
        books.fund(&self.desk)?;
        let kept = (books.ledger.clone(), books.device.as_ref().map(|(_, state)| state.clone()));
        let closed = books.publish(&self.desk, number, txid);
        books.ledger = kept.0;
        if let (Some((_, state)), Some(kept)) = (&mut books.device, kept.1) {
            *state = kept;
        }
        report::help(Help::Copy);
        closed
    }

    /// What the device published of second stages.
    pub fn second_stage(&self, txid: Txid) -> Option<Transaction> {
        let books = self.books();
        let mut all = books.published.iter().flat_map(|published| &published.htlc_timeouts);
        all.find(|transaction| transaction.compute_txid() == txid).cloned()
    }

    /// The key that neither half has, for what LNGate never signs.
    pub fn joint_secret(&self) -> SecretKey {
        self.books().shares.joint_secret()
    }
}

impl Books {
    fn carry_out(&mut self, desk: &Desk, order: Order) -> Result<(), Obstacle> {
        match order {
            Order::SignBridge(outline) => {
                self.open()?;
                if outline.number > CommitmentNumber::FIRST {
                    self.fund(desk)?;
                } else if self.gift > Msat::ZERO {
                    self.put_in_bridge(&outline);
                }
                let proposal = self.propose(Side::Bridge, &outline)?;
                let digest = self.digest(Side::Bridge, &proposal, &outline)?;
                let input = Input::SignBridge { proposal, point: outline.point, tip: TIP };
                let Some(Effect::SignBridge { task, htlc_signatures: htlcs, .. }) = self.give(input)? else {
                    unreachable!("the machine signs or refuses")
                };
                let commitment = self.sign(&task, digest)?;
                report::bridge_signed(htlcs.len());
                desk.signed(outline.number, outline.txid, BridgeSignatures { commitment, htlcs });
            }
            Order::Revoke(number) => {
                self.fund(desk)?;
                let next = number.next().unwrap_or(number);
                self.validate(desk, next)?;
                for validated in desk.unvalidated(next) {
                    desk.validated(validated.outline.number);
                }
                let mut effect = self.give(Input::Revoke { number })?;
                if let Some(Effect::Erase(number)) = effect {
                    // Nothing of it is on a disk here.
                    effect = self.give(Input::Erased { number })?;
                }
                let Some(Effect::Reveal { number, secret }) = effect else {
                    unreachable!("the machine reveals or refuses")
                };
                report::revealed();
                desk.revealed(number, secret);
            }
            Order::BridgeRevoked(number, secret) => {
                self.give(Input::BridgeRevoked { number, secret })?;
                desk.took_bridge_secret(number);
            }
            Order::CloseTogether(settlement, txid) => {
                let terms = self.terms.ok_or(Obstacle::NoTerms)?;
                let closing = Closing::build(&terms, &settlement);
                if closing.txid() != txid {
                    return Err(Obstacle::Publication("LDK's closing is another"));
                }
                let Some(Effect::SignClosing(task)) = self.give(Input::CloseTogether(settlement))? else {
                    unreachable!("the machine signs or refuses")
                };
                let signature = self.sign(&task, closing.digest())?;
                desk.closed(txid, signature);
            }
            Order::CloseAlone => desk.published(),
            // What the bridge published is the suite's own to watch.
            Order::BringHome => desk.brought_home(),
        }
        Ok(())
    }

    /// Lets the machine decide, as `node` does: what comes of it is released when the next state is kept.
    fn give(&mut self, input: Input) -> Result<Option<Effect>, Obstacle> {
        let (setup, state) = self.device.as_mut().ok_or(Obstacle::NoTerms)?;
        let transition = state.handle(setup, input)?;
        let Ok((next, effects)) = transition.commit(|_| Ok::<_, std::convert::Infallible>(()));
        *state = next;
        Ok(effects.into_iter().next())
    }

    fn open(&mut self) -> Result<(), Obstacle> {
        if self.device.is_some() {
            return Ok(());
        }
        let terms = self.terms.ok_or(Obstacle::NoTerms)?;
        let enrolment = OWNER.enrolment(self.closing_script.clone());
        let keys = OWNER.device.channel_keys(&self.id);
        let setup = Setup::new(enrolment, keys, terms, self.shares.public_key(), Amount::ZERO)?;
        let Ok((state, _)) =
            State::open(&setup, OWNER.policy())?.commit(|_| Ok::<_, std::convert::Infallible>(()));
        self.device = Some((setup, state));
        Ok(())
    }

    /// The device says that the funding may be signed, once its first state is complete.
    fn fund(&mut self, desk: &Desk) -> Result<(), Obstacle> {
        let (_, state) = self.device.as_ref().ok_or(Obstacle::NoTerms)?;
        if !matches!(state, State::Opening(_)) {
            return Ok(());
        }
        self.validate(desk, CommitmentNumber::FIRST)?;
        desk.validated(CommitmentNumber::FIRST);
        self.give(Input::Fund)?;
        Ok(())
    }

    fn propose(&mut self, side: Side, outline: &Outline) -> Result<Proposal, Obstacle> {
        let terms = self.terms.ok_or(Obstacle::NoTerms)?;
        // HTLCs without an output are known to LDK's node only, not to its signers.
        Ok(self.ledger.propose(&terms, side, outline, None)?)
    }

    /// What the gateway signs, by its own building.
    fn digest(&self, side: Side, proposal: &Proposal, outline: &Outline) -> Result<Digest, Obstacle> {
        let terms = self.terms.ok_or(Obstacle::NoTerms)?;
        let Proposal { number, fee_rate, to_holder, to_bridge, htlcs, .. } = proposal.clone();
        let contents = Contents { number, point: outline.point, fee_rate, to_holder, to_bridge, htlcs };
        Ok(Commitment::build(&terms, side, &contents).digest())
    }

    fn sign(&mut self, task: &Task, digest: Digest) -> Result<ecdsa::Signature, Obstacle> {
        let signature = self.shares.sign(task, digest)?;
        report::joint_signature();
        Ok(signature.0)
    }

    /// Has every commitment of ours up to that one completed.
    fn validate(&mut self, desk: &Desk, up_to: CommitmentNumber) -> Result<(), Obstacle> {
        for ToValidate { outline, signature, htlc_signatures } in desk.unvalidated(up_to) {
            if self.ledger.newest(Side::Holder).is_some_and(|newest| newest.number > outline.number) {
                continue;
            }
            if outline.number == CommitmentNumber::FIRST && self.gift > Msat::ZERO {
                self.put_in_holder(&outline, signature);
            }
            let proposal = self.propose(Side::Holder, &outline)?;
            let digest = self.digest(Side::Holder, &proposal, &outline)?;
            let input = Input::ValidateHolder { proposal, signature, htlc_signatures };
            if let Some(Effect::SignHolder { number, task }) = self.give(input)? {
                let signature = self.shares.sign(&task, digest)?;
                report::joint_signature();
                self.give(Input::HolderSigned { number, signature })?;
                report::holder_complete();
            }
        }
        Ok(())
    }

    fn publish(
        &mut self,
        desk: &Desk,
        number: CommitmentNumber,
        txid: Txid,
    ) -> Result<Transaction, Obstacle> {
        self.fund(desk)?;
        self.validate(desk, number)?;
        let Some(Effect::Publish(publication)) = self.give(Input::CloseAlone)? else {
            return Err(Obstacle::Publication("the device has nothing to publish"));
        };
        let commitment = publication.commitment.clone();
        self.published.push(*publication);
        match commitment.compute_txid() == txid {
            true => Ok(commitment),
            false => Err(Obstacle::Publication("the device publishes another state")),
        }
    }

    /// The first state of a channel that begins with a gift. The device refuses such a channel, and the gateway's ledger knows of none,
    /// so it is written into the books of both; then all else is asked of them as always.
    fn first(&self, outline: &Outline) -> Contents {
        let capacity = self.terms.and_then(|terms| Msat::from_amount(terms.capacity)).unwrap_or_default();
        Contents {
            number: CommitmentNumber::FIRST,
            point: outline.point,
            fee_rate: outline.fee_rate,
            to_holder: Msat::new(capacity.get().saturating_sub(self.gift.get())),
            to_bridge: self.gift,
            htlcs: Vec::new(),
        }
    }

    fn put_in_bridge(&mut self, outline: &Outline) {
        let contents = json(&self.first(outline));
        self.ledger = edited(&self.ledger, |ledger| ledger["bridge"] = contents.clone());
        if let Some((_, state @ State::Opening(_))) = &mut self.device {
            *state = edited(state, |state| state["Opening"]["account"]["bridge"]["newest"] = contents);
        }
    }

    fn put_in_holder(&mut self, outline: &Outline, signature: ecdsa::Signature) {
        let contents = json(&self.first(outline));
        self.ledger = edited(&self.ledger, |ledger| ledger["holder"] = contents.clone());
        let commitment = serde_json::json!({
            "contents": contents,
            "bridge_signature": signature,
            "htlc_signatures": [],
            "joint_signature": null,
        });
        if let Some((_, state @ State::Opening(_))) = &mut self.device {
            *state = edited(state, |state| state["Opening"]["account"]["holder"]["newest"] = commitment);
        }
    }
}

fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("it has a form as JSON")
}

fn edited<T: Serialize + DeserializeOwned>(value: &T, edit: impl FnOnce(&mut Value)) -> T {
    let mut value = json(value);
    edit(&mut value);
    serde_json::from_value(value).expect("only contents of the same kind were put in")
}

/// A commitment's number, counted up.
pub fn number(number: u64) -> CommitmentNumber {
    CommitmentNumber::try_from(number).expect("the suite makes few commitments")
}
