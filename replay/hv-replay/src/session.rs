//! One BGP session as a pure state machine: bytes and the time go in, bytes and [`News`] come out
//! (RFC 4271 section 8, without the TCP part, which is [`crate::link`]'s).

use bytes::{Bytes, BytesMut};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use wire::bgp::frame::{self, MessageType};
use wire::bgp::message::{self, Capability, Open, RouteRefresh};
use wire::bgp::{Family, Notification, SessionKind, UpdateContext};

/// RFC 4271 section 8.2.2 suggests four minutes for the hold timer before the OPEN has come.
const OPEN_WAIT: Duration = Duration::from_secs(240);

/// What this side says in its OPEN, and what it demands of the other's.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Our OPEN.
    pub open: Open,
    /// The AS the neighbour must have; `None` accepts any.
    pub peer_asn: Option<u32>,
}

/// What both OPENs together mean.
#[derive(Clone, Debug)]
pub struct Negotiated {
    /// The neighbour's OPEN.
    pub peer: Open,
    /// How UPDATEs are read and written.
    pub context: UpdateContext,
    /// The families both sides named, in our order.
    pub families: Vec<Family>,
    /// Seconds; 0 for no KEEPALIVEs at all.
    pub hold_time_s: u16,
    /// Both sides can do route refresh.
    pub route_refresh: bool,
    /// Both sides can do enhanced route refresh (RFC 7313).
    pub enhanced_refresh: bool,
}

/// What the owner of a session is told.
#[derive(Debug)]
pub enum News {
    /// Established.
    Up(Box<Negotiated>),
    /// An UPDATE, header included, and when it was read.
    Update(Bytes, Instant),
    /// A ROUTE-REFRESH.
    Refresh(RouteRefresh),
    /// The neighbour sent a NOTIFICATION; [`News::Closed`] follows.
    NotificationReceived(Notification),
    /// We sent a NOTIFICATION; [`News::Closed`] follows.
    NotificationSent(Notification),
    /// The session is over; the string says why. The connection is to be closed once everything is
    /// written.
    Closed(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Idle,
    OpenSent,
    OpenConfirm,
    Established,
}

/// One session over one connection after the other.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    state: State,
    negotiated: Option<Box<Negotiated>>,
    hold_deadline: Option<Instant>,
    keepalive_deadline: Option<Instant>,
    /// Octets to be written to the connection.
    pub tx: BytesMut,
    /// Octets read from it.
    pub rx: BytesMut,
    /// KEEPALIVEs received.
    pub keepalives: u64,
}

impl Session {
    /// A session without a connection yet.
    pub fn new(config: SessionConfig) -> Session {
        Session {
            config,
            state: State::Idle,
            negotiated: None,
            hold_deadline: None,
            keepalive_deadline: None,
            tx: BytesMut::new(),
            rx: BytesMut::new(),
            keepalives: 0,
        }
    }

    /// Whether UPDATEs may be sent.
    pub fn established(&self) -> bool {
        self.state == State::Established
    }

    /// Whether there is a connection.
    pub fn connected(&self) -> bool {
        self.state != State::Idle
    }

    /// What was negotiated, while established.
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.negotiated.as_deref().filter(|_| self.established())
    }

    /// Our router id, AS and the rest.
    pub fn config(&self) -> &SessionConfig {
        &self.config
    }

    /// Sets the router id where it was left open (0.0.0.0); to be called before
    /// [`Session::connected_now`].
    pub fn default_router_id(&mut self, id: Ipv4Addr) {
        if self.config.open.router_id.is_unspecified() {
            self.config.open.router_id = id;
        }
    }

    /// A TCP connection is up: sends the OPEN.
    pub fn connected_now(&mut self, now: Instant) {
        self.tx.clear();
        self.rx.clear();
        self.tx.extend_from_slice(&self.config.open.encode());
        self.state = State::OpenSent;
        self.hold_deadline = Some(now + OPEN_WAIT);
        self.keepalive_deadline = None;
    }

    /// Takes the messages out of [`Session::rx`].
    pub fn received(&mut self, now: Instant, news: &mut Vec<News>) {
        while self.state != State::Idle {
            let extended = self.negotiated.as_ref().is_some_and(|n| n.context.max_message_len > frame::MAX_LEN);
            match frame::next_message(&mut self.rx, extended) {
                Ok(Some(message)) => self.message(now, &message, news),
                Ok(None) => break,
                Err(notification) => self.fail(notification, "bad framing", news),
            }
        }
    }

    fn message(&mut self, now: Instant, message: &frame::Message, news: &mut Vec<News>) {
        if let (Some(n), Some(_)) = (&self.negotiated, self.hold_deadline) {
            self.hold_deadline = (n.hold_time_s > 0).then(|| now + Duration::from_secs(n.hold_time_s.into()));
        }
        match (message.kind, self.state) {
            (MessageType::Notification, _) => {
                let notification = Notification::decode(message.body()).unwrap_or(Notification::new(1, 2));
                let why = format!("received {notification}");
                news.push(News::NotificationReceived(notification));
                self.close(why, news);
            }
            (MessageType::Open, State::OpenSent) => self.open(now, message.body(), news),
            (MessageType::Keepalive, State::OpenConfirm) => {
                self.state = State::Established;
                news.extend(self.negotiated.clone().map(News::Up));
            }
            (MessageType::Keepalive, State::Established) => self.keepalives += 1,
            (MessageType::Update, State::Established) => news.push(News::Update(message.bytes.clone(), now)),
            (MessageType::RouteRefresh, State::Established) => match RouteRefresh::decode(message.body()) {
                Ok(refresh) => news.push(News::Refresh(refresh)),
                Err(notification) => self.fail(notification, "bad ROUTE-REFRESH", news),
            },
            // RFC 6608: the subcode names the state in which the message was not expected.
            (kind, state) => {
                let subcode = match state {
                    State::OpenSent => 1,
                    State::OpenConfirm => 2,
                    State::Idle | State::Established => 3,
                };
                self.fail(Notification::new(5, subcode), &format!("{kind:?} in state {state:?}"), news);
            }
        }
    }

    fn open(&mut self, now: Instant, body: &[u8], news: &mut Vec<News>) {
        let peer = match Open::decode(body) {
            Ok(peer) => peer,
            Err(notification) => return self.fail(notification, "bad OPEN", news),
        };
        if let Some(wanted) = self.config.peer_asn.filter(|wanted| *wanted != peer.asn) {
            let why = format!("the neighbour is AS {}, expected {wanted}", peer.asn);
            return self.fail(Notification::new(2, 2), &why, news);
        }
        let negotiated = negotiate(&self.config.open, peer);
        let hold = Duration::from_secs(negotiated.hold_time_s.into());
        self.hold_deadline = (!hold.is_zero()).then(|| now + hold);
        self.keepalive_deadline = (!hold.is_zero()).then(|| now + hold / 3);
        self.negotiated = Some(Box::new(negotiated));
        self.tx.extend_from_slice(&message::keepalive());
        self.state = State::OpenConfirm;
    }

    /// When [`Session::tick`] is next to be called.
    pub fn deadline(&self) -> Option<Instant> {
        [self.hold_deadline, self.keepalive_deadline].into_iter().flatten().min()
    }

    /// Runs the timers.
    pub fn tick(&mut self, now: Instant, news: &mut Vec<News>) {
        if self.hold_deadline.is_some_and(|at| at <= now) {
            return self.fail(Notification::new(4, 0), "hold timer expired", news);
        }
        if let (Some(at), Some(n)) = (self.keepalive_deadline, &self.negotiated)
            && at <= now
        {
            self.keepalive_deadline = Some(now + Duration::from_secs(n.hold_time_s.into()) / 3);
            self.tx.extend_from_slice(&message::keepalive());
        }
    }

    /// Sends a NOTIFICATION and ends the session.
    pub fn fail(&mut self, notification: Notification, why: &str, news: &mut Vec<News>) {
        if self.state == State::Idle {
            return;
        }
        self.tx.extend_from_slice(&notification.encode());
        let why = format!("sent {notification}: {why}");
        news.push(News::NotificationSent(notification));
        self.close(why, news);
    }

    /// Ends the session without a word.
    pub fn close(&mut self, why: String, news: &mut Vec<News>) {
        if self.state == State::Idle {
            return;
        }
        self.state = State::Idle;
        self.negotiated = None;
        self.hold_deadline = None;
        self.keepalive_deadline = None;
        news.push(News::Closed(why));
    }
}

fn negotiate(own: &Open, peer: Open) -> Negotiated {
    let both =
        |wanted: fn(&Capability) -> bool| own.capabilities.iter().any(wanted) && peer.capabilities.iter().any(wanted);
    let next_hop6 = |open: &Open| {
        open.capabilities
            .iter()
            .any(|c| matches!(c, Capability::ExtendedNextHop(list) if list.contains(&(Family::IPV4_UNICAST, 2))))
    };
    let mut families: Vec<Family> = [Family::IPV4_UNICAST, Family::IPV6_UNICAST].into();
    families.retain(|f| own.has_family(*f) && peer.has_family(*f));
    let context = UpdateContext {
        as4: both(|c| matches!(c, Capability::FourOctetAs(_))),
        kind: if own.asn == peer.asn { SessionKind::Ibgp } else { SessionKind::Ebgp },
        extended_next_hop: next_hop6(own) && next_hop6(&peer),
        class_e: false,
        max_message_len: if both(|c| matches!(c, Capability::ExtendedMessage)) {
            frame::MAX_LEN_EXTENDED
        } else {
            frame::MAX_LEN
        },
    };
    Negotiated {
        context,
        families,
        hold_time_s: own.hold_time_s.min(peer.hold_time_s),
        route_refresh: both(|c| matches!(c, Capability::RouteRefresh)),
        enhanced_refresh: both(|c| matches!(c, Capability::EnhancedRouteRefresh)),
        peer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(asn: u32, capabilities: &[Capability]) -> SessionConfig {
        let open = Open {
            asn,
            hold_time_s: 9,
            router_id: Ipv4Addr::new(192, 0, 2, 1),
            capabilities: [&[Capability::FourOctetAs(asn)], capabilities].concat(),
        };
        SessionConfig { open, peer_asn: None }
    }

    /// Carries bytes between two sessions until neither has anything to say.
    fn talk(a: &mut Session, b: &mut Session, now: Instant) -> (Vec<News>, Vec<News>) {
        let (mut to_a, mut to_b) = (Vec::new(), Vec::new());
        while !a.tx.is_empty() || !b.tx.is_empty() {
            b.rx.extend_from_slice(&a.tx.split());
            a.rx.extend_from_slice(&b.tx.split());
            a.received(now, &mut to_a);
            b.received(now, &mut to_b);
        }
        (to_a, to_b)
    }

    fn pair(a: SessionConfig, b: SessionConfig, now: Instant) -> (Session, Session) {
        let (mut a, mut b) = (Session::new(a), Session::new(b));
        a.connected_now(now);
        b.connected_now(now);
        (a, b)
    }

    #[test]
    fn both_come_up_with_what_both_can() {
        let now = Instant::now();
        let all = [
            Capability::Multiprotocol(Family::IPV4_UNICAST),
            Capability::Multiprotocol(Family::IPV6_UNICAST),
            Capability::ExtendedMessage,
        ];
        let (mut a, mut b) = pair(config(70_000, &all), config(2, &all[..2]), now);
        let (to_a, _) = talk(&mut a, &mut b, now);
        assert!(matches!(to_a[..], [News::Up(_)]), "{to_a:?}");
        let n = b.negotiated().expect("b is up");
        assert_eq!(n.peer.asn, 70_000);
        assert!(n.context.as4);
        assert_eq!(n.context.max_message_len, frame::MAX_LEN);
        assert_eq!(n.families, [Family::IPV4_UNICAST, Family::IPV6_UNICAST]);
    }

    #[test]
    fn keepalives_flow_and_silence_ends_the_session() {
        let start = Instant::now();
        let (mut a, mut b) = pair(config(1, &[]), config(2, &[]), start);
        talk(&mut a, &mut b, start);
        let later = start + Duration::from_secs(3);
        assert_eq!(a.deadline(), Some(later));
        let mut news = Vec::new();
        a.tick(later, &mut news);
        talk(&mut a, &mut b, later);
        assert_eq!(b.keepalives, 1);
        b.tick(start + Duration::from_secs(11), &mut news);
        assert!(news.is_empty(), "the KEEPALIVE moved the deadline");
        b.tick(start + Duration::from_secs(12), &mut news);
        assert!(matches!(&news[..], [News::NotificationSent(n), News::Closed(_)] if n.code == 4));
        let (to_a, _) = talk(&mut a, &mut b, later);
        assert!(matches!(&to_a[..], [News::NotificationReceived(n), News::Closed(_)] if n.code == 4));
    }

    #[test]
    fn another_as_than_the_expected_is_refused() {
        let now = Instant::now();
        let (mut a, mut b) = pair(SessionConfig { peer_asn: Some(3), ..config(1, &[]) }, config(2, &[]), now);
        let (to_a, _) = talk(&mut a, &mut b, now);
        assert!(matches!(&to_a[..], [News::NotificationSent(n), News::Closed(_)] if (n.code, n.subcode) == (2, 2)));
    }
}
