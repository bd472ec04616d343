//! What a device is asked for when its channel ends without it: LDK can neither publish, nor take back, nor punish.
//!
//! The gateway looks who has spent the funding. Where it was the bridge, the device signs what brings the owner's money home: HTLCs back out
//! of a commitment in force, everything out of one that was revoked. The gateway sends it, and asks again with each block, at the fee
//! rate of the moment, until all of it is in the chain. All of it pays the owner, so it is no matter of trust; a gateway that does nothing
//! of this leaves it to `force-close`.

use bitcoin::{BlockHash, FeeRate, OutPoint, Transaction, TxOut};
use farthing_chain::{BroadcastError, Chain, ChainError, OutputStatus};
use farthing_node::device::alone::{CloseError, Found, spender};
use farthing_protocol::device::bolt3::{Commitment, Side, Terms};
use farthing_protocol::device::machine::Revoked;
use farthing_protocol::device::wire::{Answer, Request};
use tokio::task::spawn_blocking;

use super::{Clerk, ClerkError};
use crate::caller::CallError;
use crate::ledger::Ledger;
use crate::signer::desk::Desk;

/// In how many blocks what is signed now should be in the chain.
const TARGET: u16 = 6;
/// So deep in the chain nothing is taken back any more.
const DEEP: u32 = 6;
/// The device's rules by which it says that a transaction is none in force, none that was revoked, or not worth its fee.
const NOT_IN_FORCE: &str = "onchain-known-commitment";
const NOT_REVOKED: &str = "onchain-revoked";
const NOTHING_LEFT: &str = "onchain-fee-range";

/// What the bitcoind says of a funding.
struct Look {
    found: Found,
    fee_rate: FeeRate,
    is_deep: bool,
}

/// When a channel's end was looked at last.
pub(super) struct Looked {
    at: BlockHash,
    /// What spent the funding, and in which block: to find it may take long.
    found: Option<(Found, BlockHash)>,
}

impl Clerk {
    /// Has the device publish, and publishes what it gives: another node may be better connected than the device's.
    pub(super) async fn close_alone(&self, desk: &Desk) -> Result<(), ClerkError> {
        let publication = self.publication(desk.channel()).await?;
        // An HTLC's second stage waits for its lock time.
        let _is_in_blocks = self.send(publication).await;
        desk.published();
        Ok(())
    }

    async fn publication(&self, channel: [u8; 32]) -> Result<Vec<Transaction>, ClerkError> {
        let answer = self.caller.ask(channel, Request::CloseAlone).await?;
        let Answer::Transactions(transactions) = answer else { return Err(CallError::OutOfTurn.into()) };
        Ok(transactions)
    }

    /// Whether nothing was looked at for this channel since the newest block.
    pub(super) fn is_to_look(&self, channel: &[u8; 32]) -> bool {
        self.looked.get(channel).is_none_or(|looked| looked.at != self.newest_block())
    }

    fn newest_block(&self) -> BlockHash {
        self.gateway.node.channels.current_best_block().block_hash
    }

    /// Has the device sign what a closing of the bridge's leaves to be done, and sends it.
    pub(super) async fn bring_home(&mut self, desk: &Desk) -> Result<(), ClerkError> {
        let channel = desk.channel();
        let at = self.newest_block();
        self.looked.entry(channel).or_insert(Looked { at, found: None }).at = at;
        let Some(terms) = desk.ended() else { return Ok(()) };
        let look = match self.look(channel, &terms).await {
            Ok(Some(look)) => look,
            Ok(None) => return Ok(()),
            Err(error) => {
                tracing::warn!(%error, "the end of a channel is looked at again with the next block");
                return Ok(());
            }
        };
        let closing = look.found.transaction.compute_txid();
        let newest = |ledger: &Ledger| ledger.newest(Side::Holder).cloned();
        let ours = self.gateway.books().ledgers.get(&channel).and_then(newest);
        let ours = ours.map(|ours| Commitment::build(&terms, Side::Holder, &ours));
        let ours = ours.filter(|ours| ours.txid() == closing);
        let transactions = match ours {
            // Its HTLCs come back by second stages, which the device holds complete.
            Some(ours) if ours.htlcs().is_empty() => Vec::new(),
            Some(_) => self.publication(channel).await?,
            None if desk.last_closing() == Some(closing) => Vec::new(),
            None => self.signed_for(desk, &look).await?,
        };
        if self.send(transactions).await && look.is_deep {
            desk.brought_home();
        }
        Ok(())
    }

    /// What the device signs for that closing.
    async fn signed_for(&self, desk: &Desk, look: &Look) -> Result<Vec<Transaction>, ClerkError> {
        let (channel, fee_rate) = (desk.channel(), look.fee_rate);
        let commitment = look.found.transaction.compute_txid();
        let in_force = self.caller.ask(channel, Request::TakeBack { commitment, fee_rate }).await;
        let answer = match in_force {
            Err(CallError::Refused { rule, .. }) if rule == NOT_IN_FORCE => {
                let revoked = Revoked {
                    commitment: look.found.transaction.clone(),
                    outputs: self.left(channel, &look.found).await?,
                    // The device finds them by its own books.
                    htlcs: Vec::new(),
                    fee_rate,
                };
                match self.caller.ask(channel, Request::Punish(Box::new(revoked))).await {
                    Err(CallError::Refused { rule, .. }) if rule == NOT_REVOKED || rule == NOTHING_LEFT => {
                        return Ok(Vec::new());
                    }
                    answer => answer?,
                }
            }
            answer => answer?,
        };
        let Answer::Transactions(transactions) = answer else { return Err(CallError::OutOfTurn.into()) };
        Ok(transactions)
    }

    /// Who spent the funding; `None` while nobody has.
    async fn look(&mut self, channel: [u8; 32], terms: &Terms) -> Result<Option<Look>, CloseError> {
        let known = self.looked.get_mut(&channel).and_then(|looked| looked.found.take());
        let most = self.gateway.policy(self.device).map_or(FeeRate::MAX, |policy| policy.most_fee_rate);
        let funding = terms.funding;
        let looking = self.ask_chain(move |chain| {
            let known = match known {
                Some((found, block)) if is_in_chain(chain, &found, &block)? => Some((found, block)),
                Some(_) | None => None,
            };
            let found = match &known {
                Some((found, _)) => found.clone(),
                None => match spender(chain, &funding)? {
                    Some(found) => found,
                    None => return Ok(None),
                },
            };
            let block = found.height.map(|height| chain.block_hash(height)).transpose()?.flatten();
            let tip = chain.tip()?.height;
            let is_deep = found.height.is_some_and(|height| tip >= height + (DEEP - 1));
            let look = Look { fee_rate: fee_rate(chain)?.min(most), is_deep, found: found.clone() };
            Ok(Some((look, block.map(|block| (found, block)))))
        });
        let Some((look, found)) = looking.await? else { return Ok(None) };
        if let Some(looked) = self.looked.get_mut(&channel) {
            looked.found = found;
        }
        Ok(Some(look))
    }

    /// What nobody has spent yet of a revoked commitment and of what the bridge made of it, but for the owner's own.
    async fn left(&self, channel: [u8; 32], found: &Found) -> Result<Vec<(OutPoint, TxOut)>, ClerkError> {
        let record = self.gateway.books().channels.get(&channel).cloned();
        let own = record.ok_or(ClerkError::NoTerms)?.keys.closing_script;
        let found = found.clone();
        let left = self.ask_chain(move |chain| Ok(Some(found.left(chain, &own)?))).await;
        Ok(left.map_err(|error| CallError::Interrupted(error.to_string()))?.unwrap_or_default())
    }

    /// Asks the bitcoind what takes many questions: a few devices at once. `None` when the process ends.
    async fn ask_chain<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Chain) -> Result<Option<T>, CloseError> + Send + 'static,
    ) -> Result<Option<T>, CloseError> {
        let Ok(turn) = self.gateway.header_readers.clone().acquire_owned().await else { return Ok(None) };
        let chain = self.gateway.chain.clone();
        let asking = spawn_blocking(move || {
            let _turn = turn;
            ask(&chain)
        });
        asking.await.unwrap_or(Ok(None))
    }

    /// Sends all of them. Returns whether nothing of it waits any more: what they spend is spent in blocks.
    async fn send(&self, transactions: Vec<Transaction>) -> bool {
        let chain = self.gateway.chain.clone();
        let sending = spawn_blocking(move || {
            transactions.into_iter().fold(true, |is_done, transaction| {
                let txid = transaction.compute_txid();
                match chain.broadcast(&transaction) {
                    Ok(()) => {
                        tracing::info!(%txid, "on its way")
                    }
                    Err(BroadcastError::TooEarly { .. } | BroadcastError::MissingInputs { .. }) => {}
                    Err(error) => tracing::warn!(%txid, %error, "not sent"),
                }
                is_done && is_spent(&chain, &transaction).unwrap_or(false)
            })
        });
        sending.await.unwrap_or(false)
    }
}

fn is_in_chain(chain: &Chain, found: &Found, block: &BlockHash) -> Result<bool, ChainError> {
    match found.height {
        Some(height) => Ok(chain.block_hash(height)?.as_ref() == Some(block)),
        None => Ok(false),
    }
}

fn fee_rate(chain: &Chain) -> Result<FeeRate, ChainError> {
    let estimate = chain.fee_rate(TARGET)?.unwrap_or(FeeRate::BROADCAST_MIN);
    Ok(estimate.max(chain.minimum_fee_rate()?))
}

fn is_spent(chain: &Chain, transaction: &Transaction) -> Result<bool, ChainError> {
    for input in &transaction.input {
        if chain.output(&input.previous_output)? != OutputStatus::Absent {
            return Ok(false);
        }
    }
    Ok(true)
}
