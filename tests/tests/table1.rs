//! Table 1 of papers/001 ("Example bugs and the diversity that can be used to avoid them"): each
//! bug shows in an unmodified daemon of ours that something around it has given the bug, alone and
//! behind virtd with three that all have it; and no neighbour sees it where some of the instances
//! have the diversity that the table names. docs/BUGS.md, "Table 1 of the paper", has what came
//! out.

#[path = "table1/flap.rs"]
mod flap;
#[path = "table1/lost.rs"]
mod lost;
#[path = "table1/originate.rs"]
mod originate;
#[path = "table1/starved.rs"]
mod starved;

use anyhow::{Context, Result, ensure};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;
use tests::daemons::{Attach, Daemon, Instance, Wrapper};
use tests::faults::watch::Watch;
use tests::fib::{by_protocol, kernel};
use tests::lab::{Lab, Star, wait_until};
use tests::router::{Options, Router};
use tests::versions::Root;

const SETTLE: Duration = Duration::from_secs(90);
/// For what is not to happen: longer than T, and than any of these daemons takes for it.
const LULL: Duration = Duration::from_secs(10);

/// The bugs, compiled once.
fn library() -> Result<PathBuf> {
    static LIBRARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let compile = || {
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("table1-bugs.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/table1/bugs.c");
        let mut run = Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".to_owned()));
        run.args(["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]).arg(&out).arg(source);
        run.status().is_ok_and(|s| s.success()).then_some(out)
    };
    LIBRARY.get_or_init(compile).clone().context("tests/table1/bugs.c does not compile: is there a C compiler?")
}

/// One of the bugs of bugs.c around a daemon; `None`: the same configuration without it.
fn wrapper(bug: Option<&str>, configuration: fn(String) -> String) -> Result<Wrapper> {
    let Some(bug) = bug else { return Ok(Wrapper { configuration, ..Wrapper::default() }) };
    Ok(Wrapper {
        library: Some(library()?),
        variables: vec![("HV_BUG", bug.to_owned())],
        configuration,
        ..Wrapper::default()
    })
}

/// Whoever is between the neighbours.
enum Middle {
    /// A daemon as a router of its own.
    Alone { daemon: Instance },
    /// virtd with three.
    Behind(Router),
}

struct Scene {
    lab: Lab,
    star: Star,
    middle: Middle,
}

impl Scene {
    fn alone(name: &str, sites: u32, options: &Options, wrapper: Wrapper) -> Result<Scene> {
        Scene::alone_in(name, sites, options, (None, wrapper))
    }

    /// The same of another version.
    fn alone_in(name: &str, sites: u32, options: &Options, around: (Option<Root>, Wrapper)) -> Result<Scene> {
        let mut lab = Lab::new(name)?;
        let star = lab.star(sites)?;
        let daemon = *options.daemons.first().context("a daemon")?;
        let (spec, name) = (options.spec(&star.sites), daemon.name());
        let one = Instance::start_wrapped(&lab, &star.router, daemon, name, &spec, &Attach::Native, around)?;
        Ok(Scene { lab, star, middle: Middle::Alone { daemon: one } })
    }

    /// Instances that have these tables under `diversity`.
    fn behind(name: &str, sites: u32, options: &Options, diversity: &[(&str, &str)]) -> Result<Scene> {
        let mut lab = Lab::new(name)?;
        let star = lab.star(sites)?;
        let edit = |text: String| {
            diversity.iter().fold(text, |text, (name, table)| {
                let name = format!("name = {name:?}\n");
                text.replace(&name, &format!("{name}diversity = {table}\n"))
            })
        };
        let mut router = Router::with_toml(&lab, &star, options, edit)?;
        router.launch(&lab, &star, options)?;
        ensure!(router.events("instance-differs").len() == diversity.len(), "not every diversity is told of");
        Ok(Scene { lab, star, middle: Middle::Behind(router) })
    }

    fn router(&self) -> Result<&Router> {
        match &self.middle {
            Middle::Behind(router) => Ok(router),
            Middle::Alone { .. } => anyhow::bail!("there is no virtd"),
        }
    }

    fn dial(&self, site: usize, arguments: &[&str]) -> Result<Watch> {
        Watch::dial(&self.lab, &self.star.sites[site], arguments)
    }
}

/// Waits until something is so with a neighbour.
fn wait(what: &str, watch: &mut Watch, mut good: impl FnMut(&Watch) -> bool) -> Result<()> {
    wait_until(what, SETTLE, || {
        watch.look().map_err(|e| format!("{e:#}"))?;
        if good(watch) { Ok(()) } else { Err(format!("{} sessions, {:?}", watch.ups, watch.table.keys())) }
    })
}

/// It is not so, and does not become so. A matter of time: these are daemons that overlook
/// something, and whatever they do afterwards does not show that they will not come back to it.
fn never(what: &str, watch: &mut Watch, mut bad: impl FnMut(&Watch) -> bool) -> Result<()> {
    let end = std::time::Instant::now() + LULL;
    while std::time::Instant::now() < end {
        watch.look()?;
        ensure!(!bad(watch), "{what}: {:?}", watch.table.keys());
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn three(daemon: Daemon, wrappers: [Wrapper; 3]) -> Options {
    Options { daemons: vec![daemon; 3], wrappers: wrappers.to_vec(), ..Options::default() }
}

/// The neighbour connects, and closes at once.
fn visit(scene: &Scene) -> Result<()> {
    let site = &scene.star.sites[0];
    let address = (site.router_v4, 179);
    let mut last = None;
    wait_until("somebody to listen", SETTLE, || {
        let stream = site.ns.enter(|| TcpStream::connect(address)).map_err(|e| format!("{e:#}"))?;
        last = Some(stream.map_err(|e| e.to_string())?);
        Ok(())
    })?;
    drop(last);
    Ok(())
}

/// XORP 31: "a peer that initiates a TCP connection and then immediately disconnects causes the BGP
/// process to stop listening for incoming connections". Connection diversity: the connection comes
/// later to some, and one that is gone by then they never see.
#[test]
fn xorp_31_a_visitor_stops_the_listening() -> Result<()> {
    let bug = || wrapper(Some("accept"), |text| text);
    let options = three(Daemon::Bird, [bug()?, bug()?, bug()?]);

    // Without the bug a visitor is nothing; with it nobody is let in any more.
    let scene = Scene::alone("t1-31-sound", 1, &options, Wrapper::default())?;
    visit(&scene)?;
    wait("the session", &mut scene.dial(0, &["--monitor"])?, |w| w.ups == 1)?;
    scene.lab.passed();
    let scene = Scene::alone("t1-31-alone", 1, &options, bug()?)?;
    visit(&scene)?;
    let (ns, address) = (&scene.star.sites[0].ns, (scene.star.sites[0].router_v4, 179));
    wait_until("nobody to listen any more", SETTLE, || match ns.enter(|| TcpStream::connect(address)) {
        Ok(Err(e)) if e.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    never("a session came up", &mut scene.dial(0, &["--monitor"])?, |w| w.ups > 0)?;
    scene.lab.passed();

    // Three without the bug behind virtd do not mind; of three with it each is given the visitor's
    // connection, and each stops.
    let sound = three(Daemon::Bird, [Wrapper::default(), Wrapper::default(), Wrapper::default()]);
    let scene = Scene::behind("t1-31-three-sound", 1, &sound, &[])?;
    visit(&scene)?;
    wait("the session", &mut scene.dial(0, &["--monitor"])?, |w| w.ups == 1)?;
    scene.lab.passed();
    let scene = Scene::behind("t1-31-three", 1, &options, &[])?;
    visit(&scene)?;
    never("a session came up", &mut scene.dial(0, &["--monitor"])?, |w| w.ups > 0)?;
    scene.lab.passed();

    // Two are told of connections later: they never see the visitor.
    let later = [
        ("bird2", "{ connect_delay_ms = [500, 900], seed = 1 }"),
        ("bird3", "{ connect_delay_ms = [500, 900], seed = 2 }"),
    ];
    let scene = Scene::behind("t1-31-later", 1, &options, &later)?;
    visit(&scene)?;
    let mut neighbour = scene.dial(0, &["--monitor"])?;
    wait("the session", &mut neighbour, |w| w.ups == 1)?;
    let router = scene.router()?;
    for name in ["bird2", "bird3"] {
        router.wait_state(name, "voting", SETTLE)?;
    }
    ensure!(
        router.state_of("bird")? != "voting",
        "the one without diversity has not stopped: {}",
        router.show(&["instances"])?
    );
    neighbour.check_session()?;
    scene.lab.passed();
    Ok(())
}

/// What the second neighbour of a FRR is to be told of.
const DEFAULT: &str = "0.0.0.0/0";
/// What a neighbour announces, so that it is known when an instance has said all.
const SAID: &str = "198.51.100.0/24";

/// FRR's configuration with default-originate towards the second neighbour.
fn originate(text: String) -> String {
    text.replace(
        "  neighbor 10.0.2.2 activate\n",
        "  neighbor 10.0.2.2 activate\n  neighbor 10.0.2.2 default-originate\n",
    )
}

/// Waits until the first instance, the newer version, is known to be alone with what it says of the
/// default route.
fn newer_is_named(router: &Router) -> Result<()> {
    wait_until("the newer version to be named", SETTLE, || {
        let named = |e: &serde_json::Value| e["instance"] == "frr" && e["prefix"] == DEFAULT;
        if router.events("disagreement").iter().any(named) { Ok(()) } else { Err("not yet".to_owned()) }
    })
}

/// Quagga 370: "the BGP default-originate command in the configuration file does not work
/// properly". Version diversity: it worked in an older one.
#[test]
fn quagga_370_default_originate_is_not_obeyed() -> Result<()> {
    // The version with the bug reads the line and does nothing about it, as if it were not there.
    let (newer, older) = (|| wrapper(None, |text| text), || wrapper(None, originate));
    let heard = |scene: &Scene| -> Result<(Watch, Watch)> {
        let mut first = scene.dial(0, &[])?;
        let mut second = scene.dial(1, &["--monitor"])?;
        wait("the first session", &mut first, |w| w.ups == 1)?;
        wait("the second session", &mut second, |w| w.ups == 1)?;
        first.say(&format!("announce {SAID}"))?;
        wait("the neighbour's route", &mut second, |w| w.table.contains_key(SAID))?;
        Ok((first, second))
    };
    let options =
        |second: Wrapper, third: Wrapper| -> Result<Options> { Ok(three(Daemon::Frr, [newer()?, second, third])) };

    let scene = Scene::alone("t1-370-older", 2, &options(newer()?, newer()?)?, older()?)?;
    wait("the default route", &mut heard(&scene)?.1, |w| w.table.contains_key(DEFAULT))?;
    scene.lab.passed();
    let scene = Scene::alone("t1-370-newer", 2, &options(newer()?, newer()?)?, newer()?)?;
    never("a default route", &mut heard(&scene)?.1, |w| w.table.contains_key(DEFAULT))?;
    scene.lab.passed();
    let scene = Scene::behind("t1-370-three", 2, &options(newer()?, newer()?)?, &[])?;
    never("a default route", &mut heard(&scene)?.1, |w| w.table.contains_key(DEFAULT))?;
    scene.lab.passed();

    let scene = Scene::behind("t1-370-versions", 2, &options(older()?, older()?)?, &[])?;
    let (mut first, mut second) = heard(&scene)?;
    wait("the default route", &mut second, |w| w.table.contains_key(DEFAULT))?;
    newer_is_named(scene.router()?)?;
    first.check_session()?;
    second.check_session()?;
    ensure!(!first.table.contains_key(DEFAULT), "the first neighbour was not to be told");
    scene.lab.passed();
    Ok(())
}

/// Where a static route goes whose next hop is on no link at first.
const STATIC: &str = "203.0.113.0/24";

/// BIRD with that route, which learns of addresses by notifications only, not from a scan every few
/// seconds: the bug is in how these are taken.
fn static_route(text: String) -> String {
    let device = "protocol device { scan time 3600; }";
    let route = format!("protocol static behind {{\n    ipv4;\n    route {STATIC} via 10.9.0.2;\n}}\n");
    text.replace("protocol device {}", device).replace("scan time 5;", "scan time 3600;") + &route
}

/// Quagga 418: a static route whose next hop cannot be reached "remains inactive even when the
/// address of network device is changed to something that would make the next hop reachable".
/// Connection diversity: "can interpret change as reset as well".
#[test]
fn quagga_418_a_static_route_stays_inactive_after_a_change_of_addresses() -> Result<()> {
    let (sound, bug) = (|| wrapper(None, static_route), || wrapper(Some("address"), static_route));
    let mut options = three(Daemon::Bird, [bug()?, bug()?, bug()?]);
    options.fib = true;

    let scene = Scene::alone("t1-418-sound", 3, &options, sound()?)?;
    let mut watch = changed(&scene)?;
    wait("the route", &mut watch, |w| w.table.contains_key(STATIC))?;
    scene.lab.passed();
    let scene = Scene::alone("t1-418-alone", 3, &options, bug()?)?;
    let mut watch = changed(&scene)?;
    never("the route", &mut watch, |w| w.table.contains_key(STATIC))?;
    ensure!(!by_protocol(&scene.star.router, "bird")?.contains_key(STATIC), "the route is in the kernel");
    // It is just that change which it overlooks.
    for state in ["down", "up"] {
        scene.star.router.run("ip", &["link", "set", "n3", state])?;
    }
    wait("the route after a real reset", &mut watch, |w| w.table.contains_key(STATIC))?;
    scene.lab.passed();

    let scene = Scene::behind("t1-418-three", 3, &options, &[])?;
    let mut watch = changed(&scene)?;
    never("the route", &mut watch, |w| w.table.contains_key(STATIC))?;
    ensure!(!kernel(&scene.star.router)?.contains_key(STATIC), "the route is in the kernel");
    scene.lab.passed();

    // Two are shown the change as a reset of the link as well.
    let reset = [("bird2", "{ link_reset_ms = 0 }"), ("bird3", "{ link_reset_ms = [500, 2000], seed = 1 }")];
    let scene = Scene::behind("t1-418-reset", 3, &options, &reset)?;
    let mut watch = changed(&scene)?;
    wait("the route", &mut watch, |w| w.table.contains_key(STATIC))?;
    wait_until("the route in the kernel", SETTLE, || match kernel(&scene.star.router) {
        Ok(routes) if routes.contains_key(STATIC) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    let router = scene.router()?;
    ensure!(router.events("link-reset").len() >= 2, "nobody was shown a reset");
    watch.check_session()?;
    scene.lab.passed();
    Ok(())
}

/// The third link gets another address, as in the table's example; the neighbour on the second,
/// whose session stands, listens.
fn changed(scene: &Scene) -> Result<Watch> {
    let mut watch = scene.dial(1, &["--monitor"])?;
    wait("the session", &mut watch, |w| w.ups == 1)?;
    if let Middle::Behind(router) = &scene.middle {
        router.wait_voting(SETTLE)?;
    }
    ensure!(!watch.table.contains_key(STATIC), "the next hop is on no link, and the route is there");
    let ns = &scene.star.router;
    ns.run("ip", &["address", "del", "10.0.3.1/24", "dev", "n3"])?;
    ns.run("ip", &["address", "add", "10.9.0.1/24", "dev", "n3"])?;
    Ok(watch)
}
