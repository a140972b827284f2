//! The journal of an earlier virtd, and its image: a worker begins with nothing else.

use super::core::sim::{OUR_AS, our_open};
use broker::Core;
use bytes::Bytes;
use journal::{Log, Opened, Record};
use std::net::{Ipv4Addr, SocketAddr};
use virtd_config::Config;
use wire::bgp::message::keepalive;

/// A router of two instances that takes anybody.
fn config() -> Config {
    let instance = |name: &str| virtd_config::Instance { name: name.to_owned(), ..Default::default() };
    Config { accept_any: true, instances: vec![instance("a"), instance("b")], ..Config::default() }
}

/// Records that are read are written as they were. A core that reads them, whatever they say, goes on
/// with what it makes of them: the image of that is the same once more.
pub fn journal(data: &[u8]) {
    let read: Vec<Record<'_>> = journal::read(data).map_while(Result::ok).collect();
    let mut written = Vec::new();
    read.iter().for_each(|record| record.append_to(&mut written));
    let again: Vec<Record<'_>> = journal::read(&written).map(|r| r.expect("what was written")).collect();
    assert_eq!(again, read);

    let Some((mut core, opened)) = adopted(&read) else { return };
    let digest = core.digest();
    let mut image = Vec::new();
    opened.iter().for_each(|record| record.append_to(&mut image));
    core.write_image(&mut image);
    let records: Vec<Record<'_>> = journal::read(&image).map(|r| r.expect("an image")).collect();
    let (next, _) = adopted(&records).expect("an image has what it was made of");
    assert_eq!(next.digest(), digest, "the image of what was read");
}

/// A core that goes on with these records, and those of its connections that stand.
fn adopted<'r>(records: &[Record<'r>]) -> Option<(Core, Vec<Record<'r>>)> {
    let mut core = Core::new(&config(), 0);
    let mut adoption = core.adoption(0);
    records.iter().for_each(|record| adoption.take(record));
    let kept = adoption.finish();
    let stands = |conn: &u64| kept.iter().any(|k| k.stands && k.conn.0 == *conn);
    let mut opened: Vec<Record<'r>> = Vec::new();
    for record in records {
        if let Record::Opened { conn, .. } = record
            && stands(conn)
        {
            // The last word counts.
            opened.retain(|r| !matches!(r, Record::Opened { conn: c, .. } if c == conn));
            opened.push(record.clone());
        }
    }
    (!opened.is_empty()).then_some((core, opened))
}

/// A journal of a session each of two peers, with routes both ways.
pub fn journals() -> Vec<Vec<u8>> {
    let mut log = Vec::new();
    for n in 1..=2u8 {
        let conn = u64::from(n) * 2 + 1;
        let local = SocketAddr::new(Ipv4Addr::new(192, 0, 2, 254).into(), 179);
        let remote = SocketAddr::new(Ipv4Addr::new(192, 0, 2, n).into(), 40_000);
        Record::Opened { conn, opened: Opened { fd: i32::from(n), dialled: n == 1, local, remote } }
            .append_to(&mut log);
        let theirs = super::core::sim::open(64500 + u32::from(n), Ipv4Addr::new(10, 0, 0, n), 90);
        let prefix = |text: String| text.parse().expect("a prefix");
        let hop = Ipv4Addr::new(192, 0, 2, n);
        let said =
            super::core::sim::update(&[prefix(format!("10.{n}.0.0/16"))], &[], &[64500 + u32::from(n)], hop, None, 0);
        let told = super::core::sim::update(
            &[prefix(format!("10.{}.0.0/16", 3 - n))],
            &[],
            &[OUR_AS, 64503 - u32::from(n)],
            hop,
            None,
            0,
        );
        let streams: [(u8, Vec<Bytes>); 2] = [
            (journal::kind::TO_PEER, vec![our_open().encode(), keepalive(), told]),
            (journal::kind::FROM_PEER, vec![theirs.encode(), keepalive(), said]),
        ];
        for (kind, messages) in streams {
            messages.iter().for_each(|m| log.record(kind, conn, &[m]));
        }
    }
    Record::Refreshed { conn: 3 }.append_to(&mut log);
    Record::Remedied { conn: 5, message: 2, reset: false }.append_to(&mut log);
    let mut image = Vec::new();
    let records: Vec<Record<'_>> = journal::read(&log).map_while(Result::ok).collect();
    let (mut core, opened) = adopted(&records).expect("two sessions");
    opened.iter().for_each(|record| record.append_to(&mut image));
    core.write_image(&mut image);
    vec![log, image]
}
