//! Requests that the shim has acknowledged before virtd saw them (wire::shim says when it may).
//!
//! What the daemon has been told is made true where it can be: a route that was there already is
//! replaced, one that was not there is gone as it should be. What cannot be (the link went down in
//! between) the daemon is told as Linux tells of a route that it took and lost: by the notification
//! of its removal.

use super::super::env::Env;
use super::super::io::{Micros, NoteBody};
use super::Fib;
use crate::event::Severity;
use vkernel::{Effects, Refusal};
use wire::netlink::Frame;
use wire::netlink::consts::*;

/// At most one event in this time for all instances: when a link goes some thousand routes may be
/// on their way.
const APART_US: Micros = 1_000_000;

impl Fib {
    /// Instance `i` was told that this has been done, and it has been refused.
    pub(super) fn take_back(
        &mut self,
        i: usize,
        frame: &Frame<'_>,
        refusal: Refusal,
        effects: &mut Effects,
        env: &mut Env,
    ) {
        self.counters.taken_back += 1;
        let Some(m) = self.members.get_mut(i) else { return };
        let refusal = match (frame.header.kind, refusal.errno) {
            (RTM_DELROUTE, libc::ESRCH) => return,
            (RTM_NEWROUTE, libc::EEXIST) => {
                let mut again = *frame;
                again.header.flags = again.header.flags & !NLM_F_EXCL | NLM_F_REPLACE;
                match m.kernel.request(&again, &self.system, effects) {
                    Ok(()) => return,
                    Err(refusal) => refusal,
                }
            }
            _ => refusal,
        };
        if frame.header.kind == RTM_NEWROUTE {
            let v6 = frame.family() == Some(AF_INET6);
            let group = if v6 { RTNLGRP_IPV6_ROUTE } else { RTNLGRP_IPV4_ROUTE };
            effects.notify.push((group, RTM_DELROUTE, NoteBody::Octets(frame.payload.to_vec())));
        }
        if env.now >= self.next_taken_back {
            self.next_taken_back = env.now + APART_US;
            let why = std::io::Error::from_raw_os_error(refusal.errno);
            let text = format!(
                "{} has been told that a route of its own was written, like those before it, and it could not be ({why}{}{}): it is notified of the removal ({} so far)",
                env.name(i),
                if refusal.text.is_empty() { "" } else { ": " },
                refusal.text,
                self.counters.taken_back
            );
            env.tell_about("fib-taken-back", Severity::Info, i, text);
        }
    }
}
