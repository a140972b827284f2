use super::*;
use crate::link::file_of;
use crate::message::Begin;
use caps::{Capability, CapsHashSet};
use std::os::unix::fs::PermissionsExt;
use virtd_config::Config;
use virtd_linux::identity;

/// A script of root's in a folder of its own.
fn script(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("program");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn tried(path: &Path) -> Result<Program, String> {
    let (text, image) = (file_of("").unwrap(), file_of("").unwrap());
    tried_as(path, None, &text, &image)
}

fn tried_as(path: &Path, user: Option<&Identity>, text: &OwnedFd, image: &OwnedFd) -> Result<Program, String> {
    Program::at(path)?.tried(&ToWorker::Begin(Begin::default()), text, image, Census::default(), user)
}

/// Another user.
fn worker() -> Identity {
    let config =
        Config { user: Some("nobody".to_owned()), control_group: Some("daemon".to_owned()), ..Config::default() };
    identity::of(&config).unwrap().expect("another user")
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
    let mut command = own.command(None, Rights::of_worker(false), None);
    assert!(command.arg("--list").output().unwrap().status.success());
}

/// A line of proc(5)'s status, its words.
fn of_status<'s>(status: &'s str, key: &str) -> Vec<&'s str> {
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_default().split_whitespace().collect()
}

#[test]
fn a_workers_process_is_of_its_user_with_few_rights_and_so_is_what_it_executes() {
    if !untested::needs_root(nix::unistd::geteuid().is_root()) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let roots = folder.path().join("roots");
    fs::write(&roots, "").unwrap();
    let text = format!("echo x >> {} && exit 9\nexec cat /proc/self/status", roots.display());
    let program = Program::at(&script(folder.path(), &text)).unwrap();
    let worker = worker();
    for (any, kept) in [(true, CapsHashSet::from(identity::RIGHTS)), (false, CapsHashSet::new())] {
        let out = program.command(Some(&worker), Rights::of_worker(any), None).output().unwrap();
        let status = String::from_utf8(out.stdout).unwrap();
        assert!(out.status.success() && fs::read(&roots).unwrap().is_empty(), "a file of root's was written");
        let (uid, gid) = (worker.uid.to_string(), worker.gid.to_string());
        assert_eq!(of_status(&status, "Uid"), [uid.as_str(); 4]);
        assert_eq!(of_status(&status, "Gid"), [gid.as_str(); 4]);
        let groups: Vec<String> = worker.groups.iter().map(ToString::to_string).collect();
        assert_eq!(of_status(&status, "Groups"), groups);
        // It may be that a container lacks some of them.
        let had = caps::read(None, caps::CapSet::Permitted).unwrap();
        let kept: CapsHashSet = kept.intersection(&had).copied().collect();
        for set in ["CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"] {
            let bits = u64::from_str_radix(of_status(&status, set)[0], 16).unwrap();
            let is: CapsHashSet = caps::all().into_iter().filter(|c: &Capability| bits & c.bitmask() != 0).collect();
            assert_eq!(is, kept, "{set}");
        }
    }
}

#[test]
fn a_program_that_the_workers_user_may_not_execute_is_named() {
    if !untested::needs_root(nix::unistd::geteuid().is_root()) {
        return;
    }
    // Nobody has to find the way to it.
    let folder = tempfile::tempdir().unwrap();
    let path = script(folder.path(), "exit 3");
    let (text, image) = (file_of("").unwrap(), file_of("").unwrap());
    let refused = || tried_as(&path, Some(&worker()), &text, &image).map(drop).unwrap_err();
    assert!(refused().ends_with("it has exited with status 3"), "{}", refused());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    let told = refused();
    assert!(told.contains("cannot be executed by virtd's worker, which runs as nobody"), "{told}");
    assert!(told.contains("mode 0700") && told.contains("`chmod a+rx`"), "{told}");
}
