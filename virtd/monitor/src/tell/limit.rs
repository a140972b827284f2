//! So many within a minute; of the rest it is told how many there were.

use super::{News, counted};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;
use virtd_config::alert::Level;

/// Within which `at_most` counts.
const MINUTE: Duration = Duration::from_secs(60);
/// Kinds that are counted by name; a newer virtd has some more than we know.
const MAX_KINDS: usize = 256;

/// The limit of one hook.
#[derive(Debug)]
pub(super) struct Limit {
    at_most: usize,
    /// When those of the last minute were told.
    told: VecDeque<Instant>,
    left_out: BTreeMap<String, u64>,
    /// The worst of what was left out.
    level: Level,
}

impl Limit {
    pub fn new(at_most: u32) -> Limit {
        Limit { at_most: at_most.max(1) as usize, told: VecDeque::new(), left_out: BTreeMap::new(), level: Level::Info }
    }

    /// Whether this one may be told now. Else it is counted.
    pub fn lets(&mut self, news: &News, now: Instant) -> bool {
        // Who waits already comes first: the summary has the next place.
        if self.left_out.is_empty() && self.has_room(now) {
            self.told.push_back(now);
            return true;
        }
        self.leave_out(&news.logged.event.kind, 1, news.level());
        false
    }

    /// Events that could not even wait.
    pub fn lose(&mut self, count: u64) {
        if count > 0 {
            self.leave_out("lost", count, Level::Warning);
        }
    }

    fn leave_out(&mut self, kind: &str, count: u64, level: Level) {
        let known = self.left_out.contains_key(kind) || self.left_out.len() < MAX_KINDS;
        *self.left_out.entry(if known { kind } else { "other" }.to_owned()).or_default() += count;
        self.level = self.level.max(level);
    }

    fn has_room(&mut self, now: Instant) -> bool {
        while self.told.front().is_some_and(|at| now.saturating_duration_since(*at) >= MINUTE) {
            self.told.pop_front();
        }
        self.told.len() < self.at_most
    }

    /// When the summary may be told; `None` where there is nothing to sum up.
    pub fn due(&self) -> Option<Instant> {
        if self.left_out.is_empty() {
            return None;
        }
        let first = self.told.front().filter(|_| self.told.len() >= self.at_most);
        Some(first.map_or_else(Instant::now, |at| *at + MINUTE))
    }

    /// What was left out, where it may be told now.
    pub fn summary(&mut self, now: Instant) -> Option<News> {
        if self.left_out.is_empty() || !self.has_room(now) {
            return None;
        }
        self.told.push_back(now);
        let left_out = std::mem::take(&mut self.left_out);
        let level = std::mem::take(&mut self.level);
        let (count, words) = (left_out.values().sum::<u64>(), counted(&left_out));
        let text = format!("{count} more events, told in one because of `at_most = {}`: {words}", self.at_most);
        let by_kind: Map<String, Value> = left_out.into_iter().map(|(kind, count)| (kind, count.into())).collect();
        Some(News::own("events-left-out", level, text, Map::from_iter([("left_out".to_owned(), by_kind.into())])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(kind: &str, level: Level) -> News {
        News::own(kind, level, String::new(), Map::new())
    }

    #[test]
    fn what_is_more_is_counted_and_told_in_one() {
        let (mut limit, start) = (Limit::new(2), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        assert!(limit.lets(&news("a", Level::Info), at(0)) && limit.lets(&news("a", Level::Info), at(1)));
        assert!(limit.due().is_none() && limit.summary(at(1)).is_none());
        assert!(!limit.lets(&news("a", Level::Info), at(2)) && !limit.lets(&news("b", Level::Alarm), at(3)));
        limit.lose(5);
        assert_eq!(limit.due(), Some(at(60)));
        assert!(limit.summary(at(59)).is_none());
        // One that comes when there is room again does not overtake the summary.
        assert!(!limit.lets(&news("b", Level::Info), at(60)));
        let summary = limit.summary(at(60)).expect("room");
        assert_eq!(summary.level(), Level::Alarm, "the worst of them");
        let json: Value = serde_json::from_str(&summary.json).expect("JSON");
        assert_eq!(json["left_out"], serde_json::json!({"a": 1, "b": 2, "lost": 5}));
        assert_eq!(json["text"], "8 more events, told in one because of `at_most = 2`: 5 lost, 2 b, 1 a");
        // The summary has one of the two places, the event of second 1 the other.
        assert!(!limit.lets(&news("a", Level::Info), at(60)) && limit.due() == Some(at(61)));
    }

    #[test]
    fn kinds_without_end_are_counted_together() {
        let (mut limit, now) = (Limit::new(1), Instant::now());
        for i in 0..2 * MAX_KINDS {
            limit.lets(&news(&format!("kind-{i}"), Level::Info), now);
        }
        assert_eq!(limit.left_out.len(), MAX_KINDS + 1);
        assert_eq!(limit.left_out.values().sum::<u64>(), 2 * MAX_KINDS as u64 - 1);
    }
}
