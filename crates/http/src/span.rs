//! The span of a file that a `Range` asks for (RFC 9110, section 14).

/// Some bytes of a file: at least one, and none beyond its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first byte, counted from 0.
    pub start: u64,
    /// How many.
    pub length: u64,
}

/// A `Range` that is not one span of bytes within the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the Range is not one span of bytes within the file")]
pub struct BadSpan;

impl Span {
    /// Reads a header's value: `bytes=0-99`, `bytes=100-` or, for the last 100, `bytes=-100`. An end beyond the file's is taken for it.
    ///
    /// # Errors
    /// When it is something else, also several spans, or begins beyond the end.
    pub fn parse(range: &str, size: u64) -> Result<Self, BadSpan> {
        let (first, last) =
            range.strip_prefix("bytes=").and_then(|span| span.split_once('-')).ok_or(BadSpan)?;
        let newest = size.checked_sub(1).ok_or(BadSpan)?;
        let (start, end) = match (first, last) {
            ("", last) => (size.saturating_sub(number(last)?), newest),
            (first, "") => (number(first)?, newest),
            (first, last) => (number(first)?, number(last)?.min(newest)),
        };
        let beyond = end.checked_sub(start).ok_or(BadSpan)?;
        Ok(Self { start, length: beyond + 1 })
    }
}

/// Digits and nothing else: what Rust reads as a number may have a sign.
fn number(digits: &str) -> Result<u64, BadSpan> {
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(BadSpan);
    }
    digits.parse().map_err(|_| BadSpan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_span_within_the_file() {
        for (range, start, length) in [
            ("bytes=0-0", 0, 1),
            ("bytes=0-99", 0, 100),
            ("bytes=10-", 10, 90),
            ("bytes=-5", 95, 5),
            ("bytes=-500", 0, 100),
            ("bytes=99-18446744073709551615", 99, 1),
        ] {
            assert_eq!(Span::parse(range, 100), Ok(Span { start, length }), "{range}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for range in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=-0",
            "bytes=100-",
            "bytes=100-200",
            "bytes=5-4",
            "bytes=+1-2",
            "bytes=1-+2",
            "bytes= 1-2",
            "bytes=0-1,3-4",
            "bytes=0--1",
            "bytes=99999999999999999999-",
            "items=0-1",
        ] {
            assert_eq!(Span::parse(range, 100), Err(BadSpan), "{range}");
        }
        assert_eq!(Span::parse("bytes=0-", 0), Err(BadSpan));
    }
}
