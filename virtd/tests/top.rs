//! `virtctl top` on a real terminal, which util-linux's script(1) makes: however it ends, the
//! terminal is as before.

use broker::Answer;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use virtd::control::{self, ControlGuard, ControlSocket};
use virtd_api::{Instances, Request, Sessions, Status};
use virtd_linux::eventlog;

const PATIENCE: Duration = Duration::from_secs(30);
/// Leave the alternate screen, show the cursor.
const GIVEN_BACK: [&str; 2] = ["\u{1b}[?1049l", "\u{1b}[?25h"];

/// A virtd that knows one peer.
fn serve(path: &Path, peer: &'static str) -> ControlGuard {
    let (_events, log, _) = eventlog::start(None).unwrap();
    let (queue, requests) = control::queue(None);
    let guard = ControlSocket::bind(path, 0o600, None).unwrap().serve(queue, log).unwrap();
    std::thread::spawn(move || {
        for r in requests {
            let session = virtd_api::Session {
                peer: peer.into(),
                state: "Established".into(),
                up_us: Some(1),
                ..Default::default()
            };
            let answer = match r.request {
                Request::Status => {
                    Answer::Status(Box::new(Status { sessions: 1, sessions_up: 1, ..Status::default() }))
                }
                Request::Sessions => Answer::Sessions(Sessions { sessions: vec![session] }),
                _ => Answer::Instances(Instances::default()),
            };
            let _ = r.reply.try_send(Ok(answer));
        }
    });
    guard
}

/// A terminal in which virtctl runs.
struct Terminal {
    script: Child,
    shown: Arc<Mutex<String>>,
    folder: PathBuf,
}

impl Terminal {
    /// `None` where there is no script(1).
    fn start(folder: &Path, socket: &Path, environment: &[(&str, &str)]) -> Option<Terminal> {
        let inner = "echo $$ >pid; exec \"$VIRTCTL\" --socket \"$CONTROL\" top -i 0.2";
        let line = format!("stty rows 24 cols 80; stty -a >before; sh -c '{inner}'; echo $? >status; stty -a >after");
        let mut command = Command::new("script");
        command
            .args(["-q", "-e", "-c", &line, "/dev/null"])
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        command.env("VIRTCTL", env!("CARGO_BIN_EXE_virtctl")).env("CONTROL", socket).env("TERM", "xterm");
        command.envs(environment.iter().copied());
        let Ok(mut script) = command.spawn() else {
            untested::not_tested("virtctl top on a terminal", "there is no script(1)");
            return None;
        };
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut from, to) = (script.stdout.take().unwrap(), shown.clone());
        std::thread::spawn(move || {
            let mut octets = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut octets) {
                to.lock().unwrap().push_str(&String::from_utf8_lossy(&octets[..n]));
            }
        });
        Some(Terminal { script, shown, folder: folder.to_owned() })
    }

    fn wait(&self, what: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.shown.lock().unwrap().contains(what) {
            assert!(Instant::now() < until, "{what:?} is not in\n{:?}", self.shown.lock().unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn forget(&self) {
        self.shown.lock().unwrap().clear();
    }

    fn types(&mut self, keys: &[u8]) {
        let stdin = self.script.stdin.as_mut().unwrap();
        stdin.write_all(keys).and_then(|()| stdin.flush()).unwrap();
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = std::fs::read_to_string(self.folder.join("pid")).unwrap().trim().parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
    }

    /// It ends with that status, and the terminal is as before.
    fn ends(mut self, status: &str) -> String {
        let until = Instant::now() + PATIENCE;
        while self.script.try_wait().unwrap().is_none() {
            assert!(Instant::now() < until, "it does not end: {:?}", self.shown.lock().unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
        let read = |name: &str| std::fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        let shown = self.shown.lock().unwrap().clone();
        assert_eq!(read("status").trim(), status, "{shown:?}");
        assert!(read("before").contains("icanon"), "{}", read("before"));
        assert_eq!(read("before"), read("after"));
        for code in GIVEN_BACK {
            assert!(shown.contains(code), "{code:?} is not in {shown:?}");
        }
        shown
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

#[test]
fn each_key_that_ends_it_gives_the_terminal_back() {
    for keys in [&b"q"[..], b"\x03", b"\x1b"] {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control");
        let _guard = serve(&socket, "192.0.2.77");
        let Some(mut terminal) = Terminal::start(dir.path(), &socket, &[]) else { return };
        terminal.wait("192.0.2.77");
        terminal.types(keys);
        terminal.ends("0");
    }
}

#[test]
fn a_signal_and_a_panic_give_the_terminal_back() {
    use nix::sys::signal::Signal;
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control");
    let _guard = serve(&socket, "192.0.2.77");
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        let Some(terminal) = Terminal::start(dir.path(), &socket, &[]) else { return };
        terminal.wait("192.0.2.77");
        terminal.signal(signal);
        terminal.ends("0");
    }
    let Some(terminal) = Terminal::start(dir.path(), &socket, &[("HV_TEST_TOP_PANICS", "1")]) else { return };
    let shown = terminal.ends("101");
    let (_, after) = shown.rsplit_once(GIVEN_BACK[0]).unwrap();
    assert!(after.contains("a test wants it"), "what it died of is said where it can be read: {shown:?}");
}

#[test]
fn it_ends_with_its_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control");
    let Some(terminal) = Terminal::start(dir.path(), &socket, &[]) else { return };
    terminal.wait("virtd does not answer: ");
    let pid = std::fs::read_to_string(dir.path().join("pid")).unwrap();
    // script(1) is killed, and the terminal is gone with it.
    drop(terminal);
    let until = Instant::now() + PATIENCE;
    while Path::new("/proc").join(pid.trim()).exists() {
        assert!(Instant::now() < until, "process {pid} goes on without a terminal");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn it_outlives_virtd() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control");
    let Some(mut terminal) = Terminal::start(dir.path(), &socket, &[("NO_COLOR", "1")]) else { return };
    terminal.wait("virtd does not answer: ");
    let first = serve(&socket, "192.0.2.77");
    terminal.wait("192.0.2.77");
    drop(first);
    terminal.forget();
    let _second = serve(&socket, "2001:db8:f::f");
    // No character of it stood there before, so that all are written.
    terminal.wait("2001:db8:f::f");
    terminal.types(b"q");
    let shown = terminal.ends("0");
    assert!(!shown.contains("\u{1b}[31m") && !shown.contains("\u{1b}[38;5;"), "no colour is wanted: {shown:?}");
}

#[test]
fn without_a_terminal_it_says_so() {
    let o = Command::new(env!("CARGO_BIN_EXE_virtctl")).arg("top").stdin(Stdio::null()).output().unwrap();
    assert_eq!(o.status.code(), Some(1));
    let said = String::from_utf8_lossy(&o.stderr).into_owned();
    assert!(said.contains("top needs a terminal; `virtctl status`"), "{said}");
}
