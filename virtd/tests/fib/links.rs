//! Links, addresses and the system's own routes, as each instance sees them.

use super::*;
use broker::io::Change;

/// An instance for which a change of addresses is a reset of the link as well (`link_reset_ms`),
/// the second of three.
fn with_resets(least: u32, greatest: u32) -> World {
    let mut c = config(3, Strategy::WaitForConsensus);
    let times = Some((least, greatest));
    c.instances[1].diversity = Some(virtd_config::Diversity { link_reset_ms: times, ..Default::default() });
    World::new(&c)
}

fn address(w: &mut World, index: u32, address: &str, there: bool) {
    let (address, length) = (address.parse().unwrap(), 24);
    w.news(match there {
        true => KernelNews::Change(Change::Address { index, address, length }),
        false => KernelNews::Change(Change::AddressGone { index, address, length }),
    });
}

#[test]
fn a_change_of_addresses_is_a_reset_of_the_link_for_one_instance() {
    let mut w = with_resets(50, 50);
    level(&mut w, 3, &[P]);
    assert!(w.resets.is_empty(), "what is there at the start is no change: {:?}", w.resets);
    let (before, written) = (w.now, w.changes.len());
    // Three changes within the time are one reset.
    address(&mut w, 2, "10.9.0.1", true);
    address(&mut w, 2, "10.9.1.1", true);
    address(&mut w, 2, "10.9.1.1", false);
    w.run(SECOND / 2);
    let [(down, 1, 2, false), (up, 1, 2, true)] = w.resets[..] else { panic!("{:?}", w.resets) };
    assert!(down >= before + 50_000 && up >= down + 200_000, "{down} and {up} after {before}");
    assert_eq!(w.events_of("link-reset").len(), 1);
    // Its route over the link has left its own kernel, as Linux does it; the others' stand, and the
    // real kernel's.
    w.run(5 * T);
    assert_eq!((w.in_kernel(P), w.changes.len()), (Some(VIA_A), written));
    assert_eq!(w.diff().len(), 1, "{:?}", w.diff());
    // It writes it again, since for it the link has come up.
    w.add(1, P, &[A]);
    w.run(3 * T);
    assert!(w.diff().is_empty(), "{:?}", w.diff());
    assert_eq!((w.in_kernel(P), w.changes.len(), w.resets.len()), (Some(VIA_A), written, 2));
}

/// What is known of the kernel's own routes, all instances share: the one that is shown a reset
/// takes nothing of it away.
#[test]
fn a_reset_leaves_the_routes_of_the_links_subnet_to_everybody() {
    let mut w = with_resets(50, 50);
    let key = FibKey { table: RT_TABLE_MAIN, prefix: "10.0.2.0/24".parse().unwrap(), tos: 0 };
    let hops = vec![(2, false)];
    let subnet =
        OtherRoute { protocol: RTPROT_KERNEL, kind: RTN_UNICAST, scope: RT_SCOPE_LINK, metric: 0, object: false, hops };
    w.news(KernelNews::Change(Change::Routes(Some(vec![(key, subnet)]))));
    level(&mut w, 3, &[P]);
    address(&mut w, 2, "10.9.0.1", true);
    w.run(5 * T);
    assert_eq!(w.resets.len(), 2);
    // By a gateway of that subnet.
    for i in 0..3 {
        w.add(i, Q, &[A]);
    }
    w.add(1, P, &[A]);
    w.run(3 * T);
    assert!(w.diff().is_empty(), "{:?}", w.diff());
    assert_eq!((w.in_kernel(P), w.in_kernel(Q)), (Some(VIA_A), Some(VIA_A)));
}

#[test]
fn a_link_that_is_down_and_the_loopback_interface_are_not_reset() {
    let mut w = with_resets(0, 0);
    level(&mut w, 3, &[P]);
    address(&mut w, 1, "192.0.2.1", true);
    w.link(3, false, false);
    address(&mut w, 3, "10.9.0.1", true);
    w.run(SECOND);
    assert!(w.resets.is_empty(), "{:?}", w.resets);
    // A change of the link itself is none of its addresses.
    w.link(3, true, true);
    w.run(SECOND);
    assert!(w.resets.is_empty(), "{:?}", w.resets);
    address(&mut w, 3, "10.9.0.1", false);
    w.run(SECOND);
    assert_eq!(w.resets.iter().map(|r| (r.1, r.2, r.3)).collect::<Vec<_>>(), [(1, 3, false), (1, 3, true)]);
}

/// A gateway that nothing leads to is refused, as Linux does; not while something new may have come
/// that is not known here yet.
#[test]
fn a_gateway_must_be_reachable_unless_something_new_has_come() {
    let gateway =
        |oif| RouteMessage { gateway: Some("172.16.0.1".parse().unwrap()), oif: Some(oif), ..world::route(P, &[A]) };
    let mut w = three(Strategy::WaitForConsensus);
    let errno =
        |w: &mut World| w.send(0, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &gateway(3).to_payload().unwrap());
    assert_eq!(errno(&mut w), 0, "the kernel's routes have not been read yet");
    w.news(KernelNews::Change(Change::Routes(Some(Vec::new()))));
    assert_eq!(errno(&mut w), libc::ENETUNREACH);
    w.input(Input::NetlinkStirred);
    assert_eq!(errno(&mut w), 0);
    w.run(3 * SECOND);
    assert_eq!(errno(&mut w), libc::ENETUNREACH);
    let key = FibKey { table: RT_TABLE_MAIN, prefix: "172.16.0.0/24".parse().unwrap(), tos: 0 };
    let hops = vec![(3, false)];
    let route = OtherRoute { protocol: 4, kind: RTN_UNICAST, scope: 253, metric: 0, object: false, hops };
    w.news(KernelNews::Change(Change::Route { key, route: route.clone(), place: Place::First }));
    assert_eq!(errno(&mut w), 0);
    w.news(KernelNews::Change(Change::RouteGone { key, route }));
    assert_eq!(errno(&mut w), libc::ENETUNREACH);
    // More than are kept: believed again.
    w.news(KernelNews::Change(Change::Routes(None)));
    assert_eq!(errno(&mut w), 0);
}
