//! When an operator is told that the kernel refuses routes, and when that it does not any more. How
//! many it refuses is told, not which: with a link a whole table can be refused at once. A route of
//! somebody else's in the way of ours has its own event.

use super::thread::Worker;
use broker::event::Severity;
use std::time::{Duration, Instant};
use wire::netlink::fib::FibKey;

/// What is over sooner is not told: a route before the one to its gateway, a vote that comes behind
/// its link, an answer that got lost. What can be put right is tried again within little more than
/// a second.
const LASTS: Duration = Duration::from_secs(2);
/// Two events are that far apart, and twice as far after each, up to this; so a link that goes and
/// comes makes few of them.
const MAX_APART: Duration = Duration::from_secs(300);
/// Without an event for so long, the next one comes as soon as the first did.
const CALM: Duration = Duration::from_secs(900);
/// More of them are told when they are so many times what was told.
const GROWN: usize = 2;

/// How many routes are refused, and what was told of it. Costs nothing while none is: no clock is
/// read, nothing allocated.
#[derive(Debug, Default)]
pub struct Refusals {
    now: usize,
    /// As many as were told, until it is told that it is none any more.
    told: usize,
    /// One that came since the last event and is refused still.
    example: Option<FibKey>,
    /// Times since the last event that there were none and then some.
    times: u32,
    /// Since when there is something to tell.
    since: Option<Instant>,
    last: Option<Instant>,
    apart: Duration,
}

/// What is to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// How many; 0: none any more.
    pub count: usize,
    /// One of them that came since the event before.
    pub example: Option<FibKey>,
    /// How often it began since the event before.
    pub times: u32,
}

/// Whether an errno stands for a refusal, and not for another's route.
const fn is_refusal(errno: Option<i32>) -> bool {
    !matches!(errno, None | Some(libc::EEXIST))
}

impl Refusals {
    /// What the kernel says to a key's route has changed from this errno to that, `None` for a
    /// route that it took or that nobody wants.
    pub fn changed(&mut self, key: FibKey, was: Option<i32>, is: Option<i32>) {
        match (is_refusal(was), is_refusal(is)) {
            (false, true) => {
                self.times = self.times.saturating_add(u32::from(self.now == 0));
                self.now += 1;
                self.example.get_or_insert(key);
            }
            (true, false) => {
                self.now = self.now.saturating_sub(1);
                self.example = self.example.filter(|example| *example != key);
            }
            _ => {}
        }
    }

    /// Whether what was told is not so any more.
    fn is_news(&self) -> bool {
        match (self.told, self.now) {
            (0, now) => now > 0,
            (_, 0) => true,
            (told, now) => now >= told.saturating_mul(GROWN),
        }
    }

    /// What is to be told now.
    pub fn take(&mut self, now: Instant) -> Option<Refused> {
        if self.since.is_none() && self.is_news() {
            self.since = Some(now);
        }
        if now < self.deadline()? {
            return None;
        }
        self.since = None;
        let calm = self.last.is_none_or(|last| now.duration_since(last) >= CALM);
        if !self.is_news() {
            if calm && self.now == 0 {
                self.times = 0;
            }
            return None;
        }
        self.apart = if calm { LASTS } else { (2 * self.apart).min(MAX_APART) };
        self.last = Some(now);
        self.told = self.now;
        Some(Refused { count: self.now, example: self.example.take(), times: std::mem::take(&mut self.times) })
    }

    /// When there will be something to tell, as far as [`Refusals::take`] has seen.
    pub fn deadline(&self) -> Option<Instant> {
        let lasted = self.since? + LASTS;
        Some(self.last.map_or(lasted, |last| lasted.max(last + self.apart)))
    }
}

impl Worker {
    /// Tells of refused routes where it is time.
    pub(super) fn tell_refused(&mut self, now: Instant) {
        let Some(Refused { count, example, times }) = self.refusals.take(now) else { return };
        let again =
            if times > 1 { format!("; it began {times} times since this was last told") } else { String::new() };
        if count == 0 {
            let text = format!("the kernel refuses none of the chosen routes any more{again}");
            return self.event("fib-accepted", Severity::Info, None, text);
        }
        let known = example.and_then(|key| self.failed.get_key_value(&key));
        let refused = |(_, errno): &(&FibKey, &i32)| is_refusal(Some(**errno));
        let Some((key, errno)) = known.or_else(|| self.failed.iter().find(refused)) else { return };
        let (key, why) = (*key, std::io::Error::from_raw_os_error(*errno));
        let what = match count {
            1 => format!("the route to {key}"),
            _ => format!("{count} of the chosen routes, the one to {key} among them"),
        };
        let text = format!("the kernel refuses {what}: {why}{again}; `virtctl fib --diff` lists what it does not take");
        self.event("fib-refused", Severity::Warning, Some(key.prefix), text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::netlink::consts::RT_TABLE_MAIN;

    const UNREACHABLE: Option<i32> = Some(libc::ENETUNREACH);

    fn key(n: u8) -> FibKey {
        let prefix = format!("10.{n}.0.0/16").parse().expect("a prefix");
        FibKey { table: RT_TABLE_MAIN, prefix, tos: 0 }
    }

    /// Looks when the thread would wake, and not before; when something was told, and what.
    fn run(refusals: &mut Refusals, from: Instant, to: Instant) -> Vec<(Instant, Refused)> {
        let mut told = Vec::new();
        let mut now = from;
        while now < to {
            told.extend(refusals.take(now).map(|it| (now, it)));
            now = refusals.deadline().unwrap_or(to);
        }
        told
    }

    #[test]
    fn a_table_is_one_event_and_its_end_another() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut refusals = Refusals::default();
        assert_eq!((refusals.take(start), refusals.deadline()), (None, None));
        (0..200).for_each(|n| refusals.changed(key(n), None, UNREACHABLE));
        // Refused again and otherwise, it is no other route.
        refusals.changed(key(7), UNREACHABLE, Some(libc::EINVAL));
        let told = run(&mut refusals, start, at(1000));
        assert_eq!(told, [(at(2), Refused { count: 200, example: Some(key(0)), times: 1 })]);
        (1..200).for_each(|n| refusals.changed(key(n), UNREACHABLE, None));
        assert_eq!(run(&mut refusals, at(1000), at(2000)), [], "one is left");
        refusals.changed(key(0), UNREACHABLE, None);
        let told = run(&mut refusals, at(2000), at(3000));
        assert_eq!(told, [(at(2002), Refused { count: 0, example: None, times: 0 })]);
    }

    #[test]
    fn what_is_soon_over_is_not_told_nor_are_routes_of_others() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut refusals = Refusals::default();
        refusals.changed(key(1), None, UNREACHABLE);
        assert_eq!(refusals.take(start), None);
        refusals.changed(key(1), UNREACHABLE, None);
        refusals.changed(key(2), None, Some(libc::EEXIST));
        assert_eq!(run(&mut refusals, at(1000), at(60_000)), []);
        // One in whose way another's was, and now is none, and which is refused all the same.
        refusals.changed(key(2), Some(libc::EEXIST), UNREACHABLE);
        let told = run(&mut refusals, at(60_000), at(90_000));
        assert_eq!(told, [(at(62_000), Refused { count: 1, example: Some(key(2)), times: 1 })]);
    }

    #[test]
    fn many_more_are_told_again() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut refusals = Refusals::default();
        refusals.changed(key(0), None, UNREACHABLE);
        assert_eq!(run(&mut refusals, start, at(10)).len(), 1);
        let mut told = Vec::new();
        for n in 1..200 {
            let then = at(10 + u64::from(n));
            refusals.changed(key(n), None, UNREACHABLE);
            told.extend(run(&mut refusals, then, then + Duration::from_secs(1)).into_iter().map(|(_, it)| it.count));
        }
        assert!(told.len() <= 8 && told.is_sorted() && told.last().is_some_and(|last| *last > 100), "{told:?}");
    }

    #[test]
    fn a_link_that_comes_and_goes_makes_few_events_and_they_count() {
        let start = Instant::now();
        let (mut refusals, mut told) = (Refusals::default(), Vec::new());
        let mut refused = false;
        for second in 0..3600 {
            let now = start + Duration::from_secs(second);
            if second % 3 == 0 {
                let (was, is) = if refused { (UNREACHABLE, None) } else { (None, UNREACHABLE) };
                (0..100).for_each(|n| refusals.changed(key(n), was, is));
                refused = !refused;
            }
            told.extend(run(&mut refusals, now, now + Duration::from_secs(1)));
        }
        assert!((5..30).contains(&told.len()), "{told:?}");
        assert!(told.iter().all(|(_, it)| [0, 100].contains(&it.count)));
        assert!(told.last().is_some_and(|(_, it)| it.times > 40), "{told:?}");
        // Long after that it is as at the first time.
        let later = start + Duration::from_secs(10_000);
        if refused {
            (0..100).for_each(|n| refusals.changed(key(n), UNREACHABLE, None));
        }
        run(&mut refusals, later - Duration::from_secs(5_000), later);
        refusals.changed(key(1), None, UNREACHABLE);
        let times: Vec<_> = run(&mut refusals, later, later + Duration::from_secs(60)).iter().map(|t| t.0).collect();
        assert_eq!(times, [later + LASTS]);
    }
}
