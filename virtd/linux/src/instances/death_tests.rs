use super::*;
use nix::unistd::Pid;

#[test]
fn the_kernels_files_are_read() {
    let vmstat = "nr_free_pages 1\noom_kill 7\npgfault 3\n";
    let events = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 5\n";
    let control = "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n";
    for (text, n) in [
        (vmstat, Some(7)),
        (events, Some(2)),
        (control, Some(4)),
        ("oom_kill_disable 1\n", None),
        ("oom_kill x\n", None),
        ("", None),
    ] {
        assert_eq!(count(text), n, "{text}");
    }
}

#[test]
fn groups_of_both_versions_are_found() {
    let v2 = "0::/system.slice/virtd.service\n";
    let v1 = "12:cpu,cpuacct:/x\n4:memory:/docker/ab\n1:name=systemd:/docker/ab\n0::/\n";
    let list = |text| own_groups(text).into_iter().map(|(p, f)| p.join(f).display().to_string()).collect::<Vec<_>>();
    assert_eq!(list(v2), ["system.slice/virtd.service/memory.events"]);
    assert_eq!(list(v1), ["memory/docker/ab/memory.oom_control", "memory.events"]);
    assert!(list("").is_empty() && list("nonsense\n1:memory\n").is_empty());
}

#[test]
fn a_count_that_rises_is_a_shortage_until_it_is_old() {
    let dir = tempfile::tempdir().unwrap();
    let (proc, cgroups) = (dir.path().join("proc"), dir.path().join("cgroup"));
    let own = cgroups.join("virtd");
    fs::create_dir_all(proc.join("self")).unwrap();
    fs::create_dir_all(&own).unwrap();
    let set = |path: &Path, n: u64| fs::write(path, format!("oom 1\noom_kill {n}\n")).unwrap();
    // Nothing can be read: nothing is known.
    let blind = Memory::of(&proc, &cgroups);
    fs::write(proc.join("self/cgroup"), "0::/virtd\n").unwrap();
    set(&own.join("memory.events"), 3);
    assert!(!blind.was_short());

    let mut memory = Memory::of(&proc, &cgroups);
    assert!(!memory.was_short(), "what was counted before is of the past");
    set(&own.join("memory.events"), 4);
    assert!(memory.was_short());
    let later = |n: u32| Instant::now() + WINDOW * n;
    memory.tick(Instant::now());
    memory.tick(later(1));
    assert!(memory.was_short(), "our hearing of it may take a while");
    memory.tick(later(3));
    assert!(!memory.was_short());

    fs::create_dir_all(own.join("frr")).unwrap();
    set(&own.join("frr/memory.events"), 1);
    assert!(memory.was_short(), "in a group that is new");
}

#[test]
fn a_signal_says_who_wanted_it() {
    let pid = Pid::from_raw(7);
    let signaled = |signal| WaitStatus::Signaled(pid, signal, false);
    for (status, short, death) in [
        (signaled(Signal::SIGKILL), false, Death::FromOutside),
        (signaled(Signal::SIGKILL), true, Death::OutOfMemory),
        (signaled(Signal::SIGTERM), true, Death::FromOutside),
        (signaled(Signal::SIGSEGV), true, Death::Crash),
        (signaled(Signal::SIGABRT), false, Death::Crash),
        (WaitStatus::Exited(pid, 0), true, Death::InOrder),
        (WaitStatus::Exited(pid, 1), false, Death::Exit),
    ] {
        assert_eq!(of(Some(&status), || short), death, "{status:?}, memory short: {short}");
    }
    assert_eq!(of(None, || true), Death::Exit);
}
