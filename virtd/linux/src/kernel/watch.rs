//! Notifications: links and addresses become news for the loop, and what others do to our routes is
//! put right.

use super::scan::Why;
use super::socket::Received;
use super::table::{Damage, Holding, is_written_as};
use super::thread::Worker;
use anyhow::Result;
use broker::event::Severity;
use std::time::Instant;
use wire::netlink::consts::*;
use wire::netlink::fib::{FibKey, FibRoute};
use wire::netlink::{Frame, Frames, RouteMessage};

/// Datagrams of notifications that are taken before it is the turn of other work again.
const MAX_NOTES: usize = 1024;

impl Worker {
    /// Takes the notifications that are there.
    pub(super) fn take_notes(&mut self) {
        for _ in 0..MAX_NOTES {
            let bytes = match self.sockets.monitor.receive() {
                Ok(Received::Datagram(bytes)) => bytes.to_vec(),
                Ok(Received::Nothing) => {
                    self.notes_left = false;
                    return;
                }
                Ok(Received::Lost) => {
                    self.lost_notes = true;
                    continue;
                }
                Err(e) => {
                    log::error!("netlink notifications cannot be read: {e}");
                    self.lost_notes = true;
                    self.notes_left = false;
                    return;
                }
            };
            for frame in Frames::new(&bytes).flatten() {
                self.note(&frame);
            }
        }
        self.notes_left = true;
    }

    fn note(&mut self, frame: &Frame<'_>) {
        match frame.header.kind {
            RTM_NEWROUTE | RTM_DELROUTE => {
                // What we did ourselves; with a full table that is nearly all.
                if frame.header.port != self.sockets.writer.port() {
                    self.route_note(frame);
                }
            }
            _ => {
                if let Some(news) = self.view.note(frame) {
                    self.tell(news);
                    self.paths.look_again();
                    self.scan_when_quiet();
                }
            }
        }
    }

    /// Somebody else, or the kernel itself, made or deleted a route.
    fn route_note(&mut self, frame: &Frame<'_>) {
        let Ok(message) = RouteMessage::parse(frame.payload) else { return };
        let Ok(key) = FibKey::from_message(&message) else { return };
        if message.protocol != self.config.protocol {
            self.paths.note(&key.prefix);
            self.other_note(&message, frame.header.kind == RTM_NEWROUTE, frame.header.flags);
        }
        if message.flags & RTM_F_CLONED != 0 || message.priority.unwrap_or(0) != self.metric_of(message.family) {
            return;
        }
        if let Some(scan) = &mut self.scan {
            scan.written_v6 |= message.family == AF_INET6;
        }
        let made = frame.header.kind == RTM_NEWROUTE;
        if message.protocol != self.config.protocol {
            self.foreign_note(key, made, frame.header.flags & NLM_F_REPLACE != 0);
            return;
        }
        let Some(entry) = self.table.get(&key).or(made.then(Default::default)) else { return };
        let found = FibRoute::from_message(&message, |_| None).map(|route| route.to_bytes()).unwrap_or_default();
        let damage = match (made, entry.want.is_none()) {
            (false, _) => {
                // Of an IPv6 multipath route this can be one hop. The next write finds out.
                self.table.set_have(key, &[]);
                if !matches!(entry.holding, Holding::Unsure) {
                    self.table.entry(key).holding = Holding::Known;
                }
                Damage::Deleted
            }
            (true, wanted_not) => {
                self.table.set_have(key, &found);
                if !wanted_not && is_written_as(&key, self.table.bytes(entry.want), &found) {
                    return;
                }
                if wanted_not { Damage::Made } else { Damage::Changed }
            }
        };
        if let Some(scan) = &mut self.scan {
            self.table.entry(key).seen = scan.number;
        }
        if !made && entry.want.is_none() {
            // Nothing to put right; but of an IPv6 multipath leftover a part may be there still.
            self.table.tidy(&key);
            if key.family() == AF_INET6 {
                self.scan_when_quiet();
            }
            return;
        }
        if self.reports.may_repair(key, Instant::now()) {
            self.damages.insert(key, damage);
            self.table.queue_repair(key);
        }
    }

    /// A route of another protocol that has our metric.
    fn foreign_note(&mut self, key: FibKey, made: bool, replaced: bool) {
        if made {
            self.foreign.insert(key);
            if let Some(scan) = &mut self.scan {
                scan.add_foreign(key);
            }
            let Some(entry) = self.table.get(&key) else { return };
            if replaced && !entry.have.is_none() && self.reports.may_repair(key, Instant::now()) {
                // Ours may have been what it replaced. Deleting ours and making it anew tells.
                self.table.entry(key).holding = Holding::Unsure;
                self.table.queue_repair(key);
            }
            return;
        }
        self.foreign.remove(&key);
        if let Some(scan) = &mut self.scan {
            scan.remove_foreign(&key);
        }
        if self.failed.contains_key(&key) {
            self.table.queue_repair(key);
        }
    }

    /// Reads links and addresses as a whole, and tells what has changed.
    ///
    /// # Errors
    /// What stands in the way of it.
    pub(super) fn read_links(&mut self) -> Result<()> {
        let mut news = Vec::new();
        let read = self.view.read(&mut self.sockets.dumper, &mut news);
        news.into_iter().for_each(|news| self.tell(news));
        self.paths.look_again();
        read
    }

    /// Notifications were lost: nothing that is known of the kernel is certain.
    pub(super) fn read_all_again(&mut self) {
        if self.scan.is_some() || !std::mem::take(&mut self.lost_notes) {
            return;
        }
        self.event(
            "fib-resync",
            Severity::Warning,
            None,
            "the kernel had more notifications than its socket could hold; links, addresses and routes are read again"
                .into(),
        );
        if let Err(e) = self.read_links() {
            log::warn!("links and addresses cannot be read: {e:#}");
            let _ = self.sockets.reopen_dumper();
        }
        self.begin_scan(Why::Thorough);
    }
}
