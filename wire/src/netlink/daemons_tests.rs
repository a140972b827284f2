//! What real daemons send, put together as a virtual kernel would: the same configuration means the
//! same.

use super::captures::*;
use super::consts::*;
use super::*;
use std::collections::BTreeMap;

/// A routing table made of writes alone.
#[derive(Default)]
struct Table {
    nexthops: BTreeMap<u32, NexthopMessage>,
    routes: BTreeMap<FibKey, FibRoute>,
}

impl Table {
    fn apply(&mut self, sent: &[u8]) {
        for frame in Frames::new(sent) {
            let frame = frame.unwrap();
            match frame.header.kind {
                RTM_NEWNEXTHOP => {
                    let nexthop = NexthopMessage::parse(frame.payload).unwrap();
                    assert_eq!(NexthopMessage::parse(&nexthop.to_payload().unwrap()).as_ref(), Ok(&nexthop));
                    self.nexthops.insert(nexthop.id.unwrap(), nexthop);
                }
                kind @ (RTM_NEWROUTE | RTM_DELROUTE) => {
                    let message = RouteMessage::parse(frame.payload).unwrap();
                    assert_eq!(RouteMessage::parse(&message.to_payload().unwrap()).as_ref(), Ok(&message));
                    let key = FibKey::from_message(&message).unwrap();
                    if kind == RTM_NEWROUTE {
                        let route = FibRoute::from_message(&message, |id| self.nexthops.get(&id)).unwrap();
                        self.routes.insert(key, route);
                    } else {
                        assert!(self.routes.remove(&key).is_some(), "{key}");
                    }
                }
                other => panic!("unexpected type {other}"),
            }
        }
    }

    fn text(&self) -> Vec<String> {
        self.routes.iter().map(|(key, route)| format!("{key} {route}")).collect()
    }
}

fn table(writes: &str) -> Table {
    let mut table = Table::default();
    table.apply(&bytes(writes));
    table
}

#[test]
fn bird() {
    assert_eq!(
        table(BIRD_WRITES).text(),
        [
            "192.0.2.0/24 via 10.0.1.2 dev #3",
            "192.0.3.0/24 via 10.0.1.2 dev #3 weight 1, via 10.0.2.2 dev #2 weight 1",
            "192.0.4.0/24 blackhole",
            "192.0.5.0/24 unreachable",
            "192.0.6.0/24 prohibit",
            "192.0.7.0/24 dev #3",
            "192.0.8.0/24 via 172.16.1.1 dev #3 onlink",
            "192.0.9.0/24 via 10.0.1.2 dev #3 src 10.0.1.1 mtu 1400",
            "2001:db8:a::/48 via 2001:db8:1::2 dev #3",
            "2001:db8:b::/48 via 2001:db8:1::2 dev #3 weight 1, via 2001:db8:2::2 dev #2 weight 1",
            "2001:db8:c::/48 blackhole",
        ]
    );
}

#[test]
fn zebra_says_the_same_with_nexthop_objects() {
    let (bird, zebra) = (table(BIRD_WRITES), table(ZEBRA_WRITES));
    assert_eq!(zebra.routes.len(), 9);
    for (key, route) in &zebra.routes {
        assert_eq!(bird.routes[key].to_bytes(), route.to_bytes(), "{key} {route}");
    }
}

#[test]
fn deletes_find_their_routes() {
    for (writes, deletes) in [(BIRD_WRITES, BIRD_DELETES), (ZEBRA_WRITES, ZEBRA_DELETES)] {
        let mut table = table(writes);
        table.apply(&bytes(deletes));
        assert_eq!(table.text(), [""; 0]);
    }
}
