//! What it takes to accept a call: from its raw bytes to admitted, and its end. One thread, in memory.
//!
//! Each call is read from the 124 bytes that the header carries in base64: channel, number, cost, chain, index, word and
//! MAC. [`Tabs::admit`] finds the session, checks the MAC over the call and its request, the number, the word and the
//! lock of a rung that it passes, and sets the cost aside; [`Tabs::end`] charges it. The calls go round over all
//! sessions, so none finds its session in the nearest cache.

use std::collections::VecDeque;
use std::hint::black_box;
use std::path::Path;

use anyhow::ensure;
use farthing_node::tabs::{Admission, Tabs};
use farthing_protocol::Msat;
use farthing_protocol::hashlock::Delay;
use farthing_protocol::lightspeed::call::{LENGTH, NO_BODY, Target};
use farthing_protocol::lightspeed::{Call, Shape, Word};

use super::caller::Caller;
use super::session::{self, Sessions};
use crate::stats::{median, thread_time_us};

/// Sessions that take turns.
pub const SESSIONS: usize = 64;
/// Calls of one session that run at once, where many run.
pub const RUNNING: usize = 256;
/// Rounds before the peers are measured, and again after.
pub const ROUNDS: usize = 11;
/// Calls in one round of one session. All rounds fit in one chain, of the length that a caller draws by default.
const CALLS: usize = 1_300;
const SHAPE: Shape = Shape { unit: Msat::new(10), words: 65_536, rungs: 1_024, delay: Delay::blocks(36) };
const COST: Msat = Msat::new(10);
const TARGET: Target<'static> =
    Target { method: "GET", authority: "api.example:8402", uri: "/v1/forecast?city=Bern", body: NO_BODY };

/// Medians over the rounds, each a second on one core.
pub struct Rates {
    /// Calls that end before the next begins.
    pub accepted: f64,
    /// Calls of one session of which [`RUNNING`] run at any time.
    pub accepted_while_many_run: f64,
    /// Hashing a word: what no payee can save.
    pub hashes: f64,
    pub rounds: usize,
}

/// Sessions and their payers.
pub struct Accept {
    sessions: Sessions,
    callers: Vec<Caller>,
    rounds: Vec<[f64; 3]>,
    calls: usize,
}

impl Accept {
    pub fn new(folder: &Path) -> anyhow::Result<Self> {
        let database = folder.join("accept.sqlite");
        let mut callers = Vec::with_capacity(SESSIONS);
        session::write(&database, SESSIONS, SHAPE, |caller| callers.push(caller))?;
        let sessions = session::open(&database)?;
        sessions.load(callers.iter().map(Caller::id))?;
        let mut accept = Self { sessions, callers, rounds: Vec::new(), calls: 0 };
        accept.assert_refusals()?;
        Ok(accept)
    }

    /// Measures [`ROUNDS`] more rounds.
    pub fn rounds(&mut self) -> anyhow::Result<()> {
        for _ in 0..ROUNDS {
            let (round, one) = (self.prepare(0..SESSIONS)?, self.prepare(0..1)?);
            let accepted = rate(round.len() / LENGTH, || accept(&self.sessions.tabs, &round, 0))?;
            let many = rate(one.len() / LENGTH, || accept(&self.sessions.tabs, &one, RUNNING))?;
            let hashes = rate(CALLS * 16, || {
                black_box(Word::from_bytes([7; 32]).back(CALLS as u32 * 16));
                Ok(())
            })?;
            self.rounds.push([accepted, many, hashes]);
        }
        self.assert_charged()
    }

    pub fn rates(&self) -> Rates {
        let of = |part: usize| median(self.rounds.iter().map(|round| round[part]));
        Rates { accepted: of(0), accepted_while_many_run: of(1), hashes: of(2), rounds: self.rounds.len() }
    }

    /// The next calls of these sessions, in turns.
    fn prepare(&mut self, sessions: std::ops::Range<usize>) -> anyhow::Result<Vec<u8>> {
        let mut calls = Vec::with_capacity(sessions.len() * CALLS * LENGTH);
        for _ in 0..CALLS {
            for caller in &mut self.callers[sessions.clone()] {
                calls.extend(caller.call(COST, &TARGET)?);
            }
        }
        self.calls += sessions.len() * CALLS;
        Ok(calls)
    }

    /// What is measured does check its calls.
    fn assert_refusals(&mut self) -> anyhow::Result<()> {
        let bytes = self.callers[0].call(COST, &TARGET)?;
        self.calls += 1;
        let (call, mac) = Call::from_bytes(&bytes)?;
        let tabs = &self.sessions.tabs;
        let elsewhere = Target { uri: "/v1/forecast?city=Basel", ..TARGET };
        ensure!(tabs.admit(&call, &elsewhere, &mac).is_err(), "a call is bound to its request");
        for byte in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[byte] ^= 1;
            let (call, mac) = Call::from_bytes(&changed)?;
            ensure!(tabs.admit(&call, &TARGET, &mac).is_err(), "byte {byte} of a call counts");
        }
        accept(tabs, &bytes, 0)?;
        ensure!(tabs.admit(&call, &TARGET, &mac).is_err(), "a call is served once");
        Ok(())
    }

    /// Every call was charged once.
    fn assert_charged(&self) -> anyhow::Result<()> {
        let spent = self.callers.iter().map(|caller| {
            let setup = self.sessions.books.setup(&caller.id())?;
            self.sessions.tabs.standing(caller.id(), &setup).map(|standing| standing.spent)
        });
        let spent: Option<Msat> = spent.sum();
        ensure!(spent == COST.checked_mul(self.calls as u64), "{} calls came to {spent:?}", self.calls);
        Ok(())
    }
}

/// Accepts calls in their order, and ends each when so many run besides it.
fn accept(tabs: &Tabs, calls: &[u8], running: usize) -> anyhow::Result<()> {
    let mut started: VecDeque<Admission> = VecDeque::with_capacity(running + 1);
    for bytes in calls.chunks_exact(LENGTH) {
        let (call, mac) = Call::from_bytes(bytes)?;
        started.push_back(tabs.admit(&call, &TARGET, &mac)?);
        if started.len() > running
            && let Some(admission) = started.pop_front()
        {
            ensure!(tabs.end(admission, Some(COST)).charged == COST, "a call that ran was charged");
        }
    }
    for admission in started {
        ensure!(tabs.end(admission, Some(COST)).charged == COST, "a call that ran was charged");
    }
    Ok(())
}

/// How often in a second of this thread's processor time.
fn rate(times: usize, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let start = thread_time_us();
    work()?;
    Ok(times as f64 * 1e6 / (thread_time_us() - start))
}
