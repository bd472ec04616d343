//! What a caller knows of one seller: the channel, the prices, the shape of a chain of words.

use std::collections::{HashMap, VecDeque};

use farthing_protocol::hashlock::Delay;
use farthing_protocol::lightspeed::Shape;
use farthing_protocol::{ChannelId, Msat, Params};
use reqwest::Method;
use url::Position;

use super::Outgoing;
use crate::challenge::Calls;
use crate::tariff::{CallPrice, PriceList};

/// The most words in a chain of ours: 3 ms to draw.
const MOST_WORDS: u32 = 65_536;
/// The most rungs in a chain of ours: 100 ms to sign and verify.
const MOST_RUNGS: u32 = 1_024;
/// How many calls at the highest known price a chain pays at least.
const LEAST_CALLS: u64 = 16;
/// How many prices are remembered that were told by asking.
const MOST_ASKED: usize = 1_024;
/// The least time that a rung stays claimable, in blocks.
const LEAST_MARGIN: u32 = 36;

/// One seller, as far as this process knows it.
#[derive(Default)]
pub(super) struct Payee {
    pub(super) channel: Option<ChannelId>,
    /// The channel before that, when it was forgotten.
    earlier: Option<ChannelId>,
    /// `None` before it was asked for.
    pub(super) prices: Option<Prices>,
    /// Its terms for calls, from its last challenge.
    pub(super) terms: Option<Calls>,
    pub(super) margin: u32,
    /// After which chain the next was announced ahead.
    ahead: Option<(ChannelId, u32)>,
    /// Channels that have nothing left to pay with.
    used_up: Vec<ChannelId>,
}

pub(super) enum Prices {
    List(PriceList),
    /// They depend on the request: what a challenge said before.
    Asked(Asked),
}

/// The newest prices that were told by asking, each for one request.
#[derive(Default)]
pub(super) struct Asked {
    prices: HashMap<(Method, String), CallPrice>,
    /// The oldest first.
    order: VecDeque<(Method, String)>,
}

impl Asked {
    /// Remembers a price, and forgets the oldest one where there are too many.
    pub(super) fn insert(&mut self, request: (Method, String), price: CallPrice) {
        if self.prices.insert(request.clone(), price).is_none() {
            self.order.push_back(request);
        }
        if self.order.len() > MOST_ASKED
            && let Some(oldest) = self.order.pop_front()
        {
            self.prices.remove(&oldest);
        }
    }
}

impl Prices {
    pub(super) fn find(&self, request: &Outgoing) -> Option<CallPrice> {
        let method = if request.method == Method::HEAD { &Method::GET } else { &request.method };
        match self {
            Self::List(list) => Some(list.price(method.as_str(), request.url.path())),
            Self::Asked(asked) => asked
                .prices
                .get(&(request.method.clone(), request.url[Position::BeforePath..].to_owned()))
                .copied(),
        }
    }

    /// The smallest and the largest price that are known: a word should be worth the one, and a chain many times the other.
    fn span(&self) -> Option<(Msat, Msat)> {
        let all: Vec<CallPrice> = match self {
            Self::List(list) => list.rules.iter().map(|rule| rule.price).chain([list.otherwise]).collect(),
            Self::Asked(asked) => asked.prices.values().copied().collect(),
        };
        let amounts = all.into_iter().flat_map(|price| [price.call, price.kib, price.event]);
        let amounts: Vec<Msat> = amounts.filter(|price| *price > Msat::ZERO).collect();
        Some((*amounts.iter().min()?, *amounts.iter().max()?))
    }
}

impl Payee {
    /// Whatever was known of its prices and terms is out of date.
    pub(super) fn forget(&mut self) {
        let used_up = std::mem::take(&mut self.used_up);
        *self = Self { used_up, earlier: self.last(), ..Self::default() };
    }

    /// The newest channel that calls were paid from.
    pub(super) fn last(&self) -> Option<ChannelId> {
        self.channel.or(self.earlier)
    }

    /// No call is paid by that channel any more. Whether this is news.
    pub(super) fn leave(&mut self, channel: ChannelId) -> bool {
        let is_new = !self.has_left(channel);
        if is_new {
            self.used_up.push(channel);
        }
        self.channel = self.channel.filter(|present| *present != channel);
        is_new
    }

    pub(super) fn has_left(&self, channel: ChannelId) -> bool {
        self.used_up.contains(&channel)
    }

    /// Takes note that the chain after this one is announced from here. Whether this is news.
    pub(super) fn begins_after(&mut self, channel: ChannelId, chain: u32) -> bool {
        self.ahead.replace((channel, chain)) != Some((channel, chain))
    }

    /// It came to nothing.
    pub(super) fn begins_again_after(&mut self, channel: ChannelId, chain: u32) {
        self.ahead = self.ahead.filter(|ahead| *ahead != (channel, chain));
    }

    /// A chain whose rungs are as close as the seller asks, and no closer than makes sense: what is below dust and the cost
    /// of closing is at its risk anyhow.
    pub(super) fn shape(&self, params: Option<&Params>, cost: Msat) -> Shape {
        let floor = params.and_then(|params| Msat::from_amount(params.prepaid)).unwrap_or(cost);
        let most = self.terms.map_or(floor, |terms| terms.most_exposure);
        let (least, greatest) = self.prices.as_ref().and_then(Prices::span).unwrap_or((cost, cost));
        // A unit need not divide a price: what is left of a word pays the next call.
        let coarse = greatest.max(cost).get().div_ceil(u64::from(MOST_WORDS) / LEAST_CALLS);
        // One word is always at the seller's risk, so a call that is dearer than that takes several.
        let unit = least.min(cost).max(Msat::new(coarse)).min(most).max(Msat::new(1));
        let between = floor.min(most).max(unit);
        let stretch = u32::try_from(between.get() / unit.get()).unwrap_or(u32::MAX).max(1);
        let words = stretch.saturating_mul(MOST_RUNGS).min(MOST_WORDS);
        let margin = self.margin.max(LEAST_MARGIN);
        let delay = Delay::blocks(u16::try_from(margin).unwrap_or(u16::MAX));
        Shape { unit, words, rungs: words.div_ceil(stretch), delay }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_prices_that_were_asked_for_the_oldest_are_forgotten() {
        let mut asked = Asked::default();
        let request = |number: usize| (Method::GET, format!("/item?q={number}"));
        for number in 0..=MOST_ASKED {
            asked.insert(request(number), CallPrice::default());
            asked.insert(request(number), CallPrice::default());
        }
        assert_eq!((asked.prices.len(), asked.order.len()), (MOST_ASKED, MOST_ASKED));
        assert!(!asked.prices.contains_key(&request(0)) && asked.prices.contains_key(&request(MOST_ASKED)));
    }
}
