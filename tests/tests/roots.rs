//! Other versions that virtd starts by their kind, each in a root of its own: FRR 10.3, BIRD 2.0.7 with its older C library, and OpenBGPD 8.8
//! as one router; their control programs, a death and their end.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::daemons::Daemon;
use tests::lab::{Lab, Star, built, run, wait_for, wait_until};
use tests::replayer::Replayer;
use tests::router::{Options, Router};
use tests::versions::{self, Root, Version};

const UP: Duration = Duration::from_secs(120);
const ROUTES: u64 = 200;
/// What is run; BIRD's C library is older than the one that the usual shim is built against.
const VERSIONS: [Version; 3] = [Version::FRR_13, Version::BIRD_11, Version::OPENBGPD_13];

/// An instance's lines of virtd.toml.
struct Given {
    daemon: Daemon,
    /// `None`: it cannot be had (which was said), and the installed one takes its place.
    root: Option<Root>,
    lines: String,
}

impl Given {
    fn new(lab: &Lab, star: &Star, options: &Options, version: Version) -> Result<Given> {
        let daemon = version.daemon;
        let root = version.root()?;
        let file = configuration(lab, star, options, daemon, root.as_ref())?;
        let mut lines = format!("name = {:?}\nkind = {:?}\nconfig = {file:?}\n", daemon.name(), daemon.name());
        if let Some(root) = &root {
            lines.push_str(&format!("root = {:?}\n", root.path));
            if version == Version::BIRD_11 {
                lines.push_str(&format!("shim_library = {:?}\n", versions::shim()?));
            }
        }
        Ok(Given { daemon, root, lines })
    }

    /// The number of the version, as the daemon itself writes it: 10.3 of 10.3-3+deb13u1.
    fn number(&self) -> Option<&str> {
        self.root.as_ref().and_then(|root| root.version.split('-').next())
    }
}

/// The folder of an instance's sockets.
fn run_folder(lab: &Lab, name: &str) -> Result<PathBuf> {
    Ok(lab.folder("virtd")?.join("instances").join(name))
}

/// Writes a daemon's own file; returns where.
fn configuration(lab: &Lab, star: &Star, options: &Options, daemon: Daemon, root: Option<&Root>) -> Result<PathBuf> {
    let name = daemon.name();
    let folder = lab.folder(&format!("conf-{name}"))?;
    let file = folder.join("bgp.conf");
    let named = if daemon == Daemon::OpenBgpd { run_folder(lab, name)? } else { folder.clone() };
    fs::write(&file, daemon.configuration(&options.spec(&star.sites), &named))?;
    match daemon {
        // The numbers that count are the root's.
        Daemon::Frr => {
            let folder = folder.display().to_string();
            match root {
                Some(root) => drop(run("chown", &["-R", &owner_in(&root.path, "frr")?, &folder])?),
                None => drop(run("chown", &["-R", "frr:frr", &folder])?),
            }
        }
        Daemon::Bird => {}
        Daemon::OpenBgpd => fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?,
    }
    Ok(file)
}

/// `UID:GID` of a user of a root.
fn owner_in(root: &Path, user: &str) -> Result<String> {
    let text = fs::read_to_string(root.join("etc/passwd"))?;
    let line = text.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|l| l.first() == Some(&user));
    let line = line.with_context(|| format!("no {user} in {}", root.display()))?;
    Ok(format!("{}:{}", line.get(2).context("no uid")?, line.get(3).context("no gid")?))
}

fn pids(router: &Router, name: &str) -> Result<Vec<Pid>> {
    let answer = router.ctl(&["instances"])?;
    let list = answer["instances"].as_array().context("no instances")?;
    let found = list.iter().find(|i| i["name"] == name).and_then(|i| i["pids"].as_array()).context("no pids")?;
    Ok(found.iter().filter_map(|p| i32::try_from(p.as_i64()?).ok()).map(Pid::from_raw).collect())
}

/// Whether the instance's processes are the root's program, and see nothing else of this system: no other mounts but a few.
fn check_inside(router: &Router, given: &Given) -> Result<()> {
    let Some(root) = &given.root else { return Ok(()) };
    let program = match given.daemon {
        Daemon::Frr => "usr/lib/frr/bgpd",
        Daemon::Bird => "usr/sbin/bird",
        Daemon::OpenBgpd => "usr/sbin/bgpd",
    };
    let expected = fs::metadata(root.path.join(program))?;
    for pid in pids(router, given.daemon.name())? {
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
        let points: Vec<&str> = mounts.lines().filter_map(|l| l.split(' ').nth(4)).collect();
        let system = |p: &str| ["/dev", "/proc", "/sys"].iter().any(|s| p.starts_with(s));
        let ours =
            |p: &str| p == "/" || p == "/run" || p.starts_with("/tmp") || system(p) || p.contains("libhvlibc.so");
        let foreign: Vec<&&str> = points.iter().filter(|p| !ours(p) && !p.starts_with("/run/")).collect();
        ensure!(foreign.is_empty(), "process {pid} sees {foreign:?}");
        ensure!(!mounts.contains("/run/.outside"), "the system is still mounted:\n{mounts}");
        let found = fs::metadata(format!("/proc/{pid}/exe"))?;
        ensure!((found.dev(), found.ino()) == (expected.dev(), expected.ino()), "process {pid} is another {program}");
    }
    Ok(())
}

/// How many mounts there are in this system's own namespace.
fn mounts() -> Result<usize> {
    Ok(fs::read_to_string("/proc/self/mountinfo")?.lines().count())
}

#[test]
fn three_other_versions_by_kind_are_one_router() -> Result<()> {
    let mut lab = Lab::new("roots")?;
    let star = lab.star(2)?;
    let options = Options::default();
    let given = VERSIONS.iter().map(|v| Given::new(&lab, &star, &options, *v)).collect::<Result<Vec<_>>>()?;
    let (mounts_before, leftovers) = (mounts()?, contents(&given)?);
    let mut router = Router::with_toml(&lab, &star, &options, |mut text| {
        for one in &given {
            text = text.replace(&format!("name = {:?}\n", one.daemon.name()), &one.lines);
        }
        text + "[faults]\nrestart_min_s = 1\nrestart_max_s = 2\n"
    })?;
    let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor", "--events-updates"])?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", &ROUTES.to_string()])?;
    feed.wait_event("feed-done", UP)?;
    wait_for("all routes outside", UP, || router.prefixes_out("10.0.2.2").is_ok_and(|n| n == ROUTES))?;
    given.iter().try_for_each(|one| router.wait_state(one.daemon.name(), "voting", UP))?;
    router.wait_quiet(Duration::from_secs(1), UP)?;
    given.iter().try_for_each(|one| check_inside(&router, one))?;

    check_control_programs(&lab, &router, &given)?;

    let updates = monitor.count("update");
    for one in &given {
        die(&router, one.daemon.name())?;
    }
    ensure!(monitor.count("update") == updates, "the monitor was told something");
    monitor.finish()?.check_quiet()?;
    feed.finish()?.check_quiet()?;

    let inside = || run("ip", &["netns", "pids", star.router.name()]);
    ensure!(inside()?.lines().count() > 5, "virtd, zebra, bgpd, bird, three processes of OpenBGPD");
    router.virtd.signal(Signal::SIGTERM)?;
    ensure!(router.virtd.wait(UP)?.success(), "{}", router.virtd.log());
    let left = inside()?;
    ensure!(left.trim().is_empty(), "virtd has left {left}");
    ensure!(mounts()? == mounts_before, "{mounts_before} mounts before, {} now", mounts()?);
    let now = contents(&given)?;
    ensure!(now == leftovers, "in the roots' own /run and /tmp: {leftovers:?} before, {now:?} now");
    lab.passed();
    Ok(())
}

/// What is in the roots' own /run and /tmp.
fn contents(given: &[Given]) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for root in given.iter().filter_map(|one| one.root.as_ref()) {
        for folder in ["run", "tmp"] {
            for entry in fs::read_dir(root.path.join(folder))? {
                all.push(entry?.path());
            }
        }
    }
    all.sort();
    Ok(all)
}

/// Each root's own control program reaches its daemon, and the daemon is the version that the root has.
fn check_control_programs(lab: &Lab, router: &Router, given: &[Given]) -> Result<()> {
    for one in given {
        let name = one.daemon.name();
        let words: [&[&str]; 2] = match one.daemon {
            Daemon::Frr => [&["show", "bgp", "summary"], &["show", "version"]],
            Daemon::Bird => [&["show", "protocols"], &["show", "status"]],
            Daemon::OpenBgpd => [&["show", "summary"], &["-V"]],
        };
        let exec = |words: &[&str]| router.show(&[&["exec", name][..], words].concat());
        let peers = exec(words[0])?;
        let expected = if one.daemon == Daemon::Bird { "Established" } else { "10.0.1.2" };
        ensure!(peers.contains(expected), "{name} says {peers}");
        let Some(number) = one.number() else { continue };
        // OpenBGPD's tells its own version, and on stderr.
        let said = if one.daemon == Daemon::OpenBgpd { version_of_bgpctl(lab, name)? } else { exec(words[1])? };
        ensure!(said.contains(number), "{name} should be {number} and says {said}");
    }
    Ok(())
}

fn version_of_bgpctl(lab: &Lab, name: &str) -> Result<String> {
    let socket = lab.folder("virtd")?.join("control.sock").display().to_string();
    let out = std::process::Command::new(built("virtctl")?).args(["--socket", &socket, "exec", name, "-V"]).output()?;
    Ok(String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
}

/// Kills a process of an instance, which comes back voting.
fn die(router: &Router, name: &str) -> Result<()> {
    let old = pids(router, name)?;
    kill(*old.first().with_context(|| format!("{name} has no process"))?, Signal::SIGKILL)?;
    wait_until(&format!("{name} to vote as new processes"), UP, || {
        let now = pids(router, name).map_err(|e| format!("{e:#}"))?;
        let state = router.state_of(name).map_err(|e| format!("{e:#}"))?;
        let new = !now.is_empty() && now.iter().all(|p| !old.contains(p));
        if new && state == "voting" { Ok(()) } else { Err(format!("{state}, {old:?} and now {now:?}")) }
    })
}
