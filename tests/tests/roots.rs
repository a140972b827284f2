//! Other versions that virtd starts by their kind, each in a root of its own: FRR 10.3 twice in the
//! same root, FRR 7.5 and BIRD 2.0.7 with an older C library, BIRD 3 and OpenBGPD 8.8 as one
//! router; their control programs, deaths and their end.

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
use tests::untested::not_tested;
use tests::versions::{Root, Version, top};

const UP: Duration = Duration::from_secs(120);
const ROUTES: u64 = 200;
/// What is run, and under which names.
const VERSIONS: [(&str, Version); 6] = [
    ("frr", Version::FRR_13),
    ("bird", Version::BIRD_11),
    ("openbgpd", Version::OPENBGPD_13),
    ("frr2", Version::FRR_13),
    ("frr3", Version::FRR_11),
    ("bird2", Version::BIRD3_13),
];

/// An instance's lines of virtd.toml.
struct Given {
    name: &'static str,
    daemon: Daemon,
    root: Root,
    lines: String,
}

impl Given {
    fn new(lab: &Lab, star: &Star, options: &Options, name: &'static str, version: Version) -> Result<Given> {
        let daemon = version.daemon;
        let root = version.needed()?;
        let file = configuration(lab, star, options, name, daemon, &root)?;
        let mut lines = format!("name = {:?}\nkind = {:?}\nconfig = {file:?}\n", name, daemon.name());
        // By its name, and by its folder.
        lines.push_str(&match version {
            Version::BIRD_11 | Version::BIRD3_13 => format!("version = {:?}\n", version.word()),
            _ => format!("root = {:?}\n", root.path),
        });
        Ok(Given { name, daemon, root, lines })
    }

    /// The number of the version, as the daemon itself writes it: 10.3 of 10.3-3+deb13u1.
    fn number(&self) -> &str {
        self.root.version.split('-').next().unwrap_or_default()
    }
}

/// The folder of an instance's sockets.
fn run_folder(lab: &Lab, name: &str) -> Result<PathBuf> {
    Ok(lab.folder("virtd")?.join("instances").join(name))
}

/// Writes a daemon's own file; returns where.
fn configuration(
    lab: &Lab,
    star: &Star,
    options: &Options,
    name: &str,
    daemon: Daemon,
    root: &Root,
) -> Result<PathBuf> {
    let folder = lab.folder(&format!("conf-{name}"))?;
    let file = folder.join("bgp.conf");
    let named = if daemon == Daemon::OpenBgpd { run_folder(lab, name)? } else { folder.clone() };
    fs::write(&file, daemon.configuration(&options.spec(&star.sites), &named))?;
    match daemon {
        // The numbers that count are the root's.
        Daemon::Frr => {
            let folder = folder.display().to_string();
            run("chown", &["-R", &owner_in(&root.path, "frr")?, &folder])?;
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
    Ok(router.known(name)?.pids.into_iter().filter_map(|p| i32::try_from(p).ok()).map(Pid::from_raw).collect())
}

/// Whether the instance's processes are the root's program, and see nothing else of this system: no
/// other mounts but a few.
fn check_inside(router: &Router, given: &Given) -> Result<()> {
    let root = &given.root;
    let program = match given.daemon {
        Daemon::Frr => "usr/lib/frr/bgpd",
        Daemon::Bird => "usr/sbin/bird",
        Daemon::OpenBgpd => "usr/sbin/bgpd",
    };
    let expected = fs::metadata(root.path.join(program))?;
    for pid in pids(router, given.name)? {
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
        let points: Vec<&str> = mounts.lines().filter_map(|l| l.split(' ').nth(4)).collect();
        let system = |p: &str| ["/dev", "/proc", "/sys"].iter().any(|s| p.starts_with(s));
        let ours =
            |p: &str| p == "/" || p == "/run" || p.starts_with("/tmp") || system(p) || p.contains("libhvlibc.so");
        let foreign: Vec<&&str> = points.iter().filter(|p| !ours(p) && !p.starts_with("/run/")).collect();
        ensure!(foreign.is_empty(), "process {pid} sees {foreign:?}");
        ensure!(!mounts.contains("/run/.outside"), "the system is still mounted:\n{mounts}");
        // Only an unpacked root has this file, and OpenBGPD's session engine has gone deeper by
        // itself.
        run("nsenter", &["-t", &pid.to_string(), "-m", "--", "ls", "/.complete"])?;
        let found = fs::metadata(format!("/proc/{pid}/exe"))?;
        ensure!((found.dev(), found.ino()) == (expected.dev(), expected.ino()), "process {pid} is another {program}");
    }
    Ok(())
}

/// Where something is mounted in this system's own namespace, without the network namespaces of
/// scenarios.
fn mounts() -> Result<Vec<String>> {
    let all = fs::read_to_string("/proc/self/mountinfo")?;
    let points = all.lines().filter_map(|l| l.split(' ').nth(4)).filter(|p| !p.starts_with("/run/netns"));
    Ok(points.map(str::to_owned).collect())
}

struct Scene {
    lab: Lab,
    star: Star,
    given: Vec<Given>,
    router: Router,
}

/// Whether these can be had; one that cannot is written down as not tested.
fn there(versions: &[(&'static str, Version)]) -> Result<bool> {
    let versions = versions.iter().map(|(_, version)| Some(*version)).collect();
    Options { versions, ..Options::default() }.there()
}

impl Scene {
    fn new(name: &str, versions: &[(&'static str, Version)]) -> Result<Scene> {
        let mut lab = Lab::new(name)?;
        let star = lab.star(2)?;
        let options = Options { daemons: versions.iter().map(|(_, v)| v.daemon).collect(), ..Options::default() };
        let given = versions.iter().map(|(name, v)| Given::new(&lab, &star, &options, name, *v));
        let given = given.collect::<Result<Vec<_>>>()?;
        let router = Scene::virtd(&lab, &star, &options, &given)?;
        Ok(Scene { lab, star, given, router })
    }

    fn virtd(lab: &Lab, star: &Star, options: &Options, given: &[Given]) -> Result<Router> {
        Router::with_toml(lab, star, options, |mut text| {
            for one in given {
                text = text.replace(&format!("name = {:?}\n", one.name), &one.lines);
            }
            text = text.replacen("[router]\n", &format!("[router]\nversions = {:?}\n", top()), 1);
            text + "[faults]\nrestart_min_s = 1\nrestart_max_s = 2\n"
        })
    }

    /// A neighbour comes, tells some routes, and goes when everybody votes.
    fn voting_after_feed(&self, site: usize) -> Result<()> {
        let site = self.star.sites.get(site).context("no such site")?;
        let mut feed = Replayer::dial(&self.lab, site, false, &["--generate", "100"])?;
        feed.wait_event("feed-done", UP)?;
        self.voting()
    }

    fn voting(&self) -> Result<()> {
        self.given.iter().try_for_each(|one| self.router.wait_state(one.name, "voting", UP))
    }

    /// Ends virtd, and finds nothing of it.
    fn end(&mut self) -> Result<()> {
        self.router.virtd.signal(Signal::SIGTERM)?;
        ensure!(self.router.virtd.wait(UP)?.success(), "{}", self.router.virtd.log());
        let left = run("ip", &["netns", "pids", self.star.router.name()])?;
        ensure!(left.trim().is_empty(), "virtd has left {left}");
        Ok(())
    }
}

#[test]
fn six_other_versions_by_kind_are_one_router() -> Result<()> {
    if !there(&VERSIONS)? {
        return Ok(());
    }
    let mounts_before = mounts()?;
    let mut scene = Scene::new("roots", &VERSIONS)?;
    let leftovers = contents(&scene.given)?;
    let router = &scene.router;
    let mut monitor = Replayer::dial(&scene.lab, &scene.star.sites[1], false, &["--monitor", "--events-updates"])?;
    let mut feed = Replayer::dial(&scene.lab, &scene.star.sites[0], false, &["--generate", &ROUTES.to_string()])?;
    feed.wait_event("feed-done", UP)?;
    wait_for("all routes outside", UP, || router.prefixes_out("10.0.2.2").is_ok_and(|n| n == ROUTES))?;
    scene.voting()?;
    router.wait_quiet(Duration::from_secs(1), UP)?;
    scene.given.iter().try_for_each(|one| check_inside(router, one))?;
    check_control_programs(&scene.lab, router, &scene.given)?;

    let updates = monitor.count("update");
    for name in ["frr", "bird", "openbgpd"] {
        die(router, name)?;
    }
    scene.voting()?;
    ensure!(monitor.count("update") == updates, "the monitor was told something");
    monitor.finish()?.check_quiet()?;
    feed.finish()?.check_quiet()?;

    let inside = run("ip", &["netns", "pids", scene.star.router.name()])?;
    ensure!(
        inside.lines().count() > 11,
        "virtd, three zebras and bgpds, two birds, three processes of OpenBGPD: {inside}"
    );
    scene.end()?;
    let now = contents(&scene.given)?;
    ensure!(now == leftovers, "in the roots' own /run and /tmp: {leftovers:?} before, {now:?} now");
    let mounts = mounts()?;
    ensure!(mounts == mounts_before, "{mounts_before:?} before, {mounts:?} now");
    scene.lab.passed();
    Ok(())
}

/// FRR changes its user, so the kernel does not end it with a virtd that is killed; the next virtd
/// knows it by its command line, which is the same in a root.
#[test]
fn what_a_killed_virtd_leaves_in_a_root_is_replaced() -> Result<()> {
    if !there(&VERSIONS[..2])? {
        return Ok(());
    }
    let mut scene = Scene::new("roots-leftovers", &VERSIONS[..2])?;
    scene.voting_after_feed(0)?;
    let old = pids(&scene.router, "frr")?;
    scene.router.virtd.crash();
    let options = Options { daemons: scene.given.iter().map(|one| one.daemon).collect(), ..Options::default() };
    scene.router = Scene::virtd(&scene.lab, &scene.star, &options, &scene.given)?;
    wait_for("the old FRR to be gone", UP, || old.iter().all(|pid| kill(*pid, None).is_err()))?;
    scene.voting_after_feed(1)?;
    let now = pids(&scene.router, "frr")?;
    ensure!(now.len() == 1 && !old.contains(&now[0]), "{old:?} and now {now:?}");
    ensure!(scene.router.virtd.log().contains("is left from an earlier virtd"), "{}", scene.router.virtd.log());
    scene.end()?;
    scene.lab.passed();
    Ok(())
}

/// What no C library older than 2.34 has: the function was in another library before.
const YOUNG: &str = "#include <pthread.h>\nint young(pthread_key_t *key) { return pthread_key_create(key, 0); }\n";

/// The loader would only warn about a shim that it cannot load, and the daemon go around virtd; so
/// virtd asks it first.
#[test]
fn a_shim_that_the_roots_c_library_refuses_is_named_before_the_start() -> Result<()> {
    let Some(root) = Version::BIRD_11.root()? else { return Ok(()) };
    let libc = run("getconf", &["GNU_LIBC_VERSION"])?;
    let number: Vec<u32> = libc.trim().rsplit([' ', '.']).take(2).filter_map(|n| n.parse().ok()).collect();
    // Debian 11 has 2.31.
    if number.first().is_none_or(|minor| *minor < 34) {
        let why = format!("{} is not newer than that of {}", libc.trim(), root.path.display());
        not_tested("a shim for this system's C library in the root of bullseye", &why);
        return Ok(());
    }
    let lab = Lab::new("roots-shim")?;
    let folder = lab.folder("virtd")?;
    let (config, bird) = (folder.join("virtd.toml"), folder.join("bird.conf"));
    // What BIRD takes: it is asked, too.
    fs::write(&bird, "protocol device {}\n")?;
    let (source, young) = (folder.join("young.c"), folder.join("young").join("libhvlibc.so"));
    fs::write(&source, YOUNG)?;
    fs::create_dir(folder.join("young"))?;
    let (from, to) = (source.display().to_string(), young.display().to_string());
    run("cc", &["-shared", "-fPIC", "-o", &to, &from])?;
    let check = |options: &[&str], more: &str| {
        let text = format!(
            "[router]\naccept_any = true\nshim_socket = {:?}\n[[instance]]\nname = \"bird\"\nkind = \"bird\"\nconfig = {bird:?}\nroot = {:?}\n{more}",
            folder.join("hv.sock"),
            root.path
        );
        fs::write(&config, text)?;
        run(built("virtd")?, &[&["--config", &config.display().to_string(), "--check"], options].concat())
    };
    let own = format!("shim_library = {young:?}\n");
    for (options, more, remedy) in [(&["--shim", &to][..], "", "by `shim_library`"), (&[], &own, "must be built for")] {
        let error = check(options, more).err().context("a shim built for a newer C library should be refused")?;
        let text = format!("{error:#}");
        ensure!(text.contains("libhvlibc.so") && text.contains(remedy), "{text}");
    }
    // The usual one is for old ones, too.
    check(&[], "")?;
    lab.passed();
    Ok(())
}

/// What is in the roots' own /run and /tmp.
fn contents(given: &[Given]) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for root in given.iter().map(|one| &one.root) {
        for folder in ["run", "tmp"] {
            for entry in fs::read_dir(root.path.join(folder))? {
                all.push(entry?.path());
            }
        }
    }
    all.sort();
    Ok(all)
}

/// Each root's own control program reaches its daemon, and the daemon is the version that the root
/// has.
fn check_control_programs(lab: &Lab, router: &Router, given: &[Given]) -> Result<()> {
    for one in given {
        let name = one.name;
        let words: [&[&str]; 2] = match one.daemon {
            Daemon::Frr => [&["show", "bgp", "summary"], &["show", "version"]],
            Daemon::Bird => [&["show", "protocols"], &["show", "status"]],
            Daemon::OpenBgpd => [&["show", "summary"], &["-V"]],
        };
        let exec = |words: &[&str]| router.show(&[&["exec", name][..], words].concat());
        let peers = exec(words[0])?;
        let expected = if one.daemon == Daemon::Bird { "Established" } else { "10.0.1.2" };
        ensure!(peers.contains(expected), "{name} says {peers}");
        let number = one.number();
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
