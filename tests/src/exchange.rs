//! An exchange: hundreds of neighbours of one route server, all on one subnet and all played by one
//! `hv-replay exchange`.

use crate::daemons::{Client, PeerSpec};
use crate::lab::{Lab, Process, Star, built};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The router's address; the subnet is a /16.
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 1);
/// The neighbours' namespace needs an address to speak ARP from.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 2);
/// The first neighbour's; the others' follow.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 100, 16, 0);
/// All of the neighbours' addresses.
const ALL: &str = "10.100.16.0/20";
/// That of the first link's far end.
const MAC: &str = "02:00:00:00:01:02";
const MOST: u32 = 4096;
const FIRST_ASN: u32 = 100_000;
/// How long hv-replay may take to write its report and end.
const LEAVE: Duration = Duration::from_secs(20);
/// Between two looks for its report.
const LOOK: Duration = Duration::from_millis(25);

/// A subnet with a router and a place for its neighbours.
#[derive(Debug)]
pub struct Exchange {
    /// Its only site is where the neighbours are; the router is no peer of that.
    pub star: Star,
    neighbours: u32,
}

impl Exchange {
    /// Makes it, for up to 4096 neighbours.
    ///
    /// Their MAC is entered by hand: the kernel's table of neighbours holds 1024 that it has asked
    /// for (net.ipv4.neigh.default.gc_thresh3, for all namespaces together), and any number of
    /// permanent ones.
    ///
    /// # Errors
    /// Too many, or the kernel refuses addresses.
    pub fn new(lab: &mut Lab, neighbours: u32) -> Result<Exchange> {
        ensure!(neighbours <= MOST, "there are addresses for {MOST} neighbours");
        let star = lab.star(1)?;
        let site = star.sites.first().context("a star without a site")?;
        star.router.run("ip", &["address", "add", &format!("{ROUTER}/16"), "dev", "n1"])?;
        site.ns.run("ip", &["address", "add", &format!("{HOST}/16"), "dev", "r0"])?;
        site.ns.run("ip", &["route", "add", "local", ALL, "dev", "lo"])?;
        let mut entries = String::new();
        for n in 0..neighbours {
            // Writing to a String cannot fail.
            let _ = writeln!(entries, "neigh replace {} lladdr {MAC} dev n1 nud permanent", address(n));
        }
        let file = lab.directory().join("neighbours");
        fs::write(&file, entries)?;
        star.router.run("ip", &["-batch", &file.display().to_string()])?;
        Ok(Exchange { star, neighbours })
    }

    /// What the router is told of its neighbours.
    pub fn peers(&self) -> Vec<PeerSpec> {
        let peer = |n| PeerSpec {
            passive: true,
            client: Client::Served,
            ..PeerSpec::new(address(n).into(), ROUTER.into(), FIRST_ASN + n)
        };
        (0..self.neighbours).map(peer).collect()
    }

    /// All neighbours come, each with so many routes, and stay until they are asked to leave.
    ///
    /// # Errors
    /// hv-replay cannot be started.
    pub fn play(&self, lab: &Lab, routes: u32, timeout: Duration) -> Result<Players> {
        let site = self.star.sites.first().context("no site")?;
        let json = lab.directory().join("exchange.json");
        let mut command = site.ns.command(built("hv-replay")?);
        command.args(["exchange", "--connect", &ROUTER.to_string(), "--first-address", &FIRST.to_string()]);
        command.args(["--first-asn", &FIRST_ASN.to_string(), "--stay", "3600"]);
        command.args(["--neighbours", &self.neighbours.to_string(), "--routes", &routes.to_string()]);
        // It does not give up before we do.
        command.args(["--timeout", &(timeout + LEAVE).as_secs().to_string()]).arg("--json").arg(&json);
        let process = lab.spawn("exchange", &mut command)?;
        Ok(Players { process, json, until: Instant::now() + timeout })
    }
}

fn address(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(FIRST) + n)
}

/// The neighbours, running.
#[derive(Debug)]
pub struct Players {
    process: Process,
    json: PathBuf,
    until: Instant,
}

impl Players {
    /// Waits until everybody has everything; whether that was so before time was over.
    ///
    /// # Errors
    /// hv-replay has failed.
    pub fn filled(&mut self) -> Result<bool> {
        loop {
            if self.report().is_ok() {
                return Ok(true);
            }
            ensure!(self.process.running(), "hv-replay has ended: {}", self.process.log());
            if Instant::now() >= self.until {
                return Ok(false);
            }
            std::thread::sleep(LOOK);
        }
    }

    /// They leave; returns the report (`hv-replay exchange --help`).
    ///
    /// # Errors
    /// hv-replay does not end.
    pub fn finish(&mut self) -> Result<Value> {
        if self.process.running() {
            self.process.signal(Signal::SIGTERM)?;
        }
        self.process.wait(LEAVE)?;
        self.report()
    }

    fn report(&self) -> Result<Value> {
        let text = fs::read_to_string(&self.json).context("no report of hv-replay")?;
        serde_json::from_str(&text).context("half a report of hv-replay")
    }
}
