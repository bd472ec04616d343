//! The owner of all devices here: it holds the cold keys, allows what the suite pays, and spends what closings leave.

use std::sync::LazyLock;
use std::time::Duration;

use bitcoin::{Amount, FeeRate, Network, ScriptBuf, Transaction};
use farthing_protocol::Msat;
use farthing_protocol::device::bolt3::Htlc;
use farthing_protocol::device::keys::DeviceSecret;
use farthing_protocol::device::owner::{Claim, Lock, OwnerKeys};
use farthing_protocol::device::policy::{Policy, SignedPolicy};
use farthing_protocol::device::setup::Bounds;
use farthing_protocol::device::{Enrolment, Invoice};
use farthing_protocol::keys::Seed;
use lightning::bitcoin::hashes::{Hash as _, sha256};
use lightning::bolt11_invoice::{Currency, InvoiceBuilder};
use lightning::ln::chan_utils::get_revokeable_redeemscript;
use lightning::ln::channel_keys::{DelayedPaymentBasepoint, DelayedPaymentKey};
use lightning::sign::SpendableOutputDescriptor;
use lightning::types::payment::PaymentSecret;
use secp256k1::{SECP256K1, SecretKey};

/// Whose bitcoin, for the device: the suite's own network does not matter to it.
const NETWORK: Network = Network::Regtest;
/// More than there is.
const PLENTY: Msat = Msat::new(21_000_000 * 100_000_000 * 1_000);

/// The owner.
pub static OWNER: LazyLock<Owner> = LazyLock::new(|| Owner {
    keys: Seed::new([7; 64], NETWORK).owner_keys(0),
    device: DeviceSecret::new([8; 32]),
});

/// Cold keys, and what the devices were born with.
pub struct Owner {
    keys: OwnerKeys,
    /// One secret for all devices: keys differ by channel.
    pub device: DeviceSecret,
}

impl Owner {
    /// What it puts into a device. The bounds admit whatever the suite agrees on.
    pub fn enrolment(&self, closing_script: ScriptBuf) -> Enrolment {
        let bounds = Bounds {
            least_bridge_delay: 0,
            most_holder_delay: u16::MAX,
            most_reserve: Amount::MAX_MONEY,
            most_capacity: Amount::MAX_MONEY,
        };
        Enrolment {
            owner: self.keys.policy(),
            network: NETWORK,
            payment: self.keys.payment(),
            delayed_payment: self.keys.delayed_payment(),
            closing_script,
            bounds,
        }
    }

    /// Limits that the suite does not reach: it is not about them.
    pub fn policy(&self) -> SignedPolicy {
        self.keys.sign(Policy {
            version: 1,
            paused: false,
            payees: Vec::new(),
            per_payment: PLENTY,
            per_hour: PLENTY,
            per_day: PLENTY,
            in_flight: PLENTY,
            fee_base: Msat::ZERO,
            fee_ppm: 0,
            least_fee_rate: FeeRate::ZERO,
            most_fee_rate: FeeRate::from_sat_per_kwu(u64::from(u32::MAX)),
            most_htlcs: 966,
            most_expiry_delta: u32::MAX,
        })
    }

    /// An invoice over exactly that HTLC. The suite pays hashes, not invoices; the device pays invoices only.
    pub fn invoice(&self, htlc: &Htlc) -> Invoice {
        let payee = SecretKey::from_slice(&[9; 32]).expect("a number below the order");
        let invoice = InvoiceBuilder::new(Currency::Regtest)
            .amount_milli_satoshis(htlc.amount.get())
            .description("what the suite pays".into())
            .payment_hash(sha256::Hash::from_byte_array(htlc.payment_hash.0))
            .payment_secret(PaymentSecret([1; 32]))
            .duration_since_epoch(Duration::from_secs(1))
            .expiry_time(Duration::from_secs(1 << 30))
            .min_final_cltv_expiry_delta(18)
            .build_signed(|digest| SECP256K1.sign_ecdsa_recoverable(digest, &payee))
            .expect("an invoice with all that it needs");
        Invoice::parse(&invoice.to_string(), NETWORK).expect("it was built as BOLT 11 says")
    }

    /// An output that LDK names, as the owner knows its own; `None` when it is somebody else's.
    pub fn claim(&self, descriptor: &SpendableOutputDescriptor) -> Option<Claim> {
        match descriptor {
            SpendableOutputDescriptor::StaticOutput { .. } => None,
            SpendableOutputDescriptor::StaticPaymentOutput(output) => {
                let is_ours = output.output.script_pubkey == self.keys.payment_script();
                let outpoint = output.outpoint.into_bitcoin_outpoint();
                is_ours.then(|| Claim::of_payment(outpoint, output.output.value))
            }
            SpendableOutputDescriptor::DelayedPaymentOutput(output) => {
                let (point, delay) = (output.per_commitment_point, output.to_self_delay);
                let basepoint = DelayedPaymentBasepoint(self.keys.delayed_payment());
                let key = DelayedPaymentKey::from_basepoint(SECP256K1, &basepoint, &point);
                let script = get_revokeable_redeemscript(&output.revocation_pubkey, delay, &key);
                let is_ours = output.output.script_pubkey == script.to_p2wsh();
                is_ours.then(|| Claim {
                    outpoint: output.outpoint.into_bitcoin_outpoint(),
                    value: output.output.value,
                    lock: Lock::Delayed { point, script, delay },
                })
            }
        }
    }

    /// Spends what the owner has.
    pub fn sweep(&self, claims: &[Claim], to: &ScriptBuf, fee_rate: FeeRate) -> Option<Transaction> {
        self.keys.sweep(claims, to, fee_rate)
    }
}
