//! What LDK's tests make their nodes' keys with: channels that a node opens are a device's, those that it accepts are a bridge's.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use bitcoin::absolute::LockTime;
use bitcoin::hashes::{Hash as _, sha256};
use bitcoin::secp256k1::ecdh::SharedSecret;
use bitcoin::secp256k1::ecdsa::RecoverableSignature;
use bitcoin::secp256k1::{All, Scalar, Secp256k1, ecdsa, schnorr};
use bitcoin::{FeeRate, ScriptBuf, Transaction, TxOut};
use farthing_node::cabinet::Cabinet;
use lightning::bolt11_invoice::RawBolt11Invoice;
use lightning::ln::inbound_payment::ExpandedKey;
use lightning::ln::msgs::UnsignedGossipMessage;
use lightning::ln::script::ShutdownScript;
use lightning::offers::invoice::UnsignedBolt12Invoice;
use lightning::sign::{
    EntropySource, NodeSigner, OutputSpender, PeerStorageKey, PhantomKeysManager, ReceiveAuthKey, Recipient,
    SignerProvider, SpendableOutputDescriptor,
};
use lightning::util::dyn_signer::{DynKeysInterfaceTrait, DynPhantomKeysInterface, DynSigner};
use lightning::util::test_utils::TestSignerFactory;
use secp256k1::PublicKey;
use tempfile::TempDir;

use crate::bridge::{Bridge, Funding};
use crate::channel::Channel;
use crate::ours::Ours;
use crate::owner::OWNER;
use crate::wire::lock;

/// All channels of devices in this process, as the gateway names them. A node that a test starts again finds its own.
static CHANNELS: LazyLock<Mutex<HashMap<[u8; 32], Arc<Channel>>>> = LazyLock::new(Mutex::default);
/// What the signers of accepted channels sign for.
static FUNDINGS: LazyLock<Mutex<HashMap<[u8; 32], Funding>>> = LazyLock::new(Mutex::default);
/// Where the desks keep what must survive a restart.
static DISK: LazyLock<(TempDir, Arc<Cabinet>)> = LazyLock::new(|| {
    let folder = TempDir::new().expect("a folder for temporary files");
    let cabinet = Cabinet::open(&folder.path().join("desks.sqlite")).expect("a new database");
    (folder, Arc::new(cabinet))
});

/// Makes the keys of the suite's nodes.
pub struct Factory;

impl TestSignerFactory for Factory {
    fn make_signer(
        &self,
        seed: &[u8; 32],
        now: Duration,
        v2_remote_key_derivation: bool,
    ) -> Box<dyn DynKeysInterfaceTrait<EcdsaSigner = DynSigner>> {
        let (seconds, nanos) = (now.as_secs(), now.subsec_nanos());
        let stock = PhantomKeysManager::new(seed, seconds, nanos, seed, v2_remote_key_derivation);
        Box::new(Node { stock: DynPhantomKeysInterface::new(stock), seed: *seed, opened: Mutex::new(0) })
    }
}

/// One node's keys: LDK's for all but the channels that it opens.
struct Node {
    stock: DynPhantomKeysInterface,
    seed: [u8; 32],
    opened: Mutex<u64>,
}

impl SignerProvider for Node {
    type EcdsaSigner = DynSigner;

    fn generate_channel_keys_id(&self, inbound: bool, user_channel_id: u128) -> [u8; 32] {
        if inbound {
            return self.stock.generate_channel_keys_id(inbound, user_channel_id);
        }
        let script = self.stock.get_shutdown_scriptpubkey().expect("LDK's own keys have one");
        let mut opened = lock(&self.opened);
        let id = loop {
            *opened += 1;
            let id = sha256::Hash::hash(&[&self.seed[..], &opened.to_be_bytes()].concat()).to_byte_array();
            if !lock(&CHANNELS).contains_key(&id) {
                break id;
            }
        };
        let channel = Channel::new(id, script.into_inner(), &DISK.1).expect("a new channel needs nobody");
        lock(&CHANNELS).insert(id, Arc::new(channel));
        id
    }

    fn derive_channel_signer(&self, id: [u8; 32]) -> DynSigner {
        if let Some(channel) = lock(&CHANNELS).get(&id) {
            return DynSigner::new(Ours::new(channel.clone()));
        }
        let funding = lock(&FUNDINGS).entry(id).or_default().clone();
        DynSigner::new(Bridge::new(self.stock.derive_channel_signer(id), funding))
    }

    fn get_destination_script(&self, id: [u8; 32]) -> Result<ScriptBuf, ()> {
        self.stock.get_destination_script(id)
    }

    fn get_shutdown_scriptpubkey(&self) -> Result<ShutdownScript, ()> {
        self.stock.get_shutdown_scriptpubkey()
    }
}

impl OutputSpender for Node {
    /// What closings of ours leave is the owner's, who spends it; the rest is LDK's.
    fn spend_spendable_outputs(
        &self,
        descriptors: &[&SpendableOutputDescriptor],
        outputs: Vec<TxOut>,
        change: ScriptBuf,
        rate: u32,
        locktime: Option<LockTime>,
        secp: &Secp256k1<All>,
    ) -> Result<Transaction, ()> {
        let claims: Vec<_> = descriptors.iter().filter_map(|descriptor| OWNER.claim(descriptor)).collect();
        match claims.len() {
            0 => self.stock.spend_spendable_outputs(descriptors, outputs, change, rate, locktime, secp),
            all if all == descriptors.len() && outputs.is_empty() => {
                OWNER.sweep(&claims, &change, FeeRate::from_sat_per_kwu(u64::from(rate))).ok_or(())
            }
            _mixed => Err(()),
        }
    }
}

impl EntropySource for Node {
    fn get_secure_random_bytes(&self) -> [u8; 32] {
        self.stock.get_secure_random_bytes()
    }
}

impl NodeSigner for Node {
    fn get_expanded_key(&self) -> ExpandedKey {
        self.stock.get_expanded_key()
    }

    fn get_peer_storage_key(&self) -> PeerStorageKey {
        self.stock.get_peer_storage_key()
    }

    fn get_receive_auth_key(&self) -> ReceiveAuthKey {
        self.stock.get_receive_auth_key()
    }

    fn get_node_id(&self, recipient: Recipient) -> Result<PublicKey, ()> {
        self.stock.get_node_id(recipient)
    }

    fn ecdh(
        &self,
        recipient: Recipient,
        other: &PublicKey,
        tweak: Option<&Scalar>,
    ) -> Result<SharedSecret, ()> {
        self.stock.ecdh(recipient, other, tweak)
    }

    fn sign_invoice(
        &self,
        invoice: &RawBolt11Invoice,
        recipient: Recipient,
    ) -> Result<RecoverableSignature, ()> {
        self.stock.sign_invoice(invoice, recipient)
    }

    fn sign_bolt12_invoice(&self, invoice: &UnsignedBolt12Invoice) -> Result<schnorr::Signature, ()> {
        self.stock.sign_bolt12_invoice(invoice)
    }

    fn sign_gossip_message(&self, message: UnsignedGossipMessage) -> Result<ecdsa::Signature, ()> {
        self.stock.sign_gossip_message(message)
    }

    fn sign_message(&self, message: &[u8]) -> Result<String, ()> {
        self.stock.sign_message(message)
    }
}

impl DynKeysInterfaceTrait for Node {}
