//! The way of docs/INSTALL.md, "Installing in front of a running router", with FRR as Debian
//! runs it (frrinit.sh, watchfrr, zebra, staticd, bgpd, real routes in the kernel): without virtd,
//! native, voted, with an observer, three voters of which one lies, and all the way back. What both
//! neighbours see at each step is what that table says, and the routes are those of the beginning.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::daemons::{Daemon, Lie, PeerSpec, RouterSpec};
use tests::fib::{Hop, by_protocol};
use tests::lab::{Lab, Netns, Process, Star, run, wait_until};
use tests::neighbours::{Kind, Neighbour, NeighbourSpec, prefixes};
use tests::operate::control;
use tests::replayer::Replayer;
use tests::router::{ASN, Options, ROUTER_ID, Router, WORKER};

const UP: Duration = Duration::from_secs(120);
/// What BIRD lies about: a prefix that the first neighbour has announced.
const LIED: &str = "198.51.100.0/24";
const NATIVE: &str = include_str!("../../examples/native.toml");
/// Puts folders in the place of /etc/frr and /run/frr, for one command and what it starts.
const INSIDE: &str = "mount --bind \"$0\" /etc/frr && mount --bind \"$1\" /run/frr && shift && exec \"$@\"";

/// FRR as its Debian package runs it, in a namespace and with folders of its own.
struct Frr {
    ns: Netns,
    etc: PathBuf,
    run: PathBuf,
}

impl Frr {
    /// Writes its files; `daemons` is the package's own but for bgpd.
    fn new(lab: &Lab, ns: &Netns, spec: &RouterSpec) -> Result<Frr> {
        let (etc, state) = (lab.folder("etc-frr")?, lab.folder("run-frr")?);
        let daemons = fs::read_to_string("/etc/frr/daemons").context("the frr package's own file")?;
        let bgpd = daemons.lines().map(|l| if l.starts_with("bgpd=") { "bgpd=yes" } else { l });
        let lines: Vec<&str> = bgpd.filter(|l| !l.starts_with("bgpd_wrap=")).collect();
        fs::write(etc.join("daemons"), lines.join("\n") + "\n")?;
        fs::write(etc.join("vtysh.conf"), "service integrated-vtysh-config\n")?;
        fs::write(etc.join("frr.conf"), Daemon::Frr.configuration(spec, &state))?;
        for folder in [&etc, &state] {
            run("chown", &["-R", "frr:frr", &folder.display().to_string()])?;
        }
        lab.watch_log(&state.join("frr.log"));
        Ok(Frr { ns: ns.clone(), etc, run: state })
    }

    /// The line of docs/INSTALL.md in /etc/frr/daemons, or that line gone again.
    fn wrap(&self, shim: Option<(&Path, &Path)>) -> Result<()> {
        let path = self.etc.join("daemons");
        let text = fs::read_to_string(&path)?;
        let mut lines: Vec<String> = text.lines().filter(|l| !l.starts_with("bgpd_wrap=")).map(str::to_owned).collect();
        if let Some((library, socket)) = shim {
            lines.push(format!(
                "bgpd_wrap=\"/usr/bin/env LD_PRELOAD={} HV_SOCKET={} HV_INSTANCE=frr\"",
                library.display(),
                socket.display()
            ));
        }
        Ok(fs::write(&path, lines.join("\n") + "\n")?)
    }

    /// What `systemctl start frr`, `systemctl stop frr` have run.
    fn service(&self, lab: &Lab, word: &str) -> Result<()> {
        let mut command = self.ns.command("unshare");
        command.args(["-m", "sh", "-c", INSIDE]).args([&self.etc, &self.run]);
        command.args(["/usr/lib/frr/frrinit.sh", word]);
        let status = lab.spawn("frrinit", &mut command)?.wait(UP)?;
        ensure!(status.success(), "frrinit.sh {word}: {status}");
        Ok(())
    }
}

/// Next hop and AS path by prefix.
type Routes = BTreeMap<String, (String, String)>;

/// What a neighbour sees.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    /// Sessions that it has had.
    sessions: usize,
    /// Everything that it was ever told, so that nothing told is nothing changed.
    told: String,
    /// Some of what it is told has its own AS in the path, which no router takes (RFC 4271, section
    /// 9.1.2). FRR sends such routes back, the other daemons do not, and virtd does not pass them on.
    looped: bool,
    /// The others.
    routes: Routes,
}

/// What hv-replay sees, by its events.
fn scripted(replayer: &Replayer, asn: u32) -> Seen {
    let (mut sessions, mut updates, mut looped, mut routes) = (0, 0, false, Routes::new());
    let list = |v: &Value| v.as_array().cloned().unwrap_or_default();
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    for event in replayer.events() {
        if event["event"] == "session-up" {
            (sessions, looped, routes) = (sessions + 1, false, Routes::new());
        }
        if event["event"] == "session-down" {
            routes.clear();
        }
        if event["event"] != "update" {
            continue;
        }
        updates += 1;
        for prefix in list(&event["withdrawn"]) {
            routes.remove(&text(&prefix));
        }
        for group in list(&event["announced"]) {
            let route = (text(&group["route"]["next_hop"]), text(&group["route"]["as_path"]));
            let own = route.1.split(' ').any(|of| of == asn.to_string());
            for prefix in list(&group["prefixes"]).iter().map(text) {
                routes.remove(&prefix);
                looped |= own;
                if !own {
                    routes.insert(prefix, route.clone());
                }
            }
        }
    }
    Seen { sessions, told: format!("{updates} UPDATEs"), looped, routes }
}

/// What BIRD sees: by its log, its routes and its own counts of what it was told.
fn real(bird: &mut Neighbour, ns: &Netns) -> Result<Seen> {
    let sessions = bird.history().established;
    let instance = bird.instance().context("a daemon")?;
    let protocol = control(instance, ns, "show protocols all peer0")?;
    let told: Vec<&str> = protocol.lines().map(str::trim).filter(|l| l.starts_with("Import ")).collect();
    let (mut routes, mut prefix) = (Routes::new(), String::new());
    let (mut path, mut found) = (String::new(), control(instance, ns, "show route all protocol peer0")?);
    found.push('\n');
    for line in found.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if first.contains('/') {
            first.clone_into(&mut prefix);
        }
        if let Some(of) = line.trim().strip_prefix("BGP.as_path: ") {
            of.clone_into(&mut path);
        }
        if let Some(hop) = line.trim().strip_prefix("BGP.next_hop: ") {
            routes.insert(prefix.clone(), (hop.to_owned(), path.clone()));
        }
    }
    // BIRD does not show what it does not take.
    Ok(Seen { sessions, told: told.join("; "), looped: false, routes })
}

/// Both neighbours' views, and the kernel's routes of FRR's.
#[derive(Clone, Debug, PartialEq, Eq)]
struct View {
    scripted: Seen,
    real: Seen,
    kernel: BTreeMap<String, Vec<Hop>>,
}

struct Scene {
    lab: Lab,
    star: Star,
    frr: Frr,
    script: Replayer,
    bird: Neighbour,
    /// `ip monitor route`.
    monitor: Process,
    /// Sessions that each neighbour has had.
    sessions: usize,
    /// How it all was without virtd.
    first: Option<View>,
}

impl Scene {
    fn view(&mut self) -> Result<View> {
        let kernel = by_protocol(&self.star.router, "bgp")?;
        let real = real(&mut self.bird, &self.star.sites[1].ns)?;
        Ok(View { scripted: scripted(&self.script, self.star.sites[0].asn), real, kernel })
    }

    /// Whether the first neighbour is sent its own routes back.
    fn looped(&self) -> bool {
        scripted(&self.script, self.star.sites[0].asn).looped
    }

    /// What FRR has done to the kernel's routes so far.
    fn kernel_changes(&self) -> Vec<String> {
        self.monitor.log().lines().filter(|l| l.contains("proto bgp")).map(str::to_owned).collect()
    }

    /// A step that ends each session, once: then everything is as it was without virtd.
    fn ends_each_session_once(&mut self, step: &str) -> Result<()> {
        self.sessions += 1;
        let (first, sessions) = (self.first.clone().context("no first view")?, self.sessions);
        let view = wait_until(&format!("{step}: the routes to be those of the beginning"), UP, || {
            let now = self.view().map_err(|e| format!("{e:#}"))?;
            let same = |a: &Seen, b: &Seen| a.routes == b.routes && a.sessions >= sessions;
            let all =
                same(&now.scripted, &first.scripted) && same(&now.real, &first.real) && now.kernel == first.kernel;
            if all { Ok(now) } else { Err(format!("\nnow {now:#?}\nand at first {first:#?}")) }
        })?;
        let counts = [view.scripted.sessions, view.real.sessions];
        ensure!(counts == [sessions; 2], "{step}: {counts:?} sessions so far and not {sessions} each");
        println!("{step}: each session ended once, all {} routes as before", view.kernel.len());
        Ok(())
    }

    /// A step that nobody outside is to notice: `work` does it, and waits for what it does inside.
    fn nobody_notices(&mut self, step: &str, work: impl FnOnce(&mut Scene) -> Result<()>) -> Result<()> {
        let (before, changes) = (self.view()?, self.kernel_changes());
        work(self)?;
        let after = self.view()?;
        ensure!(before == after, "{step}: seen before {before:#?}\nand after {after:#?}");
        let now = self.kernel_changes();
        ensure!(changes == now, "{step}: the kernel's routes were changed: {:?}", now.get(changes.len()..));
        println!("{step}: no session ended, no UPDATE, no route of the kernel touched");
        Ok(())
    }
}

/// What each daemon of the router is told.
fn spec(star: &Star) -> Result<RouterSpec> {
    let peers = star.sites.iter().enumerate().map(|(n, site)| {
        let (theirs, ours) = site.addresses(false);
        // The first neighbour dials us, the second is dialled.
        PeerSpec { passive: n == 0, ..PeerSpec::new(theirs, ours, site.asn) }
    });
    Ok(RouterSpec {
        asn: ASN,
        router_id: ROUTER_ID,
        peers: peers.collect(),
        networks: prefixes(&["203.0.113.0/24"])?,
        lie: None,
        fib: false,
    })
}

fn start() -> Result<Scene> {
    let mut lab = Lab::new("drop-in")?;
    let star = lab.star(2)?;
    let monitor = lab.spawn("ip-monitor", star.router.command("ip").args(["monitor", "route"]))?;
    let frr = Frr::new(&lab, &star.router, &spec(&star)?)?;
    frr.service(&lab, "start")?;
    let [one, two] = star.sites.as_slice() else { anyhow::bail!("two sites") };
    let lines = format!(
        "announce {LIED},192.0.2.0/25 as-path {0} 64999\nannounce 100.64.0.0/16 as-path {0}\neor\nwait 60m\n",
        one.asn
    );
    let file = lab.directory().join("script");
    fs::write(&file, lines)?;
    let file = file.display().to_string();
    let arguments = ["--script", &file, "--keep-as-path", "--reconnect", "--events-updates"];
    let script = Replayer::dial(&lab, one, false, &arguments)?;
    let networks = prefixes(&["100.80.0.0/16", "100.81.1.0/24"])?;
    let theirs = NeighbourSpec { router_asn: ASN, v6: false, passive: true, password: None, networks };
    let bird = Neighbour::start(&lab, two, Kind::Daemon(Daemon::Bird), &theirs)?;
    let mut scene = Scene { lab, star, frr, script, bird, monitor, sessions: 1, first: None };
    let first = wait_until("FRR alone to be a router", UP, || {
        let view = scene.view().map_err(|e| format!("{e:#}"))?;
        let sizes = [view.scripted.routes.len(), view.real.routes.len(), view.kernel.len()];
        // Its own network besides what the other one announces; the kernel has what both do.
        if sizes == [3, 4, 5] { Ok(view) } else { Err(format!("{view:#?}")) }
    })?;
    ensure!([first.scripted.sessions, first.real.sessions] == [1, 1], "{first:#?}");
    println!("FRR alone: {} {:?}", first.real.told, first.real.routes);
    scene.first = Some(first);
    Ok(scene)
}

/// examples/native.toml with the scenario's folders.
fn native_toml(lab: &Lab) -> Result<String> {
    let at = lab.folder("virtd")?;
    let place = |name: &str| at.join(name).display().to_string();
    let places = format!(
        "[router]\nuser = {WORKER:?}\nshim_socket = {:?}\ncontrol_socket = {:?}\nstate = {:?}\nevent_log = {:?}\n",
        place("hv.sock"),
        place("control.sock"),
        place("state.json"),
        place("events.jsonl")
    );
    Ok(NATIVE.replacen("[router]\n", &places, 1))
}

/// Writes the file of a daemon that virtd starts, and returns its section of virtd.toml.
fn second_daemon(scene: &Scene, daemon: Daemon, role: &str, lie: Option<Lie>) -> Result<String> {
    use std::os::unix::fs::PermissionsExt;
    let name = daemon.name();
    let folder = scene.lab.folder(&format!("conf-{name}"))?;
    let sockets = scene.lab.folder("virtd")?.join("instances").join(name);
    let named = if daemon == Daemon::OpenBgpd { &sockets } else { &folder };
    let file = folder.join("bgp.conf");
    fs::write(&file, daemon.configuration(&RouterSpec { lie, ..spec(&scene.star)? }, named))?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    Ok(format!("\n[[instance]]\nname = {name:?}\nkind = {name:?}\nconfig = {file:?}\nrole = {role:?}\n"))
}

/// `systemctl restart virtd`, with FRR's unit being part of virtd's.
fn restart(scene: &Scene, router: &mut Router) -> Result<()> {
    scene.frr.service(&scene.lab, "stop")?;
    router.restart_virtd(&scene.lab)?;
    scene.frr.service(&scene.lab, "start")
}

/// Changes `open`, which is for a restart: a reload says so, and leaves everything as it was.
fn open(router: &Router, from: &str, to: &str) -> Result<()> {
    router.edit_toml(|text| text.replace(&format!("open = {from:?}"), &format!("open = {to:?}")))?;
    let said = router.show(&["reload", "--dry-run"])?;
    ensure!(said.contains("open") && said.contains("restart"), "of {from} to {to}, a reload says: {said}");
    Ok(())
}

/// The OPEN that the router has sent to hv-replay in its n-th session.
fn their_open(replayer: &Replayer, nth: usize) -> Result<Value> {
    let ups = replayer.events().into_iter().filter(|e| e["event"] == "session-up");
    let open = ups.map(|e| e["open"].clone()).nth(nth).context("no such session")?;
    ensure!(open.is_object(), "no OPEN: {open}");
    Ok(open)
}

/// BIRD's word differs from the others' on one prefix, is masked and named; then it is taken back.
fn one_lies(scene: &mut Scene, router: &Router) -> Result<()> {
    let lie = Lie { prefix: prefixes(&[LIED])?[0], community: (65000, 666) };
    for (lie, differs) in [(Some(lie), 1), (None, 0)] {
        second_daemon(scene, Daemon::Bird, "voter", lie)?;
        router.show(&["exec", "bird", "configure"])?;
        wait_until("the lie to be seen, or gone", UP, || match router.known("bird") {
            Ok(known) if known.dissents_now == differs => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        let said = router.show(&["routes", LIED])?;
        let named = said.lines().any(|l| l.contains("! bird") && l.contains("65000:666"));
        ensure!(named == (differs == 1), "{said}");
    }
    Ok(())
}

#[test]
fn from_frr_alone_to_three_voters_and_back() -> Result<()> {
    let mut scene = start()?;

    // Step 1.
    let toml = native_toml(&scene.lab)?;
    scene.frr.service(&scene.lab, "stop")?;
    let options = Options { daemons: vec![Daemon::Frr], ..Options::default() };
    let mut router = Router::with_toml(&scene.lab, &scene.star, &options, |_| toml.clone())?;
    let shim = router.shim()?;
    scene.frr.wrap(Some((&shim.library, &shim.socket)))?;
    scene.frr.service(&scene.lab, "start")?;
    scene.ends_each_session_once("native")?;
    router.wait_state("frr", "attached", UP)?;
    let (alone, native) = (their_open(&scene.script, 0)?, their_open(&scene.script, 1)?);
    ensure!(alone == native, "FRR's OPEN alone was {alone}, and is {native}");
    wait_until("the routes that FRR sends back", UP, || scene.looped().then_some(()).ok_or_else(String::new))?;

    // Step 2.
    open(&router, "native", "voted")?;
    restart(&scene, &mut router)?;
    scene.ends_each_session_once("voted")?;
    router.wait_state("frr", "voting", UP)?;
    router.wait_quiet(Duration::from_secs(3), UP)?;
    ensure!(!scene.looped(), "a route with the peer's own AS has been passed on");

    // Step 3.
    scene.nobody_notices("an observer", |scene| {
        let observer = second_daemon(scene, Daemon::Bird, "observer", None)?;
        router.edit_toml(|text| text + &observer)?;
        router.show(&["reload"])?;
        wait_until("the observer to say what FRR does, on both sessions", UP, || {
            let known = router.known("bird").map_err(|e| format!("{e:#}"))?;
            let said = router.tellers(LIED, "10.0.2.2").map_err(|e| format!("{e:#}"))?;
            if known.legs_up == 2 && said.len() == 2 { Ok(()) } else { Err(format!("{known:?}, {said:?}")) }
        })?;
        let left = router.wait_quiet(Duration::from_secs(3), UP)?;
        ensure!(left == 0, "{left} disagreements: {:?}", router.events("disagreement"));
        ensure!(router.status()?.voters == 1, "an observer has a vote");
        Ok(())
    })?;

    // Step 4.
    scene.nobody_notices("three voters", |scene| {
        let third = second_daemon(scene, Daemon::OpenBgpd, "voter", None)?;
        router.edit_toml(|text| text.replace("role = \"observer\"", "role = \"voter\"") + &third)?;
        router.show(&["reload"])?;
        for name in ["frr", "bird", "openbgpd"] {
            router.wait_state(name, "voting", UP)?;
        }
        router.wait_told_by(&["frr", "bird", "openbgpd"], LIED, "10.0.2.2", UP)?;
        let left = router.wait_quiet(Duration::from_secs(3), UP)?;
        ensure!(left == 0, "{left} disagreements: {:?}", router.events("disagreement"));
        Ok(())
    })?;
    scene.nobody_notices("one of three lies", |scene| one_lies(scene, &router))?;

    // And back.
    scene.nobody_notices("one voter again", |_| {
        let kept = |text: String| text.split("\n[[instance]]\nname = \"bird\"").next().unwrap_or_default().to_owned();
        router.edit_toml(kept)?;
        router.show(&["reload"])?;
        wait_until("FRR to be alone", UP, || match router.status() {
            Ok(status) if (status.instances, status.voters) == (1, 1) => Ok(()),
            other => Err(format!("{other:?}")),
        })
    })?;
    open(&router, "voted", "native")?;
    restart(&scene, &mut router)?;
    scene.ends_each_session_once("native again")?;
    scene.frr.wrap(None)?;
    scene.frr.service(&scene.lab, "stop")?;
    router.virtd.stop();
    scene.frr.service(&scene.lab, "start")?;
    scene.ends_each_session_once("without virtd again")?;
    let last = their_open(&scene.script, scene.sessions - 1)?;
    ensure!(alone == last, "FRR's OPEN alone was {alone}, and is {last}");
    scene.frr.service(&scene.lab, "stop")?;
    scene.lab.passed();
    Ok(())
}
