//! What a shell offers on TAB. The shell calls virtctl itself, so that peers and instances are
//! those that there are.

use super::arguments::Shell;
use super::ask;
use clap_complete::CompletionCandidate;
use clap_complete::env::{CompleteEnv, EnvCompleter, Shells};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;
use virtd_api::{Instances, Request, Sessions};
use virtd_config::DEFAULT_CONTROL_SOCKET;

/// Names the shell where virtctl is called to complete a line.
const VARIABLE: &str = "VIRTCTL_COMPLETE";
/// Somebody waits at a prompt.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where a shell has called to complete a line: prints what fits and ends the process.
pub fn complete(command: impl Fn() -> clap::Command) {
    CompleteEnv::with_factory(command).var(VARIABLE).complete();
}

/// What a shell is to read so that it calls.
///
/// # Errors
/// There is no such shell, or its script is not text.
pub fn script(shell: Shell) -> Result<String, String> {
    let name = match shell {
        Shell::Bash => "bash",
        Shell::Zsh => "zsh",
        Shell::Fish => "fish",
    };
    let shells = Shells::builtins();
    let completer: &dyn EnvCompleter = shells.completer(name).ok_or("there is no completion for that shell")?;
    let mut script = Vec::new();
    let written = completer.write_registration(VARIABLE, "virtctl", "virtctl", "virtctl", &mut script);
    written.map_err(|e| e.to_string())?;
    String::from_utf8(script).map_err(|e| e.to_string())
}

/// The peers with whom there are sessions; none where virtd does not answer.
pub fn peers() -> Vec<CompletionCandidate> {
    let Ok(Sessions { sessions }) = ask::ask(&socket(std::env::args_os()), &Request::Sessions, PATIENCE) else {
        return Vec::new();
    };
    let described = |s: virtd_api::Session| {
        let state = s.asn.map_or_else(|| s.state.clone(), |asn| format!("AS {asn}, {}", s.state));
        CompletionCandidate::new(s.peer).help(Some(state.into()))
    };
    sessions.into_iter().map(described).collect()
}

/// The instances; none where virtd does not answer.
pub fn instances() -> Vec<CompletionCandidate> {
    let request = Request::Instances { exec: None };
    let Ok(Instances { instances }) = ask::ask(&socket(std::env::args_os()), &request, PATIENCE) else {
        return Vec::new();
    };
    let described =
        |i: virtd_api::Instance| CompletionCandidate::new(i.name).help(Some(format!("{}, {}", i.role, i.state).into()));
    instances.into_iter().map(described).collect()
}

/// The socket that the line names that is being completed.
fn socket(words: impl Iterator<Item = OsString>) -> PathBuf {
    let mut words = words.peekable();
    let mut named = None;
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        if text == "--socket" || text == "-s" {
            named = words.peek().cloned().map(PathBuf::from).or(named);
        } else if let Some(path) = text.strip_prefix("--socket=") {
            named = Some(PathBuf::from(path));
        }
    }
    named.unwrap_or_else(|| PathBuf::from(DEFAULT_CONTROL_SOCKET))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_the_one_that_the_line_names() {
        let of = |line: &str| socket(line.split(' ').map(OsString::from));
        assert_eq!(of("virtctl -- virtctl session "), PathBuf::from(DEFAULT_CONTROL_SOCKET));
        for line in
            ["virtctl -- virtctl -s /x session ", "virtctl -- virtctl session --socket=/x 1", "virtctl --socket /x"]
        {
            assert_eq!(of(line), PathBuf::from("/x"));
        }
    }

    #[test]
    fn each_shell_is_told_to_call() {
        for (shell, word) in [(Shell::Bash, "complete "), (Shell::Zsh, "#compdef virtctl"), (Shell::Fish, "complete ")]
        {
            let script = script(shell).expect("a script");
            assert!(script.contains(word) && script.contains(VARIABLE), "{script}");
        }
    }
}
