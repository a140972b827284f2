use super::*;
use broker::event::{Event, Severity};
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::time::Instant;
use virtd_linux::eventlog::{self, EventSender};

/// A control socket with a driver that answers `status` and forgets everything else.
struct Fixture {
    queue: ControlQueue,
    dir: tempfile::TempDir,
    events: EventSender,
    guard: ControlGuard,
}

impl Fixture {
    fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let (events, log, _) = eventlog::start(None).unwrap();
        let (queue, requests) = queue(None);
        let socket = ControlSocket::bind(&dir.path().join("c"), 0o640, None).unwrap();
        let guard = socket.serve(queue.clone(), log).unwrap();
        std::thread::spawn(move || {
            for r in requests {
                if r.request == Request::Status {
                    let _ = r.reply.send(done("up"));
                }
            }
        });
        Fixture { queue, dir, events, guard }
    }

    /// With a driver that answers so.
    fn with(answer: impl Fn(&ControlRequest) -> Reply + Send + 'static) -> Fixture {
        Fixture::with_state(None, answer)
    }

    fn with_state(state: Option<PathBuf>, answer: impl Fn(&ControlRequest) -> Reply + Send + 'static) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let (events, log, _) = eventlog::start(None).unwrap();
        let (mut queue, requests) = queue(None);
        if let Some(path) = state {
            queue = queue.with_state(path);
        }
        let guard = ControlSocket::bind(&dir.path().join("c"), 0o640, None).unwrap().serve(queue.clone(), log).unwrap();
        std::thread::spawn(move || requests.into_iter().for_each(|r| _ = r.reply.send(answer(&r))));
        Fixture { queue, dir, events, guard }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("c")
    }

    fn connect(&self) -> BufReader<UnixStream> {
        BufReader::new(UnixStream::connect(self.path()).unwrap())
    }

    fn ask(&self, request: &str) -> Value {
        let mut c = self.connect();
        c.get_mut().write_all(request.as_bytes()).unwrap();
        line(&mut c)
    }

    fn event(&self, at_us: u64, kind: &'static str) {
        self.events.send(Event::new(at_us, kind, Severity::Info, "text"));
    }
}

fn done(text: &str) -> Reply {
    Ok(Answer::Done(Done { done: text.to_owned(), ..Done::default() }))
}

fn error(text: &str) -> Value {
    json!({ "error": text })
}

fn line(c: &mut BufReader<UnixStream>) -> Value {
    let mut line = String::new();
    c.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
}

/// Waits for something that must come about.
fn until(mut what: impl FnMut() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < Duration::from_secs(20), "it did not come about");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn requests_are_answered_in_order_on_one_connection() {
    let f = Fixture::new();
    let mut c = f.connect();
    c.get_mut().write_all(b"{\"command\":\"status\"}\n{bad\n{\"command\":\"status\"}\n").unwrap();
    assert_eq!(line(&mut c), json!({ "done": "up" }));
    assert!(line(&mut c)["error"].as_str().unwrap().starts_with("not a JSON request"));
    assert_eq!(line(&mut c), json!({ "done": "up" }));
    // A reply that never comes because the driver dropped the request is an answer too.
    assert_eq!(f.ask("{\"command\":\"sessions\"}\n"), error("virtd is shutting down"));
}

#[test]
fn what_is_no_request_is_refused_before_anybody_is_asked() {
    let f = Fixture::with(|r| done(&format!("{:?}", r.request)));
    let refused = |line: &str| f.ask(&format!("{line}\n"))["error"].as_str().map(str::to_owned);
    assert_eq!(refused("{}").as_deref(), Some("the request has no \"command\""));
    assert!(refused("{\"command\":\"fly\"}").unwrap().starts_with("unknown command \"fly\": expected one of status, "));
    assert!(refused("{\"command\":\"reload\",\"dry_run\":\"no\"}").unwrap().contains("expected a boolean"));
    // Null is nothing, and so is what nobody knows.
    let line = "{\"command\":\"fib\",\"prefix\":null,\"diff\":null,\"protocol\":null,\"colour\":\"red\"}\n";
    let asked = format!("{:?}", Request::Fib { prefix: None, diff: false, flush: false, protocol: None });
    assert_eq!(f.ask(line), json!({ "done": asked }));
    for command in COMMANDS {
        let answer = f.ask(&format!("{{\"command\":\"{command}\"}}\n"));
        let text = answer["error"].as_str().unwrap_or_default();
        let nobody =
            ["there is no file to read again", "there is nobody to try a program", "virtd has no tables to read"];
        assert!(text.is_empty() || nobody.contains(&text), "{command}: {answer}");
    }
}

#[test]
fn a_request_too_long_ends_the_connection() {
    let f = Fixture::new();
    let mut c = f.connect();
    c.get_mut().write_all(&vec![b'x'; MAX_REQUEST]).unwrap();
    assert_eq!(line(&mut c), error("a request has at most 4096 octets"));
    let mut rest = String::new();
    assert_eq!(c.read_line(&mut rest).unwrap_or(0), 0);
}

#[test]
fn events_are_answered_without_the_core() {
    let f = Fixture::new();
    for i in 0..30 {
        f.event(i, if i % 3 == 0 { "third" } else { "other" });
    }
    until(|| f.ask("{\"command\":\"events\",\"n\":99}\n")["events"].as_array().unwrap().len() == 30);
    assert_eq!(f.ask("{\"command\":\"events\"}\n")["events"].as_array().unwrap().len(), 20);
    let third = f.ask("{\"command\":\"events\",\"n\":2,\"kind\":\"third\"}\n");
    assert_eq!((third["events"][0]["at_us"].as_u64(), third["events"][1]["at_us"].as_u64()), (Some(24), Some(27)));
}

#[test]
fn a_follower_gets_the_past_and_then_each_new_event_once() {
    let f = Fixture::new();
    for i in 0..5 {
        f.event(i, "x");
    }
    until(|| f.ask("{\"command\":\"events\"}\n")["events"].as_array().unwrap().len() == 5);
    let mut c = f.connect();
    c.get_mut().write_all(b"{\"command\":\"events\",\"follow\":true,\"n\":2}\n").unwrap();
    assert_eq!(line(&mut c)["at_us"], 3);
    assert_eq!(line(&mut c)["at_us"], 4);
    for i in 5..50 {
        f.event(i, "x");
        assert_eq!(line(&mut c)["at_us"], i);
    }
}

#[test]
fn followers_are_bounded_and_seats_come_back() {
    let f = Fixture::new();
    f.event(1, "x");
    until(|| f.ask("{\"command\":\"events\"}\n")["events"].as_array().unwrap().len() == 1);
    let follow = || {
        let mut c = f.connect();
        c.get_mut().write_all(b"{\"command\":\"events\",\"follow\":true,\"n\":1}\n").unwrap();
        c
    };
    let mut followers: Vec<_> = (0..MAX_FOLLOWERS).map(|_| follow()).collect();
    followers.iter_mut().for_each(|c| assert_eq!(line(c)["kind"], "x"));
    assert_eq!(line(&mut follow()), error("24 clients follow the events or read the tables already"));
    assert_eq!(f.ask("{\"command\":\"status\"}\n"), json!({ "done": "up" }), "there is room to ask");
    followers.pop();
    // The follower that left is noticed within one check.
    until(|| line(&mut follow())["kind"] == "x");
}

#[test]
fn who_does_not_finish_his_request_gives_way_and_is_closed() {
    let f = Fixture::new();
    let half = || {
        let mut c = f.connect();
        c.get_mut().write_all(b"{\"command\":").unwrap();
        c
    };
    let mut first = half();
    let mut others: Vec<_> = (0..2 * MAX_CLIENTS).map(|_| half()).collect();
    // Nobody has waited for any of them.
    for _ in 0..3 {
        assert_eq!(f.ask("{\"command\":\"status\"}\n"), json!({ "done": "up" }));
    }
    let mut rest = String::new();
    assert_eq!(first.read_line(&mut rest).unwrap_or(0), 0, "the oldest gave way");
    // And those that have not had to are closed before they are idle.
    let last = others.last_mut().unwrap();
    assert_eq!(last.read_line(&mut rest).unwrap_or(0), 0);
}

#[test]
fn each_request_says_who_asks_and_nobody_is_believed() {
    let f = Fixture::with(|r| done(&format!("{:?}", r.by)));
    let me = nix::unistd::Uid::current().as_raw();
    let answer = f.ask("{\"command\":\"change\",\"action\":\"begin\",\"by\":{\"uid\":4711,\"user\":\"x\"}}\n");
    let said = answer["done"].as_str().unwrap();
    assert!(said.contains(&format!("uid: Some({me})")) && !said.contains("\"x\""), "{said}");
}

#[test]
fn a_socket_for_asking_changes_nothing() {
    let f = Fixture::with(|r| done(serde_json::to_value(&r.request).unwrap()["command"].as_str().unwrap()));
    let path = f.dir.path().join("ro");
    let (_, log, _) = eventlog::start(None).unwrap();
    let socket = ControlSocket::bind(&path, 0o644, None).unwrap().read_only();
    let _guard = socket.serve(f.queue.clone(), log).unwrap();
    let ask = |request: Value| {
        let mut c = BufReader::new(UnixStream::connect(&path).unwrap());
        c.get_mut().write_all(format!("{request}\n").as_bytes()).unwrap();
        line(&mut c)
    };
    for command in ["status", "sessions", "instances", "routes", "fib", "diversity", "session"] {
        assert_eq!(ask(json!({ "command": command, "action": null, "peer": "192.0.2.1" })), json!({ "done": command }));
    }
    assert!(ask(json!({ "command": "events" }))["events"].is_array());
    let changes = [
        json!({ "command": "session", "peer": "192.0.2.1", "action": "reset" }),
        json!({ "command": "instance", "name": "a", "action": "drain" }),
        json!({ "command": "change", "action": "begin" }),
        json!({ "command": "reload" }),
        json!({ "command": "reload", "dry_run": true }),
        json!({ "command": "upgrade" }),
        json!({ "command": "upgrade", "dry_run": true }),
        json!({ "command": "instances", "exec": { "name": "a", "words": [] } }),
    ];
    for request in changes {
        let said = ask(request.clone());
        assert!(said["error"].as_str().unwrap().contains("for asking only"), "{request}: {said}");
    }
}

#[test]
fn what_an_operator_decides_is_on_the_disk_before_it_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.json");
    let f = Fixture::with_state(Some(path.clone()), |request| {
        let mut kept = state::State::new(["192.0.2.1".to_owned()].into());
        if matches!(request.request, Request::Instance { .. }) {
            kept.disabled.insert("a".to_owned());
        }
        let done = Done { done: "it is".into(), ..Done::default() };
        Ok(Answer::Decided { done, kept: Box::new(kept) })
    });
    let shut = "{\"command\":\"session\",\"peer\":\"192.0.2.1\",\"action\":\"shutdown\"}\n";
    assert_eq!(f.ask(shut), json!({ "done": "it is" }));
    assert_eq!(state::read(&path).unwrap().shut, ["192.0.2.1".to_owned()].into());
    f.ask("{\"command\":\"instance\",\"name\":\"a\",\"action\":\"disable\"}\n");
    assert_eq!(state::read(&path).unwrap().disabled, ["a".to_owned()].into());
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let told = f.ask(shut)["done"].as_str().unwrap().to_owned();
    assert!(told.contains("cannot be written") && told.contains("restart"), "{told}");
}

#[test]
fn the_socket_has_the_permissions_asked_for() {
    let f = Fixture::new();
    assert_eq!(fs::metadata(f.path()).unwrap().permissions().mode() & 0o7777, 0o640);
    let path = f.path();
    assert!(path.exists());
    drop(f.guard);
    assert!(!path.exists());
}

#[test]
fn what_is_in_the_way_is_judged() {
    let f = Fixture::new();
    let taken = ControlSocket::bind(&f.path(), 0o600, None).unwrap_err().to_string();
    assert!(taken.starts_with("another virtd listens on "), "{taken}");

    let file = f.dir.path().join("file");
    fs::write(&file, "precious").unwrap();
    let kept = ControlSocket::bind(&file, 0o600, None).unwrap_err().to_string();
    assert!(kept.contains("is not a socket; it is left alone"), "{kept}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");

    let stale = f.dir.path().join("deep/stale");
    drop(ControlSocket::bind(&stale, 0o600, None).unwrap());
    assert!(stale.exists());
    ControlSocket::bind(&stale, 0o600, None).unwrap();

    let group = ControlSocket::bind(&f.dir.path().join("g"), 0o600, Some("no-such-group")).unwrap_err().to_string();
    assert_eq!(
        group,
        "control_group: there is no group \"no-such-group\" on this system; create it with `groupadd no-such-group`"
    );
}
