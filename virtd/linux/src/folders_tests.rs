use super::*;
use crate::identity;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use tempfile::TempDir;
use virtd_config::Instance;

const USER: &str = "nobody";

/// A folder that is root's, and open to all.
fn top() -> Option<TempDir> {
    if !untested::needs_root(Uid::effective().is_root()) {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    Some(dir)
}

/// All that the worker writes is in this folder.
fn config(folder: &Path) -> Config {
    Config {
        user: Some(USER.to_owned()),
        shim_socket: folder.join("hv.sock"),
        control_socket: folder.join("control.sock"),
        state: folder.join("state.json"),
        event_log: Some(folder.join("events.jsonl")),
        ..Config::default()
    }
}

fn of(config: &Config) -> Identity {
    identity::of(config).unwrap().expect("another user")
}

/// Owner, group and mode.
fn is(path: &Path) -> (u32, u32, u32) {
    let is = fs::symlink_metadata(path).unwrap();
    (is.uid(), is.gid(), is.mode() & 0o7777)
}

#[test]
fn what_virtd_makes_is_open_to_the_workers_group_and_stays_roots() {
    let Some(dir) = top() else { return };
    let folder = dir.path().join("a/b");
    let mut config = config(&folder);
    config.recorder.folder = Some(folder.join("records"));
    let worker = of(&config);
    assert_eq!(problems(&config, &worker), [""; 0]);
    assert!(!folder.exists(), "a check changes nothing");
    assert_eq!(hand_over(&config, &worker), Ok(vec![]));
    let gid = worker.gid.as_raw();
    assert_eq!([&folder, &folder.join("records")].map(|f| is(f)), [(0, gid, 0o1775); 2]);
    // These are the master's.
    assert_eq!(["instances", "vtysh"].map(|name| is(&folder.join(name)).0), [0, 0]);
    assert_eq!(is(&dir.path().join("a")), (0, 0, 0o755));
    let made = sys_as(&worker, || fs::write(folder.join("state.json"), "x"));
    assert!(made.is_ok(), "{made:?}");
    let removed = sys_as(&worker, || fs::rename(folder.join("instances"), folder.join("others")));
    assert!(removed.is_err());
    // Once more, as at the next start.
    assert_eq!(hand_over(&config, &worker), Ok(vec![]));
    assert_eq!(is(&folder.join("state.json")).0, worker.uid.as_raw());
}

fn sys_as<T: Send>(worker: &Identity, what: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    crate::sys::as_user(worker, what)?
}

#[test]
fn a_folder_of_others_is_named_with_the_remedy_and_left() {
    let Some(dir) = top() else { return };
    let config = config(dir.path());
    let worker = of(&config);
    for told in [problems(&config, &worker), hand_over(&config, &worker).unwrap()] {
        let shown = dir.path().display();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].starts_with("control_socket, event_log, shim_socket, state: ")
                || told[0].starts_with("shim_socket, control_socket, state, event_log: "),
            "{told:?}"
        );
        assert!(told[0].contains(&format!("`chgrp {} {shown}; chmod 1775 {shown}`", worker.gid)), "{told:?}");
    }
    assert_eq!(is(dir.path()), (0, 0, 0o755));
    // The remedy is one.
    chown(dir.path(), None, Some(worker.gid.as_raw())).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1775)).unwrap();
    assert_eq!(hand_over(&config, &worker), Ok(vec![]));
}

#[test]
fn what_an_earlier_virtd_has_left_becomes_the_workers_and_nothing_else() {
    let Some(dir) = top() else { return };
    let folder = dir.path().join("virtd");
    let victim = dir.path().join("shadow");
    fs::create_dir(&folder).unwrap();
    for file in [&victim, &folder.join("state.json"), &folder.join("versions")] {
        fs::write(file, "of root's").unwrap();
    }
    symlink(&victim, folder.join("events.jsonl")).unwrap();
    // A second name of something else.
    fs::hard_link(&victim, folder.join("state.json.new")).unwrap();
    let records = folder.join("records");
    fs::create_dir(&records).unwrap();
    fs::write(records.join("20261121T091500000Z-poison-frr.mrt"), "of root's").unwrap();
    let mut config = config(&folder);
    config.recorder.folder = Some(records.clone());
    let worker = of(&config);
    assert_eq!(hand_over(&config, &worker), Ok(vec![]));
    let (uid, gid) = (worker.uid.as_raw(), worker.gid.as_raw());
    let owner = |path: &Path| is(path).0;
    assert_eq!(owner(&folder.join("state.json")), uid);
    assert_eq!(owner(&records.join("20261121T091500000Z-poison-frr.mrt")), uid);
    assert_eq!([&folder, &records].map(|f| is(f)), [(0, gid, 0o1775); 2]);
    for others in [&victim, &folder.join("events.jsonl"), &folder.join("state.json.new"), &folder.join("versions")] {
        assert_eq!(owner(others), 0, "{}", others.display());
    }
}

#[test]
fn what_is_below_a_folder_of_somebody_else_is_not_touched() {
    let Some(dir) = top() else { return };
    let theirs = dir.path().join("theirs");
    let folder = theirs.join("virtd");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("state.json"), "of root's").unwrap();
    let config = config(&folder);
    let worker = of(&config);
    chown(&theirs, Some(worker.uid.as_raw()), None).unwrap();
    assert_eq!(hand_over(&config, &worker).map(|told| told.len()), Ok(1));
    assert_eq!((is(&folder), is(&folder.join("state.json")).0), ((0, 0, 0o755), 0));
}

#[test]
fn the_worker_has_not_what_is_the_masters() {
    let Some(dir) = top() else { return };
    let folder = dir.path().join("virtd");
    let mut config = config(&folder);
    let worker = of(&config);
    fs::create_dir_all(folder.join("instances")).unwrap();
    chown(folder.join("instances"), Some(worker.uid.as_raw()), None).unwrap();
    let told = hand_over(&config, &worker).unwrap_err();
    assert!(told.contains("instances: it belongs to user") && told.contains("remove it"), "{told}");
    // In a folder of the worker's anything could be put in their place.
    fs::remove_dir(folder.join("instances")).unwrap();
    chown(&folder, Some(worker.uid.as_raw()), None).unwrap();
    assert_eq!(problems(&config, &worker), [""; 0]);
    config.instances = vec![Instance { command: vec!["bgpd".to_owned()], ..Instance::default() }];
    let told = problems(&config, &worker);
    assert!(told.len() == 1 && told[0].contains("files of root's are there, too: `chown root:"), "{told:?}");
}

#[test]
fn an_event_log_is_only_appended_to() {
    let Some(dir) = top() else { return };
    let mut config = config(&dir.path().join("virtd"));
    config.event_log = Some(PathBuf::from("/dev/full"));
    assert_eq!(problems(&config, &of(&config)), [""; 0]);
}
