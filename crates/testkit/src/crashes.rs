//! The same story again with a crash at each point: before each save, and between each save and its effects.

use std::process::ExitStatus;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, ensure};

use crate::people::{Goods, Person};
use crate::process::Process;
use crate::wait::until;

/// How many stories run side by side.
const SIDE_BY_SIDE: u64 = 2;

/// Tells a story for the crash points 1, 2, 3, … until nothing crashes any more. Each thread has a scene of its own. A story
/// says whether its program crashed. Returns how many points there were.
///
/// # Errors
/// The first story that ends otherwise than it should, with its crash point.
pub fn at_every_point<S>(
    scene: impl Fn() -> Result<S> + Sync,
    story: impl Fn(&S, u64) -> Result<bool> + Sync,
) -> Result<u64> {
    let (next, last, failed) = (AtomicU64::new(1), AtomicU64::new(u64::MAX), Mutex::new(None));
    let tell = || -> Result<()> {
        let scene = scene()?;
        loop {
            let point = next.fetch_add(1, Ordering::SeqCst);
            if point >= last.load(Ordering::SeqCst) {
                return Ok(());
            }
            if !story(&scene, point).with_context(|| format!("with a crash at point {point}"))? {
                last.fetch_min(point, Ordering::SeqCst);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                if let Err(error) = tell() {
                    last.store(0, Ordering::SeqCst);
                    failed.lock().expect("no holder of this lock panics").get_or_insert(error);
                }
            });
        }
    });
    match failed.into_inner().expect("no holder of this lock panics") {
        Some(error) => Err(error),
        None => Ok(last.into_inner() - 1),
    }
}

/// What a tended seller sells.
#[derive(Clone)]
enum Sold {
    File(Goods),
    Calls { upstream: String, price: &'static str, options: &'static [&'static str] },
}

impl Sold {
    fn start(&self, person: &Person, address: &str) -> Result<Process> {
        match self {
            Self::File(goods) => person.start_selling(goods, address),
            Self::Calls { upstream, price, options } => {
                person.start_selling_calls(upstream, price, options, address)
            }
        }
    }
}

/// A seller that crashes once and is started again at the same address.
pub struct TendedSeller {
    person: Person,
    sold: Sold,
    address: String,
    process: Process,
    crashed: bool,
}

impl TendedSeller {
    /// Starts a seller that crashes at a point.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn crashing_at(point: u64, person: &Person, goods: &Goods, address: &str) -> Result<Self> {
        Self::start(point, person, Sold::File(goods.clone()), address)
    }

    /// Starts a seller of calls to a service that crashes at a point.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn of_calls(
        point: u64,
        person: &Person,
        upstream: &str,
        (price, options): (&'static str, &'static [&'static str]),
        address: &str,
    ) -> Result<Self> {
        Self::start(point, person, Sold::Calls { upstream: upstream.to_owned(), price, options }, address)
    }

    fn start(point: u64, person: &Person, sold: Sold, address: &str) -> Result<Self> {
        let process = sold.start(&person.crashing_at(point), address)?;
        Ok(Self { person: person.clone(), sold, address: address.to_owned(), process, crashed: false })
    }

    /// Where it sells.
    ///
    /// # Errors
    /// When the file has no name.
    pub fn url(&self) -> Result<String> {
        let Sold::File(goods) = &self.sold else { return Ok(format!("http://{}", self.address)) };
        let name = goods.file.file_name().and_then(|name| name.to_str()).context("a name")?;
        Ok(format!("http://{}/{name}", self.address))
    }

    /// Whether it has crashed.
    pub fn has_crashed(&self) -> bool {
        self.crashed
    }

    /// Starts it again if it has crashed.
    ///
    /// # Errors
    /// When it has ended otherwise.
    pub fn tend(&mut self) -> Result<()> {
        if self.process.has_ended()? {
            let restarted = self.sold.start(&self.person, &self.address)?;
            let ended = std::mem::replace(&mut self.process, restarted).wait()?;
            ensure!(ended.has_crashed() && !self.crashed, "the seller ended: {ended:?}");
            self.crashed = true;
        }
        Ok(())
    }

    /// Looks until there is something to see, and tends the seller meanwhile.
    ///
    /// # Errors
    /// When nothing is seen in time, or the seller ends for good.
    pub fn until<T>(&mut self, what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        until(what, || {
            self.tend()?;
            look()
        })
    }

    /// Lets a process of somebody else come to its end, and tends the seller meanwhile.
    ///
    /// # Errors
    /// When it does not end in time, or the seller ends for good.
    pub fn outlive(&mut self, mut process: Process) -> Result<ExitStatus> {
        self.until("the other process ends", || Ok(process.has_ended()?.then_some(())))?;
        Ok(process.wait()?.status)
    }

    /// The seller is gone, without a word.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(self) -> Result<()> {
        self.process.kill()
    }
}
