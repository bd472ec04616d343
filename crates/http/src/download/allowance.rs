//! How long a seller may keep a buyer waiting for one piece, however it spreads that over its bytes.
//!
//! Silence alone is not enough to go by: a seller that sends a byte every few seconds is never silent for long, and holds its
//! buyer for months with one piece.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::LEAST_RATE;
use crate::client::ClientError;

/// What is left of the time that a seller may take for a piece. Only waiting for it counts: not the writing of what came, nor
/// what the buyer waits by itself to keep to its rate.
#[derive(Debug)]
pub(super) struct Allowance {
    left: Duration,
    all: Duration,
}

impl Allowance {
    /// That of a piece of so many bytes, for a seller that may stay silent for `patience`.
    pub(super) fn of(length: u64, patience: Duration) -> Self {
        let all = patience.saturating_add(Duration::from_secs(length / LEAST_RATE));
        Self { left: all, all }
    }

    /// Waits for the seller.
    pub(super) async fn wait<T>(&mut self, answer: impl Future<Output = T>) -> Result<T, ClientError> {
        let asked = Instant::now();
        let answer = timeout(self.left, answer).await;
        self.left = self.left.saturating_sub(asked.elapsed());
        answer.map_err(|_| ClientError::TooSlow(self.all.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_drips_is_given_up_and_what_is_there_is_taken() {
        let mut allowance = Allowance::of(20 * LEAST_RATE, Duration::from_secs(30));
        assert!(allowance.wait(ready(())).await.is_ok());
        let mut bytes = 0;
        let refused = loop {
            // Each byte by itself comes long before anybody would lose patience.
            match allowance.wait(sleep(Duration::from_secs(6))).await {
                Ok(()) => bytes += 1,
                Err(error) => break error,
            }
            // What the buyer does meanwhile does not count.
            sleep(Duration::from_secs(60)).await;
        };
        assert!(bytes == 8 && matches!(refused, ClientError::TooSlow(50)), "{bytes}: {refused}");
        assert!(allowance.wait(pending::<()>()).await.is_err());
    }

    #[test]
    fn a_large_piece_may_take_longer() {
        let patience = Duration::from_secs(30);
        assert_eq!(Allowance::of(1 << 20, patience).left, patience + Duration::from_secs(1024));
        assert_eq!(Allowance::of(u64::MAX, Duration::MAX).left, Duration::MAX);
    }
}
