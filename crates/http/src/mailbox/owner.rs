//! A payee at its own mailbox.

use farthing_mailbox::address::Host;
use farthing_mailbox::blob::Unopened;
use farthing_mailbox::letter::BadLetter;
use farthing_mailbox::{Address, Blob, Letter, MailKey, Proof, Request};
use farthing_protocol::keys::{ChequeKeys, Seed};

/// Who owns a box: an address with the keys behind it.
pub struct Owner {
    keys: ChequeKeys,
    mail: MailKey,
    address: Address,
}

/// A letter that says nothing to its owner: there is nothing to do but to delete it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unreadable {
    /// For somebody else, damaged or forged.
    #[error(transparent)]
    Unopened(#[from] Unopened),
    /// Something else than a letter is inside.
    #[error(transparent)]
    BadLetter(#[from] BadLetter),
}

impl Owner {
    /// The payee of a seed, at a mailbox.
    pub fn new(seed: &Seed, host: Host) -> Self {
        let (keys, mail) = (seed.cheque_keys(), MailKey::of(seed));
        let address =
            Address { network: seed.network(), identity: keys.identity(), mail: mail.public(), host };
        Self { keys, mail, address }
    }

    /// Where payers write to.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The key that receipts are signed with.
    pub fn receipt_key(&self) -> secp256k1::XOnlyPublicKey {
        self.keys.receipt()
    }

    /// Opens a letter. Nothing in it is to be believed.
    ///
    /// # Errors
    /// When it is for somebody else, or no letter.
    pub fn open(&self, blob: &Blob) -> Result<Letter, Unreadable> {
        let content = zeroize::Zeroizing::new(self.mail.open(&self.address.identity, blob)?);
        Ok(Letter::from_bytes(&content)?)
    }

    pub(super) fn sign(&self, request: &Request<'_>, time: u64) -> Proof {
        request.sign(&self.keys, time)
    }
}
