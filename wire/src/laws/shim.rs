//! The shim's messages.

use crate::shim::{Accepted, MAX_MESSAGE, MAX_OPTION_LEN, MAX_OPTIONS, Malformed, Reply, Request};

/// What is written again is what was read, octet for octet: each meaning has one form.
fn same(octets: &[u8], encode: impl FnOnce(&mut [u8]) -> Result<usize, Malformed>) {
    let mut buf = [0; MAX_MESSAGE];
    let n = encode(&mut buf).expect("what was read can be written");
    assert_eq!(buf.get(..n), Some(octets));
}

/// A datagram, read as each of the messages that it could be.
pub fn message(octets: &[u8]) {
    if let Ok(request) = Request::decode(octets) {
        same(octets, |buf| request.encode(buf));
        if let Request::Bind { options, .. } | Request::Connect { options, .. } = request {
            assert!(options.iter().count() <= MAX_OPTIONS);
            assert!(options.iter().all(|o| o.value.len() <= MAX_OPTION_LEN));
            assert_eq!(options.iter().map(|o| 10 + o.value.len()).sum::<usize>(), options.encoded.len());
        }
    }
    if let Ok(reply) = Reply::decode(octets) {
        same(octets, |buf| reply.encode(buf));
    }
    if let Ok(accepted) = Accepted::decode(octets) {
        same(octets, |buf| accepted.encode(buf));
    }
}
