//! A buyer that keeps to nothing.

use bitcoin::absolute::LockTime;
use bitcoin::transaction::Version;
use bitcoin::{Address, Amount, Network, OutPoint, ScriptBuf, Transaction, TxOut};
use farthing_node::books::OrderError;
use farthing_node::seller::AcceptError;
use farthing_protocol::channel::Expiry;
use farthing_protocol::keys::{KeyId, Seed};
use farthing_protocol::opening::{Offer, Opening};
use farthing_protocol::{Channel, ChannelId, Params, Party, payer};

use super::{CAPACITY, DEADLY, FINALITY, LIFETIME, Story, rate};

/// The stranger never has to broadcast anything.
pub fn nothing() -> Transaction {
    Transaction { version: Version::TWO, lock_time: LockTime::ZERO, input: Vec::new(), output: Vec::new() }
}

/// A buyer of the test's own, which may lie about its funding.
pub struct Stranger {
    pub seed: Seed,
    pub offer: Offer,
    pub key: KeyId,
    pub params: Params,
}

impl Stranger {
    pub const KEY: u64 = 7;

    pub fn meets(story: &Story) -> Self {
        let seed = Seed::new([7; 64], Network::Regtest);
        let keys = seed.channel_keys(KeyId::from_u64(Self::KEY));
        let (offer, key) = story.seller().offer();
        let output = story.buyers_address().script_pubkey();
        let params = Params {
            network: Network::Regtest,
            funding: OutPoint::null(),
            capacity: CAPACITY,
            expiry: Expiry::at_height(story.chain.tip().unwrap().height + LIFETIME),
            fee_rate: rate(2),
            prepaid: Offer::prepaid(rate(2)),
            payer: Party { funding: keys.funding(), session: keys.session(), output },
            payee: offer.payee.clone(),
        };
        Self { seed, offer, key, params }
    }

    /// What its funding should pay.
    pub fn script(&self) -> ScriptBuf {
        Channel::new(self.params.clone()).unwrap().funding_txout().script_pubkey
    }

    /// An unconfirmed output.
    pub fn pays(&self, story: &Story, script: &ScriptBuf, amount: Amount) -> OutPoint {
        let txid = story.node.send(&Address::from_script(script, Network::Regtest).unwrap(), amount).unwrap();
        let transaction = story.chain.mempool_transaction(&txid).unwrap().unwrap();
        assert_eq!(transaction.output.len(), 2, "a payment and change");
        let is_it = |output: &TxOut| output.script_pubkey == *script;
        let vout = transaction.output.iter().position(is_it).unwrap();
        OutPoint { txid, vout: u32::try_from(vout).unwrap() }
    }

    /// Opens a channel on that output; the seller accepts, since it has not looked.
    pub fn opens(&self, story: &Story, funding: OutPoint) -> ChannelId {
        let params = Params { funding, ..self.params.clone() };
        match self.tries_to_open(story, params.clone()) {
            // It had accepted before it died, and has looked since.
            Err(AcceptError::Order(OrderError::FundingTaken(_))) if DEADLY => {
                Channel::new(params).unwrap().id()
            }
            opened => opened.unwrap(),
        }
    }

    pub fn tries_to_open(&self, story: &Story, params: Params) -> Result<ChannelId, AcceptError> {
        let setup = payer::Setup {
            channel: Channel::new(params).unwrap(),
            keys: self.seed.channel_keys(KeyId::from_u64(Self::KEY)),
            funding: nothing(),
            finality: FINALITY,
        };
        let (_, effects) = payer::propose(&setup).commit(|_| Ok::<_, ()>(())).unwrap();
        let opening = effects.into_iter().find_map(|effect| match effect {
            payer::Effect::Propose(opening) => Some(*opening),
            _ => None,
        });
        let opening: Opening = opening.expect("a proposal");
        story.survive(|| story.seller().accept(&self.offer, self.key, opening.clone())).map(|(id, _)| id)
    }
}
