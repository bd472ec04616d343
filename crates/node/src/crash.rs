//! Places where a test may kill the process, or one party of several in a process: before a save, and between a save and its effects.
//! Without the feature `crash-points`, which no release has, this is nothing. The gateway has such places too.

#[cfg(all(feature = "crash-points", not(test)))]
pub use in_stories::{Fuse, inherited, point};

/// In a story a crash is the end of the process, or of one party's books.
#[cfg(all(feature = "crash-points", not(test)))]
mod in_stories {
    use std::cell::RefCell;
    use std::fs::File;
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, LazyLock};

    thread_local! {
        static MINE: RefCell<Option<Fuse>> = const { RefCell::new(None) };
    }

    /// How many points a party of this process still passes before the thread that keeps its books ends.
    #[derive(Clone, Debug)]
    pub struct Fuse(Arc<AtomicU64>);

    impl Fuse {
        /// One that burns out at that point, counting from 1.
        pub fn until(point: u64) -> Self {
            Self(Arc::new(AtomicU64::new(point)))
        }

        /// Starts a party that has it.
        pub fn light<T>(&self, start: impl FnOnce() -> T) -> T {
            /// What the thread had before comes back, also if it dies of this.
            struct Before(Option<Fuse>);
            impl Drop for Before {
                fn drop(&mut self) {
                    MINE.set(self.0.take());
                }
            }
            let _before = Before(MINE.replace(Some(self.clone())));
            start()
        }

        /// Counts anew, unless it has burnt out.
        pub fn renew(&self, point: u64) {
            let renew = |left| (left > 0).then_some(point);
            let _burnt_out = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, renew);
        }

        /// Whether the party is dead.
        pub fn has_burnt_out(&self) -> bool {
            self.0.load(Ordering::SeqCst) == 0
        }

        fn burn(&self) {
            let one_less = |left: u64| left.checked_sub(1);
            if self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less) == Ok(1) {
                // Unlike `panic!`, this prints nothing.
                std::panic::resume_unwind(Box::new("a crash that a story asked for"));
            }
        }
    }

    /// What a new thread is to do, with the fuse of the thread that starts it.
    pub fn inherited<T>(work: impl FnOnce() -> T + Send) -> impl FnOnce() -> T + Send {
        let fuse = MINE.with_borrow(Clone::clone);
        move || {
            MINE.set(fuse);
            work()
        }
    }

    /// Aborts the process if this is the point that `FARTHING_CRASH_AT` names, counting from 1; or has it begin anew, as if somebody had started
    /// it again at once, if a file follows (`7:/tmp/crashed`), which then says that it has. Ends the thread if its fuse burns out.
    pub fn point() {
        static PASSED: AtomicU64 = AtomicU64::new(0);
        static CRASH_AT: LazyLock<Option<(u64, Option<String>)>> = LazyLock::new(|| {
            let asked = std::env::var("FARTHING_CRASH_AT").ok()?;
            let (at, mark) = asked.split_once(':').map_or((&*asked, None), |(at, mark)| (at, Some(mark)));
            Some((at.parse().ok()?, mark.map(str::to_owned)))
        });

        if let Some((at, mark)) = &*CRASH_AT
            && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *at
        {
            match mark {
                Some(mark) => begin_anew(mark),
                None => std::process::abort(),
            }
        }
        if let Some(fuse) = MINE.with_borrow(Clone::clone) {
            fuse.burn();
        }
    }

    /// The same program with the same arguments takes this process's place: memory, threads, files and locks are gone.
    fn begin_anew(mark: &str) -> ! {
        if File::create(mark).is_ok()
            && let Ok(program) = std::env::current_exe()
        {
            let mut again = Command::new(program);
            again.args(std::env::args_os().skip(1)).env_remove("FARTHING_CRASH_AT");
            let _not_begun = again.exec();
        }
        std::process::abort()
    }
}

/// Nothing.
#[cfg(not(any(feature = "crash-points", test)))]
pub fn point() {}

/// What a new thread is to do.
#[cfg(any(not(feature = "crash-points"), test))]
pub(crate) fn inherited<T>(work: impl FnOnce() -> T + Send) -> impl FnOnce() -> T + Send {
    work
}

#[cfg(test)]
pub(crate) use in_test::{Crash, arm, point};

/// In a unit test a crash is a panic that the test catches.
#[cfg(test)]
mod in_test {
    use std::cell::Cell;

    thread_local! {
        static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// What a crash panics with.
    #[derive(Debug)]
    pub(crate) struct Crash;

    /// From now on, this thread crashes at that point, counting from 1; `None` disarms.
    pub(crate) fn arm(at: Option<u64>) {
        LEFT.set(at);
    }

    pub(crate) fn point() {
        let left = LEFT.get().map(|left| left - 1);
        LEFT.set(left);
        if left == Some(0) {
            LEFT.set(None);
            // Unlike `panic!`, this prints nothing.
            std::panic::resume_unwind(Box::new(Crash));
        }
    }
}
