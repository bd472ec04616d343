//! What the books need to know of a channel that carries cheques.

use std::sync::Arc;

use bitcoin::Transaction;
use farthing_protocol::channel::BadParams;
use farthing_protocol::cheque::side::{Effect, Input, Reject, Setup, Side};
use farthing_protocol::cheque::{drawer, holder};
use farthing_protocol::keys::{KeyId, Seed};
use farthing_protocol::ledger::Ledger;
use farthing_protocol::payee::Policy;
use farthing_protocol::sighting::Sighting;
use farthing_protocol::{Channel, Params, Transition, payee, payer};
use serde::{Deserialize, Serialize};

use crate::machine::{Machine, Payee, PayeeRecord, Payer, PayerRecord, Role};
use crate::watch::{OnChain, Watchable};

/// A channel that carries cheques, whichever side this program is.
#[derive(Debug)]
pub enum ChequeChannel {}

/// Its setup as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Record {
    /// Of the side that is paid.
    Holder(Box<HolderRecord>),
    /// Of the side that pays.
    Drawer(Box<DrawerRecord>),
}

/// A holder's setup as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HolderRecord {
    /// The agreement.
    pub params: Params,
    /// Which keys.
    pub key: KeyId,
    /// How careful the holder is.
    pub policy: Policy,
    /// Where the payer is reached, if it serves: the origin of its server.
    pub peer: Option<String>,
}

/// A drawer's setup as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DrawerRecord {
    /// The agreement.
    pub params: Params,
    /// Which keys.
    pub key: KeyId,
    /// The signed funding transaction.
    pub funding: Transaction,
    /// How deep a spend must be.
    pub finality: u32,
    /// Where the payee is reached, if it serves: the origin of its server.
    pub peer: Option<String>,
}

impl Record {
    /// The agreement.
    pub fn params(&self) -> &Params {
        match self {
            Self::Holder(record) => &record.params,
            Self::Drawer(record) => &record.params,
        }
    }

    /// Where the other side is reached, if it serves.
    pub fn peer(&self) -> Option<&str> {
        match self {
            Self::Holder(record) => record.peer.as_deref(),
            Self::Drawer(record) => record.peer.as_deref(),
        }
    }
}

impl Machine for ChequeChannel {
    type Setup = Setup;
    type Record = Record;
    type Rest = Record;
    type State = Side;
    type Input = Input;
    type Effect = Effect;
    type Reject = Reject;

    const ROLE: Role = Role::Cheques;

    fn setup(record: &Record, seed: &Seed) -> Result<Setup, BadParams> {
        Ok(match record {
            Record::Holder(record) => {
                let HolderRecord { params, key, policy, peer: _ } = &**record;
                let record = PayeeRecord { params: params.clone(), key: *key, policy: *policy };
                Setup::Holder(Arc::new(Payee::setup(&record, seed)?))
            }
            Record::Drawer(record) => {
                let DrawerRecord { params, key, funding, finality, peer: _ } = (**record).clone();
                let record = PayerRecord { params, key, funding, finality, peer: String::new() };
                Setup::Drawer(Arc::new(Payer::setup(&record, seed)?))
            }
        })
    }

    fn rest(record: Record) -> Record {
        record
    }

    fn record(_setup: &Setup, rest: &Record) -> Record {
        rest.clone()
    }

    fn channel(setup: &Setup) -> &Channel {
        setup.channel()
    }

    fn handle(state: &Side, setup: &Setup, input: Input) -> Result<Transition<Side, Effect>, Reject> {
        state.handle(setup, input)
    }

    fn resume(state: &Side, setup: &Setup) -> Vec<Effect> {
        state.resume(setup)
    }

    fn ledger(state: &Side) -> Ledger {
        state.ledger()
    }

    fn name(state: &Side) -> &'static str {
        state.name()
    }

    fn is_live(state: &Side) -> bool {
        state.is_live()
    }

    fn is_ended(state: &Side) -> bool {
        match state {
            Side::Drawer(drawer) => Payer::is_ended(drawer.life()),
            Side::Holder(holder) => Payee::is_ended(holder.life()),
        }
    }

    fn sighted(sighting: Sighting) -> Input {
        Input::Sighted(sighting)
    }

    /// A channel in which this side was paid, closed, with nothing left to say to its payer or to hear of another channel. Strangers can have
    /// any number of them: over outputs that are in the chain and fund none.
    fn is_over(state: &Side) -> bool {
        state.holder().is_some_and(|holder| Payee::is_over(holder.life()) && is_idle(holder))
    }

    fn too_late() -> Option<Reject> {
        Payee::too_late().map(|reject| Reject::Holder(reject.into()))
    }

    /// A proposal that was given up, or an opening that nobody funded, and for whose payments and promises nothing was given; not even this
    /// side's word that it holds one no more, or the same opening could come again with that very promise.
    fn is_worthless(state: &Side) -> bool {
        match state {
            Side::Drawer(drawer) => matches!(drawer.life(), payer::State::Abandoned),
            Side::Holder(holder) => {
                Payee::is_worthless(holder.life()) && is_idle(holder) && !holder.held().has_given_up()
            }
        }
    }
}

impl Watchable for ChequeChannel {
    fn on_chain(setup: &Arc<Setup>, effect: Effect) -> Option<OnChain> {
        match (&**setup, effect) {
            (Setup::Holder(setup), Effect::Holder(holder::Effect::Channel(effect))) => {
                Payee::on_chain(setup, effect)
            }
            (Setup::Drawer(setup), Effect::Drawer(drawer::Effect::Channel(effect))) => {
                Payer::on_chain(setup, effect)
            }
            // These are for other programs, or other channels of this one.
            (
                Setup::Holder(_) | Setup::Drawer(_),
                Effect::Holder(holder::Effect::Promises(_)) | Effect::Drawer(drawer::Effect::Promises(_)),
            )
            | (Setup::Holder(_), Effect::Drawer(_))
            | (Setup::Drawer(_), Effect::Holder(_)) => None,
        }
    }

    fn close() -> Option<Input> {
        Some(Input::Holder(holder::Input::Channel(payee::Input::Close)))
    }
}

/// Whether no lock and no authorisation depends on what is held, and no secret is to be handed over.
fn is_idle(holder: &holder::Holder) -> bool {
    holder.held().may_close().is_ok() && !holder.held().owes_secrets()
}

/// An input to a holder's promises.
pub(super) fn held(input: farthing_protocol::cheque::held::Input) -> Input {
    Input::Holder(holder::Input::Promises(input))
}

/// An input to a drawer's promises.
pub(super) fn drawn(input: farthing_protocol::cheque::drawn::Input) -> Input {
    Input::Drawer(drawer::Input::Promises(input))
}

/// An input to the life of a drawer's channel.
pub(super) fn paying(input: payer::Input) -> Input {
    Input::Drawer(drawer::Input::Channel(input))
}
