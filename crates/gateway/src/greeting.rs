//! What a device says first, and how long it may take.

use std::time::Duration;

use farthing_protocol::device::wire::{Hello, ToGateway};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long a device may take after the handshake.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A connection that does not begin as a device's does.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoHello {
    /// With something else.
    #[error("the device did not begin with a hello")]
    Other,
    /// With nothing.
    #[error("the device did not say hello within {} seconds", PATIENCE.as_secs())]
    Silence,
}

/// What the device says of itself.
pub(crate) async fn hear(
    incoming: &mut mpsc::Receiver<ToGateway>,
    patience: Duration,
) -> Result<Hello, NoHello> {
    match timeout(patience, incoming.recv()).await {
        Ok(Some(ToGateway::Hello(hello))) => Ok(hello),
        Ok(_other) => Err(NoHello::Other),
        Err(_elapsed) => Err(NoHello::Silence),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_says_nothing_or_something_else_first_is_not_waited_for() {
        let (to_gateway, mut incoming) = mpsc::channel(1);
        let silence = hear(&mut incoming, Duration::from_millis(20)).await;
        assert!(matches!(silence, Err(NoHello::Silence)), "{silence:?}");
        to_gateway.send(ToGateway::Round { id: 1, messages: Vec::new() }).await.unwrap();
        let round = hear(&mut incoming, PATIENCE).await;
        assert!(matches!(round, Err(NoHello::Other)), "{round:?}");
    }
}
