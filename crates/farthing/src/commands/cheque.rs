//! `farthing cheque`.

mod address;

use crate::cli::ChequeCommand;
use crate::config::Context;

/// Runs a cheque command.
pub async fn run(context: &Context, command: ChequeCommand) -> anyhow::Result<()> {
    match command {
        ChequeCommand::Address(arguments) => address::run(context, *arguments).await,
    }
}
