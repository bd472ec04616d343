//! The on-chain wallet: BIP86 (single-key Taproot) over `bdk_wallet`. It knows public keys only; signatures are made
//! from the seed at the moment they are needed.
//!
//! The wallet stages what changed. [`Wallet::save`] hands that to a durable write and forgets it only after the write
//! has succeeded.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bdk_wallet::chain::{BlockId, ChainPosition, CheckPoint};
use bdk_wallet::coin_selection::LargestFirstCoinSelection;
use bdk_wallet::error::CreateTxError;
use bdk_wallet::template::Bip86Public;
use bdk_wallet::{ChangeSet, KeychainKind, LocalOutput, Update};
use bitcoin::bip32::{ChildNumber, DerivationPath, Fingerprint, Xpub};
use bitcoin::psbt::{Input, Psbt};
use bitcoin::{
    Address, Amount, Block, BlockHash, FeeRate, Network, OutPoint, ScriptBuf, Transaction, TxIn, TxOut, Txid,
    Witness, secp256k1,
};
use farthing_chain::{Chain, ChainError};
use farthing_protocol::keys::Seed;

use crate::home::{Home, HomeError};
use crate::store::{Store, StoreError, Write};

/// Why the wallet could not do it. Nothing was spent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalletError {
    /// Too little money.
    #[error(
        "the wallet has {available} to spend, but {needed} are needed, fee included: send more to `farthing wallet address`"
    )]
    Insufficient {
        /// What can be spent now.
        available: Amount,
        /// What it takes.
        needed: Amount,
    },
    /// Another reason not to build the transaction.
    #[error("the transaction cannot be built: {0}")]
    Build(#[from] CreateTxError),
    /// A signature is missing: the wallet and the seed do not belong together.
    #[error("the seed does not sign for this wallet's coins: was it exchanged?")]
    Unsigned,
    /// The stored wallet is not of this seed, or cannot be read.
    #[error("the stored wallet does not fit this seed and network: {0}")]
    Mismatch(String),
    /// A block does not connect to those seen before.
    #[error("block {0} does not connect to the wallet's chain")]
    Disconnected(u32),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why it is not known from which block on a new wallet takes in the chain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BirthdayError {
    /// The data folder.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The node.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The chain is shorter.
    #[error(
        "the wallet's birthday is block {0}, which the node does not have yet: wait until it has synchronised"
    )]
    NotThere(u32),
}

/// From which block on a new wallet takes in the chain: a seed made here has no coins before now, a restored one may have
/// them from its birthday on.
///
/// # Errors
/// When the node or the folder cannot be asked.
pub fn birthday(home: &Home, chain: &Chain) -> Result<farthing_chain::BlockId, BirthdayError> {
    let Some(height) = home.birthday()? else { return Ok(chain.tip()?) };
    chain.block_hash(height)?.ok_or(BirthdayError::NotThere(height))?;
    // What the wallet begins with counts as seen, and coins may be in the block of that height itself.
    let before = height.saturating_sub(1);
    let hash = chain.block_hash(before)?.ok_or(BirthdayError::NotThere(height))?;
    Ok(farthing_chain::BlockId { height: before, hash })
}

/// What the wallet holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// In blocks, and free to spend.
    pub confirmed: Amount,
    /// Change of our own transactions that are not in a block yet.
    pub pending: Amount,
    /// Mined and not mature.
    pub immature: Amount,
}

impl Balance {
    /// Everything.
    pub fn total(&self) -> Amount {
        self.confirmed + self.pending + self.immature
    }
}

/// An output of the wallet's.
#[derive(Clone, Debug)]
pub struct Coin {
    /// Where it is.
    pub outpoint: OutPoint,
    /// What it is.
    pub output: TxOut,
    /// The transaction that makes it, if that is in no block yet.
    pub unconfirmed: Option<Arc<Transaction>>,
}

/// The on-chain wallet.
pub struct Wallet {
    inner: bdk_wallet::Wallet,
    seed: Arc<Seed>,
    fingerprint: Fingerprint,
    /// Which of the unused addresses was handed out again last.
    turn: usize,
}

/// How many addresses may wait for their first coin: one less than other wallets look ahead.
const MOST_UNUSED: usize = 19;

impl Wallet {
    /// Opens the stored wallet, or makes one that knows the chain from `birthday` on.
    ///
    /// # Errors
    /// When the stored wallet is of another seed, or the database fails.
    pub fn open(
        store: &mut Store,
        seed: Arc<Seed>,
        birthday: farthing_chain::BlockId,
    ) -> Result<Self, WalletError> {
        let network = seed.network();
        let secp = secp256k1::Secp256k1::new();
        let root = seed.root();
        let fingerprint = root.fingerprint(&secp);
        let account = root.derive_priv(&secp, &account_path(network)).expect("hardened indexes below 2^31");
        let account = Xpub::from_priv(&secp, &account);
        let descriptor = |keychain| Bip86Public(account, fingerprint, keychain);
        let (external, internal) = (descriptor(KeychainKind::External), descriptor(KeychainKind::Internal));
        let mismatch = |error: &dyn std::fmt::Display| WalletError::Mismatch(error.to_string());
        if let Some(changes) = store.wallet()? {
            let inner = bdk_wallet::Wallet::load()
                .descriptor(KeychainKind::External, Some(external))
                .descriptor(KeychainKind::Internal, Some(internal))
                .check_network(network)
                .load_wallet_no_persist(changes)
                .map_err(|error| mismatch(&error))?
                .ok_or_else(|| mismatch(&"it is empty"))?;
            return Ok(Self { inner, seed, fingerprint, turn: 0 });
        }
        let mut inner = bdk_wallet::Wallet::create(external, internal)
            .network(network)
            .create_wallet_no_persist()
            .map_err(|error| mismatch(&error))?;
        if birthday.height > 0 {
            let genesis = inner.latest_checkpoint().block_id();
            let birthday = BlockId { height: birthday.height, hash: birthday.hash };
            let chain = CheckPoint::from_block_ids([genesis, birthday])
                .map_err(|_| WalletError::Disconnected(birthday.height))?;
            inner
                .apply_update(Update { chain: Some(chain), ..Update::default() })
                .map_err(|_| WalletError::Disconnected(birthday.height))?;
        }
        let mut wallet = Self { inner, seed, fingerprint, turn: 0 };
        wallet.save(|write| {
            let batch = store.batch()?;
            batch.write(&write)?;
            batch.commit()
        })?;
        Ok(wallet)
    }

    /// Makes what changed durable. When `write` fails, the changes stay staged for the next try.
    ///
    /// # Errors
    /// What `write` answered.
    pub fn save<E>(&mut self, write: impl FnOnce(Write) -> Result<(), E>) -> Result<(), E> {
        if let Some(changes) = self.inner.staged() {
            write(Write::Wallet(Box::new(changes.clone())))?;
            self.inner.take_staged();
        }
        Ok(())
    }

    /// What is staged, to be stored together with something else; then call [`Self::saved`].
    pub fn staged(&self) -> Option<Write> {
        self.inner.staged().map(|changes: &ChangeSet| Write::Wallet(Box::new(changes.clone())))
    }

    /// What was staged is stored.
    pub fn saved(&mut self) {
        self.inner.take_staged();
    }

    /// An address that nothing was ever sent to, and as far as possible one that was never handed out. To be saved before it is shown.
    ///
    /// Whoever restores the seed elsewhere looks no further than 20 unused addresses (BIP44), and strangers can have addresses handed
    /// out to them by opening channels that they never fund. So while 19 wait, they are handed out again, in turns.
    pub fn new_address(&mut self) -> Address {
        let unused: Vec<Address> =
            self.inner.list_unused_addresses(KeychainKind::External).map(|unused| unused.address).collect();
        if unused.len() < MOST_UNUSED {
            return self.inner.reveal_next_address(KeychainKind::External).address;
        }
        self.turn = (self.turn + 1) % unused.len();
        unused[self.turn].clone()
    }

    /// What the wallet holds.
    pub fn balance(&self) -> Balance {
        let balance = self.inner.balance();
        Balance { confirmed: balance.confirmed, pending: balance.trusted_pending, immature: balance.immature }
    }

    /// A signed transaction that pays `amount` to `script`, and not out of the change of those that are `withheld`: they may never
    /// be sent. To be saved before it is used; [`Self::release`] frees its coins again.
    ///
    /// # Errors
    /// When there is too little money besides.
    pub fn pay(
        &mut self,
        script: ScriptBuf,
        amount: Amount,
        fee_rate: FeeRate,
        withheld: &[Txid],
    ) -> Result<Transaction, WalletError> {
        let theirs = self.change_of(withheld);
        let mut builder = self.inner.build_tx();
        builder.add_recipient(script, amount).fee_rate(fee_rate).unspendable(theirs);
        let psbt = builder.finish().map_err(insufficient)?;
        let transaction = self.sign(psbt)?;
        self.take(transaction.clone());
        Ok(transaction)
    }

    /// The change of transactions that may never be sent: of those that are `withheld`, and of [`Self::prepare`]'s until they are signed
    /// here, or in a block.
    fn change_of(&self, withheld: &[Txid]) -> Vec<OutPoint> {
        let is_prepared = |transaction: &Arc<Transaction>| self.waits_for_signatures(transaction);
        let may_vanish = |coin: &Coin| {
            withheld.contains(&coin.outpoint.txid) || coin.unconfirmed.as_ref().is_some_and(is_prepared)
        };
        self.coins().iter().filter(|coin| may_vanish(coin)).map(|coin| coin.outpoint).collect()
    }

    /// Whether [`Self::prepare`] made a transaction that is neither signed here, nor in a block, nor released.
    pub fn is_prepared(&self, txid: Txid) -> bool {
        let known = self.inner.get_tx(txid).filter(|known| !known.chain_position.is_confirmed());
        known.is_some_and(|known| self.waits_for_signatures(&known.tx_node.tx))
    }

    fn waits_for_signatures(&self, transaction: &Transaction) -> bool {
        transaction.input.iter().any(|input| self.is_own(input) && input.witness.is_empty())
    }

    fn is_own(&self, input: &TxIn) -> bool {
        let spent = self.inner.tx_graph().get_txout(input.previous_output);
        spent.is_some_and(|spent| self.inner.is_mine(spent.script_pubkey.clone()))
    }

    /// As [`Self::pay`], without signatures. Its coins are set aside. To be saved before it is shown; [`Self::sign`] makes it valid,
    /// [`Self::release`] frees its coins again.
    ///
    /// # Errors
    /// When there is too little money besides.
    pub fn prepare(
        &mut self,
        script: ScriptBuf,
        amount: Amount,
        fee_rate: FeeRate,
        withheld: &[Txid],
    ) -> Result<Psbt, WalletError> {
        let theirs = self.change_of(withheld);
        let mut builder = self.inner.build_tx();
        builder.add_recipient(script, amount).fee_rate(fee_rate).unspendable(theirs);
        let psbt = builder.finish().map_err(insufficient)?;
        self.take(psbt.unsigned_tx.clone());
        Ok(psbt)
    }

    /// The coins that can be spent, as far as the wallet has seen, with the transactions of those that are in no block yet.
    pub fn coins(&self) -> Vec<Coin> {
        let coin = |output: LocalOutput| {
            let unconfirmed = match output.chain_position {
                ChainPosition::Confirmed { .. } => None,
                ChainPosition::Unconfirmed { .. } => {
                    self.inner.get_tx(output.outpoint.txid).map(|known| known.tx_node.tx)
                }
            };
            Coin { outpoint: output.outpoint, output: output.txout, unconfirmed }
        };
        self.inner.list_unspent().map(coin).collect()
    }

    /// A signed transaction that makes a coin of this wallet's that holds `amount`, out of others than `taken`. To be saved
    /// before it is used; [`Self::release`] frees its coins again.
    ///
    /// # Errors
    /// When there is too little money.
    pub fn make_coin(
        &mut self,
        amount: Amount,
        fee_rate: FeeRate,
        taken: Vec<OutPoint>,
    ) -> Result<Coin, WalletError> {
        let script = self.new_address().script_pubkey();
        let mut builder = self.inner.build_tx().coin_selection(LargestFirstCoinSelection);
        builder.add_recipient(script.clone(), amount).fee_rate(fee_rate).unspendable(taken);
        let psbt = builder.finish().map_err(insufficient)?;
        let transaction = self.sign(psbt)?;
        self.take(transaction.clone());
        let output = TxOut { value: amount, script_pubkey: script };
        let vout = transaction.output.iter().position(|other| *other == output);
        let vout = vout.expect("the wallet pays what it was asked to") as u32;
        let outpoint = OutPoint { txid: transaction.compute_txid(), vout };
        Ok(Coin { outpoint, output, unconfirmed: Some(Arc::new(transaction)) })
    }

    /// As [`Self::pay`], but everything that there is besides.
    ///
    /// # Errors
    /// When there is too little money besides.
    pub fn pay_all(
        &mut self,
        script: ScriptBuf,
        fee_rate: FeeRate,
        withheld: &[Txid],
    ) -> Result<Transaction, WalletError> {
        let theirs = self.change_of(withheld);
        let mut builder = self.inner.build_tx();
        builder.drain_wallet().drain_to(script).fee_rate(fee_rate).unspendable(theirs);
        let psbt = builder.finish().map_err(insufficient)?;
        let transaction = self.sign(psbt)?;
        self.take(transaction.clone());
        Ok(transaction)
    }

    /// What a transaction of this wallet pays to miners; `None` when it spends what is not this wallet's.
    pub fn fee(&self, transaction: &Transaction) -> Option<Amount> {
        self.inner.calculate_fee(transaction).ok()
    }

    /// The payments out of this wallet that are signed, and in no block as far as it has seen.
    pub fn unconfirmed_payments(&self) -> Vec<Arc<Transaction>> {
        let is_signed_here = |input: &TxIn| !input.witness.is_empty() && self.is_own(input);
        let unconfirmed = self.inner.transactions().filter(|known| !known.chain_position.is_confirmed());
        let transactions = unconfirmed.map(|known| known.tx_node.tx);
        transactions.filter(|transaction| transaction.input.iter().all(is_signed_here)).collect()
    }

    /// Frees the coins of a transaction that will never be broadcast.
    pub fn release(&mut self, txid: Txid) {
        // Gone is only what was not seen after it went, and this machine's clock may have been set back.
        let seen = self.inner.tx_graph().get_tx_node(txid).and_then(|known| known.last_seen);
        self.inner.apply_evicted_txs([(txid, now().max(seen.unwrap_or_default()))]);
    }

    /// Counts a transaction as paid, also one that was released before.
    fn take(&mut self, transaction: Transaction) {
        let released = self.inner.tx_graph().get_last_evicted(transaction.compute_txid());
        let seen = released.map_or(0, |at| at.saturating_add(1)).max(now());
        self.inner.apply_unconfirmed_txs([(transaction, seen)]);
    }

    /// [`Self::sign`], for a transaction that is sent now. To be saved before that; [`Self::release`] frees its coins again.
    ///
    /// # Errors
    /// When an input is not this wallet's.
    pub fn complete(&mut self, psbt: Psbt) -> Result<Transaction, WalletError> {
        let transaction = self.sign(psbt)?;
        self.take(transaction.clone());
        Ok(transaction)
    }

    /// Signs every input of a transaction that is not final yet; each spends an output of this wallet by its key.
    ///
    /// # Errors
    /// When an input is not this wallet's.
    pub fn sign(&self, mut psbt: Psbt) -> Result<Transaction, WalletError> {
        let secp = self.inner.secp_ctx();
        let root = self.seed.root();
        let is_ours = |input: &&mut Input| input.final_script_witness.is_none();
        for input in psbt.inputs.iter_mut().filter(is_ours) {
            let output = input.witness_utxo.as_ref().ok_or(WalletError::Unsigned)?;
            let script = output.script_pubkey.clone();
            let (keychain, index) = self.inner.derivation_of_spk(script).ok_or(WalletError::Unsigned)?;
            let path = account_path(self.inner.network())
                .extend([ChildNumber::Normal { index: keychain as u32 }, ChildNumber::Normal { index }]);
            let key = root.derive_priv(secp, &path).expect("indexes below 2^31").private_key;
            let internal = key.x_only_public_key(secp).0;
            input.tap_internal_key = Some(internal);
            input.tap_key_origins = [(internal, (Vec::new(), (self.fingerprint, path)))].into();
        }
        psbt.sign(&root, secp).map_err(|_| WalletError::Unsigned)?;
        for input in psbt.inputs.iter_mut().filter(is_ours) {
            let signature = input.tap_key_sig.ok_or(WalletError::Unsigned)?;
            input.final_script_witness = Some(Witness::p2tr_key_spend(&signature));
        }
        psbt.extract_tx().map_err(|_| WalletError::Unsigned)
    }

    /// The last block that the wallet has seen, then those before it that it remembers.
    pub fn checkpoints(&self) -> impl Iterator<Item = farthing_chain::BlockId> {
        self.inner.checkpoints().map(|checkpoint| farthing_chain::BlockId {
            height: checkpoint.height(),
            hash: checkpoint.hash(),
        })
    }

    /// Takes in a block that follows `parent`, which the wallet has seen. Blocks above `parent` are forgotten.
    ///
    /// # Errors
    /// When the wallet has not seen `parent`.
    pub fn connect(
        &mut self,
        block: &Block,
        height: u32,
        parent: farthing_chain::BlockId,
    ) -> Result<BlockHash, WalletError> {
        let connected_to = BlockId { height: parent.height, hash: parent.hash };
        self.inner
            .apply_block_connected_to(block, height, connected_to)
            .map_err(|_| WalletError::Disconnected(height))?;
        Ok(block.block_hash())
    }
}

fn account_path(network: Network) -> DerivationPath {
    let coin = if network == Network::Bitcoin { 0 } else { 1 };
    [86, coin, 0].map(|index| ChildNumber::Hardened { index }).as_slice().into()
}

fn insufficient(error: CreateTxError) -> WalletError {
    match error {
        CreateTxError::CoinSelection(short) => {
            WalletError::Insufficient { available: short.available, needed: short.needed }
        }
        other => WalletError::Build(other),
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bitcoin::absolute::LockTime;
    use bitcoin::constants::genesis_block;
    use bitcoin::hashes::Hash as _;
    use bitcoin::transaction::Version;

    use super::*;

    fn wallet(folder: &std::path::Path, name: &str) -> Wallet {
        let mut store = Store::open(&folder.join(name)).unwrap();
        let seed = Arc::new(Seed::new([7; 64], Network::Regtest));
        let birthday =
            farthing_chain::BlockId { height: 0, hash: genesis_block(Network::Regtest).block_hash() };
        Wallet::open(&mut store, seed, birthday).unwrap()
    }

    /// Gives the wallet a coin that somebody else's transaction makes.
    fn give(wallet: &mut Wallet, number: u8, value: Amount) {
        let coin = TxOut { value, script_pubkey: wallet.new_address().script_pubkey() };
        let paying = Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: vec![TxIn {
                previous_output: OutPoint { txid: Txid::from_byte_array([number; 32]), vout: 0 },
                ..TxIn::default()
            }],
            output: vec![coin],
        };
        wallet.inner.apply_unconfirmed_txs([(paying, u64::from(number))]);
    }

    /// A machine without a clock of its own may start in the past. What is released and still counted as paid would be sent again.
    #[test]
    fn coins_are_free_again_also_when_the_clock_went_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut wallet = wallet(folder.path(), "db");
        let value = Amount::from_sat(50_000);
        give(&mut wallet, 1, value);
        let elsewhere = ScriptBuf::new_p2wsh(&bitcoin::WScriptHash::all_zeros());
        let pays =
            |wallet: &mut Wallet| wallet.pay_all(elsewhere.clone(), FeeRate::BROADCAST_MIN, &[]).unwrap();
        let paid = pays(&mut wallet);
        wallet.inner.apply_unconfirmed_txs([(paid.clone(), now() + 86_400)]);
        assert_eq!((wallet.unconfirmed_payments().len(), wallet.inner.balance().total()), (1, Amount::ZERO));

        wallet.release(paid.compute_txid());

        assert_eq!((wallet.unconfirmed_payments().len(), wallet.inner.balance().total()), (0, value));
        // The very same payment takes them again.
        assert_eq!(pays(&mut wallet).compute_txid(), paid.compute_txid());
        assert_eq!((wallet.unconfirmed_payments().len(), wallet.inner.balance().total()), (1, Amount::ZERO));
    }

    #[test]
    fn however_many_addresses_are_handed_out_a_restored_wallet_finds_what_they_got() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = wallet(folder.path(), "first.sqlite");
        let handed: BTreeSet<String> = (0..100).map(|_| first.new_address().to_string()).collect();
        assert_eq!(handed.len(), MOST_UNUSED);

        let mut restored = wallet(folder.path(), "restored.sqlite");
        let mut value = Amount::ZERO;
        for round in 1..=50 {
            let coin = TxOut {
                value: Amount::from_sat(10_000 + round),
                script_pubkey: first.new_address().script_pubkey(),
            };
            value += coin.value;
            let paying = Transaction {
                version: Version::TWO,
                lock_time: LockTime::ZERO,
                input: vec![TxIn {
                    previous_output: OutPoint { txid: Txid::from_byte_array([round as u8; 32]), vout: 0 },
                    ..TxIn::default()
                }],
                output: vec![coin],
            };
            for wallet in [&mut first, &mut restored] {
                wallet.inner.apply_unconfirmed_txs([(paying.clone(), round)]);
            }
        }
        let highest = first.inner.derivation_index(KeychainKind::External).unwrap();
        assert!(highest >= 50, "new ones are handed out: {highest}");
        assert_eq!(first.inner.balance().total(), value);
        assert_eq!(restored.inner.balance().total(), value);
    }
}
