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

    /// virtd dies between two turns, and the next goes on with its journal. `image`: first the
    /// journal is written anew in short.
    pub fn virtd_dies(&mut self, image: bool) {
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
        }
        assert_eq!((self.core.digest(), self.core.census()), before, "the next virtd is what this one was");
        for i in 0..self.instances.len() {
            let SimInstance { fault, listening, .. } = std::mem::take(&mut self.instances[i]);
            if listening {
                self.start_instance_with(i, fault);
            }
        }
    }

    /// The journal as an image of what stands.
    pub fn write_journal_anew(&mut self) {
        let mut image = Vec::new();
        for (conn, n) in self.peers.iter().filter_map(|(n, p)| Some((p.conn.filter(|_| p.established)?, *n))) {
            let (local, mut remote) = (SocketAddr::new(LOCAL.into(), 179), peer_addr(n));
            remote.set_port(40000);
            let opened = Opened { fd: 0, dialled: false, local, remote };
            Record::Opened { conn: conn.0, opened }.append_to(&mut image);
        }
        self.core.write_image(&mut image);
        self.journal = image;
    }
}
