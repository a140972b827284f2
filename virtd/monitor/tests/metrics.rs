//! `/metrics` as others read it: by the reference parser of OpenMetrics, by Prometheus's own, and
//! by a person who looks a name up in docs/MONITORING.md.

mod sample;

use sample::{known, many, snapshot};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use untested::not_tested;
use virtd::ctl::ask::Unanswered;
use virtd_monitor::metrics::{all, text};
use virtd_monitor::watch::Snapshot;

/// Debian's own, which has its packages.
const PYTHON: &str = "/usr/bin/python3";

/// Reads OpenMetrics from stdin, strictly; writes all samples.
const PARSE: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
out = [[s.name, s.labels, s.value] for f in parse(sys.stdin.read()) for s in f.samples]
print(json.dumps(out))
";

/// What a program says to `input`; `None` where it is not installed.
fn through(program: &str, arguments: &[&str], input: &str) -> Option<(bool, String)> {
    let mut command = Command::new(program);
    let command = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().ok()?;
    child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("read");
    let out = child.wait_with_output().expect("its output");
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    Some((out.status.success(), said + &String::from_utf8_lossy(&out.stderr)))
}

/// All samples by name, as the reference parser has them; `None` where it is not installed.
fn parsed(text: &str) -> Option<BTreeMap<String, Vec<(Value, f64)>>> {
    let there = through(PYTHON, &["-c", "import prometheus_client.openmetrics.parser"], "");
    if !there.is_some_and(|(there, _)| there) {
        not_tested("OpenMetrics by its reference parser", "python3-prometheus-client is not installed");
        return None;
    }
    let (good, said) = through(PYTHON, &["-c", PARSE], text).expect("python3");
    assert!(good, "{said}\n{text}");
    let samples: Vec<(String, Value, f64)> = serde_json::from_str(&said).expect("what the parser has found");
    let mut found: BTreeMap<String, Vec<(Value, f64)>> = BTreeMap::new();
    for (name, labels, value) in samples {
        found.entry(name).or_default().push((labels, value));
    }
    Some(found)
}

fn value(found: &BTreeMap<String, Vec<(Value, f64)>>, name: &str, labels: Value) -> f64 {
    let samples = found.get(name).unwrap_or_else(|| panic!("there is no {name}"));
    let of = samples.iter().find(|(l, _)| *l == labels);
    of.unwrap_or_else(|| panic!("{name} of {labels} is not in {samples:?}")).1
}

#[test]
fn the_reference_parser_reads_what_virtd_has_said() {
    let known = known();
    let Some(found) = parsed(&text(Arc::new(snapshot(known))).expect("text")) else { return };
    let none = || serde_json::json!({});
    assert_eq!(value(&found, "virtd_up", none()), 1.0);
    assert_eq!(value(&found, "virtd_uptime_seconds", none()), 22.0);
    assert_eq!(value(&found, "virtd_votes_total", none()), 224.0);
    let peer = |address: &str| serde_json::json!({ "peer": address });
    assert_eq!(value(&found, "virtd_peer_prefixes_received", peer("192.0.2.1")), 20.0);
    assert_eq!(value(&found, "virtd_peer_up_seconds", peer("192.0.2.1")), 22.0);
    let leg = serde_json::json!({ "peer": "192.0.2.1", "daemon": "i2" });
    assert_eq!(value(&found, "virtd_leg_established", leg), 0.0);
    let instance = |name: &str| serde_json::json!({ "daemon": name });
    assert_eq!(value(&found, "virtd_instance_cpu_ratio", instance("i0")), 0.125);
    assert_eq!(value(&found, "virtd_instance_memory_bytes", instance("i0")), 20_000.0 * 1024.0);
    assert_eq!(found["virtd_problems"].len(), 57);
    let apart = serde_json::json!({ "condition": "disagreements", "level": "warning" });
    assert_eq!(value(&found, "virtd_problems", apart), 1.0);
    let below = |le: &str| value(&found, "virtd_turn_duration_seconds_bucket", serde_json::json!({ "le": le }));
    assert_eq!((below("0.000001"), below("0.000002"), below("0.000004"), below("+Inf")), (0.0, 3.0, 8.0, 9.0));
    assert_eq!(value(&found, "virtd_turn_duration_seconds_count", none()), 9.0);
    let of_peers = serde_json::json!({ "table": "peers" });
    assert_eq!(value(&found, "virtd_vote_wait_seconds_count", of_peers), 60.0);
    // Every metric of the table has a sample here.
    let is_there = |name: &String| found.contains_key(name) || found.contains_key(&format!("{name}_bucket"));
    let missing: Vec<String> = all().map(|m| m.name()).filter(|name| !is_there(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn names_that_are_none_of_ours_are_escaped() {
    let mut known = known();
    let name = "a\"b\\c\nd\u{e9}{}=,";
    name.clone_into(&mut known.facts.sessions[0].peer);
    name.clone_into(&mut known.facts.instances[0].name);
    let text = text(Arc::new(snapshot(known))).expect("text");
    assert!(text.contains("peer=\"a\\\"b\\\\c\\nd\u{e9}{}=,\""), "{text}");
    let Some(found) = parsed(&text) else { return };
    assert_eq!(value(&found, "virtd_peer_established", serde_json::json!({ "peer": name })), 1.0);
    assert_eq!(value(&found, "virtd_instance_attached", serde_json::json!({ "daemon": name })), 1.0);
}

#[test]
fn without_virtd_that_is_what_is_told() {
    let down = Snapshot { known: Err(Unanswered::Down("it is gone".to_owned())), ..snapshot(known()) };
    let Some(found) = parsed(&text(Arc::new(down)).expect("text")) else { return };
    assert_eq!(value(&found, "virtd_up", serde_json::json!({})), 0.0);
    let gone = serde_json::json!({ "condition": "no-answer", "level": "critical" });
    assert_eq!(value(&found, "virtd_problems", gone), 1.0);
    assert!(!found.contains_key("virtd_votes_total") && !found.contains_key("virtd_peer_established"));
}

/// promtool has no command for OpenMetrics but the one that makes blocks of a database of it, and
/// that wants times.
#[test]
fn prometheus_reads_it() {
    let text = text(Arc::new(snapshot(known()))).expect("text");
    let with_times: String =
        text.lines().flat_map(|line| [line, if line.starts_with('#') { "\n" } else { " 1700000000\n" }]).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let (file, blocks) = (folder.path().join("metrics"), folder.path().join("blocks"));
    std::fs::write(&file, with_times).expect("written");
    let (file, blocks) = (file.display().to_string(), blocks.display().to_string());
    let arguments = ["tsdb", "create-blocks-from", "openmetrics", &file, &blocks];
    let Some((good, said)) = through("promtool", &arguments, "") else {
        return not_tested("OpenMetrics by Prometheus's parser", "promtool is not installed");
    };
    assert!(good && std::fs::read_dir(&blocks).expect("blocks").next().is_some(), "{said}");
}

#[test]
fn names_and_units_keep_the_rules() {
    let mut stems = BTreeSet::new();
    for metric in all() {
        let name = metric.name();
        let word = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        assert!(word && name.starts_with("virtd_"), "{name}");
        let stem = name.strip_suffix("_total").or_else(|| name.strip_suffix("_info")).unwrap_or(&name).to_owned();
        assert!(stems.insert(stem), "two families are called {name}");
        assert!(
            !metric.help.ends_with('.') && !metric.help.contains(['\n', '\\', '"', '|']),
            "{name}: {}",
            metric.help
        );
    }
}

/// With VIRTD_BLESS=1 in the environment the rows are printed.
#[test]
fn the_documentation_has_every_metric_and_no_other() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/MONITORING.md");
    let docs = std::fs::read_to_string(path).expect("the documentation");
    let told: Vec<&str> = docs.lines().filter(|line| line.starts_with("| `virtd_")).collect();
    let labels = |labels: &[&str]| labels.iter().map(|l| format!(" `{l}`")).collect::<Vec<_>>().join(",");
    let rows: Vec<String> =
        all().map(|m| format!("| `{}` | {} |{} | {} |", m.name(), m.words(), labels(m.labels), m.help)).collect();
    if std::env::var_os("VIRTD_BLESS").is_some() {
        rows.iter().for_each(|row| println!("{row}"));
        return;
    }
    let missing: Vec<_> = rows.iter().filter(|row| !told.contains(&row.as_str())).collect();
    let unknown: Vec<_> = told.iter().filter(|row| !rows.iter().any(|known| known == *row)).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "missing: {missing:#?}\nunknown: {unknown:#?}");
}

/// The figure is printed, and nothing fails on a machine that is slow.
#[test]
fn how_long_a_thousand_sessions_take() {
    let snapshot = Arc::new(snapshot(many(1_000)));
    let mut times: Vec<Duration> = Vec::new();
    let mut octets = 0;
    for _ in 0..5 {
        let begun = Instant::now();
        octets = text(snapshot.clone()).expect("text").len();
        times.push(begun.elapsed());
    }
    times.sort();
    println!("1,000 sessions with 3 legs each: {octets} octets in {:?} (median of 5)", times[2]);
    assert!(octets > 1_000_000);
}
