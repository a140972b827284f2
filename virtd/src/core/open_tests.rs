use super::*;

fn open(asn: u32, id: u8, hold: u16, capabilities: Vec<Capability>) -> Open {
    Open { asn, hold_time_s: hold, router_id: Ipv4Addr::new(10, 0, 0, id), capabilities }
}

fn mp(f: Family) -> Capability {
    Capability::Multiprotocol(f)
}

/// What FRR, BIRD and OpenBGPD send in their OPENs, by ../shared/DAEMONS.md.
fn three() -> Vec<Open> {
    use Capability::*;
    let (v4, v6) = (mp(Family::IPV4_UNICAST), mp(Family::IPV6_UNICAST));
    let gr = GracefulRestart { flags: 0, restart_time_s: 120, families: vec![] };
    let fqdn = Other { code: 73, value: vec![1, b'r', 0] };
    vec![
        open(
            64500,
            1,
            180,
            vec![
                v4.clone(),
                v6.clone(),
                RouteRefresh,
                EnhancedRouteRefresh,
                FourOctetAs(64500),
                ExtendedMessage,
                fqdn,
                gr.clone(),
            ],
        ),
        open(
            64500,
            1,
            240,
            vec![v4.clone(), v6.clone(), RouteRefresh, gr.clone(), FourOctetAs(64500), EnhancedRouteRefresh],
        ),
        open(64500, 1, 90, vec![v4, v6, RouteRefresh, gr, FourOctetAs(64500)]),
    ]
}

#[test]
fn the_peer_sees_what_all_share_and_the_smallest_hold_time() {
    let opens = three();
    let (profile, odd) = learn(opens.iter().enumerate()).expect("a profile");
    assert!(odd.is_empty());
    let sent = profile.open();
    assert_eq!(sent.hold_time_s, 90);
    assert_eq!(
        sent.capabilities,
        vec![
            mp(Family::IPV4_UNICAST),
            mp(Family::IPV6_UNICAST),
            Capability::RouteRefresh,
            Capability::FourOctetAs(64500)
        ]
    );
}

#[test]
fn an_instance_with_another_as_is_named_and_left_out() {
    let mut opens = three();
    opens[1].asn = 64999;
    opens[1].capabilities.clear();
    let (profile, odd) = learn(opens.iter().enumerate()).expect("a profile");
    assert_eq!(profile.asn, 64500);
    assert_eq!(odd.len(), 1);
    assert_eq!(odd[0].0, 1);
    assert!(odd[0].1.contains("64999"), "{}", odd[0].1);
    assert_eq!(profile.shared.families.len(), 2, "its missing families take nothing away from the others");
}

#[test]
fn a_leg_sees_the_peer_cut_to_the_negotiated_set_plus_what_virtd_serves() {
    let opens = three();
    let (profile, _) = learn(opens.iter().enumerate()).expect("a profile");
    let peer =
        open(64501, 9, 30, vec![mp(Family::IPV4_UNICAST), Capability::ExtendedMessage, Capability::FourOctetAs(64501)]);
    let n = negotiate(&profile, &peer).expect("a common family");
    assert_eq!((n.hold_time_s, n.kind), (30, SessionKind::Ebgp));
    let shown = n.open_for_leg(9);
    assert_eq!((shown.asn, shown.hold_time_s, shown.router_id), (64501, 9, peer.router_id));
    assert!(!shown.capabilities.contains(&Capability::ExtendedMessage));
    assert!(!shown.has_family(Family::IPV6_UNICAST));
    assert!(shown.capabilities.contains(&Capability::RouteRefresh), "virtd serves refresh although the peer does not");
    assert!(
        shown
            .capabilities
            .iter()
            .any(|c| matches!(c, Capability::GracefulRestart { families, .. } if families.is_empty()))
    );
}

#[test]
fn no_common_family_is_refused_with_the_code_of_rfc_5492() {
    let opens = three();
    let (profile, _) = learn(opens.iter().enumerate()).expect("a profile");
    let peer = open(64501, 9, 30, vec![mp(Family { afi: 1, safi: 128 })]);
    let n = negotiate(&profile, &peer).expect_err("nothing in common");
    assert_eq!((n.code, n.subcode), (2, 7));
}

#[test]
fn a_later_instance_that_lacks_something_negotiated_is_refused_with_the_reason() {
    let opens = three();
    let (profile, _) = learn(opens.iter().take(1).enumerate()).expect("a profile");
    let peer = open(64501, 9, 30, opens[0].capabilities.clone());
    let n = negotiate(&profile, &peer).expect("common");
    let why = n.refuses(&opens[2]).expect("OpenBGPD 7.7 has no extended messages");
    assert!(why.contains("extended message"), "{why}");
    assert!(n.refuses(&opens[0]).is_none());
}
