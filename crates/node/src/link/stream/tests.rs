use farthing_protocol::device::wire;
use tokio::io::{DuplexStream, duplex};

use super::*;

fn keys() -> (StaticKey, StaticKey) {
    (StaticKey::new([1; 32]), StaticKey::new([2; 32]))
}

/// A link whose gateway's end is played by the test, byte by byte.
async fn device_and_bytes() -> (Link, Session, DuplexStream) {
    let (device, gateway) = keys();
    let (near, mut far) = duplex(1 << 20);
    let key = gateway.public();
    let play = async {
        let mut first = [0; FIRST_BYTES];
        far.read_exact(&mut first).await.unwrap();
        let (session, second) = Handshake::answer(&gateway, &first).unwrap();
        far.write_all(&second).await.unwrap();
        session
    };
    let (link, session) = tokio::join!(Link::connect(near, &device, &key), play);
    (link.unwrap(), session, far)
}

#[tokio::test]
async fn messages_of_every_length_arrive_in_order_both_ways() {
    let (device, gateway) = keys();
    let (near, far) = pair(&device, &gateway).await.unwrap();
    assert_eq!((near.peer(), far.peer()), (gateway.public(), device.public()));
    assert_eq!(near.connection(), far.connection());
    let ((mut near_out, mut near_in), (mut far_out, mut far_in)) = (near.split(), far.split());
    for length in [0, 1, 65_514, 65_515, 65_516, 200_000, wire::MOST_BYTES] {
        let message = vec![7; length];
        near_out.send(&message).await.unwrap();
        assert_eq!(far_in.receive().await.unwrap(), message, "{length}");
        far_out.send(&message).await.unwrap();
        assert_eq!(near_in.receive().await.unwrap(), message, "{length}");
    }
    assert!(matches!(near_out.send(&vec![0; wire::MOST_BYTES + 1]).await, Err(LinkError::TooLong(_))));
}

#[tokio::test]
async fn two_connections_of_the_same_two_have_different_names() {
    let (device, gateway) = keys();
    let (first, _) = pair(&device, &gateway).await.unwrap();
    let (second, _) = pair(&device, &gateway).await.unwrap();
    assert_ne!(first.connection(), second.connection());
}

#[tokio::test]
async fn a_gateway_with_another_key_hears_nothing() {
    let (device, gateway) = keys();
    let imposter = StaticKey::new([3; 32]);
    let (near, far) = duplex(1 << 16);
    let expected = gateway.public();
    let (near, far) = tokio::join!(Link::connect(near, &device, &expected), Link::accept(far, &imposter));
    assert!(matches!(far, Err(LinkError::Handshake(_))));
    assert!(matches!(near, Err(LinkError::Closed)));
}

#[tokio::test]
async fn every_flipped_bit_ends_the_link_before_a_byte_is_taken() {
    let sealed = {
        let (_, session, _) = device_and_bytes().await;
        session.seal(&mut 0, b"sixteen bytes of").unwrap()
    };
    for bit in 0..sealed.len() * 8 {
        let (link, session, mut far) = device_and_bytes().await;
        let mut frames = session.seal(&mut 0, b"sixteen bytes of").unwrap();
        frames[bit / 8] ^= 1 << (bit % 8);
        far.write_all(&frames).await.unwrap();
        drop(far);
        let received = link.split().1.receive().await;
        // A length that grew waits for more, until the connection ends.
        assert!(matches!(received, Err(LinkError::Forged | LinkError::Closed)), "bit {bit}");
    }
}

#[tokio::test]
async fn a_frame_that_comes_twice_or_too_early_ends_the_link() {
    let (link, session, mut far) = device_and_bytes().await;
    let first = session.seal(&mut 0, b"first").unwrap();
    far.write_all(&first).await.unwrap();
    far.write_all(&first).await.unwrap();
    let mut receiver = link.split().1;
    assert_eq!(receiver.receive().await.unwrap(), b"first");
    assert!(matches!(receiver.receive().await, Err(LinkError::Forged)));
    far.write_all(&session.seal(&mut 1, b"second").unwrap()).await.unwrap();
    assert!(matches!(receiver.receive().await, Err(LinkError::Closed)), "nothing follows a forgery");

    let (link, session, mut far) = device_and_bytes().await;
    far.write_all(&session.seal(&mut 1, b"second").unwrap()).await.unwrap();
    assert!(matches!(link.split().1.receive().await, Err(LinkError::Forged)));
}

#[tokio::test]
async fn a_message_cut_short_is_never_taken_for_a_whole_one() {
    let message = vec![9; 100_000];
    let whole = {
        let (_, session, _) = device_and_bytes().await;
        session.seal(&mut 0, &message).unwrap().len()
    };
    for cut in [0, 1, 2, 1_000, 65_537, 65_538, whole - 1] {
        let (link, session, mut far) = device_and_bytes().await;
        let frames = session.seal(&mut 0, &message).unwrap();
        far.write_all(&frames[..cut]).await.unwrap();
        drop(far);
        assert!(matches!(link.split().1.receive().await, Err(LinkError::Closed)), "cut at {cut}");
    }
}

/// Only the real peer can state a length, and even it gets no room for one that no message has.
#[tokio::test]
async fn a_length_of_one_gibibyte_is_refused_at_once() {
    let (link, session, mut far) = device_and_bytes().await;
    let stated = (1_u32 << 30).to_be_bytes();
    let frame = session.seal_raw(0, &[&stated[..], b"and so on"].concat());
    far.write_all(&frame).await.unwrap();
    assert!(matches!(link.split().1.receive().await, Err(LinkError::TooLong(length)) if length == 1 << 30));
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_does_not_hold_up_the_handshake_for_ever() {
    let (device, gateway) = keys();
    let (near, _far) = duplex(1 << 16);
    assert!(matches!(Link::connect(near, &device, &gateway.public()).await, Err(LinkError::Silent)));
    let (near, _far) = duplex(1 << 16);
    assert!(matches!(Link::accept(near, &gateway).await, Err(LinkError::Silent)));
}
