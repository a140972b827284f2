//! What a turn is run against in the simulation.

use super::*;
use broker::io::{Micros, Note};
use journal::Record;

impl Sim {
    /// Gives the core what has come, as much as is read in one turn; whether anything had.
    pub(super) fn read(&mut self) {
        let n = self.inbox.len().min(self.batch);
        for came in self.inbox.drain(..n).collect::<Vec<_>>() {
            let now = self.now;
            match came {
                Came::Octets(from, bytes) => {
                    if let To::Peer(conn) = from {
                        Record::FromPeer { conn: conn.0, octets: &bytes }.append_to(&mut self.journal);
                    }
                    let mut buf = BytesMut::from(bytes);
                    let buf = &mut buf;
                    self.core.handle(
                        now,
                        match from {
                            To::Peer(conn) => Input::PeerBytes { conn, buf },
                            To::Leg(leg) => Input::LegBytes { leg, buf },
                        },
                    );
                }
                Came::Route(i, prefix) => self.netlink_asks(i, prefix),
                Came::Else(input) => self.core.handle(now, input),
            }
        }
    }

    fn queue(&mut self, to: To, bytes: Bytes) {
        self.queued.entry(to).or_default().push(bytes);
    }

    fn list(&mut self, to: To) {
        if !self.writing.contains(&to) {
            self.writing.push(to);
        }
    }
}

impl World for Sim {
    fn core(&mut self) -> &mut Core {
        &mut self.core
    }

    fn now(&self) -> Micros {
        self.now
    }

    fn is_late(&self) -> bool {
        self.hurried
    }

    fn has_unread(&mut self) -> bool {
        false
    }

    fn deferred(&mut self) -> &mut Deferred {
        &mut self.deferred
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Event(e) => self.events.push(*e),
            Output::OfferLeg { leg, instance, peer, .. } => self.leg_starts(leg, usize::from(instance.0), peer),
            Output::SendLeg { leg, bytes } => {
                self.queue(To::Leg(leg), bytes);
                self.list(To::Leg(leg));
            }
            Output::SendLegLater { leg, bytes } => {
                self.told_later.extend(self.instances.iter().position(|i| i.legs.iter().any(|l| l.id == leg.0)));
                self.queue(To::Leg(leg), bytes);
                self.deferred.write_to(leg);
            }
            Output::SendPeer { conn, bytes } => {
                Record::ToPeer { conn: conn.0, octets: &bytes }.append_to(&mut self.journal);
                self.queue(To::Peer(conn), bytes);
                self.list(To::Peer(conn));
            }
            Output::CloseLeg { leg } => {
                self.write_one(To::Leg(leg));
                let close = |(style, i): (usize, &mut SimInstance)| i.close(style, leg);
                let said: Vec<_> = self.instances.iter_mut().enumerate().flat_map(close).collect();
                said.into_iter().for_each(|(id, bytes)| self.send_leg(id, &bytes));
            }
            Output::Dial { conn, .. } => self.dials.push(conn),
            Output::LegRefused { leg, .. } => self.refused.push(leg),
            Output::Standing(whose) => whose.append_to(&mut self.journal),
            Output::Established { .. } => {}
            Output::Refreshed { conn } => Record::Refreshed { conn: conn.0 }.append_to(&mut self.journal),
            Output::ClosePeer { conn, .. } => {
                Record::Closed { conn: conn.0 }.append_to(&mut self.journal);
                self.write_one(To::Peer(conn));
                self.hung_up.push(conn);
                for p in self.peers.values_mut().filter(|p| p.conn == Some(conn)) {
                    (p.conn, p.established) = (None, false);
                    p.closed += 1;
                }
            }
            Output::Seat { instance, seat: Occupant::Taken(_) } => {
                let places = self.instances.len().max(usize::from(instance.0) + 1);
                self.instances.resize_with(places, SimInstance::default);
            }
            Output::Seat { instance, seat: Occupant::Empty } => {
                let i = usize::from(instance.0);
                if self.instances[i].listening {
                    self.kill_instance(i);
                }
            }
            Output::Order { instance, order } => self.orders.push((instance.0, order)),
            Output::RestartNeighbour { instance, peer } => self.nudges.push((instance.0, peer)),
            Output::Record(record) => self.records.push(*record),
            Output::Fib(changes) => self.kernel_takes(changes),
            other => panic!("the simulation has nobody to do {other:?}"),
        }
    }

    /// Every instance has its answer when it has asked.
    fn answer(&mut self) {}

    /// No instance here looks at its own routes.
    fn notify(&mut self, _: Vec<(InstanceId, Note)>) {}

    fn write_to(&mut self, leg: LegId) {
        self.list(To::Leg(leg));
    }

    fn is_written(&self) -> bool {
        self.blocked || self.writing.is_empty()
    }

    fn write(&mut self) {
        if self.blocked {
            return;
        }
        for to in std::mem::take(&mut self.writing) {
            self.write_one(to);
        }
    }
}

impl Sim {
    /// Each message is taken at once, one after the other.
    fn write_one(&mut self, to: To) {
        for bytes in self.queued.remove(&to).unwrap_or_default() {
            match to {
                To::Peer(conn) => {
                    self.peer_hears(conn, &bytes);
                    if !self.by_hand.contains(&conn) {
                        self.core.handle(self.now, Input::PeerDrained { conn, queued: 0, taken: bytes.len() });
                    }
                }
                To::Leg(leg) => {
                    self.leg_hears(leg, &bytes);
                    self.core.handle(self.now, Input::LegDrained { leg, queued: 0 });
                }
            }
        }
    }
}
