//! MPP session: a payment is a voucher, the payer's EIP-712 signature over the sum of all payments of a channel.
//!
//! The server reads the channel's escrow from the chain at every voucher. That reply comes from memory here, through
//! the mock transport of alloy: encoding the call and decoding the reply are measured, the network is not. Of the two
//! escrows that the crate knows, the contract is used: the precompile of TIP-1034 needs a descriptor in every voucher.

use std::sync::Arc;

use alloy::primitives::{Address, B256, Bytes};
use alloy::providers::ProviderBuilder;
use alloy::providers::mock::Asserter;
use alloy::sol_types::SolValue;
use anyhow::{Context, Error, Result, ensure};
use mpp::protocol::methods::tempo::voucher::verify_voucher;
use mpp::server::{
    ErrorCode, Mpp, SessionChallengeOptions, SessionChannelStore, SessionMethodConfig, TempoChargeMethod,
    TempoProvider, TempoSessionMethod,
};
use mpp::tempo::{
    ChannelState, MODERATO_CHAIN_ID, SessionCredentialPayload, compute_channel_id, sign_voucher,
};
use mpp::{PaymentChallenge, PaymentCredential, PrivateKeySigner, format_authorization, parse_authorization};
use tempo_alloy::TempoNetwork;
use tokio::runtime::{Builder, Runtime};

use crate::measure::Batch;

pub const WHAT: &str = "an `Authorization: Payment` header with a voucher one price higher than the last: \
    mpp::parse_authorization and mpp::server::Mpp::verify_session with the crate's TempoSessionMethod and \
    SessionChannelStore in memory (HMAC of the challenge, EIP-712 signature recovery, monotonic amount, record) on the \
    legacy escrow contract; the eth_call for the escrow's state, which it makes at every voucher, is answered by alloy's \
    mock transport";

const VOUCHERS: u128 = 1_000;
const PRICE: u128 = 100;
const CURRENCY: Address = Address::repeat_byte(0x20);
const ESCROW: Address = Address::repeat_byte(0x55);
const PAYEE: Address = Address::repeat_byte(0x22);

/// A channel with every voucher that can be made in it.
pub struct Vouchers {
    runtime: Runtime,
    server: Mpp<TempoChargeMethod<TempoProvider>, TempoSessionMethod<TempoProvider>>,
    store: Arc<SessionChannelStore>,
    /// What the chain answers next.
    chain: Asserter,
    /// Before the first voucher.
    channel: ChannelState,
    id: B256,
    challenge: PaymentChallenge,
    vouchers: Vec<Voucher>,
}

struct Voucher {
    amount: u128,
    signature: Bytes,
    header: String,
}

impl Vouchers {
    /// Plays the chain and the payer.
    pub fn open() -> Result<Self> {
        let runtime = Builder::new_current_thread().build()?;
        let chain = Asserter::new();
        let provider =
            ProviderBuilder::new_with_network::<TempoNetwork>().connect_mocked_client(chain.clone());
        let store = Arc::new(SessionChannelStore::new());
        let config = SessionMethodConfig {
            escrow_contract: ESCROW,
            chain_id: MODERATO_CHAIN_ID,
            min_voucher_delta: 0,
        };
        let session = TempoSessionMethod::new(provider.clone(), store.clone(), config);
        let server = Mpp::new_with_config(
            TempoChargeMethod::new(provider),
            "api.example.com",
            "a secret of the server, with more than 32 bytes",
            CURRENCY.to_string(),
            PAYEE.to_string(),
        )
        .with_session_method(session);
        // The usual five minutes might end before the measurement.
        let options = SessionChallengeOptions {
            unit_type: Some("request"),
            expires: Some("2100-01-01T00:00:00Z"),
            ..SessionChallengeOptions::default()
        };
        let challenge = server.session_challenge_with_details(
            &PRICE.to_string(),
            &CURRENCY.to_string(),
            &PAYEE.to_string(),
            options,
        )?;

        let signer = PrivateKeySigner::random();
        let payer = signer.address();
        let id = compute_channel_id(payer, PAYEE, CURRENCY, B256::ZERO, payer, ESCROW, MODERATO_CHAIN_ID);
        let channel = channel(id, payer);
        let mut open = Self { runtime, server, store, chain, channel, id, challenge, vouchers: Vec::new() };
        for amount in (1..=VOUCHERS).map(|count| count * PRICE) {
            let signing = sign_voucher(&signer, id, amount, ESCROW, MODERATO_CHAIN_ID);
            let signature = open.runtime.block_on(signing)?;
            let header = open.header(amount, &signature)?;
            open.vouchers.push(Voucher { amount, signature, header });
        }
        Ok(open)
    }

    /// Asserts what is accepted and what is not.
    pub fn assert_refusals(&self) -> Result<()> {
        let [first, second] = [&self.vouchers[0], &self.vouchers[1]];
        self.reset(3);
        let raised = self.runtime.block_on(self.refusal(&self.header(second.amount, &first.signature)?));
        ensure!(raised == Some(ErrorCode::InvalidSignature), "a raised amount: {raised:?}");
        self.runtime.block_on(self.accept_one(&first.header))?;
        let again = self.runtime.block_on(self.refusal(&first.header));
        ensure!(again == Some(ErrorCode::DeltaTooSmall), "a voucher a second time: {again:?}");

        let stored = self.store.get_channel_sync(&self.channel.channel_id).context("the channel is gone")?;
        ensure!(stored.highest_voucher_amount == first.amount, "the voucher was not recorded");
        ensure!(self.is_signed(first.amount, &first.signature), "a good signature");
        ensure!(!self.is_signed(second.amount, &first.signature), "a raised amount");
        Ok(())
    }

    /// Every voucher of a new channel.
    pub fn accept(&self) -> Result<Batch> {
        self.reset(self.vouchers.len());
        let accept = async {
            for voucher in &self.vouchers {
                self.accept_one(&voucher.header).await?;
            }
            Ok(())
        };
        Batch::time(self.vouchers.len(), || self.runtime.block_on(accept))
    }

    /// The signature of every voucher, given its fields.
    pub fn verify(&self) -> Result<Batch> {
        Batch::time(self.vouchers.len(), || {
            for voucher in &self.vouchers {
                ensure!(self.is_signed(voucher.amount, &voucher.signature), "a good signature");
            }
            Ok(())
        })
    }

    async fn accept_one(&self, header: &str) -> Result<()> {
        let credential = parse_authorization(header)?;
        self.server.verify_session(&credential).await?;
        Ok(())
    }

    async fn refusal(&self, header: &str) -> Option<ErrorCode> {
        let credential = parse_authorization(header).ok()?;
        self.server.verify_session(&credential).await.err()?.code
    }

    fn is_signed(&self, amount: u128, signature: &[u8]) -> bool {
        let signer = self.channel.authorized_signer;
        verify_voucher(ESCROW, MODERATO_CHAIN_ID, self.id, amount, signature, signer)
    }

    /// Forgets the accepted vouchers, and lets the chain answer as often.
    fn reset(&self, calls: usize) {
        self.store.insert(&self.channel.channel_id, self.channel.clone());
        let ChannelState { payer, payee, token, authorized_signer, deposit, .. } = self.channel;
        // As the escrow's `getChannel` returns it: finalized, closeRequestedAt, ..., deposit, settled.
        let reply = (false, 0_u64, payer, payee, token, authorized_signer, deposit, 0_u128);
        let reply = Bytes::from(reply.abi_encode_params());
        for _ in 0..calls {
            self.chain.push_success(&reply);
        }
    }

    fn header(&self, amount: u128, signature: &Bytes) -> Result<String> {
        let payload = SessionCredentialPayload::Voucher {
            channel_id: self.channel.channel_id.clone(),
            descriptor: None,
            settlement_route: None,
            cumulative_amount: amount.to_string(),
            signature: signature.to_string(),
        };
        let payer = PaymentCredential::evm_did(MODERATO_CHAIN_ID, &self.channel.payer.to_string());
        let credential = PaymentCredential::with_source(self.challenge.to_echo(), payer, payload);
        format_authorization(&credential).map_err(Error::from)
    }
}

/// As stored after an `open` without a voucher.
fn channel(id: B256, payer: Address) -> ChannelState {
    ChannelState {
        channel_id: id.to_string(),
        chain_id: MODERATO_CHAIN_ID,
        escrow_contract: ESCROW,
        payer,
        payee: PAYEE,
        token: CURRENCY,
        settlement_route: None,
        authorized_signer: payer,
        deposit: VOUCHERS * PRICE,
        settled_on_chain: 0,
        highest_voucher_amount: 0,
        highest_voucher_signature: None,
        spent: 0,
        units: 0,
        finalized: false,
        closing: false,
        pending_close: None,
        close_requested_at: 0,
        created_at: "2025-01-01T00:00:00Z".into(),
    }
}
