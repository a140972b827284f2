//! Sessions with peers, and the instances' legs on them.

use super::In::{Bytes, Count, Seconds};
use super::Kind::{Counter, Gauge};
use super::{Metric, Samples, Value, seconds};
use crate::watch::Known;
use virtd_api::{Leg, Session};

/// RFC 4271's name.
const UP: &str = "Established";

pub(super) const METRICS: &[Metric] = &[
    Metric::new("peer_state", Gauge, Count, &["peer", "state"], "1 for the state that the session is in", |k, out| {
        for s in &k.facts.sessions {
            out.with(&[("peer", &s.peer), ("state", &s.state)], 1_u64);
        }
    }),
    Metric::new("peer_established", Gauge, Count, &["peer"], "1 where the session is established", |k, out| {
        each(k, out, |s| Some(s.state == UP));
    }),
    Metric::new("peer_shut", Gauge, Count, &["peer"], "1 where an operator has shut the session down", |k, out| {
        each(k, out, |s| Some(s.shut));
    }),
    Metric::new(
        "peer_path_up",
        Gauge,
        Count,
        &["peer"],
        "1 where link, address and route to the peer are there",
        |k, out| {
            each(k, out, |s| s.path.as_ref().map(|path| path == "up"));
        },
    ),
    Metric::new("peer_up", Gauge, Seconds, &["peer"], "For how long the session has been established", |k, out| {
        each(k, out, |s| s.up_us.map(seconds));
    }),
    Metric::new("peer_as_number", Gauge, Count, &["peer"], "The AS number of the peer", |k, out| {
        each(k, out, |s| s.asn)
    }),
    Metric::new("peer_hold_time", Gauge, Seconds, &["peer"], "The hold time agreed on; 0 is none", |k, out| {
        each(k, out, |s| s.hold_time_s);
    }),
    Metric::new("peer_family", Gauge, Count, &["peer", "family"], "1 for each family agreed on", |k, out| {
        for s in &k.facts.sessions {
            for family in s.families.iter().flatten() {
                out.with(&[("peer", &s.peer), ("family", family)], 1_u64);
            }
        }
    }),
    Metric::new("peer_prefixes_received", Gauge, Count, &["peer"], "Prefixes that the peer announces", |k, out| {
        each(k, out, |s| s.prefixes_in);
    }),
    Metric::new("peer_prefixes_sent", Gauge, Count, &["peer"], "Prefixes that are announced to the peer", |k, out| {
        each(k, out, |s| s.prefixes_out);
    }),
    Metric::new(
        "peer_updates_received",
        Counter,
        Count,
        &["peer"],
        "UPDATEs from the peer over this session; from 0 with the next one",
        |k, out| each(k, out, |s| s.updates_in),
    ),
    Metric::new(
        "peer_updates_sent",
        Counter,
        Count,
        &["peer"],
        "UPDATEs to the peer over this session; from 0 with the next one",
        |k, out| each(k, out, |s| s.updates_out),
    ),
    Metric::new("peer_resets", Counter, Count, &["peer"], "Times that an established session has ended", |k, out| {
        each(k, out, |s| Some(s.resets));
    }),
    Metric::new(
        "leg_state",
        Gauge,
        Count,
        &["peer", "daemon", "state"],
        "1 for the state that the leg is in",
        |k, out| {
            for s in &k.facts.sessions {
                for leg in &s.legs {
                    out.with(&[("peer", &s.peer), ("daemon", &leg.instance), ("state", &leg.state)], 1_u64);
                }
            }
        },
    ),
    Metric::new("leg_established", Gauge, Count, &["peer", "daemon"], "1 where the leg is established", |k, out| {
        each_leg(k, out, |leg| leg.state == UP);
    }),
    Metric::new(
        "leg_level",
        Gauge,
        Count,
        &["peer", "daemon"],
        "1 where the instance has been told all that the peer has said, and has answered",
        |k, out| {
            each_leg(k, out, |leg| leg.detail == "level");
        },
    ),
    Metric::new("leg_votes", Gauge, Count, &["peer", "daemon"], "1 where the instance has a vote", |k, out| {
        each_leg(k, out, |leg| leg.votes);
    }),
    Metric::new(
        "leg_missed",
        Gauge,
        Seconds,
        &["peer", "daemon"],
        "For how long a majority has had the session without the instance since it was last level",
        |k, out| each_leg(k, out, |leg| seconds(leg.missed_us)),
    ),
    Metric::new(
        "leg_waiting",
        Gauge,
        Bytes,
        &["peer", "daemon"],
        "Octets for the instance that it does not take yet",
        |k, out| each_leg(k, out, |leg| leg.waiting_bytes),
    ),
];

fn each<'s, V: Into<Value>>(k: &'s Known, out: &mut Samples<'s>, value: impl Fn(&Session) -> Option<V>) {
    k.facts.sessions.iter().for_each(|s| out.maybe(&[("peer", &s.peer)], value(s)));
}

fn each_leg<'s, V: Into<Value>>(k: &'s Known, out: &mut Samples<'s>, value: impl Fn(&Leg) -> V) {
    for s in &k.facts.sessions {
        s.legs.iter().for_each(|leg| out.with(&[("peer", &s.peer), ("daemon", &leg.instance)], value(leg)));
    }
}
