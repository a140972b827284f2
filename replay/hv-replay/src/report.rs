//! What `hv-replay` says about a run: events as they happen (JSON lines) and a summary at the end.

use crate::learn::Counts;
use crate::session::Negotiated;
use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};
use wire::bgp::message::{Capability, Open};
use wire::bgp::{Notification, hex};

/// Ties the monotonic clock to the calendar, once, so that all stamps of a run are in order.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    unix: Duration,
}

impl Clock {
    /// Starts the clock.
    pub fn start() -> Clock {
        Clock { start: Instant::now(), unix: SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default() }
    }

    /// Microseconds since 1970.
    pub fn unix_us(&self, at: Instant) -> u64 {
        u64::try_from((self.unix + at.saturating_duration_since(self.start)).as_micros()).unwrap_or(u64::MAX)
    }

    /// Time since the program's start.
    pub fn since_start(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.start)
    }
}

/// A file, or standard output for `-`.
///
/// # Errors
/// The file cannot be created.
pub fn create(path: &Path) -> Result<Box<dyn Write>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(io::stdout()));
    }
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(Box::new(BufWriter::new(file)))
}

/// Writes events as they happen.
pub struct Events {
    out: Option<Box<dyn Write>>,
    clock: Clock,
}

impl Events {
    /// Writes to `path`, or nowhere.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn new(path: Option<&Path>, clock: Clock) -> Result<Events> {
        Ok(Events { out: path.map(create).transpose()?, clock })
    }

    /// Writes one event: its time, its name, and the members of `more`.
    pub fn write(&mut self, at: Instant, event: &str, more: Value) {
        let Some(out) = &mut self.out else { return };
        let mut line = json!({"ts_us": self.clock.unix_us(at), "event": event});
        if let (Some(line), Value::Object(more)) = (line.as_object_mut(), more) {
            line.extend(more);
        }
        // Whoever reads the events may have gone; the session goes on.
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}

/// A NOTIFICATION, as JSON.
pub fn notification(at_us: u64, n: &Notification) -> Value {
    json!({"ts_us": at_us, "code": n.code, "subcode": n.subcode, "name": n.to_string(), "data": hex(&n.data)})
}

/// An OPEN, as JSON.
pub fn open(open: &Open) -> Value {
    let capability = |c: &Capability| match c {
        Capability::Multiprotocol(f) => json!({"multiprotocol": f.to_string()}),
        Capability::RouteRefresh => json!("route-refresh"),
        Capability::ExtendedNextHop(list) => {
            json!({"extended-next-hop": list.iter().map(|(f, afi)| format!("{f} afi{afi}")).collect::<Vec<_>>()})
        }
        Capability::ExtendedMessage => json!("extended-message"),
        Capability::Role(role) => json!({"role": role}),
        Capability::GracefulRestart { flags, restart_time_s, families } => json!({"graceful-restart": {
            "flags": flags, "restart_time_s": restart_time_s,
            "families": families.iter().map(|(f, flags)| format!("{f} flags {flags}")).collect::<Vec<_>>(),
        }}),
        Capability::FourOctetAs(asn) => json!({"four-octet-as": asn}),
        Capability::AddPath(list) => {
            json!({"add-path": list.iter().map(|(f, mode)| format!("{f} {mode}")).collect::<Vec<_>>()})
        }
        Capability::EnhancedRouteRefresh => json!("enhanced-route-refresh"),
        Capability::Other { code, value } => json!({"other": code, "value": hex(value)}),
    };
    json!({
        "asn": open.asn, "hold_time_s": open.hold_time_s, "router_id": open.router_id,
        "capabilities": open.capabilities.iter().map(capability).collect::<Vec<_>>(),
    })
}

/// What was negotiated, as JSON.
pub fn negotiated(n: &Negotiated) -> Value {
    json!({
        "as4": n.context.as4, "max_message_len": n.context.max_message_len, "hold_time_s": n.hold_time_s,
        "families": n.families.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "route_refresh": n.route_refresh, "enhanced_route_refresh": n.enhanced_refresh,
    })
}

/// What a run comes to.
#[derive(Debug, Default, Serialize)]
pub struct Summary {
    /// Times a session was established.
    pub sessions_up: u64,
    /// Times an established session ended other than by our own leaving.
    pub sessions_reset: u64,
    /// Why each ended, ours included.
    pub session_ends: Vec<String>,
    /// NOTIFICATIONs from the neighbour.
    pub notifications_received: Vec<Value>,
    /// NOTIFICATIONs from us.
    pub notifications_sent: Vec<Value>,
    /// The neighbour's last OPEN.
    pub open_received: Option<Value>,
    /// UPDATEs sent, End-of-RIB markers and raw ones included.
    pub updates_sent: u64,
    /// Prefixes announced, repetitions included.
    pub prefixes_sent: u64,
    /// Prefixes withdrawn by us.
    pub withdrawals_sent: u64,
    /// Prefixes that could not be sent: no next hop of their family, attributes longer than a
    /// message, family not negotiated.
    pub prefixes_unsendable: u64,
    /// Counters of what was received.
    #[serde(flatten)]
    pub received: Counts,
    /// Prefixes known at the end (at the end of the session if it has ended), by family and in all.
    pub prefixes_now: BTreeMap<String, usize>,
    /// Seconds from the session's start to the End-of-RIB of each family.
    pub eor: BTreeMap<String, f64>,
    /// ROUTE-REFRESH requests received.
    pub refreshes_received: u64,
    /// KEEPALIVEs received.
    pub keepalives_received: u64,
    /// When the first UPDATE of the last session came, microseconds since 1970.
    pub first_update_us: Option<u64>,
    /// When the last UPDATE came.
    pub last_update_us: Option<u64>,
    /// When the first of our own routes was written.
    pub feed_started_us: Option<u64>,
    /// When the last of our own routes was handed to the kernel.
    pub feed_done_us: Option<u64>,
    /// Octets received.
    pub octets_received: u64,
    /// Octets sent.
    pub octets_sent: u64,
    /// Length of the run.
    pub seconds: f64,
}
