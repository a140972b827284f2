//! What the real kernel holds, and what the daemons believe that it does.

use crate::daemons::{Daemon, Instance};
use crate::lab::{Netns, wait_until};
use crate::operate;
use crate::router::Router;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// rtm_protocol of virtd's routes where the configuration says nothing else.
const PROTOCOL: &str = "245";

/// One next hop: gateway, interface.
pub type Hop = (Option<String>, Option<String>);

/// virtd's routes in a namespace's main table, IPv4 and IPv6: prefix to next hops, in order; a
/// route that drops has its type as the gateway.
///
/// # Errors
/// ip(8)'s.
pub fn kernel(ns: &Netns) -> Result<BTreeMap<String, Vec<Hop>>> {
    by_protocol(ns, PROTOCOL)
}

/// The same of another protocol's routes (`bgp`, `bird`, a number).
///
/// # Errors
/// ip(8)'s.
pub fn by_protocol(ns: &Netns, protocol: &str) -> Result<BTreeMap<String, Vec<Hop>>> {
    let mut all = BTreeMap::new();
    for family in ["-4", "-6"] {
        let text = ns.run("ip", &["-N", "-j", family, "route", "show", "proto", protocol])?;
        let list: Vec<Value> = serde_json::from_str(text.trim()).unwrap_or_default();
        for route in list {
            let prefix = route["dst"].as_str().context("a route without a destination")?;
            let word = |v: &Value| v.as_str().map(str::to_owned);
            let hop = |v: &Value| (word(&v["gateway"]).or_else(|| word(&v["via"]["host"])), word(&v["dev"]));
            let mut hops: Vec<Hop> = match (route["nexthops"].as_array(), route["type"].as_str()) {
                (Some(list), _) => list.iter().map(hop).collect(),
                (None, Some(kind)) if kind != "1" && kind != "unicast" => vec![(Some(kind.to_owned()), None)],
                _ => vec![hop(&route)],
            };
            hops.sort();
            // `ip` leaves the length of a host's own prefix out.
            let host = if prefix.contains(':') { "/128" } else { "/32" };
            let prefix = match prefix {
                "default" => if family == "-4" { "0.0.0.0/0" } else { "::/0" }.to_owned(),
                p if p.contains('/') => p.to_owned(),
                p => format!("{p}{host}"),
            };
            all.insert(prefix, hops);
        }
    }
    Ok(all)
}

/// Waits until the kernel holds so many routes of virtd's.
///
/// # Errors
/// It does not come to that.
pub fn wait_routes(ns: &Netns, n: usize, timeout: Duration) -> Result<()> {
    wait_until(&format!("{n} routes in the kernel"), timeout, || match kernel(ns) {
        Ok(routes) if routes.len() == n => Ok(()),
        Ok(routes) => Err(format!("there are {}", routes.len())),
        Err(e) => Err(format!("{e:#}")),
    })
}

/// Waits until an instance is in a state of `virtctl fib`: `voting`, `catching up`, `absent`,
/// `silent`.
///
/// # Errors
/// It does not come to that.
pub fn wait_state(router: &Router, name: &str, state: &str, timeout: Duration) -> Result<()> {
    wait_until(&format!("{name} to be {state} in the FIB"), timeout, || {
        let fib: virtd_api::Fib = router.ctl(&["fib"]).map_err(|e| format!("{e:#}"))?;
        match fib.instances.iter().find(|i| i.name == name) {
            Some(now) if now.state == state => Ok(()),
            now => Err(format!("it is {now:?}: {fib:?}")),
        }
    })
}

/// How many routes the daemon itself believes to be in the kernel, and how many it knows that are
/// not.
///
/// # Errors
/// Its control program's, or an answer that cannot be read.
pub fn believes(instance: &Instance, ns: &Netns) -> Result<(usize, usize)> {
    match instance.daemon {
        Daemon::Frr => {
            let text = operate::zebra(instance, ns, "show ip route json")?;
            let start = text.find('{').context("zebra printed no JSON")?;
            let routes: serde_json::Map<String, Value> = serde_json::from_str(&text[start..])?;
            let of_bgp = |r: &&Value| r["protocol"] == "bgp";
            let all: Vec<&Value> = routes.values().filter_map(Value::as_array).flatten().filter(of_bgp).collect();
            let installed = all.iter().filter(|r| r["installed"] == true).count();
            Ok((installed, all.len() - installed))
        }
        Daemon::Bird => {
            let text = operate::control(instance, ns, "show route all")?;
            let errors = text.lines().filter(|l| l.contains('!')).count();
            let routes = operate::control(instance, ns, "show route count")?;
            let n = routes.lines().find_map(|l| l.split_whitespace().next()?.parse().ok());
            let n: usize = n.or_else(|| number_in(&routes)).with_context(|| format!("birdc says {routes}"))?;
            ensure!(errors <= n, "{text}");
            Ok((n - errors, errors))
        }
        Daemon::OpenBgpd => {
            let text = operate::control(instance, ns, "show fib bgp")?;
            let n = text.lines().filter(|l| l.contains('B')).filter(|l| l.contains('/')).count();
            Ok((n, 0))
        }
    }
}

fn number_in(text: &str) -> Option<usize> {
    text.split(|c: char| !c.is_ascii_digit()).find_map(|w| w.parse().ok())
}
