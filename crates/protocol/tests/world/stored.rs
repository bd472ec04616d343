//! What a program has on disk, and what it has in memory.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// One party's store, on disk and as read. A crash loses what is not on disk.
pub struct Stored<T> {
    disk: String,
    pub memory: T,
}

impl<T: Serialize + DeserializeOwned + PartialEq + Debug> Stored<T> {
    pub fn new(value: T) -> Self {
        Self { disk: json(&value), memory: value }
    }

    pub fn save(&mut self, value: T) {
        *self = Self::new(value);
    }

    pub fn read_again(&mut self) {
        let read: T = serde_json::from_str(&self.disk).expect("what was written");
        assert_eq!(read, self.memory, "nothing counts that is not stored");
        self.memory = read;
    }
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("every state has an encoding")
}
