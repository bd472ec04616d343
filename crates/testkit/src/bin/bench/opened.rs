//! Channels with a seller in this process, whose fundings are in a block of a real bitcoind.

use std::time::Duration;

use anyhow::bail;
use bitcoin::key::TweakedPublicKey;
use bitcoin::secp256k1::{Keypair, Message, SECP256K1, SecretKey};
use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType};
use bitcoin::{
    Address, Amount, FeeRate, Network, OutPoint, Sequence, Transaction, TxIn, TxOut, Witness, absolute,
    transaction,
};
use farthing_chain::{OutputStatus, RegtestNode};
use farthing_node::seller::{Seller, Terms};
use farthing_node::tabs::Durability;
use farthing_node::watch::Pace;
use farthing_protocol::channel::Expiry;
use farthing_protocol::keys::KeyId;
use farthing_protocol::opening::{Confirmations, Offer};
use farthing_protocol::{Channel, ChannelId, Msat, Params};

use crate::payer::{self, Payer};

/// Looks at the chain that often.
pub fn pace(interval: Duration) -> Pace {
    Pace { interval, ..Pace::for_network(Network::Regtest) }
}

/// A funding that is never sent, of channels without a chain.
pub fn unfunded() -> Transaction {
    Transaction {
        version: transaction::Version::TWO,
        lock_time: absolute::LockTime::ZERO,
        input: Vec::new(),
        output: Vec::new(),
    }
}

/// Opens channels of that capacity with the seller: one transaction funds them all, and is in a block when this returns.
pub fn open(
    node: &RegtestNode,
    seller: &Seller,
    capacity: Amount,
    channels: usize,
) -> anyhow::Result<Vec<(ChannelId, Payer)>> {
    let height = node.chain().tip()?.height;
    let coin = Coin::from(node, capacity * (channels as u64 + 1))?;
    let offers: Vec<(Offer, KeyId)> = (0..channels).map(|_| seller.offer()).collect();
    let place = |(index, (offer, _)): (usize, &(Offer, KeyId))| params(offer, capacity, height, index as u64);
    let agreed: Vec<Params> = offers.iter().enumerate().map(place).collect();
    // The outputs do not depend on where they will be.
    let outputs = agreed.iter().map(|params| Ok(Channel::new(params.clone())?.funding_txout()));
    let funding = coin.spend(outputs.collect::<anyhow::Result<_>>()?)?;
    let txid = funding.compute_txid();
    let mut opened = Vec::with_capacity(channels);
    for (index, (mut params, (offer, key))) in agreed.into_iter().zip(offers).enumerate() {
        params.funding = OutPoint { txid, vout: index as u32 };
        let keys = payer::keys(index as u64);
        let (mut payer, opening) = Payer::propose(params, keys, funding.clone())?;
        let (id, signature) = seller.accept(&offer, key, opening)?;
        payer.accepted(signature)?;
        opened.push((id, payer));
    }
    node.chain().broadcast(&funding)?;
    node.mine(1)?;
    seller.look()?;
    Ok(opened)
}

fn params(offer: &Offer, capacity: Amount, height: u32, index: u64) -> Params {
    let fee_rate = FeeRate::from_sat_per_vb_u32(2);
    Params {
        network: Network::Regtest,
        funding: OutPoint::null(),
        capacity,
        expiry: Expiry::at_height(height + 1_000),
        fee_rate,
        prepaid: Offer::prepaid(fee_rate),
        payer: payer::party(&payer::keys(index)),
        payee: offer.payee.clone(),
    }
}

/// Takes so many channels of one capacity, and words that are worth nearly all of it between two rungs.
pub fn terms(capacity: Amount, channels: usize, durability: Durability) -> Terms {
    Terms {
        capacity: (capacity, capacity),
        fee_rate: (FeeRate::from_sat_per_vb_u32(1), FeeRate::from_sat_per_vb_u32(200)),
        lifetime: (144, 4_320),
        margin: 36,
        confirmations: Confirmations { least: 1, one_more_per: Amount::ZERO },
        unconfirmed_cap: Msat::ZERO,
        patience: 6,
        finality: 6,
        most_unfunded: channels,
        time_to_fund: Duration::from_secs(600),
        durability,
        most_blind: Duration::from_secs(3_600),
        most_exposure: Msat::new(2_000_000),
        most_resident: 256 << 20,
        flat: None,
    }
}

/// A coin whose key the bench knows.
pub struct Coin {
    keypair: Keypair,
    outpoint: OutPoint,
    output: TxOut,
}

impl Coin {
    /// A fresh one, in a block.
    pub fn from(node: &RegtestNode, value: Amount) -> anyhow::Result<Self> {
        let keypair = Keypair::from_secret_key(SECP256K1, &SecretKey::from_slice(&[6; 32])?);
        let key = TweakedPublicKey::dangerous_assume_tweaked(keypair.x_only_public_key().0);
        let address = Address::p2tr_tweaked(key, Network::Regtest);
        let txid = node.send(&address, value)?;
        node.mine(1)?;
        for vout in 0..2 {
            let outpoint = OutPoint { txid, vout };
            if let OutputStatus::Confirmed { output, .. } = node.chain().output(&outpoint)?
                && output.script_pubkey == address.script_pubkey()
            {
                return Ok(Self { keypair, outpoint, output });
            }
        }
        bail!("the node sent a coin that is not there")
    }

    /// Pays these outputs; the rest goes to the miner.
    pub fn spend(&self, outputs: Vec<TxOut>) -> anyhow::Result<Transaction> {
        let mut transaction = Transaction {
            version: transaction::Version::TWO,
            lock_time: absolute::LockTime::ZERO,
            input: vec![TxIn { previous_output: self.outpoint, sequence: Sequence::MAX, ..TxIn::default() }],
            output: outputs,
        };
        let digest = SighashCache::new(&transaction).taproot_key_spend_signature_hash(
            0,
            &Prevouts::All(&[&self.output]),
            TapSighashType::Default,
        )?;
        let signature = SECP256K1.sign_schnorr_no_aux_rand(&Message::from(digest), &self.keypair);
        transaction.input[0].witness = Witness::from_slice(&[signature.as_ref()]);
        Ok(transaction)
    }
}
