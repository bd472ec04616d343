//! One file for each command.

pub mod agent;
pub mod buy;
pub mod call;
pub mod channels;
pub mod cheque;
pub mod device;
pub mod gateway;
pub mod init;
pub mod mailbox;
pub mod owner;
pub mod proxy;
pub mod receipt;
pub mod sell;
pub mod wallet;

/// Runs what blocks (the node, the database) beside the async runtime.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await?
}
