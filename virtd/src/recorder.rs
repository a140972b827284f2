//! Flight records on disk: for each verdict, and each end that nobody asked for, what the instance
//! was given and what it and the others said, as MRT and JSON, and for a poison the UPDATE in
//! hexadecimal. With the account alone `hv-replay --reproduce` plays to a daemon what the instance
//! was given, after the OPEN that it was given.
//!
//! | file | holds |
//! |---|---|
//! | `TIME-KIND-INSTANCE.json` | the account: the verdict in words, the key, what every instance said; each session's ends and OPEN, and what was given |
//! | `TIME-KIND-INSTANCE.mrt` | the OPENs given, then the messages (BGP4MP_ET, RFC 6396): the sender of each is the record's peer, an instance as our own address |
//! | `TIME-KIND-INSTANCE.hex` | a poison only: the culprit, or those among which the search could not tell, a line each |
//!
//! A thread writes them, each under a temporary name first; a disk that is slow or full costs
//! records and nothing else. Where they take too much room the oldest go, each as a whole; the
//! newest always stays.

use anyhow::{Context, Result};
use broker::event::{Event, Severity};
use broker::io::{Direction, Micros, Record, Recorded};
use bytes::{Bytes, BytesMut};
use crossbeam_channel::Receiver;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};
use virtd_config::Recorder;
use virtd_linux::eventlog::{EventSender, rfc3339};
use virtd_linux::written;
use wire::bgp::frame::next_message;
use wire::bgp::hex;
use wire::mrt::{Ends, Writer};

/// What our files end with; nothing else in the folder is ever touched.
const SUFFIXES: [&str; 3] = ["json", "mrt", "hex"];
/// Octets given to an instance that the account repeats. A poison's always fit; of a flight record
/// larger than this the MRT has them.
const MAX_GIVEN: usize = 3 << 20;

/// Starts the thread that writes; it ends when the last sender of records is gone. `None` without a
/// folder.
///
/// # Errors
/// The folder cannot be made, or no thread.
pub fn start(
    config: &Recorder,
    records: Receiver<Box<Record>>,
    started: SystemTime,
    events: EventSender,
) -> Result<Option<JoinHandle<()>>> {
    let Some(folder) = config.folder.clone() else { return Ok(None) };
    fs::create_dir_all(&folder).with_context(|| format!("recorder.folder: cannot make {}", folder.display()))?;
    let room = u64::from(config.disk_mib) << 20;
    let work = move || {
        for record in records {
            let base = base(&folder, &record, started);
            let (severity, text) = match write(&base, &record, started) {
                Ok(path) => (Severity::Info, told(&record, &path)),
                Err(e) => {
                    // Half a record is none.
                    SUFFIXES.iter().for_each(|suffix| drop(fs::remove_file(base.with_extension(suffix))));
                    (Severity::Warning, format!("no record could be written: {e:#}"))
                }
            };
            events.send(Event::new(record.at, "record", severity, text).with_instance(&record.instance));
            if let Err(e) = prune(&folder, room, &base) {
                log::warn!("recorder: {e:#}");
            }
        }
    };
    Ok(Some(std::thread::Builder::new().name("recorder".into()).spawn(work)?))
}

/// What the names of a record's files have in common; they differ in what they end with.
fn base(folder: &Path, record: &Record, started: SystemTime) -> PathBuf {
    let when = started + Duration::from_micros(record.at);
    let stamp: String = rfc3339(when).chars().filter(|c| !matches!(c, '-' | ':' | '.')).collect();
    let safe: String =
        record.instance.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    folder.join(format!("{stamp}-{}-{safe}", record.kind))
}

/// Writes one record; returns the name of the account.
fn write(base: &Path, record: &Record, started: SystemTime) -> Result<PathBuf> {
    let when = |at: Micros| started + Duration::from_micros(at);
    let stamp_us = |at: Micros| {
        let at = when(at).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
        u64::try_from(at).unwrap_or(u64::MAX)
    };
    let mut mrt = Writer::new(Vec::new());
    let mut left_out = 0;
    let legs = legs(record);
    // Without 4-octet AS numbers MRT would need another subtype, and a neighbour of today has them.
    let mut put_message = |at: Micros, ends: Option<Ends>, as4: bool, bytes: &[u8]| {
        let sent = ends.filter(|_| as4).map(|ends| mrt.message(stamp_us(at), &ends, bytes));
        u64::from(!matches!(sent, Some(Ok(()))))
    };
    let first = record.messages.first().map_or(record.at, |m| m.at);
    for leg in &legs {
        put_message(first, given_ends(leg.of), leg.of.as4, &leg.of.open);
    }
    for m in &record.messages {
        for one in messages(&m.bytes) {
            left_out += put_message(m.at, ends(m), m.as4, &one);
        }
    }
    let path = base.with_extension("json");
    put(&base.with_extension("mrt"), &mrt.into_inner())?;
    if let Some(lines) = reproducer(&record.account) {
        put(&base.with_extension("hex"), lines.as_bytes())?;
    }
    let account = json!({
        "time": rfc3339(when(record.at)),
        "kind": record.kind,
        "instance": record.instance,
        "messages": record.messages.len(),
        "messages_left_out": left_out,
        "account": record.account,
        "sessions": sessions(&legs),
        "reproduce": last_given(record).map(|m| json!({ "peer": m.peer.ip(), "command": command(m, &path) })),
    });
    put(&path, format!("{account:#}\n").as_bytes())?;
    Ok(path)
}

/// What the event says.
fn told(record: &Record, path: &Path) -> String {
    let again = last_given(record).map(|m| format!("; to see the daemon fail again, alone: {}", command(m, path)));
    format!("the record of it is {}{}", path.display(), again.unwrap_or_default())
}

/// The last message that was given to the instance, in a poison's record the culprit: its session
/// is the one to be played.
fn last_given(record: &Record) -> Option<&Recorded> {
    record.messages.iter().rfind(|m| matches!(m.direction, Direction::To(_)))
}

/// What plays the record to a daemon alone that has the same addresses and neighbours as the
/// instance.
fn command(m: &Recorded, path: &Path) -> String {
    let daemon = m.local.map_or_else(|| "DAEMON".to_owned(), |local| local.ip().to_canonical().to_string());
    let peer = m.peer.ip().to_canonical();
    format!("hv-replay --reproduce {} --connect {daemon} --bind {peer}", path.display())
}

/// A leg in the record.
struct LegRecord<'a> {
    /// One of its messages, for what all of them have in common.
    of: &'a Recorded,
    /// What the instance was given over it, oldest first.
    given: Vec<Bytes>,
}

/// The legs that the messages crossed, in the order of their first messages.
fn legs(record: &Record) -> Vec<LegRecord<'_>> {
    let mut legs: Vec<LegRecord> = Vec::new();
    for m in &record.messages {
        let at = legs.iter().position(|l| l.of.peer == m.peer).unwrap_or_else(|| {
            legs.push(LegRecord { of: m, given: Vec::new() });
            legs.len() - 1
        });
        if let (Direction::To(_), Some(leg)) = (m.direction, legs.get_mut(at)) {
            leg.given.extend(messages(&m.bytes));
        }
    }
    legs
}

/// The messages of one piece: a replay is handed over as many.
fn messages(bytes: &[u8]) -> impl Iterator<Item = Bytes> {
    let mut rest = BytesMut::from(bytes);
    std::iter::from_fn(move || Some(next_message(&mut rest, true).ok()??.bytes))
}

/// The legs as the account has them; `given` is missing where it would be too long, and is then to
/// be had from the MRT.
fn sessions(legs: &[LegRecord]) -> Vec<Value> {
    let octets: usize = legs.iter().flat_map(|l| &l.given).map(Bytes::len).sum();
    let session = |l: &LegRecord| {
        let given = || l.given.iter().map(|b| hex(b)).collect::<Vec<_>>();
        json!({
            "peer": l.of.peer.ip(),
            "peer_as": l.of.peer_as,
            "local": l.of.local.map(|a| a.ip()),
            "local_as": l.of.local_as,
            "as4": l.of.as4,
            "open": hex(&l.of.open),
            "messages_given": l.given.len(),
            "given": (octets <= MAX_GIVEN).then(given),
        })
    };
    legs.iter().map(session).collect()
}

/// The sender of a message is the record's peer.
fn ends(m: &Recorded) -> Option<Ends> {
    let Ends { peer, peer_as, local, local_as } = given_ends(m)?;
    Some(match m.direction {
        Direction::To(_) => Ends { peer, peer_as, local, local_as },
        Direction::From(_) => Ends { peer: local, peer_as: local_as, local: peer, local_as: peer_as },
    })
}

/// The ends of what was given to the instance over the same leg.
fn given_ends(m: &Recorded) -> Option<Ends> {
    Some(Ends { peer: m.peer.ip(), peer_as: m.peer_as, local: m.local?.ip(), local_as: m.local_as })
}

fn reproducer(account: &Value) -> Option<String> {
    let culprits = account.get("culprits")?.as_array()?;
    Some(culprits.iter().filter_map(Value::as_str).map(|line| format!("{line}\n")).collect())
}

fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    written::replace(path, &new, bytes, 0o666, false).with_context(|| format!("writing {}", path.display()))
}

/// The record that a file belongs to, `20261121T091500000Z-poison-frr` for
/// `20261121T091500000Z-poison-frr.json`; `None` where it is not one of ours.
fn record_of(name: &str) -> Option<&str> {
    // What an end of virtd cut short stays under its temporary name.
    let (record, suffix) = name.strip_suffix(".new").unwrap_or(name).rsplit_once('.')?;
    let (stamp, _) = record.split_once('-')?;
    let dated = stamp.len() == 19 && stamp.ends_with('Z') && stamp.starts_with(|c: char| c.is_ascii_digit());
    (dated && SUFFIXES.contains(&suffix)).then_some(record)
}

/// Removes the oldest records, each with all its files, until the rest fits. The newest and
/// `latest` stay, however large.
fn prune(folder: &Path, room: u64, latest: &Path) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut records: BTreeMap<String, Vec<(PathBuf, u64)>> = BTreeMap::new();
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let (Some(record), Ok(metadata)) = (record_of(&name), entry.metadata()) else { continue };
        if metadata.is_file() {
            records.entry(record.to_owned()).or_default().push((entry.path(), metadata.len()));
        }
    }
    let mut total: u64 = records.values().flatten().map(|(_, len)| len).sum();
    records.pop_last();
    for (record, files) in records {
        if total <= room {
            break;
        }
        if latest.file_name().is_some_and(|name| name == record.as_str()) {
            continue;
        }
        for (path, len) in files {
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
            total -= len;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "recorder_tests.rs"]
mod tests;
