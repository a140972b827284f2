//! Batches of writes, and what the kernel's answers to them mean.

use super::add;
use super::socket::Received;
use super::table::{Entry, Holding, is_written_as};
use super::thread::Worker;
use crate::sys::Errno;
use broker::event::Severity;
use broker::io::KernelNews;
use std::time::{Duration, Instant};
use wire::netlink::Frames;
use wire::netlink::consts::*;
use wire::netlink::fib::{EncodedRoute, FibKey, FibRoute, encode_delete};
use wire::netlink::message::Writer;

/// Keys in one send. 64, 256 and 1024 were about equally fast when it was measured; and between two
/// sends the thread looks at what else there is.
const BATCH_KEYS: usize = 256;
/// Routes of which it is remembered how the kernel wants them: as many as a router has ways out
/// that take turns.
pub(super) const MAX_ENCODED: usize = 8;
/// Octets from which on a send takes no further key; one route may go beyond it. Below the smallest
/// usual send buffer.
const BATCH_OCTETS: usize = 48 * 1024;
/// What is tried again because its answer got lost waits this long.
const LOST_RETRY: Duration = Duration::from_secs(1);

/// What one message does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Op {
    /// NLM_F_EXCL; `sure`: behind a delete, so that what is in its way is not ours.
    Create { sure: bool },
    /// NLM_F_REPLACE.
    Replace,
    /// RTM_DELROUTE.
    Delete,
}

impl Op {
    const fn kind(self) -> u16 {
        match self {
            Op::Delete => RTM_DELROUTE,
            _ => RTM_NEWROUTE,
        }
    }

    const fn flags(self) -> u16 {
        match self {
            Op::Create { .. } => NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL,
            Op::Replace => NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE,
            Op::Delete => NLM_F_REQUEST,
        }
    }
}

/// One send in the making.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// What the messages do, in their order.
    ops: Vec<(FibKey, Op)>,
    /// Where the last one begins.
    last: usize,
}

impl Batch {
    fn clear(&mut self) {
        self.bytes.clear();
        self.ops.clear();
    }

    /// Appends a message; false where the route does not fit one.
    fn push(&mut self, first_seq: u32, key: FibKey, op: Op, payload: &[u8]) -> bool {
        let start = self.bytes.len();
        let seq = first_seq.wrapping_add(self.ops.len() as u32);
        let mut w = Writer::message(&mut self.bytes, op.kind(), op.flags(), seq, 0);
        w.put(payload);
        if w.finish().is_err() {
            return false;
        }
        self.last = start;
        self.ops.push((key, op));
        true
    }

    /// Errors are always answered. That the last message is answered in any case shows where the
    /// answers end.
    fn ask_for_ack(&mut self) {
        if let Some(flags) = self.bytes.get_mut(self.last + 6..self.last + 8) {
            let old = u16::from_ne_bytes([flags[0], flags[1]]);
            flags.copy_from_slice(&(old | NLM_F_ACK).to_ne_bytes());
        }
    }
}

impl Worker {
    /// Writes some of the keys that wait.
    pub(super) fn write_some(&mut self) {
        // A key takes two messages at most.
        let first_seq = self.sockets.writer.take_seqs(2 * BATCH_KEYS as u32);
        // Its memory is kept.
        let mut batch = std::mem::take(&mut self.batch);
        batch.clear();
        let mut looked_at = 0;
        while batch.ops.len() < BATCH_KEYS && batch.bytes.len() < BATCH_OCTETS && looked_at < 16 * BATCH_KEYS {
            let Some((key, entry)) = self.table.next() else { break };
            looked_at += 1;
            self.plan(key, entry, first_seq, &mut batch);
        }
        if !batch.ops.is_empty() {
            let answers = self.transact(&mut batch, first_seq);
            self.learn(&batch, &answers);
        }
        self.batch = batch;
        self.count_routes();
    }

    /// Appends what brings the kernel from what it holds under a key to what is wanted.
    fn plan(&mut self, key: FibKey, entry: Entry, first_seq: u32, batch: &mut Batch) {
        let (want, have) = (entry.want, entry.have);
        let holds = !have.is_none() || entry.holding == Holding::Unsure;
        if want.is_none() {
            match entry.holding {
                Holding::Leftover if self.sweep_at.is_some() => {}
                _ if holds => self.push_delete(key, first_seq, batch),
                _ => {
                    self.table.entry(key).holding = Holding::Known;
                    self.succeeded(key);
                }
            }
            return;
        }
        if entry.holding == Holding::Stale {
            self.push_delete(key, first_seq, batch);
            return;
        }
        let sure = holds && (entry.holding == Holding::Unsure || self.foreign.contains(&key));
        if holds && !sure && is_written_as(&key, self.table.bytes(want), self.table.bytes(have)) {
            let adopted = entry.holding == Holding::Leftover;
            self.table.set_have_wanted(key);
            self.table.entry(key).holding = Holding::Known;
            if adopted {
                add(&self.counters.adopted, 1);
                self.reports.adopted += 1;
            }
            self.succeeded(key);
            return;
        }
        let octets = self.table.bytes(want);
        let last = self.encoded.take(|(of, _)| **of == *octets);
        let last = last.and_then(|(of, route)| Some((of, route.to(&key)?)));
        let (of, encoded) = match last.map_or_else(|| self.encode(&key, octets), Ok) {
            Ok(encoded) => encoded,
            Err(errno) => return self.not_written(key, errno),
        };
        if sure {
            self.push_delete(key, first_seq, batch);
        }
        let op = if sure || have.is_none() { Op::Create { sure } } else { Op::Replace };
        if !batch.push(first_seq, key, op, encoded.payload()) {
            self.not_written(key, libc::EMSGSIZE);
        }
        self.encoded.push((of, encoded));
    }

    /// A wanted route as the kernel wants it, or the errno that says why not.
    fn encode(&self, key: &FibKey, octets: &[u8]) -> Result<(Box<[u8]>, EncodedRoute), i32> {
        let route = FibRoute::from_bytes(octets).ok_or(libc::EINVAL)?;
        let encoded = EncodedRoute::new(key, &route, self.config.protocol, self.config.metric);
        encoded.map(|encoded| (octets.into(), encoded)).map_err(|e| e.errno())
    }

    fn push_delete(&mut self, key: FibKey, first_seq: u32, batch: &mut Batch) {
        let payload = encode_delete(&key, self.config.protocol, self.config.metric);
        batch.push(first_seq, key, Op::Delete, &payload);
    }

    /// Sends a batch and collects what became of each message: errno, 0 for success. `Err`: what
    /// came of it is not known.
    fn transact(&mut self, batch: &mut Batch, first_seq: u32) -> Result<Vec<i32>, Errno> {
        batch.ask_for_ack();
        add(&self.counters.batches, 1);
        add(&self.counters.messages, batch.ops.len() as u64);
        let writer = &mut self.sockets.writer;
        writer.send(&batch.bytes)?;
        // Success is answered where it was asked for only: for the last.
        let mut answers = vec![0; batch.ops.len()];
        let (last, mut ended) = (answers.len().saturating_sub(1), false);
        while !ended {
            match writer.receive()? {
                Received::Datagram(bytes) => {
                    for frame in Frames::new(bytes).flatten() {
                        let at = frame.header.seq.wrapping_sub(first_seq) as usize;
                        if let (Some(errno), Some(answer)) = (frame.errno(), answers.get_mut(at)) {
                            *answer = errno;
                            ended |= at == last;
                        }
                    }
                }
                Received::Nothing | Received::Lost => return Err(libc::ENOBUFS.into()),
            }
        }
        Ok(answers)
    }

    fn learn(&mut self, batch: &Batch, answers: &Result<Vec<i32>, Errno>) {
        let answers = match answers {
            Ok(answers) => answers,
            Err(errno) => {
                let text = std::io::Error::from_raw_os_error(errno.get());
                log::warn!("a batch of {} routes for the kernel: {text}; tried again", batch.ops.len());
                for (key, _) in &batch.ops {
                    self.table.entry(*key).holding = Holding::Unsure;
                    self.not_written(*key, errno.get());
                }
                self.scan_when_quiet_at(Instant::now() + LOST_RETRY);
                return;
            }
        };
        for ((key, op), errno) in batch.ops.iter().zip(answers) {
            self.learn_one(*key, *op, *errno);
        }
    }

    fn learn_one(&mut self, key: FibKey, op: Op, errno: i32) {
        if let Some(scan) = &mut self.scan {
            // What the scan says about this key is older than this write.
            self.table.entry(key).seen = scan.number;
            scan.written_v6 |= key.family() == AF_INET6;
        }
        match (op, errno) {
            (Op::Delete, 0 | libc::ESRCH | libc::ENOENT) => {
                add(&self.counters.removed, u64::from(errno == 0));
                self.table.set_have(key, &[]);
                self.table.entry(key).holding = Holding::Known;
                // Where something is wanted the next message, or a later retry, decides.
                if self.table.entry(key).want.is_none() {
                    self.succeeded(key);
                }
            }
            (Op::Delete, errno) => self.not_written(key, errno),
            (Op::Create { .. } | Op::Replace, 0) => {
                add(&self.counters.written, 1);
                self.table.set_have_wanted(key);
                self.table.entry(key).holding = Holding::Known;
                self.retry_after(key);
                self.succeeded(key);
            }
            (Op::Create { sure: false }, libc::EEXIST) => {
                // Ours after all, or somebody else's: a delete of ours will tell.
                self.table.entry(key).holding = Holding::Unsure;
                self.table.queue_vote(key);
            }
            (Op::Create { sure: true }, libc::EEXIST) => {
                self.foreign.insert(key);
                self.not_written(key, errno);
            }
            (Op::Create { .. }, errno) => self.not_written(key, errno),
            (Op::Replace, errno) => {
                // The kernel holds the old route (of an IPv6 multipath route maybe a part), for
                // which there is no vote any more.
                self.table.entry(key).holding = Holding::Stale;
                self.table.queue_vote(key);
                self.not_written(key, errno);
            }
        }
    }

    /// A route without a gateway makes others possible, whose gateways are on its link.
    fn retry_after(&mut self, key: FibKey) {
        if self.failed.is_empty() {
            return;
        }
        let want = self.table.entry(key).want;
        let direct = FibRoute::from_bytes(self.table.bytes(want))
            .is_some_and(|route| !route.hops.is_empty() && route.hops.iter().all(|hop| hop.gateway.is_none()));
        if direct {
            self.scan_when_quiet();
        }
    }

    /// The kernel holds what is wanted under this key.
    fn succeeded(&mut self, key: FibKey) {
        if let Some(was) = self.failed.remove(&key) {
            self.refusals.changed(key, Some(was), None);
            self.tell(KernelNews::Written { key, errno: None });
        }
        if let Some(damage) = self.damages.remove(&key) {
            add(&self.counters.repaired, 1);
            self.reports.repaired(key, damage);
        }
        self.table.tidy(&key);
    }

    /// It does not, and cannot be made to for now.
    fn not_written(&mut self, key: FibKey, errno: i32) {
        self.damages.remove(&key);
        let was = self.failed.insert(key, errno);
        if was == Some(errno) {
            return;
        }
        self.refusals.changed(key, was, Some(errno));
        self.tell(KernelNews::Written { key, errno: Some(errno) });
        if errno == libc::EEXIST && self.reports.may_name_foreign(Instant::now()) {
            let text = format!(
                "the kernel has a route to {key} with metric {} that is not virtd's, and keeps it: remove it, or set another metric in [fib]",
                self.config.metric
            );
            self.event("fib-foreign", Severity::Warning, Some(key.prefix), text);
        }
    }

    /// Removes routes of our protocol by key and metric, whatever the table says of them; how many
    /// were there.
    pub(super) fn delete_all(&mut self, routes: &[(FibKey, u32)]) -> u64 {
        let mut removed = 0;
        for some in routes.chunks(BATCH_KEYS) {
            let first_seq = self.sockets.writer.take_seqs(BATCH_KEYS as u32);
            let mut batch = Batch::default();
            for (key, metric) in some {
                batch.push(first_seq, *key, Op::Delete, &encode_delete(key, self.config.protocol, *metric));
            }
            match self.transact(&mut batch, first_seq) {
                Ok(answers) => removed += some.len() as u64 - answers.iter().filter(|e| **e != 0).count() as u64,
                Err(errno) => log::warn!("routes are not removed: {}", std::io::Error::from_raw_os_error(errno.get())),
            }
        }
        add(&self.counters.removed, removed);
        removed
    }
}
