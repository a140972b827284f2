//! The kernel's routes read as a whole and compared with what is wanted: at the start for what an
//! earlier virtd left, then now and then, after a link or an address has gone (IPv4 routes go with
//! it without a word), and where notifications were lost.
//!
//! A scan takes turns with the batches of writes, a datagram at a time, so that no vote waits for
//! it. A key that is written meanwhile is left out of the comparison. All routes are read, not only
//! ours: a route of another protocol with our metric decides how its key is written.

use super::add;
use super::socket::Received;
use super::table::{Damage, Holding, is_written_as};
use super::thread::Worker;
use anyhow::{Result, anyhow, bail};
use hashbrown::HashSet;
use std::io;
use wire::netlink::consts::*;
use wire::netlink::fib::{FibKey, FibRoute};
use wire::netlink::route::RTMSG_LEN;
use wire::netlink::{Frame, Frames, RouteMessage};

/// Times that a dump is begun anew because the kernel says that it was disturbed; then what it gave
/// counts, but for absences.
const MAX_RESTARTS: u8 = 5;

/// What a scan is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// It is time again. IPv6 routes that seem to be missing while others are being written are let
    /// be: the kernel goes on by counting then and may leave some out, and when it removes IPv6
    /// routes it says so.
    Routine,
    /// Something has gone, or its notification was lost: where IPv6 was disturbed, it is read again
    /// alone.
    Thorough,
    /// IPv6 only, and nothing is written meanwhile.
    Alone,
}

/// A scan under way.
pub struct Scan {
    /// Its number, by which [`super::table::Entry::seen`] tells what it has come across.
    pub number: u8,
    /// IPv6 routes were written or changed since it began: the kernel then goes on by counting, and
    /// can leave some out.
    pub written_v6: bool,
    family: u8,
    seq: u32,
    restarts: u8,
    /// The kernel said NLM_F_DUMP_INTR once too often: what was not seen may be there.
    incomplete_v4: bool,
    incomplete_v6: bool,
    /// What it is for.
    pub why: Why,
    interrupted: bool,
    foreign: HashSet<FibKey>,
    strays: Vec<(FibKey, u32)>,
}

impl Scan {
    /// A foreign route with our metric was seen or notified.
    pub fn add_foreign(&mut self, key: FibKey) {
        self.foreign.insert(key);
    }

    /// It went again.
    pub fn remove_foreign(&mut self, key: &FibKey) {
        self.foreign.remove(key);
    }
}

impl Worker {
    /// The metric that our routes of a family have in the kernel.
    pub(super) fn metric_of(&self, family: u8) -> u32 {
        match self.config.metric {
            0 if family == AF_INET6 => 1024,
            metric => metric,
        }
    }

    /// Begins to read all routes, unless that is being done.
    pub(super) fn begin_scan(&mut self, why: Why) {
        if self.scan.is_some() {
            return;
        }
        self.scan_number = self.scan_number.wrapping_add(1);
        let alone = why == Why::Alone;
        self.gathered.begin(alone);
        let family = if alone { AF_INET6 } else { AF_INET };
        let mut scan = Scan {
            number: self.scan_number,
            written_v6: false,
            family,
            seq: 0,
            restarts: 0,
            incomplete_v4: alone,
            incomplete_v6: false,
            why,
            interrupted: false,
            foreign: self.foreign.iter().filter(|key| alone && key.family() == AF_INET).copied().collect(),
            strays: Vec::new(),
        };
        match self.sockets.dumper.ask_dump(RTM_GETROUTE, family, RTMSG_LEN) {
            Ok(seq) => {
                scan.seq = seq;
                self.scan = Some(scan);
            }
            Err(e) => self.scan_failed(&anyhow!(e)),
        }
    }

    /// Gives up a scan. The reconciliation after the next, or a lost notification, begins another.
    fn scan_failed(&mut self, e: &anyhow::Error) {
        log::warn!("the kernel's routes cannot be read: {e:#}");
        self.scan = None;
        // The old socket may be in the middle of a dump.
        if let Err(e) = self.sockets.reopen_dumper() {
            log::error!("no netlink socket for dumps: {e}");
        }
    }

    /// Reads one datagram of the scan that is under way.
    pub(super) fn step_scan(&mut self) {
        let Some(mut scan) = self.scan.take() else { return };
        match self.read_datagram(&mut scan) {
            Ok(false) => self.scan = Some(scan),
            Ok(true) => match self.next_family(&mut scan) {
                Ok(true) => self.scan = Some(scan),
                Ok(false) => self.finish_scan(scan),
                Err(e) => self.scan_failed(&anyhow!(e)),
            },
            Err(e) => self.scan_failed(&e),
        }
    }

    /// True at the end of the dump.
    fn read_datagram(&mut self, scan: &mut Scan) -> Result<bool> {
        // Out of the socket while it is read, so that the worker can be changed meanwhile.
        let bytes = match self.sockets.dumper.receive()? {
            Received::Datagram(bytes) => bytes.to_vec(),
            // A dump goes on whenever something of it is taken.
            Received::Nothing => bail!("the dump stopped before its end"),
            Received::Lost => bail!("a part of the dump was lost"),
        };
        for frame in Frames::new(&bytes) {
            let frame = frame?;
            if frame.header.seq != scan.seq {
                continue;
            }
            scan.interrupted |= frame.header.flags & NLM_F_DUMP_INTR != 0;
            match (frame.header.kind, frame.errno()) {
                (NLMSG_DONE, None | Some(0)) => return Ok(true),
                (NLMSG_DONE | NLMSG_ERROR, errno) => bail!(io::Error::from_raw_os_error(errno.unwrap_or(libc::EIO))),
                (RTM_NEWROUTE, _) => self.scanned(scan, &frame),
                _ => {}
            }
        }
        Ok(false)
    }

    /// Goes on with the next dump, or with the same once more; false where there is none.
    fn next_family(&mut self, scan: &mut Scan) -> io::Result<bool> {
        let again = std::mem::take(&mut scan.interrupted);
        if again && scan.restarts < MAX_RESTARTS {
            scan.restarts += 1;
            let family = scan.family;
            self.gathered.forget(|key| key.family() != family);
        } else if scan.family == AF_INET {
            (scan.family, scan.incomplete_v4) = (AF_INET6, again);
        } else {
            scan.incomplete_v6 = again;
            return Ok(false);
        }
        scan.seq = self.sockets.dumper.ask_dump(RTM_GETROUTE, scan.family, RTMSG_LEN)?;
        Ok(true)
    }

    fn scanned(&mut self, scan: &mut Scan, frame: &Frame<'_>) {
        // What wire cannot read is not ours: we could not have written it.
        let Ok(message) = RouteMessage::parse(frame.payload) else { return };
        if message.flags & RTM_F_CLONED != 0 {
            return;
        }
        let Ok(key) = FibKey::from_message(&message) else { return };
        let metric = message.priority.unwrap_or(0);
        let our_metric = metric == self.metric_of(message.family);
        if message.protocol != self.config.protocol {
            self.gathered.add(&message);
            if our_metric {
                scan.foreign.insert(key);
            }
            return;
        }
        if !our_metric {
            scan.strays.push((key, metric));
            return;
        }
        let known = self.table.get(&key);
        if known.is_some_and(|entry| entry.seen == scan.number) {
            return;
        }
        // A hop that the kernel shows and wire refuses cannot be ours either; it is replaced as
        // something different.
        let found = FibRoute::from_message(&message, |_| None).map(|route| route.to_bytes()).unwrap_or_default();
        let have = known.map(|entry| entry.have).filter(|id| !id.is_none());
        let same = have.is_some_and(|id| is_written_as(&key, self.table.bytes(id), &found));
        self.table.entry(key).seen = scan.number;
        if !same {
            self.found(key, &found, have.is_some());
        }
    }

    /// Ours by protocol and metric, and not what the table says.
    fn found(&mut self, key: FibKey, found: &[u8], expected: bool) {
        if found.is_empty() {
            self.table.entry(key).holding = Holding::Unsure;
        } else {
            self.table.set_have(key, found);
        }
        let want = self.table.entry(key).want;
        if self.leftovers_unread && !expected {
            self.table.entry(key).holding = Holding::Leftover;
            self.leftovers += 1;
            if want.is_none() {
                return;
            }
        } else if want.is_none() {
            self.damages.insert(key, Damage::Unwanted);
        } else if !is_written_as(&key, self.table.bytes(want), found) {
            self.damages.insert(key, Damage::Different);
        }
        self.table.queue_repair(key);
    }

    /// What was not seen is not there; whatever is not as wanted is tried again.
    fn finish_scan(&mut self, scan: Scan) {
        add(&self.counters.scans, 1);
        let disturbed_v6 = (scan.written_v6 && scan.why != Why::Alone) || scan.incomplete_v6;
        let (mut gone, mut due) = (Vec::new(), Vec::new());
        for (key, entry) in self.table.iter_mut() {
            let readable = if key.family() == AF_INET6 { !disturbed_v6 } else { !scan.incomplete_v4 };
            if !entry.have.is_none() && entry.seen != scan.number && readable {
                gone.push(*key);
            } else if entry.want != entry.have && !entry.want.is_none() {
                due.push(*key);
            }
        }
        for key in gone {
            self.table.set_have(key, &[]);
            let entry = self.table.entry(key);
            entry.holding = Holding::Known;
            if !entry.want.is_none() && !entry.vote_queued {
                self.damages.insert(key, Damage::Missing);
            }
            self.table.queue_repair(key);
        }
        due.into_iter().for_each(|key| self.table.queue_repair(key));
        self.foreign = scan.foreign;
        if self.leftovers_unread {
            self.leftovers_unread = false;
            self.leftovers += scan.strays.len() as u64;
            if self.leftovers > 0 {
                log::info!("{} routes of an earlier virtd are in the kernel", self.leftovers);
            }
            self.strays = scan.strays;
        } else if self.sweep_at.is_none() && !scan.strays.is_empty() {
            let removed = self.delete_all(&scan.strays);
            log::warn!("{removed} routes with virtd's protocol number and another metric than its own are removed");
        }
        self.tell_others(scan.incomplete_v4 && scan.why != Why::Alone, disturbed_v6);
        if disturbed_v6 && scan.why == Why::Thorough {
            self.begin_scan(Why::Alone);
        }
    }

    /// What an earlier virtd left and nobody wants goes.
    pub(super) fn sweep(&mut self) {
        self.sweep_at = None;
        let left: Vec<FibKey> = self
            .table
            .iter()
            .filter(|(_, entry)| entry.holding == Holding::Leftover && entry.want.is_none())
            .map(|(key, _)| *key)
            .collect();
        let mut routes: Vec<(FibKey, u32)> = left.iter().map(|key| (*key, self.metric_of(key.family()))).collect();
        routes.append(&mut self.strays);
        let swept = self.delete_all(&routes);
        for key in left {
            self.table.set_have(key, &[]);
            self.table.entry(key).holding = Holding::Known;
            self.table.tidy(&key);
        }
        self.tell_adopted(true);
        if self.leftovers > 0 {
            add(&self.counters.swept, swept);
            self.tell_swept(swept);
        }
    }
}
