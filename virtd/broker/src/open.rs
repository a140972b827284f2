//! OPEN negotiation (docs/DECISIONS.md, "One OPEN, voted on"): what most instances offer becomes
//! the one OPEN a peer sees ([`vote`]), and the peer's OPEN is cut to the same set before the
//! instances see it.
//!
//! What of that one instance lacks costs the others nothing, and it keeps its leg
//! ([`Negotiated::terms`]):
//!
//! | lacks | then |
//! |---|---|
//! | a family | it abstains on that family for this session, and is told nothing of it |
//! | extended next hop (RFC 8950) of a family | the same: it can neither be told nor say such a route |
//! | extended messages (RFC 8654) | it is told in messages of 4,096 octets; it abstains on a route that does not fit one |
//! | 4-octet AS numbers (RFC 6793) | AS_TRANS and AS4_PATH towards it, and what it says is put together again |
//! | route refresh, enhanced route refresh | no markers for it; virtd answers both itself |
//! | the role (RFC 9234) | it is shown no role |

mod differences;
mod vote;

pub use differences::Difference;
pub use vote::{Voice, learn};

use crate::config::Config;
use bytes::Bytes;
use std::net::Ipv4Addr;
use wire::bgp::message::{AS_TRANS, Capability, Open};
use wire::bgp::update::Update;
use wire::bgp::{Family, Notification, Prefix, SessionKind, UpdateContext, frame};

/// What most voting instances say about one session; learnt each time it opens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Profile {
    /// Our AS on this session (it may be a local-as).
    pub asn: u32,
    /// Our BGP Identifier.
    pub router_id: Ipv4Addr,
    /// The median of the hold times they propose, seconds; 0 is "none", and the longest.
    pub hold_time_s: u16,
    /// More than half propose that: another is worth a word.
    pub hold_is_common: bool,
    /// The capabilities of the allowlist that most of them offer.
    pub shared: Shared,
}

/// The capabilities of the allowlist (docs/DECISIONS.md, "One OPEN, voted on").
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Shared {
    /// Voted families only: other families pass in native mode alone.
    pub families: Vec<Family>,
    /// RFC 2918.
    pub route_refresh: bool,
    /// RFC 7313.
    pub enhanced_refresh: bool,
    /// RFC 6793.
    pub as4: bool,
    /// RFC 8654.
    pub extended_message: bool,
    /// RFC 9234.
    pub role: Option<u8>,
    /// RFC 8950.
    pub extended_next_hop: Vec<(Family, u16)>,
}

impl Shared {
    /// Which prefixes belong to a negotiated family: what else a speaker sends is nobody's route
    /// (RFC 4760 section 8).
    pub fn carries(&self) -> impl Fn(&wire::bgp::Prefix) -> bool + Copy + 'static {
        let has = |family| self.families.contains(&family);
        let (v4, v6) = (has(Family::IPV4_UNICAST), has(Family::IPV6_UNICAST));
        move |prefix| if prefix.family() == Family::IPV4_UNICAST { v4 } else { v6 }
    }

    /// What one OPEN offers of the allowlist.
    pub fn of(open: &Open) -> Shared {
        let mut s = Shared::default();
        for f in [Family::IPV4_UNICAST, Family::IPV6_UNICAST] {
            if open.has_family(f) {
                s.families.push(f);
            }
        }
        for c in &open.capabilities {
            match c {
                Capability::RouteRefresh => s.route_refresh = true,
                Capability::EnhancedRouteRefresh => s.enhanced_refresh = true,
                Capability::FourOctetAs(_) => s.as4 = true,
                Capability::ExtendedMessage => s.extended_message = true,
                Capability::Role(r) => s.role = Some(*r),
                Capability::ExtendedNextHop(list) => {
                    s.extended_next_hop.extend(list.iter().copied().filter(|(f, _)| f.is_voted()))
                }
                _ => {}
            }
        }
        s
    }

    /// What both offer. Roles differ by nature between the two ends of a session; only an
    /// instance's is compared with its router's.
    fn and(&self, other: &Shared) -> Shared {
        Shared {
            families: self.families.iter().copied().filter(|f| other.families.contains(f)).collect(),
            route_refresh: self.route_refresh && other.route_refresh,
            enhanced_refresh: self.enhanced_refresh && other.enhanced_refresh,
            as4: self.as4 && other.as4,
            extended_message: self.extended_message && other.extended_message,
            role: self.role.filter(|r| other.role == Some(*r)),
            extended_next_hop: self
                .extended_next_hop
                .iter()
                .copied()
                .filter(|x| other.extended_next_hop.contains(x))
                .collect(),
        }
    }

    fn capabilities(&self, asn: u32) -> Vec<Capability> {
        let mut caps: Vec<Capability> = self.families.iter().map(|f| Capability::Multiprotocol(*f)).collect();
        if self.route_refresh {
            caps.push(Capability::RouteRefresh);
        }
        if !self.extended_next_hop.is_empty() {
            caps.push(Capability::ExtendedNextHop(self.extended_next_hop.clone()));
        }
        if self.extended_message {
            caps.push(Capability::ExtendedMessage);
        }
        caps.extend(self.role.map(Capability::Role));
        if self.as4 {
            caps.push(Capability::FourOctetAs(asn));
        }
        if self.enhanced_refresh {
            caps.push(Capability::EnhancedRouteRefresh);
        }
        caps
    }
}

impl Profile {
    /// The OPEN that the peer sees.
    pub fn open(&self) -> Open {
        Open {
            asn: self.asn,
            hold_time_s: self.hold_time_s,
            router_id: self.router_id,
            capabilities: self.shared.capabilities(self.asn),
        }
    }
}

/// What a session with a peer agreed on.
#[derive(Clone, Debug)]
pub struct Negotiated {
    /// Our side.
    pub profile: Profile,
    /// The peer's AS.
    pub peer_as: u32,
    /// The peer's BGP Identifier.
    pub peer_router_id: Ipv4Addr,
    /// The smaller of both hold times, seconds; 0 is "none".
    pub hold_time_s: u16,
    /// What both sides offer.
    pub shared: Shared,
    /// The peer's role, shown to the instances where they offered one.
    peer_role: Option<u8>,
    /// Whether the peer may ask us for a refresh is its own matter; whether it offered enhanced
    /// refresh is not.
    pub kind: SessionKind,
    /// The identifier of the confederation that the peer and we are in (RFC 5065).
    pub confederation: Option<u32>,
    /// 240.0.0.0/4 is no fault in a NEXT_HOP.
    class_e: bool,
}

/// Negotiates our profile with the peer's OPEN.
///
/// # Errors
/// 2/7 where no voted family is common (RFC 5492 section 5).
pub fn negotiate(profile: &Profile, peer: &Open) -> Result<Negotiated, Notification> {
    let offer = Shared::of(peer);
    let mut shared = profile.shared.and(&offer);
    shared.role = None;
    if shared.families.is_empty() {
        return Err(Notification::new(2, 7));
    }
    let hold_time_s = profile.hold_time_s.min(peer.hold_time_s);
    Ok(Negotiated {
        profile: profile.clone(),
        peer_as: peer.asn,
        peer_router_id: peer.router_id,
        hold_time_s,
        shared,
        peer_role: profile.shared.role.and(offer.role),
        kind: if peer.asn == profile.asn { SessionKind::Ibgp } else { SessionKind::Ebgp },
        confederation: None,
        class_e: false,
    })
}

impl Negotiated {
    /// The same, on a router that is configured like this. In a confederation we say our member AS
    /// to its members and its identifier to all others, so that our own AS number on this session
    /// tells which it is.
    pub fn under(mut self, config: &Config) -> Negotiated {
        self.class_e = config.allow_reserved_ranges;
        let Some(c) = config.confederation.as_ref().filter(|c| c.identifier != self.profile.asn) else { return self };
        if self.kind == SessionKind::Ebgp && c.members.contains(&self.peer_as) {
            self.kind = SessionKind::Confederation;
        }
        self.confederation = (self.kind != SessionKind::Ebgp).then_some(c.identifier);
        self
    }

    /// What a leg of the instance that sent `open` speaks. `leg_hold_s`: the hold time that virtd
    /// proposes on it. `extended`: in RFC 9072's form.
    pub fn terms(&self, open: &Open, leg_hold_s: u16, extended: bool) -> Terms {
        let offer = Shared::of(open);
        let mut shared = self.shared.and(&offer);
        shared.families.retain(|f| self.reaches(*f, &offer));
        shared.extended_next_hop.retain(|(f, _)| shared.families.contains(f));
        // Both ends must have a family in common; one that has none of those negotiated still keeps
        // its leg, and says nothing on it.
        let shown = match shared.families.is_empty() {
            true => offer.families.clone(),
            false => shared.families.clone(),
        };
        let as_shown = Shared {
            families: shown,
            route_refresh: true,
            // Of another role it would refuse the peer's.
            role: self.peer_role.filter(|_| offer.role == self.profile.shared.role),
            ..shared.clone()
        };
        let mut capabilities = as_shown.capabilities(self.peer_as);
        capabilities.push(Capability::GracefulRestart { flags: 0, restart_time_s: 0, families: Vec::new() });
        let shown = Open { asn: self.peer_as, hold_time_s: leg_hold_s, router_id: self.peer_router_id, capabilities };
        let context = context(&shared, self);
        Terms {
            lacking: self.shared.families.iter().copied().filter(|f| !shared.families.contains(f)).collect(),
            short: context.max_message_len < self.context().max_message_len,
            narrow: self.shared.as4 && !shared.as4,
            context,
            shown: if extended { shown.encode_extended() } else { shown.encode() },
            shared,
        }
    }

    /// Whether routes of `family` can be told to, and said by, an instance with this offer.
    fn reaches(&self, family: Family, offer: &Shared) -> bool {
        let is_its = |x: &&(Family, u16)| x.0 == family;
        offer.families.contains(&family)
            && self.shared.extended_next_hop.iter().filter(is_its).all(|x| offer.extended_next_hop.contains(x))
    }

    /// Why an instance that sent `open` cannot take part in this session; `None` when it can.
    pub fn refuses(&self, open: &Open) -> Option<Refusal> {
        self.profile.refuses(open)
    }

    /// How UPDATEs of this session are read and written on the peer's side.
    pub fn context(&self) -> UpdateContext {
        context(&self.shared, self)
    }
}

fn context(shared: &Shared, negotiated: &Negotiated) -> UpdateContext {
    UpdateContext {
        as4: shared.as4,
        kind: negotiated.kind,
        class_e: negotiated.class_e,
        extended_next_hop: shared.extended_next_hop.contains(&(Family::IPV4_UNICAST, 2)),
        max_message_len: if shared.extended_message { frame::MAX_LEN_EXTENDED } else { frame::MAX_LEN },
    }
}

/// What one leg speaks: what was negotiated with the peer, less what its instance's OPEN lacks.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The families that are voted on with it, and the capabilities both sides have.
    pub shared: Shared,
    /// Negotiated families that it lacks.
    pub lacking: Vec<Family>,
    /// The session has extended messages, and it has not.
    pub short: bool,
    /// The session has 4-octet AS numbers, and it has not.
    pub narrow: bool,
    /// How UPDATEs on it are read and written.
    pub context: UpdateContext,
    /// The OPEN that it is shown in place of the peer's, encoded: what was negotiated and it
    /// offers, what virtd serves itself (route refresh, and graceful restart without families,
    /// without which some daemons send no End-of-RIB), virtd's own hold time.
    pub shown: Bytes,
}

impl Terms {
    /// It is told what the peer says as it comes.
    pub fn is_plain(&self) -> bool {
        self.lacking.is_empty() && !self.short && !self.narrow
    }

    /// Whether it is told of `prefix`, and its word on it counts.
    pub fn carries(&self, prefix: &Prefix) -> bool {
        self.shared.families.contains(&prefix.family())
    }

    /// Whether it can be told a message of the peer's about `keys` as it is.
    pub fn suits(&self, bytes: &[u8], keys: &[Prefix]) -> bool {
        !self.narrow && bytes.len() <= self.context.max_message_len && keys.iter().all(|p| self.carries(p))
    }

    /// Whether it hears of a peer's message that says nothing about any prefix: End-of-RIB of its
    /// families.
    pub fn hears(&self, bytes: &[u8]) -> bool {
        let update = bytes.get(frame::HEADER_LEN..).and_then(|body| Update::parse(body).ok());
        update.and_then(|u| u.end_of_rib()).is_some_and(|family| self.shared.families.contains(&family))
    }
}

/// Whether an OPEN says this AS number and router id. A speaker without 4-octet AS numbers says
/// AS_TRANS for a longer one (RFC 6793 section 9).
fn is_of(open: &Open, asn: u32, router_id: Ipv4Addr) -> bool {
    let trans = open.asn == u32::from(AS_TRANS) && asn > u32::from(u16::MAX) && !Shared::of(open).as4;
    (open.asn == asn || trans) && open.router_id == router_id
}

/// Why an instance takes no part in a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// What it is answered: Bad Peer AS or Bad BGP Identifier (RFC 4271 section 6.2), as if the
    /// peer expected another.
    pub notification: Notification,
    /// For people.
    pub why: String,
}

impl Profile {
    /// Whether an OPEN is of this AS number and router id.
    pub fn is_of(&self, open: &Open) -> bool {
        is_of(open, self.asn, self.router_id)
    }

    /// See [`Negotiated::refuses`].
    pub fn refuses(&self, open: &Open) -> Option<Refusal> {
        if self.is_of(open) {
            return None;
        }
        let subcode = if open.router_id == self.router_id { 2 } else { 3 };
        Some(Refusal {
            notification: Notification::new(2, subcode),
            why: format!(
                "it says AS {} and router id {}, this session runs as AS {} and router id {}: configure the same",
                open.asn, open.router_id, self.asn, self.router_id
            ),
        })
    }
}

#[cfg(test)]
#[path = "open_tests.rs"]
mod tests;
