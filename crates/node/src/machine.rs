//! What the driver needs to know of a state machine, so that one driver runs payers and payees alike.

use bitcoin::Transaction;
use farthing_protocol::channel::BadParams;
use farthing_protocol::keys::{KeyId, Seed};
use farthing_protocol::ledger::Ledger;
use farthing_protocol::lightspeed::Tab;
use farthing_protocol::sighting::Sighting;
use farthing_protocol::{Channel, Msat, Params, Transition, payee, payer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Which side of a channel this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Pays.
    Payer,
    /// Is paid.
    Payee,
    /// Either, in channels that carry cheques.
    Cheques,
}

impl Role {
    /// The role in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Payer => "payer",
            Self::Payee => "payee",
            Self::Cheques => "cheques",
        }
    }
}

/// A state machine, its setup, and how the setup is stored.
pub trait Machine: Send + 'static {
    /// What stays the same over a channel's life, with keys.
    type Setup: Send + Sync + 'static;
    /// The setup as it is stored: without keys, with their id.
    type Record: Serialize + DeserializeOwned + Clone + Send + 'static;
    /// What a record holds that is not in the setup. With very many channels, what is in both would be in memory twice.
    type Rest: Send + 'static;
    /// Where a channel stands.
    type State: Serialize + DeserializeOwned + Clone + Send + 'static;
    /// What can happen.
    type Input: Send + 'static;
    /// What is to be done.
    type Effect: Send + 'static;
    /// Why an input changed nothing.
    type Reject: std::error::Error + Clone + Send + Sync + 'static;

    /// The side.
    const ROLE: Role;

    /// Works out a setup from its record.
    ///
    /// # Errors
    /// When the stored parameters make no channel.
    fn setup(record: &Self::Record, seed: &Seed) -> Result<Self::Setup, BadParams>;

    /// What of a record is not in its setup.
    fn rest(record: Self::Record) -> Self::Rest;

    /// The record again.
    fn record(setup: &Self::Setup, rest: &Self::Rest) -> Self::Record;

    /// The channel in a setup.
    fn channel(setup: &Self::Setup) -> &Channel;

    /// Decides what an input does.
    ///
    /// # Errors
    /// When the input changes nothing.
    fn handle(
        state: &Self::State,
        setup: &Self::Setup,
        input: Self::Input,
    ) -> Result<Transition<Self::State, Self::Effect>, Self::Reject>;

    /// What a restart must do again.
    fn resume(state: &Self::State, setup: &Self::Setup) -> Vec<Self::Effect>;

    /// The channel's money as this side counts it.
    fn ledger(state: &Self::State) -> Ledger;

    /// The state in words.
    fn name(state: &Self::State) -> &'static str;

    /// Whether the channel needs to be watched: it has a funding that may be on chain, and is not over.
    fn is_live(state: &Self::State) -> bool;

    /// Whether it was live and is not any more: nothing that happens on the chain matters to it.
    fn is_ended(state: &Self::State) -> bool;

    /// The input for a look at the chain.
    fn sighted(sighting: Sighting) -> Self::Input;

    /// Whether nothing changes this state any more and nobody needs its setup: the channel stays on disk, and leaves the
    /// memory.
    fn is_over(_state: &Self::State) -> bool {
        false
    }

    /// What is said to an input for a channel that is over. To be there where [`Self::is_over`] is ever true.
    fn too_late() -> Option<Self::Reject> {
        None
    }

    /// Whether nothing was given for whatever is or could come to be in a channel, so that nothing is lost when it is forgotten as it stands.
    fn is_worthless(_state: &Self::State) -> bool {
        false
    }

    /// The least number of a chain of words whose rungs this state may still need. Those below it are deleted.
    fn least_chain(_state: &Self::State) -> u64 {
        0
    }
}

/// More than the number of any chain.
const NO_CHAIN: u64 = 1 << 32;

/// The payer's machine.
#[derive(Debug)]
pub enum Payer {}

/// A payer's setup as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PayerRecord {
    /// The agreement.
    pub params: Params,
    /// Which keys.
    pub key: KeyId,
    /// The signed funding transaction.
    pub funding: Transaction,
    /// How deep a spend must be.
    pub finality: u32,
    /// Where the payee is reached: the origin of its server.
    pub peer: String,
}

impl Machine for Payer {
    type Setup = payer::Setup;
    type Record = PayerRecord;
    type Rest = PayerRecord;
    type State = payer::State;
    type Input = payer::Input;
    type Effect = payer::Effect;
    type Reject = payer::Reject;

    const ROLE: Role = Role::Payer;

    fn setup(record: &PayerRecord, seed: &Seed) -> Result<payer::Setup, BadParams> {
        Ok(payer::Setup {
            channel: Channel::new(record.params.clone())?,
            keys: seed.channel_keys(record.key),
            funding: record.funding.clone(),
            finality: record.finality,
        })
    }

    fn rest(record: PayerRecord) -> PayerRecord {
        record
    }

    fn record(_setup: &payer::Setup, rest: &PayerRecord) -> PayerRecord {
        rest.clone()
    }

    fn channel(setup: &payer::Setup) -> &Channel {
        &setup.channel
    }

    fn handle(
        state: &payer::State,
        setup: &payer::Setup,
        input: payer::Input,
    ) -> Result<Transition<payer::State, payer::Effect>, payer::Reject> {
        state.handle(setup, input)
    }

    fn resume(state: &payer::State, setup: &payer::Setup) -> Vec<payer::Effect> {
        state.resume(setup)
    }

    fn ledger(state: &payer::State) -> Ledger {
        state.ledger()
    }

    fn name(state: &payer::State) -> &'static str {
        state.name()
    }

    fn is_live(state: &payer::State) -> bool {
        match state {
            payer::State::AwaitingAcceptance | payer::State::Abandoned | payer::State::Closed(_) => false,
            payer::State::AwaitingFunding(_)
            | payer::State::Open(_)
            | payer::State::Closing(_)
            | payer::State::Refunding(_) => true,
        }
    }

    fn is_ended(state: &payer::State) -> bool {
        matches!(state, payer::State::Closed(_))
    }

    fn sighted(sighting: Sighting) -> payer::Input {
        payer::Input::Sighted(sighting)
    }
}

/// The payee's machine.
#[derive(Debug)]
pub enum Payee {}

/// A payee's setup as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PayeeRecord {
    /// The agreement.
    pub params: Params,
    /// Which keys.
    pub key: KeyId,
    /// How careful the payee is in this channel.
    pub policy: payee::Policy,
}

impl Machine for Payee {
    type Setup = payee::Setup;
    type Record = PayeeRecord;
    type Rest = KeyId;
    type State = payee::State;
    type Input = payee::Input;
    type Effect = payee::Effect;
    type Reject = payee::Reject;

    const ROLE: Role = Role::Payee;

    fn setup(record: &PayeeRecord, seed: &Seed) -> Result<payee::Setup, BadParams> {
        Ok(payee::Setup {
            channel: Channel::new(record.params.clone())?,
            keys: seed.channel_keys(record.key),
            policy: record.policy,
        })
    }

    fn rest(record: PayeeRecord) -> KeyId {
        record.key
    }

    fn record(setup: &payee::Setup, key: &KeyId) -> PayeeRecord {
        PayeeRecord { params: setup.channel.params().clone(), key: *key, policy: setup.policy }
    }

    fn channel(setup: &payee::Setup) -> &Channel {
        &setup.channel
    }

    fn handle(
        state: &payee::State,
        setup: &payee::Setup,
        input: payee::Input,
    ) -> Result<Transition<payee::State, payee::Effect>, payee::Reject> {
        state.handle(setup, input)
    }

    fn resume(state: &payee::State, setup: &payee::Setup) -> Vec<payee::Effect> {
        state.resume(setup)
    }

    fn ledger(state: &payee::State) -> Ledger {
        state.ledger()
    }

    fn name(state: &payee::State) -> &'static str {
        state.name()
    }

    fn is_live(state: &payee::State) -> bool {
        match state {
            payee::State::Closed(_) => false,
            payee::State::AwaitingDepth(_)
            | payee::State::Open(_)
            | payee::State::ClosingTogether(_)
            | payee::State::ClosingAlone(_) => true,
        }
    }

    fn is_ended(state: &payee::State) -> bool {
        !Self::is_live(state)
    }

    fn sighted(sighting: Sighting) -> payee::Input {
        payee::Input::Sighted(sighting)
    }

    fn is_over(state: &payee::State) -> bool {
        !Self::is_live(state)
    }

    fn too_late() -> Option<payee::Reject> {
        Some(payee::Reject::NotOpen("closed"))
    }

    /// Nothing was given for whatever was paid: anybody can sign payments out of a funding that will never be. Calls are paid for only where the
    /// funding was seen.
    fn is_worthless(state: &payee::State) -> bool {
        state.is_unfunded() && state.tab().is_none() && state.ledger().spent == Msat::ZERO
    }

    /// A word is checked against the chain that it is of and the one after it; those before are paid out, and the best rung is
    /// in the state with its word and its signature. What closes has that too; its chains go only when it is over, all the
    /// same: nothing is gained by haste.
    fn least_chain(state: &payee::State) -> u64 {
        match state {
            payee::State::AwaitingDepth(_)
            | payee::State::Open(_)
            | payee::State::ClosingTogether(_)
            | payee::State::ClosingAlone(_) => {
                state.tab().and_then(Tab::newest_word).map_or(0, |(chain, ..)| chain.into())
            }
            payee::State::Closed(_) => NO_CHAIN,
        }
    }
}

/// What the watcher looks for on the chain.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The channel.
    pub id: farthing_protocol::ChannelId,
    /// Its funding outpoint.
    pub outpoint: bitcoin::OutPoint,
    /// The scripts of the two parties' wallets.
    pub parties: [bitcoin::ScriptBuf; 2],
}
