//! Channels that carry cheques: what comes over HTTP, and what comes out of the store. An update counts only as its payer has signed
//! it; an authorisation holds only as its payee has; a stored state may be asked everything and may get every input.
#![no_main]

use std::sync::{Arc, LazyLock};

use bitcoin::{Amount, FeeRate};
use farthing_fuzz::{Choices, fixture, json};
use farthing_http::cheques::{AskBody, OfferBody, RequestBody, SaleBody, TowardsBody, UpdateBody};
use farthing_protocol::cheque::point::{AdaptorPoint, AdaptorSecret};
use farthing_protocol::cheque::promises::{Promise, Update};
use farthing_protocol::cheque::receipt::Memo;
use farthing_protocol::cheque::reverse::authorisation::{Authorisation, Terms, Until};
use farthing_protocol::cheque::side::{Effect, Input, Setup, Side};
use farthing_protocol::cheque::{drawer, drawn, held, holder};
use farthing_protocol::keys::Seed;
use farthing_protocol::sighting::{Funding, Sighting};
use farthing_protocol::{Channel, Msat, payee, payer};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How many inputs a state gets, one after the other.
const INPUTS: usize = 12;

/// One channel of each side, with a promise and what may follow.
struct Story {
    holder: (Setup, Side),
    drawer: (Setup, Side),
    /// The update that the holder has not seen yet, and the state after it.
    update: Update,
    taken: Side,
    authorisation: Authorisation,
}

static STORY: LazyLock<Story> = LazyLock::new(Story::new);

fn secret(byte: u8) -> AdaptorSecret {
    AdaptorSecret::from_bytes(&[byte; 32]).expect("a small number")
}

fn promise(byte: u8) -> drawn::Input {
    drawn::Input::Promise(Promise { amount: Msat::new(5_000_000), point: secret(byte).point() })
}

fn channel() -> Channel {
    Channel::new(fixture::fixture().payee.channel.params().clone()).expect("the fixture's")
}

fn confirmed(confirmations: u32) -> Sighting {
    let output = channel().funding_txout();
    let funding = Funding::Confirmed { output, confirmations };
    Sighting { height: 500, fee_rate: FeeRate::from_sat_per_vb_u32(2), funding, locked: Vec::new() }
}

/// The state after an input that must fit, and the updates that are to be sent.
fn step(setup: &Setup, side: &Side, input: Input) -> (Side, Option<Update>) {
    let transition = side.handle(setup, input).expect("this input fits");
    let (side, effects) = transition.commit(|_| Ok::<(), ()>(())).expect("this save does not fail");
    let update = effects.into_iter().find_map(|effect| match effect {
        Effect::Drawer(drawer::Effect::Promises(drawn::Effect::Send(update))) => Some(*update),
        Effect::Drawer(_) | Effect::Holder(_) => None,
    });
    (side, update)
}

fn take(update: Update, cost: Msat) -> Input {
    Input::Holder(holder::Input::Promises(held::Input::Take { update: Box::new(update), cost }))
}

fn draw(input: drawn::Input) -> Input {
    Input::Drawer(drawer::Input::Promises(input))
}

impl Story {
    fn new() -> Self {
        let fixture = fixture::fixture();
        let paid = Setup::Holder(Arc::new(payee::Setup {
            keys: fixture::keys(2),
            policy: fixture::POLICY,
            channel: channel(),
        }));
        let pays = Setup::Drawer(Arc::new(payer::Setup {
            channel: channel(),
            keys: fixture::keys(1),
            funding: fixture.payer.funding.clone(),
            finality: fixture::FINALITY,
        }));
        let accepted = Side::accept(&fixture.payee, &fixture.opening.signature).expect("the payer's own");
        let (holder, _) = accepted.commit(|_| Ok::<(), ()>(())).expect("this save does not fail");
        let (holder, _) = step(&paid, &holder, Input::Sighted(confirmed(6)));
        let proposed = Side::propose(&fixture.payer, drawn::Kind::Cheques);
        let (drawer, _) = proposed.commit(|_| Ok::<(), ()>(())).expect("this save does not fail");
        let accepted = payer::Input::Accepted(fixture.acceptance);
        let (drawer, _) = step(&pays, &drawer, Input::Drawer(drawer::Input::Channel(accepted)));
        let (drawer, _) = step(&pays, &drawer, Input::Sighted(confirmed(6)));
        let (drawer, first) = step(&pays, &drawer, draw(promise(3)));
        let (holder, _) = step(&paid, &holder, take(first.expect("an update"), Msat::ZERO));
        let (drawer, second) = step(&pays, &drawer, draw(promise(4)));
        let update = second.expect("an update");
        let (taken, _) = step(&paid, &holder, take(update.clone(), Msat::ZERO));
        let identity = Seed::new([7; 64], bitcoin::Network::Regtest).cheque_keys();
        let terms = Terms {
            channel: channel().id(),
            serial: 1,
            number: 2,
            base: Msat::new(600_000),
            amount: Msat::new(5_000_000),
            payer: identity.identity(),
            until: Until::height(900),
            memo: Memo::new("a coffee").expect("short"),
        };
        let authorisation = Authorisation::sign(terms, &identity, &fixture::keys(2));
        Self { holder: (paid, holder), drawer: (pays, drawer), update, taken, authorisation }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::maybe_endless(data);
    let story = &*STORY;
    match choices.byte() % 6 {
        0 | 1 => update(&mut choices, story),
        2 => bodies(&mut choices, story),
        3 => sale(&mut choices, story),
        4 => stored(&mut choices, &story.holder, holder_input),
        _ => stored(&mut choices, &story.drawer, drawer_input),
    }
});

fn read<T: Serialize + DeserializeOwned>(choices: &mut Choices<'_>, example: &T) -> Option<T> {
    let example = serde_json::to_value(example).expect("a body is JSON");
    serde_json::from_slice(&json(choices, &example)).ok()
}

fn update(choices: &mut Choices<'_>, story: &Story) {
    let cost = Msat::new(choices.amount() % 3);
    let example = UpdateBody { update: Some(Box::new(story.update.clone())) };
    let Some(UpdateBody { update: Some(update) }) = read(choices, &example) else { return };
    let (setup, before) = &story.holder;
    let is_genuine = *update == story.update;
    let taken = before.handle(setup, take(*update, cost));
    if is_genuine && cost == Msat::ZERO {
        assert!(taken.is_ok(), "a genuine update counts");
    }
    if let Ok(transition) = taken {
        let (after, _) = transition.commit(|_| Ok::<(), ()>(())).expect("this save does not fail");
        assert!(after == *before || after == story.taken, "nobody guesses a signature");
    }
}

fn bodies(choices: &mut Choices<'_>, story: &Story) {
    match choices.byte() % 3 {
        0 => {
            let ask = AskBody {
                held: secret(3).point(),
                point: secret(5).point(),
                tweak: secret(6).to_bytes(),
                amount_msat: 5_000_000,
                towards: TowardsBody::Node("http://node.example".into()),
            };
            if let Some(ask) = read(choices, &ask).and_then(|ask| ask.read(None).ok()) {
                let _may_be_infinite: Option<AdaptorPoint> = ask.point.tweaked(&ask.tweak);
            }
        }
        1 => {
            let request =
                RequestBody { offer: fixture::offer(), least_sat: 5_000, latest: 900, authorises: true };
            if let Some(request) = read(choices, &request) {
                let (offer, latest) = (&request.offer, request.latest);
                let params = fixture::fixture().payee.channel.params();
                let _may_be_refused = (offer.check(params, latest), request.least() <= Amount::MAX_MONEY);
            }
        }
        _ => {
            let params = channel().params().clone();
            let offer = OfferBody { params, update: Box::new(story.update.clone()), price_msat: 5_001_000 };
            if let Some(offer) = read(choices, &offer) {
                let _may_make_no_channel = Channel::new(offer.params);
            }
        }
    }
}

fn sale(choices: &mut Choices<'_>, story: &Story) {
    let example = SaleBody { authorisation: story.authorisation.clone() };
    let Some(SaleBody { authorisation }) = read(choices, &example) else { return };
    if authorisation.check(&channel()).is_ok() {
        assert_eq!(authorisation, story.authorisation, "nobody guesses a signature");
    }
}

/// Bytes as they came, or those of a genuine state with some exchanged.
fn stored(choices: &mut Choices<'_>, genuine: &(Setup, Side), input: fn(&mut Choices<'_>) -> Input) {
    let (setup, side) = genuine;
    let mut bytes = postcard::to_stdvec(side).expect("a state can be written");
    if choices.byte().is_multiple_of(4) {
        bytes = choices.take(2_000).to_vec();
    } else {
        for _ in 0..choices.byte() % 4 {
            let at = choices.u32() as usize % bytes.len();
            bytes[at] = choices.byte();
        }
    }
    let Ok(mut side) = postcard::from_bytes::<Side>(&bytes) else { return };
    for _ in 0..INPUTS {
        ask(&side, setup);
        if choices.is_empty() {
            break;
        }
        if let Ok(transition) = side.handle(setup, input(choices)) {
            side = transition.commit(|_| Ok::<(), ()>(())).expect("this save does not fail").0;
        }
    }
    ask(&side, setup);
}

fn ask(side: &Side, setup: &Setup) {
    let ledger = side.ledger();
    let _answers = (ledger.paid(), ledger.credit(), side.name(), side.is_live(), side.ending());
    let _to_be_repeated = side.resume(setup);
    if let Some(holder) = side.holder() {
        let held = holder.held();
        let _answers = (held.may_close(), held.owes_secrets(), held.has_bought(&secret(3).point()));
        let _locks: Vec<_> = held.promises().map(|(promise, _)| held.onward(&promise.point)).collect();
    }
}

fn point(choices: &mut Choices<'_>) -> AdaptorPoint {
    secret(3 + choices.byte() % 4).point()
}

fn sighted(choices: &mut Choices<'_>) -> Sighting {
    let near = [0, 500, fixture::EXPIRY - 37, fixture::EXPIRY - 1, fixture::EXPIRY];
    let height = near[usize::from(choices.byte()) % near.len()];
    let fixture = fixture::fixture();
    let confirmations = u32::from(choices.byte() % 8);
    let funding = match choices.byte() % 6 {
        0 => Funding::Unseen,
        1 => Funding::Unconfirmed(channel().funding_txout()),
        2 => Funding::Confirmed { output: channel().funding_txout(), confirmations },
        3 => Funding::Spent { by: fixture.commitment.clone().into(), confirmations },
        4 => Funding::Spent { by: fixture.refund.clone().into(), confirmations },
        _ => Funding::Spent { by: fixture.stranger.clone().into(), confirmations },
    };
    Sighting { height, ..Sighting { funding, ..confirmed(0) } }
}

fn holder_input(choices: &mut Choices<'_>) -> Input {
    let (height, is_deep) = (u32::from(choices.byte()) * 4, choices.byte() > 60);
    let margin = fixture::POLICY.margin;
    let promised = match choices.byte() % 8 {
        0 => return Input::Sighted(sighted(choices)),
        1 => return take(STORY.update.clone(), Msat::new(choices.amount())),
        2 => return Input::Holder(holder::Input::Channel(payee::Input::Close)),
        3 => {
            let onward = held::Onward {
                held: point(choices),
                channel: channel().id(),
                point: point(choices),
                tweak: secret(6),
                amount: Msat::new(choices.amount()),
            };
            let conditions = held::Conditions {
                expiry: channel().params().expiry,
                paid: Msat::new(choices.amount()),
                least: Msat::new(choices.amount()),
                delta: choices.amount() as u32,
                fee: Msat::new(choices.amount()),
                is_deep,
                height,
            };
            held::Input::Lock(onward, conditions)
        }
        4 => held::Input::Unlocked(point(choices)),
        5 => held::Input::Learned(secret(3 + choices.byte() % 4)),
        6 => held::Input::Height(choices.amount() as u32),
        _ => {
            let (secret, least) = (secret(3 + choices.byte() % 4), Msat::new(choices.amount()));
            held::Input::Cash { secret, least, is_deep, height, margin }
        }
    };
    Input::Holder(holder::Input::Promises(promised))
}

fn drawer_input(choices: &mut Choices<'_>) -> Input {
    let promised = match choices.byte() % 9 {
        0 => return Input::Sighted(sighted(choices)),
        1 => {
            let close = payer::Input::Close {
                fee_rate: FeeRate::from_sat_per_kwu(choices.amount()),
                charged: Some(Msat::new(choices.amount())),
            };
            return Input::Drawer(drawer::Input::Channel(close));
        }
        2 => drawn::Input::Promise(Promise { amount: Msat::new(choices.amount()), point: point(choices) }),
        3 => drawn::Input::Withdraw(point(choices)),
        4 => drawn::Input::StillHeld(point(choices)),
        5 => drawn::Input::Dead(point(choices)),
        6 => drawn::Input::Taken(choices.amount()),
        7 => drawn::Input::Secret(secret(3 + choices.byte() % 4)),
        _ => drawn::Input::Pay { cost: Msat::new(choices.amount()) },
    };
    draw(promised)
}
