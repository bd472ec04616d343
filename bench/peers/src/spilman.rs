//! Cashu Spilman channel: a payment is the payer's signature over the swap that would pay out a new balance.
//!
//! The receiver rebuilds that swap (its outputs are derived from the channel's secret) to verify the signature.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Error, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cashu::dhke::{construct_proofs, sign_message};
use cashu::nuts::{BlindSignature, BlindedMessage, CurrencyUnit, Id, Keys, Proof, SecretKey};
use cashu::{Amount, util::hex};
use cdk_spilman::configurable_host::{ConfigurableHost, KeysetCacheEntry};
use cdk_spilman::{
    BalanceUpdateMessage, BridgeError, ChannelParameters, ClientChannelFunding, ConfigurableClientHost,
    DeterministicOutputsForOneContext, EstablishedChannel, KeysetInfo, Payment, SpilmanBridge,
    SpilmanClientBridge, SpilmanClientHost as _, SpilmanClientNetworking,
};

use crate::measure::Batch;

pub const WHAT: &str = "an `X-Cashu-Channel` header with a balance one higher than the last: \
    cdk_spilman::SpilmanBridge::process_payment_via_base64_header with the crate's ConfigurableHost in memory (decode, load \
    the known channel, rebuild the commitment, verify the payer's signature, compare with the amount due, record); channel \
    of 1000 sat, keyset of 32 powers of two without fees, outputs of any amount";

/// In sat, of which each call costs one.
const CAPACITY: u64 = 1_000;

/// Zero is no limit, which makes for the fewest outputs and the fastest check.
const MAXIMUM_AMOUNT: u64 = 0;

const DENOMINATIONS: u32 = 32;
const MINT: &str = "https://mint.example.com";
const CONFIG: &str = r#"
mints: { "https://mint.example.com": [sat] }
pricing: { sat: { min_capacity: 10, variables: { requests: 1 } } }
"#;
const ONE_REQUEST: &str = r#"{"requests":1}"#;
const WEEK: u64 = 7 * 24 * 60 * 60;

type Client = SpilmanClientBridge<ConfigurableClientHost<cdk_spilman::MemoryClientStorage>, NoMint>;

/// A funded channel with every payment that can be made in it.
pub struct Spilman {
    receiver: SecretKey,
    channel: EstablishedChannel,
    /// Registers the channel with the receiver, at a balance of 0.
    funding: String,
    /// Of the balances from 1 to the capacity.
    headers: Vec<String>,
    updates: Vec<BalanceUpdateMessage>,
}

impl Spilman {
    /// Plays the mint and the payer.
    pub fn open() -> Result<Self> {
        let [payer, receiver] = [SecretKey::generate(), SecretKey::generate()];
        let mint: BTreeMap<Amount, SecretKey> =
            (0..DENOMINATIONS).map(|power| (Amount::from(1_u64 << power), SecretKey::generate())).collect();
        let channel = fund(&mint, &payer, &receiver)?;
        let client = client(&channel, payer)?;

        let id = channel.params.get_channel_id();
        let funding = client.build_payment_header(&id, 0, true).map_err(Error::msg)?;
        let (mut headers, mut updates) = (Vec::new(), Vec::new());
        for balance in 1..=CAPACITY {
            let payment = client.create_payment(&id, balance).map_err(Error::msg)?;
            headers.push(header(&payment)?);
            let signature = payment.signature.parse()?;
            updates.push(BalanceUpdateMessage { channel_id: id.clone(), amount: balance, signature });
        }
        Ok(Self { receiver, channel, funding, headers, updates })
    }

    /// Asserts what is accepted and what is not.
    pub fn assert_refusals(&self) -> Result<()> {
        let server = self.server()?;
        let accept = |header: &str| server.process_payment_via_base64_header(header, &ONE_REQUEST.into());

        let [first, second] = [&self.updates[0], &self.updates[1]];
        let id = first.channel_id.clone();
        let raised = header(&Payment::new(id, second.amount, first.signature.to_string()))?;
        ensure!(matches!(accept(&raised), Err(BridgeError::InvalidSignature(_))), "a raised balance");

        let accepted = accept(&self.headers[0]).map_err(Error::msg)?;
        ensure!(accepted.balance == first.amount && accepted.amount_due == 1, "another payment");
        let again = accept(&self.headers[0]);
        ensure!(matches!(again, Err(BridgeError::InsufficientBalance { .. })), "a payment for two calls");

        let raised = BalanceUpdateMessage { amount: second.amount, ..first.clone() };
        ensure!(raised.verify_sender_signature(&self.channel).is_err(), "a raised balance");
        Ok(())
    }

    /// Every payment of a new channel.
    pub fn accept(&self) -> Result<Batch> {
        let server = self.server()?;
        let context = ONE_REQUEST.to_owned();
        Batch::time(self.headers.len(), || {
            for header in &self.headers {
                server.process_payment_via_base64_header(header, &context).map_err(Error::msg)?;
            }
            Ok(())
        })
    }

    /// The signature of every payment, given the parsed channel.
    pub fn verify(&self) -> Result<Batch> {
        Batch::time(self.updates.len(), || {
            self.updates.iter().try_for_each(|update| update.verify_sender_signature(&self.channel))
        })
    }

    /// A receiver that knows the channel and has accepted nothing in it.
    fn server(&self) -> Result<SpilmanBridge<ConfigurableHost>> {
        let host = ConfigurableHost::from_yaml(CONFIG, &self.receiver.to_secret_hex()).map_err(Error::msg)?;
        let keyset = &self.channel.params.keyset_info;
        let entry = KeysetCacheEntry {
            info_json: serde_json::to_string(keyset)?,
            active: true,
            unit: CurrencyUnit::Sat,
        };
        host.set_keyset(MINT, keyset.keyset_id, entry).map_err(Error::msg)?;
        let server = SpilmanBridge::new(host);
        server.fund_channel_via_base64_header(&self.funding).map_err(Error::msg)?;
        Ok(server)
    }
}

/// What the mint signs into the channel.
fn fund(
    mint: &BTreeMap<Amount, SecretKey>,
    payer: &SecretKey,
    receiver: &SecretKey,
) -> Result<EstablishedChannel> {
    let keys = Keys::new(mint.iter().map(|(amount, key)| (*amount, key.public_key())).collect());
    let keyset = KeysetInfo::new(Id::v1_from_keys(&keys), CurrencyUnit::Sat, keys, 0, None);
    let amount = ChannelParameters::get_minimum_funding_token_amount(CAPACITY, &keyset, MAXIMUM_AMOUNT)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let params = ChannelParameters::new_with_secret_key(
        payer.public_key(),
        receiver.public_key(),
        MINT.into(),
        CurrencyUnit::Sat,
        CAPACITY,
        amount,
        now + WEEK,
        now,
        keyset.clone(),
        MAXIMUM_AMOUNT,
        payer,
    )?;

    let outputs = DeterministicOutputsForOneContext::new("funding".into(), amount, params.clone())?;
    let secrets = outputs.get_secrets_with_blinding()?;
    let (secrets, factors) =
        secrets.into_iter().map(|output| (output.secret, output.blinding_factor)).unzip();
    let messages = outputs.get_blinded_messages(None)?;
    let signatures =
        messages.iter().map(|message| sign(&mint[&message.amount], message)).collect::<Result<_>>()?;
    let proofs: Vec<Proof> = construct_proofs(signatures, factors, secrets, &keyset.active_keys)?;
    EstablishedChannel::new(params, proofs)
}

fn sign(key: &SecretKey, message: &BlindedMessage) -> Result<BlindSignature> {
    let mut signature = BlindSignature {
        amount: message.amount,
        keyset_id: message.keyset_id,
        c: sign_message(key, &message.blinded_secret)?,
        dleq: None,
    };
    signature.add_dleq_proof(&message.blinded_secret, key)?;
    Ok(signature)
}

/// The payer, who keeps the channel.
fn client(channel: &EstablishedChannel, payer: SecretKey) -> Result<Client> {
    let params = &channel.params;
    let funding = ClientChannelFunding {
        params_json: params.get_channel_id_params_json(),
        funding_proofs_json: serde_json::to_string(&channel.funding_proofs)?,
        channel_secret_hex: hex::encode(params.channel_secret),
        keyset_info_json: serde_json::to_string(&params.keyset_info)?,
        sender_pubkey_hex: params.sender_pubkey.to_hex(),
        capacity: params.capacity,
        funding_token_amount: params.funding_token_amount,
        mint_url: params.mint.clone(),
        created_at: params.setup_timestamp,
    };
    let mut host = ConfigurableClientHost::new_in_memory();
    host.add_key(payer);
    host.save_channel_funding(&params.get_channel_id(), funding);
    Ok(SpilmanClientBridge::new(host, NoMint))
}

/// As the crate's `build_payment_header` encodes a payment.
fn header(payment: &Payment) -> Result<String> {
    Ok(STANDARD.encode(serde_json::to_string(payment)?))
}

/// Payments need no mint.
struct NoMint;

impl SpilmanClientNetworking for NoMint {
    fn call_mint_swap(&self, _mint: &str, _swap: &str) -> Result<String, String> {
        Err("there is no mint".into())
    }
}
