//! What a seller's books let go: channels that are over, openings that came to nothing, chains of words that are used up.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash as _;
use bitcoin::transaction::Version;
use bitcoin::{Amount, BlockHash, FeeRate, Network, OutPoint, ScriptBuf, Transaction, TxIn, TxOut, Txid};
use farthing_protocol::channel::Expiry;
use farthing_protocol::hashlock::Delay;
use farthing_protocol::keys::{ChannelKeys, KeyId};
use farthing_protocol::lightspeed::{Call, CallNumber, Shape, Tab, Words, ladder};
use farthing_protocol::payee::{self, Input, Policy, Reject};
use farthing_protocol::sighting::{Funding, Sighting};
use farthing_protocol::{Params, Party, Payment, commitment, payer};

use super::*;
use crate::machine::{Payee, PayeeRecord};

const BASE: Msat = Msat::new(600_000);
const SHAPE: Shape = Shape { unit: Msat::new(10_000), words: 100, rungs: 4, delay: Delay::blocks(36) };

pub(crate) struct Story {
    folder: tempfile::TempDir,
    books: Option<Books<Payee>>,
}

impl Story {
    pub(crate) fn begin() -> Self {
        let mut story = Self { folder: tempfile::tempdir().unwrap(), books: None };
        story.restart();
        story
    }

    /// Ends the books and opens them over what is stored.
    fn restart(&mut self) {
        self.books = None;
        let (books, resumed) = Books::open(self.store(), &payees_seed(), Arc::new(NoDesk)).unwrap();
        assert!(resumed.is_empty());
        self.books = Some(books);
    }

    fn store(&self) -> Store {
        Store::open(&self.folder.path().join("db")).unwrap()
    }

    pub(crate) fn books(&self) -> &Books<Payee> {
        self.books.as_ref().unwrap()
    }

    /// Accepts the opening of a channel over the output of that number.
    pub(crate) fn opens(&self, number: u8) -> Result<ChannelId, OrderError<Reject>> {
        let (record, setup) = setup(number);
        let id = setup.channel.id();
        let (keys, channel) = (payers_keys(), Payee::setup(&record, &payees_seed()).unwrap().channel);
        let proposal = payer::propose(&payer::Setup { channel, keys, funding: nothing(), finality: 6 });
        let (_, effects) = proposal.commit(|_| Ok::<_, ()>(())).unwrap();
        let Some(payer::Effect::Propose(opening)) = effects.into_iter().next() else { panic!("no proposal") };
        let transition = payee::accept(&setup, &opening.signature).unwrap();
        self.books().add_blocking(record, setup, transition, Vec::new())?;
        Ok(id)
    }

    fn pays(&self, id: ChannelId, number: u8) {
        let payment = Some(payment(number));
        self.books().handle_blocking(id, Input::Charge { payment, cost: Msat::ZERO }).unwrap();
    }

    fn sees(&self, id: ChannelId, funding: Funding) {
        let sighting =
            Sighting { height: 100, fee_rate: FeeRate::BROADCAST_MIN, funding, locked: Vec::new() };
        self.books().handle_blocking(id, Input::Sighted(sighting)).unwrap();
    }

    /// The funding turns out to be of another amount: the channel is over, whatever was paid in it.
    fn ends(&self, id: ChannelId) {
        let output = TxOut { value: Amount::ONE_SAT, script_pubkey: ScriptBuf::new() };
        self.sees(id, Funding::Confirmed { output, confirmations: 1 });
    }

    fn names(&self) -> Vec<(ChannelId, &'static str)> {
        let entries = self.books().list_blocking().unwrap();
        let mut names: Vec<_> = entries.iter().map(|entry| (entry.id, entry.state.name())).collect();
        names.sort_unstable();
        names
    }

    fn watched(&self) -> Vec<ChannelId> {
        self.books().watched_blocking().unwrap().iter().map(|watched| watched.id).collect()
    }

    /// The numbers of the chains that are stored.
    fn chains(&self, id: ChannelId) -> Vec<u32> {
        let ladders = self.store().ladders(id, 0).unwrap();
        ladders.iter().map(|ladder| ladder.terms().number).collect()
    }
}

fn payees_seed() -> Seed {
    Seed::new([2; 64], Network::Regtest)
}

fn payers_keys() -> ChannelKeys {
    Seed::new([1; 64], Network::Regtest).channel_keys(KeyId::from_u64(1))
}

pub(crate) fn setup(number: u8) -> (PayeeRecord, payee::Setup) {
    let key = KeyId::from_u64(2);
    let party = |keys: &ChannelKeys| Party {
        funding: keys.funding(),
        session: keys.session(),
        output: ScriptBuf::new_p2tr(secp256k1::SECP256K1, keys.session().x_only_public_key().0, None),
    };
    let params = Params {
        network: Network::Regtest,
        funding: OutPoint { txid: Txid::from_byte_array([number; 32]), vout: 0 },
        capacity: Amount::from_sat(100_000),
        expiry: Expiry::at_height(900_000),
        fee_rate: FeeRate::from_sat_per_vb_u32(2),
        prepaid: Amount::from_sat(600),
        payer: party(&payers_keys()),
        payee: party(&payees_seed().channel_keys(key)),
    };
    let policy =
        Policy { confirmations: 1, unconfirmed_cap: Msat::ZERO, margin: 36, patience: 6, finality: 6 };
    let record = PayeeRecord { params, key, policy };
    let setup = Payee::setup(&record, &payees_seed()).unwrap();
    (record, setup)
}

pub(crate) fn payment(number: u8) -> Payment {
    commitment::sign(&setup(number).1.channel, &payers_keys(), BASE)
}

fn nothing() -> Transaction {
    Transaction { version: Version::TWO, lock_time: LockTime::ZERO, input: Vec::new(), output: Vec::new() }
}

#[test]
fn a_channel_that_is_over_is_on_disk_only_and_is_still_listed_and_refused() {
    let mut story = Story::begin();
    let (over, open) = (story.opens(1).unwrap(), story.opens(2).unwrap());
    story.pays(over, 1);
    story.ends(over);
    let mut expected = vec![(over, "closed"), (open, "awaiting depth")];
    expected.sort_unstable();
    for _ in 0..2 {
        // An order that comes after the one that ended it: the books answer first, and let go then.
        assert!(story.books().state_blocking(over).unwrap().is_none());
        assert!(story.books().setup(&over).is_none() && story.books().setup(&open).is_some());
        assert_eq!((story.names(), story.watched()), (expected.clone(), vec![open]));
        let listed = story.books().list_blocking().unwrap();
        let paid = listed.iter().find(|entry| entry.id == over).unwrap().state.ledger().paid();
        assert_eq!(paid, BASE, "what was paid is listed");
        let late = story.books().handle_blocking(over, Input::Close);
        assert!(matches!(late, Err(OrderError::Rejected(Reject::NotOpen("closed")))), "{late:?}");
        let again = story.opens(1);
        assert!(matches!(again, Err(OrderError::FundingTaken(_))), "{again:?}");
        let nowhere = story.books().handle_blocking(ChannelId::from_bytes([9; 32]), Input::Close);
        assert!(matches!(nowhere, Err(OrderError::NoChannel(_))), "{nowhere:?}");
        story.restart();
    }
}

/// A payer chooses what its refund pays, and so what might follow from it: that has to have an end.
#[test]
fn nothing_is_noted_of_a_channel_that_has_ended() {
    let mut story = Story::begin();
    let (over, _open) = (story.opens(1).unwrap(), story.opens(2).unwrap());
    let spends = |previous_output| Transaction {
        input: vec![TxIn { previous_output, ..TxIn::default() }],
        output: vec![TxOut { value: Amount::from_sat(1_000), script_pubkey: ScriptBuf::new() }],
        ..nothing()
    };
    let [first, second] = [1, 2].map(|number| spends(setup(number).0.params.funding));
    let noted = |story: &Story, by: &Transaction| {
        let follow = OutPoint { txid: by.compute_txid(), vout: 0 };
        let mut followed = story.books().followed_blocking().unwrap();
        (
            followed.take_in(by).len(),
            story.books().followed_blocking().unwrap().take_in(&spends(follow)).len(),
        )
    };
    assert_eq!([&first, &second].map(|by| noted(&story, by)), [(1, 0); 2]);
    for by in [&first, &second] {
        let (outpoints, block) = (vec![by.input[0].previous_output], BlockHash::all_zeros());
        let spend = Spend { outpoints, by: by.clone(), block, height: 1 };
        story.books().write_blocking(vec![Write::Spend(Box::new(spend))]).unwrap();
    }
    assert_eq!([&first, &second].map(|by| noted(&story, by)), [(1, 1); 2]);
    story.pays(over, 1);
    story.ends(over);
    for _ in 0..2 {
        assert_eq!([&first, &second].map(|by| noted(&story, by)), [(0, 0), (1, 1)]);
        // As layout 6 left it.
        let connection = rusqlite::Connection::open(story.folder.path().join("db")).unwrap();
        connection.execute("UPDATE channels SET ended = 0", []).unwrap();
        story.restart();
    }
}

#[test]
fn an_opening_that_nobody_funded_leaves_nothing_and_may_come_again() {
    let mut story = Story::begin();
    let (id, paid, other) = (story.opens(1).unwrap(), story.opens(3).unwrap(), story.opens(2).unwrap());
    // All have states in the journal by then.
    story.sees(id, Funding::Unseen);
    story.pays(paid, 3);
    story.pays(other, 2);
    story.sees(other, Funding::Confirmed { output: setup(2).1.channel.funding_txout(), confirmations: 1 });
    story.books().handle_blocking(other, Input::Charge { payment: None, cost: BASE }).unwrap();
    story.sees(other, Funding::Unseen);
    assert!(!story.books().forget_blocking(other).unwrap(), "something was given for its payment");
    assert!(story.books().forget_blocking(paid).unwrap(), "anybody can sign a payment");
    assert!(story.books().forget_blocking(id).unwrap());
    assert!(!story.books().forget_blocking(id).unwrap());
    assert_eq!(story.watched(), [other]);
    let late = story.books().handle_blocking(id, Input::Charge { payment: None, cost: Msat::ZERO });
    assert!(matches!(late, Err(OrderError::NoChannel(_))), "{late:?}");
    story.restart();
    assert_eq!(story.names(), [(other, "awaiting depth")]);
    let ledger = story.books().state_blocking(other).unwrap().unwrap().ledger();
    assert_eq!(ledger.newest, Some(payment(2)), "what was in the journal is not lost with it");

    assert_eq!(story.opens(1).unwrap(), id);
    story.sees(id, Funding::Confirmed { output: setup(1).1.channel.funding_txout(), confirmations: 1 });
    assert!(!story.books().forget_blocking(id).unwrap(), "it is funded");
    story.restart();
    assert!(story.names().contains(&(id, "open")));
}

#[test]
fn places_are_counted_and_the_oldest_is_named() {
    let story = Story::begin();
    let places = || story.books().places_blocking(payee::State::is_unfunded).unwrap();
    assert_eq!(places(), Places::default());
    let (id, other) = (story.opens(1).unwrap(), story.opens(2).unwrap());
    assert_eq!(places().taken, 2);
    story.sees(other, Funding::Unconfirmed(setup(2).1.channel.funding_txout()));
    let Places { taken, oldest } = places();
    assert_eq!((taken, oldest.map(|(id, _)| id)), (1, Some(id)));
}

#[test]
fn what_was_opened_before_the_clock_was_set_back_is_older_than_what_was_opened_since() {
    let mut opened = [1_000, 900, 1_300, 1_200];
    opened.sort_by_key(|at| keeper::place_in_line(*at, 1_000));
    assert_eq!(opened, [1_200, 1_300, 900, 1_000]);
}

#[test]
fn a_chain_is_deleted_when_the_next_has_begun_and_all_when_the_channel_is_over() {
    let mut story = Story::begin();
    let id = story.opens(1).unwrap();
    let (keys, channel) = (payers_keys(), setup(1).1.channel);
    story.sees(id, Funding::Confirmed { output: channel.funding_txout(), confirmations: 1 });
    story.pays(id, 1);
    let mut tab = Tab::new(payment(1), Msat::ZERO);
    tab.begin(1);
    let announce = |tab: &mut Tab, number: u32| {
        let words = Words::draw(&keys, id, &SHAPE, number);
        let (_, base) = tab.next_chain().unwrap();
        let rungs = ladder::sign(&channel, &keys, &words, base).unwrap();
        let ladder = Ladder::verify(&channel, *words.terms(), base, rungs, 36).unwrap();
        story.books().write_blocking(vec![Write::Ladder(id, Arc::new(ladder.clone()))]).unwrap();
        tab.announce(&ladder).unwrap();
        (words, ladder)
    };
    let (mut first, ladder) = announce(&mut tab, 1);
    let (mut second, next) = announce(&mut tab, 2);
    let fold = |story: &Story, tab: &Tab| {
        story.books().handle_blocking(id, Input::Fold(Box::new(tab.clone()))).unwrap();
    };
    fold(&story, &tab);
    assert_eq!(story.chains(id), [1, 2], "words of both may come");

    let call = Call {
        channel: id,
        number: CallNumber { epoch: 1, counter: 1 },
        cost: Msat::new(10_000),
        chain: 2,
        index: 1,
        word: second.word(1).unwrap(),
        last: first.word(SHAPE.words),
    };
    tab.admit([&ladder, &next], &call, None).unwrap();
    tab.end(call.number, Some(call.cost));
    assert_eq!(story.chains(id), [1, 2], "what is not stored does not count");
    let claim = tab.claim();
    fold(&story, &tab);
    assert_eq!(story.chains(id), [2]);

    story.restart();
    assert_eq!(story.chains(id), [2]);
    let state = story.books().state_blocking(id).unwrap().unwrap();
    assert_eq!(state.tab().unwrap().claim(), claim, "what closes alone is not in the chains");

    story.books().handle_blocking(id, Input::Close).unwrap();
    assert_eq!(story.chains(id), [2], "it is not over yet");
    let by = commitment::complete(&channel, &setup(1).1.keys, &payment(1));
    let spent = Funding::Spent { by: by.into(), confirmations: 6 };
    story.sees(id, spent);
    assert_eq!((story.names(), story.chains(id)), (vec![(id, "closed")], Vec::new()));
}

/// How often the disk may fail before a loop of the books is one without end.
const TOO_OFTEN: usize = 1_000;

/// A desk that has more accounts than one write takes, until the disk has taken them or has failed too often.
#[derive(Default)]
struct LongDesk {
    channel: OnceLock<ChannelId>,
    dirty: AtomicBool,
    not_stored: AtomicUsize,
    has_ended: AtomicBool,
}

impl Desk<Payee> for LongDesk {
    fn asked(&self, _most: usize) -> (Vec<ChannelId>, bool) {
        let is_dirty =
            self.dirty.load(Ordering::Relaxed) && self.not_stored.load(Ordering::Relaxed) < TOO_OFTEN;
        (self.channel.get().copied().filter(|_| is_dirty).into_iter().collect(), is_dirty)
    }

    fn calls(&self) -> Calls {
        Calls::default()
    }

    fn draw(&self, id: ChannelId) -> Option<Drawn<Payee>> {
        let sighting = Sighting {
            height: 100,
            fee_rate: FeeRate::BROADCAST_MIN,
            funding: Funding::Unconfirmed(setup(1).1.channel.funding_txout()),
            locked: Vec::new(),
        };
        let is_asked = self.channel.get() == Some(&id) && self.dirty.swap(false, Ordering::Relaxed);
        is_asked.then(|| Drawn { input: Input::Sighted(sighting), waiting: Vec::new() })
    }

    fn not_stored(&self, _id: ChannelId) {
        self.not_stored.fetch_add(1, Ordering::Relaxed);
        self.dirty.store(true, Ordering::Relaxed);
    }

    fn not_taken(&self, _id: ChannelId) {}

    fn turned(&self, _id: ChannelId, _state: &payee::State, _setup: &payee::Setup) {}

    fn ended(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
    }
}

/// Else whoever waits for something to be stored would wait for ever.
#[test]
fn the_desk_learns_that_the_books_are_closed() {
    let mut story = Story::begin();
    story.books = None;
    let desk = Arc::new(LongDesk::default());
    let (books, _) = Books::open(story.store(), &payees_seed(), desk.clone()).unwrap();
    assert!(!desk.has_ended.load(Ordering::Relaxed));
    drop(books);
    assert!(desk.has_ended.load(Ordering::Relaxed));
}

#[test]
fn a_disk_that_fails_holds_up_no_order_and_what_waits_is_stored_once_it_works_again() {
    let mut story = Story::begin();
    story.books = None;
    let desk = Arc::new(LongDesk::default());
    let (books, _) = Books::open(story.store(), &payees_seed(), desk.clone()).unwrap();
    story.books = Some(books);
    let id = story.opens(1).unwrap();
    let disk = rusqlite::Connection::open(story.folder.path().join("db")).unwrap();
    let full = "CREATE TRIGGER full BEFORE INSERT ON journal BEGIN SELECT RAISE(ABORT, 'full'); END";
    disk.execute_batch(full).unwrap();
    desk.dirty.store(true, Ordering::Relaxed);
    desk.channel.set(id).unwrap();
    story.books().fold();

    let until = Instant::now() + Duration::from_secs(60);
    while desk.not_stored.load(Ordering::Relaxed) < 3 {
        assert!(Instant::now() < until, "it is tried again without an order");
        std::thread::yield_now();
    }
    let state = story.books().state_blocking(id).unwrap().expect("the channel is there");
    assert!(desk.not_stored.load(Ordering::Relaxed) < TOO_OFTEN, "orders have their turn");
    assert!(state.is_unfunded(), "nothing counts that is not stored");
    disk.execute_batch("DROP TRIGGER full").unwrap();
    while story.books().state_blocking(id).unwrap().unwrap().is_unfunded() {
        assert!(Instant::now() < until, "what the disk did not take is stored now");
        std::thread::yield_now();
    }
}
