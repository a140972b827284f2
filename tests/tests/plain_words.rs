//! What operators are told is so: what `virtd --check` says of the daemons' own files, what virtctl
//! says of the router and when it fails.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use tests::daemons::{Daemon, Lie, RouterSpec};
use tests::fib::{kernel, wait_routes};
use tests::kinds::Kinds;
use tests::lab::{Lab, built, wait_for};
use tests::replayer::Replayer;
use tests::router::{Options, Router};
use tests::untested::not_tested;
use tests::versions::Version;

/// `virtd --check` of one instance that is started by its kind.
fn check(folder: &Path, instance: &str, more: &[&str]) -> Result<(Option<i32>, String)> {
    let file = folder.join("virtd.toml");
    let (hv, control) = (folder.join("hv.sock"), folder.join("control.sock"));
    let router =
        format!("[router]\naccept_any = true\nport = 1179\nshim_socket = {hv:?}\ncontrol_socket = {control:?}\n");
    fs::write(&file, format!("{router}[[instance]]\n{instance}\n"))?;
    let out = Command::new(built("virtd")?).arg("--check").arg("--config").arg(&file).args(more).output()?;
    Ok((out.status.code(), text(&out)))
}

fn text(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

/// A daemon's own configuration file, for whoever reads it.
fn daemons_file(lab: &Lab, name: &str, content: &str) -> Result<PathBuf> {
    let path = lab.folder("conf")?.join(name);
    fs::write(&path, content)?;
    // OpenBGPD refuses what others may use, FRR reads as a user of its own.
    let mode = if name.starts_with("openbgpd") { 0o600 } else { 0o644 };
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    Ok(path)
}

/// A file that its daemon takes, one that it does not, and the daemon's words about that.
const FILES: [(&str, &str, &str, &str); 3] = [
    (
        "frr",
        "router bgp 65000\n neighbor 192.0.2.1 remote-as 65001\n",
        "router bgp 65000\n neighbour 192.0.2.1 remote-as 65001\n",
        "No such command on config line 2:  neighbour 192.0.2.1 remote-as 65001",
    ),
    (
        "bird",
        "router id 192.0.2.9;\nprotocol device {}\n",
        "router id 192.0.2.9;\nprotocol bpg one {}\n",
        ":2:10 syntax error",
    ),
    ("openbgpd", "AS 65000\n", "AS 65000\nneighbor example {\n", "could not parse address spec"),
];

fn check_files(lab: &Lab, kind: &str, root: &str) -> Result<()> {
    let folder = lab.folder("check")?;
    let (_, good, bad, words) = FILES.into_iter().find(|f| f.0 == kind).context("no such kind")?;
    for (label, content) in [("good", good), ("bad", bad)] {
        let mut content = content.to_owned();
        if kind == "openbgpd" {
            content += &format!("socket {:?}\n", folder.join("instances/x/bgpd.sock"));
        }
        let file = daemons_file(lab, &format!("{kind}-{label}.conf"), &content)?;
        let instance = format!("name = \"x\"\nkind = {kind:?}\nconfig = {file:?}\n{root}");
        let (status, said) = check(&folder, &instance, &[])?;
        match label {
            "good" => ensure!(status == Some(0), "{kind}{root}: {status:?}, {said}"),
            _ => {
                let named = said.contains("instance x: config: ") && said.contains(words);
                ensure!(status == Some(1) && named, "{kind}{root}: {status:?}, {said}");
            }
        }
    }
    Ok(())
}

#[test]
fn check_has_each_daemon_look_at_its_own_file() -> Result<()> {
    let lab = Lab::new("plain-check")?;
    for (kind, ..) in FILES {
        check_files(&lab, kind, "")?;
    }
    lab.passed();
    Ok(())
}

/// In its root, by its own program: a newer release's.
#[test]
fn check_has_a_daemon_in_a_root_look_at_its_own_file() -> Result<()> {
    let lab = Lab::new("plain-check-root")?;
    for version in [Version::BIRD_13, Version::FRR_13, Version::OPENBGPD_13] {
        if let Some(root) = version.root()? {
            check_files(&lab, version.daemon.name(), &format!("root = {:?}\n", root.path))?;
        }
    }
    lab.passed();
    Ok(())
}

#[test]
fn check_tells_a_shim_that_is_no_library() -> Result<()> {
    let lab = Lab::new("plain-shim")?;
    let folder = lab.folder("check")?;
    let file = daemons_file(&lab, "bird.conf", FILES[1].1)?;
    let no_library = daemons_file(&lab, "libhvlibc.so", "#!/bin/sh\n")?;
    let instance = format!("name = \"x\"\nkind = \"bird\"\nconfig = {file:?}\n");
    for (wrong, what) in [(no_library.to_str().context("a name")?, "no ELF file"), ("/bin/sh", "a program")] {
        let (status, said) = check(&folder, &instance, &["--shim", wrong])?;
        ensure!(status == Some(1) && said.contains("the shim is no shared library") && said.contains(what), "{said}");
        let (status, said) = check(&folder, &format!("{instance}shim_library = {wrong:?}\n"), &[])?;
        let named = said.contains("instance x: shim_library: ") && said.contains("is no shared library");
        ensure!(status == Some(1) && named, "{said}");
    }
    lab.passed();
    Ok(())
}

/// The supplied units beside Debian's own: FRR's is before network.target, so virtd's must not be
/// after it.
#[test]
fn the_supplied_units_have_no_ordering_cycle() -> Result<()> {
    let lab = Lab::new("plain-units")?;
    let (units, ours) = (lab.folder("units")?, Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/systemd"));
    let wanted = units.join("multi-user.target.wants");
    fs::create_dir(&wanted)?;
    // What is wrong with paths of programs that are not installed here is not the matter.
    let unit = fs::read_to_string(ours.join("virtd.service"))?.replace("/usr/local/sbin/virtd", "/bin/true");
    fs::write(units.join("virtd.service"), unit.replace("/usr/local/bin/virtctl", "/bin/true"))?;
    std::os::unix::fs::symlink("../virtd.service", wanted.join("virtd.service"))?;
    let mut known = 0;
    for name in ["frr", "bird", "openbgpd"] {
        let theirs = Path::new("/usr/lib/systemd/system").join(format!("{name}.service"));
        known += u32::from(theirs.exists());
        let folder = units.join(format!("{name}.service.d"));
        fs::create_dir(&folder)?;
        fs::copy(ours.join(format!("{name}.conf")), folder.join("virtd.conf"))?;
        std::os::unix::fs::symlink(&theirs, wanted.join(format!("{name}.service")))?;
    }
    let verify = || {
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no", "multi-user.target"]);
        command.env("SYSTEMD_UNIT_PATH", format!("{}:", units.display())).output()
    };
    match verify() {
        Err(e) => not_tested("the units together, by systemd-analyze", &format!("it cannot be run: {e}")),
        Ok(out) => ensure!(known == 3 && !text(&out).contains("ordering cycle"), "{known} units; {}", text(&out)),
    }
    lab.passed();
    Ok(())
}

const UP: Duration = Duration::from_secs(90);
/// What BIRD says something wrong about.
const LIE: &str = "2001:db8:bad::/48";

/// OpenBGPD does not say the link-local next hop that the others do: the same in meaning, not to
/// the letter. BIRD says a community too many on one prefix.
#[test]
fn routes_and_differs_say_what_the_vote_goes_by() -> Result<()> {
    let mut lab = Lab::new("plain-routes")?;
    let star = lab.star(2)?;
    let lie = |name: &str, spec: &mut RouterSpec| {
        let prefix = LIE.parse().expect("a prefix");
        spec.lie = (name == "bird").then_some(Lie { prefix, community: (65000, 666) });
    };
    let options = Options { v4: false, v6: true, tune: lie, ..Options::default() };
    let mut router = Router::start(&lab, &star, &options)?;
    let script = lab.directory().join("script");
    fs::write(&script, format!("announce {LIE}\nannounce 2001:db8:aaaa::/48\nannounce 2001:db8:aaaa:1::/64\n"))?;
    let mut monitor = Replayer::dial(&lab, &star.sites[1], true, &["--monitor"])?;
    let peer = monitor.address().to_string();
    let mut feed = Replayer::dial(&lab, &star.sites[0], true, &["--script", &script.display().to_string()])?;
    wait_for("all routes outside", UP, || router.prefixes_out(&peer).is_ok_and(|n| n == 3))?;
    router.wait_voting(UP)?;
    wait_for("the liar to be named", UP, || !router.events("disagreement").is_empty())?;

    let shown = router.show(&["routes", "2001:db8:aaaa:1::77"])?;
    ensure!(shown.starts_with("2001:db8:aaaa:1::/64 (the longest that has 2001:db8:aaaa:1::77)\n"), "{shown}");
    ensure!(shown.contains("because 3 of 3 agree with the winner"), "{shown}");
    ensure!(shown.matches("    = ").count() == 3 && !shown.contains("    ! "), "{shown}");
    let shown = router.show(&["routes", "2001:db8:aaaa:2::77"])?;
    ensure!(shown.starts_with("2001:db8:aaaa::/48 ("), "{shown}");

    let expected = format!("{peer}  {LIE}  bird      COMMUNITIES\n");
    for words in [&["differs"][..], &["differs", "bird"]] {
        let shown = router.show(words)?;
        ensure!(shown.lines().count() == 2 && shown.ends_with(&expected), "{shown}");
    }
    ensure!(router.show(&["differs", "frr"])? == "nobody has differed for T or longer\n", "frr does not differ");

    let refused = router.show(&["events", "--kind", "disagrement"]).err().context("there is no such kind")?;
    ensure!(format!("{refused:#}").contains("near it are disagreement"), "{refused:#}");
    let mut command = Command::new(built("virtctl")?);
    command.arg("--socket").arg(lab.folder("virtd")?.join("control.sock")).args(["events", "-f", "-n", "1"]);
    let mut follower = lab.spawn("follower", &mut command)?;
    wait_for("the follower to be told the past", UP, || !follower.log().is_empty())?;
    router.virtd.signal(Signal::SIGTERM)?;
    ensure!(router.virtd.wait(UP)?.success(), "{}", router.virtd.log());
    let end = follower.wait(UP)?;
    ensure!(end.code() == Some(3), "{end}: {}", follower.log());
    ensure!(follower.log().contains("virtctl: virtd has ended"), "{}", follower.log());
    feed.wait(UP)?;
    monitor.wait(UP)?;
    lab.passed();
    Ok(())
}

/// Every write to /dev/full fails as on a full disk.
#[test]
fn a_full_event_log_stands_in_the_status() -> Result<()> {
    let mut lab = Lab::new("plain-full")?;
    let star = lab.star(1)?;
    let own = format!("event_log = {:?}", lab.folder("virtd")?.join("events.jsonl"));
    let options = Options { daemons: vec![Daemon::Bird], ..Options::default() };
    let mut router = Router::with_toml(&lab, &star, &options, |text| text.replace(&own, "event_log = \"/dev/full\""))?;
    router.launch(&lab, &star, &options)?;
    let words = "/dev/full cannot be written: No space left on device";
    wait_for("the event log's failure", UP, || router.show(&["status"]).is_ok_and(|shown| shown.contains(words)))?;
    let status = router.status()?;
    ensure!(status.event_log.as_ref().is_some_and(|log| log.lost > 0), "{status:?}");
    lab.passed();
    Ok(())
}

/// Where vtysh writes unless it is told otherwise.
const SYSTEMS: &str = "/etc/frr/frr.conf";

/// The installed FRR and, in a root, a newer one: each instance has its own file, and the system's
/// is not touched.
#[test]
fn write_memory_writes_the_instances_own_file() -> Result<()> {
    let mut lab = Lab::new("plain-write")?;
    let star = lab.star(1)?;
    let versions = vec![None, Some(Version::FRR_13)];
    let options = Options { daemons: vec![Daemon::Frr, Daemon::Frr], versions, ..Options::default() };
    if !options.there()? {
        return Ok(());
    }
    let systems = fs::read(SYSTEMS).ok();
    let kinds = Kinds::start(&lab, &star, &options, |_| String::new())?;
    for name in ["frr", "frr2"] {
        wait_for("bgpd to answer", UP, || kinds.router.show(&["exec", name, "show", "version"]).is_ok())?;
    }
    for name in ["frr", "frr2"] {
        let description = format!("written-by-{name}");
        let words = format!("configure terminal\nrouter bgp 65000\nneighbor 10.0.1.2 description {description}");
        kinds.router.show(&["exec", name, &words])?;
        let said = kinds.router.show(&["exec", name, "write", "memory"])?;
        let file = lab.folder(&format!("conf-{name}"))?.join("bgp.conf");
        let touched = fs::read(SYSTEMS).ok() != systems;
        if let (true, Some(before)) = (touched, &systems) {
            fs::write(SYSTEMS, before)?;
        }
        ensure!(!touched, "{SYSTEMS} was changed: {said}");
        ensure!(said.contains(&format!("Configuration saved to {}", file.display())), "{name}: {said}");
        ensure!(fs::read_to_string(&file)?.contains(&description), "{name}: {said}");
    }
    lab.passed();
    Ok(())
}

/// A router with [fib] ends, and one without it takes its place: the routes that the first left are
/// told of, and go when an operator says so.
#[test]
fn taking_the_fib_out_leaves_no_dead_routes() -> Result<()> {
    const ROUTES: usize = 60;
    let mut lab = Lab::new("plain-flush")?;
    let star = lab.star(1)?;
    let options = Options { daemons: vec![Daemon::Frr, Daemon::Bird], fib: true, ..Options::default() };
    let mut router = Router::start(&lab, &star, &options)?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", &ROUTES.to_string()])?;
    feed.wait_event("feed-done", UP)?;
    wait_routes(&star.router, ROUTES, UP)?;
    let refused = router.show(&["fib", "flush"]).err().context("the FIB is voted on")?;
    ensure!(format!("{refused:#}").contains("what no vote confirms is removed by itself"), "{refused:#}");
    ensure!(kernel(&star.router)?.len() == ROUTES, "nothing was removed");

    router.virtd.signal(Signal::SIGTERM)?;
    ensure!(router.virtd.wait(UP)?.success(), "{}", router.virtd.log());
    feed.wait(UP)?;
    drop(router);
    ensure!(kernel(&star.router)?.len() == ROUTES, "on_exit keeps them");
    star.router.run("ip", &["route", "add", "203.0.113.0/24", "via", &star.sites[0].v4.to_string(), "proto", "bgp"])?;

    let options = Options { fib: false, ..options };
    let router = Router::without_instances(&lab, &star, &options)?;
    wait_for("what is left to be told", UP, || !router.events("fib-left-over").is_empty())?;
    let told = router.events("fib-left-over");
    let text = told[0]["text"].as_str().unwrap_or_default();
    ensure!(told.len() == 1 && text.contains(&format!("{ROUTES} routes of protocol 245")), "{told:?}");
    for (words, why) in [(["--protocol", "186"], "is BGP's"), (["--protocol", "2"], "one of 64 to 255")] {
        let refused = router.show(&[&["fib", "flush"][..], &words].concat()).err().context("not virtd's")?;
        ensure!(format!("{refused:#}").contains(why), "{refused:#}");
    }
    let done = router.show(&["fib", "flush"])?;
    ensure!(done == format!("{ROUTES} routes of protocol 245 are removed\n"), "{done}");
    ensure!(kernel(&star.router)?.is_empty(), "{:?}", kernel(&star.router)?);
    let others = star.router.run("ip", &["route", "show", "proto", "bgp"])?;
    ensure!(others.contains("203.0.113.0/24"), "another's route was removed: {others}");
    ensure!(router.show(&["fib", "flush"])? == "0 routes of protocol 245 are removed\n", "nothing is left");
    ensure!(router.events("kernel-lacks").is_empty(), "{:?}", router.events("kernel-lacks"));
    lab.passed();
    Ok(())
}
