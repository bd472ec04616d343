//! A relay between a buyer and a seller, or before a node: it writes down what passes, may spoil answers or swallow them,
//! and may answer itself.

use std::io::{self, BufReader};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anyhow::Result;

use crate::message::Message;
use crate::wait::{PATIENCE, until};

const ANY_PORT: &str = "127.0.0.1:0";

/// What becomes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The buyer gets it.
    Deliver,
    /// The buyer waits in vain.
    Swallow,
    /// The buyer's connection ends instead.
    Cut,
}

/// A running relay. Dropped, it is gone with its connections.
pub struct Relay {
    address: String,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

type Meddle = dyn Fn(&Message, &mut Message) -> Fate + Send + Sync;
type Instead = dyn Fn(&Message) -> Option<Message> + Send + Sync;

struct Shared {
    behind: String,
    instead: Box<Instead>,
    meddle: Box<Meddle>,
    requests: Mutex<Vec<Message>>,
    connections: Mutex<Vec<TcpStream>>,
    accepted: AtomicUsize,
    ended: AtomicBool,
}

impl Relay {
    /// A relay before a seller's address. `meddle` sees each request with its answer, and may change the answer.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn before(
        behind: &str,
        meddle: impl Fn(&Message, &mut Message) -> Fate + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::start(ANY_PORT, behind, Box::new(|_| None), Box::new(meddle))
    }

    /// A relay that answers some requests in the seller's place. Those the seller never sees.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn instead_of(
        behind: &str,
        instead: impl Fn(&Message) -> Option<Message> + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::start(ANY_PORT, behind, Box::new(instead), Box::new(|_, _| Fate::Deliver))
    }

    /// A relay that only writes down.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn recording(behind: &str) -> Result<Self> {
        Self::recording_at(ANY_PORT, behind)
    }

    /// The same at an address, to which it may come back after it was gone.
    ///
    /// # Errors
    /// When somebody else listens there.
    pub fn recording_at(address: &str, behind: &str) -> Result<Self> {
        Self::start(address, behind, Box::new(|_| None), Box::new(|_, _| Fate::Deliver))
    }

    fn start(address: &str, behind: &str, instead: Box<Instead>, meddle: Box<Meddle>) -> Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?.to_string();
        let shared = Arc::new(Shared {
            behind: behind.to_owned(),
            instead,
            meddle,
            requests: Mutex::default(),
            connections: Mutex::default(),
            accepted: AtomicUsize::default(),
            ended: AtomicBool::new(false),
        });
        let accepting = shared.clone();
        let thread = std::thread::spawn(move || accept(&listener, &accepting));
        Ok(Self { address, shared, thread: Some(thread) })
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The URL of a file behind the relay, from its URL at the seller.
    pub fn url(&self, at_seller: &str) -> String {
        at_seller.replace(&self.shared.behind, &self.address)
    }

    /// The requests so far, in the order in which they came.
    pub fn requests(&self) -> Vec<Message> {
        self.shared.requests.lock().expect("no holder of this lock panics").clone()
    }

    /// How many connections there were so far.
    pub fn connections(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// The requests that brought a payment.
    pub fn payments(&self) -> Vec<Message> {
        self.requests().into_iter().filter(|request| request.header("authorization").is_some()).collect()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        for connection in self.shared.connections.lock().expect("no holder of this lock panics").drain(..) {
            let _closed_already = connection.shutdown(Shutdown::Both);
        }
        // Wakes the listener.
        let _woken = TcpStream::connect(&self.address);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        let Ok(client) = client else { continue };
        if shared.ended.load(Ordering::SeqCst) {
            return;
        }
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        let peer = client.peer_addr().ok();
        if let Ok(handle) = client.try_clone() {
            shared.connections.lock().expect("no holder of this lock panics").push(handle);
        }
        let shared = shared.clone();
        // Ends with its connection.
        std::thread::spawn(move || {
            // A side that is gone closes the other's connection, as a real one would.
            let _broken = pass(&client, &shared);
            let _closed_already = client.shutdown(Shutdown::Both);
            let is_other = |other: &mut TcpStream| other.peer_addr().ok() != peer;
            shared.connections.lock().expect("no holder of this lock panics").retain_mut(is_other);
        });
    }
}

/// One connection: a request, its answer, the next request.
fn pass(client: &TcpStream, shared: &Shared) -> Result<()> {
    let mut from_client = BufReader::new(client);
    let mut seller = None;
    while let Some(request) = Message::read(&mut from_client, false)? {
        shared.requests.lock().expect("no holder of this lock panics").push(request.clone());
        if let Some(answer) = (shared.instead)(&request) {
            answer.write(&mut &*client)?;
            continue;
        }
        let seller = match &mut seller {
            Some(seller) => seller,
            none => {
                let seller = TcpStream::connect(&shared.behind)?;
                seller.set_read_timeout(Some(PATIENCE))?;
                none.insert(BufReader::new(seller))
            }
        };
        request.write(seller.get_mut())?;
        let bodiless = request.start.starts_with("HEAD");
        let Some(mut answer) = Message::read(seller, bodiless)? else { return Ok(()) };
        match (shared.meddle)(&request, &mut answer) {
            Fate::Deliver => answer.write(&mut &*client)?,
            Fate::Swallow => {}
            Fate::Cut => return Ok(()),
        }
    }
    Ok(())
}

/// Hands every byte on. While nobody listens behind, whoever comes is kept waiting: a client that gives up after a while does
/// not notice how long its seller takes to come back. Dropped, it takes no connection any more.
pub struct Pipe {
    address: String,
    behind: String,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pipe {
    /// A pipe to a seller's address.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn to(behind: &str) -> Result<Self> {
        let listener = TcpListener::bind(ANY_PORT)?;
        let address = listener.local_addr()?.to_string();
        let (behind, ended) = (behind.to_owned(), Arc::new(AtomicBool::new(false)));
        let (seller, is_over) = (behind.clone(), ended.clone());
        let thread = std::thread::spawn(move || {
            for client in listener.incoming() {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(client), seller) = (client, seller.clone()) else { continue };
                // Ends with its connection.
                std::thread::spawn(move || {
                    let _broken = hand_on(&client, &seller);
                    let _closed_already = client.shutdown(Shutdown::Both);
                });
            }
        });
        Ok(Self { address, behind, ended, thread: Some(thread) })
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The URL of what is behind the pipe, from its URL at the seller.
    pub fn url(&self, at_seller: &str) -> String {
        at_seller.replace(&self.behind, &self.address)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _woken = TcpStream::connect(&self.address);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

fn hand_on(client: &TcpStream, behind: &str) -> Result<()> {
    let seller = until("somebody listens behind", || Ok(TcpStream::connect(behind).ok()))?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _broken = io::copy(&mut &seller, &mut &*client);
            let _closed_already = client.shutdown(Shutdown::Both);
        });
        let _broken = io::copy(&mut &*client, &mut &seller);
        let _closed_already = seller.shutdown(Shutdown::Both);
    });
    Ok(())
}
