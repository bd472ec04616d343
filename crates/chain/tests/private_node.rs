//! The private node: what it offers, and that nothing of it stays behind.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

mod common;

use std::env;
use std::io::{BufRead, BufReader, stdin};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bitcoin::Amount;
use common::{address, coin, sat, spend_v3};
use farthing_chain::{OutputStatus, RegtestNode, RpcAuth, StartError};

#[test]
fn a_node_starts_with_a_hundred_coins_to_spend() {
    let node = RegtestNode::start().unwrap();

    assert_eq!(node.chain().tip().unwrap().height, 200);
    // Coins of 50 BTC each: the wallet must use almost all of the hundred.
    node.send(&address(), Amount::from_int_btc(4_900)).unwrap();
    assert!(node.send(&address(), Amount::from_int_btc(100)).is_err());
}

#[test]
fn an_empty_block_leaves_the_mempool_as_it_is() {
    let node = RegtestNode::start().unwrap();
    let (coin, _) = coin(&node, sat(10_000));

    let hash = node.mine_empty().unwrap();

    assert_eq!(node.chain().block(&hash).unwrap().txdata.len(), 1);
    assert!(matches!(node.chain().output(&coin).unwrap(), OutputStatus::Unconfirmed { .. }));
}

#[test]
fn a_block_can_be_mined_with_chosen_transactions_that_no_mempool_would_take() {
    let node = RegtestNode::start().unwrap();
    let (coin, payment) = coin(&node, sat(10_000));
    let free = spend_v3(&[coin], &[sat(10_000)]);
    assert!(node.chain().broadcast(&free).is_err());

    let hash = node.mine_with(&[payment.clone(), free.clone()]).unwrap();

    assert_eq!(node.chain().block(&hash).unwrap().txdata[1..], [payment, free]);
}

#[test]
fn a_misspelt_argument_is_reported_in_the_programs_own_words() {
    let error = RegtestNode::start_with(&["-nosuchoption=1"]).unwrap_err();

    assert!(matches!(error, StartError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("nosuchoption"), "{error}");
}

#[test]
fn two_nodes_do_not_know_each_other() {
    let (one, other) = (RegtestNode::start().unwrap(), RegtestNode::start().unwrap());

    one.mine(3).unwrap();

    assert_eq!(one.chain().tip().unwrap().height, 203);
    assert_eq!(other.chain().tip().unwrap().height, 200);
}

#[test]
fn nothing_is_left_of_a_node_that_is_dropped() {
    let node = RegtestNode::start().unwrap();
    let traces = Traces::of(&node);
    let process = std::fs::read_to_string(traces.folder.join("bitcoind.pid")).unwrap();
    assert!(is_running(process.trim()) && traces.answers() && traces.folder.exists());

    drop(node);

    assert!(!is_running(process.trim()));
    assert!(!traces.answers());
    assert!(!traces.folder.exists());
}

#[test]
fn nothing_is_left_of_a_node_whose_owner_is_killed() {
    let (mut owner, traces) = another_owner();
    assert!(traces.answers() && traces.folder.exists());

    // SIGKILL: nothing of the owner's own runs any more.
    owner.kill().unwrap();
    owner.wait().unwrap();

    common::until("the node has gone", || !traces.answers());
    common::until("its folder has gone", || !traces.folder.exists());
}

#[test]
fn nothing_is_left_of_a_node_whose_owner_is_interrupted_at_the_terminal() {
    let (mut owner, traces) = another_owner();

    // A terminal interrupts everything that was started from the command: the owner, the node and its guard.
    let group = format!("-{}", owner.id());
    assert!(Command::new("kill").args(["-INT", "--", &group]).status().unwrap().success());
    owner.wait().unwrap();

    common::until("the node has gone", || !traces.answers());
    common::until("its folder has gone", || !traces.folder.exists());
}

/// Starts a node in another process, which is the first of a process group of its own.
fn another_owner() -> (Child, Traces) {
    let mut owner = Command::new(env::current_exe().unwrap())
        .args(["--exact", "own_a_node_until_killed", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let said = BufReader::new(owner.stdout.take().unwrap()).lines();
    let traces = said.map(Result::unwrap).find_map(|line| Traces::read(&line)).unwrap();
    (owner, traces)
}

#[test]
#[ignore = "run by the tests above, in a process of its own"]
fn own_a_node_until_killed() {
    let node = RegtestNode::start().unwrap();
    println!("\n{}", Traces::of(&node).write());
    stdin().read_line(&mut String::new()).unwrap();
}

/// By what a node can be noticed from outside.
struct Traces {
    rpc: String,
    folder: PathBuf,
}

impl Traces {
    fn of(node: &RegtestNode) -> Traces {
        let config = node.rpc_config();
        let RpcAuth::Cookie(cookie) = config.auth else { panic!("a private node has a cookie") };
        let is_ours = |folder: &&Path| {
            folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("farthing-regtest-"))
        };
        let folder = cookie.ancestors().find(is_ours).unwrap().to_owned();
        Traces { rpc: config.url.trim_start_matches("http://").to_owned(), folder }
    }

    fn write(&self) -> String {
        format!("node at {} in {}", self.rpc, self.folder.display())
    }

    fn read(line: &str) -> Option<Traces> {
        let (rpc, folder) = line.strip_prefix("node at ")?.split_once(" in ")?;
        Some(Traces { rpc: rpc.to_owned(), folder: folder.into() })
    }

    fn answers(&self) -> bool {
        TcpStream::connect(&self.rpc).is_ok()
    }
}

fn is_running(process: &str) -> bool {
    Command::new("kill").args(["-0", process]).stderr(Stdio::null()).status().unwrap().success()
}
