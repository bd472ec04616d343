//! Answers that are charged as they flow: by the KiB, by the server-sent event.
//!
//! What a call has set aside covers the bytes that flow; when it is used up, the answer waits for a top-up, and is cut off
//! when none comes. What was used is charged at the end, also when the client leaves or the service breaks off. Its receipt
//! cannot be in the answer's head: the payer gets it by sending the same call again, as that of any answer that is not kept.
//!
//! **What the seller can lose**: a crash in the middle forgets what a running answer has used since its last top-up, which is no
//! more than was set aside then.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use farthing_node::tabs::Ended;
use farthing_protocol::lightspeed::CallNumber;
use farthing_protocol::{ChannelId, Msat};
use futures_util::{Stream, StreamExt as _, stream};
use tokio::sync::watch;

use crate::gate::{Admitted, Running};
use crate::tariff::CallPrice;
use crate::wire;

/// The largest part of an answer that is released at once, in bytes. Where events cost something it ends with the first one in it.
/// So a payer that has set aside what this many bytes and one event cost has always enough for the next part.
pub const PART: usize = 4_096;

/// The answers that flow, so that top-ups find them.
#[derive(Debug, Default)]
pub(crate) struct Meters(Mutex<HashMap<(ChannelId, CallNumber), Flowing>>);

#[derive(Debug)]
struct Flowing {
    aside: watch::Sender<Msat>,
    /// What was used, in millisatoshi.
    used: Arc<AtomicU64>,
}

impl Meters {
    fn watch(&self, call: &Admitted) -> (watch::Receiver<Msat>, Arc<AtomicU64>) {
        let (aside, receiver) = watch::channel(call.aside);
        let used = Arc::<AtomicU64>::default();
        self.flowing().insert((call.channel, call.number), Flowing { aside, used: used.clone() });
        (receiver, used)
    }

    /// Tells a flowing answer what is set aside for it now, and gives what it has used.
    pub(crate) fn raise(&self, channel: ChannelId, number: CallNumber, aside: Msat) -> Msat {
        self.flowing().get(&(channel, number)).map_or(Msat::ZERO, |flowing| {
            flowing.aside.send_modify(|known| *known = aside.max(*known));
            Msat::new(flowing.used.load(Ordering::Relaxed))
        })
    }

    fn forget(&self, call: &Admitted) {
        self.flowing().remove(&(call.channel, call.number));
    }

    fn flowing(&self) -> MutexGuard<'_, HashMap<(ChannelId, CallNumber), Flowing>> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

/// How much has flowed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flowed {
    bytes: u64,
    events: u64,
    /// The last byte was the end of a line, so another one ends an event.
    at_line_end: bool,
}

impl Flowed {
    /// After another part. An event ends with an empty line (WHATWG HTML, section 9.2).
    pub(crate) fn and(mut self, part: &[u8]) -> Self {
        self.bytes += part.len() as u64;
        for byte in part {
            match byte {
                b'\n' if self.at_line_end => {
                    self.events += 1;
                    self.at_line_end = false;
                }
                b'\n' => self.at_line_end = true,
                b'\r' => {}
                _other => self.at_line_end = false,
            }
        }
        self
    }

    /// How many of these bytes there are up to the end of an event, or all.
    fn to_the_end_of_an_event(self, bytes: &[u8]) -> usize {
        let mut after = self;
        let end = bytes.iter().position(|byte| {
            after = after.and(&[*byte]);
            after.events > self.events
        });
        end.map_or(bytes.len(), |end| end + 1)
    }

    /// What it costs.
    pub(crate) fn cost(&self, price: &CallPrice) -> Msat {
        price.of(self.bytes, self.events)
    }
}

/// An answer that flows. Dropped, it is charged for what has flowed.
pub(crate) struct Meter {
    running: Option<Running>,
    call: Admitted,
    aside: watch::Receiver<Msat>,
    used: Arc<AtomicU64>,
    flowed: Flowed,
}

/// Why a flowing answer was cut off.
#[derive(Debug, thiserror::Error)]
enum CutOff {
    #[error("the call is paid for up to {0}, and no top-up came")]
    Unpaid(Msat),
    #[error("the call could not be stored: {0}")]
    Unstored(String),
    #[error(transparent)]
    Service(axum::Error),
}

impl Meter {
    /// Lets an answer flow, charged as it does.
    pub(crate) fn start(running: Running, response: Response) -> Response {
        let call = running.admitted;
        let (aside, used) = running.shared.meters.watch(&call);
        let meter = Self { running: Some(running), call, aside, used, flowed: Flowed::default() };
        let (mut parts, body) = response.into_parts();
        parts.headers.remove(header::CONTENT_LENGTH);
        parts.headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("private"));
        parts.headers.insert(wire::LIGHTSPEED, HeaderValue::from_static(wire::METERED));
        Response::from_parts(parts, Body::from_stream(meter.flow(body)))
    }

    fn flow(self, body: Body) -> impl Stream<Item = Result<Bytes, CutOff>> {
        let (mut handed_on, by_event) = (Flowed::default(), self.call.price.event > Msat::ZERO);
        let parts = body.into_data_stream().flat_map(move |part| {
            let parts: Vec<Result<Bytes, axum::Error>> = match part {
                Ok(bytes) => split(bytes, &mut handed_on, by_event).into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            stream::iter(parts)
        });
        stream::try_unfold((self, Box::pin(parts)), |(mut meter, mut parts)| async move {
            match parts.next().await {
                None => {
                    meter.finish().await?;
                    Ok(None)
                }
                Some(Err(error)) => Err(CutOff::Service(error)),
                Some(Ok(part)) => {
                    meter.cover(&part).await?;
                    Ok(Some((part, (meter, parts))))
                }
            }
        })
    }

    /// Waits until what is set aside covers another part.
    async fn cover(&mut self, part: &[u8]) -> Result<(), CutOff> {
        let flowed = self.flowed.and(part);
        let needed = flowed.cost(&self.call.price);
        let patience = self
            .running
            .as_ref()
            .map_or_else(Default::default, |running| running.shared.manner.top_up_patience);
        let covered = async { self.aside.wait_for(|aside| *aside >= needed).await.is_ok() };
        if tokio::time::timeout(patience, covered).await.unwrap_or(false) {
            self.flowed = flowed;
            self.used.store(needed.get(), Ordering::Relaxed);
            Ok(())
        } else {
            Err(CutOff::Unpaid(*self.aside.borrow()))
        }
    }

    /// Charges what has flowed, and sees to it that it is stored before the answer ends.
    async fn finish(&mut self) -> Result<(), CutOff> {
        let Some(running) = self.running.take() else { return Ok(()) };
        let stored = self.charge(running).stored().await;
        stored.map_err(|error| CutOff::Unstored(error.to_string()))
    }

    fn charge(&self, running: Running) -> Ended {
        let shared = running.shared.clone();
        let ended = running.served(self.flowed.cost(&self.call.price));
        shared.meters.forget(&self.call);
        ended
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            // Nobody waits for it, but it is stored all the same.
            let _stored_later = self.charge(running);
        }
    }
}

fn split(mut bytes: Bytes, flowed: &mut Flowed, by_event: bool) -> Vec<Bytes> {
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        let most = bytes.len().min(PART);
        let size = if by_event { flowed.to_the_end_of_an_event(&bytes[..most]) } else { most };
        let part = bytes.split_to(size);
        *flowed = flowed.and(&part);
        parts.push(part);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_wherever_the_parts_are_cut() {
        let text = b"data: a\ndata: b\n\ndata: c\r\n\r\n: comment\n\nhalf an event\n";
        for size in 1..text.len() {
            let flowed = text.chunks(size).fold(Flowed::default(), |flowed, part| flowed.and(part));
            assert_eq!((flowed.events, flowed.bytes), (3, text.len() as u64), "{size}");
        }
    }

    #[test]
    fn a_large_answer_goes_out_in_small_parts() {
        for by_event in [false, true] {
            let parts = split(Bytes::from(vec![7; 2 * PART + 1]), &mut Flowed::default(), by_event);
            assert_eq!(parts.iter().map(Bytes::len).collect::<Vec<_>>(), [PART, PART, 1]);
        }
    }

    #[test]
    fn a_part_has_the_end_of_one_event_where_events_cost_something() {
        let mut flowed = Flowed::default();
        let mut split = |text: &'static str| split(Bytes::from_static(text.as_bytes()), &mut flowed, true);
        assert_eq!(split("data: a\n\ndata: b\n"), ["data: a\n\n", "data: b\n"]);
        assert_eq!(split("\n\n\nid: c\r\n\r\n"), ["\n", "\n\n", "id: c\r\n\r\n"]);
    }
}
