//! The command line of `hv-replay`.

use crate::link::Endpoint;
use crate::route::PathRewrite;
use crate::session::SessionConfig;
use anyhow::{Context, Result, bail};
use clap::Args;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use wire::bgp::Family;
use wire::bgp::message::{Capability, Open};

/// The BGP port (RFC 4271 section 8).
const BGP_PORT: u16 = 179;

/// `ADDR`, `ADDR:PORT` or `[ADDR]:PORT`.
///
/// # Errors
/// It is none of them.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let addr = SocketAddr::from_str(text).or_else(|_| IpAddr::from_str(text).map(|ip| SocketAddr::new(ip, BGP_PORT)));
    addr.map_err(|_| format!("{text:?}: expected ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT"))
}

/// `ipv4` or `ipv6`.
///
/// # Errors
/// It is neither.
pub fn family(text: &str) -> Result<Family, String> {
    match text {
        "ipv4" | "ipv4-unicast" => Ok(Family::IPV4_UNICAST),
        "ipv6" | "ipv6-unicast" => Ok(Family::IPV6_UNICAST),
        _ => Err(format!("{text:?}: expected ipv4 or ipv6")),
    }
}

/// `400ms`, `2s`, `1.5` (seconds), `3m`.
///
/// # Errors
/// It is not a length of time.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.find(|c: char| c.is_ascii_alphabetic()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let scale = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        _ => return Err(format!("{text:?}: expected a length of time such as 400ms, 2s or 3m")),
    };
    let seconds: f64 = number.parse().map_err(|_| format!("{text:?}: {number:?} is not a number"))?;
    Duration::try_from_secs_f64(seconds * scale).map_err(|e| format!("{text:?}: {e}"))
}

/// Octets written in hexadecimal; blanks and colons between them are allowed.
///
/// # Errors
/// Another character, or half an octet.
pub fn hex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|c| !c.is_whitespace() && *c != ':')
        .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()))
        .collect();
    let digits = digits.ok_or_else(|| format!("{text:?}: only hexadecimal digits are expected"))?;
    if digits.len() % 2 != 0 {
        return Err(format!("{text:?}: an odd number of hexadecimal digits"));
    }
    Ok(digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |n, d| n << 4 | d)).collect())
}

fn capability(text: &str) -> Result<(u8, Vec<u8>), String> {
    let (code, value) = text.split_once(':').unwrap_or((text, ""));
    let code = code.parse().map_err(|_| format!("{text:?}: expected CODE:HEX, CODE from 0 to 255"))?;
    Ok((code, hex(value)?))
}

/// One BGP session.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Session")]
pub struct SessionOptions {
    /// Wait for the neighbour on this address (port 179 unless given; port 0: any free one, shown
    /// on stderr and in --events)
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = address, conflicts_with = "connect")]
    pub listen: Option<SocketAddr>,
    /// Dial the neighbour; tried again until it answers
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = address)]
    pub connect: Option<SocketAddr>,
    /// Dial from this address
    #[arg(long, value_name = "ADDR", requires = "connect")]
    pub bind: Option<IpAddr>,
    /// TCP MD5 key (RFC 2385); with --listen, --peer says whose
    #[arg(long, value_name = "KEY")]
    pub md5: Option<String>,
    /// With --listen: the neighbour's address; others are refused
    #[arg(long, value_name = "ADDR", requires = "listen")]
    pub peer: Option<IpAddr>,
    /// Our AS number
    #[arg(long, value_name = "ASN")]
    pub asn: Option<u32>,
    /// The neighbour's AS number; any is accepted unless given
    #[arg(long, value_name = "ASN")]
    pub peer_asn: Option<u32>,
    /// Our BGP identifier [default: our IPv4 address on the session]
    #[arg(long, value_name = "ADDR")]
    pub router_id: Option<Ipv4Addr>,
    /// Hold time in seconds: 0, or 3 and more
    #[arg(long, value_name = "S", default_value_t = 90)]
    pub hold_time: u16,
    /// Address families to offer
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = family, default_value = "ipv4,ipv6")]
    pub families: Vec<Family>,
    /// Do not offer 4-octet AS numbers (RFC 6793)
    #[arg(long)]
    pub no_as4: bool,
    /// Do not offer messages longer than 4096 octets (RFC 8654)
    #[arg(long)]
    pub no_extended_message: bool,
    /// Do not offer route refresh (RFC 2918)
    #[arg(long)]
    pub no_route_refresh: bool,
    /// Do not offer enhanced route refresh (RFC 7313)
    #[arg(long)]
    pub no_enhanced_refresh: bool,
    /// Offer IPv6 next hops for IPv4 routes (RFC 8950)
    #[arg(long)]
    pub extended_next_hop: bool,
    /// Offer graceful restart for no family (RFC 4724): some routers send End-of-RIB only then
    #[arg(long)]
    pub graceful_restart: bool,
    /// Role (RFC 9234): provider, rs, rs-client, customer or peer
    #[arg(long, value_name = "ROLE", value_parser = role)]
    pub role: Option<u8>,
    /// Offer any other capability; may be repeated
    #[arg(long, value_name = "CODE:HEX", value_parser = capability)]
    pub capability: Vec<(u8, Vec<u8>)>,
}

fn role(text: &str) -> Result<u8, String> {
    let roles = ["provider", "rs", "rs-client", "customer", "peer"];
    let found = roles.iter().position(|r| *r == text).and_then(|n| u8::try_from(n).ok());
    found.ok_or_else(|| format!("{text:?}: expected one of {}", roles.join(", ")))
}

impl SessionOptions {
    /// Which side dials.
    ///
    /// # Errors
    /// Neither --listen nor --connect is given.
    pub fn endpoint(&self) -> Result<Endpoint> {
        match (self.listen, self.connect) {
            (Some(addr), _) => Ok(Endpoint::Listen(addr)),
            (_, Some(addr)) => Ok(Endpoint::Connect(addr, self.bind)),
            _ => bail!("say --listen ADDR or --connect ADDR (hv-replay --help shows examples)"),
        }
    }

    /// The MD5 key and whose it is.
    ///
    /// # Errors
    /// A key for a listening socket without the neighbour's address.
    pub fn md5_key(&self) -> Result<Option<(IpAddr, String)>> {
        let Some(key) = &self.md5 else { return Ok(None) };
        let peer = self.connect.map(|a| a.ip()).or(self.peer).context("--md5 with --listen needs --peer ADDR")?;
        Ok(Some((peer, key.clone())))
    }

    /// What our OPEN says.
    ///
    /// # Errors
    /// No AS number, or a hold time that RFC 4271 does not allow.
    pub fn config(&self) -> Result<SessionConfig> {
        let asn = self.asn.context("say our AS number: --asn ASN")?;
        if matches!(self.hold_time, 1 | 2) || asn == 0 {
            bail!("a hold time is 0 or at least 3 seconds, an AS number at least 1 (RFC 4271 section 4.2, RFC 7607)");
        }
        if self.no_as4 && asn > 0xffff {
            bail!("AS {asn} needs 4-octet AS numbers");
        }
        let mut capabilities: Vec<Capability> = self.families.iter().map(|f| Capability::Multiprotocol(*f)).collect();
        let mut offer = |yes: bool, c: Capability| capabilities.extend(yes.then_some(c));
        offer(!self.no_route_refresh, Capability::RouteRefresh);
        offer(self.extended_next_hop, Capability::ExtendedNextHop(vec![(Family::IPV4_UNICAST, 2)]));
        offer(!self.no_extended_message, Capability::ExtendedMessage);
        offer(self.role.is_some(), Capability::Role(self.role.unwrap_or_default()));
        let graceful = Capability::GracefulRestart { flags: 0, restart_time_s: 0, families: Vec::new() };
        offer(self.graceful_restart, graceful);
        offer(!self.no_as4, Capability::FourOctetAs(asn));
        offer(!self.no_route_refresh && !self.no_enhanced_refresh, Capability::EnhancedRouteRefresh);
        let other = self.capability.iter().map(|(code, value)| Capability::Other { code: *code, value: value.clone() });
        capabilities.extend(other);
        let router_id = self.router_id.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let open = Open { asn, hold_time_s: self.hold_time, router_id, capabilities };
        Ok(SessionConfig { open, peer_asn: self.peer_asn })
    }
}

/// How fast a trace is played.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Speed {
    /// This many times as fast as it was recorded.
    Times(f64),
    /// As fast as the neighbour takes it.
    Max,
}

/// `max` or a number.
///
/// # Errors
/// Neither, or nothing above zero.
pub fn speed(text: &str) -> Result<Speed, String> {
    match text.parse::<f64>() {
        _ if text == "max" => Ok(Speed::Max),
        Ok(times) if times > 0.0 => Ok(Speed::Times(times)),
        _ => Err(format!("{text:?}: expected max or a number such as 1 or 3000")),
    }
}

/// What is announced.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "What to announce")]
pub struct FeedOptions {
    /// Play an MRT file: updates or a RIB dump, plain, .gz or .bz2, or the text of `bgpdump -m`
    #[arg(long, value_name = "FILE", group = "input")]
    pub mrt: Option<PathBuf>,
    /// Only what this vantage point said; without it those of all are played as one, the last word
    /// on a prefix standing
    #[arg(long, value_name = "ADDR|ASN", requires = "mrt")]
    pub peer_filter: Option<String>,
    /// 1: as recorded; N: N times as fast; max: as fast as the neighbour takes it
    #[arg(long, value_name = "N|max", default_value = "max", value_parser = speed)]
    pub speed: Speed,
    /// Stop after this many prefixes announced or withdrawn
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Announce N made-up prefixes, with lengths, paths and attributes as in the real table
    #[arg(long, value_name = "N", group = "input")]
    pub generate: Option<u64>,
    /// Seed of --generate: the same seed gives the same table
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// Share of IPv6 in --generate, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub ipv6_share: f64,
    /// Send these octets as they are: hexadecimal, or a file of hexadecimal lines or of binary
    /// messages
    #[arg(long, value_name = "HEX|FILE", group = "input")]
    pub raw: Option<String>,
    /// Follow a script (see below); - reads it from standard input as it is typed
    #[arg(long, value_name = "FILE|-", group = "input")]
    pub script: Option<PathBuf>,
    /// Announce nothing, only listen (the default without another input)
    #[arg(long, group = "input")]
    pub monitor: bool,
    /// Next hop of IPv4 routes [default: our address on the session; 192.0.2.1 if that is a
    /// loopback address]
    #[arg(long, value_name = "ADDR")]
    pub next_hop4: Option<Ipv4Addr>,
    /// Next hop of IPv6 routes [default: our address on the session, IPv4-mapped if it is IPv4;
    /// 2001:db8::1 if it is a loopback address]
    #[arg(long, value_name = "ADDR")]
    pub next_hop6: Option<Ipv6Addr>,
    /// Keep the next hops of the file
    #[arg(long)]
    pub keep_next_hop: bool,
    /// Keep the paths of the file. Otherwise our AS is put in front of a path that does not start
    /// with it. A path that holds the neighbour's own AS is sent as well: the neighbour drops it as
    /// a loop
    #[arg(long, conflicts_with = "replace_first_as")]
    pub keep_as_path: bool,
    /// Put our AS in the place of the first one instead, so that paths keep their length
    #[arg(long)]
    pub replace_first_as: bool,
    /// Do not send End-of-RIB after the last route (a script never does by itself)
    #[arg(long)]
    pub no_eor: bool,
}

impl FeedOptions {
    /// What becomes of AS_PATHs.
    pub fn path(&self) -> PathRewrite {
        match (self.keep_as_path, self.replace_first_as) {
            (true, _) => PathRewrite::Keep,
            (_, true) => PathRewrite::ReplaceFirst,
            _ => PathRewrite::Prepend,
        }
    }
}

/// Playing what virtd recorded.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Playing a record of virtd's")]
pub struct ReproduceOptions {
    /// Does the daemon fail again? Play it what an instance was given: AS, router id, hold time and
    /// capabilities of our OPEN come from the record, then its messages follow as they were; prints
    /// a line of JSON
    #[arg(long, value_name = "RECORD.json", conflicts_with_all = [
        "asn", "router_id", "hold_time", "families", "no_as4", "no_extended_message", "no_route_refresh",
        "no_enhanced_refresh", "extended_next_hop", "graceful_restart", "role", "capability", "FeedOptions",
        "duration", "exit_after_idle", "until_routes", "hold_after", "reconnect", "table", "json",
    ])]
    pub reproduce: Option<PathBuf>,
    /// With --reproduce: play the session with this neighbour [default: the one that sent the last
    /// message]
    #[arg(long, value_name = "ADDR", requires = "reproduce")]
    pub of_peer: Option<IpAddr>,
    /// With --reproduce: the daemon lives if nothing has happened this long after the last message
    /// [default: 10, and longer than the hold time]
    #[arg(long, value_name = "S", requires = "reproduce", value_parser = duration)]
    pub wait: Option<Duration>,
}

/// When to stop and what to write.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "When to stop, what to write")]
pub struct RunOptions {
    /// Stop after this long
    #[arg(long, value_name = "S", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Stop when everything is sent and no UPDATE came for this long
    #[arg(long, value_name = "S", value_parser = duration)]
    pub exit_after_idle: Option<Duration>,
    /// Stop as soon as this many prefixes are known from the neighbour
    #[arg(long, value_name = "N")]
    pub until_routes: Option<u64>,
    /// Stop this long after everything is sent
    #[arg(long, value_name = "S", value_parser = duration)]
    pub hold_after: Option<Duration>,
    /// Come back when the session ends, and announce everything again
    #[arg(long)]
    pub reconnect: bool,
    /// Record every UPDATE received as BGP4MP_ET in an MRT file (needs 4-octet AS numbers)
    #[arg(long, value_name = "FILE.mrt")]
    pub record: Option<PathBuf>,
    /// At the end, write the routes learnt, sorted, for `hv-replay diff`
    #[arg(long, value_name = "FILE.json")]
    pub table: Option<PathBuf>,
    /// At the end, write a summary
    #[arg(long, value_name = "FILE|-")]
    pub json: Option<PathBuf>,
    /// Write events as they happen, one JSON object a line
    #[arg(long, value_name = "FILE|-")]
    pub events: Option<PathBuf>,
    /// Also an event for each UPDATE received, and for KEEPALIVEs
    #[arg(long, requires = "events")]
    pub events_updates: bool,
    /// No progress on stderr
    #[arg(long, short)]
    pub quiet: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_and_octets_are_read() {
        assert_eq!(duration("400ms"), Ok(Duration::from_millis(400)));
        assert_eq!(duration("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("3m"), Ok(Duration::from_secs(180)));
        assert!(duration("3 weeks").is_err() && duration("-1s").is_err());
        assert_eq!(hex("ff 0A:1b"), Ok(vec![0xff, 0x0a, 0x1b]));
        assert!(hex("f").is_err() && hex("zz").is_err());
        assert_eq!(capability("71:0001"), Ok((71, vec![0, 1])));
    }

    #[test]
    fn a_port_may_be_left_out() {
        assert_eq!(address("192.0.2.1"), Ok("192.0.2.1:179".parse().expect("an address")));
        assert_eq!(address("[::1]:0"), Ok("[::1]:0".parse().expect("an address")));
        assert_eq!(address("::1").map(|a| a.port()), Ok(179));
        assert!(address("host").is_err());
    }
}
