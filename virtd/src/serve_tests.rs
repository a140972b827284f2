use super::*;
use broker::event::Severity;
use mio::{Events, Poll, Token, Waker};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use virtd_api::{EventLog, Status};
use virtd_config::Instance;
use virtd_master::link::{Link, Received};
use virtd_master::message::{Begin, Died, ToMaster, ToWorker, Told};
use virtd_master::twin::Twins;

/// A loop without sockets that answers every request with its number and says what it sees of
/// `stop`.
struct Stub {
    poll: Poll,
    waker: Arc<Waker>,
    events: Sender<Event>,
}

impl Stub {
    fn new(events: Sender<Event>) -> Result<Stub> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), Token(0))?);
        Ok(Stub { poll, waker, events })
    }
}

impl EventLoop for Stub {
    fn waker(&self) -> Arc<Waker> {
        self.waker.clone()
    }

    fn run(&mut self, control: &Receiver<ControlRequest>, stop: &AtomicBool) -> Result<()> {
        let mut events = Events::with_capacity(8);
        let mut answered = 0;
        self.events.try_send(Event::new(0, "loop-up", Severity::Info, "the loop runs"))?;
        while !stop.load(Ordering::Acquire) {
            self.poll.poll(&mut events, Some(Duration::from_secs(30)))?;
            for request in control.try_iter() {
                answered += 1;
                let _ = request
                    .reply
                    .try_send(Ok(Answer::Status(Box::new(Status { votes: answered, ..Status::default() }))));
            }
        }
        self.events.try_send(Event::new(1, "loop-down", Severity::Info, "the loop has ended"))?;
        Ok(())
    }
}

fn ask(path: &Path, request: &str) -> String {
    ask_on(UnixStream::connect(path).unwrap(), request)
}

fn ask_on(mut stream: UnixStream, request: &str) -> String {
    writeln!(stream, "{request}").unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

/// The whole life: up, asked, told of an instance, stopped, all gone and everything on file.
#[test]
fn from_start_to_stop() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        control_socket: dir.path().join("control"),
        shim_socket: dir.path().join("hv"),
        event_log: Some(dir.path().join("events")),
        instances: vec![Instance { name: "frr".into(), ..Instance::default() }],
        ..Config::default()
    };
    let (master, link) = Link::pair().unwrap();
    let link = Arc::new(Link::over(link));
    let died = Died { pid: 7, how: "was ended by SIGSEGV".into(), ran_ms: 1, deaths: 1, faults: 1, by_fault: true };
    let beginning = Beginning {
        twins: Arc::new(Twins::new(link.clone())),
        link,
        begin: Begin { died: Some(died), restarts: 1, ..Begin::default() },
        config: config.clone(),
    };
    let server = std::thread::spawn(move || serve(beginning, |_, lines| Stub::new(lines.events)));
    assert!(matches!(master.receive(), Received::Message(ToMaster::Ready, None)));
    let told = Told::new("instance-started", Severity::Info, "frr was started".into());
    master.send(&ToWorker::Event(told), None).unwrap();
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < Duration::from_secs(20) && !server.is_finished(), "virtd did not come up");
        let events = ask(&config.control_socket, "{\"command\":\"events\"}");
        if ["worker-died", "loop-up", "instance-started"].iter().all(|kind| events.contains(kind)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    for n in [1, 2] {
        let status: Status = serde_json::from_str(&ask(&config.control_socket, "{\"command\":\"status\"}")).unwrap();
        // The core's answer, and how the file of events fares.
        let log = EventLog { file: config.event_log.clone().unwrap(), failing: None, lost: 0 };
        assert_eq!((status.votes, status.event_log), (n, Some(log)));
        assert_eq!(status.worker.map(|worker| worker.restarts), Some(1));
    }

    let told = Told::new("instance-stopped", Severity::Info, "frr has ended".into());
    master.send(&ToWorker::Event(told), None).unwrap();
    master.send(&ToWorker::Stop, None).unwrap();
    server.join().unwrap().unwrap();
    assert!(!config.control_socket.exists(), "the control socket outlived virtd");
    let file = std::fs::read_to_string(config.event_log.unwrap()).unwrap();
    let kinds: Vec<String> = file
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["kind"].as_str().unwrap().to_owned())
        .collect();
    let place = |kind: &str| kinds.iter().position(|k| k == kind).unwrap_or_else(|| panic!("no {kind} in {kinds:?}"));
    assert!(place("instance-stopped") < place("loop-down"), "the loop must hear the instances' last words: {kinds:?}");
    assert!(!kinds.iter().any(|kind| kind == "master-gone"), "{kinds:?}");
}

#[test]
fn obstacles_are_named_all_at_once() {
    let config = Config {
        control_group: Some("no-such-group".into()),
        instances: vec![Instance { name: "x".into(), command: vec!["/nonexistent/x".into()], ..Instance::default() }],
        ..Config::default()
    };
    let error = check(&config, Some(Path::new("/nonexistent.so"))).unwrap_err().to_string();
    assert!(error.contains("no group \"no-such-group\"") && error.contains("tried /nonexistent.so"), "{error}");
    let error = check(&config, Some(Path::new("/proc/self/exe"))).unwrap_err().to_string();
    assert!(error.contains("instance x: /nonexistent/x: No such file"), "{error}");
}
