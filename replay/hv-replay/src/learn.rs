//! What a neighbour has told us: each UPDATE checked by RFC 7606, counted, and kept as canonical
//! routes (our Adj-RIB-In).

use bytes::Bytes;
use replay::intern::{BlobId, Interner};
use replay::store::Stores;
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use std::io::{self, BufWriter, Write};
use std::net::Ipv4Addr;
use wire::bgp::canonical::{self, AttributeSet, CanonicalContext, Canonicaliser, Carried, RouteText};
use wire::bgp::frame::HEADER_LEN;
use wire::bgp::hygiene::{self, Verdict};
use wire::bgp::message::{RefreshKind, RouteRefresh};
use wire::bgp::update::Update;
use wire::bgp::{Family, Notification, Prefix, UpdateContext, hex};

/// What one UPDATE said, for whoever prints it.
#[derive(Debug, Default)]
pub struct Told {
    /// Announced, with the canonical route.
    pub announced: Vec<(Vec<Prefix>, BlobId)>,
    /// Withdrawn.
    pub withdrawn: Vec<Prefix>,
    /// It is this family's End-of-RIB.
    pub end_of_rib: Option<Family>,
    /// What is wrong with it.
    pub findings: Vec<&'static str>,
}

/// Counters of what was received.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counts {
    /// UPDATEs, End-of-RIB markers included.
    pub updates_received: u64,
    /// Prefixes announced, repetitions included.
    pub prefixes_announced: u64,
    /// Prefixes withdrawn, repetitions included.
    pub prefixes_withdrawn: u64,
    /// Announcements that changed nothing.
    pub announcements_repeated: u64,
    /// UPDATEs that RFC 7606 does not let pass as they are.
    pub malformed_received: u64,
    /// What was wrong with them, and how often.
    pub malformed: BTreeMap<&'static str, u64>,
}

/// The store has one session.
const ONE: usize = 0;

/// The routes and the counters.
#[derive(Debug)]
pub struct Learnt {
    stores: Stores,
    interner: Interner,
    canonicaliser: Canonicaliser,
    /// Between the markers of an enhanced route refresh: what was not told again yet (RFC 7313
    /// section 4.2).
    stale: BTreeMap<Family, HashSet<Prefix>>,
    as4: bool,
    /// The counters.
    pub counts: Counts,
}

impl Default for Learnt {
    fn default() -> Learnt {
        Learnt {
            stores: Stores::new(),
            interner: Interner::new(),
            canonicaliser: Canonicaliser::default(),
            stale: BTreeMap::new(),
            as4: true,
            counts: Counts::default(),
        }
    }
}

impl Learnt {
    /// Takes an UPDATE (header included). `own` is our AS and router id.
    ///
    /// # Errors
    /// The NOTIFICATION with which the session must end.
    pub fn update(
        &mut self,
        message: &Bytes,
        context: &UpdateContext,
        own: (u32, Ipv4Addr),
        now_ms: u32,
    ) -> Result<Told, Notification> {
        self.counts.updates_received += 1;
        self.as4 = context.as4;
        let body = message.get(HEADER_LEN..).unwrap_or_default();
        let mut told = Told::default();
        let rewritten;
        let body = match hygiene::check(body, context) {
            Verdict::Pass => body,
            Verdict::Rewritten { body, findings, .. } => {
                told.findings = findings.iter().map(|f| f.what).collect();
                rewritten = body;
                &rewritten
            }
            Verdict::Reset { notification, finding } => {
                self.malformed(&[finding.what]);
                return Err(notification);
            }
        };
        self.malformed(&told.findings);
        let update = Update::parse(body)?;
        told.end_of_rib = update.end_of_rib();
        told.withdrawn = update.withdrawn.chain(update.mp_withdrawn().into_iter().flatten()).collect();
        for prefix in &told.withdrawn {
            let old = self.stores.withdraw(ONE, prefix, 0);
            self.interner.release(old);
        }
        self.counts.prefixes_withdrawn += told.withdrawn.len() as u64;
        let reached = update.mp_announced().into_iter().flatten().collect();
        self.announced(&update, Carried::Classic, update.nlri.collect(), context, own, now_ms, &mut told);
        self.announced(&update, Carried::MpReach, reached, context, own, now_ms, &mut told);
        Ok(told)
    }

    #[allow(clippy::too_many_arguments)] // the arguments of `update`, once for each place that prefixes stand in
    fn announced(
        &mut self,
        update: &Update<'_>,
        carried: Carried,
        prefixes: Vec<Prefix>,
        context: &UpdateContext,
        own: (u32, Ipv4Addr),
        now_ms: u32,
        told: &mut Told,
    ) {
        if prefixes.is_empty() {
            return;
        }
        let context = CanonicalContext {
            update: *context,
            peer_as: own.0,
            confederation: None,
            peer_router_id: own.1,
            // Everything is recorded, our own AS in the path or not: what to do with it is the
            // reader's business.
            allow_own_as: true,
            ignore: AttributeSet::default(),
        };
        let Some(route) = self.canonicaliser.route(update, carried, &context) else { return };
        let id = self.interner.intern(route);
        self.interner.retain(id, u32::try_from(prefixes.len()).unwrap_or(u32::MAX));
        for prefix in &prefixes {
            let old = self.stores.announce(ONE, *prefix, id, now_ms);
            self.counts.announcements_repeated += u64::from(old == id);
            self.interner.release(old);
            if let Some(stale) = self.stale.get_mut(&prefix.family()) {
                stale.remove(prefix);
            }
        }
        self.interner.release(id);
        self.counts.prefixes_announced += prefixes.len() as u64;
        told.announced.push((prefixes, id));
    }

    fn malformed(&mut self, findings: &[&'static str]) {
        if findings.is_empty() {
            return;
        }
        self.counts.malformed_received += 1;
        for finding in findings {
            *self.counts.malformed.entry(finding).or_default() += 1;
        }
    }

    /// The markers of an enhanced route refresh: what was not told again between them is gone.
    /// Returns the prefixes that went.
    pub fn refresh(&mut self, marker: &RouteRefresh) -> Vec<Prefix> {
        match marker.kind {
            RefreshKind::Begin => {
                let family = self.stores.iter(ONE).map(|(p, _)| p).filter(|p| p.family() == marker.family);
                self.stale.insert(marker.family, family.collect());
                Vec::new()
            }
            RefreshKind::End => {
                let gone: Vec<Prefix> = self.stale.remove(&marker.family).into_iter().flatten().collect();
                for prefix in &gone {
                    let old = self.stores.withdraw(ONE, prefix, 0);
                    self.interner.release(old);
                }
                gone
            }
            RefreshKind::Request | RefreshKind::Unknown(_) => Vec::new(),
        }
    }

    /// The session ended: a router forgets what it was told on it.
    pub fn clear(&mut self) {
        self.stores = Stores::new();
        self.interner = Interner::new();
        self.stale.clear();
    }

    /// Number of prefixes known now.
    pub fn len(&self) -> usize {
        self.stores.len(ONE)
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.stores.is_empty(ONE)
    }

    /// Number of prefixes of one family known now.
    pub fn len_of(&self, family: Family) -> usize {
        self.stores.len_of(ONE, family)
    }

    /// A route in words.
    pub fn describe(&self, id: BlobId) -> RouteText {
        canonical::describe(self.interner.bytes(id), self.as4)
    }

    /// Writes the routes as JSON, sorted, one prefix a line, so that two files can also be compared
    /// by eye and by `diff`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_table(&self, out: impl Write) -> io::Result<()> {
        #[derive(Serialize)]
        struct Line<'a> {
            #[serde(flatten)]
            route: RouteText,
            canonical: &'a str,
        }
        let mut out = BufWriter::new(out);
        let mut routes: Vec<(Prefix, BlobId)> = self.stores.iter(ONE).collect();
        routes.sort_unstable();
        out.write_all(b"{")?;
        for (n, (prefix, id)) in routes.iter().enumerate() {
            let canonical = hex(self.interner.bytes(*id));
            let line = Line { route: self.describe(*id), canonical: &canonical };
            write!(out, "{}\n\"{prefix}\":", if n == 0 { "" } else { "," })?;
            serde_json::to_writer(&mut out, &line)?;
        }
        out.write_all(b"\n}\n")?;
        out.flush()
    }
}
