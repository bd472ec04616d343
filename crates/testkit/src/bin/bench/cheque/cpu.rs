//! What a cashed cheque costs the processors of everybody together: writer, agent, the node if there is one, and payee. All roles
//! run in one thread, whose processor time is taken; nothing is stored.
//!
//! Counted is, for each cheque: its prekey issued and signed, written, promised, taken; its letter sealed and opened; each lock
//! asked for, made and taken; the cheque endorsed and cashed; each secret handed back, each channel paid plainly and that taken; the
//! receipt worked out and verified. Not counted: HTTP and JSON, the mailbox and its postage, the database, and the chain.

use anyhow::{Context as _, ensure};
use bitcoin::Network;
use farthing_mailbox::address::Host;
use farthing_mailbox::{Address, Letter, MailKey};
use farthing_node::entropy;
use farthing_protocol::Msat;
use farthing_protocol::channel::Expiry;
use farthing_protocol::cheque::book::{self, Book};
use farthing_protocol::cheque::cheque::{Draft, Written};
use farthing_protocol::cheque::drawn::Kind;
use farthing_protocol::cheque::held::Onward;
use farthing_protocol::cheque::point::AdaptorSecret;
use farthing_protocol::cheque::prekey::SignedPrekey;
use farthing_protocol::cheque::promises::Promise;
use farthing_protocol::cheque::receipt::Memo;
use farthing_protocol::cheque::route::Route;
use farthing_protocol::keys::{ChequeKeys, Seed};

use crate::cheque::parties::{self, HEIGHT, Paid, Paying};
use crate::payer::unsaved;
use crate::stats::{median, thread_time_us};

pub const ROUNDS: usize = 31;
/// Cheques of one turn, in fresh channels.
pub const CHEQUES: usize = 32;
const AMOUNT: Msat = Msat::new(5_000_000);

/// Medians over the rounds, in milliseconds a cheque.
pub struct Cpu {
    /// One BIP340 signature and one check of it, here.
    pub floor_ms: f64,
    pub direct_ms: f64,
    pub routed_ms: f64,
}

/// Measures. The two ways take turns.
pub fn measure() -> anyhow::Result<Cpu> {
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        rounds.push((turn(1)?, turn(2)?));
    }
    Ok(Cpu {
        floor_ms: crate::cpu::floor_us()? / 1_000.0,
        direct_ms: median(rounds.iter().map(|round| round.0)),
        routed_ms: median(rounds.iter().map(|round| round.1)),
    })
}

/// The payee, who cashes.
struct Payee {
    keys: ChequeKeys,
    mail: MailKey,
    book: Book,
    address: Address,
}

/// Milliseconds a cheque, over so many locks.
fn turn(hops: usize) -> anyhow::Result<f64> {
    let seed = Seed::new([9; 64], Network::Regtest);
    let (keys, mail) = (seed.cheque_keys(), MailKey::of(&seed));
    let host = Host::new("mail.example")?;
    let address = Address { network: Network::Regtest, identity: keys.identity(), mail: mail.public(), host };
    let mut payee = Payee { keys, mail, book: Book::new(entropy::bytes()), address };
    let kind = |index| if index == 0 { Kind::Cheques } else { Kind::Lock };
    let channels = (0..=hops).map(|index| parties::channel(index as u64, kind(index)));
    let (mut paying, mut paid): (Vec<Paying>, Vec<Paid>) =
        channels.collect::<anyhow::Result<Vec<_>>>()?.into_iter().unzip();
    let start = thread_time_us();
    for _ in 0..CHEQUES {
        sell(&mut payee, &mut paying, &mut paid)?;
    }
    let spent = thread_time_us() - start;
    let all = AMOUNT.checked_mul(CHEQUES as u64).context("an amount")?;
    ensure!(paid.iter().all(|side| side.claim() == all), "each channel has paid each cheque");
    Ok(spent / CHEQUES as f64 / 1_000.0)
}

impl Payee {
    fn handle(&mut self, input: book::Input) -> anyhow::Result<Vec<book::Effect>> {
        let (book, effects) = unsaved(self.book.handle(&self.keys, input)?);
        self.book = book;
        Ok(effects)
    }

    fn prekey(&mut self) -> anyhow::Result<SignedPrekey> {
        let effects = self.handle(book::Input::Issue(1))?;
        let [book::Effect::Publish(prekeys)] = effects.as_slice() else { anyhow::bail!("it publishes") };
        prekeys.first().copied().context("a prekey")
    }
}

fn scalar() -> anyhow::Result<AdaptorSecret> {
    AdaptorSecret::from_bytes(&entropy::bytes()).context("a scalar")
}

/// One cheque, from its prekey to its receipt.
fn sell(payee: &mut Payee, paying: &mut [Paying], paid: &mut [Paid]) -> anyhow::Result<()> {
    let prekey = payee.prekey()?;
    let latest = Expiry::at_height(HEIGHT + 1_000);
    let draft = Draft { amount: AMOUNT, memo: Memo::new("a coffee")?, time: 1_790_000_000, latest };
    let written = Written::new(draft, &payee.address.identity, prekey, entropy::bytes(), &entropy::bytes())?;
    let update = paying[0].promise(Promise { amount: AMOUNT, point: written.point })?;
    let number = paid[0].take(&update)?;
    paying[0].taken(number)?;
    let letter = Letter::Cheque {
        cheque: Box::new(written.cheque.clone()),
        agent: "https://agent.example".to_owned(),
    };
    let blob = letter.seal(&payee.address, entropy::bytes())?;

    let opened = payee.mail.open(&payee.address.identity, &blob)?;
    let Letter::Cheque { cheque, .. } = Letter::from_bytes(&opened)? else { anyhow::bail!("a cheque") };
    let present = book::Input::Present { cheque: cheque.clone(), expiry: latest, height: HEIGHT, margin: 36 };
    let effects = payee.handle(present)?;
    let [book::Effect::Ask(point)] = effects.as_slice() else { anyhow::bail!("it asks") };
    let tweaks = (1..paying.len()).map(|_| scalar()).collect::<anyhow::Result<Vec<_>>>()?;
    let route = Route::new(point, &tweaks).context("a route")?;

    let mut behind = *point;
    for (index, hop) in route.hops.iter().enumerate() {
        let (held, next) = (&mut paid[index], index + 1);
        let onward = Onward {
            held: behind,
            channel: paying[next].setup.channel.id(),
            point: hop.point,
            tweak: hop.tweak.clone(),
            amount: AMOUNT,
        };
        held.lock(onward, &paying[next])?;
        let update = paying[next].promise(Promise { amount: AMOUNT, point: hop.point })?;
        let number = paid[next].take(&update)?;
        paying[next].taken(number)?;
        behind = hop.point;
    }

    payee.handle(book::Input::Endorse { cheque: cheque.clone(), offered: AMOUNT })?;
    let secret = payee.book.secret(&payee.keys, &cheque).context("an endorsed cheque has a secret")?;
    let last = paying.len() - 1;
    let secret = secret.plus(&route.payee).context("a secret")?;
    let mut secret = paid[last].cash(secret, AMOUNT)?;
    for index in (0..=last).rev() {
        let update = paying[index].learn(&secret)?;
        let number = paid[index].take(&update)?;
        paying[index].taken(number)?;
        if index > 0 {
            secret = paid[index - 1].learned(secret)?;
        }
    }
    let receipt = written.receipt(&secret).context("the secret gives a receipt")?;
    Ok(receipt.verify()?)
}
