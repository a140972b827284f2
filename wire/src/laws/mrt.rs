//! MRT files, and the text of `bgpdump -m`.

use super::bgp::bodies;
use crate::bgp::frame::HEADER_LEN;
use crate::bgp::types::UpdateContext;
use crate::bgp::update::Update;
use crate::mrt::{Ends, Message, Reader, Record, Writer, message_as_updates, route_as_update};
use bytes::BytesMut;
use std::io::Cursor;

/// Items that are looked at: a compressed file may have more than anybody waits for.
const MAX_ITEMS: usize = 2000;

/// A file: each item is counted once, a message is as long as it says and comes back from a file
/// that we write, and what is played from it are whole UPDATEs that say its prefixes.
pub fn file(octets: &[u8]) {
    let Ok(mut reader) = Reader::new(Cursor::new(octets.to_vec())) else { return };
    let (mut items, mut errors) = (0, 0);
    while items < MAX_ITEMS as u64 {
        let Some(item) = reader.next() else { break };
        items += 1;
        match item {
            Ok(Record::Message(m)) => message(&m),
            Ok(Record::Route(route)) => {
                let mut out = BytesMut::new();
                let left_out = route_as_update(&route, &[route.prefix], &UpdateContext::EBGP, &mut out);
                let bodies = bodies(&out, UpdateContext::EBGP.max_message_len);
                assert_eq!(bodies.len() + left_out, 1, "one prefix, one message");
            }
            Ok(Record::StateChange(_)) => {}
            Err(e) => {
                errors += 1;
                assert!(!e.to_string().is_empty());
            }
        }
    }
    let counts = reader.counts();
    assert_eq!(counts.messages + counts.state_changes + counts.routes + counts.errors, items);
    assert_eq!(counts.errors, errors);
}

fn message(m: &Message) {
    let len = m.bytes.get(16..18).map(|l| usize::from(u16::from_be_bytes([l[0], l[1]])));
    assert_eq!(len, Some(m.bytes.len()));
    if m.as4 && !m.addpath && !m.sent && m.peer.is_ipv4() == m.local.is_ipv4() {
        let ends = Ends { peer: m.peer, peer_as: m.peer_as, local: m.local, local_as: 64_500 };
        let mut writer = Writer::new(Vec::new());
        writer.message(m.at_us, &ends, &m.bytes).expect("a time that MRT has told");
        let mut again = Reader::new(Cursor::new(writer.into_inner())).expect("octets");
        match again.next() {
            Some(Ok(Record::Message(same))) => assert_eq!(&same, m),
            other => panic!("{m:?} comes back as {other:?}"),
        }
        assert!(again.next().is_none());
    }
    let Some(body) = m.bytes.get(HEADER_LEN..).filter(|_| m.bytes.get(18) == Some(&2)) else { return };
    let context = UpdateContext::EBGP;
    let mut out = BytesMut::new();
    if let (Ok(left_out), Ok(u)) = (message_as_updates(body, m.as4, &context, &mut out), Update::parse(body)) {
        let count = |u: &Update<'_>| u.nlri.count() + u.mp_announced().into_iter().flatten().count();
        let told: usize = bodies(&out, context.max_message_len)
            .into_iter()
            .map(|body| count(&Update::parse(body).expect("what was read is played")))
            .sum();
        assert_eq!(told + left_out, count(&u));
    }
}
