//! The OPEN that the peer sees is voted on. Each voter's own OPEN is its ballot.
//!
//! | what | who wins |
//! |---|---|
//! | AS number and router id | the pair that most say; whoever says another takes no part |
//! | a family, a capability | offered where more than half of the rest offer it; a role where more than half say the same one |
//! | hold time | the median, of two middle values the smaller; 0 (RFC 4271: no hold timer) counts as the longest |
//!
//! Those who have sent their OPEN in this attempt decide among themselves; what the others said in
//! an earlier one counts only where they are evenly split. On a tie of all nothing is offered: a
//! family that one of two lacks would have nobody to vote with.

use super::{Profile, Shared};
use std::cmp::Reverse;
use std::net::Ipv4Addr;
use wire::bgp::Family;
use wire::bgp::message::Open;

/// What one voter offers.
#[derive(Clone, Copy, Debug)]
pub struct Voice<'a> {
    /// Who.
    pub instance: usize,
    /// Its last OPEN for this peer.
    pub open: &'a Open,
    /// It has sent it in this attempt.
    pub fresh: bool,
}

/// The profile that most of `voices` want, and those of another AS number or router id, which are
/// no part of it. `None` without voices.
pub fn learn(voices: &[Voice<'_>]) -> Option<(Profile, Vec<usize>)> {
    let (asn, router_id) = identity(voices)?;
    let is_us = |v: &&Voice<'_>| super::is_of(v.open, asn, router_id);
    let odd = voices.iter().filter(|v| !is_us(v)).map(|v| v.instance).collect();
    let ours: Vec<(Shared, bool)> = voices.iter().filter(is_us).map(|v| (Shared::of(v.open), v.fresh)).collect();
    // While most are of this attempt the median of all lies between what those say.
    let fresh = ours.iter().filter(|(_, fresh)| *fresh).count();
    let counted = voices.iter().filter(is_us).filter(|v| v.fresh || fresh == 0 || 2 * fresh > ours.len());
    let mut hold: Vec<u16> = counted.map(|v| v.open.hold_time_s).collect();
    let hold_time_s = median(&mut hold)?;
    let hold_is_common = 2 * hold.iter().filter(|h| **h == hold_time_s).count() > hold.len();
    Some((Profile { asn, router_id, hold_time_s, hold_is_common, shared: shared(&ours) }, odd))
}

/// Orders hold times: 0 is the longest.
fn longest(hold_time_s: u16) -> u32 {
    if hold_time_s == 0 { u32::MAX } else { u32::from(hold_time_s) }
}

fn median(hold: &mut [u16]) -> Option<u16> {
    hold.sort_unstable_by_key(|h| longest(*h));
    hold.get(hold.len().checked_sub(1)? / 2).copied()
}

/// The AS number and router id that most say, first those of this attempt; of equals those that
/// stand first.
fn identity(voices: &[Voice<'_>]) -> Option<(u32, Ipv4Addr)> {
    let is = |v: &Voice<'_>| (v.open.asn, v.open.router_id);
    let votes = |v: &Voice<'_>| {
        let same = voices.iter().filter(|other| is(other) == is(v));
        (same.clone().filter(|other| other.fresh).count(), same.count())
    };
    voices.iter().enumerate().max_by_key(|(at, v)| (votes(v), Reverse(*at))).map(|(_, v)| is(v))
}

/// Whether a majority wants it.
fn wanted(ours: &[(Shared, bool)], wants: impl Fn(&Shared) -> bool) -> bool {
    let count = |of_all: bool| {
        let counted = ours.iter().filter(|(_, fresh)| *fresh || of_all);
        (2 * counted.clone().filter(|(s, _)| wants(s)).count()).cmp(&counted.count())
    };
    count(false).then(count(true)).is_gt()
}

fn shared(ours: &[(Shared, bool)]) -> Shared {
    let is = |what: fn(&Shared) -> bool| wanted(ours, what);
    let roles: Vec<u8> = ours.iter().filter_map(|(s, _)| s.role).collect();
    let mut next_hops: Vec<(Family, u16)> = Vec::new();
    for x in ours.iter().flat_map(|(s, _)| &s.extended_next_hop) {
        if !next_hops.contains(x) && wanted(ours, |s| s.extended_next_hop.contains(x)) {
            next_hops.push(*x);
        }
    }
    Shared {
        families: families(ours),
        route_refresh: is(|s| s.route_refresh),
        enhanced_refresh: is(|s| s.enhanced_refresh),
        as4: is(|s| s.as4),
        extended_message: is(|s| s.extended_message),
        role: roles.into_iter().find(|r| wanted(ours, |s| s.role == Some(*r))),
        extended_next_hop: next_hops,
    }
}

/// Without a majority for any family, those that most offer: a session without a family is none.
fn families(ours: &[(Shared, bool)]) -> Vec<Family> {
    let all = [Family::IPV4_UNICAST, Family::IPV6_UNICAST];
    let voted: Vec<Family> = all.into_iter().filter(|f| wanted(ours, |s| s.families.contains(f))).collect();
    let offers = |f: &Family| ours.iter().filter(|(s, _)| s.families.contains(f)).count();
    let most = all.iter().map(offers).max().unwrap_or(0);
    match voted.is_empty() {
        true => all.into_iter().filter(|f| most > 0 && offers(f) == most).collect(),
        false => voted,
    }
}
