//! Somebody opens channels and never funds them: the seller keeps a few of them, and serves those that are funded.

use std::sync::{Arc, Mutex};

use anyhow::Result;
use farthing_testkit::relay::{Fate, Relay};
use farthing_testkit::{Ended, Person, World};

use crate::{COINS, SLOWLY, scene};

/// How many channels may wait for a funding that nobody has seen.
const MOST: usize = 3;

/// What the seller answered: the status and when to try again.
type Answer = (u16, Option<String>);

/// Proposes channels and takes no acceptance, so none is ever funded.
struct Idler {
    person: Person,
    relay: Relay,
    answers: Arc<Mutex<Vec<Answer>>>,
}

impl Idler {
    fn new(world: &World, seller: &str) -> Result<Self> {
        let person = Person::new(world, "idler", COINS)?;
        let answers = Arc::new(Mutex::default());
        let heard: Arc<Mutex<Vec<Answer>>> = answers.clone();
        let relay = Relay::before(seller, move |request, answer| {
            if !request.start.starts_with("POST") {
                return Fate::Deliver;
            }
            let retry_after = answer.header("retry-after").map(str::to_owned);
            heard.lock().expect("no holder of this lock panics").push((answer.status(), retry_after));
            if answer.status() == 201 { Fate::Cut } else { Fate::Deliver }
        })?;
        Ok(Self { person, relay, answers })
    }

    fn opens(&self, url: &str) -> Result<Ended> {
        self.person.buy(&self.relay.url(url), "out", &[])
    }

    fn last_answer(&self) -> Option<Answer> {
        self.answers.lock().expect("no holder of this lock panics").last().cloned()
    }
}

#[test]
fn openings_that_nobody_funds_take_the_places_of_few() -> Result<()> {
    let (world, payee, payer, goods) = scene(60_000)?;
    let payee = payee.with("FARTHING_SELL__MOST_UNFUNDED", &MOST.to_string());
    let seller = payee.sell(&goods)?;
    let _miner = world.miner();
    let mut buying = payer.start_buying(&seller.url, "out", &SLOWLY)?;
    buying.await_pieces(3)?;
    buying.kill()?;

    let idler = Idler::new(&world, &seller.address)?;
    for _ in 0..MOST {
        idler.opens(&seller.url)?.failure(4)?;
        assert_eq!(idler.last_answer(), Some((201, None)));
    }
    for _ in 0..2 {
        let said = idler.opens(&seller.url)?.failure(3)?;
        assert!(said.contains("3 channels wait for a funding") && said.contains("try again later"), "{said}");
        assert_eq!(idler.last_answer(), Some((503, Some("5".to_owned()))));
        assert_eq!(payee.channels()?.len(), MOST + 1, "the funded one and those that wait");
    }
    assert_eq!(idler.person.balance()?, COINS);

    payer.buy(&seller.url, "out", &[])?.result()?;
    assert_eq!(std::fs::read(payer.path("out"))?, std::fs::read(&goods.file)?);
    assert_eq!(payer.channel()?.spent_msat, seller.cost_msat);
    Ok(())
}
