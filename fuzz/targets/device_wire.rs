//! What device and gateway say to each other: bytes that are a message are written again the same, and others are refused.
#![no_main]

use farthing_protocol::device::wire::{MOST_BYTES, ToDevice, ToGateway};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(message) = ToDevice::from_bytes(data) {
        // Numbers may be written longer than they must be, so the bytes may differ; the message may not.
        assert_eq!(ToDevice::from_bytes(&message.to_bytes()), Ok(message));
        assert!(data.len() <= MOST_BYTES);
    }
    if let Ok(message) = ToGateway::from_bytes(data) {
        assert_eq!(ToGateway::from_bytes(&message.to_bytes()), Ok(message));
        assert!(data.len() <= MOST_BYTES);
    }
});
