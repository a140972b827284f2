//! What an earlier virtd left in the kernel.

use super::*;
use leftover::Flushed;

#[test]
fn routes_of_the_protocol_are_counted_and_removed_and_no_others() {
    in_fresh_namespace(|| {
        assert_eq!(leftover::count(245).expect("readable"), 0);
        assert_eq!(leftover::flush(245).expect("readable"), Flushed::default());
        for n in 0..40 {
            ip(&format!("route add 192.0.{n}.0/24 via 10.0.0.2 proto 245 metric 20"));
            ip(&format!("-6 route add 2001:db8:{n}::/48 via fd00:a::2 proto 245 metric 20"));
        }
        ip("route add 198.51.100.0/24 proto 245 nexthop via 10.0.0.2 nexthop via 10.0.1.2");
        ip("-6 route add 2001:db8:ffff::/48 proto 245 nexthop via fd00:a::2 nexthop via fd00:b::2");
        ip("route add blackhole 198.51.101.0/24 proto 245 metric 7");
        ip("route add 198.51.102.0/24 via 10.0.0.2 proto 245 table 100");
        ip("route add default via 10.0.0.2 proto 245");
        // Others', with the same prefix too.
        ip("route add 192.0.0.0/24 via 10.0.1.2 proto bgp metric 30");
        ip("route add 203.0.113.0/24 via 10.0.1.2 proto 244");
        let others = |protocol| ip(&format!("route show proto {protocol} table all"));
        let before = [others("bgp"), others("244"), others("kernel")];
        assert_eq!(leftover::count(245).expect("readable"), 85);
        let flushed = leftover::flush(245).expect("removable");
        assert_eq!(flushed, Flushed { removed: 85, left: 0 });
        assert_eq!((others("245"), ip("-6 route show proto 245 table all")), (String::new(), String::new()));
        assert_eq!([others("bgp"), others("244"), others("kernel")], before);
    });
}
