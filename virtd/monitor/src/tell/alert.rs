//! One `[[alert]]`: its events one after the other, no more than it may have.

use super::limit::Limit;
use super::{Ears, News, command, post};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use virtd_config::alert::{Alert, Hook};

/// Waits before a POST is tried again; so it is tried three times.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

/// Why it did not work.
#[derive(Debug)]
pub(super) struct Failed {
    /// In words.
    pub text: String,
    /// Whether it may work when it is tried again.
    pub again: bool,
}

impl Failed {
    /// For this time only.
    pub fn now(text: impl ToString) -> Failed {
        Failed { text: text.to_string(), again: true }
    }

    /// For good.
    pub fn ever(text: impl ToString) -> Failed {
        Failed { text: text.to_string(), again: false }
    }
}

/// What it does, for the log.
pub(super) fn in_words(alert: &Alert) -> String {
    let what = match &alert.hook {
        Hook::Command(words) => format!("{} is run", words.first().map_or("nothing", String::as_str)),
        Hook::Url(url) => format!("{url} is posted to"),
    };
    let events = if alert.events.is_empty() { "all events".to_owned() } else { alert.events.join(", ") };
    format!("{what} on {events} (severity {} or worse), at most {} a minute", alert.severity.word(), alert.at_most)
}

/// Runs the hook on what comes, until nothing can come any more.
pub(super) async fn run(alert: Alert, mut ears: Ears) {
    let mut limit = Limit::new(alert.at_most);
    loop {
        limit.lose(ears.lost());
        let news = match limit.due() {
            None => ears.queue.recv().await,
            Some(at) => tokio::select! {
                // What waits is counted first.
                biased;
                news = ears.queue.recv() => news,
                () = sleep_until(at) => {
                    if let Some(summary) = limit.summary(Instant::now()) {
                        deliver(&alert, &summary).await;
                    }
                    continue;
                }
            },
        };
        let Some(news) = news else { return };
        if limit.lets(&news, Instant::now()) {
            deliver(&alert, &news).await;
        }
    }
}

async fn deliver(alert: &Alert, news: &News) {
    let mut pauses = PAUSES.iter();
    loop {
        let outcome = match &alert.hook {
            Hook::Command(words) => command::run(words, news, alert.timeout).await,
            Hook::Url(url) => match timeout(alert.timeout, post::post(url, &news.json)).await {
                Ok(outcome) => outcome.map_err(|e| Failed { text: format!("{url}: {}", e.text), ..e }),
                Err(_) => Err(Failed::now(format!("{url}: no answer within {} s", alert.timeout.as_secs()))),
            },
        };
        let Err(Failed { text, again }) = outcome else { return };
        match pauses.next().filter(|_| again) {
            Some(pause) => {
                log::debug!("alert: {text}; it is tried again");
                sleep(*pause).await;
            }
            None => return log::warn!("alert on {}: {text}; nobody is told of it", news.logged.event.kind),
        }
    }
}
