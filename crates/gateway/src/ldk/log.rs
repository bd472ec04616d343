//! What LDK has to say, in the program's log.

use lightning::util::logger::{Level, Logger, Record};

/// Hands LDK's log to `tracing`. LDK logs no secrets.
#[derive(Clone, Debug)]
pub struct Log {
    /// Which node speaks, when there are several in one process.
    pub node: &'static str,
}

impl Logger for Log {
    fn log(&self, record: Record) {
        let (node, text) = (self.node, record.args);
        match record.level {
            Level::Error => tracing::error!(target: "farthing_gateway::ldk", node, "{text}"),
            Level::Warn => tracing::warn!(target: "farthing_gateway::ldk", node, "{text}"),
            Level::Info => tracing::info!(target: "farthing_gateway::ldk", node, "{text}"),
            Level::Debug => tracing::debug!(target: "farthing_gateway::ldk", node, "{text}"),
            Level::Trace | Level::Gossip => tracing::trace!(target: "farthing_gateway::ldk", node, "{text}"),
        }
    }
}
