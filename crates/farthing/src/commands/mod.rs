//! One file for each command.

pub mod buy;
pub mod call;
pub mod channels;
pub mod device;
pub mod gateway;
pub mod init;
pub mod owner;
pub mod proxy;
pub mod sell;
pub mod wallet;

/// Runs what blocks (the node, the database) beside the async runtime.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await?
}
