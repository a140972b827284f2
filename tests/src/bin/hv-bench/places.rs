//! What is measured: routers of different make, each in a namespace of its own, with the same two
//! neighbours at the same addresses. Both neighbours are one hv-replay, so that one clock stamps
//! what leaves and what arrives.

use anyhow::{Context, Result};
use serde_json::Value;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::daemons::{Attach, Daemon, Instance, PeerSpec, Wrapper};
use tests::lab::{Lab, Process, Site, Star, built, wait_for};
use tests::replayer::Replayer;
use tests::router::{Options, Router};
use tests::versions::Version;

/// Where HAProxy finds BIRD: on the loopback device, but no 127.0.0.0/8, which a neighbour would
/// refuse as a next hop.
const BEHIND: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 9, 0, 1), 1790);
/// After its neighbours left, a daemon may hold back its sessions this long before it takes new
/// ones.
const BETWEEN: Duration = Duration::from_millis(1200);
/// `nice` of the slaves where the FIB is measured.
const SLAVES_NICE: u8 = 10;
const UP: Duration = Duration::from_secs(20);

/// A kind of router.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A daemon with nothing around it.
    Alone(Daemon),
    /// BIRD, with HAProxy in TCP mode on the BGP port.
    HaProxy,
    /// virtd with these instances.
    Virtd(&'static [Daemon], &'static str, &'static str),
    /// A daemon with nothing around it, which writes the kernel's routes.
    FibAlone(Daemon),
    /// virtd with these instances, `master-slave`; with `true` it votes on the FIB.
    Fib(&'static [(Daemon, Option<Version>)], bool),
}

/// A running router and its neighbours' place.
pub struct Place {
    /// What figures and raw results call it.
    pub name: &'static str,
    /// Its namespace is `star.router`.
    pub star: Star,
    // Dropped in this order: the processes before the lab.
    router: Option<Router>,
    instance: Option<Instance>,
    proxied: Vec<Process>,
    lab: Option<Lab>,
}

impl Place {
    /// Starts it.
    pub fn start(name: &'static str, kind: &Kind) -> Result<Place> {
        Place::start_build(name, kind, None)
    }

    /// Starts it with another build of virtd, where its kind has one.
    pub fn start_build(name: &'static str, kind: &Kind, virtd: Option<PathBuf>) -> Result<Place> {
        let mut lab = Lab::new(&format!("bench-{name}"))?;
        let mut star = lab.star(1)?;
        let first = star.sites.first().context("a star without a site")?.clone();
        let second = Site { number: 2, asn: first.asn + 1, v4: Ipv4Addr::new(10, 0, 1, 3), ..first };
        second.ns.run("ip", &["address", "add", "10.0.1.3/24", "dev", "r0"])?;
        star.sites.push(second);
        let mut place = Place { name, star, router: None, instance: None, proxied: Vec::new(), lab: None };
        match kind {
            Kind::Alone(daemon) => {
                let spec = Options::default().spec(&place.star.sites);
                let ns = &place.star.router;
                place.instance = Some(Instance::start(&lab, ns, *daemon, daemon.name(), &spec, &Attach::Native)?);
            }
            Kind::FibAlone(daemon) => {
                let spec = Options { fib: true, ..Options::default() }.spec(&place.star.sites);
                let ns = &place.star.router;
                place.instance = Some(Instance::start(&lab, ns, *daemon, daemon.name(), &spec, &Attach::Native)?);
            }
            Kind::Fib(list, fib) => {
                let (daemons, versions) = list.iter().copied().unzip();
                let strategy = "master-slave";
                // As its user would: the slaves' turn comes after the master's.
                let slave = Wrapper { nice: SLAVES_NICE, ..Wrapper::default() };
                let mut wrappers = vec![slave; list.len()];
                if let Some(master) = wrappers.first_mut() {
                    master.nice = 0;
                }
                let options = Options { daemons, versions, wrappers, strategy, fib: *fib, virtd, ..Options::default() };
                place.router = Some(Router::start(&lab, &place.star, &options)?);
            }
            Kind::HaProxy => place.start_proxied(&lab)?,
            Kind::Virtd(daemons, open, strategy) => {
                let options = Options { daemons: daemons.to_vec(), open, strategy, virtd, ..Options::default() };
                place.router = Some(Router::start(&lab, &place.star, &options)?);
            }
        }
        place.lab = Some(lab);
        Ok(place)
    }

    /// BIRD sees its two neighbours at loopback addresses, which HAProxy dials from: by these it
    /// tells them apart.
    fn start_proxied(&mut self, lab: &Lab) -> Result<()> {
        let folder = lab.folder("proxied")?;
        self.star.router.run("ip", &["address", "add", &format!("{}/32", BEHIND.0), "dev", "lo"])?;
        let mut spec = Options::default().spec(&self.star.sites);
        let mut haproxy = format!(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 300s\n  timeout server 300s\n\
             frontend bgp\n  bind {}:179\n",
            self.star.sites.first().context("no site")?.router_v4
        );
        let mut servers = String::new();
        for (peer, site) in spec.peers.iter_mut().zip(&self.star.sites) {
            let seen = Ipv4Addr::new(10, 9, 1, site.number);
            self.star.router.run("ip", &["address", "add", &format!("{seen}/32"), "dev", "lo"])?;
            *peer = PeerSpec { address: seen.into(), local: IpAddr::V4(BEHIND.0), ..peer.clone() };
            haproxy += &format!("  use_backend b{} if {{ src {} }}\n", site.number, site.v4);
            servers += &format!("backend b{0}\n  server bird {1}:{2} source {seen}\n", site.number, BEHIND.0, BEHIND.1);
        }
        haproxy += &servers;
        // Not on a shared subnet with its neighbours any more, so multihop, and next hops are
        // looked up among the connected ones.
        let text = Daemon::Bird
            .configuration(&spec, &folder)
            .replace(&format!("local {} as", BEHIND.0), &format!("local {} port {} as", BEHIND.0, BEHIND.1))
            .replace("    passive on;\n", "    passive on;\n    multihop;\n    strict bind on;\n")
            .replace("protocol device {}\n", "protocol device {}\nprotocol direct { ipv4; }\n")
            .replace("    accept;\n}\n", "    if source = RTS_BGP then accept;\n    reject;\n}\n");
        fs::write(folder.join("bgp.conf"), text)?;
        fs::write(folder.join("haproxy.cfg"), haproxy)?;
        let path = |file: &str| folder.join(file).display().to_string();
        let mut bird = self.star.router.command("bird");
        bird.args(["-f", "-c", &path("bgp.conf"), "-s", &path("bird.ctl"), "-P", &path("bird.pid")]);
        let bird = lab.spawn("bird", &mut bird)?;
        wait_for("BIRD to start", UP, || folder.join("bird.ctl").exists())?;
        let mut proxy = self.star.router.command("haproxy");
        proxy.args(["-db", "-f", &path("haproxy.cfg")]);
        self.proxied = vec![lab.spawn("haproxy", &mut proxy)?, bird];
        Ok(())
    }

    /// Runs `hv-replay probe` with both its sessions; returns what it measured.
    pub fn probe(&self, raw: &Path, options: &[&str]) -> Result<Value> {
        let monitor = session(self.star.sites.get(1).context("no second neighbour")?);
        self.run_probe(&[], raw, ["--monitor", &monitor], options)
    }

    /// The same from the first neighbour into the router's kernel.
    pub fn probe_fib(&self, raw: &Path, options: &[&str]) -> Result<Value> {
        let netns = format!("/run/netns/{}", self.star.router.name());
        self.run_probe(&[], raw, ["--fib", &netns], options)
    }

    /// The same, the neighbour with priority over everything: it knows of a route as soon as the
    /// kernel has it, whoever else wants the processor then.
    pub fn probe_fib_at_once(&self, raw: &Path, options: &[&str]) -> Result<Value> {
        let netns = format!("/run/netns/{}", self.star.router.name());
        self.run_probe(&["chrt", "--fifo", "1"], raw, ["--fib", &netns], options)
    }

    fn run_probe(&self, wrapper: &[&str], raw: &Path, end: [&str; 2], options: &[&str]) -> Result<Value> {
        std::thread::sleep(BETWEEN);
        let feed_at = self.star.sites.first().context("no neighbour")?;
        let json = raw.join(format!("{}.last.json", self.name)).display().to_string();
        let feed = session(feed_at);
        let program = built("hv-replay")?.display().to_string();
        let mut all = wrapper.to_vec();
        all.extend([program.as_str(), "probe", "--feed", &feed, "--json", &json]);
        all.extend_from_slice(&end);
        all.extend_from_slice(options);
        let (program, arguments) = all.split_first().context("no program")?;
        feed_at.ns.run(program, arguments).with_context(|| format!("measuring {}", self.name))?;
        let text = fs::read_to_string(&json)?;
        serde_json::from_str(&text).with_context(|| format!("reading {json}"))
    }

    /// virtd, where there is one.
    pub fn router(&self) -> Option<&Router> {
        self.router.as_ref()
    }

    /// A neighbour that announces so many routes and stays.
    pub fn feed(&self, prefixes: u32) -> Result<Replayer> {
        std::thread::sleep(BETWEEN);
        let lab = self.lab.as_ref().context("no lab")?;
        let site = self.star.sites.first().context("no neighbour")?;
        Replayer::dial(lab, site, false, &["--generate", &prefixes.to_string()])
    }

    /// It held to the end: its folder is not kept.
    pub fn done(mut self) {
        if let Some(router) = &mut self.router {
            // Told to end, not killed: only then does one that was built to (`make profile`) write
            // down what it has run.
            router.virtd.stop();
        }
        drop((self.router.take(), self.instance.take(), std::mem::take(&mut self.proxied)));
        if let Some(lab) = self.lab.take() {
            lab.passed();
        }
    }
}

/// hv-replay's options for a neighbour's session.
fn session(site: &Site) -> String {
    let Site { router_v4, v4, asn, number, .. } = site;
    format!("--connect {router_v4} --bind {v4} --asn {asn} --router-id 10.255.1.{number} --families ipv4")
}
