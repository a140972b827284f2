//! OPEN negotiation (DESIGN decision 4): what the instances share becomes the one OPEN a peer sees, and the peer's OPEN is
//! cut to the same set before the instances see it.

use std::net::Ipv4Addr;
use wire::bgp::message::{Capability, Open};
use wire::bgp::{Family, Notification, SessionKind, UpdateContext, frame};

/// What all voting instances say about one session; learnt once, kept over reconnects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Profile {
    /// Our AS on this session (it may be a local-as).
    pub asn: u32,
    /// Our BGP Identifier.
    pub router_id: Ipv4Addr,
    /// The smallest hold time any of them proposes, seconds.
    pub hold_time_s: u16,
    /// The capabilities of the allowlist that all of them share.
    pub shared: Shared,
}

/// The capabilities of the allowlist (DESIGN decision 4).
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
    /// RFC 9234, where all of them name the same.
    pub role: Option<u8>,
    /// RFC 8950.
    pub extended_next_hop: Vec<(Family, u16)>,
}

impl Shared {
    /// Which prefixes belong to a negotiated family: what else a speaker sends is nobody's route (RFC 4760 section 8).
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

    /// What both offer. Roles differ by nature between the two ends of a session, so only the instances' are intersected by value.
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

    /// What `self` needs and `offer` lacks, in words; `None` when nothing.
    fn lacking(&self, offer: &Shared) -> Option<String> {
        let mut missing: Vec<String> = self
            .families
            .iter()
            .filter(|f| !offer.families.contains(f))
            .map(|f| format!("multiprotocol {f}"))
            .collect();
        if self.as4 && !offer.as4 {
            missing.push("4-octet AS".into());
        }
        if self.extended_message && !offer.extended_message {
            missing.push("extended message".into());
        }
        if !self.extended_next_hop.iter().all(|x| offer.extended_next_hop.contains(x)) {
            missing.push("extended next hop".into());
        }
        if self.role.is_some() && self.role != offer.role {
            missing.push(format!("role {}", self.role.unwrap_or_default()));
        }
        (!missing.is_empty()).then(|| missing.join(", "))
    }
}

/// The profile over `opens` (at least one), and for every instance whose AS or router id is not the commonest one, a sentence
/// that says what to change. Such an instance is not part of the profile.
pub fn learn<'a>(opens: impl Iterator<Item = (usize, &'a Open)> + Clone) -> Option<(Profile, Vec<(usize, String)>)> {
    let same = |a: &Open, b: &Open| a.asn == b.asn && a.router_id == b.router_id;
    let votes = |o: &Open| opens.clone().filter(|(_, other)| same(o, other)).count();
    // The first of the largest group: `max_by_key` would take the last.
    let mut leader: Option<(&Open, usize)> = None;
    for (_, o) in opens.clone() {
        let n = votes(o);
        if leader.is_none_or(|(_, best)| n > best) {
            leader = Some((o, n));
        }
    }
    let (leader, _) = leader?;
    let mut odd = Vec::new();
    let mut profile: Option<Profile> = None;
    for (i, o) in opens {
        if !same(o, leader) {
            odd.push((
                i,
                format!(
                    "says AS {} and router id {} where the others say AS {} and router id {}: configure the same",
                    o.asn, o.router_id, leader.asn, leader.router_id
                ),
            ));
            continue;
        }
        let offer = Shared::of(o);
        profile = Some(match profile {
            None => Profile { asn: o.asn, router_id: o.router_id, hold_time_s: o.hold_time_s, shared: offer },
            Some(p) => Profile { hold_time_s: p.hold_time_s.min(o.hold_time_s), shared: p.shared.and(&offer), ..p },
        });
    }
    Some((profile?, odd))
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
    /// Whether the peer may ask us for a refresh is its own matter; whether it offered enhanced refresh is not.
    pub kind: SessionKind,
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
    })
}

impl Negotiated {
    /// The OPEN an instance sees in place of the peer's: what was negotiated, what virtd serves itself (route refresh, and
    /// graceful restart without families, without which some daemons send no End-of-RIB), virtd's own hold time.
    pub fn open_for_leg(&self, leg_hold_s: u16) -> Open {
        let mut shared = self.shared.clone();
        shared.route_refresh = true;
        shared.role = self.peer_role;
        let mut capabilities = shared.capabilities(self.peer_as);
        capabilities.push(Capability::GracefulRestart { flags: 0, restart_time_s: 0, families: Vec::new() });
        Open { asn: self.peer_as, hold_time_s: leg_hold_s, router_id: self.peer_router_id, capabilities }
    }

    /// Why an instance that sent `open` cannot take part in this session; `None` when it can.
    pub fn refuses(&self, open: &Open) -> Option<String> {
        if open.asn != self.profile.asn || open.router_id != self.profile.router_id {
            return Some(format!(
                "it says AS {} and router id {}, this session runs as AS {} and router id {}: configure the same",
                open.asn, open.router_id, self.profile.asn, self.profile.router_id
            ));
        }
        let lacks = self.shared.lacking(&Shared::of(open))?;
        Some(format!(
            "it lacks what was negotiated with the peer: {lacks}; enable it, or reset the session to negotiate without"
        ))
    }

    /// How UPDATEs of this session are read and written, on the peer's side and on every leg alike.
    pub fn context(&self) -> UpdateContext {
        UpdateContext {
            as4: self.shared.as4,
            kind: self.kind,
            extended_next_hop: self.shared.extended_next_hop.contains(&(Family::IPV4_UNICAST, 2)),
            max_message_len: if self.shared.extended_message { frame::MAX_LEN_EXTENDED } else { frame::MAX_LEN },
        }
    }
}

#[cfg(test)]
#[path = "open_tests.rs"]
mod tests;
