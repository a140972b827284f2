//! What a new configuration changes, and which of that can be done while sessions are up. Nothing
//! is done here.

use crate::config::{Config, Instance, Kind, Strategy};

/// What is to be done with instances.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// A new one comes.
    Add(Box<Instance>),
    /// The one at this place goes, once those that come have caught up.
    Remove(usize),
    /// Another is started beside the one at this place, and takes it when it has caught up.
    Swap(usize, Box<Instance>),
    /// The one at this place ends and is started by other means.
    StartAnew(usize, Box<Instance>),
    /// The one at this place goes on: only what it is for, or what its votes are limited to, has
    /// changed.
    Adjust(usize, Box<Instance>),
    /// The one at this place was to go, or to be replaced, and is to stay now.
    Keep(usize),
    /// What was started to take another's place is not wanted any more.
    Recall(usize),
}

/// An instance that there is.
#[derive(Clone, Debug)]
pub struct Present<'c> {
    /// Its place.
    pub at: usize,
    /// How it is configured.
    pub config: &'c Instance,
    /// It is to leave when it may.
    pub leaves: bool,
    /// Who is to take its place: where that is, and how it is configured.
    pub successor: Option<(usize, &'c Instance)>,
}

/// What there is to do.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    /// With instances.
    pub steps: Vec<Step>,
    /// Settings that are taken over at once, in words.
    pub settings: Vec<String>,
    /// What stays as it is until virtd is restarted.
    pub later: Vec<String>,
}

/// Whether another may run beside it: the sockets of a `kind`'s daemon are in its folder, except
/// where its own file names them, and of what a `command` opens virtd knows nothing.
fn can_run_twice(instance: &Instance) -> bool {
    matches!(instance.kind, Some(Kind::Frr | Kind::Bird))
}

/// Compares what there is with what is wanted. `free`: places for more instances. `labels`: those
/// in use, of instances that are being ended, too.
///
/// # Errors
/// What is wanted cannot be had, in words.
pub fn instances(
    present: &[Present<'_>],
    wanted: &[Instance],
    labels: &[String],
    mut free: usize,
) -> Result<(Vec<Step>, Vec<String>), String> {
    let (mut steps, mut later) = (Vec::new(), Vec::new());
    let mut labels = labels.to_vec();
    for p in present.iter().filter(|p| wanted.iter().all(|w| w.name != p.config.name)) {
        steps.extend(p.successor.map(|(at, _)| Step::Recall(at)));
        if !p.leaves {
            steps.push(Step::Remove(p.at));
        }
    }
    for w in wanted {
        let Some(p) = present.iter().find(|p| p.config.name == w.name) else {
            let label = fresh_label(&w.name, &labels);
            if label != w.name && !(w.is_ours() && w.kind != Some(Kind::OpenBgpd)) {
                return Err(format!("{} is still being ended: try again in a moment", w.name));
            }
            free = free
                .checked_sub(1)
                .ok_or("there are no places left for more instances: try again when those that leave are gone")?;
            labels.push(label.clone());
            steps.push(Step::Add(Box::new(labelled(w, label))));
            continue;
        };
        if p.leaves {
            steps.push(Step::Keep(p.at));
        }
        let same = |there: &Instance| there.lasting() == w.lasting();
        let stays = labelled(w, p.config.label().to_owned());
        let adjusted = |at, there: &Instance| {
            let new = labelled(w, there.label().to_owned());
            (*there != new).then(|| Step::Adjust(at, Box::new(new)))
        };
        match p.successor {
            // It is on its way already.
            Some((at, s)) if same(s) => {
                steps.extend(adjusted(at, s));
                continue;
            }
            Some((at, _)) => steps.push(Step::Recall(at)),
            None => {}
        }
        if same(p.config) {
            steps.extend(adjusted(p.at, p.config));
        } else if !p.config.is_ours() || !w.is_ours() {
            // Who starts it cannot change here, and of what somebody else starts virtd decides no
            // more than this.
            let what = if p.config.is_ours() == w.is_ours() { "diversity, fib_scope, user" } else { "who starts it" };
            later.push(format!("instance {}: {what}", w.name));
        } else if can_run_twice(p.config) && can_run_twice(w) && free > 0 {
            free -= 1;
            let label = fresh_label(&w.name, &labels);
            labels.push(label.clone());
            steps.push(Step::Swap(p.at, Box::new(labelled(w, label))));
        } else if stays.diversity != p.config.diversity || stays.fib_scope != p.config.fib_scope {
            later.push(format!("instance {}: diversity, fib_scope", w.name));
        } else {
            // OpenBGPD's own file names the folder.
            steps.push(Step::StartAnew(p.at, Box::new(w.clone())));
        }
    }
    Ok((steps, later))
}

fn labelled(instance: &Instance, label: String) -> Instance {
    Instance { label: (label != instance.name).then_some(label), ..instance.clone() }
}

/// The name itself, or the first with a number behind it that nobody has.
fn fresh_label(name: &str, labels: &[String]) -> String {
    let taken = |label: &String| labels.contains(label);
    let numbered = (2..).map(|n| format!("{name}+{n}"));
    std::iter::once(name.to_owned()).chain(numbered).find(|l| !taken(l)).unwrap_or_default()
}

/// Settings that are taken over at once, in words, and those that are not.
pub fn settings(old: &Config, new: &Config) -> (Vec<String>, Vec<String>) {
    let (mut now, mut later) = (Vec::new(), Vec::new());
    let mut note = |changed: bool, text: String| now.extend(changed.then_some(text));
    let (v, w) = (&old.vote, &new.vote);
    note(v.strategy != w.strategy, format!("strategy is {}", w.strategy.name()));
    let k = matches!(w.strategy, Strategy::WaitForConsensus | Strategy::FirstK);
    note(v.k != w.k && k, w.k.map_or("k is a majority".to_owned(), |k| format!("k is {k}")));
    note(v.t_ms != w.t_ms, format!("t_ms is {}", w.t_ms));
    note(v.min_voters != w.min_voters, format!("min_voters is {}", w.min_voters));
    note(old.faults != new.faults, "[faults] is as configured now".to_owned());
    note(old.timers != new.timers, "[timers] is as configured now; leg_hold_s for legs that come".to_owned());
    note(old.accept_any != new.accept_any, format!("accept_any is {}", new.accept_any));
    note(old.allow_own_as != new.allow_own_as, format!("allow_own_as is {}", new.allow_own_as));
    note(old.native_ports != new.native_ports, "native_ports are as configured now".to_owned());
    for p in new.peers.iter().filter(|p| old.peers.iter().all(|o| o.address != p.address)) {
        note(true, format!("peer {} is let in", p.address));
    }
    for p in old.peers.iter().filter(|p| new.peers.iter().all(|n| n.address != p.address)) {
        note(true, format!("peer {} is not configured any more", p.address));
    }
    for p in new.peers.iter().filter(|p| old.peers.iter().any(|o| o.address == p.address && o != *p)) {
        note(true, format!("peer {} is as configured now", p.address));
    }
    let mut keep = |changed: bool, what: &str| later.extend(changed.then(|| what.to_owned()));
    keep(old.asn != new.asn, "asn");
    keep(old.router_id != new.router_id, "router_id");
    keep(old.port != new.port, "port");
    keep(old.listen != new.listen, "listen");
    keep(old.user != new.user, "user");
    keep(old.group != new.group, "group");
    keep(old.shim_socket != new.shim_socket, "shim_socket");
    keep(old.shim_group != new.shim_group, "shim_group");
    keep(old.control_socket != new.control_socket, "control_socket");
    keep(old.control_mode != new.control_mode, "control_mode");
    keep(old.control_group != new.control_group, "control_group");
    keep(old.control_socket_ro != new.control_socket_ro, "control_socket_ro");
    keep(old.control_ro_mode != new.control_ro_mode, "control_ro_mode");
    keep(old.control_ro_group != new.control_ro_group, "control_ro_group");
    keep(old.state != new.state, "state");
    keep(old.event_log != new.event_log, "event_log");
    keep(old.open != new.open, "open");
    keep(old.inbound != new.inbound, "inbound");
    keep(old.allow_reserved_ranges != new.allow_reserved_ranges, "allow_reserved_ranges");
    keep(old.confederation != new.confederation, "confederation");
    keep(old.ignore_attributes != new.ignore_attributes, "ignore_attributes");
    keep(old.recorder != new.recorder, "[recorder]");
    keep(old.fib != new.fib, "[fib]");
    (now, later)
}

impl Step {
    /// What it does, in words. `name` gives the name of the instance at a place.
    pub fn words<'n>(&self, name: impl Fn(usize) -> &'n str) -> String {
        let by = |i: &Instance| match (&i.kind, &i.root) {
            (Some(kind), Some(root)) => format!("{} of {}", kind.name(), root.display()),
            (Some(kind), None) => kind.name().to_owned(),
            (None, _) if i.command.is_empty() => "something else starts it".to_owned(),
            (None, _) => i.command.join(" "),
        };
        match self {
            Step::Add(i) => format!("{} is added ({})", i.name, by(i)),
            Step::Remove(at) => format!("{} is removed, once those that come have caught up", name(*at)),
            Step::Swap(at, i) => {
                format!("{} is replaced by {} ({}), once that has caught up", name(*at), i.label(), by(i))
            }
            Step::StartAnew(at, i) => format!("{} is ended and started anew ({})", name(*at), by(i)),
            Step::Adjust(at, _) => format!("{}: role or limits are as configured now", name(*at)),
            Step::Keep(at) => format!("{} stays after all", name(*at)),
            Step::Recall(at) => format!("{} is not wanted any more", name(*at)),
        }
    }
}
