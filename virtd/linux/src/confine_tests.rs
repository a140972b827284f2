use super::*;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::net::UnixListener;

/// On a thread of its own, since it never gets anything back.
fn confined<T: Send + 'static>(config: Config, what: impl FnOnce() -> T + Send + 'static) -> (Vec<String>, T) {
    let thread = std::thread::spawn(move || {
        let left = confine(&config);
        (left, what())
    });
    thread.join().expect("the thread")
}

#[test]
fn what_is_given_up_is_gone_and_what_is_needed_is_there() {
    let dir = tempfile::tempdir().expect("a folder");
    let own = dir.path().join("run");
    let config = Config {
        // Else it would say that it is root.
        user: Some("root".to_owned()),
        shim_socket: own.join("hv.sock"),
        control_socket: own.join("control.sock"),
        state: own.join("state.json"),
        ..Config::default()
    };
    let (inside, outside) = (own.join("file"), dir.path().join("file"));
    fs::write(&outside, b"secret").expect("a file");
    let (left, (wrote, read, changed, socket, passwd, child, root)) = confined(config, move || {
        (
            fs::write(&inside, b"x"),
            fs::read(&outside),
            OpenOptions::new().append(true).open(&outside).map(drop),
            UnixListener::bind(inside.with_file_name("a.sock")).map(drop),
            fs::read("/etc/passwd").map(drop),
            std::thread::spawn(|| nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)).join().expect("a thread"),
            nix::unistd::chroot("/"),
        )
    });
    // A kernel without Landlock leaves the files, and says so; the scenario of attached daemons counts
    // that as not tested.
    let has_landlock = !left.iter().any(|what| what.contains("no Landlock"));
    assert!(left.len() == usize::from(!has_landlock), "{left:?}");
    assert!(wrote.is_ok() && socket.is_ok() && passwd.is_ok(), "{wrote:?} {socket:?} {passwd:?}");
    assert!(read.is_ok(), "{read:?}");
    if has_landlock {
        assert_eq!(changed.map_err(|e| e.kind()), Err(ErrorKind::PermissionDenied));
    }
    assert_eq!((child, root), (Err(nix::Error::EPERM), Err(nix::Error::EPERM)));
}

#[test]
fn the_capabilities_are_those_and_no_others() {
    if !untested::needs_root(nix::unistd::Uid::effective().is_root()) {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let config = Config { shim_socket: dir.path().join("hv.sock"), ..Config::default() };
    let (_, sets) = confined(config, || {
        [CapSet::Effective, CapSet::Permitted, CapSet::Bounding].map(|set| caps::read(None, set).expect("a set"))
    });
    let kept: CapsHashSet = identity::RIGHTS.into_iter().chain(KEPT_BY_ROOT).collect();
    for set in sets {
        assert!(set.is_subset(&kept), "{set:?}");
        assert!(set.contains(&Capability::CAP_NET_ADMIN));
    }
}

#[test]
fn that_its_user_is_root_is_told_unless_somebody_wants_it() {
    if !untested::needs_root(Uid::effective().is_root()) {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let config = |user: Option<&str>| Config {
        user: user.map(str::to_owned),
        shim_socket: dir.path().join("hv.sock"),
        ..Config::default()
    };
    let told = |user| confined(config(user), || ()).0.into_iter().find(|what| what.starts_with("user "));
    let said = told(None).expect("a remedy");
    assert!(said.contains("its user is root") && said.contains("restart"), "{said}");
    assert_eq!(told(Some("root")), None);
}
