//! Runs a program of the operator's: the event is on its standard input as one line of JSON, and the
//! parts of it in its environment.

use super::News;
use super::alert::Failed;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// A program that was killed is gone by then.
const KILL_PATIENCE: Duration = Duration::from_secs(1);

/// Once, for no longer than `patience`; then it and all in its process group are killed. Its output
/// is virtd-monitor's.
pub(super) async fn run(words: &[String], news: &News, patience: Duration) -> Result<(), Failed> {
    let Some((program, arguments)) = words.split_first() else { return Err(Failed::ever("no command")) };
    let event = &news.logged.event;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0).kill_on_drop(true);
    let seq = news.logged.seq.to_string();
    for (name, value) in [
        ("VIRTD_KIND", Some(event.kind.as_str())),
        ("VIRTD_SEVERITY", Some(event.severity.as_str())),
        ("VIRTD_TIME", Some(news.logged.time.as_str())),
        ("VIRTD_SEQ", Some(seq.as_str())),
        ("VIRTD_TEXT", Some(event.text.as_str())),
        ("VIRTD_SESSION", event.session.as_deref()),
        ("VIRTD_INSTANCE", event.instance.as_deref()),
        ("VIRTD_PREFIX", event.prefix.as_deref()),
    ] {
        // An environment holds no NUL.
        command.env(name, value.unwrap_or_default().replace('\0', " "));
    }
    // A program that is not there may be installed, but hardly within seconds.
    let mut child = command.spawn().map_err(|e| Failed::ever(format!("{program} cannot be run: {e}")))?;
    let outcome = match timeout(patience, hand_over(&mut child, &news.json)).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(Failed::ever(format!("{program}: {status}"))),
        Ok(Err(e)) => Err(Failed::ever(format!("{program}: {e}"))),
        Err(_) => Err(Failed::ever(format!("{program} has not ended within {} s and is killed", patience.as_secs()))),
    };
    if let Some(group) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        let _ = timeout(KILL_PATIENCE, child.wait()).await;
    }
    outcome
}

async fn hand_over(child: &mut Child, json: &str) -> std::io::Result<std::process::ExitStatus> {
    if let Some(mut stdin) = child.stdin.take() {
        // Who does not read it need not.
        let _ = stdin.write_all(format!("{json}\n").as_bytes()).await;
    }
    child.wait().await
}
