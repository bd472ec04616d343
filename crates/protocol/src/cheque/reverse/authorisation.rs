//! The payee's word that one payer may buy the next increment of its channel, and the payer's word that it will not.
//!
//! An authorisation is signed twice: by the payee's identity, which is what the payer knows, and by the payee's key of the
//! channel, which is what the agent knows. So a payer sees that the channel leads to whom it means, and an agent ties up
//! nothing for strangers. The receipt key signs none of it.
//!
//! **Replay.** An authorisation names the total that it begins from, and has a number of its own in its channel. Shown again after
//! the increment was paid, it fits no total any more; the agent takes none that is older than the newest it has seen. A release
//! names one authorisation.

use secp256k1::{XOnlyPublicKey, schnorr};
use serde::{Deserialize, Serialize};

use crate::amount::Msat;
use crate::channel::{Channel, ChannelId};
use crate::cheque::receipt::{BadMemo, Memo};
use crate::keys::{self, ChannelKeys, ChequeKeys};
use crate::tagged;

const AUTHORISES: &str = "farthing/authorisation";
const RELEASES: &str = "farthing/release";

/// The last block height at which an authorisation binds its payee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Until(u32);

impl Until {
    /// Up to that block height.
    pub const fn height(height: u32) -> Self {
        Self(height)
    }

    /// The block height.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Whether it is over at the tip's height.
    pub const fn is_over(self, height: u32) -> bool {
        height > self.0
    }
}

/// What the payee has authorised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// The channel in which the payee is paid by its agent.
    pub channel: ChannelId,
    /// Counts the authorisations of this channel, from 1.
    pub serial: u64,
    /// The number of the newest update that the payee has taken: what the agent offers must be newer.
    pub number: u64,
    /// The total that the payee has in it.
    pub base: Msat,
    /// What the payer adds to it.
    pub amount: Msat,
    /// Who may: the payer's identity.
    pub payer: XOnlyPublicKey,
    /// Up to when the payee takes nothing else.
    pub until: Until,
    /// What for, as the payee puts it.
    pub memo: Memo,
}

impl Terms {
    /// The total that the payee has in the end.
    pub fn total(&self) -> Msat {
        self.base.saturating_add(self.amount)
    }

    fn digest(&self, payee: &XOnlyPublicKey) -> [u8; 32] {
        let Self { channel, serial, number, base, amount, payer, until, memo } = self;
        tagged::hash(
            AUTHORISES,
            &[
                channel.as_bytes(),
                &serial.to_be_bytes(),
                &number.to_be_bytes(),
                &base.get().to_be_bytes(),
                &amount.get().to_be_bytes(),
                &payer.serialize(),
                &until.0.to_be_bytes(),
                memo.as_str().as_bytes(),
                &payee.serialize(),
            ],
        )
    }
}

/// Terms with the payee's two signatures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorisation {
    /// What it says.
    pub terms: Terms,
    /// The payee's identity.
    pub payee: XOnlyPublicKey,
    /// By the identity.
    by_payee: schnorr::Signature,
    /// By the payee's funding key of the channel.
    by_channel: schnorr::Signature,
}

/// Why an authorisation is worth nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadAuthorisation {
    /// For another channel.
    #[error("the authorisation is for channel {0}, not for this one")]
    OtherChannel(ChannelId),
    /// Not by the identity.
    #[error("the authorisation is not signed by the payee that it names")]
    NotThePayee,
    /// Not by the channel's payee.
    #[error("the authorisation is not signed by the payee of its channel")]
    NotTheChannel,
}

/// Bytes that are no authorisation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadBytes {
    /// Cut off.
    #[error("the authorisation is too short")]
    Length,
    /// A key or a signature that is none.
    #[error("a key or a signature of the authorisation is none")]
    Key,
    /// The memo is no text.
    #[error("the memo is not UTF-8")]
    Utf8,
    /// The memo is not allowed.
    #[error(transparent)]
    Memo(#[from] BadMemo),
}

impl Authorisation {
    /// Signs terms that are stored as open ([`crate::cheque::held`]). The same terms are always signed alike.
    pub fn sign(terms: Terms, identity: &ChequeKeys, channel: &ChannelKeys) -> Self {
        let payee = identity.identity();
        let digest = terms.digest(&payee);
        Self {
            by_payee: identity.sign_statement(AUTHORISES, &digest),
            by_channel: channel.sign_statement(AUTHORISES, &digest),
            terms,
            payee,
        }
    }

    /// Names it: a tagged SHA-256 of everything that is signed.
    pub fn digest(&self) -> [u8; 32] {
        self.terms.digest(&self.payee)
    }

    /// Whether the identity and the payee of this channel have signed it.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check(&self, channel: &Channel) -> Result<(), BadAuthorisation> {
        if self.terms.channel != channel.id() {
            return Err(BadAuthorisation::OtherChannel(self.terms.channel));
        }
        let digest = self.digest();
        if !keys::statement_holds(&self.payee, AUTHORISES, &digest, &self.by_payee) {
            return Err(BadAuthorisation::NotThePayee);
        }
        let key = channel.params().payee.funding_xonly();
        if !keys::statement_holds(&key, AUTHORISES, &digest, &self.by_channel) {
            return Err(BadAuthorisation::NotTheChannel);
        }
        Ok(())
    }

    /// Every field at its place, big-endian; the memo last, up to the end.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Terms { channel, serial, number, base, amount, payer, until, memo } = &self.terms;
        let mut bytes = channel.as_bytes().to_vec();
        bytes.extend(serial.to_be_bytes());
        bytes.extend(number.to_be_bytes());
        bytes.extend(base.get().to_be_bytes());
        bytes.extend(amount.get().to_be_bytes());
        bytes.extend(payer.serialize());
        bytes.extend(until.0.to_be_bytes());
        bytes.extend(self.payee.serialize());
        bytes.extend(self.by_payee.as_ref());
        bytes.extend(self.by_channel.as_ref());
        bytes.extend(memo.as_str().as_bytes());
        bytes
    }

    /// Reads what [`Self::to_bytes`] gave. Whether it is signed is for [`Self::check`] to say.
    ///
    /// # Errors
    /// When the bytes are no authorisation.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadBytes> {
        let number = |bytes: &[u8; 8]| u64::from_be_bytes(*bytes);
        let key = |bytes: &[u8; 32]| XOnlyPublicKey::from_slice(bytes).map_err(|_| BadBytes::Key);
        let signed = |bytes: &[u8; 64]| schnorr::Signature::from_slice(bytes).map_err(|_| BadBytes::Key);
        let (channel, rest) = bytes.split_first_chunk::<32>().ok_or(BadBytes::Length)?;
        let (serial, rest) = rest.split_first_chunk().ok_or(BadBytes::Length)?;
        let (newest, rest) = rest.split_first_chunk().ok_or(BadBytes::Length)?;
        let (base, rest) = rest.split_first_chunk().ok_or(BadBytes::Length)?;
        let (amount, rest) = rest.split_first_chunk().ok_or(BadBytes::Length)?;
        let (payer, rest) = rest.split_first_chunk().ok_or(BadBytes::Length)?;
        let (until, rest) = rest.split_first_chunk::<4>().ok_or(BadBytes::Length)?;
        let (payee, rest) = rest.split_first_chunk().ok_or(BadBytes::Length)?;
        let (by_payee, rest) = rest.split_first_chunk().ok_or(BadBytes::Length)?;
        let (by_channel, memo) = rest.split_first_chunk().ok_or(BadBytes::Length)?;
        let memo = std::str::from_utf8(memo).map_err(|_| BadBytes::Utf8)?;
        let terms = Terms {
            channel: ChannelId::from_bytes(*channel),
            serial: number(serial),
            number: number(newest),
            base: Msat::new(number(base)),
            amount: Msat::new(number(amount)),
            payer: key(payer)?,
            until: Until(u32::from_be_bytes(*until)),
            memo: Memo::new(memo)?,
        };
        Ok(Self { terms, payee: key(payee)?, by_payee: signed(by_payee)?, by_channel: signed(by_channel)? })
    }
}

/// A payer's word that it has not used an authorisation, and never will.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The channel.
    pub channel: ChannelId,
    /// Which of its authorisations.
    pub serial: u64,
    /// By the payer's identity.
    signature: schnorr::Signature,
}

impl Release {
    /// Gives an authorisation back. Only for one under which nothing was promised, and nothing ever will be
    /// ([`super::purchase`]): the payee takes other payments at once, and the agent could keep the price.
    pub(super) fn sign(authorisation: &Authorisation, keys: &ChequeKeys) -> Self {
        let Terms { channel, serial, .. } = &authorisation.terms;
        let signature = keys.sign_statement(RELEASES, &Self::digest(channel, *serial));
        Self { channel: *channel, serial: *serial, signature }
    }

    /// Whether the payer of these terms gave them back.
    pub fn is_of(&self, terms: &Terms) -> bool {
        let names = self.channel == terms.channel && self.serial == terms.serial;
        let digest = Self::digest(&self.channel, self.serial);
        names && keys::statement_holds(&terms.payer, RELEASES, &digest, &self.signature)
    }

    fn digest(channel: &ChannelId, serial: u64) -> [u8; 32] {
        tagged::hash(RELEASES, &[channel.as_bytes(), &serial.to_be_bytes()])
    }
}
