//! Flight records on disk: for each verdict what the instance was given and what it and the others said, as MRT and JSON, and for
//! a poison the UPDATE in a form that hv-replay can send to the daemon alone.
//!
//! | file | holds |
//! |---|---|
//! | `TIME-KIND-INSTANCE.json` | the account: the verdict in words, the key, what every instance said |
//! | `TIME-KIND-INSTANCE.mrt` | the messages (BGP4MP_ET, RFC 6396): the sender of each is the record's peer, an instance as our own address |
//! | `TIME-KIND-INSTANCE.hex` | a poison only: the messages to send, a line each: `hv-replay --connect ADDRESS --raw FILE` |
//!
//! A thread writes them, each under a temporary name first; a disk that is slow or full costs records and nothing else. Where they take too much
//! room the oldest go, each as a whole; the newest always stays.

use crate::config::Recorder;
use crate::core::io::{Micros, Record, Recorded, Way};
use crate::event::{Event, Severity};
use crate::eventlog::{EventSender, rfc3339};
use anyhow::{Context, Result};
use bytes::BytesMut;
use crossbeam_channel::Receiver;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};
use wire::bgp::frame::next_message;
use wire::mrt::{Ends, Writer};

/// What our files end with; nothing else in the folder is ever touched.
const SUFFIXES: [&str; 3] = ["json", "mrt", "hex"];

/// Starts the thread that writes; it ends when the last sender of records is gone. `None` without a folder.
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
                Ok(path) => (Severity::Info, format!("the record of it is {}", path.display())),
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
    let mut mrt = Writer::new(Vec::new());
    let mut left_out = 0;
    for m in &record.messages {
        let at = when(m.at).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
        let at = u64::try_from(at).unwrap_or(u64::MAX);
        // Without 4-octet AS numbers MRT would need another subtype, and a neighbour of today has them.
        // A replay was handed over as many messages in one piece; MRT has one to a record.
        let mut rest = BytesMut::from(&m.bytes[..]);
        while let Ok(Some(one)) = next_message(&mut rest, true) {
            let sent = ends(m).filter(|_| m.as4).map(|ends| mrt.message(at, &ends, &one.bytes));
            left_out += u64::from(!matches!(sent, Some(Ok(()))));
        }
    }
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
    });
    let path = base.with_extension("json");
    put(&path, format!("{account:#}\n").as_bytes())?;
    Ok(path)
}

/// The sender of a message is the record's peer.
fn ends(m: &Recorded) -> Option<Ends> {
    let ours = m.local?.ip();
    Some(match m.way {
        Way::To(_) => Ends { peer: m.peer.ip(), peer_as: m.peer_as, local: ours, local_as: m.local_as },
        Way::From(_) => Ends { peer: ours, peer_as: m.local_as, local: m.peer.ip(), local_as: m.peer_as },
    })
}

fn reproducer(account: &Value) -> Option<String> {
    let culprits = account.get("culprits")?.as_array()?;
    Some(culprits.iter().filter_map(Value::as_str).map(|line| format!("{line}\n")).collect())
}

fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let done = fs::write(&new, bytes).and_then(|()| fs::rename(&new, path));
    if done.is_err() {
        let _ = fs::remove_file(&new);
    }
    done.with_context(|| format!("writing {}", path.display()))
}

/// The record that a file belongs to, `20261121T091500000Z-poison-frr` for `20261121T091500000Z-poison-frr.json`; `None` where it is not
/// one of ours.
fn record_of(name: &str) -> Option<&str> {
    // What an end of virtd cut short stays under its temporary name.
    let (record, suffix) = name.strip_suffix(".new").unwrap_or(name).rsplit_once('.')?;
    let (stamp, _) = record.split_once('-')?;
    let dated = stamp.len() == 19 && stamp.ends_with('Z') && stamp.starts_with(|c: char| c.is_ascii_digit());
    (dated && SUFFIXES.contains(&suffix)).then_some(record)
}

/// Removes the oldest records, each with all its files, until the rest fits. The newest and `latest` stay, however large.
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
