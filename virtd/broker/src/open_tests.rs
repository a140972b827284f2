use super::*;

const V4: Family = Family::IPV4_UNICAST;
const V6: Family = Family::IPV6_UNICAST;

/// An OPEN in words: `as 64500 id 1 hold 90 v4 v6 rr err as4 ext role 3 enh`. Without `as` and `id`
/// it is AS 64500, router id 10.0.0.1; `no-mp` for one without any capability.
fn open(words: &str) -> Open {
    let mut open =
        Open { asn: 64500, hold_time_s: 90, router_id: Ipv4Addr::new(10, 0, 0, 1), capabilities: Vec::new() };
    let mut words = words.split_whitespace();
    let mut as4 = false;
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|n| n.parse::<u32>().ok()).expect("a number");
        open.capabilities.push(match word {
            "as" => {
                open.asn = number();
                continue;
            }
            "id" => {
                open.router_id = Ipv4Addr::new(10, 0, 0, number() as u8);
                continue;
            }
            "hold" => {
                open.hold_time_s = number() as u16;
                continue;
            }
            "as4" => {
                as4 = true;
                continue;
            }
            "no-mp" => continue,
            "v4" => Capability::Multiprotocol(V4),
            "v6" => Capability::Multiprotocol(V6),
            "vpn" => Capability::Multiprotocol(Family { afi: 1, safi: 128 }),
            "rr" => Capability::RouteRefresh,
            "err" => Capability::EnhancedRouteRefresh,
            "ext" => Capability::ExtendedMessage,
            "role" => Capability::Role(number() as u8),
            "enh" => Capability::ExtendedNextHop(vec![(V4, 2)]),
            "fqdn" => Capability::Other { code: 73, value: vec![1, b'r', 0] },
            "gr" => Capability::GracefulRestart { flags: 0, restart_time_s: 120, families: vec![] },
            other => panic!("{other} is no word of an OPEN"),
        });
    }
    if as4 {
        open.capabilities.push(Capability::FourOctetAs(open.asn));
    }
    open
}

/// An OPEN as [`open`] reads it, less what need not be said.
fn words(open: &Open) -> String {
    let s = Shared::of(open);
    let mut out = format!("hold {}", open.hold_time_s);
    s.families.iter().for_each(|f| out += if *f == V4 { " v4" } else { " v6" });
    for (has, word) in [
        (s.route_refresh, " rr"),
        (s.enhanced_refresh, " err"),
        (s.as4, " as4"),
        (s.extended_message, " ext"),
        (!s.extended_next_hop.is_empty(), " enh"),
    ] {
        if has {
            out += word;
        }
    }
    s.role.into_iter().for_each(|r| out += &format!(" role {r}"));
    out
}

/// `!` in front: it was sent in an earlier attempt.
fn vote(ballots: &[&str]) -> (Profile, Vec<usize>) {
    let opens: Vec<(Open, bool)> =
        ballots.iter().map(|b| (open(b.trim_start_matches('!')), !b.starts_with('!'))).collect();
    let voices: Vec<Voice<'_>> =
        opens.iter().enumerate().map(|(instance, (open, fresh))| Voice { instance, open, fresh: *fresh }).collect();
    learn(&voices).expect("a profile")
}

/// What FRR 8.4.4, BIRD 2.0.12 and OpenBGPD 7.7 say where nothing is configured.
const FRR: &str = "hold 180 v4 v6 rr err as4 ext fqdn gr";
const BIRD: &str = "hold 240 v4 v6 rr gr as4 err";
const OPENBGPD: &str = "hold 90 v4 v6 rr gr as4";

#[test]
fn what_the_peer_is_shown() {
    for (ballots, shown) in [
        (&[FRR, BIRD, OPENBGPD][..], "hold 180 v4 v6 rr err as4"),
        // One voter: its own. Several: more than half.
        (&["hold 90 v4 as4 ext role 3 enh"], "hold 90 v4 as4 ext enh role 3"),
        (&["v4 v6", "v4 v6", "v6"], "hold 90 v4 v6"),
        (&["v4 v6", "v6", "v6"], "hold 90 v6"),
        (&["v4 ext", "v4 ext", "v4"], "hold 90 v4 ext"),
        (&["v4 ext as4", "v4 as4", "v4"], "hold 90 v4 as4"),
        (&["v4 enh", "v4 enh", "v4"], "hold 90 v4 enh"),
        (&["v4 role 3", "v4 role 3", "v4 role 4"], "hold 90 v4 role 3"),
        (&["v4 role 3", "v4 role 4", "v4"], "hold 90 v4"),
        (&["no-mp", "v4", "v6"], "hold 90 v4"),
        // A tie offers nothing.
        (&["v4 v6", "v4"], "hold 90 v4"),
        (&["v4 ext", "v4"], "hold 90 v4"),
        (&["v4 v6", "v4 v6", "v4", "v4"], "hold 90 v4"),
        // A session without a family is none.
        (&["v4", "v6"], "hold 90 v4 v6"),
    ] {
        let (profile, odd) = vote(ballots);
        assert_eq!(words(&profile.open()), shown, "{ballots:?}");
        assert!(odd.is_empty());
    }
}

#[test]
fn the_hold_time_is_the_median_of_two_middle_values_the_smaller_and_0_is_the_longest() {
    for (hold, wanted) in [
        (&[180, 240, 90][..], 180),
        (&[0, 9, 9], 9),
        (&[9, 0, 0], 0),
        (&[3, 9], 3),
        (&[0, 9], 9),
        (&[0, 0], 0),
        (&[0, 90, 9, 30], 30),
        (&[3], 3),
    ] {
        let ballots: Vec<String> = hold.iter().map(|h| format!("v4 hold {h}")).collect();
        let ballots: Vec<&str> = ballots.iter().map(String::as_str).collect();
        assert_eq!(vote(&ballots).0.hold_time_s, wanted, "{hold:?}");
    }
}

#[test]
fn what_was_said_in_an_earlier_attempt_counts_only_where_those_of_this_one_are_split() {
    for (ballots, shown, asn) in [
        (&["as 64501 v4", "as 64501 v4", "!as 64500 v4 v6"][..], "hold 90 v4", 64501),
        (&["as 64501 v4", "!as 64500 v4 v6", "!as 64500 v4 v6"], "hold 90 v4", 64501),
        (&["as 64500 v4", "as 64501 v4 v6", "!as 64501 v4 v6"], "hold 90 v4 v6", 64501),
        (&["as 64501 v4", "as 64501 v4", "as 64500 v4", "!as 64500 v4", "!as 64500 v4"], "hold 90 v4", 64501),
        (&["v4 v6", "v4", "!v4 v6"], "hold 90 v4 v6", 64500),
        (&["v4 v6", "v4", "!v4"], "hold 90 v4", 64500),
        (&["v4 hold 9", "v4 hold 30", "!v4 hold 90", "!v4 hold 90"], "hold 9 v4", 64500),
        (&["v4 hold 240", "v4 hold 90", "!v4 hold 180"], "hold 180 v4", 64500),
        (&["v4 hold 9", "v4 hold 9", "!v4 hold 180"], "hold 9 v4", 64500),
    ] {
        let (profile, _) = vote(ballots);
        assert_eq!((words(&profile.open()).as_str(), profile.asn), (shown, asn), "{ballots:?}");
    }
}

#[test]
fn who_says_another_as_or_router_id_takes_no_part() {
    for (ballots, out) in [
        (&["v4 v6", "as 64999", "v4 v6"][..], &[1][..]),
        (&["v4 v6", "v4 v6", "v4 id 9"], &[2]),
        (&["as 64999 v4", "v4 v6", "v4 v6"], &[0]),
        // Of two those who stand first.
        (&["v4 v6", "v4 v6 as 64999"], &[1]),
    ] {
        let (profile, odd) = vote(ballots);
        assert_eq!((profile.asn, odd.as_slice()), (64500, out), "{ballots:?}");
        assert_eq!(profile.shared.families, [V4, V6], "what it lacks takes nothing away from the others");
    }
    let (profile, _) = vote(&["v4", "v4", "v4 as 64999"]);
    let refused = |w: &str| profile.refuses(&open(w)).map(|r| (r.notification.code, r.notification.subcode));
    assert_eq!(refused("v4"), None);
    assert_eq!(refused("v4 as 64999"), Some((2, 2)), "Bad Peer AS");
    assert_eq!(refused("v4 id 9"), Some((2, 3)), "Bad BGP Identifier");
}

#[test]
fn a_speaker_without_four_octets_says_as_trans_for_a_longer_number() {
    let (profile, odd) = vote(&["as 200000 v4 as4", "as 200000 v4 as4", "as 23456 v4"]);
    assert_eq!((profile.asn, odd.len()), (200_000, 0));
    assert!(profile.refuses(&open("as 23456 v4")).is_none());
    assert!(profile.refuses(&open("as 23456 v4 as4")).is_some(), "this one means it");
}

/// The session that these voters have with this peer.
fn session(ballots: &[&str], peer: &str) -> Negotiated {
    negotiate(&vote(ballots).0, &open(peer)).expect("a common family")
}

#[test]
fn a_leg_sees_the_peer_cut_to_the_vote_and_to_what_it_has_itself_plus_what_virtd_serves() {
    for (peer, leg, shown) in [
        // FRR alone has extended messages: that stays inside.
        ("as 64501 hold 30 v4 v6 as4 ext", FRR, "hold 9 v4 v6 rr as4"),
        ("as 64501 hold 30 v4 as4 ext", OPENBGPD, "hold 9 v4 rr as4"),
        ("as 64501 v4 v6 rr err as4", OPENBGPD, "hold 9 v4 v6 rr as4"),
        ("as 64501 v4 v6 rr err as4", BIRD, "hold 9 v4 v6 rr err as4"),
        ("as 64501 v4 v6 as4", "v6 as4", "hold 9 v6 rr as4"),
        ("as 64501 v4 v6 as4", "v4 v6", "hold 9 v4 v6 rr"),
        // Nothing in common with the session: its leg stands all the same.
        ("as 64501 v4 as4", "v6 as4", "hold 9 v6 rr as4"),
    ] {
        let n = session(&[FRR, BIRD, OPENBGPD], peer);
        let terms = n.terms(&open(leg), 9, false);
        let seen = Open::decode(&terms.shown[frame::HEADER_LEN..]).expect("an OPEN");
        assert_eq!(words(&seen), shown, "{peer} to {leg}");
        assert_eq!((seen.asn, seen.router_id), (64501, n.peer_router_id));
        let gr = |c: &Capability| matches!(c, Capability::GracefulRestart { families, .. } if families.is_empty());
        assert!(seen.capabilities.iter().any(gr), "without it some send no End-of-RIB");
    }
}

#[test]
fn what_an_instance_lacks_and_what_follows() {
    let ext = &["v4 v6 as4 ext enh", "v4 v6 as4 ext enh", "v4 v6 as4"][..];
    for (leg, lacking, short, narrow, plain) in [
        ("v4 v6 as4 ext enh", &[][..], false, false, true),
        ("v6 as4 ext enh", &[V4][..], false, false, false),
        ("v4 as4 ext enh", &[V6], false, false, false),
        // It could neither be told nor say an IPv4 route with an IPv6 next hop.
        ("v4 v6 as4 ext", &[V4], false, false, false),
        ("v4 v6 as4 enh", &[], true, false, false),
        ("v4 v6 ext enh", &[], false, true, false),
    ] {
        let t = session(ext, "as 64501 v4 v6 as4 ext enh").terms(&open(leg), 9, false);
        assert_eq!((t.lacking.as_slice(), t.short, t.narrow, t.is_plain()), (lacking, short, narrow, plain), "{leg}");
    }
    let t = session(ext, "as 64501 v4 v6 as4").terms(&open("v4 v6 as4"), 9, false);
    assert!(t.is_plain(), "what the peer has not either is nobody's lack");
}

#[test]
fn roles_are_shown_to_those_who_say_what_most_say() {
    let n = session(&["v4 role 3", "v4 role 3", "v4"], "as 64501 v4 role 0");
    for (leg, shown) in [("v4 role 3", Some(0)), ("v4", None), ("v4 role 4", None)] {
        let seen = Open::decode(&n.terms(&open(leg), 9, false).shown[frame::HEADER_LEN..]).expect("an OPEN");
        assert_eq!(Shared::of(&seen).role, shown, "{leg}");
    }
}

#[test]
fn who_differs_is_told_what_to_change() {
    let n = session(&["v4 v6 as4 ext", "v4 v6 as4 ext", "v4 v6 as4"], "as 64501 v4 v6 as4 ext");
    for (leg, costs, text) in [
        ("v6 as4 ext", true, "lacks ipv4-unicast and abstains on it here: enable ipv4-unicast for this neighbour"),
        ("v4 v6 as4 ext role 3", true, "says role 3 (RFC 9234) where most say no role"),
        ("v4 v6 as4", false, "lacks extended messages (RFC 8654): virtd packs"),
        ("v4 v6 ext", false, "lacks 4-octet AS numbers"),
        ("v4 v6 as4 ext hold 30", false, "proposes hold time 30 s"),
    ] {
        let d = n.difference(&open(leg)).expect("a difference");
        assert_eq!(d.costs, costs, "{leg}");
        assert!(d.text.starts_with(text), "{leg}: {}", d.text);
    }
    assert_eq!(n.difference(&open("v4 v6 as4 ext rr err fqdn gr")), None, "more is no difference");
    let n = session(&[FRR, BIRD, OPENBGPD], "as 64501 v4 as4");
    assert_eq!(n.difference(&open(OPENBGPD)), None, "where each has its own, none of them is worth a word");
    let n = session(&["v4 enh", "v4 enh", "v4"], "as 64501 v4 enh");
    assert!(n.difference(&open("v4")).expect("a difference").text.starts_with("lacks extended next hops"));
}

#[test]
fn no_common_family_is_refused_with_the_code_of_rfc_5492() {
    let n = negotiate(&vote(&[FRR, BIRD, OPENBGPD]).0, &open("as 64501 vpn")).expect_err("nothing in common");
    assert_eq!((n.code, n.subcode), (2, 7));
}

#[test]
fn in_a_confederation_the_kind_of_a_session_follows_from_both_as_numbers() {
    let confederation = crate::config::Confederation { identifier: 65000, members: vec![65001, 65002] };
    let config = Config { confederation: Some(confederation), ..Config::default() };
    let kind = |ours: u32, peer: u32, config: &Config| {
        let voice = Open { asn: ours, ..open("as 65001") };
        let (profile, _) = learn(&[Voice { instance: 0, open: &voice, fresh: true }]).expect("a voice");
        let n = negotiate(&profile, &Open { asn: peer, ..open("as 65001") }).expect("a family").under(config);
        (n.kind, n.confederation)
    };
    assert_eq!(kind(65001, 65002, &config), (SessionKind::Confederation, Some(65000)));
    assert_eq!(kind(65001, 65001, &config), (SessionKind::Ibgp, Some(65000)));
    assert_eq!(kind(65000, 64999, &config), (SessionKind::Ebgp, None), "to others we are the confederation");
    assert_eq!(kind(65001, 64999, &config), (SessionKind::Ebgp, None), "nobody's member");
    assert_eq!(kind(65001, 65002, &Config::default()), (SessionKind::Ebgp, None));
    assert_eq!(kind(65001, 65001, &Config::default()), (SessionKind::Ibgp, None));
}
