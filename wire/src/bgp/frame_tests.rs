//! Framing, case by case (RFC 4271 section 6.1).

use super::*;
use proptest::prelude::*;

fn framed(len: u16, kind: u8, body: &[u8]) -> BytesMut {
    let mut buf = BytesMut::from(&[0xff; 16][..]);
    buf.extend_from_slice(&len.to_be_bytes());
    buf.extend_from_slice(&[kind]);
    buf.extend_from_slice(body);
    buf
}

/// What `next_message` says of a header alone: `"wait"`, `"message"` or the NOTIFICATION with its
/// data.
fn verdict(len: u16, kind: u8, extended: bool) -> String {
    match next_message(&mut framed(len, kind, &[]), extended) {
        Ok(None) => "wait".into(),
        Ok(Some(_)) => "message".into(),
        Err(n) => format!("{}/{} {:02x?}", n.code, n.subcode, n.data),
    }
}

#[test]
fn header_is_judged_by_its_length_and_type() {
    // (length field, type, extended messages negotiated, verdict on the header)
    let table: &[(u16, u8, bool, &str)] = &[
        (0, 4, false, "1/2 [00, 00]"),
        (18, 4, false, "1/2 [00, 12]"),
        (19, 4, false, "message"),
        (20, 4, false, "1/2 [00, 14]"),
        (28, 1, false, "1/2 [00, 1c]"),
        (29, 1, false, "wait"),
        (4096, 1, false, "wait"),
        (4097, 1, true, "1/2 [10, 01]"),
        (22, 2, false, "1/2 [00, 16]"),
        (23, 2, false, "wait"),
        (4096, 2, false, "wait"),
        (4097, 2, false, "1/2 [10, 01]"),
        (4097, 2, true, "wait"),
        (65535, 2, false, "1/2 [ff, ff]"),
        (65535, 2, true, "wait"),
        (20, 3, false, "1/2 [00, 14]"),
        (21, 3, false, "wait"),
        (4097, 3, true, "wait"),
        (4097, 4, true, "1/2 [10, 01]"),
        (19, 5, false, "message"),
        (23, 5, false, "wait"),
        (19, 0, false, "1/3 [00]"),
        (19, 6, false, "1/3 [06]"),
        (40, 255, true, "1/3 [ff]"),
        // The length is judged before the type.
        (3, 255, true, "1/2 [00, 03]"),
    ];
    for &(len, kind, extended, expected) in table {
        assert_eq!(verdict(len, kind, extended), expected, "length {len}, type {kind}, extended {extended}");
    }
}

#[test]
fn marker_is_judged_at_its_first_wrong_octet() {
    let mut buf = BytesMut::from(&b"GET / HTTP"[..]);
    assert_eq!(next_message(&mut buf, false).unwrap_err(), Notification::new(1, 1));
    let mut buf = framed(19, 4, &[]);
    buf[15] = 0xfe;
    assert_eq!(next_message(&mut buf, false).unwrap_err(), Notification::new(1, 1));
    let mut buf = BytesMut::from(&[0xff; 18][..]);
    assert!(next_message(&mut buf, false).unwrap().is_none());
    assert!(next_message(&mut BytesMut::new(), false).unwrap().is_none());
}

#[test]
fn messages_come_out_one_by_one_and_the_rest_stays() {
    let mut buf = framed(19, 4, &[]);
    buf.extend_from_slice(&framed(25, 2, &[0, 0, 0, 0, 8, 10]));
    buf.extend_from_slice(&[0xff; 7]);
    assert_eq!(next_message(&mut buf, false).unwrap().unwrap().kind, MessageType::Keepalive);
    let update = next_message(&mut buf, false).unwrap().unwrap();
    assert_eq!((update.kind, update.body()), (MessageType::Update, &[0, 0, 0, 0, 8, 10][..]));
    assert!(next_message(&mut buf, false).unwrap().is_none());
    assert_eq!(&buf[..], &[0xff; 7]);
}

proptest! {
    #[test]
    fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), extended: bool, marker: bool) {
        let mut buf = BytesMut::new();
        if marker {
            buf.extend_from_slice(&[0xff; 16]);
        }
        buf.extend_from_slice(&bytes);
        while let Ok(Some(message)) = next_message(&mut buf, extended) {
            prop_assert!(message.bytes.len() >= HEADER_LEN);
        }
    }

    /// However the stream is cut into reads, the same messages come out.
    #[test]
    fn cuts_do_not_matter(
        bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 4..60), 1..8),
        cut in 1usize..40,
    ) {
        let mut stream = Vec::new();
        for body in &bodies {
            stream.extend_from_slice(&header(MessageType::Update, body.len()));
            stream.extend_from_slice(body);
        }
        let (mut buf, mut seen) = (BytesMut::new(), Vec::new());
        for part in stream.chunks(cut) {
            buf.extend_from_slice(part);
            while let Some(message) = next_message(&mut buf, false).unwrap() {
                seen.push(message.body().to_vec());
            }
        }
        prop_assert_eq!(seen, bodies);
    }
}
