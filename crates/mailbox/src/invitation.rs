//! How a payee that goes offline asks to be paid: its authorisation of a payer, with where the agent is asked and where the payee's
//! mail goes. Bech32m (BIP350) with the prefix `farthingpay`.
//!
//! Whoever reads it learns who is to pay whom how much. Only the payer that it names pays under it.

use std::fmt;
use std::str::FromStr;

use bech32::{Bech32m, Hrp};
use farthing_protocol::cheque::reverse::authorisation::{Authorisation, BadBytes};

use crate::address::{Address, BadAddress};

const PREFIX: &str = "farthingpay";
const VERSION: u8 = 1;
/// The longest content, in bytes: what the checksum's 1,023 characters leave.
const MOST: usize = 628;

/// An authorisation on its way to its payer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    to: Address,
    agent: String,
    authorisation: Authorisation,
}

/// Parts that make no invitation, or a text that is none. Whether it is signed is for [`Authorisation::check`] to say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadInvitation {
    /// Not bech32m: a typing error, most likely.
    #[error("this is no invitation to pay: {0}")]
    Bech32(#[from] bech32::primitives::decode::CheckedHrpstringError),
    /// Another kind of text.
    #[error("an invitation to pay begins with `{PREFIX}1`, this with `{0}1`")]
    Prefix(String),
    /// A later kind.
    #[error("an invitation of version {0} is not known here, only {VERSION}")]
    Version(u8),
    /// Cut off.
    #[error("the invitation is too short")]
    Length,
    /// It would not fit.
    #[error(
        "an invitation has at most {MOST} bytes, this would have {0}: the mailbox, the agent or the memo is too long"
    )]
    TooLong(usize),
    /// Where the mail goes.
    #[error(transparent)]
    Address(#[from] BadAddress),
    /// Where the agent is asked.
    #[error("the agent's address is not UTF-8")]
    Agent,
    /// What is authorised.
    #[error(transparent)]
    Authorisation(#[from] BadBytes),
    /// The mail would go to somebody else.
    #[error("the invitation's address is not that of the payee who signed it")]
    OtherPayee,
}

impl Invitation {
    /// An invitation to pay, from whoever owns the address.
    ///
    /// # Errors
    /// When it would be too long, or the authorisation is another's.
    pub fn new(to: Address, agent: String, authorisation: Authorisation) -> Result<Self, BadInvitation> {
        if to.identity != authorisation.payee {
            return Err(BadInvitation::OtherPayee);
        }
        let invitation = Self { to, agent, authorisation };
        match invitation.to_bytes().len() {
            length if length > MOST => Err(BadInvitation::TooLong(length)),
            _short_enough => Ok(invitation),
        }
    }

    /// Where the payee's mail goes.
    pub fn to(&self) -> &Address {
        &self.to
    }

    /// Where the agent is asked.
    pub fn agent(&self) -> &str {
        &self.agent
    }

    /// What is authorised.
    pub fn authorisation(&self) -> &Authorisation {
        &self.authorisation
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        for part in [self.to.to_bytes(), self.agent.clone().into_bytes()] {
            bytes.extend(u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
            bytes.extend(part);
        }
        bytes.extend(self.authorisation.to_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, BadInvitation> {
        let (version, rest) = bytes.split_first().ok_or(BadInvitation::Length)?;
        if *version != VERSION {
            return Err(BadInvitation::Version(*version));
        }
        let (to, rest) = part(rest)?;
        let (agent, rest) = part(rest)?;
        let agent = std::str::from_utf8(agent).map_err(|_| BadInvitation::Agent)?.to_owned();
        Self::new(Address::from_bytes(to)?, agent, Authorisation::from_bytes(rest)?)
    }
}

/// A part with its length before it.
fn part(bytes: &[u8]) -> Result<(&[u8], &[u8]), BadInvitation> {
    let (length, rest) = bytes.split_first_chunk().ok_or(BadInvitation::Length)?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or(BadInvitation::Length)
}

impl fmt::Display for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = Hrp::parse_unchecked(PREFIX);
        bech32::encode_lower_to_fmt::<Bech32m, _>(f, prefix, &self.to_bytes()).map_err(|_| fmt::Error)
    }
}

impl FromStr for Invitation {
    type Err = BadInvitation;

    fn from_str(text: &str) -> Result<Self, BadInvitation> {
        let checked = bech32::primitives::decode::CheckedHrpstring::new::<Bech32m>(text.trim())?;
        if checked.hrp() != Hrp::parse_unchecked(PREFIX) {
            return Err(BadInvitation::Prefix(checked.hrp().to_lowercase()));
        }
        let bytes: Vec<u8> = checked.byte_iter().collect();
        Self::from_bytes(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::Network;
    use farthing_protocol::cheque::receipt::Memo;
    use farthing_protocol::cheque::reverse::authorisation::{Terms, Until};
    use farthing_protocol::keys::{KeyId, Seed};
    use farthing_protocol::{ChannelId, Msat};

    use super::*;
    use crate::address::Host;
    use crate::blob::MailKey;

    fn seed() -> Seed {
        Seed::new([1; 64], Network::Regtest)
    }

    fn address(seed: &Seed, host: &str) -> Address {
        let (identity, mail) = (seed.cheque_keys().identity(), MailKey::of(seed).public());
        Address { network: Network::Regtest, identity, mail, host: Host::new(host).unwrap() }
    }

    fn authorisation(memo: &str) -> Authorisation {
        let terms = Terms {
            channel: ChannelId::from_bytes([7; 32]),
            serial: 3,
            number: 9,
            base: Msat::new(4_000_000),
            amount: Msat::new(u64::MAX),
            payer: seed().cheque_keys().receipt(),
            until: Until::height(900_000),
            memo: Memo::new(memo).unwrap(),
        };
        let keys = seed().channel_keys(KeyId::from_entropy([2; 8]));
        Authorisation::sign(terms, &seed().cheque_keys(), &keys)
    }

    #[test]
    fn an_invitation_survives_the_way_through_its_text_as_long_as_it_may_be() {
        // What is left for the three parts that are not of one length.
        let room = MOST - 335;
        for (agent, memo) in
            [("a".repeat(20), 0), ("https://agent.example".to_owned(), 40), ("a".repeat(room - 62), 50)]
        {
            let to = address(&seed(), "mail.example");
            let invitation = Invitation::new(to, agent, authorisation(&"m".repeat(memo))).unwrap();
            let text = invitation.to_string();
            assert!(text.starts_with("farthingpay1") && text.len() <= 1_023, "{}", text.len());
            assert_eq!(text.parse(), Ok(invitation));
        }
        let to = address(&seed(), "mail.example");
        let long = Invitation::new(to, "a".repeat(room - 11), authorisation("")).unwrap_err();
        assert_eq!(long, BadInvitation::TooLong(MOST + 1));
    }

    #[test]
    fn what_is_no_invitation_is_refused() {
        let to = address(&seed(), "mail.example");
        let other = Seed::new([2; 64], Network::Regtest);
        let wrong = Invitation::new(address(&other, "mail.example"), String::new(), authorisation(""));
        assert_eq!(wrong, Err(BadInvitation::OtherPayee));
        assert!(matches!(to.to_string().parse::<Invitation>(), Err(BadInvitation::Prefix(_))));
        let good =
            Invitation::new(to, "https://agent.example".to_owned(), authorisation("a coffee")).unwrap();
        let bytes = good.to_bytes();
        for length in 0..bytes.len() - "a coffee".len() {
            assert!(Invitation::from_bytes(&bytes[..length]).is_err(), "{length}");
        }
        assert_eq!(Invitation::from_bytes(&[&[2], &bytes[1..]].concat()), Err(BadInvitation::Version(2)));
    }
}
