//! Somebody whom the gateway does not know, and who says that its chain ends at genesis.

use std::sync::Arc;

use bitcoin::{Amount, FeeRate, Network};
use farthing_chain::RegtestNode;
use farthing_gateway::admin;
use farthing_gateway::caller::{CallError, Caller, MOST_UNREAD, Reply};
use farthing_gateway::gateway::{Gateway, Limits, Settings};
use farthing_gateway::session::{Connection, SessionError};
use farthing_gateway::shelf::Shelf;
use farthing_node::cabinet::Cabinet;
use farthing_protocol::Msat;
use farthing_protocol::device::wire::{
    ChannelKeysId, Enrol, Hello, Order, Report, Request, ToDevice, ToGateway,
};
use farthing_protocol::device::{Policy, SignedPolicy};
use secp256k1::{Keypair, SECP256K1};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::world::{BRIDGE, OWNER, PATIENCE, connect, new_device, policy, public, secret};

/// A gateway whose bridge is nowhere.
struct Stage {
    regtest: RegtestNode,
    gateway: Arc<Gateway>,
    _folder: TempDir,
}

/// One connection of the device.
struct Line {
    to_gateway: mpsc::Sender<ToGateway>,
    from_gateway: mpsc::Receiver<ToDevice>,
    session: JoinHandle<Result<(), SessionError>>,
}

impl Stage {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let regtest = RegtestNode::start().unwrap();
        let folder = farthing_chain::temporary_folder("farthing-gateway-").unwrap();
        let settings = Settings {
            folder: folder.path().to_owned(),
            bridge: public(BRIDGE),
            bridge_address: "127.0.0.1:9".parse().unwrap(),
            fee_ppm: 0,
            fee_base: Msat::ZERO,
            invitation: "come in".into(),
            commitment_fee_rate: FeeRate::from_sat_per_kwu(1_000),
            onchain_fee_rate: FeeRate::from_sat_per_kwu(1_000),
            closing_margin: Amount::from_sat(1_000),
            bridge_delay: 2_016,
            keys_ready: 1,
            limits,
            poll: std::time::Duration::from_millis(50),
        };
        let gateway = Gateway::open(settings, [0x40; 32], regtest.chain()).unwrap();
        Self { regtest, gateway, _folder: folder }
    }

    /// The device connects, says that it knows nothing but genesis, and hears whether it is enrolled.
    async fn connect(&self, hash: [u8; 32]) -> (Line, bool) {
        self.connect_as([9; 32], hash).await
    }

    async fn connect_as(&self, device: [u8; 32], hash: [u8; 32]) -> (Line, bool) {
        let (to_gateway, incoming) = mpsc::channel(256);
        let (outgoing, from_gateway) = mpsc::channel(MOST_UNREAD);
        let serving = self.gateway.clone();
        let session =
            tokio::spawn(async move { serving.serve(Connection { device, hash, incoming, outgoing }).await });
        let mut line = Line { to_gateway, from_gateway, session };
        let tip = (0, self.regtest.chain().block_hash(0).unwrap().unwrap());
        line.say(ToGateway::Hello(Hello { network: Network::Regtest, tip, channels: Vec::new() }));
        let ToDevice::Welcome(welcome) = line.hear().await else { panic!("no welcome") };
        (line, welcome.enrolled)
    }
}

impl Line {
    fn say(&self, message: ToGateway) {
        self.to_gateway.try_send(message).unwrap();
    }

    async fn hear(&mut self) -> ToDevice {
        timeout(PATIENCE, self.from_gateway.recv()).await.expect("in time").unwrap()
    }

    /// Asks to be enrolled, and hears the answer.
    async fn enrol(&mut self, id: u64, invitation: &str) -> Report {
        self.say(ToGateway::Order { id, order: Order::Enrol(enrolment(invitation)) });
        loop {
            match self.hear().await {
                ToDevice::Report { id: of, report } if of == id => return report,
                ToDevice::Headers(_) | ToDevice::GenerateKey { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

fn enrolment(invitation: &str) -> Enrol {
    Enrol {
        invitation: invitation.into(),
        name: "car".into(),
        identity: public(1),
        owner: public(OWNER).x_only_public_key().0,
        policy: signed(policy()),
    }
}

fn signed(policy: Policy) -> SignedPolicy {
    policy.sign(&Keypair::from_secret_key(SECP256K1, &secret(OWNER)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_full_enrols_nobody_else_and_keeps_whom_it_has() {
    let stage = Stage::with(Limits { devices: 1, ..Limits::default() });
    let (mut first, _) = stage.connect([1; 32]).await;
    assert_eq!(first.enrol(1, "come in").await, Report::Done);
    let (mut second, _) = stage.connect_as([8; 32], [2; 32]).await;
    let refused = second.enrol(1, "come in").await;
    assert!(
        matches!(&refused, Report::Refused { why } if why.contains("as many devices as it may")),
        "{refused:?}"
    );
    assert_eq!(first.enrol(2, "come in").await, Report::Done, "again, by one that it has");
    let (_again, is_enrolled) = stage.connect([3; 32]).await;
    assert!(is_enrolled);
}

/// A thief's device enrols without end while the operator puts in what the owner has signed. An enrolment never changes the policy, so
/// what it read before must not come back with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owners_stop_outlasts_a_device_that_enrols_without_end() {
    const AT_ONCE: u64 = 8;
    let stage = Stage::new();
    stage.gateway.listen_to_operator().await.unwrap();
    let folder = stage.gateway.settings.folder.clone();
    let (mut line, _) = stage.connect([1; 32]).await;
    assert_eq!(line.enrol(1, "come in").await, Report::Done);
    for version in 2..22 {
        let first = version * AT_ONCE;
        for id in first..first + AT_ONCE {
            line.say(ToGateway::Order { id, order: Order::Enrol(enrolment("come in")) });
        }
        let stop = signed(Policy { version, paused: true, ..policy() });
        let stop = format!("policy {}", serde_json::to_string(&stop).unwrap());
        assert_eq!(admin::ask(&folder, &stop).await.unwrap()["devices"], 1);
        for _ in 0..AT_ONCE {
            loop {
                match line.hear().await {
                    ToDevice::Report { report, .. } => break assert_eq!(report, Report::Done),
                    ToDevice::Headers(_) | ToDevice::GenerateKey { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        let devices = admin::ask(&folder, "devices").await.unwrap();
        assert_eq!((&devices[0]["policy"], &devices[0]["paused"]), (&json!(version), &json!(true)));
    }
    stage.gateway.stop();
}

/// A device may say the same as often as it likes: the database writes no page for what it has already, so it costs the operator's disk nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_changes_nothing_writes_nothing() {
    let stage = Stage::new();
    let (mut line, _) = stage.connect([1; 32]).await;
    assert_eq!(line.enrol(1, "come in").await, Report::Done);
    let log = stage.gateway.settings.folder.join("devices.sqlite-wal");
    let written = std::fs::read(&log).unwrap();
    assert!(!written.is_empty());
    assert_eq!(line.enrol(2, "come in").await, Report::Done);
    line.say(ToGateway::Order { id: 3, order: Order::Policy(signed(policy())) });
    while !matches!(line.hear().await, ToDevice::Report { id: 3, report: Report::Done }) {}
    assert!(std::fs::read(&log).unwrap() == written);
    stage.gateway.stop();
}

/// A device says with each connection that it has none of the keys that were made with it. What no channel ever had is not kept, or the
/// operator's disk would fill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_forgets_its_keys_leaves_nothing_of_them() {
    let stage = Stage::new();
    stage.gateway.listen_to_operator().await.unwrap();
    let tip = (0, stage.regtest.chain().block_hash(0).unwrap().unwrap());
    for _ in 0..3 {
        let (device, reports, _statements) = new_device(1);
        let mut forgetful = connect(&stage.gateway, 1, device, tip);
        forgetful.reports = reports;
        forgetful.order(Order::Enrol(enrolment("come in")));
        assert_eq!(forgetful.report().await, Report::Done);
        // It waits for a key. The bridge is nowhere.
        forgetful.order(Order::Open { capacity: Amount::from_sat(1_000_000) });
        let report = forgetful.report().await;
        assert!(matches!(&report, Report::Refused { why } if why.contains("Lightning node")), "{report:?}");
        forgetful.cut().await;
    }
    let folder = stage.gateway.settings.folder.clone();
    let devices = admin::ask(&folder, "devices").await.unwrap();
    assert_eq!(devices[0]["keys_and_channels"], 1);
    stage.gateway.stop();
    let cabinet = Arc::new(Cabinet::open(&folder.join("devices.sqlite")).unwrap());
    assert_eq!(Shelf::new(cabinet, "channel").owners().unwrap().len(), 1);
}

/// No key is ready, since this device never makes one, so its openings wait; but not without bound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_orders_of_a_device_wait_and_no_more() {
    const MOST: u64 = 64;
    let stage = Stage::new();
    let (mut line, _) = stage.connect([1; 32]).await;
    assert_eq!(line.enrol(1, "come in").await, Report::Done);
    for id in 2..=2 + MOST {
        line.say(ToGateway::Order { id, order: Order::Open { capacity: Amount::from_sat(1_000_000) } });
    }
    let (id, report) = loop {
        match line.hear().await {
            ToDevice::Report { id, report } => break (id, report),
            ToDevice::Headers(_) | ToDevice::GenerateKey { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(id, 2 + MOST, "the first that is answered is the one too many");
    assert!(matches!(&report, Report::Refused { why } if why.contains("wait already")), "{report:?}");
    stage.gateway.stop();
}

/// It would cost the bitcoind two questions for each block, as often as it connects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_gets_no_headers_before_it_is_enrolled() {
    let stage = Stage::new();
    let (mut line, is_enrolled) = stage.connect([1; 32]).await;
    assert!(!is_enrolled);
    assert_eq!(line.hear().await, ToDevice::Headers(Vec::new()));
    let refused = line.enrol(1, "let me in").await;
    assert!(matches!(refused, Report::Refused { .. }), "{refused:?}");
    assert_eq!(line.enrol(2, "come in").await, Report::Done);
    let headers = loop {
        match line.hear().await {
            ToDevice::Headers(headers) => break headers,
            ToDevice::GenerateKey { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(headers.len(), stage.regtest.chain().tip().unwrap().height as usize);
    drop(line.to_gateway);
    line.session.await.unwrap().unwrap();
    stage.gateway.stop();
}

/// On many connections at once a device could bring rounds of one share to the same point, and cheat in all of them before the first is seen
/// to be a cheat.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_connects_again_has_no_older_connection() {
    let stage = Stage::new();
    let (mut first, _) = stage.connect([1; 32]).await;
    assert_eq!(first.enrol(1, "come in").await, Report::Done);
    let (second, is_enrolled) = stage.connect([2; 32]).await;
    assert!(is_enrolled);
    // It does not hang up.
    timeout(PATIENCE, first.session).await.expect("the older one ends").unwrap().unwrap();
    assert!(first.to_gateway.is_closed());
    drop(second.to_gateway);
    second.session.await.unwrap().unwrap();
    stage.gateway.stop();
}

/// Every order is answered, also a stranger's: answers that nobody reads would fill the memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_orders_and_reads_nothing_is_let_go() {
    let stage = Stage::new();
    let (line, is_enrolled) = stage.connect([1; 32]).await;
    assert!(!is_enrolled);
    let Line { to_gateway, from_gateway: mut unread, session } = line;
    let flood = async {
        for id in 1.. {
            let order = Order::Status { channel: ChannelKeysId([1; 32]) };
            if to_gateway.send(ToGateway::Order { id, order }).await.is_err() {
                return id;
            }
        }
        unreachable!("numbers do not end")
    };
    let taken = timeout(PATIENCE, flood).await.expect("it is let go");
    timeout(PATIENCE, session).await.expect("the session ends").unwrap().unwrap();
    let mut waited = 0;
    while unread.recv().await.is_some() {
        waited += 1;
    }
    assert_eq!(waited, MOST_UNREAD, "when so many wait, and not before; it gave {taken} orders");
    stage.gateway.stop();
}

/// Replies that are waited for later would fill the memory.
#[test]
fn a_device_that_says_more_than_it_was_asked_is_let_go() {
    let (out, _to_device) = mpsc::channel(MOST_UNREAD);
    let caller = Caller::new(out, [0; 32]);
    let ask = || caller.begin_to_ask([1; 32], Request::Fund);
    let _waits = ask().unwrap();
    for _ in 0..4 {
        caller.take(1, Reply::Round(Vec::new()));
    }
    assert!(ask().is_ok(), "so many may come at once");
    caller.take(1, Reply::Round(Vec::new()));
    assert!(matches!(ask(), Err(CallError::Gone)));
}
