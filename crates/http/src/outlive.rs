//! Work that is finished even if nobody waits for it any more.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

/// Does its work where it is awaited, at no cost beside that. Dropped before the end, it goes on in a task of its own.
pub(crate) struct Outlive<T: Send + 'static>(Option<Pin<Box<dyn Future<Output = T> + Send>>>);

/// The work has panicked.
#[derive(Debug, thiserror::Error)]
#[error("the work broke off")]
pub(crate) struct Panicked(Box<dyn Any + Send>);

impl<T: Send + 'static> Outlive<T> {
    pub(crate) fn new(work: impl Future<Output = T> + Send + 'static) -> Self {
        Self(Some(Box::pin(work)))
    }
}

impl<T: Send + 'static> Future for Outlive<T> {
    type Output = Result<T, Panicked>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let work = self.0.as_mut().expect("work that has ended is not awaited again");
        let ended = match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(done)) => Ok(done),
            Err(panic) => Err(Panicked(panic)),
        };
        self.0 = None;
        Poll::Ready(ended)
    }
}

impl<T: Send + 'static> Drop for Outlive<T> {
    fn drop(&mut self) {
        // Without a runtime the program is ending.
        if let (Some(work), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(async move { drop(work.await) });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn work_goes_on_when_it_is_dropped_and_a_panic_is_an_answer() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            assert_eq!(Outlive::new(async { 7 }).await.unwrap(), 7);
            let panicked =
                Outlive::new(async { assert!(std::hint::black_box(false), "a fault of the service") });
            assert!(panicked.await.is_err());
            let (go_on, may_go_on) = oneshot::channel();
            let (done, is_done) = oneshot::channel();
            let mut work = Outlive::new(async move {
                may_go_on.await.unwrap();
                let _nobody_waits = done.send(());
            });
            let begun = Pin::new(&mut work).poll(&mut Context::from_waker(Waker::noop()));
            assert!(begun.is_pending());
            drop(work);
            go_on.send(()).unwrap();
            is_done.await.unwrap();
        });
    }
}
