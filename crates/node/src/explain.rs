//! What terms of flat mode mean in a channel that is not there yet.

use bitcoin::{Amount, FeeRate, OutPoint};
use farthing_chain::ChainError;
use farthing_protocol::channel::{BadParams, Expiry};
use farthing_protocol::flat::{self, BadTerms, BatchTerms, Explanation};
use farthing_protocol::keys::{KeyId, Seed};
use farthing_protocol::opening::Offer;
use farthing_protocol::{Channel, Msat, Params, Party};

/// Why flat terms are not accepted. Nothing is locked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExplainError {
    /// A term breaks a limit.
    #[error(transparent)]
    Terms(#[from] BadTerms),
    /// The capacity covers no batch.
    #[error("a channel of {0} covers no batch of these terms that is worth its fees")]
    TooSmall(Amount),
    /// The offer makes no channel of that capacity.
    #[error(transparent)]
    BadParams(#[from] BadParams),
    /// The node cannot be asked.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

/// Explains the first batch of a channel as one under that offer would be: sizes and limits depend on neither keys nor the
/// funding's outpoint. The rates are the channel's and that of the moment.
pub(crate) fn explain(
    seed: &Seed,
    offer: &Offer,
    (capacity, expiry): (Amount, Expiry),
    (fee_rate, now): (FeeRate, FeeRate),
    offered: &flat::Terms,
) -> Result<Explanation, ExplainError> {
    let keys = seed.channel_keys(KeyId::from_u64(0));
    let output = offer.payee.output.clone();
    let channel = Channel::new(Params {
        network: offer.network,
        funding: OutPoint::null(),
        capacity,
        expiry,
        fee_rate,
        prepaid: Offer::prepaid(fee_rate),
        payer: Party { funding: keys.funding(), session: keys.session(), output },
        payee: offer.payee.clone(),
    })?;
    let prepaid = Msat::from_amount(channel.params().prepaid).unwrap_or_default();
    let Some(BatchTerms { terms, .. }) = BatchTerms::fit(&channel, 1, prepaid, offered) else {
        // Which limit it is, a batch of all outputs tells best.
        flat::Terms { prepaid: prepaid.ceil(), ..*offered }.check(&channel, offer.margin)?;
        return Err(ExplainError::TooSmall(capacity));
    };
    terms.check(&channel, offer.margin)?;
    Ok(terms.explain(&channel, offer.margin, now))
}
