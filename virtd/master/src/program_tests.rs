use super::*;
use crate::link::file_of;
use crate::message::Begin;
use std::os::unix::fs::PermissionsExt;

/// A script of root's in a folder of its own.
fn script(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("program");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn tried(path: &Path) -> Result<Program, String> {
    let (text, image) = (file_of("").unwrap(), file_of("").unwrap());
    Program::at(path)?.tried(&ToWorker::Begin(Begin::default()), &text, &image, Census::default())
}

#[test]
fn only_what_root_alone_can_write_is_executed() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |path: &Path| Program::at(path).map(drop).unwrap_err();
    assert!(refused(Path::new("bin/virtd")).contains("no absolute path"));
    assert!(refused(Path::new("/nonexistent/virtd")).contains("No such file"));
    assert!(refused(folder.path()).contains("no regular file"));
    assert!(refused(Path::new("/dev/null")).contains("no regular file"));
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let path = script(folder.path(), "exit 0");
    assert!(Program::at(&path).is_ok());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o775)).unwrap();
    assert!(refused(&path).contains("mode 0775"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::chown(&path, Some(1), None).unwrap();
    assert!(refused(&path).contains("belongs to user 1"));
}

#[test]
fn what_is_no_virtd_is_refused_and_its_words_are_passed_on() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let refused = |text: &str| tried(&script(folder.path(), text)).map(drop).unwrap_err();
    assert!(refused("exit 0").ends_with("cannot take over: it has exited with status 0"));
    assert!(refused("exit 3").ends_with("it has exited with status 3"));
    assert!(refused("kill -SEGV $$").contains("was ended by SIGSEGV"));
    assert!(refused("echo unknown word \"$@\" >&2; exit 2").ends_with("unknown word --worker --try"));
    let long = refused("yes | head -c 100000 >&2");
    assert!(long.len() < 5000, "{}", long.len());
}

#[test]
fn the_own_program_is_there() {
    let own = Program::own().unwrap();
    assert_eq!(own.named().path, std::env::current_exe().unwrap());
    assert!(own.executable().exists());
}
