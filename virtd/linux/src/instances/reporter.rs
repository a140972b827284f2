//! What happens to processes, told to the operator and to the core.

use super::version;
use crate::eventlog::EventSender;
use crate::instances::Report;
use broker::event::{Event, Severity};
use broker::io::{InstanceId, ProcessNews};
use crossbeam_channel::Sender;
use std::net::IpAddr;
use std::time::Instant;
use virtd_config::Instance;

/// Makes events, and reports to the core, out of what happens to processes.
#[derive(Clone)]
pub(super) struct Reporter {
    start: Instant,
    events: EventSender,
    reports: Sender<Report>,
}

impl Reporter {
    /// `start` is the zero of [`Event::at_us`].
    pub(super) fn new(start: Instant, events: EventSender, reports: Sender<Report>) -> Reporter {
        Reporter { start, events, reports }
    }

    /// Tells the operator.
    pub(super) fn report(&self, kind: &'static str, severity: Severity, instance: &str, text: String) {
        self.events.send(Event::new(self.at_us(), kind, severity, text).with_instance(instance));
    }

    fn at_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Tells the core, by way of the master's loop. That takes what waits; should it ever not keep
    /// up, waiting here harms nobody.
    pub(super) fn news(&self, instance: InstanceId, news: ProcessNews) {
        let _ = self.reports.send(Report { instance, news });
    }

    /// Tells the operator what became of a neighbour's restart.
    pub(super) fn neighbour(&self, instance: &str, peer: IpAddr, outcome: Result<(), String>) {
        let (kind, severity, text) = match outcome {
            Ok(()) => (
                "neighbour-restarted",
                Severity::Info,
                format!("virtd asked {instance} to begin its session with {peer} anew"),
            ),
            Err(e) => (
                "neighbour-restart-failed",
                Severity::Warning,
                format!("{instance} could not be asked to begin its session with {peer} anew: {e}"),
            ),
        };
        let mut event = Event::new(self.at_us(), kind, severity, text).with_instance(instance);
        event.session = Some(peer.to_string());
        self.events.send(event);
    }

    /// Tells the core which version an instance is, once its program has said so. Nothing waits for
    /// that.
    pub(super) fn tell_version(&self, id: InstanceId, instance: &Instance) {
        if instance.kind.is_none() {
            return;
        }
        let (reporter, instance) = (self.clone(), instance.clone());
        let ask = move || match version::ask(&instance) {
            Ok(Some(version)) => reporter.news(id, ProcessNews::Version { version }),
            Ok(None) => log::info!("{} does not say its version", instance.label()),
            Err(e) => log::info!("{} cannot be asked for its version: {e}", instance.label()),
        };
        // For people to read: without it everything goes on.
        if let Err(e) = std::thread::Builder::new().name("instance-version".into()).spawn(ask) {
            log::info!("no thread to ask for a version: {e}");
        }
    }
}
