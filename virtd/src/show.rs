//! virtd's answers as a person reads them. What is not known is shown as `-`. What peers and
//! daemons put into an answer cannot drive the terminal.

use std::fmt::{Display, Write};
use std::time::Duration;
use virtd_api as api;

/// `virtctl status`.
pub fn status(v: &api::Status) -> String {
    let mut rows: Vec<(&str, String)> = Vec::new();
    rows.push(("up for", micros(v.uptime_us)));
    if let Some(turn) = v.longest_turn {
        rows.push((
            "longest turn",
            format!("{} ms of processor time, {} ms on the clock", turn.us / 1000, turn.wall_us / 1000),
        ));
    }
    if let Some(worker) = v.worker.filter(|worker| worker.restarts > 0) {
        let times = if worker.restarts == 1 { "once".to_owned() } else { format!("{} times", worker.restarts) };
        rows.push(("worker", format!("process {}; started again {times}, since the one before died", worker.pid)));
    }
    rows.push(("router", format!("AS {}, router id {}", or_dash(v.router.asn), or_dash(v.router.router_id))));
    let k = v.k.map(|k| format!(", k = {k}")).unwrap_or_default();
    rows.push(("strategy", format!("{}{k}, T = {}", text(&v.strategy), duration(Duration::from_millis(v.t_ms)))));
    rows.push(("sessions", format!("{} up of {}", v.sessions_up, v.sessions)));
    let attached = v.instances_attached.map(|n| format!("{n} attached of ")).unwrap_or_default();
    rows.push(("instances", format!("{attached}{}, {} vote", v.instances, v.voters)));
    rows.push(("updates", format!("{} in, {} out", v.updates_in, v.updates_out)));
    rows.push(("votes", v.votes.to_string()));
    rows.push(("published", format!("{} routes", v.routes_published)));
    let without = match v.without_quorum {
        0 => String::new(),
        n => format!(", {n} prefixes without a majority"),
    };
    rows.push(("disagreements", format!("{} now{without}", v.disagreements_now)));
    if v.majority_split {
        let text = "the majority itself is in doubt: nobody is accused; compare the instances' configurations";
        rows.push(("verdicts", text.to_owned()));
    }
    if let Some(api::EventLog { file, failing: Some(why), lost }) = &v.event_log {
        let file = clean(&file.display().to_string());
        rows.push(("event log", format!("{file} cannot be written: {}; {lost} events are not in it", clean(why))));
    }
    if let Some(us) = v.change_us {
        rows.push(("policy", format!("being changed for {}: no verdict ends an instance", micros(us))));
    }
    lines(rows)
}

/// `virtctl sessions`.
pub fn sessions(v: &api::Sessions) -> String {
    let mut table = Table::new(&["PEER", "AS", "STATE", "UP", "HOLD", "IN", "OUT", "FAMILIES", "LEGS"]);
    for s in &v.sessions {
        let legs: Vec<String> =
            s.legs.iter().map(|leg| format!("{} {}", text(&leg.instance), leg_state(leg))).collect();
        let state = text(&s.state);
        table.row(vec![
            text(&s.peer),
            or_dash(s.asn),
            match s.path.as_deref().filter(|path| *path != "up") {
                _ if s.shut => format!("{state} (shut down)"),
                Some(cut) => format!("{state} ({})", clean(cut)),
                None => state,
            },
            s.up_us.map_or_else(|| "-".into(), micros),
            or_dash(s.hold_time_s),
            or_dash(s.prefixes_in),
            or_dash(s.prefixes_out),
            words(s.families.as_deref().unwrap_or_default(), ","),
            if legs.is_empty() { "-".into() } else { legs.join(", ") },
        ]);
    }
    table.finish(v.sessions.is_empty(), "no session: no peer has connected, and no instance has dialled one")
}

fn leg_state(leg: &api::Leg) -> String {
    let detail = if leg.detail.is_empty() { String::new() } else { format!(" ({})", clean(&leg.detail)) };
    format!("{}{detail}", text(&leg.state))
}

/// `virtctl session PEER`.
pub fn session(v: &api::OneSession) -> String {
    let s = &v.session;
    let mut rows = vec![("peer", format!("{}, AS {}", text(&s.peer), or_dash(s.asn)))];
    let up = s.up_us.map(|us| {
        let families = words(s.families.as_deref().unwrap_or_default(), " and ");
        format!(" for {}, {families}, hold time {} s", micros(us), or_dash(s.hold_time_s))
    });
    let shut = if s.shut { ", shut down by an operator" } else { "" };
    rows.push(("state", format!("{}{}{shut}", text(&s.state), up.unwrap_or_default())));
    if let Some(ended) = &s.ended {
        let who = match ended.left.is_empty() {
            true => String::new(),
            false => format!(" by {}", words(&ended.left, ", ")),
        };
        let now = if ended.returned { "; it has come back since" } else { "" };
        let said = text(&ended.said);
        rows.push(("last ended", format!("{} ago{who}, with NOTIFICATION {said}{now}", micros(ended.us))));
    }
    let mut table = Table::new(&["INSTANCE", "VOTE", "LEG", "MISSED", "SINCE", "GONE BECAUSE"]);
    for leg in &s.legs {
        let (since, why) = match &leg.gone {
            None => ("-".to_owned(), "-".to_owned()),
            Some(gone) => (micros(gone.us), format!("it {}: {}", text(&gone.what), text(&gone.how))),
        };
        table.row(vec![
            text(&leg.instance),
            if leg.votes { "yes" } else { "no" }.to_owned(),
            leg_state(leg),
            if leg.missed_us == 0 { "-".to_owned() } else { micros(leg.missed_us) },
            since,
            why,
        ]);
    }
    lines(rows) + &table.finish(s.legs.is_empty(), "no instance")
}

/// `virtctl instances`.
pub fn instances(v: &api::Instances) -> String {
    let mut table = Table::new(&[
        "INSTANCE",
        "VERSION",
        "ROLE",
        "STATE",
        "LEGS",
        "DISSENTS",
        "EVER",
        "CPU",
        "MEMORY",
        "PIDS",
        "LAST FAULT",
    ]);
    for i in &v.instances {
        let suspect = match i.suspect.is_empty() {
            true => String::new(),
            false => format!(", suspect: {}", words(&i.suspect, ", ")),
        };
        // As far as virtd knows either: it does of what it starts by its kind.
        let version: Vec<String> = [&i.kind, &i.version].into_iter().flatten().cloned().collect();
        table.row(vec![
            text(&i.name),
            words(&version, " "),
            format!("{}{}", text(&i.role), if i.pinned { ", pinned" } else { "" }),
            format!("{}{suspect}", text(&i.state)),
            format!("{}/{}", i.legs_up, i.legs),
            i.dissents_now.to_string(),
            i.dissents_total.to_string(),
            or_dash(i.cpu_percent.map(|percent| format!("{percent:.0}%"))),
            or_dash(i.memory_kib.map(|kib| format!("{}M", kib / 1024))),
            words(&i.pids, " "),
            or_dash(i.last_fault.as_deref()),
        ]);
    }
    table.finish(v.instances.is_empty(), "no instance")
}

/// `virtctl fib`: the whole.
pub fn fib(v: &api::Fib) -> String {
    let ahead = format!("{} answered ahead, {} taken back", v.answered_ahead, v.taken_back);
    let mut rows = vec![
        ("routes", format!("{} chosen, {} the kernel does not take", v.routes, v.failed)),
        ("disagreements", format!("{} entries without a majority", v.without_quorum)),
        ("requests", format!("{} taken, {} refused; {ahead}", v.requests, v.refused)),
    ];
    if let Some(kernel) = &v.kernel {
        let api::FibKernel { written, removed, repaired, .. } = kernel;
        rows.push(("kernel", format!("{written} written, {removed} removed, {repaired} repaired")));
    }
    let mut table = Table::new(&["INSTANCE", "STATE", "ROUTES", "DISSENTS", "SOCKETS"]);
    for i in &v.instances {
        let numbers = [i.routes, i.dissents, i.sockets].map(|n| n.to_string());
        table.row([text(&i.name), text(&i.state)].into_iter().chain(numbers).collect());
    }
    lines(rows) + &table.finish(v.instances.is_empty(), "no instance")
}

/// `virtctl fib PREFIX`, `all` and `--diff`.
pub fn fib_entries(v: &api::FibEntries) -> String {
    if v.entries.is_empty() {
        return "no such entry: nobody writes it, or nobody differs\n".into();
    }
    let mut out = String::new();
    for e in &v.entries {
        let _ = writeln!(out, "{}: {}", text(&e.key), text(&e.route));
        if let Some(why) = &e.failed {
            let _ = writeln!(out, "    not in the kernel: {}", clean(why));
        }
        let width = e.said.iter().map(|x| text(&x.instance).chars().count()).max().unwrap_or(0);
        for x in &e.said {
            let mark = match (x.counted, x.route == e.route) {
                (false, _) => " ",
                (true, true) => "+",
                (true, false) => "!",
            };
            let _ = writeln!(out, "  {mark} {:<width$} {}", text(&x.instance), text(&x.route));
        }
    }
    if v.more {
        out.push_str("... and more: ask for one prefix\n");
    }
    out
}

/// `virtctl diversity`.
pub fn diversity(v: &api::Diversity) -> String {
    let mut out = pair_table(&v.pairs).finish(v.pairs.is_empty(), "no two instances");
    if !v.reading.is_empty() {
        let _ = writeln!(out, "\n{}", clean(&v.reading));
    }
    for s in v.sessions.iter().flatten() {
        let _ = write!(out, "\n{}\n{}", text(&s.peer), pair_table(&s.pairs).finish(false, ""));
    }
    out
}

/// Kinds of differences shown of a pair; `--json` has them all.
const SHOWN_ATTRIBUTES: usize = 3;

fn pair_table(pairs: &[api::Pair]) -> Table {
    let mut table =
        Table::new(&["PAIR", "COMPARED", "DISAGREED", "SHARE", "TOGETHER", "WRONG TOGETHER", "ALIKE", "DIFFERED IN"]);
    let of = |part: u64, whole: u64| if whole == 0 { "-".to_owned() } else { format!("{part} of {whole}") };
    for p in pairs {
        let attributes = p.attributes.iter().take(SHOWN_ATTRIBUTES);
        let attributes: Vec<String> = attributes.map(|a| format!("{} {}", a.name, a.votes)).collect();
        table.row(vec![
            words(&p.instances, ", "),
            p.compared.to_string(),
            p.disagreed.to_string(),
            or_dash(p.share.map(percent)),
            of(p.together, p.contested),
            of(p.verdicts.common, p.verdicts.either),
            of(p.verdicts.alike, p.verdicts.common),
            words(&attributes, ", "),
        ]);
    }
    table
}

/// A share; what is rare does not become nothing.
fn percent(share: f64) -> String {
    match share * 100.0 {
        0.0 => "0%".to_owned(),
        p if p < 0.01 => "<0.01%".to_owned(),
        p if p < 1.0 => format!("{p:.2}%"),
        p => format!("{p:.1}%"),
    }
}

/// `virtctl reload`.
pub fn reload(v: &api::Reloaded) -> String {
    let mut out = String::new();
    match (v.done.is_empty(), v.dry_run) {
        (true, _) => out.push_str("nothing to do\n"),
        (false, true) => out.push_str("would be done:\n"),
        (false, false) => {}
    }
    for line in &v.done {
        let _ = writeln!(out, "{}{}", if v.dry_run { "  " } else { "" }, text(line));
    }
    if !v.later.is_empty() {
        let _ = writeln!(out, "needs a restart of virtd, and is left as it was: {}", words(&v.later, ", "));
    }
    out
}

/// `virtctl upgrade`.
pub fn upgrade(v: &api::Upgrade) -> String {
    let program = |p: &api::Program| format!("{} ({})", text(&p.version), clean(&p.path.display().to_string()));
    let (from, to) = (program(&v.from), program(&v.to));
    let found = format!("{} sessions, {} prefixes from their peers and {} to them", v.sessions, v.heard, v.told);
    let goes = if v.dry_run { format!("could take over from {from}") } else { format!("takes over from {from}") };
    format!("{to} reads all there is ({found}) and {goes}\n")
}

/// A line of text.
pub fn line(words: &str) -> String {
    format!("{}\n", text(words))
}

/// What a command has done.
pub fn done(v: &api::Done) -> String {
    format!("{}\n", text(&v.done))
}

/// `virtctl routes PREFIX`.
pub fn routes(v: &api::Routes) -> String {
    let mut out = match (&v.prefix, &v.asked) {
        (None, Some(asked)) => {
            return format!("{}\n  no prefix has it of which anybody has said anything\n", clean(asked));
        }
        (prefix, None) => format!("{}\n", or_dash(prefix.as_deref())),
        (prefix, Some(asked)) => {
            format!("{} (the longest that has {})\n", or_dash(prefix.as_deref()), clean(asked))
        }
    };
    if v.received.is_empty() && v.sessions.is_empty() {
        out.push_str("  nobody has said anything about it\n");
        return out;
    }
    for r in &v.received {
        let _ = writeln!(out, "  from {}: {}", text(&r.peer), route(r.route.as_ref()));
    }
    for s in &v.sessions {
        let _ = writeln!(out, "  to {}: {}", text(&s.peer), route(s.published.as_ref()));
        if s.winner != s.published {
            let _ = writeln!(out, "    the winner, not published yet: {}", route(s.winner.as_ref()));
        }
        if !s.why.is_empty() {
            let _ = writeln!(out, "    because {}", clean(&s.why));
        }
        let width = s.said.iter().map(|x| text(&x.instance).chars().count()).max().unwrap_or(0);
        for x in &s.said {
            // Equal in meaning is with the winner, in whatever form.
            let mark = match (x.counted, x.agrees.unwrap_or_else(|| x.route == s.winner)) {
                (true, true) => '=',
                (true, false) => '!',
                (false, _) => ' ',
            };
            let note = if x.note.is_empty() { String::new() } else { format!("  [{}]", clean(&x.note)) };
            let _ = writeln!(out, "    {mark} {:<width$}  {}{note}", text(&x.instance), route(x.route.as_ref()));
        }
    }
    out
}

/// `virtctl differs`.
pub fn differs(v: &api::Differs) -> String {
    let mut table = Table::new(&["PEER", "PREFIX", "INSTANCE", "DIFFERS IN"]);
    for d in &v.differs {
        let lost = if d.majority { "" } else { " (no majority)" };
        for x in &d.instances {
            let note = if x.counted { lost } else { " (not counted)" };
            let aspects = format!("{}{note}", words(&x.r#in, ", "));
            table.row(vec![text(&d.peer), text(&d.prefix), text(&x.instance), aspects]);
        }
    }
    let mut out = table.finish(v.differs.is_empty(), "nobody has differed for T or longer");
    if v.more > 0 {
        let _ = writeln!(out, "... and {} more", v.more);
    }
    if !v.all_were_looked_at {
        let without = v.without_majority;
        let _ = writeln!(out, "... and others of the {without} prefixes without a majority: not all were looked at");
    }
    out
}

/// `virtctl events`.
pub fn events(v: &api::Events) -> String {
    if v.events.is_empty() {
        return "no such event\n".into();
    }
    v.events.iter().map(event).collect()
}

/// A line for who follows the events.
pub fn followed(v: &api::Followed) -> String {
    match v {
        api::Followed::Missed { missed } => format!("({missed} events came faster than they could be shown)\n"),
        api::Followed::Ended { ended } => format!("{}\n", clean(ended)),
        api::Followed::Event(e) => event(e),
    }
}

/// One event, with what every instance said below it.
fn event(logged: &api::Logged) -> String {
    let mut out = event_line(logged);
    for said in &logged.event.said {
        let counted = if said.counted { "" } else { "  [not counted]" };
        let _ = writeln!(out, "    {:<12} {}{counted}", text(&said.instance), text(&said.route));
    }
    out
}

/// One event in a line.
pub(crate) fn event_line(logged: &api::Logged) -> String {
    let v = &logged.event;
    let severity = match v.severity.as_str() {
        "alarm" => "ALARM",
        "warning" => "warning",
        _ => "info",
    };
    let what = text(&v.text);
    // Most texts speak of "this session".
    let session = v.session.as_deref().map(clean).filter(|s| !what.contains(s.as_str()));
    let session = session.map(|s| format!("{s}: ")).unwrap_or_default();
    format!("{} {severity:<7} {:<20} {session}{what}\n", text(&logged.time), text(&v.kind))
}

/// A route in one line.
pub fn route(route: Option<&api::Route>) -> String {
    let Some(r) = route else { return "none".into() };
    let mut out = format!("via {}", r.next_hop);
    if let Some(link_local) = r.link_local {
        let _ = write!(out, " ({link_local})");
    }
    let path = if r.as_path.is_empty() { "empty".into() } else { clean(&r.as_path) };
    let _ = write!(out, ", path {path}, {}", text(&r.origin));
    for (name, value) in [("MED", r.med), ("local preference", r.local_pref)] {
        if let Some(value) = value {
            let _ = write!(out, ", {name} {value}");
        }
    }
    for (name, list) in
        [("communities", &r.communities), ("large communities", &r.large_communities), ("and", &r.other)]
    {
        if !list.is_empty() {
            let _ = write!(out, ", {name} {}", words(list, " "));
        }
    }
    out
}

/// Names and values, a line each.
fn lines(rows: Vec<(&str, String)>) -> String {
    rows.into_iter().map(|(name, value)| format!("{name:<15}{value}\n")).collect()
}

/// A word or a sentence; nothing is `-`.
fn text(s: &str) -> String {
    if s.is_empty() { "-".into() } else { clean(s) }
}

/// What may not be known.
fn or_dash(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".into(), |v| text(&v.to_string()))
}

/// Control characters cannot leave.
pub(crate) fn clean(s: &str) -> String {
    s.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn words(list: &[impl Display], between: &str) -> String {
    text(&list.iter().map(ToString::to_string).collect::<Vec<_>>().join(between))
}

/// Microseconds in words: `850ms`, `4m05s`.
pub fn micros(us: u64) -> String {
    duration(Duration::from_micros(us))
}

/// `850ms`, `9s`, `4m05s`, `3h20m`, `12d04h`.
pub(crate) fn duration(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0 => format!("{}ms", d.as_millis()),
        1..60 => match d.subsec_millis() {
            ms if s < 10 && ms >= 100 => format!("{s}.{}s", ms / 100),
            _ => format!("{s}s"),
        },
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3600 % 24),
    }
}

/// Columns as wide as their widest cell; the last one is as long as it is.
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(titles: &[&str]) -> Table {
        Table { rows: vec![titles.iter().map(|t| (*t).to_owned()).collect()] }
    }

    fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    fn finish(self, empty: bool, instead: &str) -> String {
        if empty {
            return format!("{instead}\n");
        }
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |c: usize| self.rows.iter().filter_map(|r| r.get(c)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(line, "{cell:<width$}  ");
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
#[path = "show_tests.rs"]
mod tests;
