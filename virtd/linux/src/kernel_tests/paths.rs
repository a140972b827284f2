//! Links, addresses and the routes to peers, watched with a FIB to write and without.

use super::super::socket::{ANSWER_QUEUE, RouteSocket};
use super::super::view::View;
use super::*;
use broker::io::Change;

const FAR: &str = "192.0.2.9";
const FAR_V6: &str = "2001:db8::9";
const NEAR: &str = "10.0.0.2";

impl Bench {
    /// The thread that only watches.
    fn watching() -> Bench {
        let poll = mio::Poll::new().expect("a poll");
        let waker = Arc::new(mio::Waker::new(poll.registry(), mio::Token(9)).expect("a waker"));
        let (line, kernel) = start_watching(Arc::new(OnceLock::from(waker))).expect("the thread starts");
        Bench { line, kernel: Some(kernel), _poll: poll, news: Vec::new() }
    }

    fn paths(&self, peer: &str) -> usize {
        let peer = peer.parse().expect("an address");
        self.news.iter().filter(|n| **n == KernelNews::Path { peer }).count()
    }

    /// Until one more change of the route to a peer has been told, and it is one.
    fn wait_for_path(&mut self, peer: &str, before: usize) {
        self.wait(&format!("the route to {peer}"), |b| b.paths(peer) > before);
        assert_eq!(self.paths(peer), before + 1, "{:#?}", self.news);
    }
}

fn the_route_in_use_is_what_counts(mut b: Bench) {
    b.wait("the first reading", |b| b.news.contains(&KernelNews::LinksRead));
    b.line.watch_peers([FAR, FAR_V6, NEAR].iter().map(|p| p.parse().expect("an address")).collect());
    // What is seen first is no change, and when that was nobody tells: so it is changed until
    // somebody does.
    for (family, peer, gateways) in
        [("-4", FAR, ["10.0.0.2 dev a0", "10.0.1.2 dev b0"]), ("-6", FAR_V6, ["fd00:a::2 dev a0", "fd00:b::2 dev b0"])]
    {
        let mut ways = gateways.iter().cycle();
        b.wait("the default route counts where there is no other", |b| {
            let gateway = ways.next().expect("they go on for ever");
            ip(&format!("{family} route replace default via {gateway}"));
            b.paths(peer) > 0
        });
    }
    ip("route replace default via 10.0.0.2 dev a0");
    ip("-6 route replace default via fd00:a::2 dev a0");
    let settled = |b: &mut Bench| {
        let before = b.news.len();
        ip("addr add 10.9.9.9/32 dev lo");
        ip("addr del 10.9.9.9/32 dev lo");
        b.wait("a sign that all has been read", |b| b.news.len() >= before + 2);
    };
    settled(&mut b);

    let before = b.paths(FAR);
    ip("route add 192.0.2.0/24 via 10.0.1.2 dev b0");
    b.wait_for_path(FAR, before);
    // None of these leads there now.
    ip("route replace default via 10.0.1.2 dev b0");
    ip("route add 203.0.113.0/24 via 10.0.0.2 dev a0");
    ip("route add 192.0.2.128/25 via 10.0.0.2 dev a0");
    ip("route add 192.0.2.0/24 via 10.0.0.2 dev a0 metric 99");
    settled(&mut b);
    assert_eq!(b.paths(FAR), before + 1, "{:#?}", b.news);
    ip("route replace 192.0.2.0/24 via 10.0.1.3 dev b0");
    b.wait_for_path(FAR, before + 1);
    // The kernel takes IPv4 routes along without a word.
    ip("link set b0 down");
    b.wait("the route over a link that is down", |b| b.paths(FAR) > before + 2);
    assert_eq!(b.paths(NEAR), 0, "it is directly connected");
    // It is no more.
    ip("addr del 10.0.0.1/24 dev a0");
    b.wait("the address", |b| {
        let gone =
            |n: &KernelNews| matches!(n, KernelNews::Change(Change::AddressGone { address, .. }) if address.to_string() == "10.0.0.1");
        b.news.iter().any(gone)
    });
    ip("addr add 10.0.3.1/24 dev a0");
    let mut hops = ["10.0.3.2", "10.0.3.3"].iter().cycle();
    b.wait("a route to who was directly connected", |b| {
        ip(&format!("route replace 10.0.0.0/24 via {}", hops.next().expect("they go on for ever")));
        b.paths(NEAR) > 0
    });
    b.stop();
}

#[test]
fn routes_to_peers_are_watched_without_a_fib() {
    in_fresh_namespace(|| the_route_in_use_is_what_counts(Bench::watching()));
}

#[test]
fn routes_to_peers_are_watched_with_a_fib() {
    in_fresh_namespace(|| the_route_in_use_is_what_counts(Bench::start(&calm())));
}

#[test]
fn a_route_of_virtds_own_is_no_change() {
    in_fresh_namespace(|| {
        let mut b = Bench::start(&calm());
        b.line.watch_peers([FAR.parse().expect("an address")].into());
        let mut ways = ["10.0.0.2", "10.0.0.3"].iter().cycle();
        b.wait("somebody else's", |b| {
            ip(&format!("route replace 192.0.2.0/24 via {} metric 99", ways.next().expect("they go on for ever")));
            b.paths(FAR) > 0
        });
        b.write("192.0.2.0/25", via("10.0.1.2", "b0"));
        b.wait_for_routes("ours", 1);
        b.write("192.0.2.0/25", via("10.0.1.3", "b0"));
        b.wait("ours has changed", |_| ours()["192.0.2.0/25"]["gateway"] == "10.0.1.3");
        let before = b.paths(FAR);
        // That ours is there now is found by looking, once; that it is another one is not asked.
        ip("route replace 192.0.2.0/24 via 10.0.0.9 metric 99");
        b.write("192.0.2.0/25", via("10.0.1.4", "b0"));
        b.wait("ours has changed again", |_| ours()["192.0.2.0/25"]["gateway"] == "10.0.1.4");
        ip("route replace 192.0.2.0/24 via 10.0.0.10 metric 99");
        let index = index_of("b0");
        ip("link set b0 down");
        b.wait("the link", |b| {
            b.news.iter().any(|n| matches!(n, KernelNews::Change(Change::Link(l)) if l.index == index && !l.up))
        });
        assert!(b.paths(FAR) <= before + 2, "{:#?}", b.news);
        b.stop();
    });
}

#[test]
fn what_went_unseen_is_told_when_all_is_read_again() {
    in_fresh_namespace(|| {
        let mut dumper = RouteSocket::open(&[], ANSWER_QUEUE).expect("a socket");
        let (mut view, mut news) = (View::default(), Vec::new());
        view.read(&mut dumper, &mut news).expect("it can be read");
        let (a0, b0) = (index_of("a0"), index_of("b0"));
        assert!(
            news.iter().any(|n| matches!(n, KernelNews::Change(Change::Link(l)) if l.index == a0 && l.up && l.running)),
            "{news:?}"
        );
        news.clear();
        view.read(&mut dumper, &mut news).expect("it can be read");
        assert_eq!(news, [], "nothing has changed");
        ip("link del b0");
        ip("addr del 10.0.0.1/24 dev a0");
        ip("addr add 10.0.5.1/24 dev a0");
        view.read(&mut dumper, &mut news).expect("it can be read");
        let v4 = |n: &&KernelNews| match n {
            KernelNews::Change(Change::Address { address, .. })
            | KernelNews::Change(Change::AddressGone { address, .. }) => address.is_ipv4(),
            KernelNews::Change(Change::LinkGone { index }) => *index == b0,
            _ => false,
        };
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let gone = |index, text| KernelNews::Change(Change::AddressGone { index, address: address(text), length: 24 });
        let told: Vec<KernelNews> = news.iter().filter(v4).cloned().collect();
        let new = KernelNews::Change(Change::Address { index: a0, address: address("10.0.5.1"), length: 24 });
        let both = [gone(a0, "10.0.0.1"), gone(b0, "10.0.1.1")];
        assert_eq!(told.len(), 4, "{news:?}");
        assert!(told[0] == new && both.iter().all(|n| told.contains(n)), "{told:?}");
        assert_eq!(told[3], KernelNews::Change(Change::LinkGone { index: b0 }), "after its addresses");
    });
}
