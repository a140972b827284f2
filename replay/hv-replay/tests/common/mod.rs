//! `hv-replay` as a child process: its events are read as they come, its commands typed.
#![allow(dead_code)] // each test uses its part

use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Nothing here takes longer, even on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running `hv-replay`; killed when dropped.
pub struct HvReplay {
    child: Child,
    stdin: Option<ChildStdin>,
    events: Receiver<Value>,
    seen: Vec<Value>,
}

impl HvReplay {
    /// Starts it, in a network namespace if one is named.
    pub fn start(namespace: Option<&str>, arguments: &[&str]) -> HvReplay {
        let program = env!("CARGO_BIN_EXE_hv-replay");
        let mut command = match namespace {
            Some(name) => {
                let mut ip = Command::new("ip");
                ip.args(["netns", "exec", name, program]);
                ip
            }
            None => Command::new(program),
        };
        command.args(["--events", "-", "--quiet"]).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).env("RUST_LOG", "warn");
        let mut child = command.spawn().expect("hv-replay starts");
        let stdout = child.stdout.take().expect("a pipe");
        let (sender, events) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str(&line)
                    && sender.send(event).is_err()
                {
                    return;
                }
            }
        });
        HvReplay { stdin: child.stdin.take(), child, events, seen: Vec::new() }
    }

    /// Waits for an event of this name that `wanted` accepts; events before it are passed over.
    pub fn event(&mut self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) if event["event"] == name && wanted(&event) => return event,
                Ok(event) => self.seen.push(event),
                Err(e) => panic!("no event {name}: {e}; {} before, the last {:?}", self.seen.len(), self.seen.last()),
            }
        }
    }

    /// The address it listens on.
    pub fn listening(&mut self) -> String {
        self.event("listening", |_| true)["local"].as_str().expect("an address").to_owned()
    }

    /// Types a command.
    pub fn type_line(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("still open");
        writeln!(stdin, "{line}").and_then(|()| stdin.flush()).expect("typed");
    }

    /// Sends it a signal: STOP makes it a neighbour that hangs.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.is_ok_and(|s| s.success()), "cannot signal");
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("hv-replay does not end");
    }
}

impl Drop for HvReplay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A JSON file.
pub fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).expect("written")).expect("JSON")
}
