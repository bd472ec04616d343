//! Which nodes `Chain` takes, and what it says about the others.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use bitcoin::Network;
use farthing_chain::{Chain, ChainError, ConnectError, RegtestNode, RpcAuth, RpcConfig, StartError};

#[test]
fn a_node_on_another_network_is_refused_and_both_are_named() {
    let node = RegtestNode::start().unwrap();

    for wanted in [Network::Bitcoin, Network::Signet, Network::Testnet4] {
        let error = Chain::connect(&node.rpc_config(), wanted).unwrap_err();

        assert!(matches!(error, ConnectError::WrongNetwork { found: Network::Regtest, .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("regtest") && text.contains(&wanted.to_string()), "{text}");
    }
    assert_eq!(Chain::connect(&node.rpc_config(), Network::Regtest).unwrap().network(), Network::Regtest);
}

/// Knots is the node that can do this; Core does not know the option.
#[test]
fn a_node_that_does_not_enforce_version_3_policy_is_refused() {
    let error = RegtestNode::start_with(&["-mempooltruc=accept"]).unwrap_err();

    let refused = matches!(
        error,
        StartError::Connect(ConnectError::NoVersion3Policy { .. }) | StartError::Refused { .. }
    );
    assert!(refused, "{error:?}");
}

#[test]
fn wrong_credentials_are_not_taken_for_a_node_that_is_down() {
    let node = RegtestNode::start().unwrap();
    let auth = RpcAuth::UserPass { user: "nobody".into(), password: "wrong".into() };
    let config = RpcConfig { auth, ..node.rpc_config() };

    let error = Chain::connect(&config, Network::Regtest).unwrap_err();

    assert!(matches!(error, ConnectError::Chain(ChainError::Unauthorised { status: 401, .. })), "{error:?}");
}

#[test]
fn the_cookie_is_read_again_for_every_call_since_a_restart_changes_it() {
    let node = RegtestNode::start().unwrap();
    let RpcAuth::Cookie(original) = node.rpc_config().auth else { panic!("a private node has a cookie") };
    let folder = tempfile::tempdir().unwrap();
    let cookie = folder.path().join(".cookie");
    fs::copy(&original, &cookie).unwrap();
    let config = RpcConfig { auth: RpcAuth::Cookie(cookie.clone()), ..node.rpc_config() };
    let chain = Chain::connect(&config, Network::Regtest).unwrap();

    fs::write(&cookie, "__cookie__:of-another-run").unwrap();
    let stale = chain.tip().unwrap_err();
    fs::remove_file(&cookie).unwrap();
    let stopped = chain.tip().unwrap_err();
    fs::copy(&original, &cookie).unwrap();

    assert!(matches!(stale, ChainError::Unauthorised { .. }), "{stale:?}");
    assert!(stopped.is_transient(), "{stopped:?}");
    assert_eq!(chain.tip().unwrap().height, 200);
}

#[test]
fn a_node_that_has_gone_away_is_worth_another_try() {
    let node = RegtestNode::start().unwrap();
    let auth = RpcAuth::UserPass { user: "u".into(), password: "p".into() };
    let gone = RpcConfig { auth, ..node.rpc_config() };
    let chain = node.chain();
    drop(node);

    let by_cookie = chain.tip().unwrap_err();
    let ConnectError::Chain(by_address) = Chain::connect(&gone, Network::Regtest).unwrap_err() else {
        panic!("nothing answers");
    };

    assert!(matches!(by_cookie, ChainError::Cookie { .. }), "{by_cookie:?}");
    assert!(matches!(by_address, ChainError::Unreachable { .. }), "{by_address:?}");
    assert!(by_cookie.is_transient() && by_address.is_transient());
    assert!(by_address.to_string().contains("start it"), "{by_address}");
}

#[test]
fn a_web_server_is_not_taken_for_a_node() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", server.local_addr().unwrap());
    let serving = thread::spawn(move || {
        let (mut asked, _) = server.accept().unwrap();
        let _ = asked.read(&mut [0; 4_096]).unwrap();
        asked.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello").unwrap();
    });
    let auth = RpcAuth::UserPass { user: "u".into(), password: "p".into() };

    let error = Chain::connect(&RpcConfig { url, auth }, Network::Bitcoin).unwrap_err();

    assert!(matches!(error, ConnectError::Chain(ChainError::Unexpected { .. })), "{error:?}");
    serving.join().unwrap();
}

#[test]
fn a_chain_can_be_handed_to_other_threads() {
    fn assert_shareable<T: Clone + Send + Sync + 'static>() {}
    assert_shareable::<Chain>();
}
