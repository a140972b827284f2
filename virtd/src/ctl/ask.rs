//! Asking a running virtd.

use serde::de::DeserializeOwned;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use virtd_api::{Refused, Request};

/// virtd answers within ten seconds or says that it cannot.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Why there is no answer: a sentence, with the remedy where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// virtd does not run, hangs, or died over it.
    Down(String),
    /// It refuses, may not be asked, or is no virtd.
    Other(String),
}

impl From<Unanswered> for String {
    fn from(unanswered: Unanswered) -> String {
        match unanswered {
            Unanswered::Down(text) | Unanswered::Other(text) => text,
        }
    }
}

/// One question, on a connection of its own. `patience`: how long nothing may come.
///
/// # Errors
/// Why there is no answer, a sentence with the remedy where there is one.
pub fn ask<T: DeserializeOwned>(socket: &Path, request: &Request, patience: Duration) -> Result<T, String> {
    ask_or(socket, request, patience).map_err(String::from)
}

/// The same, for who wants to know whether virtd is there at all.
///
/// # Errors
/// See [`Unanswered`].
pub fn ask_or<T: DeserializeOwned>(socket: &Path, request: &Request, patience: Duration) -> Result<T, Unanswered> {
    let line = ask_line(socket, request, patience)?;
    if let Ok(Refused { error }) = serde_json::from_str(&line) {
        return Err(Unanswered::Other(error));
    }
    let strange = |e| Unanswered::Other(format!("what answers on {} is no virtd: {e}", socket.display()));
    serde_json::from_str(&line).map_err(strange)
}

fn ask_line(socket: &Path, request: &Request, patience: Duration) -> Result<String, Unanswered> {
    let mut stream = UnixStream::connect(socket).map_err(|e| {
        let text = connect_error(socket, &e);
        let other = std::fs::metadata(socket).is_ok_and(|m| !m.file_type().is_socket());
        match e.kind() {
            ErrorKind::PermissionDenied => Unanswered::Other(text),
            _ if other => Unanswered::Other(text),
            _ => Unanswered::Down(text),
        }
    })?;
    let lost = |e: io::Error| {
        Unanswered::Down(match e.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                format!("virtd did not answer within {} s", patience.as_secs_f64().ceil())
            }
            _ => format!("the connection to virtd broke: {e}"),
        })
    };
    stream.set_read_timeout(Some(patience)).map_err(lost)?;
    stream.set_write_timeout(Some(patience)).map_err(lost)?;
    let request = serde_json::to_string(request).map_err(|e| Unanswered::Other(e.to_string()))?;
    writeln!(stream, "{request}").map_err(lost)?;
    let mut line = String::new();
    match BufReader::new(stream).read_line(&mut line).map_err(lost)? {
        0 => Err(Unanswered::Down("virtd closed the connection without an answer".to_owned())),
        _ => Ok(line),
    }
}

/// What keeps us from virtd, and the remedy.
pub fn connect_error(path: &Path, error: &io::Error) -> String {
    let shown = path.display();
    match error.kind() {
        ErrorKind::NotFound => {
            format!("{shown} does not exist: is virtd running? (its control_socket may be elsewhere: --socket PATH)")
        }
        ErrorKind::ConnectionRefused => match std::fs::metadata(path) {
            Ok(m) if !m.file_type().is_socket() => format!("{shown} is not a socket"),
            _ => format!("nobody listens on {shown}: is virtd running? it seems to have ended without cleaning up"),
        },
        ErrorKind::PermissionDenied => match std::fs::metadata(path) {
            Ok(m) => format!(
                "permission denied: {shown} is for user {} and group {} (mode {:04o}); join that group, or use sudo",
                user_name(m.uid()),
                group_name(m.gid()),
                m.mode() & 0o7777
            ),
            Err(_) => format!("permission denied on the way to {shown}; use sudo"),
        },
        _ => format!("cannot connect to {shown}: {error}"),
    }
}

fn user_name(uid: u32) -> String {
    match nix::unistd::User::from_uid(uid.into()) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    }
}

fn group_name(gid: u32) -> String {
    match nix::unistd::Group::from_gid(gid.into()) {
        Ok(Some(group)) => group.name,
        _ => gid.to_string(),
    }
}
