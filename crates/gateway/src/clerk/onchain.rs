//! What a device is asked for when its channel ends: LDK can neither publish, nor take back, nor punish.
//!
//! The gateway looks who has spent the funding. Where it was the bridge, the device signs what brings the owner's money home: HTLCs back out
//! of a commitment in force, everything out of one that was revoked. The gateway sends it, and asks again with each block, at the fee
//! rate of the moment, until all of it is deep in the chain, or what is left is not worth the lowest fee that nodes take. All of it pays the
//! owner, so it is no matter of trust; a gateway that does nothing of this leaves it to `force-close`.
//!
//! A closing of both sides is watched as well: until it is deep in the chain, the bridge may publish a state that it had revoked.

use std::sync::Arc;

use bitcoin::{BlockHash, FeeRate, OutPoint, Transaction, TxOut};
use farthing_chain::{BroadcastError, Chain, ChainError, OutputStatus};
use farthing_node::device::alone::{CloseError, Found, Spent, spent};
use farthing_protocol::device::bolt3::{Commitment, Side, Terms};
use farthing_protocol::device::machine::Revoked;
use farthing_protocol::device::wire::{Answer, Request};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::{Clerk, ClerkError};
use crate::caller::CallError;
use crate::ends::{TRY_AGAIN, is_too_much};
use crate::gateway::Gateway;
use crate::ledger::Ledger;
use crate::signer::desk::Desk;

/// In how many blocks what is signed now should be in the chain.
const TARGET: u16 = 6;
/// So deep in the chain nothing is taken back any more.
const DEEP: u32 = 6;
/// The device's rules by which it says that it has no such channel, that a transaction is none in force, none that was revoked, or not
/// worth its fee.
const UNKNOWN: &str = "channel-unknown";
const NOT_IN_FORCE: &str = "onchain-known-commitment";
const NOT_REVOKED: &str = "onchain-revoked";
const NOTHING_LEFT: &str = "onchain-fee-range";

/// What the bitcoind says of a funding that is spent.
struct Look {
    found: Found,
    /// What the device is asked to pay now.
    fee_rate: FeeRate,
    /// The least that nodes take.
    least: FeeRate,
    tip: u32,
}

impl Look {
    fn is_deep(&self, height: u32) -> bool {
        self.tip >= height.saturating_add(DEEP - 1)
    }
}

/// With which block a channel's orders about the chain were carried out last: once with each is enough.
#[derive(Clone, Copy, Default)]
pub(super) struct Looked {
    closed_alone: Option<BlockHash>,
    brought_home: Option<BlockHash>,
}

/// What the device signed, by its answer; `None` when it has no such channel.
fn signed(answer: Result<Answer, CallError>) -> Result<Option<Vec<Transaction>>, ClerkError> {
    let transactions = match answer {
        Ok(Answer::Transactions(transactions)) => transactions,
        Ok(_other) => return Err(CallError::OutOfTurn.into()),
        Err(CallError::Refused { rule, .. }) if rule == UNKNOWN => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if is_too_much(&transactions) {
        return Err(ClerkError::Wrong("more transactions than a closing leaves to be done"));
    }
    Ok(Some(transactions))
}

impl Clerk {
    /// Has the device publish, and publishes what it gives: another node may be better connected than the device's. Again with each block,
    /// until the funding is spent in one.
    pub(super) async fn close_alone(&mut self, desk: &Desk) -> Result<(), ClerkError> {
        let channel = desk.channel();
        self.looked.entry(channel).or_default().closed_alone = Some(self.newest_block());
        let publication = self.publication(channel).await?.unwrap_or_default();
        // The commitment comes first; an HTLC's second stage waits for its lock time.
        let commitment = publication.first().cloned();
        self.send(publication).await;
        let is_done = match commitment {
            Some(commitment) => self.are_spent(vec![commitment]).await,
            // There is nothing that this device could publish.
            None => true,
        };
        if is_done {
            desk.published();
        }
        Ok(())
    }

    async fn publication(&self, channel: [u8; 32]) -> Result<Option<Vec<Transaction>>, ClerkError> {
        signed(self.caller.ask(channel, Request::CloseAlone).await)
    }

    /// Whether this channel was not told to close alone since the newest block.
    pub(super) fn is_to_close(&self, channel: &[u8; 32]) -> bool {
        self.looked.get(channel).and_then(|looked| looked.closed_alone) != Some(self.newest_block())
    }

    /// Whether nothing was looked at for this channel since the newest block, and nothing is being searched for it.
    pub(super) fn is_to_look(&self, channel: &[u8; 32]) -> bool {
        self.looked.get(channel).and_then(|looked| looked.brought_home) != Some(self.newest_block())
            && !self.gateway.ends.is_searching(channel)
    }

    fn newest_block(&self) -> BlockHash {
        self.gateway.node.channels.current_best_block().block_hash
    }

    /// Has the device sign what a closing leaves to be done, and sends it.
    pub(super) async fn bring_home(&mut self, desk: &Desk) -> Result<(), ClerkError> {
        let channel = desk.channel();
        self.looked.entry(channel).or_default().brought_home = Some(self.newest_block());
        let Some(terms) = desk.ended() else { return Ok(()) };
        let look = match self.look(desk, &terms).await {
            Ok(Some(look)) => look,
            Ok(None) => return Ok(()),
            Err(error) => {
                tracing::warn!(%error, "the end of a channel is looked at again with the next block");
                return Ok(());
            }
        };
        let is_deep = look.found.height.is_some_and(|height| look.is_deep(height));
        let is_over = match self.signed_for(desk, &terms, &look, look.fee_rate).await? {
            // It came back from its owner's backup, and can sign nothing for this channel.
            None => is_deep,
            Some(transactions) => {
                self.send(transactions.clone()).await;
                let is_spent = self.are_spent(transactions).await;
                let settled_at = self.gateway.ends.settled_at(channel, is_spent, look.tip);
                is_deep
                    // What spends the rest as well: a penalty in a block leaves nothing to be signed.
                    && settled_at.is_some_and(|height| look.is_deep(height))
                    // What looks in force to the device may have been revoked.
                    && !desk.has_revocations()
                    && self.is_nothing_left(desk, &terms, &look).await?
            }
        };
        if is_over {
            self.gateway.ends.forget(&channel);
            desk.brought_home();
        }
        Ok(())
    }

    /// Whether nothing waits for fees to fall either.
    async fn is_nothing_left(&self, desk: &Desk, terms: &Terms, look: &Look) -> Result<bool, ClerkError> {
        if look.fee_rate <= look.least {
            return Ok(true);
        }
        let cheapest = self.signed_for(desk, terms, look, look.least).await?;
        Ok(self.are_spent(cheapest.unwrap_or_default()).await)
    }

    /// What the device signs for that closing; `None` when it has no such channel.
    async fn signed_for(
        &self,
        desk: &Desk,
        terms: &Terms,
        look: &Look,
        fee_rate: FeeRate,
    ) -> Result<Option<Vec<Transaction>>, ClerkError> {
        let channel = desk.channel();
        let commitment = look.found.transaction.compute_txid();
        if desk.is_closing(&commitment) {
            return Ok(Some(Vec::new()));
        }
        let newest = |ledger: &Ledger| ledger.newest(Side::Holder).cloned();
        let ours = self.gateway.books().ledgers.get(&channel).and_then(newest);
        let ours = ours.map(|ours| Commitment::build(terms, Side::Holder, &ours));
        if let Some(ours) = ours.filter(|ours| ours.txid() == commitment) {
            // Its HTLCs come back by second stages, which the device holds complete.
            return if ours.htlcs().is_empty() {
                Ok(Some(Vec::new()))
            } else {
                self.publication(channel).await
            };
        }
        let is_by = |answer: &Result<Answer, CallError>, by: &str| matches!(answer, Err(CallError::Refused { rule, .. }) if rule == by);
        let answer = self.caller.ask(channel, Request::TakeBack { commitment, fee_rate }).await;
        if !is_by(&answer, NOT_IN_FORCE) {
            return signed(answer);
        }
        let revoked = Revoked {
            commitment: look.found.transaction.clone(),
            outputs: self.left(channel, &look.found).await?,
            // The device finds them by its own books.
            htlcs: Vec::new(),
            fee_rate,
        };
        let answer = self.caller.ask(channel, Request::Punish(Box::new(revoked))).await;
        if is_by(&answer, NOTHING_LEFT) {
            return Ok(Some(Vec::new()));
        }
        if !is_by(&answer, NOT_REVOKED) {
            return signed(answer);
        }
        // Not the bridge's. The device's own may be one state behind what it was last asked to complete.
        let publication = self.publication(channel).await?;
        let is_it = |first: &Transaction| first.compute_txid() == commitment;
        Ok(publication.map(|all| if all.first().is_some_and(is_it) { all } else { Vec::new() }))
    }

    /// Who spent the funding; `None` while nobody has, or while that is being searched for.
    async fn look(&mut self, desk: &Desk, terms: &Terms) -> Result<Option<Look>, CloseError> {
        let channel = desk.channel();
        let (gateway, funding) = (self.gateway.clone(), terms.funding);
        let known = self.ask_chain(move |chain| {
            Ok(Some(match gateway.ends.found(chain, &channel)? {
                Some(found) => Spent::By(found),
                None => spent(chain, &funding)?,
            }))
        });
        let found = match known.await? {
            None => return Ok(None),
            Some(Spent::By(found)) => found,
            // What had spent it was never mined, or a reorganisation has taken it back.
            Some(Spent::Not) => {
                match desk.closing() {
                    Some(closing) => self.gateway.node.broadcaster.keep(&closing),
                    None => desk.close_alone(),
                }
                return Ok(None);
            }
            Some(Spent::InSomeBlock) => {
                self.gateway.search(self.device, channel, funding);
                if self.gateway.ends.will_know(&channel) {
                    // The bell rings when it is known.
                    self.looked.entry(channel).or_default().brought_home = None;
                }
                return Ok(None);
            }
        };
        let most = self.gateway.policy(self.device).map_or(FeeRate::MAX, |policy| policy.most_fee_rate);
        self.ask_chain(move |chain| {
            let (least, tip) = (chain.minimum_fee_rate()?.min(most), chain.tip()?.height);
            let estimate = chain.fee_rate(TARGET)?.unwrap_or(FeeRate::BROADCAST_MIN);
            Ok(Some(Look { found, fee_rate: estimate.max(least).min(most), least, tip }))
        })
        .await
    }

    /// What nobody has spent yet of a revoked commitment and of what the bridge made of it, but for the owner's own.
    async fn left(&self, channel: [u8; 32], found: &Found) -> Result<Vec<(OutPoint, TxOut)>, ClerkError> {
        let record = self.gateway.books().channels.get(&channel).cloned();
        let own = record.ok_or(ClerkError::NoTerms)?.keys.closing_script;
        let found = found.clone();
        let left = self.read_blocks(move |chain| Ok(Some(found.left(chain, &own)?))).await;
        Ok(left.map_err(|error| CallError::Interrupted(error.to_string()))?.unwrap_or_default())
    }

    /// Asks the bitcoind a few questions: a few devices at once. `None` when the process ends.
    async fn ask_chain<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Chain) -> Result<Option<T>, CloseError> + Send + 'static,
    ) -> Result<Option<T>, CloseError> {
        self.ask_in_turn(self.gateway.header_readers.clone(), ask).await
    }

    /// Has many blocks read: not in the turn of those who only want headers. It goes on when the device has hung up.
    async fn read_blocks<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Chain) -> Result<Option<T>, CloseError> + Send + 'static,
    ) -> Result<Option<T>, CloseError> {
        self.ask_in_turn(self.gateway.ends.searches.clone(), ask).await
    }

    async fn ask_in_turn<T: Send + 'static>(
        &self,
        turns: Arc<Semaphore>,
        ask: impl FnOnce(&Chain) -> Result<Option<T>, CloseError> + Send + 'static,
    ) -> Result<Option<T>, CloseError> {
        let Ok(turn) = turns.acquire_owned().await else { return Ok(None) };
        let chain = self.gateway.chain.clone();
        let asking = spawn_blocking(move || {
            let _turn = turn;
            ask(&chain)
        });
        asking.await.unwrap_or(Ok(None))
    }

    /// Sends all of them.
    async fn send(&self, transactions: Vec<Transaction>) {
        let chain = self.gateway.chain.clone();
        let sending = spawn_blocking(move || {
            for transaction in transactions {
                let txid = transaction.compute_txid();
                match chain.broadcast(&transaction) {
                    Ok(()) => tracing::info!(%txid, "on its way"),
                    Err(BroadcastError::TooEarly { .. } | BroadcastError::MissingInputs { .. }) => {}
                    Err(error) => tracing::warn!(%txid, %error, "not sent"),
                }
            }
        });
        if sending.await.is_err() {
            tracing::warn!("the process ends before everything was sent");
        }
    }

    /// Whether nothing of them waits any more: what they spend is spent in blocks.
    async fn are_spent(&self, transactions: Vec<Transaction>) -> bool {
        let chain = self.gateway.chain.clone();
        let asking = spawn_blocking(move || {
            transactions.iter().all(|transaction| is_spent(&chain, transaction).unwrap_or(false))
        });
        asking.await.unwrap_or(false)
    }
}

impl Gateway {
    /// Searches for what spent a funding, once for each channel, and rings the device's bell when that is done. Nobody waits for it: it may
    /// take hours.
    pub(crate) fn search(self: &Arc<Self>, device: [u8; 32], channel: [u8; 32], funding: OutPoint) {
        let height = self.node.channels.current_best_block().height;
        if !self.ends.begins_search(channel, height) {
            return;
        }
        let gateway = self.clone();
        tokio::spawn(async move {
            let Ok(turn) = gateway.ends.searches.clone().acquire_owned().await else { return };
            let searching = spawn_blocking({
                let gateway = gateway.clone();
                move || {
                    let _turn = turn;
                    gateway.ends.search(&gateway.chain, channel, &funding)
                }
            });
            let failed_at = match searching.await {
                Ok(Ok(Some(_found))) => None,
                // Up to here there is nothing: the blocks to come are soon read.
                Ok(Ok(None)) => Some(height.saturating_sub(TRY_AGAIN - 1)),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "who ended a channel was not found; it is searched for again in an hour");
                    Some(height)
                }
                Err(_ending) => Some(height),
            };
            gateway.ends.ends_search(channel, failed_at);
            gateway.books().bell(device).notify_one();
        });
    }
}

fn is_spent(chain: &Chain, transaction: &Transaction) -> Result<bool, ChainError> {
    for input in &transaction.input {
        if chain.output(&input.previous_output)? != OutputStatus::Absent {
            return Ok(false);
        }
    }
    Ok(true)
}
