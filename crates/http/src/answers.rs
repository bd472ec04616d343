//! The answers to served calls, kept for those that were lost on the way: the same call again gets the same answer.
//!
//! They are kept in memory, the newest up to a number of bytes; after that, and after a restart, a retry gets a receipt.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use farthing_protocol::ChannelId;
use farthing_protocol::lightspeed::CallNumber;

/// An answer that is kept.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The MAC of the call: another request under the same number gets nothing.
    pub mac: [u8; 32],
    /// The status.
    pub status: StatusCode,
    /// The headers, the receipt among them.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Answer {
    /// The answer once more.
    pub fn respond(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }

    fn size(&self) -> usize {
        let headers: usize =
            self.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 64).sum();
        self.body.len() + headers + 256
    }
}

type Key = (ChannelId, CallNumber);

/// The newest answers.
#[derive(Debug)]
pub struct Answers {
    most: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    answers: HashMap<Key, Answer>,
    order: VecDeque<Key>,
    bytes: usize,
}

impl Answers {
    /// Keeps at most that many bytes.
    pub fn new(most: usize) -> Self {
        Self { most, kept: Mutex::default() }
    }

    /// Keeps an answer, and forgets the oldest ones where that takes too much room.
    pub fn keep(&self, channel: ChannelId, number: CallNumber, answer: Answer) {
        let size = answer.size();
        if size > self.most {
            return;
        }
        let mut kept = self.kept.lock().expect("no holder of this lock panics");
        let key = (channel, number);
        if let Some(old) = kept.answers.insert(key, answer) {
            kept.bytes -= old.size();
        } else {
            kept.order.push_back(key);
        }
        kept.bytes += size;
        while kept.bytes > self.most {
            let Some(oldest) = kept.order.pop_front() else { break };
            if let Some(gone) = kept.answers.remove(&oldest) {
                kept.bytes -= gone.size();
            }
        }
    }

    /// The answer to a call that was served, if it is still kept and the request is the same.
    pub fn find(&self, channel: ChannelId, number: CallNumber, mac: &[u8; 32]) -> Option<Answer> {
        let kept = self.kept.lock().expect("no holder of this lock panics");
        kept.answers.get(&(channel, number)).filter(|answer| answer.mac == *mac).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first_and_only_the_same_request_gets_the_answer() {
        let answers = Answers::new(3_000);
        let channel = ChannelId::from_bytes([1; 32]);
        let number = |counter| CallNumber { epoch: 1, counter };
        let answer = |mac: u8| Answer {
            mac: [mac; 32],
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Bytes::from(vec![mac; 1_000]),
        };
        (1..=3).for_each(|counter| answers.keep(channel, number(counter), answer(counter as u8)));
        assert!(answers.find(channel, number(1), &[1; 32]).is_none(), "there is room for two");
        assert_eq!(answers.find(channel, number(3), &[3; 32]).unwrap().body[0], 3);
        assert!(answers.find(channel, number(3), &[2; 32]).is_none());
        answers.keep(channel, number(9), Answer { body: Bytes::from(vec![0; 4_000]), ..answer(9) });
        assert!(answers.find(channel, number(9), &[9; 32]).is_none(), "too large to be kept");
        assert!(answers.find(channel, number(3), &[3; 32]).is_some());
    }
}
