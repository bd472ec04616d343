//! Announcing what calls are paid with, and what terms of flat mode mean before that.

use farthing_node::books::OrderError;
use farthing_node::buyer::batches::BatchAnnouncement;
use farthing_node::buyer::calls::Announcement;
use farthing_protocol::flat::{self, Explanation};
use farthing_protocol::lightspeed::Shape;
use farthing_protocol::opening::{Limits, Offer};
use farthing_protocol::{ChannelId, Msat};
use reqwest::{Response, Url};

use super::{Client, ClientError, authority, blocking, join, json, succeeded};
use crate::wire::{self, BatchBody, ChainBody, ChainTaken};

impl Client {
    /// Announces the next chain of words of a channel, or again the one whose answer was lost.
    ///
    /// # Errors
    /// When nothing is left to pay with, or the seller cannot be reached or refuses.
    pub async fn announce(&self, id: ChannelId, peer: &Url, shape: Shape) -> Result<(), ClientError> {
        let buyer = self.buyer.clone();
        let Announcement { terms, rungs, payment } = blocking(move || Ok(buyer.announce(id, shape)?)).await?;
        let key = self.buyer.call_key(id).ok_or(OrderError::NoChannel(id))?;
        let body = ChainBody::new(terms, &rungs, &payment).signed(&key, id, &authority(peer));
        let url = join(peer, &wire::chains_path(id))?;
        let response = self.send(self.http.post(url).json(&body)).await?;
        self.hear(id, terms.number, response).await
    }

    /// Announces the next batch of preimages of a channel, or again the one whose answer was lost.
    ///
    /// # Errors
    /// When nothing is left to pay with, or the seller cannot be reached or refuses.
    pub async fn announce_batch(
        &self,
        id: ChannelId,
        peer: &Url,
        offered: flat::Terms,
    ) -> Result<(), ClientError> {
        let buyer = self.buyer.clone();
        let announced = blocking(move || Ok::<_, ClientError>(buyer.announce_batch(id, &offered)?)).await?;
        let BatchAnnouncement { batch, signed, payment } = announced;
        let key = self.buyer.call_key(id).ok_or(OrderError::NoChannel(id))?;
        let body = BatchBody::new(batch, &signed, &payment).signed(&key, id, &authority(peer));
        let url = join(peer, &wire::batches_path(id))?;
        let response = self.send(self.http.post(url).json(&body)).await?;
        self.hear(id, batch.number, response).await
    }

    /// What flat terms would mean in the channel that this client would open for `deposit`, before anything is locked.
    ///
    /// # Errors
    /// When a term breaks a limit, or the deposit covers no batch.
    pub async fn explain(
        &self,
        offer: &Offer,
        limits: &Limits,
        deposit: Msat,
        offered: flat::Terms,
    ) -> Result<Explanation, ClientError> {
        let (client, offer, limits) = (self.clone(), offer.clone(), *limits);
        blocking(move || {
            let plan = client.plan(&offer, &limits, deposit)?;
            Ok(client.buyer.explain(&offer, &limits, (plan.capacity, plan.lifetime), &offered)?)
        })
        .await
    }

    /// The seller's answer to an announcement.
    async fn hear(&self, id: ChannelId, number: u32, response: Response) -> Result<(), ClientError> {
        match succeeded(response).await {
            Ok(response) => {
                let taken: ChainTaken = json(response).await?;
                Ok(self.buyer.announced(id, number, Some(taken.epoch)).await?)
            }
            Err(error) => {
                if !error.is_transient() {
                    self.buyer.announced(id, number, None).await?;
                }
                Err(error)
            }
        }
    }
}
