//! A mailbox without a gate: its routes as anybody can ask them, and its client over a socket.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{self, Body};
use axum::extract::Request as HttpRequest;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bitcoin::Network;
use farthing_mailbox::address::Host;
use farthing_mailbox::{Address, Blob, Request};
use farthing_node::mail::{Bounds, Mailroom};
use farthing_node::prekeys::Prekeys;
use farthing_protocol::cheque::book::MOST_PREKEYS as MOST_NUMBERED;
use farthing_protocol::cheque::prekey::SignedPrekey;
use farthing_protocol::keys::Seed;
use tower::ServiceExt as _;

use super::*;
use crate::arriving::tests::drips;
use crate::problem::Body as Problem;

const HOST: &str = "mail.example";

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn seed(byte: u8) -> Seed {
    Seed::new([byte; 64], Network::Regtest)
}

fn owner(byte: u8, host: &str) -> Owner {
    Owner::new(&seed(byte), Host::new(host).unwrap())
}

fn prekeys(folder: &tempfile::TempDir, byte: u8, count: u32) -> Vec<SignedPrekey> {
    let path = folder.path().join(format!("prekeys-{byte}"));
    Prekeys::open(&path, seed(byte).cheque_keys()).unwrap().issue(count).unwrap()
}

fn mailbox(folder: &tempfile::TempDir) -> Router {
    router(Arc::new(Mailroom::open(&folder.path().join("mailbox"), Bounds::default()).unwrap()))
}

fn blob(to: &Address, byte: u8) -> Blob {
    Blob::seal(to, b"content", [byte; 32]).unwrap()
}

fn request(method: &str, target: &str, proof: Option<&str>, content: &[u8]) -> HttpRequest {
    let mut request = HttpRequest::builder().method(method).uri(target).header(header::HOST, HOST);
    if let Some(proof) = proof {
        request = request.header(header::AUTHORIZATION, proof);
    }
    request.body(Body::from(content.to_vec())).unwrap()
}

/// The status, the kind of problem if there is one, and the body.
async fn ask(mailbox: &Router, request: HttpRequest) -> (StatusCode, String, Vec<u8>) {
    let response: Response = mailbox.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let content = body::to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec();
    let problem: Option<Problem> = serde_json::from_slice(&content).ok();
    (status, problem.map(|problem| problem.title).unwrap_or_default(), content)
}

/// An owner's requests, one microsecond after the other.
struct Signer {
    owner: Owner,
    time: u64,
}

impl Signer {
    fn new(byte: u8) -> Self {
        Self { owner: owner(byte, HOST), time: now() * 1_000_000 }
    }

    fn proof(&mut self, method: &str, target: &str, content: &[u8]) -> String {
        self.time += 1;
        let request = Request { authority: HOST, method, target, body: content };
        self.owner.sign(&request, self.time).to_header()
    }

    async fn ask(&mut self, mailbox: &Router, method: &str, target: &str) -> (StatusCode, String, Vec<u8>) {
        let proof = self.proof(method, target, &[]);
        ask(mailbox, request(method, target, Some(&proof), &[])).await
    }
}

#[test]
fn a_letter_and_a_prekey_pass_through_a_mailbox() {
    let folder = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        tokio::spawn(axum::serve(listener, mailbox(&folder)).into_future());
        let client = Client::new(Duration::from_secs(20)).unwrap();
        let payee = owner(1, &host);
        let to = payee.address();
        let expiry = now() + 3_600;

        assert!(matches!(client.post(to, &blob(to, 1), expiry).await, Err(PostError::NoBox)));
        assert!(matches!(client.take_prekey(to).await, Err(TakeError::NoBox)));
        assert!(matches!(client.fetch(&payee, 0).await, Err(FetchError::NoBox)));
        assert!(matches!(client.delete(&payee, [1; 32]).await, Err(DeleteError::NoBox)));
        client.open(&payee).await.unwrap();
        client.open(&payee).await.unwrap();
        assert!(matches!(client.take_prekey(to).await, Err(TakeError::NoPrekeys)));

        let prekeys = prekeys(&folder, 1, 250);
        let standing = client.publish_prekeys(&payee, &prekeys).await.unwrap();
        assert_eq!((standing.unused, standing.next.unwrap().number), (250, 250));
        assert_eq!(client.take_prekey(to).await.unwrap(), prekeys[0]);
        assert_eq!(client.take_prekey(to).await.unwrap(), prekeys[1]);
        assert_eq!(client.standing(&payee).await.unwrap().unused, 248);

        for byte in 0..70 {
            client.post(to, &blob(to, byte), expiry).await.unwrap();
        }
        client.post(to, &blob(to, 3), expiry).await.unwrap();
        let first = client.fetch(&payee, 0).await.unwrap();
        let rest = client.fetch(&payee, first[63].cursor).await.unwrap();
        assert_eq!((first.len(), rest.len()), (64, 6));
        assert_eq!(first[3].blob, blob(to, 3));
        client.delete(&payee, first[3].id()).await.unwrap();
        client.delete(&payee, first[3].id()).await.unwrap();
        let left = client.fetch(&payee, 0).await.unwrap();
        assert!(left.len() == 64 && !left.contains(&first[3]) && left.contains(&first[4]));
        assert_eq!(client.terms(&to.host).await.unwrap().letter_bytes, 7_168);
    });
}

#[test]
fn an_owner_with_a_wrong_clock_is_told_the_time() {
    let folder = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (mailbox, mut owner) = (mailbox(&folder), Signer::new(1));
        let target = box_path(&owner.owner.address().identity);
        for wrong in [0, now() * 500_000, now() * 2_000_000, u64::MAX - 9] {
            owner.time = wrong;
            let proof = owner.proof("POST", &target, &[]);
            let response =
                mailbox.clone().oneshot(request("POST", &target, Some(&proof), &[])).await.unwrap();
            assert_eq!(response.status(), StatusCode::CONFLICT, "{wrong}");
            let told: u64 = response.headers()[TIME].to_str().unwrap().parse().unwrap();
            owner.time = told - 1;
            assert_eq!(owner.ask(&mailbox, "POST", &target).await.0, StatusCode::NO_CONTENT);
        }
    });
}

#[test]
fn only_its_owner_is_let_at_a_box_and_each_request_once() {
    let folder = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (mailbox, mut owner, mut stranger) = (mailbox(&folder), Signer::new(1), Signer::new(2));
        let identity = owner.owner.address().identity;
        let open = box_path(&identity);
        assert_eq!(stranger.ask(&mailbox, "POST", &open).await.0, StatusCode::FORBIDDEN);
        assert_eq!(owner.ask(&mailbox, "POST", &open).await.0, StatusCode::NO_CONTENT);
        let own = box_path(&stranger.owner.address().identity);
        assert_eq!(stranger.ask(&mailbox, "POST", &own).await.0, StatusCode::NO_CONTENT);
        let letter = blob(owner.owner.address(), 1);
        let letters = letters_path(&identity);
        let posted = format!("{letters}?expiry={}", now() + 60);
        assert_eq!(
            ask(&mailbox, request("POST", &posted, None, letter.as_bytes())).await.0,
            StatusCode::CREATED
        );

        let id = client_id(&letter);
        let prekeys = prekeys_path(&identity);
        for (method, target) in [
            ("GET", letters.clone()),
            ("HEAD", letters.clone()),
            ("DELETE", format!("{letters}/{id}")),
            ("GET", prekeys.clone()),
            ("PUT", prekeys.clone()),
        ] {
            let (status, _, _) = stranger.ask(&mailbox, method, &target).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "a stranger: {method} {target}");
            let (status, _, _) = ask(&mailbox, request(method, &target, None, &[])).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "nobody: {method} {target}");
            for junk in ["Mailbox", "Mailbox zz", "Payment abc", &"Mailbox 00".repeat(500)] {
                let junky = request(method, &target, Some(junk), &[]);
                assert_eq!(ask(&mailbox, junky).await.0, StatusCode::FORBIDDEN, "{junk}");
            }
            // Signed for another mailbox, method or target.
            let proof = owner.proof(method, "/mailbox/elsewhere", &[]);
            assert_eq!(
                ask(&mailbox, request(method, &target, Some(&proof), &[])).await.0,
                StatusCode::FORBIDDEN
            );
            let proof = owner.proof("PATCH", &target, &[]);
            assert_eq!(
                ask(&mailbox, request(method, &target, Some(&proof), &[])).await.0,
                StatusCode::FORBIDDEN
            );
            let proof = owner.proof(method, &target, &[]);
            let mut elsewhere = request(method, &target, Some(&proof), &[]);
            elsewhere.headers_mut().insert(header::HOST, "other.example".parse().unwrap());
            assert_eq!(ask(&mailbox, elsewhere).await.0, StatusCode::FORBIDDEN);
        }
        let target = format!("{letters}?after=0");
        let proof = owner.proof("GET", &target, &[]);
        let (status, _, content) = ask(&mailbox, request("GET", &target, Some(&proof), &[])).await;
        assert_eq!((status, content.len()), (StatusCode::OK, RECORD), "nothing was deleted by all that");
        let (status, problem, _) = ask(&mailbox, request("GET", &target, Some(&proof), &[])).await;
        assert_eq!(
            (status, problem.as_str()),
            (StatusCode::CONFLICT, "stale request"),
            "overheard and sent again"
        );
    });
}

fn client_id(letter: &Blob) -> String {
    let id = Fetched { cursor: 0, blob: letter.clone() }.id();
    bitcoin::hex::DisplayHex::to_lower_hex_string(&id[..])
}

#[test]
fn letters_of_another_length_and_senseless_requests_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (mailbox, mut owner) = (mailbox(&folder), Signer::new(1));
        let identity = owner.owner.address().identity;
        owner.ask(&mailbox, "POST", &box_path(&identity)).await;
        let letters = letters_path(&identity);
        let good = format!("{letters}?expiry={}", now() + 60);
        for length in [0, 1, 7_167, 7_169, 8_192, 1 << 20] {
            let (status, problem, _) = ask(&mailbox, request("POST", &good, None, &vec![7; length])).await;
            assert_eq!(
                (status, problem.as_str()),
                (StatusCode::BAD_REQUEST, "bad request"),
                "{length} bytes"
            );
        }
        let letter = blob(owner.owner.address(), 1);
        for query in [
            "",
            "?expiry",
            "?expiry=",
            "?expiry=soon",
            "?expiry=-1",
            "?expiry=18446744073709551616",
            "?expiry=1",
        ] {
            let target = format!("{letters}{query}");
            let (status, _, _) = ask(&mailbox, request("POST", &target, None, letter.as_bytes())).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{query}");
        }
        for name in ["x", "%00", &"0".repeat(64), &"f".repeat(64), &"1".repeat(66)] {
            for method in ["GET", "POST", "PUT"] {
                let target = format!("{}/prekeys/{name}", super::ROOT);
                let (status, _, _) = ask(&mailbox, request(method, &target, None, &[])).await;
                assert!(
                    matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND),
                    "{method} {name}: {status}"
                );
            }
        }
        let (status, _, content) = owner.ask(&mailbox, "GET", &letters).await;
        assert_eq!((status, content.len()), (StatusCode::OK, 0));
        let (status, _, _) = owner.ask(&mailbox, "DELETE", &format!("{letters}/abc")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);

        let mut foreign = prekeys(&folder, 2, 2);
        let own = prekeys(&folder, 1, 101);
        foreign[0] = own[0];
        let publish = prekeys_path(&identity);
        for body in [
            b"[".to_vec(),
            b"{}".to_vec(),
            serde_json::to_vec(&foreign).unwrap(),
            serde_json::to_vec(&own).unwrap(),
            vec![b' '; 200_000],
        ] {
            let proof = owner.proof("PUT", &publish, &body);
            let (status, _, _) = ask(&mailbox, request("PUT", &publish, Some(&proof), &body)).await;
            assert_eq!(status, StatusCode::BAD_REQUEST);
        }
        let (status, problem, _) = ask(&mailbox, request("POST", &publish, None, &[])).await;
        assert_eq!(
            (status, problem.as_str()),
            (StatusCode::NOT_FOUND, "no prekeys"),
            "nothing of it was taken"
        );
    });
}

/// No book has more: a mailbox that counted on from there could not.
#[test]
fn a_prekey_of_a_number_that_no_book_issues_is_refused_and_the_mailbox_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (mailbox, mut owner) = (mailbox(&folder), Signer::new(1));
        let identity = owner.owner.address().identity;
        let publish = prekeys_path(&identity);
        owner.ask(&mailbox, "POST", &box_path(&identity)).await;
        let mut prekey = prekeys(&folder, 1, 1)[0];
        for number in [MOST_NUMBERED, u32::MAX] {
            prekey.prekey.id.number = number;
            let body = serde_json::to_vec(&[prekey]).unwrap();
            let proof = owner.proof("PUT", &publish, &body);
            let (status, _, said) = ask(&mailbox, request("PUT", &publish, Some(&proof), &body)).await;
            let said = String::from_utf8(said).unwrap();
            assert_eq!(status, StatusCode::BAD_REQUEST, "{said}");
            assert!(said.contains("at most 1048576 prekeys"), "before its signature is looked at: {said}");
        }
        let (status, _, content) = owner.ask(&mailbox, "GET", &publish).await;
        let standing: StandingBody = serde_json::from_slice(&content).unwrap();
        assert_eq!((status, standing.unused), (StatusCode::OK, 0));
    });
}

/// A mailbox that lies: prekeys of its own, and answers that are no letters.
#[test]
fn a_client_believes_no_mailbox() {
    let folder = tempfile::tempdir().unwrap();
    let foreign = prekeys(&folder, 2, 1)[0];
    runtime().block_on(async {
        let lying = Router::new().fallback(async move |request: HttpRequest| {
            let is_prekey = request.uri().path().starts_with("/mailbox/prekeys");
            if is_prekey {
                axum::Json(foreign).into_response()
            } else {
                vec![0_u8; RECORD + 1].into_response()
            }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let payee = owner(1, &listener.local_addr().unwrap().to_string());
        tokio::spawn(axum::serve(listener, lying).into_future());
        let client = Client::new(Duration::from_secs(20)).unwrap();
        assert!(matches!(client.take_prekey(payee.address()).await, Err(TakeError::NotTheirs(_))));
        assert!(matches!(client.fetch(&payee, 0).await, Err(FetchError::Client(_))));
        for host in
            ["127.0.0.1:1/path", "user@127.0.0.1", "127.0.0.1?x", "127.0.0.1#x", "[", "mail.example/x"]
        {
            let owner = owner(1, host);
            assert!(matches!(client.fetch(&owner, 0).await, Err(FetchError::Client(_))), "{host}");
        }
    });
}

/// Its seat would be another's.
#[tokio::test(start_paused = true)]
async fn a_letter_that_does_not_end_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let (mailbox, mut owner) = (mailbox(&folder), Signer::new(1));
    let identity = owner.owner.address().identity;
    let publish = prekeys_path(&identity);
    let posted = format!("{}?expiry={}", letters_path(&identity), now() + 60);
    let proof = owner.proof("PUT", &publish, &[]);
    for (method, target) in [("POST", posted), ("PUT", publish), ("POST", box_path(&identity))] {
        let slow = request(method, &target, Some(&proof), &[]).map(|_| drips());
        let (status, problem, _) = ask(&mailbox, slow).await;
        let refused = (StatusCode::SERVICE_UNAVAILABLE, "unavailable");
        let too_long = (StatusCode::BAD_REQUEST, "bad request");
        let expected = if target.contains("boxes") { too_long } else { refused };
        assert_eq!((status, problem.as_str()), expected, "{method} {target}");
    }
}

#[test]
fn only_what_others_post_costs_something() {
    let tariff = tariff(Msat::new(100), Msat::new(7));
    let Tariff::List(list) = tariff else { panic!("a list") };
    let path = |path: &str| format!("/mailbox/{path}/00");
    for (method, path, price) in [
        ("POST", path("letters"), 100),
        ("POST", path("prekeys"), 100),
        ("POST", path("boxes"), 7),
        ("GET", path("letters"), 0),
        ("DELETE", path("letters"), 0),
        ("PUT", path("prekeys"), 0),
        ("GET", "/mailbox".to_owned(), 0),
    ] {
        assert_eq!(list.price(method, &path).call, Msat::new(price), "{method} {path}");
    }
}
