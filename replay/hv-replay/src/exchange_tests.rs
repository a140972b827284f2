//! What a player counts, and what it sends.

use super::*;
use wire::bgp::UpdateContext;

const PLAN: Plan = Plan { neighbours: 3, routes: 2_000 };

fn negotiated() -> Negotiated {
    let peer = Open { asn: 1, hold_time_s: 90, router_id: Ipv4Addr::new(192, 0, 2, 1), capabilities: Vec::new() };
    Negotiated {
        peer,
        context: UpdateContext::EBGP,
        families: vec![Family::IPV4_UNICAST],
        hold_time_s: 90,
        route_refresh: false,
        enhanced_refresh: false,
    }
}

/// What neighbour number 1 says, message by message.
fn said() -> Vec<frame::Message> {
    let mut out = BytesMut::new();
    announce(100_001, Ipv4Addr::new(10, 0, 16, 1), PLAN.own(1), &negotiated(), &mut out);
    std::iter::from_fn(|| frame::next_message(&mut out, false).expect("messages")).collect()
}

#[test]
fn a_neighbours_routes_go_out_packed_and_are_told_apart_by_number() {
    let messages = said();
    // 4 octets a route, some 40 for the attributes, 4096 a message.
    assert_eq!(messages.len(), 3, "two UPDATEs and End-of-RIB");
    let updates: Vec<Update<'_>> = messages.iter().map(|m| Update::parse(m.body()).expect("sound")).collect();
    let numbers: Vec<_> = updates.iter().flat_map(|u| PLAN.numbers(u.nlri)).collect();
    assert_eq!(numbers, PLAN.own(1).map(Some).collect::<Vec<_>>());
    assert_eq!(updates[2].end_of_rib(), Some(Family::IPV4_UNICAST));
}

#[test]
fn what_nobody_announces_has_no_number() {
    // 12.0.0.0/8, 11.0.0.0/24 (the first), 11.0.0.0/25, 11.23.111.0/24 (the last), 11.23.112.0/24.
    let field = [&[8, 12][..], &[24, 11, 0, 0, 25, 11, 0, 0, 0], &[24, 11, 23, 111, 24, 11, 23, 112]].concat();
    let nlri = Nlri::check(Family::IPV4_UNICAST, &field).expect("an NLRI field");
    assert_eq!(PLAN.numbers(nlri).collect::<Vec<_>>(), [None, Some(0), None, Some(5_999), None]);
}

#[test]
fn a_route_counts_once_and_until_it_is_withdrawn() {
    let mut known = Known::new(PLAN);
    for (number, there, count) in
        [(0, true, 1), (0, true, 1), (5_999, true, 2), (1, false, 2), (0, false, 1), (0, false, 1), (999_999, true, 1)]
    {
        known.set(number, there);
        assert_eq!(known.count, count, "after {number}: {there}");
    }
    known.clear();
    assert_eq!(known.count, 0);
    known.set(5_999, true);
    assert_eq!(known.count, 1);
}

/// Three neighbours of which nobody is connected: what each is told is counted against what the
/// others announce, and is lost with its session.
#[test]
fn everybody_has_everything_when_nothing_is_missing() {
    let text = "exchange --connect 127.0.0.1 --neighbours 3 --routes 2000 --first-address 127.0.1.0";
    let command = <ExchangeOptions as clap::Args>::augment_args(clap::Command::new("exchange"));
    let matches = command.get_matches_from(text.split_whitespace());
    let options = <ExchangeOptions as clap::FromArgMatches>::from_arg_matches(&matches).expect("options");
    let poll = mio::Poll::new().expect("a poller");
    let mut all = Exchange::new(&options, poll.registry().try_clone().expect("a registry")).expect("players");
    assert_eq!(all.missing, 3 * 4_000);
    let now = Instant::now();
    for n in 0..3 {
        all.came_up(n, &negotiated(), now);
        // All are told everything of neighbour 1, itself included.
        said().iter().for_each(|m| all.update(n, m.body(), now));
    }
    assert_eq!(all.missing, 3 * 4_000 - 2 * 2_000);
    assert_eq!(all.all_up, Some(now));
    all.closed(2, "it was too late", now);
    assert_eq!((all.missing, all.up, all.filling.sessions_lost), (3 * 4_000 - 2_000, 2, 1));
    assert_eq!(all.filling.announcements, 6_000);
}
