//! virtd's worker has a user of its own: so has whoever takes its place, its files go on, and what is
//! in the way is named. And it may be killed for want of memory.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket, sockopt};
use nix::unistd::{Pid, User};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tests::lab::{Lab, built, wait_for, wait_until};
use tests::memory::Memory;
use tests::replayer::Replayer;
use tests::router::{Options, Router, WORKER};
use tests::scene::{ROUTES, Scene, UP};
use virtd_linux::identity::RIGHTS;

fn worker_uid() -> Result<u32> {
    Ok(User::from_name(WORKER)?.context("no such user")?.uid.as_raw())
}

fn owner(path: &Path) -> Result<u32> {
    Ok(fs::symlink_metadata(path).with_context(|| path.display().to_string())?.uid())
}

/// The process has the worker's user, and its rights and no others.
fn is_of_its_user(pid: Pid, confined: bool) -> Result<()> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = |key: &str| status.lines().find_map(|l| l.strip_prefix(key)).map(str::trim).unwrap_or_default();
    let uid = worker_uid()?.to_string();
    ensure!(value("Uid:").split_whitespace().all(|of| of == uid), "{status}");
    ensure!(value("Gid:").split_whitespace().all(|of| of != "0"), "{status}");
    for set in ["CapPrm:", "CapEff:", "CapInh:", "CapAmb:", "CapBnd:"] {
        let has = u64::from_str_radix(value(set), 16)?;
        let may = RIGHTS.iter().fold(0, |all, right| all | right.bitmask());
        ensure!(has & !may == 0 && has & RIGHTS[0].bitmask() != 0, "{set}: {status}");
    }
    if confined {
        ensure!(value("NoNewPrivs:") == "1" && value("Seccomp:") == "2", "{status}");
    }
    // It can be looked into, and leaves a core file where others do.
    ensure!(owner(Path::new(&format!("/proc/{pid}/fd")))? == worker_uid()?, "{pid} is not dumpable");
    Ok(())
}

/// A daemon in another root finds a socket of root's by the abstract name.
fn root_listens_by_name(scene: &Scene, path: &Path) -> Result<()> {
    let made_by = scene.star.router.enter(|| -> Result<u32> {
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::empty(), None)?;
        connect(fd.as_raw_fd(), &UnixAddr::new_abstract(path.as_os_str().as_bytes())?)?;
        Ok(getsockopt(&fd, sockopt::PeerCredentials)?.uid())
    })??;
    ensure!(made_by == 0, "user {made_by} listens by the name");
    Ok(())
}

#[test]
fn whatever_makes_a_worker_it_is_of_its_user() -> Result<()> {
    let scene = Scene::new("user", 2, ROUTES)?;
    let (daemons, before) = (scene.daemons()?, scene.sessions());
    let folder = scene.lab.folder("virtd")?;
    let serves = |n: usize| {
        wait_for("the sessions to be taken over", UP, || scene.kinds.router.events("taken-over").len() == n)?;
        scene.wait_whole(ROUTES)?;
        root_listens_by_name(&scene, &folder.join("hv.sock"))?;
        is_of_its_user(scene.process("virtd-worker")?, true)
    };
    serves(0)?;
    for file in ["hv.sock", "control.sock", "events.jsonl"] {
        ensure!(owner(&folder.join(file))? == worker_uid()?, "{file}");
    }
    for file in ["instances", "vtysh", "hv.sock.instances", "."] {
        ensure!(owner(&folder.join(file))? == 0, "{file}");
    }
    is_of_its_user(scene.process("virtd-twin")?, false)?;
    kill(scene.process("virtd-worker")?, Signal::SIGKILL)?;
    serves(1)?;
    // A twin that a worker has made which has given up its rights.
    let twin = scene.process("virtd-twin")?;
    kill(twin, Signal::SIGKILL)?;
    let second = scene.wait_other("virtd-twin", twin)?;
    is_of_its_user(second, true)?;
    let worker = scene.process("virtd-worker")?;
    wait_for("the twin to be known", UP, || scene.kinds.router.show(&["upgrade", "--dry-run"]).is_ok())?;
    kill(worker, Signal::SIGKILL)?;
    ensure!(scene.wait_other("virtd-worker", worker)? == second, "the second twin has become the worker");
    serves(2)?;
    // Its twin is one of a worker that was confined before.
    let worker = scene.process("virtd-worker")?;
    kill(worker, Signal::SIGKILL)?;
    serves(3)?;
    ensure!(scene.kinds.router.show(&["upgrade"])?.contains("worker is of"));
    serves(4)?;
    // Both are gone: the next one is made by the master.
    ensure!(scene.sessions() == before, "no neighbour has noticed");
    ensure!(scene.daemons()? == daemons, "{daemons:?} before, {:?} now", scene.daemons()?);
    let left = scene.kinds.router.events("not-confined");
    ensure!(left.iter().all(|e| e["text"].as_str().is_some_and(|text| text.contains("no Landlock"))), "{left:?}");
    scene.end()
}

#[test]
fn what_root_has_written_goes_on() -> Result<()> {
    let mut lab = Lab::new("user-files")?;
    let star = lab.star(1)?;
    let options = Options { user: Some("root"), ..Options::default() };
    let mut router = Router::start(&lab, &star, &options)?;
    let folder = lab.folder("virtd")?;
    let (events, state) = (folder.join("events.jsonl"), folder.join("state.json"));
    let _peer = Replayer::dial(&lab, &star.sites[0], false, &["--reconnect"])?;
    wait_for("a session", UP, || router.session("10.0.1.2").is_ok_and(|s| s.state == "Established"))?;
    router.show(&["session", "10.0.1.2", "shutdown"])?;
    ensure!([owner(&events)?, owner(&state)?] == [0, 0]);
    ensure!(
        router.events("not-confined").is_empty() || router.events("not-confined")[0].to_string().contains("Landlock")
    );
    let before = router.all_events()?.len();
    router.edit_toml(|text| text.replace("user = \"root\"", &format!("user = {WORKER:?}")))?;
    router.restart_virtd(&lab)?;
    ensure!([owner(&events)?, owner(&state)?] == [worker_uid()?; 2]);
    let is = router.session("10.0.1.2")?.state;
    ensure!(is != "Established", "an operator has shut it down: {is}");
    ensure!(router.all_events()?.len() >= before, "the log goes on");
    // It may be rotated as before, by root.
    let old = folder.join("events.jsonl.1");
    fs::rename(&events, &old)?;
    router.show(&["session", "10.0.1.2", "start"])?;
    wait_for("the session", UP, || router.session("10.0.1.2").is_ok_and(|s| s.state == "Established"))?;
    wait_until("events in a new file", UP, || match owner(&events) {
        Ok(uid) if Some(uid) == worker_uid().ok() => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    ensure!(!fs::read_to_string(&state)?.contains("10.0.1.2"), "the state is written");
    lab.passed();
    Ok(())
}

#[test]
fn without_a_user_it_stays_roots_and_says_so() -> Result<()> {
    let mut lab = Lab::new("user-none")?;
    let star = lab.star(1)?;
    let router = Router::start(&lab, &star, &Options { user: None, ..Options::default() })?;
    let mut peer = Replayer::dial(&lab, &star.sites[0], false, &["--generate", "100"])?;
    peer.wait_event("session-up", UP)?;
    let default = User::from_name(virtd_config::DEFAULT_USER)?;
    let uid = fs::metadata(format!("/proc/{}", router.worker()))?.uid();
    ensure!(uid == default.as_ref().map_or(0, |user| user.uid.as_raw()), "the worker is of user {uid}");
    if default.is_none() {
        let told = router.events("not-confined");
        let text = told.first().and_then(|e| e["text"].as_str()).context("no not-confined")?;
        ensure!(text.contains("its user is root (`useradd --system virtd`"), "{text}");
    }
    peer.finish()?.check_quiet()?;
    lab.passed();
    Ok(())
}

#[test]
fn what_is_in_the_way_is_named_before_a_start() -> Result<()> {
    let lab = Lab::new("user-check")?;
    let shared = lab.folder("shared")?;
    let said = |user: &str, folder: &Path, more: &[&str]| -> Result<(bool, String)> {
        let file = lab.directory().join("virtd.toml");
        let paths = ["shim_socket", "control_socket", "state"].map(|key| format!("{key} = {:?}\n", folder.join(key)));
        let router = format!("[router]\naccept_any = true\nport = 1179\nuser = {user:?}\n{}", paths.concat());
        fs::write(&file, router + "[[instance]]\nname = \"a\"\n")?;
        let out = Command::new(built("virtd")?).arg("--config").arg(&file).args(more).output()?;
        let text = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
        Ok((out.status.success(), text.into_owned()))
    };
    for more in [&["--check"][..], &[]] {
        let (good, text) = said("no-such-user", &shared, more)?;
        ensure!(!good && text.contains("user: there is no user \"no-such-user\" on this system"), "{text}");
        ensure!(text.contains("useradd --system no-such-user"), "{text}");
        let (good, text) = said(WORKER, &shared, more)?;
        ensure!(!good && text.contains("shim_socket") && text.contains(&shared.display().to_string()), "{text}");
        ensure!(text.contains(&format!("as user {WORKER}: `chgrp ")), "{text}");
    }
    ensure!(owner(&shared)? == 0 && fs::read_dir(&shared)?.count() == 0, "nothing is changed");
    let (good, text) = said(WORKER, &lab.directory().join("virtd"), &["--check"])?;
    ensure!(good && text.contains(&format!("runs as {WORKER} ")), "{text}");
    let file = lab.directory().join("virtd.toml");
    fs::write(&file, fs::read_to_string(&file)? + &format!("user = {WORKER:?}\n"))?;
    let out = Command::new(built("virtd")?).arg("--check").arg("--config").arg(&file).output()?;
    let text = String::from_utf8_lossy(&out.stderr);
    ensure!(!out.status.success() && text.contains("user of instance a: nobody is whom"), "{text}");
    lab.passed();
    Ok(())
}

#[test]
fn the_kernel_ends_the_worker_for_want_of_memory_and_the_sessions_stay() -> Result<()> {
    let Some(memory) = Memory::limited_to(8 << 20, "a worker that is killed for want of memory") else {
        return Ok(());
    };
    let scene = Scene::new("user-oom", 3, ROUTES)?;
    let (daemons, before, worker) = (scene.daemons()?, scene.sessions(), scene.process("virtd-worker")?);
    // What it takes from here on; a table of this size takes several times as much.
    memory.limits(worker)?;
    let many = "100000";
    let mut feed = Replayer::dial(&scene.lab, &scene.star.sites[2], false, &["--generate", many])?;
    wait_for("the worker's death to be told", UP, || !scene.kinds.router.events("worker-died").is_empty())?;
    let died = scene.kinds.router.events("worker-died");
    let text = died[0]["text"].as_str().context("no text")?;
    ensure!(text.contains(&format!("process {worker}) was ended by SIGKILL, since memory was short")), "{text}");
    ensure!(scene.process("virtd-worker")? != worker);
    // The next one is outside of the group.
    wait_until("all routes outside", UP, || match scene.kinds.router.prefixes_out("10.0.2.2") {
        Ok(n) if n >= 100_000 => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    ensure!(scene.sessions() == before, "no neighbour has noticed");
    ensure!(feed.count("session-up") == 1 && feed.count("session-down") == 0, "{:?}", feed.events());
    ensure!(scene.kinds.router.events("worker-died").len() == 1, "{:?}", scene.kinds.router.events("worker-died"));
    wait_for("everybody to vote", UP, || scene.kinds.wait_voting(Duration::from_millis(100)).is_ok())?;
    ensure!(scene.daemons()? == daemons, "{daemons:?} before, {:?} now", scene.daemons()?);
    feed.finish()?;
    scene.end()
}
