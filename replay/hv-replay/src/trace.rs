//! Recorded input: what collectors wrote (MRT), and messages given as octets.

use crate::feed::{Item, Source};
use crate::options::hex;
use crate::route::Route;
use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;
use wire::bgp::Prefix;
use wire::bgp::frame::HEADER_LEN;
use wire::bgp::update::Update;
use wire::mrt;

/// Message type of an UPDATE (RFC 4271 section 4.1).
const UPDATE: u8 = 2;
/// Entries of a RIB dump that are looked at together, so that prefixes with the same attributes go
/// out in one UPDATE.
const GROUPED: usize = 200_000;

/// Which vantage point of a file is played.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerFilter {
    /// All of them.
    All,
    /// The one with this address.
    Address(IpAddr),
    /// Those of this AS.
    Asn(u32),
}

impl PeerFilter {
    /// Reads an address or an AS number.
    ///
    /// # Errors
    /// It is neither.
    pub fn parse(text: Option<&str>) -> Result<PeerFilter> {
        let Some(text) = text else { return Ok(PeerFilter::All) };
        if let Ok(addr) = text.parse() {
            return Ok(PeerFilter::Address(addr));
        }
        let digits = text.trim_start_matches(['A', 'S', 'a', 's']);
        digits
            .parse()
            .map(PeerFilter::Asn)
            .map_err(|_| anyhow!("--peer-filter {text:?}: expected an address or an AS number"))
    }

    /// Whether a vantage point is meant.
    pub fn wants(&self, addr: IpAddr, asn: u32) -> bool {
        match self {
            PeerFilter::All => true,
            PeerFilter::Address(a) => *a == addr,
            PeerFilter::Asn(a) => *a == asn,
        }
    }
}

/// Collects the entries of a RIB dump and gives them out grouped by attributes, in the order of
/// first appearance.
///
/// A dump of several vantage points has several entries for a prefix. Groups would put them in
/// another order than the file's, so of what is collected together only the last word on each
/// prefix is given out.
#[derive(Debug, Default)]
pub struct Grouper {
    places: HashMap<(Route, bool), usize>,
    groups: Vec<Vec<Prefix>>,
    /// The group that the last entry for each prefix went to.
    last: HashMap<Prefix, usize>,
    entries: usize,
}

impl Grouper {
    /// Adds an entry; `true` when it is time to [`Grouper::drain`].
    pub fn add(&mut self, route: Route, prefix: Prefix) -> bool {
        let next = self.groups.len();
        let at = *self.places.entry((route, prefix.addr().is_ipv6())).or_insert(next);
        match self.groups.get_mut(at) {
            Some(group) => group.push(prefix),
            None => self.groups.push(vec![prefix]),
        }
        self.last.insert(prefix, at);
        self.entries += 1;
        self.entries >= GROUPED
    }

    /// Everything collected so far.
    pub fn drain(&mut self, out: &mut VecDeque<Item>) {
        let mut order: Vec<_> = self.places.drain().collect();
        order.sort_unstable_by_key(|(_, at)| *at);
        for (((route, _), at), mut prefixes) in order.into_iter().zip(self.groups.drain(..)) {
            // Taken out where it is given: the same prefix may stand in its group twice.
            prefixes.retain(|prefix| self.last.get(prefix) == Some(&at) && self.last.remove(prefix).is_some());
            if !prefixes.is_empty() {
                out.push_back(Item::Announce { route: Box::new(route), prefixes });
            }
        }
        self.last.clear();
        self.entries = 0;
    }
}

/// Opens a trace: updates or a RIB dump in MRT, or the text of `bgpdump -m`, compressed or not.
///
/// # Errors
/// The file cannot be read, there is nothing in it that can be, or `peer_filter` is neither an
/// address nor an AS number.
pub fn open(path: &Path, peer_filter: Option<&str>) -> Result<Box<dyn Source>> {
    let nothing = || format!("nothing in {} could be read", path.display());
    let reader = match mrt::open(path) {
        // It names the file itself.
        Err(e @ mrt::MrtError::Open { .. }) => return Err(e.into()),
        other => other.with_context(nothing)?,
    };
    play(reader, PeerFilter::parse(peer_filter)?).with_context(nothing)
}

/// The same of what is open already.
///
/// # Errors
/// There is nothing in it that can be played.
pub fn play(reader: mrt::Reader, filter: PeerFilter) -> Result<Box<dyn Source>> {
    let mut trace = Trace {
        reader,
        filter,
        first_us: None,
        last_us: 0,
        rib: Grouper::default(),
        items: VecDeque::new(),
        skipped: 0,
        done: false,
    };
    trace.begin()?;
    Ok(Box::new(trace))
}

/// What a collector recorded. End-of-RIB markers in it are left out: they belong to the collector's
/// sessions.
struct Trace {
    reader: mrt::Reader,
    filter: PeerFilter,
    first_us: Option<u64>,
    last_us: u64,
    rib: Grouper,
    items: VecDeque<Item>,
    /// Records that cannot be played: damaged, or of a kind that has no meaning on this session.
    skipped: u64,
    done: bool,
}

impl Trace {
    /// Reads up to the first record that is one. A file without any is no trace: played, it would
    /// look like an empty one.
    fn begin(&mut self) -> Result<()> {
        let mut first = None;
        loop {
            match self.reader.next() {
                Some(Ok(record)) => {
                    self.record(record);
                    break Ok(());
                }
                Some(Err(e)) => {
                    self.skipped += 1;
                    first.get_or_insert(e);
                }
                None => break Err(first.map_or_else(|| anyhow!("it has no record"), Into::into)),
            }
        }
    }

    fn record(&mut self, record: mrt::Record) {
        match record {
            mrt::Record::Message(message) => self.message(&message),
            mrt::Record::Route(route) => self.route(&route),
            mrt::Record::StateChange(_) => {}
        }
    }

    fn message(&mut self, m: &mrt::Message) {
        let kind = m.bytes.get(HEADER_LEN - 1).copied();
        if !self.filter.wants(m.peer, m.peer_as) || m.sent || kind != Some(UPDATE) {
            return;
        }
        let update = match Update::parse(m.bytes.get(HEADER_LEN..).unwrap_or_default()) {
            Ok(update) if !m.addpath => update,
            _ => {
                self.skipped += 1;
                return;
            }
        };
        let families = [update.mp_reach.map(|mp| mp.family), update.mp_unreach.map(|mp| mp.family)];
        // The rest of such a message is played all the same.
        self.skipped += u64::from(families.into_iter().flatten().any(|f| !f.is_voted()));
        self.at(m.at_us);
        let withdrawn = [update.withdrawn.collect(), update.mp_withdrawn().into_iter().flatten().collect::<Vec<_>>()];
        self.items.extend(withdrawn.into_iter().filter(|p| !p.is_empty()).map(Item::Withdraw));
        let reached: Vec<Prefix> = update.mp_announced().into_iter().flatten().collect();
        let classic: Vec<Prefix> = update.nlri.collect();
        if classic.is_empty() && reached.is_empty() {
            return;
        }
        let route = Route::from_attributes(update.attributes, m.as4);
        if let (false, Some(mp)) = (reached.is_empty(), update.mp_reach) {
            let mut route = route.clone();
            route.put_next_hop(mp.next_hop);
            self.items.push_back(Item::Announce { route: Box::new(route), prefixes: reached });
        }
        if !classic.is_empty() {
            self.items.push_back(Item::Announce { route: Box::new(route), prefixes: classic });
        }
    }

    fn route(&mut self, r: &mrt::Route) {
        if !self.filter.wants(r.peer, r.peer_as) {
            return;
        }
        let mut route = Route::from_attributes(&r.attributes, true);
        route.put_next_hop(&r.mp_next_hop);
        if self.rib.add(route, r.prefix) {
            self.rib.drain(&mut self.items);
        }
    }

    fn at(&mut self, at_us: u64) {
        let first = *self.first_us.get_or_insert(at_us);
        if at_us != self.last_us {
            self.items.push_back(Item::At(Duration::from_micros(at_us.saturating_sub(first))));
            self.last_us = at_us;
        }
    }
}

impl Source for Trace {
    fn next(&mut self) -> Result<Option<Item>> {
        while self.items.is_empty() && !self.done {
            match self.reader.next() {
                Some(Ok(record)) => self.record(record),
                Some(Err(e @ (mrt::MrtError::Open { .. } | mrt::MrtError::Io { .. }))) => return Err(e.into()),
                Some(Err(e)) => {
                    if self.skipped == 0 {
                        log::warn!("left out: {e}");
                    }
                    self.skipped += 1;
                }
                None => {
                    self.done = true;
                    self.rib.drain(&mut self.items);
                    if self.skipped > 0 {
                        log::warn!("{} records could not be played (damaged, add-path, another family)", self.skipped);
                    }
                }
            }
        }
        Ok(self.items.pop_front())
    }
}

/// Messages given as octets, one item each line (hexadecimal) or all in one (binary).
#[derive(Debug)]
pub struct RawMessages(VecDeque<Bytes>);

impl Source for RawMessages {
    fn next(&mut self) -> Result<Option<Item>> {
        Ok(self.0.pop_front().map(Item::Raw))
    }
}

/// `--raw`: hexadecimal on the command line, a file of hexadecimal lines (# starts a comment), or a
/// file of octets.
///
/// # Errors
/// Neither a file nor hexadecimal.
pub fn raw(text: &str) -> Result<RawMessages> {
    let path = Path::new(text);
    if !path.is_file() {
        let octets = hex(text).map_err(|e| anyhow!("--raw: no such file, and {e}"))?;
        return Ok(RawMessages([octets.into()].into()));
    }
    let content = fs::read(path).with_context(|| format!("cannot read {text}"))?;
    let lines = std::str::from_utf8(&content).ok().and_then(|text| {
        let lines = text.lines().map(|l| l.split('#').next().unwrap_or_default());
        lines.filter(|l| !l.trim().is_empty()).map(|l| hex(l).ok().map(Bytes::from)).collect::<Option<VecDeque<_>>>()
    });
    Ok(RawMessages(lines.unwrap_or_else(|| [content.into()].into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{PathRewrite, Rewrite};
    use crate::script;
    use bytes::BytesMut;
    use std::io::Write;
    use std::net::Ipv4Addr;
    use wire::bgp::{SessionKind, UpdateContext, encode};

    fn items(content: &[u8], filter: Option<&str>) -> Vec<Item> {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(content).expect("written");
        let mut source = open(file.path(), filter).expect("a trace");
        std::iter::from_fn(|| source.next().expect("readable")).collect()
    }

    /// Two BGP4MP_MESSAGE_AS4 records, three seconds apart, from two vantage points.
    fn updates() -> Vec<u8> {
        let route =
            script::parse("announce 10.0.0.0/8,11.0.0.0/8 next-hop 192.0.2.7 as-path 64500 1 {2,3} community 64500:1");
        let Some(Item::Announce { route, prefixes }) = route.expect("a command").pop() else {
            panic!("an announcement")
        };
        let rewrite = Rewrite {
            asn: 64500,
            local: Ipv4Addr::new(192, 0, 2, 1).into(),
            next_hop4: None,
            next_hop6: None,
            keep_next_hop: true,
            path: PathRewrite::Keep,
            as4: true,
            kind: SessionKind::Ebgp,
        };
        let mut messages = [BytesMut::new(), BytesMut::new()];
        let block = rewrite.block(&route, &prefixes[0]).expect("a block");
        encode::announce_stored(&block, &prefixes, &UpdateContext::EBGP, &mut messages[0]);
        encode::withdraw(&["2001:db8::/32".parse().expect("a prefix")], &UpdateContext::EBGP, &mut messages[1]);
        let mut out = Vec::new();
        for (message, n) in messages.iter().zip(0u8..) {
            let len = u32::try_from(20 + message.len()).expect("short");
            out.extend([(100 + 3 * u32::from(n)).to_be_bytes(), [0, 16, 0, 4], len.to_be_bytes()].concat());
            out.extend((64500 + u32::from(n)).to_be_bytes());
            out.extend([[0, 0, 0, 1], [0, 0, 0, 1], [192, 0, 2, 1 + n], [192, 0, 2, 9]].concat());
            out.extend_from_slice(message);
        }
        out
    }

    #[test]
    fn a_message_is_an_item_and_times_are_kept() {
        let items = items(&updates(), None);
        let [Item::At(_), Item::Announce { route, prefixes }, Item::At(later), Item::Withdraw(gone)] = &items[..]
        else {
            panic!("{items:?}");
        };
        assert_eq!((prefixes.len(), gone.len(), *later), (2, 1, Duration::from_secs(3)));
        assert_eq!(route.next_hop, Some(Ipv4Addr::new(192, 0, 2, 7).into()));
        assert_eq!(route.path, Some(script::path("64500 1 {2,3}").expect("a path")));
    }

    #[test]
    fn one_vantage_point_is_picked_by_address_or_as() {
        for filter in ["192.0.2.2", "AS64501", "64501"] {
            assert!(matches!(items(&updates(), Some(filter))[..], [Item::At(_), Item::Withdraw(_)]), "{filter}");
        }
        assert!(PeerFilter::parse(Some("nobody")).is_err());
    }

    #[test]
    fn a_rib_goes_out_grouped_by_attributes() {
        let line = |prefix, path| format!("TABLE_DUMP2|100|B|192.0.2.1|1|{prefix}|{path}|IGP|192.0.2.1|0|0||NAG||\n");
        let text = [line("10.0.0.0/8", "1 2"), line("11.0.0.0/8", "1 3"), line("12.0.0.0/8", "1 2")].concat();
        let groups: Vec<usize> = items(text.as_bytes(), None)
            .iter()
            .map(|item| if let Item::Announce { prefixes, .. } = item { prefixes.len() } else { 0 })
            .collect();
        assert_eq!(groups, [2, 1]);
    }

    /// Two vantage points, prefix by prefix, as a collector writes its dump: the last entry is what
    /// stands.
    #[test]
    fn of_several_entries_for_a_prefix_the_last_one_is_played() {
        let line = |peer, prefix, path| {
            format!("TABLE_DUMP2|100|B|192.0.2.{peer}|{peer}|{prefix}|{path}|IGP|192.0.2.1|0|0||NAG||\n")
        };
        let entries = [
            ("10.0.0.0/8", "1 3"),
            ("10.0.0.0/8", "2 3"),
            ("11.0.0.0/8", "2 3"),
            ("11.0.0.0/8", "1 3"),
            ("12.0.0.0/8", "1 3"),
            ("12.0.0.0/8", "2 3"),
            ("12.0.0.0/8", "1 3"),
        ];
        let text: String = (1..).zip(entries).map(|(peer, (prefix, path))| line(peer, prefix, path)).collect();
        let mut said: HashMap<String, Vec<String>> = HashMap::new();
        for item in items(text.as_bytes(), None) {
            let Item::Announce { route, prefixes } = item else { panic!("only announcements") };
            let first = if route.path == Some(script::path("1 3").expect("a path")) { "1 3" } else { "2 3" };
            prefixes.iter().for_each(|p| said.entry(p.to_string()).or_default().push(first.to_owned()));
        }
        let last = |prefix: &str| said.get(prefix).and_then(|words| words.last()).map(String::as_str);
        assert_eq!(last("10.0.0.0/8"), Some("2 3"), "{said:?}");
        assert_eq!(last("11.0.0.0/8"), Some("1 3"), "{said:?}");
        assert_eq!(last("12.0.0.0/8"), Some("1 3"), "{said:?}");
        assert!(said.values().all(|words| words.len() == 1), "each prefix once: {said:?}");
    }

    #[test]
    fn a_file_of_which_nothing_can_be_read_is_no_trace() {
        for content in [&b""[..], b"no trace at all, but long enough for a header", b"BZh9 and nothing behind it"] {
            let mut file = tempfile::NamedTempFile::new().expect("a file");
            file.write_all(content).expect("written");
            let refused = open(file.path(), None).err().expect("an error");
            assert!(format!("{refused:#}").contains("nothing in /"), "{refused:#}");
        }
        // One record that can be read is enough.
        let damaged = [&updates()[..], &b"rubbish"[..]].concat();
        assert!(items(&damaged, None).len() > 1);
    }

    #[test]
    fn octets_come_from_the_command_line_or_from_a_file() {
        assert_eq!(raw("ff00").expect("octets").0, [Bytes::from_static(&[0xff, 0])]);
        assert!(raw("no such thing").is_err());
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(b"ff 00 # one\n\n01\n").expect("written");
        let messages = raw(file.path().to_str().expect("a name")).expect("octets").0;
        assert_eq!(messages, [Bytes::from_static(&[0xff, 0]), Bytes::from_static(&[1])]);
        file.write_all(&[0xff; 3]).expect("written");
        assert_eq!(raw(file.path().to_str().expect("a name")).expect("octets").0.len(), 1, "binary as it is");
    }
}
