//! The configurations in examples/three, three-versions and five are the ones that the scenarios
//! run with, line by line, and each daemon accepts them; the routers of the two with versions are
//! started as they stand there.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::daemons::{Daemon, PeerSpec, RouterSpec};
use tests::lab::{Lab, Star, run, wait_until};
use tests::neighbours::prefixes;
use tests::replayer::Replayer;
use tests::router::{Options, Router, WORKER};
use tests::versions::{Version, top};
use virtd_api::Instances;

const UP: Duration = Duration::from_secs(120);
const ROUTES: u64 = 100;
const THREE: &str = "three";
/// Those whose instances virtd starts, with the versions they need and the versions they are, by
/// instance.
const WITH_VERSIONS: [(&str, &[Version], &[&str]); 2] = [
    ("three-versions", &[Version::BIRD_11], &["frr", "bird-2.0.7", "openbgpd"]),
    ("five", &[Version::FRR_13, Version::BIRD3_13], &["frr-8", "bird-2", "openbgpd", "frr-10", "bird-3"]),
];

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

/// What an example's router is to do, in no daemon's words.
fn spec(name: &str) -> Result<RouterSpec> {
    let peer =
        |theirs: &str, ours: &str, asn| Ok::<_, anyhow::Error>(PeerSpec::new(theirs.parse()?, ours.parse()?, asn));
    let (mut peers, mut own) =
        (vec![peer("192.0.2.2", "192.0.2.1", 64501)?, peer("2001:db8::2", "2001:db8::1", 64501)?], "198.51.100.0/24");
    if name != THREE {
        peers.insert(1, peer("198.18.0.2", "198.18.0.1", 64502)?);
        peers.push(peer("2001:db8:1::2", "2001:db8:1::1", 64502)?);
        own = "203.0.113.0/24";
    }
    Ok(RouterSpec {
        asn: 65000,
        router_id: [192, 0, 2, 1].into(),
        peers,
        networks: prefixes(&[own])?,
        lie: None,
        fib: false,
    })
}

fn all() -> impl Iterator<Item = &'static str> {
    [THREE].into_iter().chain(WITH_VERSIONS.map(|(name, ..)| name))
}

/// The lines that mean something and do not name a file of this machine.
fn meaningful(text: &str) -> Vec<&str> {
    let comment = |l: &&str| l.is_empty() || l.starts_with(['#', '!']);
    let file = |l: &&str| l.starts_with("log ") || l.starts_with("socket ");
    text.lines().map(str::trim).filter(|l| !comment(l) && !file(l)).collect()
}

#[test]
fn the_example_files_are_what_the_scenarios_use() -> Result<()> {
    for name in all() {
        let spec = spec(name)?;
        for daemon in Daemon::ALL {
            let path = example(name).join(format!("{}.conf", daemon.name()));
            let file = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            let ours = daemon.configuration(&spec, Path::new("/run"));
            assert_eq!(meaningful(&file), meaningful(&ours), "{}", path.display());
        }
    }
    Ok(())
}

#[test]
fn each_daemon_accepts_its_example() -> Result<()> {
    let lab = Lab::new("examples")?;
    for name in all() {
        let folder = lab.folder(name)?;
        for daemon in Daemon::ALL {
            let name_of = format!("{}.conf", daemon.name());
            fs::copy(example(name).join(&name_of), folder.join(&name_of))?;
        }
        let file = |name: &str| folder.join(name).display().to_string();
        run("chmod", &["600", &file("openbgpd.conf")])?;
        run("/usr/sbin/bgpd", &["-n", "-f", &file("openbgpd.conf")])?;
        run("bird", &["-p", "-c", &file("bird.conf")])?;
        // bgpd says on stderr what it does not understand, and is content all the same.
        let dry = format!("/usr/lib/frr/bgpd --dryrun --skip_runas -f {} 2>&1", file("frr.conf"));
        let answer = run("sh", &["-c", &dry])?;
        // A killed FRR leaves a folder by the number of its process, and numbers come again.
        let about_files = |l: &&str| l.contains("/var/tmp/frr/") || l.contains("crashlog");
        let complaints: Vec<&str> = answer.lines().filter(|l| !l.trim().is_empty() && !about_files(l)).collect();
        ensure!(complaints.is_empty(), "bgpd: {answer}");
    }
    lab.passed();
    Ok(())
}

#[test]
fn three_versions_are_one_router() -> Result<()> {
    start_example(WITH_VERSIONS[0])
}

#[test]
fn five_voters_of_mixed_code_bases_and_versions_are_one_router() -> Result<()> {
    start_example(WITH_VERSIONS[1])
}

/// Starts an example as it stands in its folder, but for where its files are; two neighbours see
/// each other's routes, and everybody votes.
fn start_example((name, versions, instances): (&str, &[Version], &[&str])) -> Result<()> {
    let mut numbers = Vec::new();
    for version in versions {
        // Without it the example cannot be; that was said.
        let Some(root) = version.root()? else { return Ok(()) };
        // 10.3 of 10.3-3+deb13u1.
        numbers.push(root.version.split('-').next().unwrap_or_default().to_owned());
    }
    let mut lab = Lab::new(name)?;
    let star = at_the_examples_addresses(lab.star(2)?)?;
    let mut router = virtd(&lab, &star, name)?;

    let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor"])?;
    let mut monitor6 = Replayer::dial(&lab, &star.sites[1], true, &["--monitor"])?;
    let routes = ROUTES.to_string();
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", &routes])?;
    let mut feed6 =
        Replayer::dial(&lab, &star.sites[0], true, &["--generate", &routes, "--ipv6-share", "1", "--seed", "2"])?;
    for replayer in [&mut feed, &mut feed6] {
        replayer.wait_event("feed-done", UP)?;
    }
    // The own network is an IPv4 one.
    for (peer, routes) in [("198.18.0.2", ROUTES + 1), ("2001:db8:1::2", ROUTES), ("192.0.2.2", 1)] {
        wait_until(&format!("{routes} routes to be told to {peer}"), UP, || match router.prefixes_out(peer) {
            Ok(n) if n == routes => Ok(()),
            Ok(n) => Err(format!("{n}")),
            Err(e) => Err(format!("{e:#}")),
        })?;
    }
    instances.iter().try_for_each(|i| router.wait_state(i, "voting", UP))?;
    router.wait_quiet(Duration::from_secs(1), UP)?;
    ensure!(router.status()?.voters == instances.len(), "{:?}", router.status()?);
    check_versions(&router, instances, &numbers)?;
    let dissent = router.status()?.disagreements_now;
    ensure!(dissent == 0, "{dissent} disagreements: {:?}", router.events("disagreement"));
    for replayer in [&mut feed, &mut feed6, &mut monitor, &mut monitor6] {
        replayer.finish()?.check_quiet()?;
    }
    router.virtd.signal(Signal::SIGTERM)?;
    ensure!(router.virtd.wait(UP)?.success(), "{}", router.virtd.log());
    lab.passed();
    Ok(())
}

/// Every instance says which version it is, and those of other releases are the ones that were
/// fetched.
fn check_versions(router: &Router, instances: &[&str], numbers: &[String]) -> Result<()> {
    wait_until("every instance to have said its version", UP, || {
        let answer: Instances = router.ctl(&["instances"]).map_err(|e| format!("{e:#}"))?;
        let said: Vec<&str> = answer.instances.iter().filter_map(|i| i.version.as_deref()).collect();
        let all = said.len() == instances.len() && numbers.iter().all(|n| said.contains(&n.as_str()));
        if all { Ok(()) } else { Err(format!("{said:?}, with {numbers:?} among them")) }
    })?;
    println!("{}", router.show(&["instances"])?);
    Ok(())
}

/// Gives both ends of each link the addresses that the examples have.
fn at_the_examples_addresses(mut star: Star) -> Result<Star> {
    let documentation = |net, host| Ipv6Addr::new(0x2001, 0xdb8, net, 0, 0, 0, 0, host);
    for (i, site) in star.sites.iter_mut().enumerate() {
        let v4 = |host| if i == 0 { Ipv4Addr::new(192, 0, 2, host) } else { Ipv4Addr::new(198, 18, 0, host) };
        let net = u16::try_from(i)?;
        (site.v4, site.router_v4, site.v6, site.router_v6) =
            (v4(2), v4(1), documentation(net, 2), documentation(net, 1));
        site.asn = 64501 + u32::from(net);
        let near = format!("n{}", site.number);
        for (ns, device, v4, v6) in
            [(&star.router, near.as_str(), site.router_v4, site.router_v6), (&site.ns, "r0", site.v4, site.v6)]
        {
            run("ip", &["-n", ns.name(), "address", "add", &format!("{v4}/24"), "dev", device])?;
            run("ip", &["-n", ns.name(), "address", "add", &format!("{v6}/64"), "dev", device, "nodad"])?;
        }
    }
    Ok(star)
}

/// virtd with an example's files, copied to where this scenario may write.
fn virtd(lab: &Lab, star: &Star, name: &str) -> Result<Router> {
    let (etc, run_folder) = (lab.folder("etc")?, lab.folder("virtd")?);
    for daemon in Daemon::ALL {
        let file = format!("{}.conf", daemon.name());
        let text = fs::read_to_string(example(name).join(&file))?;
        let text = text.replace("/run/virtd/", &format!("{}/", run_folder.display()));
        fs::write(etc.join(&file), text)?;
        // As the README has it.
        fs::set_permissions(etc.join(&file), fs::Permissions::from_mode(0o600))?;
    }
    run("chown", &["frr:frr", &etc.join("frr.conf").display().to_string()])?;
    let text = fs::read_to_string(example(name).join("virtd.toml"))?;
    let text = text.replace("\"/etc/virtd/", &format!("\"{}/", etc.display()));
    let paths = format!(
        "[router]\nuser = {WORKER:?}\nshim_socket = {:?}\ncontrol_socket = {:?}\nstate = {:?}\nevent_log = {:?}\nversions = {:?}\n",
        run_folder.join("hv.sock"),
        run_folder.join("control.sock"),
        run_folder.join("state.json"),
        run_folder.join("events.jsonl"),
        top()
    );
    ensure!(text.contains("[router]\n"), "no [router] in {name}");
    Router::with_toml(lab, star, &Options::default(), |_| text.replacen("[router]\n", &paths, 1))
}
