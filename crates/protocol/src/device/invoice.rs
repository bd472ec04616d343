//! What the device needs to know of a BOLT11 invoice. It reads the text itself: amount, hash and payee come out of what the
//! payee signed, not out of the gateway's mouth.

use std::str::FromStr;

use bitcoin::Network;
use lightning_invoice::{Bolt11Invoice, ParseOrSemanticError};
use secp256k1::PublicKey;

use super::bolt3::PaymentHash;
use crate::amount::Msat;

/// A signed request for payment ([BOLT 11]), parsed and verified.
///
/// [BOLT 11]: https://github.com/lightning/bolts/blob/master/11-payment-encoding.md
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invoice {
    payment_hash: PaymentHash,
    amount: Msat,
    payee: PublicKey,
    made_at: u64,
    expires_at: u64,
}

/// A text that is no invoice that this device could pay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadInvoice {
    /// Not BOLT11, or its signature does not fit.
    #[error("not a valid invoice: {0}")]
    Unreadable(ParseOrSemanticError),
    /// For another chain.
    #[error("the invoice is for {got}, the device pays on {expected}")]
    Network {
        /// The device's.
        expected: Network,
        /// The invoice's.
        got: Network,
    },
    /// It leaves the amount to the payer.
    #[error("the invoice names no amount")]
    NoAmount,
}

impl Invoice {
    /// Reads an invoice. Its signature is checked, and that it has what BOLT 11 demands.
    ///
    /// # Errors
    /// See [`BadInvoice`].
    pub fn parse(text: &str, network: Network) -> Result<Self, BadInvoice> {
        let invoice = Bolt11Invoice::from_str(text).map_err(BadInvoice::Unreadable)?;
        if invoice.network() != network {
            return Err(BadInvoice::Network { expected: network, got: invoice.network() });
        }
        let amount = invoice.amount_milli_satoshis().filter(|msat| *msat > 0).ok_or(BadInvoice::NoAmount)?;
        let payment_hash = PaymentHash(*AsRef::<[u8; 32]>::as_ref(invoice.payment_hash()));
        let made_at = invoice.duration_since_epoch();
        Ok(Self {
            payment_hash,
            amount: Msat::new(amount),
            payee: invoice.get_payee_pub_key(),
            made_at: made_at.as_secs(),
            expires_at: made_at.saturating_add(invoice.expiry_time()).as_secs(),
        })
    }

    /// What is paid for.
    pub fn payment_hash(&self) -> PaymentHash {
        self.payment_hash
    }

    /// What the payee asks for, routing fees aside.
    pub fn amount(&self) -> Msat {
        self.amount
    }

    /// The node that is paid, by the key that signed the invoice.
    pub fn payee(&self) -> PublicKey {
        self.payee
    }

    /// When the payee made it, by its own word, in seconds since 1970.
    pub fn made_at(&self) -> u64 {
        self.made_at
    }

    /// From when on it may not be paid, in seconds since 1970.
    pub fn expires_at(&self) -> u64 {
        self.expires_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From BOLT 11's examples: "please send $3 for a cup of coffee … within one minute".
    const COFFEE: &str = "lnbc2500u1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxqzpu9qrsgquk0rl77nj30yxdy8j9vdx85fkpmdla2087ne0xh8nhedh8w27kyke0lp53ut353s06fv3qfegext0eh0ymjpf39tuven09sam30g4vgpfna3rh";

    #[test]
    fn reads_bolt_11s_cup_of_coffee() {
        let invoice = Invoice::parse(COFFEE, Network::Bitcoin).unwrap();
        assert_eq!(invoice.amount(), Msat::new(250_000_000));
        assert_eq!(invoice.payment_hash().0[..4], [0, 1, 2, 3]);
        assert_eq!((invoice.made_at(), invoice.expires_at()), (1_496_314_658, 1_496_314_658 + 60));
        let payee = "03e7156ae33b0a208d0744199163177e909e80176e55d97a2f221ede0f934dd9ad";
        assert_eq!(invoice.payee().to_string(), payee);
    }

    #[test]
    fn another_network_and_a_changed_character_are_refused() {
        let expected = Network::Regtest;
        let refused = BadInvoice::Network { expected, got: Network::Bitcoin };
        assert_eq!(Invoice::parse(COFFEE, expected), Err(refused));
        let changed = COFFEE.replace("2500u", "2600u");
        assert!(matches!(Invoice::parse(&changed, Network::Bitcoin), Err(BadInvoice::Unreadable(_))));
    }
}
