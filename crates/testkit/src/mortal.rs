//! Somebody in this process who dies at a save, and starts anew from what is stored.
//!
//! The first time it does something it dies at its first crash point, then at the second, and so on until it gets through. Told without
//! deaths it is started once, and does everything once.

use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use farthing_node::crash::Fuse;

/// How often somebody may die of one thing. Nothing saves so often.
const MOST_DEATHS: u64 = 50;

/// What runs of somebody, if it is on, and the point at which it dies next.
pub struct Mortal<T> {
    is_deadly: bool,
    on: Mutex<Option<(Arc<T>, Option<Fuse>)>>,
    /// How often it has died of what is being done.
    deaths: AtomicU64,
    all_deaths: AtomicU64,
}

#[allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]
impl<T> Mortal<T> {
    /// Somebody who is off, and dies only if that `is_deadly`.
    pub fn off(is_deadly: bool) -> Self {
        Self { is_deadly, on: Mutex::new(None), deaths: AtomicU64::new(0), all_deaths: AtomicU64::new(0) }
    }

    /// What runs of it.
    pub fn get(&self) -> Option<Arc<T>> {
        self.on.lock().unwrap().as_ref().map(|(running, _)| running.clone())
    }

    /// Whether anything runs of it.
    pub fn is_on(&self) -> bool {
        self.on.lock().unwrap().is_some()
    }

    /// Switches it off.
    pub fn stop(&self) {
        self.on.lock().unwrap().take();
    }

    /// Starts it, or starts it again: then what it had in memory is gone.
    pub fn start(&self, start: impl Fn() -> T) {
        self.stop();
        loop {
            let fuse = self.is_deadly.then(|| Fuse::until(self.deaths.load(Ordering::SeqCst) + 1));
            let started = match &fuse {
                Some(fuse) => panic::catch_unwind(AssertUnwindSafe(|| fuse.light(&start))),
                None => Ok(start()),
            };
            match started {
                Ok(started) => break *self.on.lock().unwrap() = Some((Arc::new(started), fuse)),
                Err(_died) if fuse.is_some_and(|fuse| fuse.has_burnt_out()) => self.count(),
                Err(panic) => panic::resume_unwind(panic),
            }
        }
    }

    fn count(&self) {
        self.all_deaths.fetch_add(1, Ordering::SeqCst);
        let deaths = self.deaths.fetch_add(1, Ordering::SeqCst);
        assert!(deaths < MOST_DEATHS, "it never gets through");
    }

    /// It dies at that point of what comes next, counting from 1, unless it is dead.
    pub fn renew(&self, point: u64) {
        self.deaths.store(0, Ordering::SeqCst);
        self.fuse().iter().for_each(|fuse| fuse.renew(point));
    }

    /// Whether it has died.
    pub fn is_dead(&self) -> bool {
        self.fuse().is_some_and(|fuse| fuse.has_burnt_out())
    }

    /// Starts it anew if it is dead. Whether it was.
    ///
    /// # Panics
    /// When it dies of the same thing again and again.
    pub fn revive(&self, start: impl Fn() -> T) -> bool {
        let is_dead = self.is_dead();
        if is_dead {
            self.count();
            self.start(start);
        }
        is_dead
    }

    /// At the end of a story: where somebody has not died, nothing was shown.
    ///
    /// # Panics
    /// When it has died without being told to, or has not though it was to.
    pub fn assert_as_told(&self, who: &str) {
        let deaths = self.all_deaths.load(Ordering::SeqCst);
        assert_eq!(deaths > 0, self.is_deadly, "the {who} has died {deaths} times");
    }

    fn fuse(&self) -> Option<Fuse> {
        self.on.lock().unwrap().as_ref()?.1.clone()
    }
}

/// Does something, again and again until nobody dies of it. `revive` starts anew whoever is dead, and says whether anybody was;
/// `renew` lets everybody die at its first point again.
///
/// # Errors
/// What the act answers when nobody has died of it.
pub fn survive<T, E>(
    act: impl Fn() -> Result<T, E>,
    revive: impl Fn() -> bool,
    renew: impl Fn(),
) -> Result<T, E> {
    loop {
        let done = act();
        let somebody_died = revive();
        if done.is_ok() || !somebody_died {
            renew();
            return done;
        }
    }
}
