//! Other roots: an empty folder that shares this system's programs is one, so no other release has
//! to be there.

use super::launch::spawn_inside;
use super::*;
use crate::kinds::root::{Entry, Own};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use virtd_config::Kind;

/// What programs of this system need to run inside.
fn programs() -> Vec<PathBuf> {
    ["/usr", "/bin", "/lib", "/lib64"].map(PathBuf::from).into_iter().filter(|p| p.exists()).collect()
}

fn is_root() -> bool {
    untested::needs_root(nix::unistd::geteuid().is_root())
}

fn run(entry: Entry, script: &str) -> io::Result<Output> {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    spawn_inside(command, entry).and_then(Child::wait_with_output)
}

/// This system's mounts, without network namespaces: other tests make those meanwhile.
fn mounts() -> String {
    let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
    all.lines().filter(|l| !l.contains("/run/netns/")).map(|l| format!("{l}\n")).collect()
}

#[test]
fn inside_are_the_root_and_what_is_shared_at_its_own_path() {
    if !is_root() {
        return;
    }
    let (root, shared) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(root.path().join("marker"), "of the root\n").unwrap();
    let (folder, file) = (shared.path().join("folder"), shared.path().join("file"));
    fs::create_dir(&folder).unwrap();
    fs::write(&file, "of the system\n").unwrap();
    fs::write(shared.path().join("not-shared"), "").unwrap();
    let mut list = programs();
    // Twice, and in an order that would hide one behind the other.
    list.extend([folder.clone(), file.clone(), file.clone()]);
    let own = Own { path: "/run/own/folder".into(), owner: Some((65534, 65534)) };
    let entry = Entry::new(root.path(), &list, &[own]).unwrap();
    let before = mounts();
    let script = format!(
        "cat /marker {file}; ls {shared}; pwd; stat -c '%u:%g %a' /run/own/folder; ls -A /run/.outside /etc; touch {folder}/made; \
         echo mounts $(grep -c . /proc/self/mountinfo) $(grep -c outside /proc/self/mountinfo); test -c /dev/null && echo end",
        file = file.display(),
        shared = shared.path().display(),
        folder = folder.display()
    );
    let out = run(entry, &script).unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    let start = "of the root\nof the system\nfile\nfolder\n/\n65534:65534 755\n/run/.outside:\n";
    assert!(text.starts_with(start) && text.ends_with("end\n"), "{text}{told}");
    assert!(text.contains(" 0\nend"), "this system is still mounted: {text}");
    assert!(told.contains("/etc") && told.lines().count() == 1, "there is no /etc in an empty root: {told}");
    assert_eq!(fs::metadata(folder.join("made")).unwrap().uid(), 0);
    assert!(mounts() == before, "something stays mounted");
    let mut left: Vec<_> = fs::read_dir(root.path().join("run")).unwrap().collect();
    left.extend(fs::read_dir(root.path().join("tmp")).unwrap());
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_step_that_fails_is_named() {
    let root = tempfile::tempdir().unwrap();
    let text = Entry::new(&root.path().join("x"), &[], &[]).unwrap_err().to_string();
    assert!(text.starts_with(&format!("{}/x: No such file", root.path().display())), "{text}");
    let text = Entry::new(root.path(), &["/nonexistent/hv.sock".into()], &[]).unwrap_err().to_string();
    assert!(text.starts_with("/nonexistent/hv.sock: No such file"), "{text}");
    if !is_root() {
        return;
    }
    fs::write(root.path().join("blocked"), "").unwrap();
    let entry = Entry::new(root.path(), &[], &[Own { path: "/blocked/folder".into(), owner: None }]).unwrap();
    let error = run(entry, "exit 0").unwrap_err().to_string();
    assert_eq!(error, "making /blocked/folder inside: Not a directory (os error 20)");
}

#[test]
fn preflight_looks_into_the_root() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("shim.so"), "no library").unwrap();
    fs::write(path("x.conf"), "").unwrap();
    fs::create_dir_all(path("root/etc")).unwrap();
    fs::create_dir_all(path("root/usr/sbin")).unwrap();
    fs::write(path("root/etc/passwd"), "bird:x:1000:1001::/:\n").unwrap();
    fs::write(path("root/etc/group"), "").unwrap();
    let bird = |root: &str| Instance {
        name: "x".into(),
        kind: Some(Kind::Bird),
        config_file: Some(path("x.conf")),
        root: Some(path(root)),
        user: Some("bird".into()),
        ..Instance::default()
    };
    let check = |instance: Instance| {
        let config = Config { instances: vec![instance], shim_socket: super::tests::socket(), ..Config::default() };
        let found = preflight::check(&config, &path("shim.so"));
        found.join("\n").replace(&dir.path().display().to_string(), "DIR")
    };
    let found = check(bird("nowhere"));
    assert!(found.starts_with("instance x: root: DIR/nowhere: No such file"), "{found}");
    let by_name = |version: &str| Instance { version: Some(version.into()), ..bird("nowhere") };
    let found = check(by_name("trixie"));
    let remedy = "; bring it with: hv-versions fetch trixie/bird2";
    assert!(found.starts_with("instance x: version: DIR/nowhere: No such file") && found.contains(remedy), "{found}");
    let found = check(by_name("/nowhere"));
    assert!(found.contains("; unpack the daemon's packages"), "{found}");
    let found = check(bird("x.conf"));
    assert!(found.starts_with("instance x: root: DIR/x.conf is not a folder; unpack the daemon's packages"), "{found}");
    let found = check(bird("root"));
    assert!(found.starts_with("instance x: root: DIR/root/usr/sbin/bird: No such file"), "{found}");
    assert!(
        found.contains("\ninstance x: group: user bird has group 1001, which is not in DIR/root/etc/group"),
        "{found}"
    );
    fs::write(path("root/etc/group"), "bird:x:1001:\n").unwrap();
    fs::copy("/bin/sh", path("root/usr/sbin/bird")).unwrap();
    if is_root() {
        let found = check(bird("root"));
        assert!(found.starts_with("instance x: root: DIR/root has no dynamic loader"), "{found}");
    }
}
