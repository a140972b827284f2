use super::super::lists::Pieces;
use super::*;
use serde_json::{Map, Value, json};
use virtd_api::ribs::DUMPED;

/// An UPDATE with these fields, its header included.
fn update(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Bytes {
    let mut out = vec![0xff; 16];
    out.extend(((HEADER_LEN + 4 + withdrawn.len() + attributes.len() + nlri.len()) as u16).to_be_bytes());
    out.push(2);
    for field in [withdrawn, attributes] {
        out.extend((field.len() as u16).to_be_bytes());
        out.extend(field);
    }
    out.extend(nlri);
    out.into()
}

/// ORIGIN IGP, AS_PATH 64501 64777, NEXT_HOP 192.0.2.1, COMMUNITIES 64501:7, LARGE_COMMUNITY 64501:1:2.
fn attributes() -> Vec<u8> {
    let mut out = vec![0x40, 1, 1, 0, 0x40, 2, 10, 2, 2];
    [64501u32, 64777].iter().for_each(|asn| out.extend(asn.to_be_bytes()));
    out.extend([0x40, 3, 4, 192, 0, 2, 1, 0xc0, 8, 4, 0xfb, 0xf5, 0, 7, 0xc0, 32, 12]);
    [64501u32, 1, 2].iter().for_each(|n| out.extend(n.to_be_bytes()));
    out
}

fn header(kind: u8, flags: u8) -> Header {
    Header { kind, flags, speaker: 1, length: 0 }
}

fn up(families: &[&str]) -> Bytes {
    let families = families.iter().map(ToString::to_string).collect();
    let up = SpeakerUp { peer: "192.0.2.1".to_owned(), as4: true, up_us: 5_000_000, families, ..SpeakerUp::default() };
    serde_json::to_vec(&up).expect("JSON").into()
}

fn down(reason: &str) -> Bytes {
    let down = SpeakerDown { reason: reason.to_owned(), notification: Vec::new() };
    serde_json::to_vec(&down).expect("JSON").into()
}

fn listed(reading: Reading) -> Value {
    let table = Arc::new(Table { at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000), ..reading.table() });
    let envelope = Map::from_iter([("ttl".to_owned(), json!("later"))]);
    let pieces = Pieces::new(envelope, table, "192.0.2.1".to_owned(), "192.0.2.1".to_owned());
    let text: Vec<u8> = pieces.flatten().collect();
    serde_json::from_slice(&text).expect("JSON")
}

#[test]
fn a_table_is_read_to_its_end_and_listed() {
    let mut reading = Reading::new(Side::In);
    let mut told = |kind, flags, body: &Bytes| {
        reading.frame(header(kind, flags), body).expect("a frame");
        reading.is_over()
    };
    assert!(!told(UP, 0, &up(&["ipv4-unicast", "ipv6-unicast"])));
    assert!(!told(ROUTES, DUMPED, &update(&[], &attributes(), &[24, 198, 51, 100, 24, 203, 0, 113])));
    // What it was told is another table.
    assert!(!told(ROUTES, DUMPED | OUT, &update(&[], &attributes(), &[24, 192, 88, 99])));
    assert!(!told(ROUTES, 0, &update(&[24, 203, 0, 113], &[], &[])));
    let mut v6 = attributes();
    v6.extend([
        0x80, 14, 26, 0, 2, 1, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 32, 0x20, 1, 0xd, 0xb8,
    ]);
    assert!(!told(ROUTES, DUMPED, &update(&[], &v6, &[])));
    assert!(!told(END_OF_RIB, DUMPED | OUT, &Bytes::new()));
    assert!(!told(END_OF_RIB, DUMPED, &Bytes::new()));
    assert!(told(END_OF_RIB, DUMPED, &Bytes::new()));
    let all = listed(reading);
    assert_eq!((&all["ttl"], all["routes"].as_array().map(Vec::len)), (&json!("later"), Some(2)));
    let wanted = json!({
        "network": "198.51.100.0/24", "gateway": "192.0.2.1", "interface": "", "from_protocol": "192.0.2.1",
        "learnt_from": "192.0.2.1", "age": "2023-11-14 22:13:15", "metric": 100, "primary": false,
        "type": ["BGP", "univ"],
        "bgp": { "origin": "IGP", "as_path": ["64501", "64777"], "next_hop": "192.0.2.1", "local_pref": "", "med": "",
            "communities": [[64501, 7]], "large_communities": [[64501, 1, 2]], "ext_communities": [] },
    });
    assert_eq!(all["routes"][0], wanted);
    assert_eq!(
        (&all["routes"][1]["network"], &all["routes"][1]["gateway"]),
        (&json!("2001:db8::/32"), &json!("2001:db8::9"))
    );
}

#[test]
fn a_session_that_ends_has_no_routes_and_one_told_anew_has_them_again() {
    for (reason, over) in [(TOLD_ANEW, false), ("closed", true)] {
        let mut reading = Reading::new(Side::Out);
        reading.frame(header(UP, 0), &up(&["ipv4-unicast"])).expect("a frame");
        let routes = update(&[], &attributes(), &[24, 198, 51, 100]);
        reading.frame(header(ROUTES, OUT), &routes).expect("a frame");
        reading.frame(header(DOWN, 0), &down(reason)).expect("a frame");
        assert_eq!((reading.is_over(), reading.routes.len(), reading.octets), (over, 0, 0), "{reason}");
    }
}

/// An answer of many pieces is one, and a table beyond the bound is none.
#[test]
fn a_large_table_is_listed_whole_or_not_at_all() {
    let mut reading = Reading::new(Side::In);
    reading.frame(header(UP, 0), &up(&["ipv4-unicast"])).expect("a frame");
    let mut tell = |n: usize| {
        let nlri: Vec<u8> = (n..n + 500).flat_map(|n| [[32].as_slice(), &(n as u32).to_be_bytes()].concat()).collect();
        reading.frame(header(ROUTES, 0), &update(&[], &attributes(), &nlri))
    };
    (0..MAX_ROUTES).step_by(500).for_each(|n| tell(n).expect("there is room"));
    assert_eq!(tell(MAX_ROUTES), Err(NoTable::TooLarge));
    let distinct: HashSet<*const u8> = reading.routes.values().map(|route| route.as_ptr()).collect();
    assert_eq!(distinct.len(), 1, "a route is kept once");
    reading.routes.retain(|prefix, _| prefix.octets()[2] == 0);
    let many = reading.routes.len();
    assert_eq!(listed(reading)["routes"].as_array().map(Vec::len), Some(many));
    assert!(Reading::new(Side::In).frame(header(ROUTES, 0), &Bytes::from_static(b"x")).is_err());
}

/// Old ones make room for new ones, but not those that are still being sent.
#[tokio::test]
async fn so_many_tables_are_there_and_no_more() {
    let tables = Arc::new(Tables::new(Path::new("/nonexistent/control.sock")));
    let table = |place| Arc::new(Table { _place: Some(place), ..Reading::new(Side::In).table() });
    for n in 0..2 * MAX_TABLES {
        let place = tables.place().expect("the oldest goes");
        tables.keep((n.to_string(), Side::In), Ok(table(place)));
    }
    assert!(tables.kept(&("0".to_owned(), Side::In)).is_none());
    let sent: Vec<_> = (MAX_TABLES..2 * MAX_TABLES).filter_map(|n| tables.kept(&(n.to_string(), Side::In))).collect();
    assert_eq!(sent.len(), MAX_TABLES);
    assert_eq!(tables.place().err(), Some(NoTable::Busy));
    drop(sent);
    assert!(tables.place().is_ok());
    assert!(matches!(tables.of("192.0.2.1", Side::In).await, Err(NoTable::Unanswered(text)) if text.contains("virtd")));
}
