//! The program `farthing`: sell and buy over one-way payment channels.

mod amounts;
mod cli;
mod commands;
mod config;
mod demo;
mod exit;
mod output;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};
use crate::exit::Failure;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _closed_pipe = error.print();
            // Not clap's 2, which means "over cost" here.
            return if error.use_stderr() { exit::OTHER.into() } else { ExitCode::SUCCESS };
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(&cli.log))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .init();
    take_all_files();
    match run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let failure = Failure::of(&error);
            eprintln!("farthing: {error:#}");
            failure.code().into()
        }
    }
}

/// A server takes up to 2,048 connections and has a database and a bitcoind to speak to, while a shell allows a process 1,024 files at first.
/// What the system allows on request is asked for; nothing is lost where it refuses.
fn take_all_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};

    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "no more files may be open than before");
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    if let Command::Demo(demo) = &cli.command {
        return demo::run(demo, cli.json).await;
    }
    let context = config::Context::load(&cli)?;
    match cli.command {
        Command::Init(arguments) => commands::init::run(&context, &arguments),
        Command::Wallet(command) => commands::wallet::run(&context, command).await,
        Command::Sell(arguments) => commands::sell::run(&context, *arguments).await,
        Command::Call(arguments) => commands::call::run(&context, *arguments).await,
        Command::Proxy(arguments) => commands::proxy::run(&context, arguments).await,
        Command::Buy(arguments) => commands::buy::run(&context, arguments).await,
        Command::Channels(command) => commands::channels::run(&context, command).await,
        Command::Agent(arguments) => commands::agent::run(&context, arguments).await,
        Command::Cheque(command) => commands::cheque::run(&context, command).await,
        Command::Receipt(command) => commands::receipt::run(&context, command),
        Command::Mailbox(command) => commands::mailbox::run(&context, command).await,
        Command::Device(command) => commands::device::run(&context, command).await,
        Command::Owner(command) => commands::owner::run(&context, command).await,
        Command::Gateway(command) => commands::gateway::run(&context, command).await,
        Command::Demo(_) => unreachable!("handled above, since it needs no configuration"),
    }
}
