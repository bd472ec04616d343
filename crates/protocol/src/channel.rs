//! What two parties agree on before any money moves, and everything that follows from it.
//!
//! [`Params`] are the agreement; [`Channel`] is the agreement checked, with its scripts and digests worked out once.
//! The [`ChannelId`] commits to every parameter, so a statement about the id is a statement about all of them.

use std::fmt;
use std::str::FromStr;

use bitcoin::consensus::encode::serialize;
use bitcoin::hex::{DisplayHex, FromHex};
use bitcoin::taproot::TAPROOT_ANNEX_PREFIX;
use bitcoin::{Amount, FeeRate, Network, OutPoint, ScriptBuf, Transaction, TxOut, Txid};
use secp256k1::{PublicKey, XOnlyPublicKey};
use serde::{Deserialize, Serialize};

use crate::amount::{DUST, Msat};
use crate::commitment;
use crate::funding::FundingOutput;
use crate::sighting::{Funding, Sighting};
use crate::tagged;

/// The first block height at which the payer may take its refund (`nLockTime` and `OP_CHECKLOCKTIMEVERIFY`, BIP65).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Expiry(u32);

impl Expiry {
    /// An expiry at that block height.
    pub const fn at_height(height: u32) -> Self {
        Self(height)
    }

    /// The block height.
    pub const fn height(self) -> u32 {
        self.0
    }
}

/// The public side of one party.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// Signs commitments, closings and (the payer) the refund.
    pub funding: PublicKey,
    /// Agrees on the key that authenticates calls; holds no money.
    pub session: PublicKey,
    /// Where the party's share goes: a Taproot output of its own wallet.
    pub output: ScriptBuf,
}

impl Party {
    /// The funding key as Taproot scripts use it (BIP340).
    pub fn funding_xonly(&self) -> XOnlyPublicKey {
        self.funding.x_only_public_key().0
    }
}

/// Everything both parties agree on before the funding transaction is broadcast.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Params {
    /// The chain that carries the channel.
    pub network: Network,
    /// The output that locks the capacity.
    pub funding: OutPoint,
    /// What is locked, the commitment's fee included.
    pub capacity: Amount,
    /// When the payer may take back what is left.
    pub expiry: Expiry,
    /// The fee rate of every commitment. The payer's side pays it.
    pub fee_rate: FeeRate,
    /// The least that the first payment amounts to: dust plus the payee's cost of closing. Credited against what is
    /// bought later.
    pub prepaid: Amount,
    /// Who pays.
    pub payer: Party,
    /// Who is paid.
    pub payee: Party,
}

/// Names a channel and commits to all its parameters: a tagged SHA-256 of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChannelId([u8; 32]);

impl ChannelId {
    fn of(params: &Params) -> Self {
        let number = |n: u64| n.to_be_bytes();
        Self(tagged::hash(
            "farthing/channel",
            &[
                &params.network.magic().to_bytes(),
                &serialize(&params.funding),
                &number(params.capacity.to_sat()),
                &number(params.expiry.0.into()),
                &number(params.fee_rate.to_sat_per_kwu()),
                &number(params.prepaid.to_sat()),
                &params.payer.funding.serialize(),
                &params.payer.session.serialize(),
                params.payer.output.as_bytes(),
                &params.payee.funding.serialize(),
                &params.payee.session.serialize(),
                params.payee.output.as_bytes(),
            ],
        ))
    }

    /// An id as it was stored or sent.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.as_hex(), f)
    }
}

impl fmt::Debug for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ChannelId {
    type Err = bitcoin::hex::HexToArrayError;

    fn from_str(hex: &str) -> Result<Self, Self::Err> {
        <[u8; 32]>::from_hex(hex).map(Self)
    }
}

/// Why a set of parameters makes no channel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadParams {
    /// The two funding keys are one key.
    #[error("payer and payee use the same funding key")]
    SameKey,
    /// Sizes and dust are computed for Taproot outputs.
    #[error("the {who}'s output is not a Taproot script: {script}")]
    NotTaproot {
        /// Whose output.
        who: &'static str,
        /// The script.
        script: ScriptBuf,
    },
    /// Not a block height.
    #[error("the expiry {0} is not a block height (1 to 499,999,999)")]
    Expiry(u32),
    /// The prepayment is below dust, so the first commitment could not be enforced.
    #[error("the first payment of {got} is below {DUST}, which the chain does not relay")]
    PrepaidDust {
        /// What was proposed.
        got: Amount,
    },
    /// The capacity does not cover the commitment's fee and the first payment.
    #[error(
        "a capacity of {capacity} is below {needed}: the commitment's fee of {fee} and the first payment"
    )]
    Capacity {
        /// What was proposed.
        capacity: Amount,
        /// What it must at least be.
        needed: Amount,
        /// The commitment's fee within it.
        fee: Amount,
    },
    /// The fee rate is beyond anything that makes sense.
    #[error("the commitment's fee overflows at {0} sat/kwu")]
    FeeRate(u64),
}

/// An agreement that makes sense, with its scripts and digests worked out.
pub struct Channel {
    params: Params,
    id: ChannelId,
    funding: FundingOutput,
    commitment_fee: Amount,
    digests: commitment::Digests,
}

impl Channel {
    /// Checks the parameters and works out what follows from them.
    ///
    /// # Errors
    /// When the parameters make no channel. Whether a party *likes* them is for [`crate::opening::Offer`] and
    /// [`crate::opening::Limits`] to say.
    pub fn new(params: Params) -> Result<Self, BadParams> {
        if params.payer.funding_xonly() == params.payee.funding_xonly() {
            return Err(BadParams::SameKey);
        }
        for (who, party) in [("payer", &params.payer), ("payee", &params.payee)] {
            if !party.output.is_p2tr() {
                return Err(BadParams::NotTaproot { who, script: party.output.clone() });
            }
        }
        if !(1..500_000_000).contains(&params.expiry.0) {
            return Err(BadParams::Expiry(params.expiry.0));
        }
        if params.prepaid < DUST {
            return Err(BadParams::PrepaidDust { got: params.prepaid });
        }
        let commitment_fee = params
            .fee_rate
            .checked_mul_by_weight(commitment::WEIGHT)
            .ok_or(BadParams::FeeRate(params.fee_rate.to_sat_per_kwu()))?;
        let needed = commitment_fee
            .checked_add(params.prepaid)
            .ok_or(BadParams::FeeRate(params.fee_rate.to_sat_per_kwu()))?;
        if params.capacity < needed || params.capacity > Amount::MAX_MONEY {
            return Err(BadParams::Capacity { capacity: params.capacity, needed, fee: commitment_fee });
        }
        let funding = FundingOutput::new(&params);
        let digests = commitment::Digests::new(&params, &funding);
        Ok(Self { id: ChannelId::of(&params), params, funding, commitment_fee, digests })
    }

    /// The agreement.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The channel's name.
    pub fn id(&self) -> ChannelId {
        self.id
    }

    /// The scripts of the funding output.
    pub fn funding(&self) -> &FundingOutput {
        &self.funding
    }

    /// The funding output as the chain must show it.
    pub fn funding_txout(&self) -> TxOut {
        TxOut { value: self.params.capacity, script_pubkey: self.funding.script_pubkey().clone() }
    }

    /// What every commitment leaves to the miner.
    pub fn commitment_fee(&self) -> Amount {
        self.commitment_fee
    }

    /// The most that can ever be paid: the capacity less the commitment's fee.
    pub fn max_total(&self) -> Msat {
        let most = self.params.capacity.checked_sub(self.commitment_fee).unwrap_or(Amount::ZERO);
        Msat::from_amount(most).expect("a capacity is at most 21 million bitcoin")
    }

    pub(crate) fn digests(&self) -> &commitment::Digests {
        &self.digests
    }
}

/// How the funding output was spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpendKind {
    /// By both together, through the key path.
    Closing,
    /// By the payee, with a commitment.
    Commitment,
    /// By the payer, after the expiry.
    Refund,
}

impl fmt::Display for SpendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closing => "closing",
            Self::Commitment => "commitment",
            Self::Refund => "refund",
        })
    }
}

impl Channel {
    /// Which of the three ways a transaction takes to spend the funding output, or `None` when it does not spend it.
    /// The witness tells: one element is the key path, else the leaf script stands last but one (BIP341).
    pub fn spend_kind(&self, transaction: &Transaction) -> Option<SpendKind> {
        let input = transaction.input.iter().find(|input| input.previous_output == self.params.funding)?;
        let mut witness: Vec<&[u8]> = input.witness.iter().collect();
        if witness.len() > 1 && witness.last().is_some_and(|last| last.first() == Some(&TAPROOT_ANNEX_PREFIX))
        {
            witness.pop(); // the annex says nothing
        }
        match witness.as_slice() {
            [.., leaf, _control] if *leaf == self.funding.commitment_leaf().as_bytes() => {
                Some(SpendKind::Commitment)
            }
            [.., leaf, _control] if *leaf == self.funding.refund_leaf().as_bytes() => Some(SpendKind::Refund),
            _ => Some(SpendKind::Closing),
        }
    }

    /// What a transaction pays to `party`'s output, in satoshi.
    pub fn paid_to(transaction: &Transaction, party: &Party) -> Amount {
        transaction
            .output
            .iter()
            .filter(|output| output.script_pubkey == party.output)
            .map(|output| output.value)
            .sum()
    }
}

/// How a channel ended on chain, for one party.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// Who spent the funding.
    pub kind: SpendKind,
    /// The transaction that did.
    pub txid: Txid,
    /// What it pays to this party, and what this party took of the outputs that it locks; before any child's fee, and before
    /// what the party's own wallet paid for the micropayment transaction of a batch.
    pub received: Amount,
    /// What was this party's to take and was not taken, since to take it costs more than it brings.
    pub left: Amount,
}

impl Ending {
    /// The ending for `party`, once a spend of the funding is `finality` blocks deep.
    pub(crate) fn of(channel: &Channel, party: &Party, sighting: &Sighting, finality: u32) -> Option<Self> {
        match &sighting.funding {
            Funding::Spent { by, confirmations } if *confirmations >= finality => Some(Self {
                kind: channel.spend_kind(by)?,
                txid: by.compute_txid(),
                received: Channel::paid_to(by, party),
                left: Amount::ZERO,
            }),
            Funding::Spent { .. } | Funding::Unseen | Funding::Unconfirmed(_) | Funding::Confirmed { .. } => {
                None
            }
        }
    }
}
