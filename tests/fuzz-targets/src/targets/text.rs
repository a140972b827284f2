//! What operators, clients, shims and files say.

use hv_replay::feed::Item;
use hv_replay::trace::{self, PeerFilter};
use hv_replay::{options, record as records_of, script as language};
use serde_json::json;
use std::io::Cursor;
use std::path::Path;
use virtd::{control, state as state_file};
use virtd_config::diagnostic::MAX_PROBLEMS;
use virtd_config::{parse, summary};
use wire::bgp::hex;
use wire::laws;
use wire::mrt::{Ends, Reader, Writer};
use wire::shim::{Accepted, MAX_MESSAGE, Options, Reply, Request, SocketOption};

/// Items of a trace that are looked at.
const MAX_ITEMS: usize = 2000;

/// A datagram between a shim and virtd.
pub fn shim(data: &[u8]) {
    laws::shim::message(data);
}

/// An MRT file or the text of `bgpdump -m`, compressed or not; and hv-replay's way through it.
pub fn mrt(data: &[u8]) {
    laws::mrt::file(data);
    let Ok(reader) = Reader::new(Cursor::new(data.to_vec())) else { return };
    let Ok(mut trace) = trace::play(reader, PeerFilter::All) else { return };
    for _ in 0..MAX_ITEMS {
        match trace.next() {
            Ok(Some(Item::Announce { prefixes, .. } | Item::Withdraw(prefixes))) => assert!(!prefixes.is_empty()),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => break,
        }
    }
}

/// A configuration file: a bad one is told with places that are in it, a good one can be used.
pub fn config(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else { return };
    match parse::parse(Path::new("virtd.toml"), source) {
        Ok(config) => {
            assert!(!config.instances.is_empty() && config.quorum() <= config.voters().max(1));
            assert!(summary::summary(&config).contains("quorum"));
            let mut core = broker::Core::new(&config, 0);
            core.handle(1, broker::io::Input::Tick);
            drop(core.take_outputs());
            assert!(virtd_linux::files::needed(&config) > 0);
        }
        Err(e) => {
            assert!(!e.problems().is_empty());
            for problem in e.problems() {
                assert!(problem.span.as_ref().is_none_or(|s| s.start <= s.end && s.end <= source.len()), "{problem:?}");
                assert!(!problem.message.is_empty());
            }
            let told = e.to_string();
            for span in e.problems().iter().take(MAX_PROBLEMS).filter_map(|p| p.span.as_ref()) {
                let before = source.get(..span.start).unwrap_or(source);
                let (line, last) = (before.split('\n').count(), before.rsplit('\n').next().unwrap_or(before));
                // What ends a line is none of its columns.
                let shown = source.split('\n').nth(line - 1).unwrap_or_default().trim_end_matches('\r');
                let column = last.get(..shown.len()).unwrap_or(last).chars().count() + 1;
                assert!(told.contains(&format!("virtd.toml:{line}:{column}: ")), "{line}:{column}: {told}");
            }
        }
    }
}

/// A line of a control client: what is understood is written so that it is understood as the same.
pub fn request(data: &[u8]) {
    match control::request(data) {
        Ok(request) => {
            let line = serde_json::to_vec(&request).expect("it was read");
            assert_eq!(control::request(&line).as_ref(), Ok(&request));
        }
        Err(text) => assert!(!text.is_empty()),
    }
}

/// The state file.
pub fn state(data: &[u8]) {
    match state_file::understand(data) {
        Ok(state) => {
            let text = serde_json::to_vec_pretty(&state).expect("it was read");
            assert_eq!(state_file::understand(&text), Ok(state));
        }
        Err(text) => assert!(!text.is_empty()),
    }
}

/// Lines of a script for hv-replay, and its words on the command line.
pub fn script(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for line in text.lines() {
        let Ok(items) = language::parse(line) else { continue };
        for item in items {
            match item {
                Item::Announce { prefixes, .. } | Item::Withdraw(prefixes) => {
                    assert!(!prefixes.is_empty());
                    assert!(prefixes.windows(2).all(|pair| pair[0].family() == pair[1].family()));
                }
                Item::Raw(octets) => assert_eq!(options::hex(&hex(&octets)).as_deref(), Ok(&octets[..])),
                _ => {}
            }
        }
    }
    for word in text.split_whitespace().take(20) {
        let _ = (options::address(word), options::family(word), options::duration(word), options::speed(word));
        let _ = (PeerFilter::parse(Some(word)), language::path(word));
    }
}

/// The account of a flight record, as hv-replay reads it.
pub fn record(data: &[u8]) {
    let path = Path::new("/nonexistent/record.json");
    let Ok(record) = records_of::parse(data, path, None) else { return };
    let open = record.open.encode();
    laws::bgp::open(open.get(19..).unwrap_or_default());
    // An account that says the same is read as the same.
    let given: Vec<String> = record.messages.iter().map(|m| hex(m)).collect();
    let session = json!({"peer": record.peer, "open": hex(&open), "messages_given": given.len(), "given": given});
    let account = json!({
        "kind": record.kind, "instance": record.instance, "reproduce": {"peer": record.peer}, "sessions": [session],
    });
    let again = records_of::parse(account.to_string().as_bytes(), path, None).expect("an account of ours");
    assert_eq!((&again.messages, again.peer, again.left_out), (&record.messages, record.peer, 0));
    assert_eq!((again.kind, again.instance, again.open.encode()), (record.kind, record.instance, open));
}

/// What [`shim`] begins with.
pub fn shim_messages() -> Vec<Vec<u8>> {
    let (local, remote) = ("192.0.2.1:179".parse(), "[fe80::1]:179".parse());
    let (Ok(local), Ok(remote)) = (local, remote) else { return Vec::new() };
    let mut list = [0; 512];
    let key = SocketOption { level: 6, name: 14, value: &[7; 216] };
    let ttl = SocketOption { level: 0, name: 2, value: &[255, 0, 0, 0] };
    let n = Options::push(&mut list, 0, &key).and_then(|n| Options::push(&mut list, n, &ttl)).unwrap_or(0);
    let options = Options { encoded: list.get(..n).unwrap_or_default() };
    let requests = [
        Request::Hello { version: wire::shim::PROTOCOL_VERSION, instance: "frr-1", pid: 7, netns_cookie: 9 },
        Request::Bind { socket: 1 << 40, local, v6_only: true, options },
        Request::Listen { socket: 3, backlog: 4096 },
        Request::Connect { socket: 4, local, remote, filler_len: 65536, options },
        Request::SetOption { socket: 5, option: ttl },
        Request::GetOption { socket: 6, level: 6, name: 2, max_len: 4 },
        Request::SocketError { socket: 7 },
        Request::Names { socket: 8 },
        Request::Netlink { socket: 9 },
        Request::NetlinkBind { socket: 10, port_id: 1, groups: 0x800405f5 },
        Request::NetlinkNames { socket: 11 },
        Request::MayConnect { remote },
    ];
    let replies = [
        Reply::Welcome { bgp_port: 179, netlink: true, answer_ahead: false },
        Reply::NetlinkName { port_id: 77, groups: 0x800405f5 },
        Reply::Passage { redirected: true },
        Reply::Done,
        Reply::Error { errno: 111, text: "why" },
        Reply::Option { value: &[1, 2] },
        Reply::Names { local, remote: Some(remote) },
        Reply::Names { local, remote: None },
    ];
    let mut buf = [0; MAX_MESSAGE];
    // As many and as long options as there may be, which is more than one message has room for.
    let option = [&6i32.to_le_bytes()[..], &14i32.to_le_bytes(), &256u16.to_le_bytes(), &[7; 256]].concat();
    let many = [
        &[2][..],
        &9u64.to_le_bytes(),
        &[4, 192, 0, 2, 1, 179, 0, 0],
        &(20 * 266u16).to_le_bytes(),
        &option.repeat(20),
    ]
    .concat();
    let mut all = vec![many];
    for request in &requests {
        let n = request.encode(&mut buf).unwrap_or(0);
        all.push(buf.get(..n).unwrap_or_default().to_vec());
    }
    for reply in &replies {
        let n = reply.encode(&mut buf).unwrap_or(0);
        all.push(buf.get(..n).unwrap_or_default().to_vec());
    }
    let n = Accepted { local, remote }.encode(&mut buf).unwrap_or(0);
    all.push(buf.get(..n).unwrap_or_default().to_vec());
    all
}

/// What [`mrt`] begins with.
pub fn mrt_files() -> Vec<Vec<u8>> {
    let record = |kind: u16, subtype: u16, body: &[u8]| {
        let (kind, subtype, len) = (kind.to_be_bytes(), subtype.to_be_bytes(), (body.len() as u32).to_be_bytes());
        [&1_700_000_000u32.to_be_bytes()[..], &kind, &subtype, &len, body].concat()
    };
    let messages = super::bgp::messages();
    let ends = Ends { peer: [192, 0, 2, 1].into(), peer_as: 70_000, local: [192, 0, 2, 2].into(), local_as: 65_000 };
    let mut all = Vec::new();
    for some in messages.chunks(3) {
        let mut writer = Writer::new(Vec::new());
        some.iter().for_each(|m| drop(writer.message(1_700_000_000_000_001, &ends, m)));
        all.push(writer.into_inner());
    }
    // BGP4MP_MESSAGE of two octets an AS number, and a change of state.
    let head = [0xfb, 0xf4, 0xfb, 0xf5, 0, 0, 0, 1, 192, 0, 2, 1, 192, 0, 2, 2];
    let narrow = super::bgp::updates().into_iter().filter(|u| u.first() == Some(&1)).take(6);
    for body in narrow {
        let body = body.get(1..).unwrap_or_default();
        let len = ((body.len() + 19) as u16).to_be_bytes();
        all.push(record(16, 1, &[&head[..], &[0xff; 16], &len, &[2], body].concat()));
    }
    all.push(record(16, 0, &[&head[..], &[0, 6, 0, 1]].concat()));
    // A table dump: its peers, and entries of both families.
    let peers = record(
        13,
        1,
        &[
            &[192, 0, 2, 9, 0, 2, b'r', b'b', 0, 2][..],
            &[2, 192, 0, 2, 1, 192, 0, 2, 1, 0, 0, 0xfb, 0xf4],
            &[0, 9, 9, 9, 9, 192, 0, 2, 2, 0xfb, 0xf5],
        ]
        .concat(),
    );
    let attributes = [0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xfb, 0xf4, 0x40, 3, 4, 192, 0, 2, 1];
    let entry =
        |peer: u8, attributes: &[u8]| [&[0, peer, 0x65, 0, 0, 0, 0, attributes.len() as u8][..], attributes].concat();
    let v4 = record(
        13,
        2,
        &[&[0, 0, 0, 1, 24, 198, 51, 100, 0, 2][..], &entry(0, &attributes), &entry(1, &attributes)].concat(),
    );
    let next_hop = [&[0x80, 14, 17, 16, 0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1]].concat();
    let v6 = record(
        13,
        4,
        &[&[0, 0, 0, 2, 32, 0x20, 1, 0xd, 0xb8, 0, 1][..], &entry(1, &[&attributes[..13], &next_hop].concat())]
            .concat(),
    );
    all.push([peers, v4, v6].concat());
    all.push(b"TABLE_DUMP2|1700000000|B|192.0.2.1|64500|198.51.100.0/24|64500 64501 {64502,64503}|IGP|192.0.2.1|0|7|64500:1 no-export|AG|64503 192.0.2.7|\n".to_vec());
    all.push(b"TABLE_DUMP2|1|B|2001:db8::1|70000|2001:db8::/32|70000|INCOMPLETE|2001:db8::1|0|0||NAG||\n".to_vec());
    all
}

/// What [`config`] begins with: the examples of this repository, and what its tests refuse.
pub fn configurations() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [
        include_str!("../../../../examples/virtd.toml"),
        include_str!("../../../../examples/native.toml"),
        include_str!("../../../../examples/three/virtd.toml"),
        include_str!("../../../../examples/five/virtd.toml"),
        include_str!("../../../../examples/three-versions/virtd.toml"),
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    let bad = include_str!("../../../../virtd/config/src/testdata/bad.txt");
    let file = |case: &str| {
        case.split_once('\n').and_then(|(_, rest)| rest.split_once("---")).map(|(file, _)| file.as_bytes().to_vec())
    };
    all.extend(bad.split("\n===").filter_map(file));
    all
}

/// What [`request`] begins with.
pub fn requests() -> Vec<Vec<u8>> {
    [
        r#"{"command":"status"}"#,
        r#"{"command":"sessions"}"#,
        r#"{"command":"instances","exec":{"instance":"frr","words":["show","bgp"]}}"#,
        r#"{"command":"routes","prefix":"192.0.2.0/24"}"#,
        r#"{"command":"differs","instance":"bird","n":50}"#,
        r#"{"command":"fib","prefix":"all","diff":true,"flush":true,"protocol":186}"#,
        r#"{"command":"diversity","sessions":true}"#,
        r#"{"command":"events","follow":true,"n":20,"kind":"poison"}"#,
        r#"{"command":"instance","name":"frr","action":"restart"}"#,
        r#"{"command":"session","peer":"fe80::2%eth1","action":"shutdown"}"#,
        r#"{"command":"change","action":"begin"}"#,
        r#"{"command":"reload","dry_run":true}"#,
    ]
    .iter()
    .map(|line| line.as_bytes().to_vec())
    .collect()
}

/// What [`state`] begins with.
pub fn states() -> Vec<Vec<u8>> {
    [
        r#"{"version":1,"shut":["192.0.2.1"]}"#,
        r#"{"version":1,"shut":["192.0.2.1","fe80::2%eth1"],"drained":["a"],"disabled":["b"],"pinned":["c","d"]}"#,
        r#"{"version":2,"shut":[]}"#,
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect()
}

/// What [`script`] begins with.
pub fn scripts() -> Vec<Vec<u8>> {
    [
        "announce 192.0.2.0/24,198.51.100.0/24 next-hop 192.0.2.1 as-path 64500 64501 {64502,64503} origin igp med 7 local-pref 100",
        "announce 2001:db8::/32 next-hop 2001:db8::1 community 64500:1 no-export large-community 1:2:3 aggregator 64500 192.0.2.7 atomic-aggregate",
        "announce 10.0.0.0/8 attribute 0xc0 99 0a0b0c # a comment",
        "withdraw 192.0.2.0/24,2001:db8::/32",
        "raw ffffffffffffffffffffffffffffffff001304",
        "eor ipv4\neor\nrefresh ipv6\nwait 400ms\nwait-routes 7\nnotification 6 2\ndrop\nexit",
        "192.0.2.1:179 [2001:db8::1]:1179 1.5 3m x2.5 AS64500 {1,2}",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect()
}

/// What [`record`] begins with.
pub fn records() -> Vec<Vec<u8>> {
    let open = super::bgp::messages().into_iter().find(|m| m.get(18) == Some(&1)).unwrap_or_default();
    let session = |peer: &str, given: &str| {
        format!(
            r#"{{"peer":"{peer}","peer_as":70000,"local":"192.0.2.9","local_as":64500,"as4":true,"open":"{}","messages_given":1,"given":{given}}}"#,
            hex(&open)
        )
    };
    let both = [session("192.0.2.2", "null"), session("192.0.2.1", r#"["0aff"]"#)].join(",");
    let account =
        format!(r#"{{"kind":"poison","instance":"frr","reproduce":{{"peer":"192.0.2.1"}},"sessions":[{both}]}}"#);
    vec![account.into_bytes(), br#"{"kind":"k","instance":"i","reproduce":null}"#.to_vec()]
}
