//! The answers to served calls, kept for those that were lost on the way: the same call again gets the same answer.
//!
//! They are kept in memory, the newest up to a number of bytes; after that, and after a restart, a retry gets a receipt.
//! Nearly all of them are never asked for, so each is written once, behind the one before, into one piece of memory that
//! is used round and round: nothing is allocated for it, and nothing freed when it goes.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Mutex;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use farthing_node::by_channel::Keyed;
use farthing_protocol::ChannelId;
use farthing_protocol::lightspeed::CallNumber;

/// An answer that is to be kept.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The MAC of the call: another request under the same number gets nothing.
    pub mac: &'a [u8; 32],
    /// The status.
    pub status: StatusCode,
    /// The headers, the receipt among them.
    pub headers: &'a HeaderMap,
    /// The whole body.
    pub body: &'a [u8],
}

/// The bytes before an answer's headers: MAC, status, how many headers.
const HEAD: usize = 36;
/// The bytes before a header's name: its length, the value's length, whether the value is sensitive.
const FIELD: usize = 7;

impl Answer<'_> {
    fn size(&self) -> usize {
        let fields = self.headers.iter().map(|(name, value)| FIELD + name.as_str().len() + value.len());
        HEAD + fields.sum::<usize>() + self.body.len()
    }

    /// Fills `room`, which is of that size. The body goes to the end.
    fn write(&self, mut room: &mut [u8]) {
        let mut put = |bytes: &[u8]| {
            let (place, rest) = std::mem::take(&mut room).split_at_mut(bytes.len());
            place.copy_from_slice(bytes);
            room = rest;
        };
        put(self.mac);
        put(&self.status.as_u16().to_be_bytes());
        // A map holds at most 2^15 headers, and a name has less than 2^16 bytes.
        put(&(self.headers.len() as u16).to_be_bytes());
        for (name, value) in self.headers {
            put(&(name.as_str().len() as u16).to_be_bytes());
            put(&(value.len() as u32).to_be_bytes());
            put(&[u8::from(value.is_sensitive())]);
            put(name.as_str().as_bytes());
            put(value.as_bytes());
        }
        put(self.body);
    }
}

/// The answer that [`Answer::write`] wrote, if it is to the call with that MAC.
fn read(mut bytes: &[u8], mac: &[u8; 32]) -> Option<Response> {
    if take(&mut bytes, mac.len())? != mac {
        return None;
    }
    let status = StatusCode::from_u16(u16::from_be_bytes(number(&mut bytes)?)).ok()?;
    let count = u16::from_be_bytes(number(&mut bytes)?);
    let mut headers = HeaderMap::with_capacity(count.into());
    for _ in 0..count {
        let name = u16::from_be_bytes(number(&mut bytes)?);
        let value = u32::from_be_bytes(number(&mut bytes)?);
        let [is_sensitive] = number(&mut bytes)?;
        let name = HeaderName::from_bytes(take(&mut bytes, name.into())?).ok()?;
        let mut value = HeaderValue::from_bytes(take(&mut bytes, value as usize)?).ok()?;
        value.set_sensitive(is_sensitive != 0);
        headers.append(name, value);
    }
    let mut response = Response::new(Body::from(Bytes::copy_from_slice(bytes)));
    (*response.status_mut(), *response.headers_mut()) = (status, headers);
    Some(response)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn number<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    take(bytes, N)?.try_into().ok()
}

type Key = (ChannelId, CallNumber);

/// The newest answers.
#[derive(Debug)]
pub struct Answers {
    most: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    room: Vec<u8>,
    places: HashMap<Key, Place, Keyed>,
    /// All of them, the oldest first.
    order: VecDeque<(Key, Place)>,
    /// Where the newest one ends.
    end: u64,
    /// What all of them take.
    bytes: usize,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("answers", &self.places.len()).finish_non_exhaustive()
    }
}

/// Where an answer is. Places count on and on; what is there is in the room at the place's remainder by the room's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    start: u64,
    size: usize,
}

/// What an answer takes beside its own bytes: in the two lists, of which one may be half empty.
const LISTED: usize = 256;

impl Answers {
    /// Keeps at most that many bytes.
    pub fn new(most: usize) -> Self {
        Self { most, kept: Mutex::default() }
    }

    /// Keeps an answer, and forgets the oldest ones where that takes too much room.
    pub fn keep(&self, channel: ChannelId, number: CallNumber, answer: Answer<'_>) {
        let size = answer.size();
        if size + LISTED > self.most {
            return;
        }
        let mut kept = self.kept.lock().expect("no holder of this lock panics");
        if kept.room.is_empty() {
            // Reserved once; the system gives memory for it as it is filled.
            kept.room.reserve_exact(self.most);
        }
        let place = kept.make_room(size, self.most);
        let at = self.at(place);
        if kept.room.len() < at.end {
            kept.room.resize(at.end, 0);
        }
        answer.write(&mut kept.room[at]);
        let key = (channel, number);
        kept.order.push_back((key, place));
        kept.places.insert(key, place);
    }

    /// The answer to a call that was served, if it is still kept and the request is the same.
    pub fn find(&self, channel: ChannelId, number: CallNumber, mac: &[u8; 32]) -> Option<Response> {
        let kept = self.kept.lock().expect("no holder of this lock panics");
        let place = *kept.places.get(&(channel, number))?;
        read(kept.room.get(self.at(place))?, mac)
    }

    fn at(&self, place: Place) -> std::ops::Range<usize> {
        let start = (place.start % self.most as u64) as usize;
        start..start + place.size
    }
}

impl Kept {
    /// The next place, with everything forgotten that is in its way.
    fn make_room(&mut self, size: usize, most: usize) -> Place {
        let at = self.end % most as u64;
        // An answer is in one piece: what is too short at the end of the room stays empty.
        let skipped = if at + size as u64 > most as u64 { most as u64 - at } else { 0 };
        let start = self.end + skipped;
        self.end = start + size as u64;
        self.bytes += size + LISTED;
        while let Some((key, oldest)) = self.order.front().copied()
            && (self.end - oldest.start > most as u64 || self.bytes > most)
        {
            self.order.pop_front();
            self.bytes -= oldest.size + LISTED;
            // Unless there is a newer one under the same key.
            if self.places.get(&key) == Some(&oldest) {
                self.places.remove(&key);
            }
        }
        Place { start, size }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const CHANNEL: ChannelId = ChannelId::from_bytes([1; 32]);

    fn number(counter: u64) -> CallNumber {
        CallNumber { epoch: 1, counter }
    }

    fn keep(answers: &Answers, counter: u64, mac: u8, size: usize) {
        let body = vec![mac; size];
        let answer =
            Answer { mac: &[mac; 32], status: StatusCode::OK, headers: &HeaderMap::new(), body: &body };
        answers.keep(CHANNEL, number(counter), answer);
    }

    fn find(answers: &Answers, counter: u64, mac: u8) -> Option<Vec<u8>> {
        let found = answers.find(CHANNEL, number(counter), &[mac; 32])?;
        let body = axum::body::to_bytes(found.into_body(), usize::MAX).now_or_never();
        Some(body.expect("it is all there").unwrap().into())
    }

    #[test]
    fn the_oldest_go_first_and_only_the_same_request_gets_the_answer() {
        let answers = Answers::new(3_000);
        (1..=3).for_each(|counter| keep(&answers, counter, counter as u8, 1_000));
        assert!(find(&answers, 1, 1).is_none(), "there is room for two");
        assert_eq!(find(&answers, 3, 3), Some(vec![3; 1_000]));
        assert!(find(&answers, 3, 2).is_none());
        keep(&answers, 9, 9, 4_000);
        assert!(find(&answers, 9, 9).is_none(), "too large to be kept");
        assert!(find(&answers, 3, 3).is_some());
    }

    #[test]
    fn round_and_round_every_answer_that_is_found_is_whole_and_the_newest_are_found() {
        const MOST: usize = 20_000;
        let answers = Answers::new(MOST);
        for counter in 0..2_000_u64 {
            let size = |counter: u64| (counter * 7_919 % 2_311) as usize;
            keep(&answers, counter, counter as u8, size(counter));
            for back in 0..=counter.min(40) {
                let earlier = counter - back;
                match find(&answers, earlier, earlier as u8) {
                    Some(body) => assert_eq!(body, vec![earlier as u8; size(earlier)]),
                    None => assert!(back > 4, "{back} before {counter}"),
                }
            }
            let kept = answers.kept.lock().unwrap();
            assert!(kept.room.len() <= MOST && kept.bytes <= MOST && kept.places.len() == kept.order.len());
        }
    }

    #[test]
    fn the_newer_of_two_under_one_number_stays() {
        let answers = Answers::new(3_000);
        keep(&answers, 1, 1, 500);
        keep(&answers, 1, 2, 500);
        keep(&answers, 2, 3, 1_200);
        assert_eq!(find(&answers, 1, 2), Some(vec![2; 500]), "the older one made room");
        assert!(find(&answers, 1, 1).is_none());
    }

    #[test]
    fn headers_come_back_as_they_were() {
        let mut headers = HeaderMap::new();
        headers.append("set-cookie", HeaderValue::from_static("a"));
        headers.append("set-cookie", HeaderValue::from_static("b"));
        let mut secret = HeaderValue::from_bytes(b"\xff").unwrap();
        secret.set_sensitive(true);
        headers.append("x-secret", secret);
        let answers = Answers::new(3_000);
        let (mac, status) = (&[7; 32], StatusCode::CREATED);
        answers.keep(CHANNEL, number(1), Answer { mac, status, headers: &headers, body: b"x" });
        let found = answers.find(CHANNEL, number(1), mac).unwrap();
        assert_eq!((found.status(), found.headers()), (status, &headers));
        assert!(found.headers()["x-secret"].is_sensitive());
    }
}
