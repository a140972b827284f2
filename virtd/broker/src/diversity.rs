//! What an operator is told of the independence of the instances: virtctl's answer, an event an
//! hour, and a warning where two are wrong together again and again.

use super::Core;
use super::independence::{Independence, Pair, could_be_marked_together};
use super::io::Micros;
use crate::event::{Event, Severity};
use virtd_api as api;

/// How often the figures are told without being asked for.
const EVERY_US: Micros = 3_600_000_000;
/// The first warning comes when two were wrong together on more keys than this; the next at each
/// doubling.
const MANY_COMMON: u64 = 10;
/// Pairs in an event, the least independent first.
const PAIRS_TOLD: usize = 10;

/// What was told, and when the next is due.
#[derive(Debug)]
pub struct Diversity {
    next: Micros,
    votes_told: u64,
    /// By pair as [`ranked`] names it: how many common verdicts are still below notice.
    limits: Vec<((u8, u8), u64)>,
}

impl Diversity {
    /// Nothing has been told yet.
    pub fn new(now: Micros) -> Diversity {
        Diversity { next: now + EVERY_US, votes_told: 0, limits: Vec::new() }
    }
}

impl Diversity {
    /// The instance at `i` is no more.
    pub fn forget(&mut self, i: u8) {
        self.limits.retain(|((a, b), _)| *a != i && *b != i);
    }
}

/// All pairs, the least independent first.
fn ranked(figures: &Independence, n: usize) -> Vec<((u8, u8), Pair)> {
    let all = (0..n as u8).flat_map(|a| (a + 1..n as u8).map(move |b| (a, b)));
    let mut list: Vec<_> = all.map(|(a, b)| ((a, b), figures.pair(a, b))).collect();
    // Stable: pairs of which the same is known stay in the configured order.
    list.sort_by(|(_, x), (_, y)| {
        let ((x1, x2), (y1, y2)) = (x.rank(), y.rank());
        y1.total_cmp(&x1).then(y2.total_cmp(&x2))
    });
    list
}

impl Core {
    /// The figures over all sessions.
    fn independence(&self) -> Independence {
        let (mut all, n) = (Independence::default(), self.env.instances.len());
        all.add(&self.gone_independence, n);
        self.sessions.iter().for_each(|s| all.add(&s.independence, n));
        all
    }

    /// Where asked for session by session, too.
    pub(super) fn diversity_answer(&self, by_session: bool) -> api::Diversity {
        let n = self.env.instances.len();
        let mut ranked = ranked(&self.independence(), n);
        ranked.retain(|((a, b), _)| !self.is_vacant_pair(*a, *b));
        let (least, reading) = self.reading(&ranked);
        let sessions = self.sessions.iter().filter(|s| !s.independence.is_empty()).map(|s| {
            let mut pairs = self::ranked(&s.independence, n);
            pairs.retain(|((a, b), p)| p.compared > 0 && !self.is_vacant_pair(*a, *b));
            api::SessionPairs { peer: self.env.peer_name(&s.peer), pairs: self.pair_list(&pairs) }
        });
        api::Diversity {
            since_us: self.env.now,
            voters: self.env.instances.voters.len(),
            observers: self.env.instances.observers.len(),
            least_independent: least.map(|pair| self.pair_names(pair).map(str::to_owned)),
            reading,
            pairs: self.pair_list(&ranked),
            sessions: by_session.then(|| sessions.collect()),
        }
    }

    fn is_vacant_pair(&self, a: u8, b: u8) -> bool {
        self.env.is_vacant(usize::from(a)) || self.env.is_vacant(usize::from(b))
    }

    fn pair_names(&self, (a, b): (u8, u8)) -> [&str; 2] {
        [self.env.name(usize::from(a)), self.env.name(usize::from(b))]
    }

    fn pair_list(&self, pairs: &[((u8, u8), Pair)]) -> Vec<api::Pair> {
        let share = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
        let describe = |(names, p): &((u8, u8), Pair)| {
            let mut aspects: Vec<_> = p.aspects.clone();
            aspects.sort_by_key(|(_, votes)| std::cmp::Reverse(*votes));
            api::Pair {
                instances: self.pair_names(*names).map(str::to_owned),
                compared: p.compared,
                disagreed: p.disagreed,
                share: share(p.disagreed, p.compared),
                contested: p.contested,
                together: p.together(),
                verdicts: api::Verdicts {
                    either: p.either(),
                    common: p.common,
                    alike: p.alike,
                    one_only: p.single,
                    common_share: share(p.common, p.either()),
                },
                attributes: aspects
                    .into_iter()
                    .map(|(a, votes)| api::Aspect { name: a.name().to_owned(), votes })
                    .collect(),
            }
        };
        pairs.iter().map(describe).collect()
    }

    /// Which two are the least independent, if anything is known about that, and in words why.
    fn reading(&self, ranked: &[((u8, u8), Pair)]) -> (Option<(u8, u8)>, String) {
        let (voters, observers) = (self.env.instances.voters.len(), self.env.instances.observers.len());
        let Some((names, first)) = ranked.first() else {
            return (None, "there is one instance: nothing to compare it with".to_owned());
        };
        let [a, b] = self.pair_names(*names);
        if first.common > 0 {
            let text = format!(
                "least independent: {a} and {b}, wrong together in {} of {} verdicts on either (with the same route: {})",
                first.common,
                first.either(),
                first.alike
            );
            return (Some(*names), text);
        }
        let compared = ranked.iter().map(|(_, p)| p.compared).max().unwrap_or(0);
        let contested = ranked.iter().map(|(_, p)| p.contested).max().unwrap_or(0);
        if compared == 0 {
            return (None, "nothing has been compared yet".to_owned());
        }
        if contested == 0 {
            let text = format!(
                "no disagreement in {compared} votes: nothing is known yet of which instances would be wrong together"
            );
            return (None, text);
        }
        let why = match could_be_marked_together(voters, observers) {
            true => "no two have been found wrong together".to_owned(),
            false => {
                format!("of {voters} voters two that are wrong together are no minority, so no verdict can find them")
            }
        };
        if first.together() == 0 {
            return (None, format!("{why}; no two stood together where somebody differed"));
        }
        let text = format!(
            "{why}; {a} and {b} stood together most often, right or wrong: in {} of {} contested votes",
            first.together(),
            first.contested
        );
        (None, text)
    }

    /// Tells what is due; called with every tick.
    pub(super) fn tell_diversity(&mut self) {
        let news = self.sessions.iter_mut().fold(false, |news, s| s.independence.take_news() | news);
        let due = self.env.now >= self.diversity.next;
        if !news && !due {
            return;
        }
        let mut ranked = ranked(&self.independence(), self.env.instances.len());
        ranked.retain(|((a, b), _)| !self.is_vacant_pair(*a, *b));
        if news {
            self.warn_of_common(&ranked);
        }
        if due {
            self.diversity.next = self.env.now + EVERY_US;
            let votes = ranked.iter().map(|(_, p)| p.compared).sum();
            if std::mem::replace(&mut self.diversity.votes_told, votes) != votes {
                let (_, reading) = self.reading(&ranked);
                let mut event = Event::new(self.env.now, "diversity", Severity::Info, reading);
                event.pairs = self.pair_list(ranked.get(..PAIRS_TOLD).unwrap_or(&ranked));
                self.env.out.push(event.into());
            }
        }
    }

    /// Two that are wrong on the same keys are no two voters.
    fn warn_of_common(&mut self, ranked: &[((u8, u8), Pair)]) {
        for (names, pair) in ranked {
            let told = self.diversity.limits.iter().position(|(p, _)| p == names);
            let limit = told.and_then(|at| self.diversity.limits.get(at)).map_or(MANY_COMMON, |(_, limit)| *limit);
            if pair.common <= limit {
                continue;
            }
            let next = (*names, pair.common.saturating_mul(2));
            match told.and_then(|at| self.diversity.limits.get_mut(at)) {
                Some(entry) => *entry = next,
                None => self.diversity.limits.push(next),
            }
            let [a, b] = self.pair_names(*names);
            let text = format!(
                "{a} and {b} were wrong on the same prefix {} times (with the same route: {}; verdicts on either: {}): \
                 they do not fail independently; put another code base or version in the place of one",
                pair.common,
                pair.alike,
                pair.either()
            );
            let mut event = Event::new(self.env.now, "common-failure", Severity::Warning, text);
            event.pairs = self.pair_list(&[(*names, pair.clone())]);
            self.env.out.push(event.into());
        }
    }
}
