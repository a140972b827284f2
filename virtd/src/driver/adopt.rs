//! What an earlier worker has left: its connections with peers, and the journal that says what they
//! are. KEEPALIVEs leave before anything else is done; then the core reads the journal, and what the
//! kernel had not taken of what peers were told is queued again.

use super::handover::Left;
use super::pulse::Pulse;
use super::*;
use broker::adopt::{Adoption, Kept, Remedy, Said};
use broker::witness::LastWord;
use bytes::BytesMut;
use journal::{Opened, Record};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::wait::{WaitStatus, waitpid};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use virtd_config::OpenMode;
use virtd_linux::by_name;
use virtd_linux::journal::{Last, Place, Progress, Refused};
use virtd_master::message::Died;
use wire::bgp::Notification;
use wire::bgp::message;

/// After so many faults of its own within a minute a worker does not go on with what there was.
const MAX_FAULTS: u32 = 3;
/// Messages of one turn that are given another meaning; where there are more, it is not they.
const MAX_REMEDIES: usize = 4;

/// One connection, as the journal has it.
#[derive(Default)]
struct Told {
    opened: Option<Opened>,
    /// Octets that it was given.
    given: u64,
    /// Of them the kernel has not taken so many; they are the last ones of `tail`.
    taken: u64,
    tail: BytesMut,
}

impl Driver {
    /// A connection with a peer stands: what goes over it is kept from now on.
    pub(super) fn keep(&mut self, conn: ConnId, dialled: bool, local: SocketAddr, remote: SocketAddr) {
        let Some(p) = self.peers.get_mut(&conn) else { return };
        p.ends = Some((dialled, local, remote));
        let Some(journal) = self.journal.as_mut() else { return };
        let Some(place) = journal.open(conn.0) else { return };
        p.stream.kept = Some(stream::Kept { conn: conn.0, place });
        let opened = Opened { fd: p.stream.io.as_raw_fd(), dialled, local, remote };
        Record::Opened { conn: conn.0, opened }.append_to(journal);
    }

    /// Goes on where an earlier worker has ended, or begins a journal.
    pub(super) fn take_over(&mut self, estate: Estate) {
        if self.config.open == OpenMode::Native {
            if let Some(left) = estate.native {
                self.go_on_with(left);
            }
            return;
        }
        let said = estate.last.and_then(|last| last.said);
        match estate.journal {
            // Where it is known what it died of, something is done about that.
            Ok(Some(journal)) if estate.faults >= MAX_FAULTS && !is_known(&journal, said.as_ref()) => {
                self.let_down(journal, &estate.connections);
            }
            Ok(Some(journal)) => self.adopt(journal, estate.connections, estate.alive),
            Ok(None) => {}
            Err(e) => self.alarm("not-taken-over", format!("the sessions of the virtd before end: {e}")),
        }
        if let Some(said) = said {
            self.broker.leg_killed(self.now, &said);
        }
        match Progress::create() {
            Ok(progress) => self.broker.set_witness(Box::new(progress)),
            Err(e) => log::warn!("should this process die, it will not be known what it was doing: {e}"),
        }
        if self.journal.is_none() {
            match Journal::create() {
                Ok(journal) => self.journal = Some(journal),
                Err(e) => {
                    let text = format!("no journal can be kept ({e}): virtd's own end would be that of all sessions");
                    self.alarm("no-journal", text);
                }
            }
        }
    }

    /// What the former workers have left kills each next one: it is given up.
    fn let_down(&mut self, journal: Journal, connections: &[OwnedFd]) {
        let open: Vec<(u64, Place)> = journal.places().map(|(conn, place, _)| (conn, place)).collect();
        for record in journal.segments().into_iter().flat_map(journal::read).map_while(Result::ok) {
            let Record::Opened { conn, opened } = record else { continue };
            let place = open.iter().find(|(c, _)| *c == conn).map(|(_, place)| *place);
            let fd = connections.iter().find(|fd| fd.as_raw_fd() == opened.fd);
            // Whole messages have left: another may follow.
            if let Some((_, fd)) = place.filter(|place| journal.may_keep_alive(*place)).zip(fd) {
                let _ = net::send(fd, &Notification::new(6, 0).encode());
            }
        }
        // What is no stream harms nobody: whom a majority has ended, whose messages kill.
        let mut adoption = self.broker.adoption(self.now);
        for record in journal.segments().into_iter().flat_map(journal::read).map_while(Result::ok) {
            if let Record::Standing { .. } = record {
                adoption.take(&record);
            }
        }
        let _ = adoption.finish();
        self.broker.forgive_several();
        let text = format!(
            "virtd has died {MAX_FAULTS} times within a minute: {} sessions are given up, since going on with them may be what kills it; please report it, with the core file",
            connections.len()
        );
        self.alarm("not-taken-over", text);
    }

    pub(super) fn alarm(&mut self, kind: &'static str, text: String) {
        let event = Event::new(self.now, kind, Severity::Alarm, text);
        self.tell(event);
    }

    fn adopt(&mut self, mut journal: Journal, mut fds: Vec<OwnedFd>, alive: Vec<OwnedFd>) {
        let pulse = Pulse::begin(alive);
        let (mut streams, mut adoption) = (HashMap::<u64, Told>::new(), self.broker.adoption(self.now));
        for (conn, _, taken) in journal.places() {
            streams.insert(conn, Told { taken, ..Told::default() });
        }
        let mut damage = None;
        know_remedies(&journal, &mut adoption);
        let (done, begun) = split(journal.segments(), journal.begun());
        for record in done.into_iter().flat_map(journal::read) {
            match record {
                Ok(record) => {
                    note(&record, &mut streams);
                    adoption.take(&record);
                }
                Err(e) => damage = Some(e),
            }
        }
        let found = try_first(&mut adoption, begun);
        for record in journal::read(begun).map_while(Result::ok) {
            note(&record, &mut streams);
            adoption.take(&record);
        }
        let kept = adoption.finish();
        #[cfg(debug_assertions)]
        if let Some(ms) = std::env::var("HV_TEST_READS_FOR_MS").ok().and_then(|ms| ms.parse().ok()) {
            std::thread::sleep(Duration::from_millis(ms)); // a test wants a long journal
        }
        drop(pulse);
        for ((conn, message), remedy) in found {
            Record::Remedied { conn: conn.0, message, reset: remedy == Remedy::Reset }.append_to(&mut journal);
        }
        journal.is_done();
        let damage = damage.map(|e| format!("the journal is damaged, some sessions may end: {e}"));
        damage.into_iter().for_each(|text| self.alarm("not-taken-over", text));
        let last = streams.keys().copied().max().unwrap_or(0);
        // The driver's ids are odd.
        self.next_id = self.next_id.max(last.next_multiple_of(2) + 1);
        self.journal = Some(journal);
        let mut stand = 0;
        for kept in kept {
            let stream = streams.remove(&kept.conn.0).unwrap_or_default();
            stand += usize::from(self.adopt_connection(kept, stream, &mut fds));
        }
        self.close_places();
        let text = format!("{stand} sessions of the virtd before go on");
        let event = Event::new(self.now, "taken-over", Severity::Info, text);
        self.tell(event);
    }

    /// Of connections that are no more the journal says so.
    fn close_places(&mut self) {
        let Some(journal) = &mut self.journal else { return };
        for (conn, place, _) in journal.places().collect::<Vec<_>>() {
            if !self.peers.contains_key(&ConnId(conn)) {
                Record::Closed { conn }.append_to(journal);
                journal.close(place);
            }
        }
    }

    /// Goes on with a connection. Whether its session stands.
    fn adopt_connection(&mut self, kept: Kept, stream: Told, fds: &mut Vec<OwnedFd>) -> bool {
        let Kept { conn, stands, farewell, rx } = kept;
        let socket = stream.opened.as_ref().and_then(|opened| peer_socket(opened, fds));
        let added = socket.is_some_and(|socket| self.add_peer(conn, socket, false).is_ok());
        let place = self.journal.as_ref().and_then(|journal| journal.place_of(conn.0));
        let Some((p, (place, _))) = self.peers.get_mut(&conn).filter(|_| added).zip(place) else {
            if stands {
                self.broker.handle(self.now, Input::PeerClosed { conn, errno: libc::EBADF });
            }
            return false;
        };
        p.stream.rx = rx;
        p.ends = stream.opened.map(|o| (o.dialled, o.local, o.remote));
        p.stream.kept = Some(stream::Kept { conn: conn.0, place });
        let unsent = stream.given.saturating_sub(stream.taken).min(stream.tail.len() as u64) as usize;
        let tail = stream.tail.freeze();
        p.stream.push(tail.slice(tail.len() - unsent..));
        if let Some(journal) = &self.journal {
            journal.set_given(place, stream.given);
            if stands {
                journal.stands(place);
            }
        }
        if let Some(farewell) = farewell {
            if let Some(journal) = &mut self.journal {
                journal.tells(place, conn.0, &farewell);
            }
            if let Some(p) = self.peers.get_mut(&conn) {
                p.stream.push(farewell);
            }
        }
        self.written.push(Source::Peer(conn));
        // What came meanwhile makes no edge.
        self.again.extend(self.peers.get(&conn).map(|p| p.token));
        if !stands {
            self.close_peer(conn, false);
        }
        stands
    }
}

/// Whether it was the message of an instance alone that the last worker died of.
fn is_known(journal: &Journal, said: Option<&LastWord>) -> bool {
    let records = || journal.segments().into_iter().flat_map(journal::read).map_while(Result::ok);
    said.is_some_and(|said| said.is_its_own(records()))
}

/// What has killed a virtd once would do so again: that is known before the first record is taken.
fn know_remedies(journal: &Journal, adoption: &mut Adoption<'_>) {
    for record in journal.segments().into_iter().flat_map(journal::read).map_while(Result::ok) {
        if let Record::Remedied { conn, message, reset } = record {
            let remedy = if reset { Remedy::Reset } else { Remedy::Withdraw };
            adoption.remedy((ConnId(conn), message), remedy, false);
        }
    }
}

/// What the former worker has seen through, and what it had only begun with.
fn split(mut segments: Vec<&[u8]>, begun: Option<usize>) -> (Vec<&[u8]>, &[u8]) {
    let last = segments.pop().unwrap_or_default();
    let (done, begun) = begun.and_then(|at| last.split_at_checked(at)).unwrap_or((last, &[]));
    segments.push(done);
    (segments, begun)
}

/// Has a copy of this process do what the former worker had begun with: a message that kills the copy
/// is given another meaning, and the rest is tried again. What was found.
fn try_first(adoption: &mut Adoption<'_>, begun: &[u8]) -> BTreeMap<Said, Remedy> {
    let mut found = BTreeMap::new();
    while !begun.is_empty() && found.len() < MAX_REMEDIES {
        let Some(at) = dies_at(adoption, begun) else { break };
        log::error!("a message that the worker before had begun with kills this one, too: {at:?}");
        let remedy = if found.contains_key(&at) { Remedy::Reset } else { Remedy::Withdraw };
        adoption.remedy(at, remedy, true);
        if found.insert(at, remedy) == Some(Remedy::Reset) {
            break; // it is not the message
        }
    }
    found
}

/// The message at which a copy of this process dies, if it does.
fn dies_at(adoption: &mut Adoption<'_>, begun: &[u8]) -> Option<Said> {
    let progress = File::from(memfd_create(c"virtd-trial", MFdFlags::MFD_CLOEXEC).ok()?);
    let copy = sys::fork_alone(&progress, |file| {
        let Ok(file) = file.try_clone() else { return true };
        adoption.watch(move |(conn, message)| {
            let _ = file.write_all_at(&conn.0.to_ne_bytes(), 0);
            let _ = file.write_all_at(&message.to_ne_bytes(), 8);
        });
        journal::read(begun).map_while(Result::ok).for_each(|record| adoption.take(&record));
        true
    });
    match waitpid(copy.ok()?, None) {
        Ok(WaitStatus::Exited(_, 0)) => None,
        _ => {
            let (mut conn, mut message) = ([0; 8], [0; 8]);
            progress.read_exact_at(&mut conn, 0).ok()?;
            progress.read_exact_at(&mut message, 8).ok()?;
            Some((ConnId(u64::from_ne_bytes(conn)), u64::from_ne_bytes(message)))
        }
    }
}

/// What a record says of what is to be sent.
fn note(record: &Record<'_>, streams: &mut HashMap<u64, Told>) {
    let mut sent = |conn: &u64, octets: &[u8], given: &dyn Fn(u64) -> u64| {
        let Some(stream) = streams.get_mut(conn) else { return };
        stream.given = given(stream.given);
        stream.tail.extend_from_slice(octets);
        let unsent = stream.given.saturating_sub(stream.taken);
        let known = stream.tail.len().saturating_sub(usize::try_from(unsent).unwrap_or(usize::MAX));
        let _ = stream.tail.split_to(known);
    };
    match record {
        Record::Opened { conn, opened } => {
            if let Some(stream) = streams.get_mut(conn) {
                stream.opened = Some(opened.clone());
            }
        }
        Record::ToPeer { conn, octets } => sent(conn, octets, &|given| given + octets.len() as u64),
        Record::Unsent { conn, total, octets } => sent(conn, octets, &|_| *total),
        _ => {}
    }
}

/// The socket of a connection, if it is that of this peer.
fn peer_socket(opened: &Opened, fds: &mut Vec<OwnedFd>) -> Option<std::net::TcpStream> {
    let at = fds.iter().position(|fd| fd.as_raw_fd() == opened.fd)?;
    let socket = Socket::from(fds.swap_remove(at));
    // One that the peer has ended meanwhile has no address any more; reading says so.
    let is_its = |addr: socket2::SockAddr| addr.as_socket().is_none_or(|addr| addr == opened.remote);
    let fits = sys::domain(&socket).is_some_and(|d| d != libc::AF_UNIX) && socket.peer_addr().map_or(true, is_its);
    fits.then(|| socket.into())
}

/// What an earlier worker has left: nothing, where it was orderly or the first.
pub struct Estate {
    journal: Result<Option<Journal>, Refused>,
    connections: Vec<OwnedFd>,
    /// Sockets of root's that listen by a name: the shim's is among them.
    pub(super) by_name: Vec<OwnedFd>,
    /// So many workers have died within a minute by their own fault.
    faults: u32,
    /// The connections that can take a KEEPALIVE, once more, for [`Pulse`].
    alive: Vec<OwnedFd>,
    /// What the last one was doing when it died by its own fault.
    last: Option<Last>,
    /// With `open = "native"`, what the program before has left.
    native: Option<Result<Left>>,
}

impl Estate {
    /// Looks through what was inherited. KEEPALIVEs leave at once on every connection that can take
    /// one, and go on leaving, since reading the journal takes a while. What is of no use is closed:
    /// the port is free for new listening sockets then.
    pub fn of(mut fds: Vec<OwnedFd>) -> Estate {
        let last = Progress::of_the_last(&mut fds);
        let native = Left::inherit(&mut fds);
        let mut journal = Journal::inherit(&mut fds);
        let (mut connections, mut alive) = (Vec::new(), Vec::new());
        if let Ok(Some(journal)) = &mut journal {
            let mut numbers = HashMap::new();
            for record in journal.segments().into_iter().flat_map(journal::read).map_while(Result::ok) {
                if let Record::Opened { conn, opened } = record {
                    numbers.insert(conn, opened.fd);
                }
            }
            for (conn, place, _) in journal.places().collect::<Vec<_>>() {
                let number = numbers.get(&conn);
                let Some(at) = fds.iter().position(|fd| Some(&fd.as_raw_fd()) == number) else { continue };
                let fd = fds.swap_remove(at);
                keep_alive(journal, conn, place, &fd);
                if journal.may_keep_alive(place) {
                    alive.extend(fd.try_clone());
                }
                connections.push(fd);
            }
        }
        let (by_name, fds) = fds.into_iter().partition(by_name::is_roots);
        crate::worker::let_go(fds);
        Estate { journal, connections, by_name, faults: 0, alive, last, native }
    }

    /// After a worker that died so; what it was doing is added to that.
    #[must_use]
    pub fn after(self, died: Option<&mut Died>) -> Estate {
        let Some(died) = died else { return Estate { last: None, ..self } };
        // Whoever was killed has died of nothing that it was doing.
        let last = self.last.filter(|_| died.by_fault);
        if let Some(last) = &last {
            died.how.push_str(&format!(" while {last}"));
        }
        Estate { faults: died.faults, last, ..self }
    }
}

fn keep_alive(journal: &mut Journal, conn: u64, place: Place, fd: &OwnedFd) {
    if journal.may_keep_alive(place) {
        let keepalive = message::keepalive();
        journal.tells(place, conn, &keepalive);
        // What is not taken waits with the rest.
        let _ = journal.send(fd, place, &[std::io::IoSlice::new(&keepalive)]);
    }
}
