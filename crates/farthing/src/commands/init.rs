//! `farthing init`.

use std::io::{IsTerminal as _, stdin};

use farthing_node::home::Home;
use serde_json::json;

use crate::cli::InitArguments;
use crate::config::Context;

/// Makes the data folder. The words are shown once, and only to a terminal or to who asks for JSON.
pub fn run(context: &Context, arguments: &InitArguments) -> anyhow::Result<()> {
    let words = if arguments.restore {
        if stdin().is_terminal() {
            eprintln!("Type the BIP39 words, separated by spaces:");
        }
        let mut line = String::new();
        stdin().read_line(&mut line)?;
        Some(line.trim().to_owned())
    } else {
        None
    };
    let (home, words) = Home::init(context.data(), context.network(), words.as_deref())?;
    let folder = home.path().display().to_string();
    let line = if arguments.restore {
        format!("The wallet is restored in {folder}.\nNext: farthing wallet balance")
    } else {
        format!(
            "A new {} wallet is in {folder}.\n\nWrite these words down. They bring back the wallet; open channels also need \
             the folder:\n\n    {}\n\nNext: farthing wallet address",
            context.network(),
            words.as_str()
        )
    };
    let value = json!({ "folder": folder, "network": context.network(), "words": words.as_str() });
    context.output.say(&value, &line)
}
