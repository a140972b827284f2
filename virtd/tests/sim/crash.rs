//! virtd dies and another takes its place: all that is left is the journal, the connections with the
//! peers, and the instances, which find their legs closed.

use super::*;
use journal::{Opened, Record};

impl Sim {
    pub(super) fn opened(&mut self, conn: ConnId, remote: SocketAddr) {
        let local = SocketAddr::new(LOCAL.into(), 179);
        let opened = Opened { fd: 0, dialled: false, local, remote };
        Record::Opened { conn: conn.0, opened }.append_to(&mut self.journal);
    }

    /// A peer sends something that is not read yet.
    pub fn comes_unread(&mut self, n: u8, bytes: &[u8]) {
        self.held = true;
        self.peer_sends(n, bytes);
        self.held = false;
    }

    /// So many turns, at the end of which peers' sockets take what they are given, or do not.
    pub fn turns(&mut self, turns: usize, blocked: bool) {
        self.blocked = blocked;
        (0..turns).for_each(|_| self.turn());
        self.blocked = false;
    }

    /// The first octets of peers that were not read are read, and nothing is done with them.
    pub fn reads_its_last(&mut self) {
        let is_peers = |came: &Came| matches!(came, Came::Octets(To::Peer(_), _));
        for _ in 0..2 {
            let Some(at) = self.inbox.iter().position(is_peers) else { return };
            if let Some(Came::Octets(To::Peer(conn), octets)) = self.inbox.remove(at) {
                Record::FromPeer { conn: conn.0, octets: &octets }.append_to(&mut self.journal);
            }
        }
    }

    /// Peer `n` ends its connection.
    pub fn peer_leaves(&mut self, n: u8) {
        let Some(p) = self.peers.get_mut(&n) else { return };
        let Some(conn) = p.conn.take() else { return };
        p.established = false;
        Record::Closed { conn: conn.0 }.append_to(&mut self.journal);
        self.input(Input::PeerClosed { conn, errno: 0 });
    }

    /// virtd dies between two turns, and the next goes on with its journal. `image`: first the
    /// journal is written anew in short.
    pub fn virtd_dies(&mut self, image: bool) {
        self.virtd_dies_and_instances_return(image, &BTreeSet::new());
    }

    /// The same, where these instances do not come back before they are started
    /// ([`Sim::restart_instance`]).
    pub fn virtd_dies_and_instances_return(&mut self, image: bool, late: &BTreeSet<usize>) {
        self.turns_left = None;
        let before = (self.core.digest(), self.core.census());
        if image {
            self.write_journal_anew();
        }
        // What has come and was not read is still in the sockets of the peers; the legs are gone.
        self.inbox.retain(|came| matches!(came, Came::Octets(To::Peer(_), _)));
        self.queued.retain(|to, _| matches!(to, To::Peer(_)));
        self.writing.retain(|to| matches!(to, To::Peer(_)));
        self.deferred = Deferred::default();
        self.core = Core::new(&self.config, self.now);
        let mut adoption = self.core.adoption(self.now);
        for record in journal::read(&self.journal) {
            adoption.take(&record.expect("a journal"));
        }
        for kept in adoption.finish() {
            let there = self.peers.values().any(|p| p.conn == Some(kept.conn) && p.established);
            assert_eq!(kept.stands, there, "{kept:?}");
            assert!(kept.rx.is_empty(), "the simulation's peers send whole messages");
            for p in self.peers.values_mut().filter(|p| !kept.stands && p.conn == Some(kept.conn)) {
                p.conn = None;
                Record::Closed { conn: kept.conn.0 }.append_to(&mut self.journal);
            }
        }
        if let Some(said) = self.died_of.take() {
            self.core.leg_killed(self.now, &said);
        }
        // A journal may end with what was read and not seen through yet.
        if image {
            assert_eq!((self.core.digest(), self.core.census()), before, "the next virtd is what this one was");
        }
        self.tell_links();
        for i in 0..self.instances.len() {
            let SimInstance { fault, listening, .. } = std::mem::take(&mut self.instances[i]);
            if listening && !late.contains(&i) {
                self.start_instance_with(i, fault);
            } else {
                self.instances[i].fault = fault;
            }
        }
    }

    /// The journal as an image of what stands.
    pub fn write_journal_anew(&mut self) {
        let mut image = Vec::new();
        for (conn, n) in self.peers.iter().filter_map(|(n, p)| Some((p.conn?, *n))) {
            let (local, mut remote) = (SocketAddr::new(LOCAL.into(), 179), peer_addr(n));
            remote.set_port(40000);
            let opened = Opened { fd: 0, dialled: false, local, remote };
            Record::Opened { conn: conn.0, opened }.append_to(&mut image);
        }
        self.core.write_image(&mut image);
        self.journal = image;
    }
}
