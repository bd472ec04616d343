//! What is inside a blob: a version, and a cheque; or, the other way round, what was bought for the payee.

use farthing_protocol::ChannelId;
use farthing_protocol::cheque::cheque::Cheque;
use farthing_protocol::cheque::reverse::authorisation::Release;
use farthing_protocol::cheque::reverse::purchase::Delivery;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::address::Address;
use crate::blob::{Blob, Unsealed};

const VERSION: u8 = 1;

/// A message to a payee.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Letter {
    /// A cheque, to be presented to the agent that it names.
    Cheque {
        /// The cheque.
        cheque: Box<Cheque>,
        /// Where the agent that holds the promise can be asked for a lock: its own address.
        agent: String,
    },
    /// An increment of one of the payee's channels, bought by a payer that it has authorised.
    Payment {
        /// The channel.
        channel: ChannelId,
        /// The agent's update, and what opens it.
        delivery: Box<Delivery>,
    },
    /// An authorisation that its payer gives back unused.
    Release(Release),
}

/// Bytes that are no letter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadLetter {
    /// A later kind of letter.
    #[error("a letter of version {0} is not known here, only {VERSION}")]
    Version(u8),
    /// Not a letter at all.
    #[error("these bytes are no letter")]
    Malformed,
}

impl Letter {
    /// The letter in bytes, sealed for an address. `entropy` must be fresh randomness.
    ///
    /// # Errors
    /// When the letter is too long.
    pub fn seal(&self, address: &Address, entropy: [u8; 32]) -> Result<Blob, Unsealed> {
        let mut bytes = self.to_bytes();
        let blob = Blob::seal(address, &bytes, entropy);
        bytes.zeroize();
        blob
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend(postcard::to_stdvec(self).expect("a letter is plain data"));
        bytes
    }

    /// Reads what [`crate::MailKey::open`] gave. Nothing in it is to be believed: a cheque is worth what is paid for it.
    ///
    /// # Errors
    /// When the bytes are no letter, or of another version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadLetter> {
        let (version, rest) = bytes.split_first().ok_or(BadLetter::Malformed)?;
        if *version != VERSION {
            return Err(BadLetter::Version(*version));
        }
        match postcard::take_from_bytes(rest) {
            Ok((letter, [])) => Ok(letter),
            Ok(_) | Err(_) => Err(BadLetter::Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash as _;
    use bitcoin::key::TapTweak as _;
    use bitcoin::{Amount, FeeRate, Network, OutPoint, ScriptBuf, Txid};
    use farthing_protocol::channel::Expiry;
    use farthing_protocol::cheque::book::{Book, Effect, Input};
    use farthing_protocol::cheque::cheque::{Draft, Written};
    use farthing_protocol::cheque::drawn::{self, Drawn, Kind};
    use farthing_protocol::cheque::point::AdaptorSecret;
    use farthing_protocol::cheque::promises::{MOST_SETTLED, Promise};
    use farthing_protocol::cheque::receipt::{MOST_MEMO, Memo};
    use farthing_protocol::keys::{ChannelKeys, KeyId, Seed};
    use farthing_protocol::{Channel, Msat, Params, Party};

    use super::*;
    use crate::address::Host;
    use crate::blob::{MOST_CONTENT, MailKey};

    #[test]
    fn a_cheque_arrives_as_it_was_written() {
        let seed = Seed::new([1; 64], Network::Regtest);
        let (keys, mail) = (seed.cheque_keys(), MailKey::of(&seed));
        let issued = Book::new([1; 8]).handle(&keys, Input::Issue(1)).unwrap();
        let (book, effects) = issued.commit(|_| Ok::<_, std::convert::Infallible>(())).unwrap();
        let [Effect::Publish(prekeys)] = effects.as_slice() else { panic!("{effects:?}") };
        let memo = Memo::new("m".repeat(MOST_MEMO)).unwrap();
        let latest = Expiry::at_height(900_000);
        let draft = Draft { amount: Msat::new(u64::MAX), memo, time: u64::MAX, latest };
        let written = Written::new(draft, &keys.identity(), prekeys[0], [2; 32], &[3; 32]).unwrap();

        let host = Host::new("mail.example").unwrap();
        let address =
            Address { network: Network::Regtest, identity: keys.identity(), mail: mail.public(), host };
        let agent = "a".repeat(1_023);
        let letter = Letter::Cheque { cheque: Box::new(written.cheque.clone()), agent };
        assert!(letter.to_bytes().len() <= MOST_CONTENT, "the longest cheque fits");
        let blob = letter.seal(&address, [4; 32]).unwrap();
        let opened = mail.open(&keys.identity(), &blob).unwrap();
        assert_eq!(Letter::from_bytes(&opened), Ok(letter));

        let cheque = Box::new(written.cheque);
        let presented =
            book.handle(&keys, Input::Present { cheque, expiry: latest, height: 800_000, margin: 36 });
        let (_, effects) = presented.unwrap().commit(|_| Ok::<_, std::convert::Infallible>(())).unwrap();
        assert_eq!(effects, [Effect::Ask(written.point)]);
    }

    /// With as much as is settled as an update may name, it fits: the price is paid by then.
    #[test]
    fn the_longest_payment_fits() {
        let seed = Seed::new([1; 64], Network::Regtest);
        let [payer, payee] = [1, 2].map(|key| seed.channel_keys(KeyId::from_u64(key)));
        let party = |keys: &ChannelKeys| Party {
            funding: keys.funding(),
            session: keys.session(),
            output: ScriptBuf::new_p2tr_tweaked(
                keys.session().x_only_public_key().0.dangerous_assume_tweaked(),
            ),
        };
        let params = Params {
            network: Network::Regtest,
            funding: OutPoint { txid: Txid::from_byte_array([5; 32]), vout: 0 },
            capacity: Amount::from_sat(1_000_000),
            expiry: Expiry::at_height(900_000),
            fee_rate: FeeRate::from_sat_per_vb_u32(2),
            prepaid: Amount::from_sat(600),
            payer: party(&payer),
            payee: party(&payee),
        };
        let channel = Channel::new(params).unwrap();
        let mut drawn = Drawn::new(Kind::Cheques, None, Msat::ZERO);
        let mut update = None;
        let mut does = |input| {
            let done = drawn.handle(&channel, &payer, input).unwrap();
            let (next, effects) = done.commit(|_| Ok::<_, std::convert::Infallible>(())).unwrap();
            drawn = next;
            for effect in effects {
                if let drawn::Effect::Send(sent) = effect {
                    update = Some(sent);
                }
            }
        };
        let secret = |byte: usize| AdaptorSecret::from_bytes(&[u8::try_from(byte).unwrap(); 32]).unwrap();
        for byte in 1..=MOST_SETTLED + 2 {
            let promise = Promise { amount: Msat::new(1_000_000), point: secret(byte).point() };
            does(drawn::Input::Promise(promise));
            if byte <= MOST_SETTLED + 1 {
                does(drawn::Input::Secret(secret(byte)));
            }
        }
        let mut update = update.unwrap();
        assert_eq!(update.signed.terms.settled.len(), MOST_SETTLED);
        // Numbers are written the shorter the smaller they are.
        update.signed.terms.number = u64::MAX;
        update.signed.terms.promises[0].amount = Msat::new(u64::MAX);
        update.signed.terms.base.as_mut().unwrap().total = Msat::new(u64::MAX);
        let delivery = Box::new(Delivery { serial: u64::MAX, update, secret: secret(1) });
        let letter = Letter::Payment { channel: channel.id(), delivery };
        let length = letter.to_bytes().len();
        assert!(length <= MOST_CONTENT, "{length}");
        assert_eq!(Letter::from_bytes(&letter.to_bytes()), Ok(letter));
    }

    #[test]
    fn what_is_no_letter_is_refused() {
        assert_eq!(Letter::from_bytes(&[]), Err(BadLetter::Malformed));
        assert_eq!(Letter::from_bytes(&[2, 0]), Err(BadLetter::Version(2)));
        for bytes in [&[1][..], &[1, 9], &[1, 0], &[1, 2], &[1; 400], &[1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]] {
            assert_eq!(Letter::from_bytes(bytes), Err(BadLetter::Malformed), "{bytes:?}");
        }
    }
}
