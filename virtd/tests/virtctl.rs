//! The virtctl binary against a control socket whose core is a stub.

use broker::event::{Event, Severity};
use broker::{Answer, Reply};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};
use virtd::control::{self, ControlSocket};
use virtd_api::{Done, Request};
use virtd_linux::eventlog;

/// An answer that says no more than this.
fn read<T: DeserializeOwned>(said: Value, answer: impl Fn(T) -> Answer) -> Reply {
    Ok(answer(serde_json::from_value(said).unwrap()))
}

fn virtctl(socket: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_virtctl")).arg("--socket").arg(socket).args(arguments).output().unwrap()
}

fn out(o: &Output) -> String {
    assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
    String::from_utf8(o.stdout.clone()).unwrap()
}

fn err(o: &Output) -> String {
    assert_eq!(o.status.code(), Some(1), "{}", String::from_utf8_lossy(&o.stdout));
    String::from_utf8(o.stderr.clone()).unwrap()
}

#[test]
fn every_command_prints_what_the_core_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control");
    let (events, log, _) = eventlog::start(None).unwrap();
    for i in 0..3 {
        events.send(Event::new(i, "session-up", Severity::Info, format!("session {i} is up")));
    }
    while log.last_seq() < 3 {
        log.after(log.last_seq(), std::time::Duration::from_secs(5));
    }
    let (queue, requests) = control::queue(None);
    let _guard = ControlSocket::bind(&path, 0o600, None).unwrap().serve(queue, log).unwrap();
    std::thread::spawn(move || {
        for r in requests {
            let answer = match r.request {
                Request::Status => {
                    read(json!({ "uptime_us": 1_000_000, "sessions": 2, "sessions_up": 1 }), Answer::Status)
                }
                Request::Sessions => {
                    read(json!({ "sessions": [{ "peer": "192.0.2.1", "state": "Idle" }] }), Answer::Sessions)
                }
                Request::Instances { .. } => read(json!({ "instances": [{ "name": "frr" }] }), Answer::Instances),
                Request::Routes { prefix } => read(json!({ "prefix": prefix }), Answer::Routes),
                Request::Differs { instance: Some(instance), .. } => {
                    let who = json!([{ "instance": instance, "in": ["COMMUNITIES"], "counted": true }]);
                    let row =
                        json!({ "peer": "192.0.2.2", "prefix": "10.0.0.0/8", "majority": true, "instances": who });
                    read(json!({ "differs": [row], "more": 0, "all_were_looked_at": true }), Answer::Differs)
                }
                Request::Differs { .. } => read(json!({}), Answer::Differs),
                Request::Diversity { sessions } => {
                    let pair = json!({ "instances": ["frr", "bird"], "compared": 4, "disagreed": 1, "share": 0.25 });
                    let sessions = sessions.then(|| json!([{ "peer": "192.0.2.1", "pairs": [pair] }]));
                    let all = json!({ "pairs": [pair], "reading": "all is well", "sessions": sessions });
                    read(all, Answer::Diversity)
                }
                _ => Err("what?".to_owned()),
            };
            let _ = r.reply.try_send(answer);
        }
    });
    let table: [(&[&str], &str); 14] = [
        (&["status"], "sessions       1 up of 2\n"),
        (&["sessions"], "192.0.2.1  -   Idle"),
        (&["instances"], "frr       -        -     -"),
        (&["routes", "192.0.2.77/24"], "192.0.2.77/24\n  nobody has said anything about it\n"),
        (&["routes", "192.0.2.77"], "192.0.2.77\n  nobody has said anything about it\n"),
        (&["differs"], "nobody has differed for T or longer\n"),
        (&["differs", "frr"], "192.0.2.2  10.0.0.0/8  frr       COMMUNITIES\n"),
        (&["diversity"], "frr, bird  4         1          25.0%  -         -               -      -\n\nall is well\n"),
        (&["diversity", "--sessions"], "\n192.0.2.1\nPAIR "),
        (&["diversity", "--json"], "\"sessions\":[{\"pairs\":[{\"attributes\":[],\"compared\":4,"),
        (&["events"], "session-up           session 2 is up\n"),
        (&["events", "-n", "1"], "session 2 is up\n"),
        (&["--json", "status"], "\"sessions\":2,\"sessions_up\":1,"),
        (&["events", "--kind", "leg-up"], "no such event\n"),
    ];
    for (arguments, expected) in table {
        let shown = out(&virtctl(&path, arguments));
        assert!(shown.contains(expected), "{arguments:?}: {expected:?} is not in\n{shown}");
    }
    assert_eq!(out(&virtctl(&path, &["events", "-n", "1"])).lines().count(), 1);
    let bad = virtctl(&path, &["routes", "10.0.0.0/33"]);
    assert_eq!(bad.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("the length is a number from 0 to 32"));
}

/// The core's tests say what follows from these requests.
#[test]
fn every_order_of_an_operators_reaches_the_core_as_it_was_meant() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control");
    let (_events, log, _) = eventlog::start(None).unwrap();
    let (queue, requests) = control::queue(None);
    let _guard = ControlSocket::bind(&path, 0o600, None).unwrap().serve(queue, log).unwrap();
    std::thread::spawn(move || {
        for r in requests {
            let request = serde_json::to_value(&r.request).unwrap();
            let word = |key: &str| request[key].as_str().unwrap_or("-").to_owned();
            let answer = match word("action").as_str() {
                "unpin" => Err("there is no such instance".to_owned()),
                action => {
                    let done = format!("{} {} {} {action}", word("command"), word("name"), word("peer"));
                    Ok(Answer::Done(Done { done, ..Done::default() }))
                }
            };
            let _ = r.reply.try_send(answer);
        }
    });
    for action in ["restart", "drain", "disable", "enable", "promote", "pin"] {
        assert_eq!(out(&virtctl(&path, &["instance", "frr", action])), format!("instance frr - {action}\n"));
    }
    assert!(err(&virtctl(&path, &["instance", "frr", "unpin"])).contains("there is no such instance"));
    for action in ["reset", "shutdown", "start"] {
        let peer = "2001:db8:0::1";
        assert_eq!(out(&virtctl(&path, &["session", peer, action])), format!("session - 2001:db8::1 {action}\n"));
    }
    for action in ["begin", "commit"] {
        assert_eq!(out(&virtctl(&path, &["change", action])), format!("change - - {action}\n"));
    }
    for wrong in [&["instance", "frr", "fly"][..], &["instance", "frr"], &["session", "frr", "reset"], &["change"]] {
        assert_eq!(virtctl(&path, wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn a_follower_sees_events_and_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control");
    let (events, log, thread) = eventlog::start(None).unwrap();
    let (queue, _requests) = control::queue(None);
    let _guard = ControlSocket::bind(&path, 0o600, None).unwrap().serve(queue, log).unwrap();
    let follower = std::thread::spawn({
        let path = path.clone();
        move || virtctl(&path, &["--json", "events", "-f", "-n", "1000"])
    });
    // Whenever the follower comes, it gets all three: as the past or as they happen.
    for i in 0..3 {
        events.send(Event::new(i, "session-up", Severity::Info, "text"));
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    drop(events);
    thread.join().unwrap();
    let followed = follower.join().unwrap();
    assert_eq!(followed.status.code(), Some(3), "virtd's end is no success");
    assert_eq!(String::from_utf8_lossy(&followed.stdout).lines().count(), 3);
    let said = String::from_utf8_lossy(&followed.stderr);
    assert_eq!(said, "virtctl: virtd has ended; its events are not followed any more\n");
}

#[test]
fn a_kind_of_event_that_there_is_not_is_a_mistake() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control");
    let (_events, log, _) = eventlog::start(None).unwrap();
    let (queue, _requests) = control::queue(None);
    let _guard = ControlSocket::bind(&path, 0o600, None).unwrap().serve(queue, log).unwrap();
    for more in [&[][..], &["-f"]] {
        let said = err(&virtctl(&path, &[&["events", "--kind", "sesion-up"], more].concat()));
        assert!(said.contains("there is no kind of event \"sesion-up\"; near it are session-up, "), "{said}");
    }
    let said = err(&virtctl(&path, &["events", "--kind", "12345"]));
    assert!(said.contains("docs/EVENTS.md") && !said.contains("near it"), "{said}");
    assert_eq!(out(&virtctl(&path, &["events", "--kind", "session-up"])), "no such event\n");
}

#[test]
fn what_is_in_the_way_is_named_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control");
    let missing = err(&virtctl(&path, &["status"]));
    assert!(missing.contains("does not exist: is virtd running? (its control_socket may be elsewhere"), "{missing}");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let stale = err(&virtctl(&path, &["status"]));
    assert!(stale.contains("nobody listens on "), "{stale}");
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "").unwrap();
    let file = err(&virtctl(&path, &["status"]));
    assert!(file.ends_with("is not a socket\n"), "{file}");
}

/// Root passes every permission check, so virtctl runs as nobody, from a copy that nobody may
/// execute.
#[test]
fn permission_denied_names_the_group() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    if !untested::needs_root(nix::unistd::geteuid().is_root()) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let path = dir.path().join("control");
    let copy = dir.path().join("virtctl");
    std::fs::copy(env!("CARGO_BIN_EXE_virtctl"), &copy).unwrap();
    let (_events, log, _) = eventlog::start(None).unwrap();
    let (queue, _requests) = control::queue(None);
    let _guard = ControlSocket::bind(&path, 0o660, Some("adm")).unwrap().serve(queue, log).unwrap();
    let o = Command::new(&copy).arg("--socket").arg(&path).arg("status").uid(65534).gid(65534).output().unwrap();
    let denied = err(&o);
    assert!(denied.contains("is for user root and group adm (mode 0660); join that group, or use sudo"), "{denied}");
}

/// What a shell is offered; `words` end with the one that is being typed.
fn offered(shell: &str, words: &[&str]) -> Vec<String> {
    let o = Command::new(env!("CARGO_BIN_EXE_virtctl"))
        .env("VIRTCTL_COMPLETE", shell)
        .env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string())
        .env("_CLAP_IFS", "\n")
        .arg("--")
        .args(words)
        .output()
        .unwrap();
    out(&o).lines().map(str::to_owned).collect()
}

/// A control socket whose core knows two peers and two instances.
fn two_of_each(dir: &Path) -> (String, control::ControlGuard) {
    let path = dir.join("control");
    let (_events, log, _) = eventlog::start(None).unwrap();
    let (queue, requests) = control::queue(None);
    let guard = ControlSocket::bind(&path, 0o600, None).unwrap().serve(queue, log).unwrap();
    std::thread::spawn(move || {
        for r in requests {
            let answer = match r.request {
                Request::Sessions => {
                    let peers = json!([{ "peer": "192.0.2.1", "asn": 64501 }, { "peer": "fe80::2%eth1" }]);
                    read(json!({ "sessions": peers }), Answer::Sessions)
                }
                Request::Instances { .. } => {
                    read(json!({ "instances": [{ "name": "frr" }, { "name": "bird" }] }), Answer::Instances)
                }
                _ => Err("what?".to_owned()),
            };
            let _ = r.reply.try_send(answer);
        }
    });
    (path.display().to_string(), guard)
}

#[test]
fn a_shell_is_offered_words_peers_and_instances() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _guard) = two_of_each(dir.path());
    let socket = ["virtctl", "--socket", &path];
    let with = |words: &[&'static str]| offered("bash", &[&socket[..], words].concat());
    assert_eq!(with(&["session", ""])[..2], ["192.0.2.1", "fe80::2%eth1"].map(String::from));
    assert_eq!(with(&["session", "192"]), ["192.0.2.1"]);
    assert_eq!(with(&["instance", "b"]), ["bird"]);
    assert_eq!(with(&["exec", ""])[..2], ["frr", "bird"].map(String::from), "{:?}", with(&["exec", ""]));
    assert_eq!(with(&["instance", "frr", "re"]), ["restart"]);
    assert_eq!(with(&["rou"]), ["routes"]);
    // Nobody answers: no peers, and no noise.
    assert!(!offered("bash", &["virtctl", "-s", "/nowhere", "session", ""]).contains(&"192.0.2.1".to_owned()));
}

/// The scripts are read by the shells themselves, and bash is asked what it would offer.
#[test]
fn the_shells_take_their_scripts() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _guard) = two_of_each(dir.path());
    let folder = Path::new(env!("CARGO_BIN_EXE_virtctl")).parent().unwrap();
    let search = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    for shell in ["bash", "zsh", "fish"] {
        let script = dir.path().join(shell);
        std::fs::write(&script, out(&virtctl(Path::new(&path), &["completion", shell]))).unwrap();
        let Ok(o) = Command::new(shell).arg("-n").arg(&script).output() else {
            untested::not_tested(&format!("completion in {shell}"), &format!("there is no {shell}"));
            continue;
        };
        assert_eq!(
            (out(&o), String::from_utf8_lossy(&o.stderr).into_owned()),
            (String::new(), String::new()),
            "{shell}"
        );
        let ask = match shell {
            "bash" => format!(
                "source {}; COMP_WORDS=(virtctl -s {path} session ''); COMP_CWORD=4; _clap_complete_virtctl virtctl '' session; \
                 printf '%s\\n' \"${{COMPREPLY[@]}}\"",
                script.display()
            ),
            "fish" => format!("source {}; complete -C 'virtctl -s {path} session '", script.display()),
            // Its completion needs a terminal.
            _ => continue,
        };
        let o = Command::new(shell).args(["-c", &ask]).env("PATH", &search).env("HOME", dir.path()).output().unwrap();
        let offered = out(&o);
        assert!(offered.contains("192.0.2.1") && offered.contains("fe80::2%eth1"), "{shell}: {offered}");
    }
}

/// A check that is called wrongly is no alarm, and one that finds nobody is one.
#[test]
fn health_ends_with_a_plugins_status() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _guard) = two_of_each(dir.path());
    let status = |arguments: &[&str]| {
        let o = Command::new(env!("CARGO_BIN_EXE_virtctl")).args(arguments).output().unwrap();
        (o.status.code(), String::from_utf8_lossy(&o.stdout).into_owned())
    };
    let (code, line) = status(&["health", "--socket", "/nowhere/x"]);
    assert_eq!(code, Some(2));
    assert!(
        line.starts_with("CRITICAL - /nowhere/x does not exist: is virtd running?") && line.lines().count() == 1,
        "{line}"
    );
    let (code, line) = status(&["--socket", &path, "health"]);
    assert_eq!((code, line.as_str()), (Some(3), "UNKNOWN - what?\n"));
    assert_eq!(status(&["health", "--bogus"]).0, Some(3));
    assert_eq!(status(&["health", "--help"]).0, Some(0));
    let (code, line) = status(&["--json", "--socket", &path, "health", "-t", "2"]);
    assert!(code == Some(3) && line.contains("\"condition\":\"cannot-ask\""), "{line}");
}
