//! The command line.

use anyhow::{Context, Result, bail, ensure};

use crate::fuzz;

/// What `cargo xtask help` prints.
pub const HELP: &str = "\
Usage: cargo xtask COMMAND

  setup                          find bitcoind, and wrk, LND and Electrum for tests, or get them into tools
  check                          formatting, lints, licences, documentation and the rules of the architecture
  test                           setup, every test, then each fuzz target for a short while
  signer-suite                   LDK's exported signer tests against LNGate's signer: some minutes, so not in `test`
  fuzz [TARGET] [--seconds N]    run one fuzz target, or each, for N seconds (default 20)
  demo [ARGUMENTS...]            setup, then `farthing demo ARGUMENTS` (default: channel)
  bench channel|lightspeed|cheque|gateway [--json]
                                 setup, then that benchmark
  bench lightspeed --stage accept|open|call|batch|idle
                                 one part of it alone
  help                           this text
";

/// One command with its arguments.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Help,
    Setup,
    Check,
    Test,
    /// LDK's tests of signers only.
    SignerSuite,
    /// Without a target: every target, one after the other.
    Fuzz {
        target: Option<String>,
        seconds: u32,
    },
    /// Arguments of `farthing demo`, passed through.
    Demo {
        arguments: Vec<String>,
    },
    /// Arguments of the `bench` program, passed through; the first says what to measure.
    Bench {
        arguments: Vec<String>,
    },
}

impl Command {
    /// Reads the arguments that follow the program's name.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut arguments = arguments.into_iter();
        let name = arguments.next().unwrap_or_else(|| "help".into());
        let rest: Vec<String> = arguments.collect();
        let without_arguments = |command| {
            ensure!(rest.is_empty(), "`{name}` takes no arguments, got `{}`", rest.join(" "));
            Ok(command)
        };
        match name.as_str() {
            "help" | "--help" | "-h" => Ok(Self::Help),
            "setup" => without_arguments(Self::Setup),
            "check" => without_arguments(Self::Check),
            "test" => without_arguments(Self::Test),
            "signer-suite" => without_arguments(Self::SignerSuite),
            "fuzz" => parse_fuzz(rest),
            "demo" if rest.is_empty() => Ok(Self::Demo { arguments: vec!["channel".into()] }),
            "demo" => Ok(Self::Demo { arguments: rest }),
            "bench" => {
                ensure!(
                    rest.first().is_some_and(|what| !what.starts_with('-')),
                    "`bench` needs WHAT to measure"
                );
                Ok(Self::Bench { arguments: rest })
            }
            _ => bail!("there is no command `{name}`"),
        }
    }
}

fn parse_fuzz(arguments: Vec<String>) -> Result<Command> {
    let mut target = None;
    let mut seconds = fuzz::DEFAULT_SECONDS;
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--seconds" => {
                let value = arguments.next().context("`--seconds` needs a number")?;
                seconds =
                    value.parse().with_context(|| format!("`--seconds` needs a number, got `{value}`"))?;
                // libFuzzer reads 0 as "without end".
                ensure!(seconds > 0, "`--seconds` must be at least 1");
            }
            option if option.starts_with('-') => bail!("`fuzz` has no option `{option}`"),
            _ if target.is_some() => bail!("`fuzz` takes one target or none, `{argument}` is a second one"),
            _ => target = Some(argument),
        }
    }
    Ok(Command::Fuzz { target, seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command> {
        Command::parse(line.split_whitespace().map(String::from))
    }

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(String::from).collect()
    }

    #[test]
    fn reads_every_command() {
        let fuzz =
            |target: Option<&str>, seconds| Command::Fuzz { target: target.map(String::from), seconds };
        for (line, command) in [
            ("", Command::Help),
            ("help", Command::Help),
            ("setup", Command::Setup),
            ("check", Command::Check),
            ("test", Command::Test),
            ("signer-suite", Command::SignerSuite),
            ("fuzz", fuzz(None, 20)),
            ("fuzz decode", fuzz(Some("decode"), 20)),
            ("fuzz --seconds 5 decode", fuzz(Some("decode"), 5)),
            ("demo", Command::Demo { arguments: words("channel") }),
            ("demo channel --size 1 --help", Command::Demo { arguments: words("channel --size 1 --help") }),
            ("bench calls --json", Command::Bench { arguments: words("calls --json") }),
        ] {
            assert_eq!(parse(line).unwrap(), command, "{line}");
        }
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for (line, message) in [
            ("tset", "there is no command `tset`"),
            ("check --fast", "`check` takes no arguments, got `--fast`"),
            ("fuzz a b", "`fuzz` takes one target or none, `b` is a second one"),
            ("fuzz --second 5", "`fuzz` has no option `--second`"),
            ("fuzz --seconds", "`--seconds` needs a number"),
            ("fuzz --seconds soon", "`--seconds` needs a number, got `soon`"),
            ("fuzz --seconds 0", "`--seconds` must be at least 1"),
            ("bench --json", "`bench` needs WHAT to measure"),
        ] {
            assert_eq!(parse(line).unwrap_err().to_string(), message, "{line}");
        }
    }
}
