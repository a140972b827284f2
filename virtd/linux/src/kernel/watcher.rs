//! Links, addresses and routes to peers, watched where no FIB is voted on: sessions end with them,
//! and virtd has to know.
//!
//! A thread of its own with sockets of its own, so that nothing of it is on the way of an update.
//! Routes are listened to only where a configured peer is not directly connected. It writes nothing
//! and needs no rights.

use super::Lines;
use super::paths::{Paths, Peers};
use super::socket::{ANSWER_QUEUE, MONITOR_QUEUE, Received, RouteSocket};
use super::view::View;
use anyhow::{Context, Result};
use broker::io::KernelNews;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use wire::bgp::Prefix;
use wire::netlink::consts::*;
use wire::netlink::fib::FibKey;
use wire::netlink::{Frames, RouteMessage};

const LINKS: Token = Token(1);
const ROUTES: Token = Token(2);
/// Datagrams of notifications that are taken before it is looked what they mean.
const MAX_NOTES: usize = 1024;
/// After an error of the sockets all is read again, not sooner than this.
const RETRY: Duration = Duration::from_secs(1);
/// The longest sleep; nothing depends on it.
const MAX_SLEEP: Duration = Duration::from_secs(3600);

/// All that the thread has.
pub(super) struct Watcher {
    lines: Lines,
    /// Links and addresses.
    monitor: RouteSocket,
    /// Routes, where they matter.
    routes: Option<RouteSocket>,
    view: View,
    paths: Paths,
    /// Links and addresses are to be read as a whole: for the first time, or because notifications
    /// were lost.
    read_at: Option<Instant>,
    /// They have been read once.
    read: bool,
}

impl Watcher {
    /// Opens its socket, the groups joined, so that nothing is missed between reading and the first
    /// notification.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn new(lines: Lines, peers: Peers, poll: &Poll) -> Result<Watcher> {
        let groups = [RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR];
        let monitor = RouteSocket::open(&groups, MONITOR_QUEUE)?;
        poll.registry().register(&mut SourceFd(&monitor.as_raw_fd()), LINKS, Interest::READABLE)?;
        Ok(Watcher {
            lines,
            monitor,
            routes: None,
            view: View::default(),
            paths: Paths::new(peers, None),
            read_at: Some(Instant::now()),
            read: false,
        })
    }

    /// The thread.
    pub(super) fn run(mut self, mut poll: Poll) {
        let mut events = Events::with_capacity(4);
        while !self.lines.bell.stop.load(Ordering::Acquire) {
            self.lines.bell.rung.store(false, Ordering::Release);
            let more = self.turn(&poll);
            let now = Instant::now();
            let due = [self.read_at, self.paths.deadline(), more.then_some(now)].into_iter().flatten().min();
            let sleep = due.map_or(MAX_SLEEP, |at| at.saturating_duration_since(now));
            if let Err(e) = poll.poll(&mut events, Some(sleep))
                && e.kind() != io::ErrorKind::Interrupted
            {
                log::error!("waiting for netlink: {e}");
                std::thread::sleep(RETRY);
            }
        }
    }

    /// One round of everything; true where more notifications wait.
    fn turn(&mut self, poll: &Poll) -> bool {
        let mut news = Vec::new();
        let more = self.take_links(&mut news) | self.take_routes();
        if self.read_at.is_some_and(|at| Instant::now() >= at) {
            self.read_at = None;
            if let Err(e) = self.read_links(&mut news) {
                log::warn!("links and addresses cannot be read: {e:#}");
                self.read_at = Some(Instant::now() + RETRY);
            }
        }
        news.extend(self.paths.look(&self.view, Instant::now()));
        if let Err(e) = self.listen_to_routes(poll, &mut news) {
            log::warn!("routes cannot be watched: {e:#}");
        }
        if !news.is_empty() {
            news.into_iter().for_each(|news| self.lines.tell(news));
            self.lines.wake_loop();
        }
        more
    }

    fn take_links(&mut self, news: &mut Vec<KernelNews>) -> bool {
        for _ in 0..MAX_NOTES {
            match self.monitor.receive() {
                Ok(Received::Datagram(bytes)) => {
                    for frame in Frames::new(bytes).flatten() {
                        if let Some(change) = self.view.note(&frame) {
                            news.push(change);
                            self.paths.look_again();
                        }
                    }
                }
                Ok(Received::Nothing) => return false,
                Ok(Received::Lost) => {
                    log::warn!(
                        "the kernel had more notifications than its socket could hold; links and addresses are read again"
                    );
                    self.read_at = Some(Instant::now());
                }
                Err(e) => {
                    log::error!("netlink notifications cannot be read: {e}");
                    self.read_at = Some(Instant::now() + RETRY);
                    return false;
                }
            }
        }
        true
    }

    fn take_routes(&mut self) -> bool {
        let Some(routes) = &mut self.routes else { return false };
        for _ in 0..MAX_NOTES {
            match routes.receive() {
                Ok(Received::Datagram(bytes)) => {
                    for frame in Frames::new(bytes).flatten() {
                        if let Some(prefix) = destination(frame.payload) {
                            self.paths.note(&prefix);
                        }
                    }
                }
                Ok(Received::Nothing) => return false,
                // The ways that matter are looked up again, however many notifications that was.
                Ok(Received::Lost) => self.paths.look_again(),
                Err(e) => {
                    log::error!("netlink notifications cannot be read: {e}");
                    self.paths.look_again();
                    return false;
                }
            }
        }
        true
    }

    fn read_links(&mut self, news: &mut Vec<KernelNews>) -> Result<()> {
        let mut dumper = RouteSocket::open(&[], ANSWER_QUEUE).context("no netlink socket")?;
        self.view.read(&mut dumper, news)?;
        if !std::mem::replace(&mut self.read, true) {
            news.push(KernelNews::LinksRead);
        }
        self.paths.look_again();
        Ok(())
    }

    /// Joins the routes' groups when somebody's way is to be watched, and leaves them when nobody's
    /// is.
    fn listen_to_routes(&mut self, poll: &Poll, news: &mut Vec<KernelNews>) -> Result<()> {
        if self.paths.has_any() == self.routes.is_some() {
            return Ok(());
        }
        if self.routes.take().is_none() {
            let routes = RouteSocket::open(&[RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE], MONITOR_QUEUE)?;
            poll.registry().register(&mut SourceFd(&routes.as_raw_fd()), ROUTES, Interest::READABLE)?;
            self.routes = Some(routes);
            // What changed between the first look and now has not been notified.
            self.paths.look_again();
            news.extend(self.paths.look(&self.view, Instant::now()));
        }
        Ok(())
    }
}

/// Where a route that is not the kernel's cache of one leads.
fn destination(payload: &[u8]) -> Option<Prefix> {
    let message = RouteMessage::parse(payload).ok()?;
    if message.flags & RTM_F_CLONED != 0 {
        return None;
    }
    FibKey::from_message(&message).ok().map(|key| key.prefix)
}
