//! Channels that carry cheques: offered and accepted by the side that is paid, proposed by the side that pays.

use bitcoin::{Amount, OutPoint, ScriptBuf};
use farthing_chain::ChainError;
use farthing_protocol::channel::{BadParams, Expiry};
use farthing_protocol::cheque::drawer;
use farthing_protocol::cheque::drawn::Kind;
use farthing_protocol::cheque::holder;
use farthing_protocol::cheque::side::{Effect, Setup, Side};
use farthing_protocol::keys::KeyId;
use farthing_protocol::opening::{Offer, Opening, Refusal, bounds};
use farthing_protocol::payee::{self, Policy};
use farthing_protocol::payer;
use farthing_protocol::{Channel, ChannelId, Params, Party};
use secp256k1::schnorr;

use super::machine::{ChequeChannel, DrawerRecord, HolderRecord, Record, paying};
use super::{Failed, Teller, now};
use crate::entropy;
use crate::machine::Machine as _;
use crate::store::Write;
use crate::waiting::{self, NoRoom, Room};
use crate::wallet::{Wallet, WalletError};

/// How long a payee may take to accept a channel that it has asked for, in seconds, before its coins are free again.
const TIME_TO_ACCEPT: u64 = 600;

/// Why no channel came about. Nothing is locked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The parameters make no channel.
    #[error(transparent)]
    BadParams(#[from] BadParams),
    /// A term that one side does not allow, or a signature that does not fit.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The output that is to fund it is another one.
    #[error("{0} is there already, and is not the output that this channel asks for")]
    OtherOutput(OutPoint),
    /// Too many openings that nobody funded.
    #[error("{0} channels wait for a funding that nobody has seen; try again later")]
    TooManyUnfunded(usize),
    /// Too much is locked towards payees.
    #[error("{locked} are locked towards payees, and no more than {most} may be: try again later")]
    TooMuchLocked {
        /// What is.
        locked: Amount,
        /// What may be.
        most: Amount,
    },
    /// Too little money, mostly.
    #[error(transparent)]
    Wallet(#[from] WalletError),
    /// The node cannot be asked.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// Not stored.
    #[error(transparent)]
    Order(#[from] Failed),
}

/// What a channel towards a payee is for. Each needs the opposite order of expiries, so no pair of channels serves both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The payee cashes cheques: the channel ends before those of their writers.
    Cheques,
    /// Payers that the payee has authorised add to it: it ends after theirs.
    Authorised,
}

/// What the side that pays decides about a channel.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it locks.
    pub capacity: Amount,
    /// The expiry's height.
    pub expiry: u32,
    /// What its promises are for.
    pub kind: Kind,
    /// Where the payee is reached, if it serves.
    pub peer: Option<String>,
}

impl Teller {
    /// An offer with fresh keys. It costs no state, so anybody may ask for one.
    pub fn offer(&self) -> (Offer, KeyId) {
        let key = KeyId::from_entropy(entropy::bytes());
        let keys = self.seed.channel_keys(key);
        let output = self.output.lock().expect("no holder of this lock panics").clone();
        let terms = self.terms.paid;
        let offer = Offer {
            network: self.seed.network(),
            payee: Party { funding: keys.funding(), session: keys.session(), output },
            capacity: terms.capacity,
            fee_rate: terms.fee_rate,
            lifetime: terms.lifetime,
            margin: terms.margin,
            confirmations: terms.confirmations,
        };
        (offer, key)
    }

    /// Accepts an opening under an offer of this program's: the caller has checked that the offer is its own. The same
    /// opening again gets the same answer. Blocks.
    ///
    /// # Errors
    /// When the opening breaks the offer's terms, or could not be stored.
    pub fn accept(
        &self,
        offer: &Offer,
        key: KeyId,
        opening: Opening,
        peer: Option<String>,
    ) -> Result<(ChannelId, schnorr::Signature), OpenError> {
        let channel = Channel::new(opening.params.clone())?;
        let id = channel.id();
        let _one_at_a_time = self.openings.lock().expect("no holder of this lock panics");
        if let Some(setup) = self.books.setup(&id)
            && let Setup::Holder(setup) = &*setup
        {
            return Ok((id, signature(payee::acceptance(setup))));
        }
        offer.check(&opening.params, self.chain.tip()?.height)?;
        if waiting::is_another_output(&self.chain, &channel)? {
            return Err(OpenError::OtherOutput(opening.params.funding));
        }
        let terms = self.terms.paid;
        let room = Room { most: terms.most_unfunded, time_to_fund: terms.time_to_fund };
        let is_unfunded = |state: &Side| state.holder().is_some_and(|holder| holder.life().is_unfunded());
        room.make(&self.books, &self.chain, is_unfunded).map_err(|error| match error {
            NoRoom::Full(waiting) => OpenError::TooManyUnfunded(waiting),
            NoRoom::Chain(error) => OpenError::Chain(error),
            NoRoom::Order(error) => OpenError::Order(error),
        })?;
        let policy = Policy {
            confirmations: offer.confirmations.required(opening.params.capacity),
            unconfirmed_cap: terms.unconfirmed_cap,
            margin: offer.margin,
            patience: terms.patience,
            finality: terms.finality,
        };
        let record = Record::Holder(Box::new(HolderRecord { params: opening.params, key, policy, peer }));
        let setup = ChequeChannel::setup(&record, &self.seed)?;
        let Setup::Holder(paid) = &setup else { unreachable!("made of a holder's record") };
        let transition = Side::accept(paid, &opening.signature)?;
        let outcome = self.books.add_blocking(record, setup, transition, Vec::new())?;
        self.change_output()?;
        self.watch.look_now();
        let accepted = outcome.effects.into_iter().find_map(|effect| match effect {
            Effect::Holder(holder::Effect::Channel(effect @ payee::Effect::Accept(_))) => Some(effect),
            Effect::Holder(_) | Effect::Drawer(_) => None,
        });
        Ok((id, signature(accepted.expect("an opening that was stored is to be answered"))))
    }

    /// The acceptance of a channel again, for a payer that may not have got it.
    pub fn acceptance(&self, id: ChannelId) -> Option<schnorr::Signature> {
        match &*self.books.setup(&id)? {
            Setup::Holder(setup) => Some(signature(payee::acceptance(setup))),
            Setup::Drawer(_) => None,
        }
    }

    /// Gives up proposals that nobody has accepted: those that were `cut_short` when this program ended, or all that are older
    /// than [`TIME_TO_ACCEPT`]. Their funding was never broadcast, so their coins are free again. Blocks.
    ///
    /// # Errors
    /// When that cannot be stored.
    pub(super) fn give_up_proposals(&self, cut_short: bool) -> Result<(), Failed> {
        for entry in self.books.present_blocking()? {
            let is_old = waiting::is_late(entry.opened_at, now(), TIME_TO_ACCEPT);
            match entry.state.drawer().map(|drawer| drawer.life()) {
                Some(payer::State::AwaitingAcceptance)
                    if is_old || (cut_short && entry.record.peer().is_some()) =>
                {
                    self.refused(entry.id)?;
                }
                Some(payer::State::Abandoned) => self.forget(entry.id)?,
                Some(
                    payer::State::AwaitingAcceptance
                    | payer::State::AwaitingFunding(_)
                    | payer::State::Open(_)
                    | payer::State::Closing(_)
                    | payer::State::Refunding(_)
                    | payer::State::Closed(_),
                )
                | None => {}
            }
        }
        Ok(())
    }

    /// Proposes a channel: builds and signs the funding, keeps it back, and stores the proposal with the coins it takes. Nothing
    /// is locked until [`Self::accepted`]. Blocks.
    ///
    /// # Errors
    /// When a term is out of bounds or there is too little money.
    pub fn propose(&self, offer: &Offer, plan: Plan) -> Result<(ChannelId, Opening), OpenError> {
        let height = self.chain.tip()?.height;
        let now = self.fee_rate()?;
        let limits = &self.terms.paying;
        let fee_rate = limits.choose_fee_rate(offer, now);
        let key = KeyId::from_entropy(entropy::bytes());
        let keys = self.seed.channel_keys(key);
        let mut wallet = self.wallet.lock().expect("no holder of this lock panics");
        // Not before: what is proposed meanwhile would not be there.
        let withheld = waiting::withheld(&self.books, |state: &Side| {
            state.drawer().is_some_and(|drawer| waiting::is_kept_back(drawer.life()))
        })?;
        let output = wallet.new_address().script_pubkey();
        let mut params = Params {
            network: self.seed.network(),
            funding: OutPoint::null(),
            capacity: plan.capacity,
            expiry: Expiry::at_height(plan.expiry),
            fee_rate,
            prepaid: Offer::prepaid(fee_rate),
            payer: Party { funding: keys.funding(), session: keys.session(), output },
            payee: offer.payee.clone(),
        };
        offer.check(&params, height)?;
        limits.check(offer, &params, height)?;
        bounds(
            "the fee rate of the moment in sat/kwu",
            now.to_sat_per_kwu(),
            (0, limits.fee_rate.1.to_sat_per_kwu()),
        )?;
        let funding_output = Channel::new(params.clone())?.funding_txout();
        let script = funding_output.script_pubkey.clone();
        let funding = wallet.pay(script, plan.capacity, now, &withheld)?;
        let vout = funding.output.iter().position(|output| *output == funding_output);
        let vout = vout.expect("the wallet pays what it was asked to") as u32;
        let outpoint = OutPoint { txid: funding.compute_txid(), vout };
        params.funding = outpoint;
        let finality = self.terms.finality;
        let record = DrawerRecord { params, key, funding, finality, peer: plan.peer };
        let record = Record::Drawer(Box::new(record));
        let setup = ChequeChannel::setup(&record, &self.seed)?;
        let id = setup.channel().id();
        let Setup::Drawer(payer) = &setup else { unreachable!("made of a drawer's record") };
        let transition = Side::propose(payer, plan.kind);
        let writes: Vec<Write> = wallet.staged().into_iter().collect();
        match self.books.add_blocking(record, setup, transition, writes) {
            Ok(outcome) => {
                wallet.saved();
                Ok((id, proposed(outcome.effects)))
            }
            Err(error) => {
                // Nothing was stored, so nobody will ever broadcast this funding.
                wallet.release(outpoint.txid);
                Err(error.into())
            }
        }
    }

    /// Proposes a channel to a payee that asked for one, over its offer. Blocks.
    ///
    /// # Errors
    /// When too much is locked towards payees already, or as [`Self::propose`].
    pub fn propose_onward(
        &self,
        offer: &Offer,
        least: Amount,
        latest: u32,
        direction: Direction,
    ) -> Result<(ChannelId, Opening), OpenError> {
        let _one_at_a_time = self.openings.lock().expect("no holder of this lock panics");
        self.give_up_proposals(false)?;
        // Those that nobody has accepted yet take coins, too.
        let towards = |state: &Side, record: &Record| {
            let is_onward = state.drawer().is_some_and(|drawer| drawer.drawn().kind() == Kind::Lock);
            let is_counted = state.is_live() || state.name() == "awaiting acceptance";
            (is_onward && is_counted && record.peer().is_none()).then(|| record.params().capacity)
        };
        let entries = self.books.present_blocking()?;
        let locked: Amount = entries.iter().filter_map(|entry| towards(&entry.state, &entry.record)).sum();
        let capacity = offer.capacity.0.max(self.terms.onward.0).max(least);
        bounds(
            "the capacity in satoshi",
            capacity.to_sat(),
            (self.terms.onward.0.to_sat(), self.terms.onward.1.to_sat()),
        )?;
        let most = self.terms.most_onward;
        if locked + capacity > most {
            return Err(OpenError::TooMuchLocked { locked, most });
        }
        let height = self.chain.tip()?.height;
        let longest = height.saturating_add(offer.lifetime.1.min(self.terms.paying.most_lifetime));
        let longest = match direction {
            // No lock could be made in one that ends later than this.
            Direction::Cheques => {
                let behind =
                    entries.iter().filter(|entry| entry.state.is_live() && entry.state.holder().is_some());
                let behind = behind.map(|entry| entry.record.params().expiry.height()).max();
                longest.min(behind.unwrap_or(height).saturating_sub(self.terms.delta))
            }
            Direction::Authorised => longest,
        };
        let plan = Plan { capacity, expiry: latest.min(longest), kind: Kind::Lock, peer: None };
        self.propose(offer, plan)
    }

    /// The payee accepted: the funding is broadcast. Blocks.
    ///
    /// # Errors
    /// When the acceptance is not the payee's signature, or could not be stored. Then nothing is broadcast.
    pub fn accepted(&self, id: ChannelId, signature: schnorr::Signature) -> Result<(), Failed> {
        let outcome = self.books.handle_blocking(id, paying(payer::Input::Accepted(signature)))?;
        self.carry_out(id, outcome.effects);
        Ok(())
    }

    /// The payee refused: the coins are free again, and nothing is left of the channel. Too late, it changes nothing. Blocks.
    ///
    /// # Errors
    /// When it could not be stored.
    pub fn refused(&self, id: ChannelId) -> Result<(), Failed> {
        self.books.handle_blocking(id, paying(payer::Input::Refused))?;
        self.forget(id)
    }

    /// Forgets a channel that its payer has given up before it funded it. Whether it did: not one that holds anything. Blocks.
    ///
    /// # Errors
    /// When it could not be stored.
    pub fn forget_unfunded(&self, id: ChannelId) -> Result<bool, Failed> {
        let state = self.books.state_blocking(id)?;
        let is_unfunded =
            state.as_ref().and_then(Side::holder).is_some_and(|holder| holder.life().is_unfunded());
        if is_unfunded { self.books.forget_blocking(id) } else { Ok(false) }
    }

    /// Forgets a proposal that was given up: anybody may ask an agent for channels that it never accepts. First its coins are released:
    /// what the wallet has paid, and no channel is known for, is broadcast again. One that was accepted meanwhile is none: its funding is out.
    fn forget(&self, id: ChannelId) -> Result<(), Failed> {
        let state = self.books.state_blocking(id)?;
        let life = state.as_ref().and_then(Side::drawer).map(|drawer| drawer.life());
        let (Some(payer::State::Abandoned), Some(setup)) = (life, self.books.setup(&id)) else {
            return Ok(());
        };
        {
            let mut wallet = self.wallet.lock().expect("no holder of this lock panics");
            wallet.release(setup.channel().params().funding.txid);
            wallet.save(|write| self.books.write_blocking(vec![write]))?;
        }
        self.books.forget_blocking(id)?;
        Ok(())
    }

    /// The next channel gets another output, for the payee's privacy.
    fn change_output(&self) -> Result<(), OpenError> {
        let mut wallet = self.wallet.lock().expect("no holder of this lock panics");
        let output = new_output(&mut wallet, |write| self.books.write_blocking(vec![write]))?;
        *self.output.lock().expect("no holder of this lock panics") = output;
        Ok(())
    }
}

/// An output that was never used.
pub(super) fn new_output<E>(
    wallet: &mut Wallet,
    write: impl FnOnce(Write) -> Result<(), E>,
) -> Result<ScriptBuf, E> {
    let output = wallet.new_address().script_pubkey();
    wallet.save(write)?;
    Ok(output)
}

fn signature(effect: payee::Effect) -> schnorr::Signature {
    let payee::Effect::Accept(signature) = effect else { unreachable!("it was asked for") };
    signature
}

fn proposed(effects: Vec<Effect>) -> Opening {
    let opening = effects.into_iter().find_map(|effect| match effect {
        Effect::Drawer(drawer::Effect::Channel(payer::Effect::Propose(opening))) => Some(*opening),
        Effect::Holder(_) | Effect::Drawer(_) => None,
    });
    opening.expect("a proposal that was stored is to be sent")
}
