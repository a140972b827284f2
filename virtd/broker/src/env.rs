//! What all sessions share. Each part has an owner that keeps it whole: the instances
//! ([`super::roster`]), what the peers have said ([`super::heard`]), the interned routes, what may
//! kill an instance ([`super::poison`]), and what is to be done next ([`Followups`], and the outputs).

use super::followups::Followups;
use super::heard::Heard;
use super::io::{Micros, Output};
use super::roster::Instances;
use super::witness::{Stage, Witness};
use crate::config::{Config, Instance, Strategy, Vote};
use crate::delays::Delays;
use crate::event::{Event, Severity};
use ballots::{Common, Law, Rechecks};
use bytes::BytesMut;
use collections::Deadlines;
use replay::intern::{BlobId, Interner};
use std::net::{IpAddr, SocketAddr};
use voter::{Agreement, Members, Rules};
use wire::bgp::Prefix;
use wire::bgp::canonical::{self, AttributeSet, Canonicaliser};

/// A key that keeps changing is decided all the same after this many times T (docs/DECISIONS.md,
/// "Strategies, T and its cap").
const FLAP_CAP: u64 = 6;
/// Verdicts told one by one in a second; a table's worth of them would keep the loop from its
/// keepalives. The rest are counted.
const VERDICTS_PER_SECOND: u32 = 200;

#[derive(Clone, Copy, Debug, Default)]
struct VerdictsTold {
    second: u64,
    told: u32,
    counted: u64,
}

/// Counters for `virtctl status`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Votes held: candidates that changed, rechecks and walks not counted.
    pub votes: u64,
    /// UPDATEs received from peers.
    pub updates_in: u64,
    /// Prefixes told to peers (announced or withdrawn).
    pub published: u64,
    /// Candidates of instances looked at, changed or not.
    pub candidates: u64,
    /// Times an instance's steady candidate was not with the majority.
    pub dissents: u64,
    /// Malformed UPDATEs of peers that hygiene mended.
    pub mended: u64,
    /// From the first word on a prefix to its telling, in milliseconds.
    pub waited_ms: Delays,
}

/// Buffers that are kept, so that the update path allocates nothing in steady state: of all
/// sessions, one of which has them at a time.
#[derive(Default)]
pub struct Scratch {
    /// Attributes, as stored.
    pub block: Vec<u8>,
    /// Messages.
    pub packed: BytesMut,
    /// Prefixes of one message.
    pub prefixes: Vec<Prefix>,
    /// Keys that are told: what was chosen, and the slot.
    pub changed: Vec<(BlobId, u32)>,
    /// What the UPDATE of a peer is about.
    pub keys: Vec<Prefix>,
}

/// See the module's comment.
pub struct Env {
    /// What the operator configured.
    pub config: Config,
    /// The time of the input being handled.
    pub now: Micros,
    /// What is to be done, in order; [`super::turn`] takes it.
    pub out: Vec<Output>,
    /// The instances.
    pub instances: Instances,
    /// What the peers have said, and who has been told.
    pub heard: Heard,
    /// Canonical routes of instances, and what was published.
    pub routes: Interner,
    /// The sessions' keys at rest.
    pub common: Common<Prefix, BlobId>,
    /// Voting rules.
    pub rules: Rules,
    /// Attributes left out of the comparison.
    pub ignore: AttributeSet,
    /// Turns UPDATEs into canonical routes.
    pub canonicaliser: Canonicaliser,
    /// Keys of the sessions whose verdict time alone can change.
    pub rechecks: Rechecks,
    /// The longest that any instance is told something late, by its diversity.
    pub held_back_ms: u64,
    /// Some instance is given only some address blocks.
    pub has_blocks: bool,
    /// Session and instance, with the microsecond when something held back is due.
    wakes: Deadlines<(u32, u8)>,
    /// For `virtctl status`.
    pub counters: Counters,
    /// Verdict events still told this second, and how many were only counted.
    told: VerdictsTold,
    /// What the sessions and the core ask of each other, until its turn comes.
    pub followups: Followups,
    /// The last messages to and from every leg.
    pub flight: super::flight::Flight,
    /// What may kill an instance, and is withheld from it.
    pub poison: super::poison::Poison,
    /// The links, addresses and routes that carry the sessions.
    pub links: super::links::Links,
    /// Peers whose session an operator has shut down, by name.
    pub shut: std::collections::BTreeSet<String>,
    /// Of connections with strangers.
    pub failures: super::strangers::Failures,
    /// Keys that are steady without a majority.
    pub without_quorum: u32,
    /// Who reads the routing tables.
    pub ribs: super::ribs::Readers,
    next_id: u64,
    /// See [`Scratch`].
    pub scratch: Scratch,
    /// See [`super::Core::never_rest`].
    pub never_rest: bool,
    /// Is told what is under way.
    pub witness: Option<Box<dyn Witness>>,
    /// Instances of which virtd has died too often: they have no legs.
    pub barred: Members,
    /// Sessions of an earlier virtd go on, and too few instances are level again to decide anything.
    pub awaits_quorum: bool,
}

/// [`Agreement`] over ids of canonical routes.
pub struct ById<'a>(pub &'a Interner);

impl Agreement<BlobId> for ById<'_> {
    fn agrees(&self, a: BlobId, b: BlobId) -> bool {
        a == b || (a != BlobId::NONE && b != BlobId::NONE && canonical::agrees(self.0.bytes(a), self.0.bytes(b)))
    }

    fn prefers(&self, a: BlobId, b: BlobId) -> bool {
        canonical::prefers(self.0.bytes(a), self.0.bytes(b))
    }

    fn keeps_more(&self, a: BlobId, b: BlobId) -> bool {
        canonical::keeps_more(self.0.bytes(a), self.0.bytes(b))
    }
}

/// How to vote, with so many voters.
fn rules(vote: &Vote, voters: usize) -> Rules {
    let k = vote.k.unwrap_or((voters / 2 + 1) as u8);
    let strategy = match vote.strategy {
        Strategy::WaitForConsensus => voter::Strategy::WaitForConsensus { k },
        Strategy::ContinuousMajority => voter::Strategy::ContinuousMajority,
        Strategy::MasterSlave => voter::Strategy::MasterSlave,
        Strategy::FirstK => voter::Strategy::FirstK { k },
    };
    let t = u64::from(vote.t_ms);
    Rules { strategy, steady_ms: t, flap_cap_ms: t * FLAP_CAP, min_voters: vote.min_voters }
}

/// See [`Env::held_back_ms`].
fn held_back_ms(config: &Config) -> u64 {
    let delays = config.instances.iter().filter_map(|i| i.diversity.as_ref()?.delay);
    delays.map(|d| u64::from(d.max_ms)).max().unwrap_or(0)
}

/// See [`Env::has_blocks`].
fn has_blocks(config: &Config) -> bool {
    config.instances.iter().any(|i| i.diversity.as_ref().is_some_and(|d| !d.blocks.is_empty()))
}

impl Env {
    /// The state before anything happened.
    pub fn new(config: Config, now: Micros) -> Env {
        let mut ignore = AttributeSet::default();
        config.ignore_attributes.iter().for_each(|c| ignore.insert(*c));
        let instances = Instances::new(&config);
        Env {
            common: Common::default(),
            rules: rules(&config.vote, instances.voters.len()),
            held_back_ms: held_back_ms(&config),
            has_blocks: has_blocks(&config),
            flight: super::flight::Flight::new(&config.recorder),
            poison: super::poison::Poison::new(config.instances.len(), config.faults.poison_restarts),
            instances,
            config,
            now,
            out: Vec::new(),
            heard: Heard::default(),
            routes: Interner::new(),
            ignore,
            canonicaliser: Canonicaliser::default(),
            rechecks: Rechecks::default(),
            wakes: Deadlines::default(),
            counters: Counters::default(),
            told: VerdictsTold::default(),
            followups: Followups::default(),
            links: super::links::Links::new(),
            shut: std::collections::BTreeSet::new(),
            failures: super::strangers::Failures::default(),
            without_quorum: 0,
            ribs: super::ribs::Readers::default(),
            next_id: 0,
            scratch: Scratch::default(),
            never_rest: false,
            witness: None,
            barred: Members::EMPTY,
            awaits_quorum: false,
        }
    }

    /// The place at `i`, of those there are or the next, is this instance's from now on; it has no
    /// vote yet.
    pub fn seat(&mut self, i: usize, instance: Instance) {
        self.instances.seat(i, &instance);
        match self.config.instances.get_mut(i) {
            Some(c) => *c = instance,
            None => self.config.instances.push(instance),
        }
        self.poison.widen(self.instances.len());
        (self.held_back_ms, self.has_blocks) = (held_back_ms(&self.config), has_blocks(&self.config));
    }

    /// Nobody has the place at `i` any more: everything that was known of who had it is forgotten.
    pub fn vacate(&mut self, i: usize) {
        // Nobody's: it has no name, and no vote could come of it.
        self.seat(i, Instance { observer: true, ..Instance::default() });
        self.instances.vacate(i);
        self.heard.vacate(i);
        self.followups.forget_instance(i);
        self.wakes.retain(|(_, who)| usize::from(*who) != i);
        self.poison.forget(i);
        self.barred.remove(i as u8);
        self.flight.forget(i as u8);
        self.followups.vote_anew();
    }

    /// Nobody has the place at `i`.
    pub fn is_vacant(&self, i: usize) -> bool {
        self.instances.is_vacant(i)
    }

    /// Those that somebody has.
    pub fn taken(&self) -> impl Iterator<Item = usize> + '_ {
        self.instances.taken()
    }

    /// This is under way from now on.
    #[inline]
    pub fn begins(&self, stage: Stage) {
        if let Some(witness) = &self.witness {
            witness.begins(stage);
        }
    }

    /// Votes by the configured rules, with so many voters.
    pub fn set_rules(&mut self, voters: usize) {
        self.rules = rules(&self.config.vote, voters);
        self.followups.vote_anew();
    }

    /// Whether a key on which all agree wants no vote, whoever is left: not where too few are no
    /// majority.
    pub fn keys_rest(&self) -> bool {
        self.rules.min_voters <= 1 && !self.never_rest
    }

    /// Ids from now on are greater than this one.
    pub fn skip_ids(&mut self, past: u64) {
        // Of the same parity as before.
        self.next_id = self.next_id.max(past.next_multiple_of(2));
    }

    /// Milliseconds since virtd started.
    pub fn now_ms(&self) -> u64 {
        self.now / 1000
    }

    /// T in microseconds.
    pub fn t_us(&self) -> Micros {
        self.rules.steady_ms * 1000
    }

    /// Session `session` is to look after instance `i` at a time, if there is one.
    pub fn wake_at(&mut self, at: Option<Micros>, session: usize, i: usize) {
        if let Some(at) = at {
            self.wakes.push(at, (session as u32, i as u8));
        }
    }

    /// The next such time.
    pub fn next_wake(&self) -> Option<Micros> {
        self.wakes.next()
    }

    /// A session and an instance whose time has come.
    pub fn due_wake(&mut self) -> Option<(usize, usize)> {
        self.wakes.due(self.now).map(|(session, i)| (session as usize, usize::from(i)))
    }

    /// What all votes go by just now.
    pub fn law(&self) -> Law<'_> {
        Law { now: self.now_ms(), rules: self.rules, master_line: &self.instances.master_line }
    }

    /// A fresh even id (the driver's are odd).
    pub fn fresh_id(&mut self) -> u64 {
        self.next_id += 2;
        self.next_id
    }

    /// Whether one more verdict is told in words; else it is counted, and the next second's first
    /// says how many were.
    pub fn may_tell(&mut self) -> bool {
        let second = self.now / 1_000_000;
        if self.told.second != second {
            let counted = self.told.counted;
            self.told = VerdictsTold { second, told: 0, counted: 0 };
            if counted > 0 {
                let text = format!(
                    "{counted} more verdicts a moment ago, only counted: virtctl instances and routes have them"
                );
                self.out.push(Event::new(self.now, "verdicts-counted", Severity::Warning, text).into());
            }
        }
        self.told.told += 1;
        let may = self.told.told <= VERDICTS_PER_SECOND;
        self.told.counted += u64::from(!may);
        may
    }

    /// The name of an instance.
    pub fn name(&self, i: usize) -> &str {
        self.instances.name(i)
    }

    /// Whether instance `i` is the one whose word counts at once, of those that are admitted on a
    /// session.
    pub fn is_master(&self, i: usize, admitted: Members) -> bool {
        self.master(admitted).map(usize::from) == Some(i)
    }

    fn master(&self, admitted: Members) -> Option<u8> {
        self.instances.master(self.rules.strategy, admitted)
    }

    /// Those who are to hear first what a peer says, because their word counts at once: towards the
    /// peers, and in the FIB, where it may be another. `None`: whose it is depends on the key, or
    /// on what it is about, or is nobody's.
    pub fn first_told(&self) -> Option<Members> {
        let master = self.master(self.instances.voters).filter(|_| self.all_told())?;
        Some([master].into_iter().chain(self.master(self.instances.bgp_in_fib)).collect())
    }

    /// virtd does something to instance `i` that may end its legs.
    pub fn touch(&mut self, i: usize) {
        if let Some(s) = self.instances.get_mut(i) {
            s.touched = Some(self.now);
        }
    }

    /// A peer's address as an operator writes it: a link-local one with the name of the interface
    /// that it is on (RFC 4007 section 11).
    pub fn peer_name(&self, peer: &SocketAddr) -> String {
        match zone(peer) {
            Some(index) => match self.links.name(index) {
                Some(name) => format!("{}%{name}", peer.ip()),
                None => self.peer_number(peer),
            },
            None => peer.ip().to_string(),
        }
    }

    /// The same with the number of the interface.
    pub fn peer_number(&self, peer: &SocketAddr) -> String {
        match zone(peer) {
            Some(index) => format!("{}%{index}", peer.ip()),
            None => peer.ip().to_string(),
        }
    }

    /// Tells the operator about a session.
    pub fn tell(&mut self, kind: &'static str, severity: Severity, peer: &SocketAddr, text: String) {
        self.out.push(Event::new(self.now, kind, severity, text).with_session(self.peer_name(peer)).into());
    }

    /// Tells the operator about one instance on one session, and remembers a fault.
    pub fn tell_of(&mut self, kind: &'static str, severity: Severity, peer: &SocketAddr, i: usize, text: String) {
        if severity >= Severity::Warning
            && let Some(s) = self.instances.get_mut(i)
        {
            s.last_fault = Some(text.clone());
        }
        let event = Event::new(self.now, kind, severity, text).with_session(self.peer_name(peer));
        let event = event.with_instance(self.name(i));
        self.out.push(event.into());
    }

    /// How long ago any peer last sent something about `prefix`, in milliseconds; `None`: not
    /// lately.
    pub fn input_age_ms(&self, prefix: &Prefix) -> Option<u64> {
        self.heard.age_ms(prefix, self.now_ms())
    }

    /// Forgets what peers took back when no verdict needs it any more, once a second's worth of
    /// ticks.
    pub fn forget_silent_sometimes(&mut self) {
        let now = self.now_ms();
        if now % 1000 < 100 {
            self.heard.forget_silent(now, self.rules.flap_cap_ms);
        }
    }

    /// Whether nobody abstains on anything.
    pub fn all_told(&self) -> bool {
        self.poison.is_idle() && self.heard.all_told()
    }

    /// The instances that abstain on `prefix` in this table (a session's index, or the FIB):
    /// because some peer that sent it has not been replayed to them (docs/DECISIONS.md, "Bootstrap
    /// without the peer") or cannot tell them, or what it sent kills them. `rests`: the key does.
    pub fn abstainers(&self, prefix: &Prefix, table: u32, rests: bool) -> Members {
        self.poison.abstainers(prefix, table, rests).union(self.heard.untold(prefix))
    }

    /// The instances whose configured limits take `prefix` on the session with `peer` out of their
    /// say.
    pub fn out_of_scope(&self, peer: IpAddr, prefix: &Prefix) -> Members {
        let mut out = Members::default();
        for (i, c) in self.config.instances.iter().enumerate() {
            let outside = (!c.limit_sessions.is_empty() && !c.limit_sessions.contains(&peer))
                || (!c.limit_families.is_empty() && !c.limit_families.contains(&prefix.family()))
                || (!c.limit_prefixes.is_empty() && !c.limit_prefixes.iter().any(|p| p.covers(prefix)))
                || self.is_outside(i, prefix);
            if outside {
                out.insert(i as u8);
            }
        }
        out
    }

    /// Whether `prefix` lies in none of the blocks that instance `i` is given.
    pub fn is_outside(&self, i: usize, prefix: &Prefix) -> bool {
        let diversity = self.config.instances.get(i).and_then(|c| c.diversity.as_ref());
        self.has_blocks && diversity.is_some_and(|d| !d.is_given(prefix))
    }

    /// Those that are not given `prefix`.
    pub fn outside(&self, prefix: &Prefix) -> Members {
        (0..self.instances.len()).filter(|i| self.is_outside(*i, prefix)).map(|i| i as u8).collect()
    }

    /// Those whose vote does not count for every prefix on every session.
    pub fn partial(&self) -> Members {
        let partial = |c: &crate::config::Instance| {
            let limited = !c.limit_sessions.is_empty() || !c.limit_families.is_empty() || !c.limit_prefixes.is_empty();
            limited || c.diversity.as_ref().is_some_and(|d| !d.blocks.is_empty())
        };
        let all = self.config.instances.iter().enumerate();
        all.filter(|(_, c)| partial(c)).map(|(i, _)| i as u8).collect()
    }

    /// Whether any instance has limits at all: most have none, and then the vote need not look.
    pub fn has_limits(&self) -> bool {
        !self.partial().is_empty()
    }
}

/// The interface that a link-local address is on.
fn zone(peer: &SocketAddr) -> Option<u32> {
    match peer {
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => Some(v6.scope_id()).filter(|id| *id != 0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Instance, Strategy};

    #[test]
    fn whom_the_fib_follows_is_told_first_as_well_and_all_are_where_it_depends_on_the_key() {
        let mut config = Config { instances: vec![Instance::default(); 3], ..Config::default() };
        let members = |list: &[u8]| list.iter().copied().collect::<Members>();
        assert_eq!(Env::new(config.clone(), 0).first_told(), None, "two must agree");
        config.vote.strategy = Strategy::MasterSlave;
        let new = || {
            let mut env = Env::new(config.clone(), 0);
            env.heard.open(0);
            env
        };
        let mut env = new();
        assert_eq!(env.first_told(), Some(members(&[0])));
        env.instances.bgp_in_fib = members(&[1, 2]);
        assert_eq!(env.first_told(), Some(members(&[0, 1])), "the first in line writes no routes of BGP's");
        env.instances.voters.remove(0);
        assert_eq!(env.first_told(), Some(members(&[1])), "a standby keeps its place in the line, and no vote");
        env.heard.set_level(0, 2, false);
        assert_eq!(env.first_told(), None, "the last one is away, or catches up");
        let mut env = new();
        env.heard.exercise("192.0.2.0/24".parse().expect("a prefix"), 0, true);
        assert_eq!(env.first_told(), None, "the first one abstains on a prefix");
    }
}
