//! A payment's 72 bytes: exactly those that were read are written again, and no signature fits by chance.
#![no_main]

use farthing_fuzz::fixture;
use farthing_protocol::payment::LENGTH;
use farthing_protocol::{Payment, commitment};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    match Payment::from_bytes(data) {
        Ok(payment) => {
            assert_eq!(payment.to_bytes(), data);
            let channel = &fixture::fixture().payee.channel;
            assert!(commitment::verify(channel, &payment).is_err(), "nobody guesses a signature");
        }
        Err(_) => assert_ne!(data.len(), LENGTH),
    }
});
