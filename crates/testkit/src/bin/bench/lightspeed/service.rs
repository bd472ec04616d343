//! The service that is sold: one axum router, three times. Once open to all, and twice behind a gate, whose sellers store
//! a call before its answer leaves, or every 50 ms.

use std::hint::black_box;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bitcoin::{Amount, Network};
use farthing_chain::RegtestNode;
use farthing_http::gate::Gate;
use farthing_http::tariff::Tariff;
use farthing_node::home::Home;
use farthing_node::seller::Seller;
use farthing_node::tabs::Announced;
use farthing_node::tabs::Durability;
use farthing_protocol::Msat;
use farthing_protocol::hashlock::Delay;
use farthing_protocol::lightspeed::Shape;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::caller::{Announcement, Caller};
use crate::opened;
use crate::stats::{median, thread_time_us};

/// What a call costs: one word.
pub const PRICE: Msat = Msat::new(10);
/// How long [`Durability::Batch`] waits here.
pub const BATCH: Duration = Duration::from_millis(50);
/// How often each seller looks at the chain, which asks for every channel: seldom, since the service that is open to all
/// would wait for it as well.
const LOOKS: Duration = Duration::from_secs(60);
/// Channels of each seller.
pub const CHANNELS: usize = 256;
/// What the handler is busy for.
const WORK_US: f64 = 50.0;
const CAPACITY: Amount = Amount::from_sat(1_000_000);
const SHAPE: Shape = Shape { unit: PRICE, words: 1 << 17, rungs: 64, delay: Delay::blocks(36) };
static BODY: [u8; 1_024] = [b'x'; 1_024];

/// What the handler does besides answering 1 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// 50 µs of a processor's time.
    Busy,
    Nothing,
}

impl Work {
    pub fn path(self) -> &'static str {
        match self {
            Self::Busy => "/busy",
            Self::Nothing => "/empty",
        }
    }
}

/// A running service behind a gate.
pub struct Gated {
    pub address: SocketAddr,
    pub callers: Vec<Caller>,
    // Dropped after the runtime that serves it.
    _seller: Arc<Seller>,
}

/// Serves without a gate.
pub fn open(runtime: &Runtime) -> anyhow::Result<SocketAddr> {
    serve(runtime, router())
}

/// Serves behind a gate to callers with channels on a real chain.
pub fn gated(
    runtime: &Runtime,
    node: &RegtestNode,
    folder: &Path,
    durability: Durability,
) -> anyhow::Result<Gated> {
    let (home, _words) = Home::init(folder, Network::Regtest)?;
    let terms = opened::terms(CAPACITY, CHANNELS, durability);
    let seller = Arc::new(Seller::start(&home, node.chain(), opened::pace(LOOKS), terms)?);
    let mut callers = Vec::with_capacity(CHANNELS);
    for (id, payer) in opened::open(node, &seller, CAPACITY, CHANNELS)? {
        let (mut caller, announcement) = Caller::announce(payer, SHAPE)?;
        let Announcement { terms, rungs, payment, .. } = announcement;
        caller.taken(runtime.block_on(seller.announce(id, Announced::Chain(terms, rungs), payment))?)?;
        callers.push(caller);
    }
    let gate = Gate::new(seller.clone(), Tariff::per_call(PRICE));
    let address = serve(runtime, router().layer(gate))?;
    Ok(Gated { address, callers, _seller: seller })
}

fn serve(runtime: &Runtime, router: Router) -> anyhow::Result<SocketAddr> {
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    runtime.spawn(async { axum::serve(listener, router).await });
    Ok(address)
}

fn router() -> Router {
    let steps = steps();
    let busy = move || async move {
        work(steps);
        BODY.as_slice()
    };
    Router::new()
        .route(Work::Busy.path(), get(busy))
        .route(Work::Nothing.path(), get(|| async { BODY.as_slice() }))
}

/// How many steps of work take [`WORK_US`] of this processor. The same number for all services: found once.
fn steps() -> u64 {
    static STEPS: AtomicU64 = AtomicU64::new(0);
    if STEPS.load(Ordering::Relaxed) == 0 {
        const PROBE: u64 = 1_000_000;
        let probe = |_| {
            let start = thread_time_us();
            work(PROBE);
            PROBE as f64 / (thread_time_us() - start)
        };
        STEPS.store((median((0..21).map(probe)) * WORK_US) as u64, Ordering::Relaxed);
    }
    STEPS.load(Ordering::Relaxed)
}

/// Marsaglia's xorshift64, so many times.
fn work(steps: u64) {
    let mut state = black_box(1_u64);
    for _ in 0..steps {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    black_box(state);
}
