//! A receipt's text: it ends in an error or in a receipt that is written and read again the same; and of a good receipt with a
//! field changed, whatever the checksum says, the signature does not fit.
#![no_main]

use bitcoin::Network;
use farthing_fuzz::Choices;
use farthing_protocol::Msat;
use farthing_protocol::cheque::receipt::{Memo, Receipt, Terms};
use farthing_protocol::keys::Seed;
use libfuzzer_sys::fuzz_target;
use secp256k1::schnorr;

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    if choices.byte().is_multiple_of(2) {
        return text(&String::from_utf8_lossy(choices.rest()));
    }
    // Every field as the fuzzer wants it, under a good checksum.
    let payee = Seed::new([7; 64], Network::Regtest).cheque_keys().receipt();
    let (amount, time, salt) = (Msat::new(choices.amount()), choices.amount(), choices.array());
    let signature = schnorr::Signature::from_slice(&choices.array::<64>()).expect("64 bytes");
    let Ok(memo) = Memo::new(String::from_utf8_lossy(choices.rest())) else { return };
    let receipt = Receipt { terms: Terms { payee, amount, memo, time, salt }, signature };
    assert_eq!(receipt.to_string().parse(), Ok(receipt.clone()));
    assert!(receipt.verify().is_err(), "nobody guesses a signature");
});

fn text(text: &str) {
    let Ok(receipt) = text.parse::<Receipt>() else { return };
    assert_eq!(receipt.to_string().parse(), Ok(receipt));
}
