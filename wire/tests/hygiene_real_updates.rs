//! Hygiene over real UPDATEs: what routers really send passes, but for the few faults that are
//! known to be there. Reads the MRT files of ../shared/data; where they are absent this is not
//! tested.

use flate2::read::GzDecoder;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use wire::bgp::hygiene::{self, Verdict};
use wire::bgp::{SessionKind, UpdateContext};

/// A record's header and body (RFC 6396 section 2): type, subtype, body.
fn records(mut file: &[u8]) -> impl Iterator<Item = (u16, u16, &[u8])> {
    std::iter::from_fn(move || {
        let (header, rest) = file.split_at_checked(12)?;
        let number = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let len = usize::from(number(8)) << 16 | usize::from(number(10));
        let (body, rest) = rest.split_at_checked(len)?;
        file = rest;
        Some((number(4), number(6), body))
    })
}

/// The UPDATE in a BGP4MP message record, and how it is to be read (RFC 6396 section 4.4).
fn update(kind: u16, subtype: u16, record: &[u8]) -> Option<(UpdateContext, &[u8])> {
    let record = if kind == 17 { record.get(4..)? } else { record };
    let as_len = match (kind, subtype) {
        (16 | 17, 1) => 2,
        (16 | 17, 4) => 4,
        _ => return None,
    };
    let (peer_as, local_as) = (record.get(..as_len)?, record.get(as_len..2 * as_len)?);
    let afi = *record.get(2 * as_len + 3)?;
    let message = record.get(2 * as_len + 4 + if afi == 2 { 32 } else { 8 }..)?;
    if *message.get(18)? != 2 {
        return None;
    }
    let kind = if peer_as == local_as { SessionKind::Ibgp } else { SessionKind::Ebgp };
    let context = UpdateContext { as4: as_len == 4, kind, ..UpdateContext::EBGP };
    Some((context, message.get(19..)?))
}

#[test]
fn real_updates_pass() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/mrt");
    if !folder.is_dir() {
        untested::not_tested("real data", "there is no ../shared/data/mrt");
        return;
    }
    // (file, UPDATEs at least)
    let files = [
        ("updates.20190101.0000.gz", 20_000),
        ("updates.et-header.2015.gz", 50_000),
        ("updates.20070211.0141.gz", 5_000),
        ("updates.20071015.1505.gz", 1_000),
        ("updates.long_withdrawal.gz", 1),
    ];
    for (name, at_least) in files {
        let compressed = std::fs::read(folder.join(name)).unwrap();
        let mut file = Vec::new();
        GzDecoder::new(&compressed[..]).read_to_end(&mut file).unwrap();
        let updates: Vec<_> =
            records(&file).filter_map(|(kind, subtype, record)| update(kind, subtype, record)).collect();
        let start = std::time::Instant::now();
        let (mut withdrawn, mut faults) = (0, BTreeMap::<&str, u32>::new());
        for (context, body) in &updates {
            match hygiene::check(body, context) {
                Verdict::Pass => {}
                Verdict::Rewritten { withdrawn: w, findings, .. } => {
                    withdrawn += u32::from(w);
                    findings.iter().for_each(|f| *faults.entry(f.what).or_default() += 1);
                }
                Verdict::Reset { notification, finding } => {
                    panic!("{name}: {notification}: {}: {body:02x?}", finding.what)
                }
            }
        }
        let n = updates.len();
        println!(
            "{name}: {n} updates, {withdrawn} withdrawn, {:?} each, {faults:?}",
            start.elapsed() / n.max(1) as u32
        );
        assert!(n >= at_least, "{name}: {n}");
        let faulty: u32 = faults.values().sum();
        assert!(f64::from(faulty) <= 0.001 * n as f64, "{name}: {faults:?}");
    }
}
