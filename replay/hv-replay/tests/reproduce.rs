//! `--reproduce` against neighbours that end a session in every way; tests/tests/poison.rs has the
//! daemons and the bugs.

mod common;

use common::HvReplay;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use wire::bgp::Family;
use wire::bgp::message::{Capability, Open};

/// UPDATE: 198.51.100.0/24 by way of AS 64501, next hop 192.0.2.7.
const UPDATE: &str = "ffffffffffffffffffffffffffffffff002f02000000144001010040020602010000fbf5400304c000020718c63364";

/// A record whose instance was given one UPDATE, after an OPEN with this hold time.
fn record(folder: &Path, hold_time_s: u16) -> PathBuf {
    let capabilities = vec![
        Capability::Multiprotocol(Family::IPV4_UNICAST),
        Capability::FourOctetAs(64501),
        Capability::GracefulRestart { flags: 0, restart_time_s: 0, families: Vec::new() },
    ];
    let open = Open { asn: 64501, hold_time_s, router_id: [192, 0, 2, 1].into(), capabilities };
    let open: String = open.encode().iter().map(|b| format!("{b:02x}")).collect();
    let session = json!({"peer": "192.0.2.1", "peer_as": 64501, "local": "192.0.2.9", "local_as": 64500, "as4": true,
                         "open": open, "messages_given": 1, "given": [UPDATE]});
    let path = folder.join("record.json");
    let all = json!({"kind": "poison", "instance": "frr", "sessions": [session], "reproduce": {"peer": "192.0.2.1"}});
    std::fs::write(&path, all.to_string()).expect("written");
    path
}

/// Plays a record to a neighbour that does what this script says; `on_update` is called when it has
/// the UPDATE. Exit status and outcome.
fn play(hold_time_s: u16, more: &[&str], script: &str, asn: &str, on_update: impl FnOnce(&HvReplay)) -> (i32, Value) {
    let folder = tempfile::tempdir().expect("a directory");
    let (path, commands) = (record(folder.path(), hold_time_s), folder.path().join("script"));
    std::fs::write(&commands, script).expect("written");
    let commands = commands.display().to_string();
    let arguments = ["--listen", "127.0.0.1:0", "--asn", "64500", "--peer-asn", asn, "--script", &commands];
    let mut daemon = HvReplay::start(None, &[&arguments[..], &["--events-updates"]].concat());
    let address = daemon.listening();
    let mut command = Command::new(env!("CARGO_BIN_EXE_hv-replay"));
    command.args(["--connect", &address, "--reproduce"]).arg(path).args(more).stdout(Stdio::piped());
    let program = command.spawn().expect("hv-replay starts");
    if asn == "64501" {
        let up = daemon.event("session-up", |_| true);
        assert_eq!((&up["open"]["asn"], &up["open"]["hold_time_s"]), (&json!(64501), &json!(hold_time_s)));
        let graceful = |c: &Value| c.get("graceful-restart").is_some();
        assert!(up["open"]["capabilities"].as_array().expect("a list").iter().any(graceful), "{up}");
        let update = daemon.event("update", |_| true);
        assert_eq!(update["announced"][0]["prefixes"], json!(["198.51.100.0/24"]));
    }
    on_update(&daemon);
    let output = program.wait_with_output().expect("a child");
    let line = String::from_utf8(output.stdout).expect("text");
    (output.status.code().expect("an end of its own"), serde_json::from_str(&line).expect("one line of JSON"))
}

#[test]
fn one_that_closes_after_the_message_has_failed_again() {
    let (status, said) = play(90, &[], "wait-routes 1\ndrop", "64501", |_| {});
    assert_eq!((status, &said["outcome"], &said["reproduced"]), (0, &json!("closed"), &json!(true)), "{said}");
    assert_eq!((&said["messages"], &said["kind"], &said["peer"]), (&json!(1), &json!("poison"), &json!("192.0.2.1")));
}

#[test]
fn a_notification_is_told_by_its_numbers() {
    let (status, said) = play(90, &[], "wait-routes 1\nnotification 3 11", "64501", |_| {});
    assert_eq!((status, &said["outcome"]), (0, &json!("notification")), "{said}");
    assert_eq!((&said["code"], &said["subcode"]), (&json!(3), &json!(11)));
}

#[test]
fn an_operators_cease_proves_nothing() {
    let (status, said) = play(90, &[], "wait-routes 1\nnotification 6 2", "64501", |_| {});
    assert_eq!((status, &said["outcome"], &said["reproduced"]), (2, &json!("ceased"), &json!(false)), "{said}");
}

#[test]
fn one_that_hangs_is_silent_when_the_hold_time_is_over() {
    let (status, said) = play(3, &["--wait", "120"], "", "64501", |daemon| daemon.signal("STOP"));
    assert_eq!((status, &said["outcome"]), (0, &json!("silent")), "{said}");
}

#[test]
fn one_that_lives_is_kept_alive_past_the_hold_time_and_no_failure() {
    let (status, said) = play(3, &[], "", "64501", |_| {});
    assert_eq!((status, &said["outcome"], &said["reproduced"]), (1, &json!("lives"), &json!(false)), "{said}");
    assert!(said["seconds_after_last"].as_f64().is_some_and(|s| s >= 10.0), "{said}");
}

#[test]
fn one_that_knows_another_as_is_a_mistake_of_the_set_up() {
    let (status, said) = play(90, &[], "", "64999", |_| {});
    assert_eq!((status, &said["outcome"], &said["code"]), (2, &json!("refused"), &json!(2)), "{said}");
}

#[test]
fn a_file_that_is_no_record_and_an_option_that_contradicts_it_are_refused() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = record(folder.path(), 90).display().to_string();
    let other = folder.path().join("other.json");
    std::fs::write(&other, "{}").expect("written");
    let other = other.display().to_string();
    for (arguments, word) in [
        (&["--reproduce", &other][..], "no record"),
        (&["--reproduce", "/nonexistent.json"], "cannot read"),
        (&["--reproduce", &path, "--of-peer", "192.0.2.77"], "no session with 192.0.2.77"),
        (&["--reproduce", &path, "--graceful-restart"], "cannot be used with"),
        (&["--reproduce", &path, "--asn", "1"], "cannot be used with"),
        (&["--reproduce", &path, "--generate", "1"], "cannot be used with"),
        (&["--wait", "1", "--asn", "1"], "--reproduce"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_hv-replay"))
            .args(["--connect", "127.0.0.1:1"])
            .args(arguments)
            .output()
            .expect("hv-replay runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(word), "{arguments:?}: {said}");
    }
}
