//! A seller's list of prices: whatever it holds, each request costs what some line of it says, a payer can reckon with that, and a path that counts as
//! clear costs the same however a service reads it.
#![no_main]

use farthing_fuzz::{Choices, json, reckon};
use farthing_http::tariff::{CallPrice, PriceList, Rule};
use farthing_protocol::Msat;
use libfuzzer_sys::fuzz_target;

const METHODS: [&str; 5] = ["GET", "POST", "post", "BREW", ""];
/// What the paths of the example are made of, and all that services differ about.
const PIECES: [&str; 20] = [
    "/", "/", "free", "v1", "a b", "%20", ".", "..", "%2e", "%2E", "%2f", "%5c", "\\", "%25", "2e", "%",
    "%00", "%0a", "%ff", "ä",
];

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let method = METHODS[usize::from(choices.byte()) % METHODS.len()];
    let path = path(&mut choices);
    let (bytes, events) = (choices.amount(), choices.amount());
    let example = serde_json::to_value(example()).expect("a list is JSON");
    let Ok(list) = serde_json::from_slice::<PriceList>(&json(&mut choices, &example)) else { return };
    let written = serde_json::to_vec(&list).expect("a list is JSON");
    assert_eq!(serde_json::from_slice::<PriceList>(&written).expect("what was written can be read"), list);

    let price = list.price(method, &path);
    let is_listed = price == list.otherwise || list.rules.iter().any(|rule| rule.price == price);
    assert!(is_listed, "a price that nobody stated");
    reckon(&price, bytes, events);
    if !list.is_ambiguous(&path) {
        let read = as_read(&path);
        assert_eq!(list.price(method, &read), price, "{path:?} may be read as {read:?}");
    }
});

fn example() -> PriceList {
    let rule = |method: Option<&str>, path: &str, price| Rule {
        method: method.map(str::to_owned),
        path: path.to_owned(),
        price,
    };
    let flowing = CallPrice { call: Msat::new(10_000), kib: Msat::new(100), event: Msat::new(7) };
    PriceList {
        rules: vec![
            rule(None, "/free/*", CallPrice::default()),
            rule(Some("POST"), "/v1/*", flowing),
            rule(None, "/a b", CallPrice::per_call(Msat::new(5))),
        ],
        otherwise: CallPrice::per_call(Msat::new(20_000)),
    }
}

fn path(choices: &mut Choices<'_>) -> String {
    let mut path = "/".to_owned();
    for _ in 0..choices.byte() % 16 {
        path.push_str(PIECES[usize::from(choices.byte()) % PIECES.len()]);
    }
    path
}

/// The path as a service may read it that puts up with everything: it undoes encodings until nothing changes, takes backslashes for slashes, drops
/// control characters and empty segments, and follows dots.
fn as_read(path: &str) -> String {
    let mut plain = path.to_owned();
    loop {
        let before = std::mem::take(&mut plain);
        plain = undone(&before);
        if plain == before {
            break;
        }
    }
    let plain: String =
        plain.replace('\\', "/").chars().filter(|character| !character.is_control()).collect();
    let mut segments = Vec::new();
    for segment in plain.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    let end = if plain.ends_with('/') && !segments.is_empty() { "/" } else { "" };
    format!("/{}{end}", segments.join("/"))
}

/// One round of percent-encoding undone.
fn undone(path: &str) -> String {
    let bytes = path.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let (mut plain, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                plain.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}
