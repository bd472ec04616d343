//! The writer's end: cheques written, taken back, and their receipts.

use farthing_protocol::channel::Expiry;
use farthing_protocol::cheque::cancellation::{Cancellation, NotCancelled};
use farthing_protocol::cheque::cheque::{Draft, Unwritten, Written};
use farthing_protocol::cheque::drawn::{self, Kind};
use farthing_protocol::cheque::point::AdaptorPoint;
use farthing_protocol::cheque::prekey::SignedPrekey;
use farthing_protocol::cheque::promises::{BadUpdate, Promise};
use farthing_protocol::cheque::receipt::Memo;
use farthing_protocol::cheque::side::{Effect, Reject, Setup, Side};
use farthing_protocol::cheque::{drawer, held, holder};
use farthing_protocol::{ChannelId, Msat};
use secp256k1::XOnlyPublicKey;

use super::machine::{drawn, held};
use super::paper::{Fate, Issued, Paper};
use super::routing::Router;
use super::{Failed, Teller, now};
use crate::books::OrderError;
use crate::store::{StoreError, Write};
use crate::{crash, entropy};

/// What is to be written.
#[derive(Clone, Debug)]
pub struct Order {
    /// Who the payee is.
    pub identity: XOnlyPublicKey,
    /// As the writer named it.
    pub to: String,
    /// A prekey of the payee's that was never used.
    pub prekey: SignedPrekey,
    /// What the payee is to get.
    pub amount: Msat,
    /// What every node on the way gets, together.
    pub fees: Msat,
    /// What for.
    pub memo: Memo,
    /// The channel that promises it.
    pub channel: ChannelId,
    /// Where its agent is reached.
    pub agent: String,
    /// How many blocks the agent needs between the two expiries.
    pub delta: u32,
}

/// Why no cheque was written, or taken back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The prekey.
    #[error(transparent)]
    Unwritten(#[from] Unwritten),
    /// The channel refuses, or it could not be stored.
    #[error(transparent)]
    Order(#[from] Failed),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No such cheque.
    #[error("no cheque was written under that point")]
    Unknown,
    /// It is over.
    #[error("this cheque cannot be taken back any more")]
    Over,
    /// Not the agent's.
    #[error(transparent)]
    NotCancelled(#[from] NotCancelled),
}

impl WriteError {
    /// Whether another channel could promise it.
    pub fn wants_another_channel(&self) -> bool {
        match self {
            Self::Order(OrderError::Rejected(Reject::Drawer(reject))) => matches!(
                reject,
                drawer::Reject::Channel(_)
                    | drawer::Reject::Promises(
                        drawn::Reject::BadTerms(BadUpdate::TooMany(_) | BadUpdate::OverCapacity { .. })
                            | drawn::Reject::TooManyLoose
                    )
            ),
            Self::Unwritten(_)
            | Self::Order(_)
            | Self::Store(_)
            | Self::Unknown
            | Self::Over
            | Self::NotCancelled(_) => false,
        }
    }
}

impl Teller {
    /// The channels in which this program writes cheques to an agent. Blocks.
    ///
    /// # Errors
    /// When the program is ending.
    pub fn writing_channels(&self, agent: &str) -> Result<Vec<ChannelId>, Failed> {
        self.channels_to(agent, Kind::Cheques)
    }

    /// The channels of one kind in which this program pays whoever is reached there.
    pub(super) fn channels_to(&self, agent: &str, kind: Kind) -> Result<Vec<ChannelId>, Failed> {
        let is_one = |state: &Side| {
            matches!(state.name(), "open" | "awaiting funding")
                && state.drawer().is_some_and(|drawer| drawer.drawn().kind() == kind)
        };
        let entries = self.books.present_blocking()?;
        let ours = entries.iter().filter(|entry| entry.record.peer() == Some(agent) && is_one(&entry.state));
        Ok(ours.map(|entry| entry.id).collect())
    }

    /// Writes a cheque: stored with the promise behind it, in one durable write. The update has to be brought to the agent, and
    /// the cheque to its payee. Blocks.
    ///
    /// # Errors
    /// When the prekey is not the payee's, or the channel cannot promise it. Then there is no cheque.
    pub fn write_cheque(&self, order: Order) -> Result<Issued, WriteError> {
        let setup = self.books.setup(&order.channel).ok_or(OrderError::NoChannel(order.channel))?;
        let expiry = setup.channel().params().expiry.height();
        let latest = Expiry::at_height(expiry.saturating_sub(order.delta));
        let draft = Draft { amount: order.amount, memo: order.memo, time: now(), latest };
        let (salt, blinding) = (entropy::bytes(), entropy::bytes());
        let written = Written::new(draft, &order.identity, order.prekey, salt, &blinding)?;
        let promised = order.amount.saturating_add(order.fees);
        let promise = Promise { amount: promised, point: written.point };
        let issued = Issued {
            written,
            channel: order.channel,
            agent: order.agent,
            to: order.to,
            promised,
            mailed: false,
            fate: Fate::Pending,
        };
        let writes = vec![Write::Cheque(Box::new(Paper::Written(issued.clone())))];
        let input = drawn(drawn::Input::Promise(promise));
        let outcome = self.books.handle_and_write_blocking(order.channel, input, writes)?;
        self.carry_out(order.channel, outcome.effects);
        Ok(issued)
    }

    /// Takes note that a cheque is on its way to its payee. Blocks.
    ///
    /// # Errors
    /// When there is none, or it could not be stored.
    pub fn mailed(&self, point: &AdaptorPoint) -> Result<(), WriteError> {
        self.router.rewrite(point, |issued| Ok((Some(Issued { mailed: true, ..issued }), ())))
    }

    /// Takes a cheque back. It counts when the agent has signed so ([`Self::given_up`]); until the promise is dead, the agent could break its
    /// word. Returns the channel whose update has to be brought to the agent. Blocks.
    ///
    /// # Errors
    /// When there is no such cheque, or it is over.
    pub fn cancel(&self, point: &AdaptorPoint) -> Result<ChannelId, WriteError> {
        let one_at_a_time = self.router.one_at_a_time();
        let issued = self.router.issued(point)?.ok_or(WriteError::Unknown)?;
        let id = issued.channel;
        match issued.fate {
            Fate::Pending => {}
            Fate::Cancelled | Fate::GivenUp(_) => return Ok(id),
            Fate::Paid(_)
            | Fate::PaidJointly(..)
            | Fate::Ended
            | Fate::PaidAllTheSame(..)
            | Fate::PaidJointlyAllTheSame(..) => return Err(WriteError::Over),
        }
        let paper = Paper::Written(Issued { fate: Fate::Cancelled, ..issued });
        let writes = vec![Write::Cheque(Box::new(paper))];
        let withdraw = drawn(drawn::Input::Withdraw(*point));
        let outcome = self.books.handle_and_write_blocking(id, withdraw, writes)?;
        drop(one_at_a_time);
        self.carry_out(id, outcome.effects);
        Ok(id)
    }

    /// Whether a cancelled cheque is promised again, since a lock depended on it: not one of which the agent has signed that it holds it no
    /// more. Blocks.
    ///
    /// # Errors
    /// When it could not be read or stored.
    pub fn reinstated(&self, point: &AdaptorPoint) -> Result<bool, WriteError> {
        self.router.rewrite(point, |issued| {
            let state = self.books.state_blocking(issued.channel)?;
            let drawer = state.as_ref().and_then(Side::drawer);
            let is_open =
                drawer.is_some_and(|drawer| drawer.drawn().promises().any(|promise| promise.point == *point));
            let is_cancelled = issued.fate == Fate::Cancelled;
            let again = (is_open && is_cancelled).then_some(Issued { fate: Fate::Pending, ..issued });
            Ok((again, is_open))
        })
    }

    /// As an agent: the signed word that no promise under that point is held in a channel any more, nor will be: stored before it is
    /// signed. `None` while one is, or was sold. Blocks.
    ///
    /// # Errors
    /// When there is no such channel in which this side is paid, too much was given up there, or it could not be stored.
    pub fn give_up(&self, id: ChannelId, point: &AdaptorPoint) -> Result<Option<Cancellation>, Failed> {
        let setup = self.books.setup(&id).ok_or(OrderError::NoChannel(id))?;
        let Setup::Holder(setup) = &*setup else { return Err(OrderError::NoChannel(id)) };
        let given_up = match self.books.handle_blocking(id, held(held::Input::GiveUp(*point))) {
            Ok(outcome) => outcome.effects,
            Err(OrderError::Rejected(Reject::Holder(holder::Reject::Promises(held::Reject::NotGivenUp)))) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        Ok(given_up.into_iter().find_map(|effect| match effect {
            Effect::Holder(holder::Effect::Promises(held::Effect::GiveUp(point, number))) => {
                Some(Cancellation::sign(id, point, number, &setup.keys))
            }
            Effect::Holder(_) | Effect::Drawer(_) => None,
        }))
    }

    /// Keeps the agent's signed word that a cheque is taken back. Blocks.
    ///
    /// # Errors
    /// When it is not the agent's, there is no such cheque, or it could not be stored.
    pub fn given_up(&self, point: &AdaptorPoint, word: Cancellation) -> Result<(), WriteError> {
        self.router.rewrite(point, |issued| {
            let setup = self.books.setup(&issued.channel).ok_or(OrderError::NoChannel(issued.channel))?;
            word.check(setup.channel(), point)?;
            match issued.fate {
                Fate::Cancelled => Ok((Some(Issued { fate: Fate::GivenUp(word), ..issued }), ())),
                Fate::GivenUp(_) => Ok((None, ())),
                Fate::Pending
                | Fate::Paid(_)
                | Fate::PaidJointly(..)
                | Fate::Ended
                | Fate::PaidAllTheSame(..)
                | Fate::PaidJointlyAllTheSame(..) => Err(WriteError::Over),
            }
        })
    }
}

impl Router {
    /// Reads a cheque, and writes what becomes of it; nobody else does meanwhile, or the receipt that came in between would be lost.
    fn rewrite<T>(
        &self,
        point: &AdaptorPoint,
        change: impl FnOnce(Issued) -> Result<(Option<Issued>, T), WriteError>,
    ) -> Result<T, WriteError> {
        let _one_at_a_time = self.one_at_a_time();
        let issued = self.issued(point)?.ok_or(WriteError::Unknown)?;
        let (next, answer) = change(issued)?;
        if let Some(next) = next {
            crash::point();
            self.books.write_blocking(vec![Write::Cheque(Box::new(Paper::Written(next)))])?;
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, mpsc};
    use std::time::Duration;

    use bitcoin::Network;
    use farthing_protocol::cheque::book::{Book, Effect, Input};
    use farthing_protocol::cheque::drawn::Outcome;
    use tempfile::TempDir;

    use super::*;
    use crate::books::{Books, NoDesk};
    use crate::home::Home;

    fn issued(seed: &farthing_protocol::keys::Seed) -> Issued {
        let keys = seed.cheque_keys();
        let issued = Book::new([1; 8]).handle(&keys, Input::Issue(1)).unwrap();
        let (_, effects) = issued.commit(|_| Ok::<_, Infallible>(())).unwrap();
        let [Effect::Publish(prekeys)] = effects.as_slice() else { panic!("{effects:?}") };
        let memo = Memo::new("a coffee").unwrap();
        let draft = Draft { amount: Msat::new(1), memo, time: 0, latest: Expiry::at_height(9) };
        Issued {
            written: Written::new(draft, &keys.identity(), prekeys[0], [2; 32], &[3; 32]).unwrap(),
            channel: ChannelId::from_bytes([7; 32]),
            agent: "agent".to_owned(),
            to: "the payee".to_owned(),
            promised: Msat::new(1),
            mailed: false,
            fate: Fate::Pending,
        }
    }

    /// What the chain tells of a cheque may come while its writer notes something else of it.
    #[test]
    fn what_became_of_a_cheque_is_not_overwritten_by_who_has_read_it_before() {
        let folder = TempDir::new().unwrap();
        Home::init(folder.path(), Network::Regtest).unwrap();
        let home = Home::open(folder.path(), Network::Regtest).unwrap();
        let seed = home.seed().unwrap();
        let (books, _) =
            Books::open(home.store().unwrap(), &Arc::new(home.seed().unwrap()), Arc::new(NoDesk)).unwrap();
        let router = Arc::new(Router::new(Arc::new(books), home.store().unwrap(), seed.cheque_keys()));
        let issued = issued(&seed);
        let point = issued.written.point;
        router.books.write_blocking(vec![Write::Cheque(Box::new(Paper::Written(issued)))]).unwrap();

        let (other, (told, is_told)) = (router.clone(), mpsc::channel());
        let other = router
            .rewrite(&point, |issued| {
                let other = std::thread::spawn(move || {
                    other.keep(&Outcome::Ended(point)).unwrap();
                    told.send(()).unwrap();
                });
                let _it_waits = is_told.recv_timeout(Duration::from_millis(200));
                Ok((Some(Issued { mailed: true, ..issued }), other))
            })
            .unwrap();
        other.join().unwrap();
        let kept = router.issued(&point).unwrap().unwrap();
        assert_eq!((kept.mailed, kept.fate), (true, Fate::Ended));
    }
}
