//! Reading a record of virtd's (`TIME-KIND-INSTANCE.json`) for `--reproduce`: the OPEN that an
//! instance was given on one session, and the messages after it.

use crate::options::hex;
use anyhow::{Context, Result, anyhow, bail};
use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use wire::bgp::frame::{self, MessageType};
use wire::bgp::message::Open;
use wire::mrt;

/// Message type of an OPEN (RFC 4271 section 4.1).
const OPEN: u8 = 1;

/// One session of a record, to be played.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reproducer {
    /// The verdict's kind: `poison`, `instance-faulty`.
    pub kind: String,
    /// The instance it was about.
    pub instance: String,
    /// The neighbour whose session it is.
    pub peer: IpAddr,
    /// The OPEN that the instance was given.
    pub open: Open,
    /// What it was given after that, oldest first; in a poison's record the last is the culprit.
    pub messages: Vec<Bytes>,
    /// How many messages it was given over other sessions; these are not played.
    pub left_out: usize,
}

#[derive(Deserialize)]
struct File {
    kind: String,
    instance: String,
    #[serde(default)]
    sessions: Vec<Session>,
    reproduce: Option<Chosen>,
}

#[derive(Deserialize)]
struct Session {
    peer: IpAddr,
    local: Option<IpAddr>,
    open: String,
    messages_given: usize,
    given: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Chosen {
    peer: IpAddr,
}

/// Reads the record at `path`; of several sessions the one with `peer`, or else the one over which
/// the culprit came.
///
/// # Errors
/// The file cannot be read or is no record, has no such session, or lacks the messages.
pub fn read(path: &Path, peer: Option<IpAddr>) -> Result<Reproducer> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text, path, peer)
}

/// The same of a record that stands in `text`; `path` is its name, and that of the MRT beside it.
///
/// # Errors
/// As [`read`].
pub fn parse(text: &[u8], path: &Path, peer: Option<IpAddr>) -> Result<Reproducer> {
    let file: File = serde_json::from_slice(text).with_context(|| format!("{} is no record", path.display()))?;
    choose(file, path, peer).with_context(|| format!("{} cannot be played", path.display()))
}

fn choose(file: File, path: &Path, peer: Option<IpAddr>) -> Result<Reproducer> {
    let Some(wanted) = peer.or(file.reproduce.map(|r| r.peer)) else {
        bail!("it does not say what the instance was given");
    };
    let Some(session) = file.sessions.iter().find(|s| s.peer == wanted) else {
        let peers: Vec<String> = file.sessions.iter().map(|s| s.peer.to_string()).collect();
        bail!("it has no session with {wanted}, but with {}", peers.join(", "));
    };
    let messages = match &session.given {
        Some(lines) => lines.iter().map(|l| octets(l)).collect::<Result<Vec<Bytes>>>()?,
        None => from_mrt(&path.with_extension("mrt"), session)?,
    };
    let left_out = file.sessions.iter().filter(|s| s.peer != wanted).map(|s| s.messages_given).sum();
    let open = open(&session.open)?;
    Ok(Reproducer { kind: file.kind, instance: file.instance, peer: wanted, open, messages, left_out })
}

fn octets(line: &str) -> Result<Bytes> {
    hex(line).map(Bytes::from).map_err(anyhow::Error::msg)
}

fn open(line: &str) -> Result<Open> {
    let mut rest = BytesMut::from(&octets(line)?[..]);
    let message = frame::next_message(&mut rest, false).map_err(|n| anyhow!("its OPEN is malformed: {n}"))?;
    let message = message.filter(|m| m.kind == MessageType::Open && rest.is_empty()).context("its OPEN is none")?;
    Open::decode(message.body()).map_err(|n| anyhow!("its OPEN is malformed: {n}"))
}

/// A record too long for the account has its messages in the MRT beside it alone.
fn from_mrt(path: &Path, session: &Session) -> Result<Vec<Bytes>> {
    let reader = mrt::open(path).context("its messages stand in the MRT")?;
    let mut messages = Vec::new();
    for record in reader {
        let mrt::Record::Message(m) = record.with_context(|| format!("{}", path.display()))? else { continue };
        let kind = m.bytes.get(frame::HEADER_LEN - 1).copied();
        if m.peer == session.peer && Some(m.local) == session.local && kind != Some(OPEN) {
            messages.push(m.bytes);
        }
    }
    if messages.len() != session.messages_given {
        bail!("{} has {} of its {} messages", path.display(), messages.len(), session.messages_given);
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use wire::bgp::Family;
    use wire::bgp::message::{Capability, keepalive};

    fn sent() -> Open {
        let capabilities = vec![
            Capability::Multiprotocol(Family::IPV4_UNICAST),
            Capability::FourOctetAs(70_000),
            Capability::GracefulRestart { flags: 0, restart_time_s: 0, families: Vec::new() },
        ];
        Open { asn: 70_000, hold_time_s: 9, router_id: [192, 0, 2, 1].into(), capabilities }
    }

    fn record() -> Value {
        let session = |peer: &str, given: Value, n: u32| {
            json!({"peer": peer, "peer_as": 70_000, "local": "192.0.2.9", "local_as": 64500, "as4": true,
                   "open": wire::bgp::hex(&sent().encode()), "messages_given": n, "given": given})
        };
        json!({"kind": "poison", "instance": "frr", "reproduce": {"peer": "192.0.2.1", "command": "hv-replay"},
               "sessions": [session("192.0.2.2", json!(["00", "00", "00"]), 3), session("192.0.2.1", json!(["0aff", "0b"]), 2)]})
    }

    /// What comes of a record, with this MRT beside it.
    fn play(record: &Value, peer: Option<&str>, mrt: &[u8]) -> Result<Reproducer, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x.json");
        fs::write(&path, record.to_string()).expect("written");
        fs::write(path.with_extension("mrt"), mrt).expect("written");
        read(&path, peer.map(|p| p.parse().expect("an address"))).map_err(|e| format!("{e:#}"))
    }

    #[test]
    fn the_open_is_the_one_that_was_given_octet_for_octet_and_the_messages_follow() {
        let r = play(&record(), None, &[]).expect("a record");
        assert_eq!((r.kind.as_str(), r.instance.as_str(), r.left_out), ("poison", "frr", 3));
        assert_eq!(r.open.encode(), sent().encode());
        assert_eq!(r.messages, [&[0x0a, 0xff][..], &[0x0b]]);
        let other = play(&record(), Some("192.0.2.2"), &[]).expect("a record");
        assert_eq!((other.messages.len(), other.left_out), (3, 2));
    }

    #[test]
    fn messages_too_long_for_the_account_come_from_the_mrt() {
        let mut writer = mrt::Writer::new(Vec::new());
        let (peer, local) = ([192, 0, 2, 1].into(), [192, 0, 2, 9].into());
        let given = mrt::Ends { peer, peer_as: 70_000, local, local_as: 64500 };
        let said = mrt::Ends { peer: local, peer_as: 64500, local: peer, local_as: 70_000 };
        for (ends, bytes) in [(given, sent().encode()), (said, keepalive()), (given, keepalive())] {
            writer.message(1, &ends, &bytes).expect("written");
        }
        let mrt = writer.into_inner();
        let mut long = record();
        long["sessions"][1]["given"] = Value::Null;
        long["sessions"][1]["messages_given"] = json!(1);
        assert_eq!(play(&long, None, &mrt).expect("a record").messages, [keepalive()]);
        long["sessions"][1]["messages_given"] = json!(2);
        let error = play(&long, None, &mrt).expect_err("one is missing");
        assert!(error.contains("1 of its 2"), "{error}");
    }

    #[test]
    fn what_cannot_be_played_says_why() {
        let with = |pointer: &str, value: Value| {
            let mut r = record();
            *r.pointer_mut(pointer).expect("is there") = value;
            r
        };
        for (record, peer, word) in [
            (record(), Some("192.0.2.3"), "192.0.2.2, 192.0.2.1"),
            (with("/reproduce", Value::Null), None, "does not say"),
            (with("/sessions", json!([])), None, "no session"),
            (with("/sessions/1/open", json!("zz")), None, "hexadecimal"),
            (with("/sessions/1/open", json!(wire::bgp::hex(&keepalive()))), None, "OPEN"),
            (with("/sessions/1/given/0", json!("f")), None, "odd number"),
            (json!({"seq": 1}), None, "no record"),
        ] {
            let error = play(&record, peer, &[]).expect_err(word);
            assert!(error.contains(word), "{word}: {error}");
        }
    }
}
