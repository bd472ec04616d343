//! A service behind a seller, which answers as a story wants it to: it writes down what it was asked, may fail, and may
//! keep a caller waiting.

use std::sync::{Arc, Condvar, Mutex};

use anyhow::Result;

use crate::message::Message;
use crate::relay::Relay;
use crate::wait::PATIENCE;

/// A running service. Dropped, it is gone with its connections.
pub struct Service(Relay);

impl Service {
    /// A service that answers every request so.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn answering(answer: impl Fn(&Message) -> Message + Send + Sync + 'static) -> Result<Self> {
        Relay::instead_of("", move |request| Some(answer(request))).map(Self)
    }

    /// A service that tells what it was asked for, and how many requests came before. So no two answers are the same.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn counting() -> Result<Self> {
        let served = Mutex::new(0_u64);
        Self::answering(move |request| {
            let mut served = served.lock().expect("no holder of this lock panics");
            *served += 1;
            Message::answer(200, format!("{} {served}", request.target()).as_bytes())
        })
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}", self.0.address())
    }

    /// The requests so far, in the order in which they came.
    pub fn requests(&self) -> Vec<Message> {
        self.0.requests()
    }
}

/// Keeps waiting whoever comes, until it is opened.
#[derive(Clone, Default)]
pub struct Latch(Arc<(Mutex<bool>, Condvar)>);

impl Latch {
    /// Lets everybody pass.
    pub fn open(&self) {
        *self.0.0.lock().expect("no holder of this lock panics") = true;
        self.0.1.notify_all();
    }

    /// Waits until it is open.
    pub fn pass(&self) {
        let closed = self.0.0.lock().expect("no holder of this lock panics");
        let opened = self.0.1.wait_timeout_while(closed, PATIENCE, |is_open| !*is_open);
        drop(opened.expect("no holder of this lock panics"));
    }
}
