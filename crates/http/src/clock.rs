//! The time for receipts, to the second: written out once a second, not for each.

use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// A clock that tells the time as text.
#[derive(Debug, Default)]
pub(crate) struct Clock(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    /// Seconds since 1970.
    second: i64,
    text: String,
}

impl Clock {
    /// Tells the present second, in RFC 3339.
    pub(crate) fn tell<T>(&self, listen: impl FnOnce(&str) -> T) -> T {
        self.tell_at(SystemTime::now(), listen)
    }

    fn tell_at<T>(&self, now: SystemTime, listen: impl FnOnce(&str) -> T) -> T {
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed());
        let mut told = self.0.lock().expect("no holder of this lock panics");
        if told.second != second || told.text.is_empty() {
            let time = Timestamp::from_second(second).unwrap_or(Timestamp::MAX);
            *told = Told { second, text: time.to_string() };
        }
        listen(&told.text)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_second_has_its_own_text_also_when_the_clock_goes_back() {
        let clock = Clock::default();
        let at = |millis| {
            clock.tell_at(UNIX_EPOCH + Duration::from_millis(millis), |text| {
                text.parse::<Timestamp>().unwrap()
            })
        };
        for millis in [0, 999, 1_000, 1_001, 1_784_000_000_500, 5_000, 5_999] {
            assert_eq!(at(millis).as_second().cast_unsigned(), millis / 1_000, "{millis}");
        }
    }
}
