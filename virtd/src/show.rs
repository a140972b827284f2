//! virtd's answers as a person reads them. Fields that virtctl does not know are left out, absent ones shown as `-`, so that
//! either side may be the older one. What peers and daemons put into an answer cannot drive the terminal.

use serde_json::Value;
use std::fmt::Write;
use std::time::Duration;

/// `virtctl status`.
pub fn status(v: &Value) -> String {
    let mut rows: Vec<(&str, String)> = Vec::new();
    let router = &v["router"];
    rows.push(("up for", micros(&v["uptime_us"])));
    rows.push(("router", format!("AS {}, router id {}", text(&router["asn"]), text(&router["router_id"]))));
    let mut strategy = text(&v["strategy"]);
    if !v["k"].is_null() {
        let _ = write!(strategy, ", k = {}", text(&v["k"]));
    }
    let t = v["t_ms"].as_u64().map_or_else(|| "-".into(), |ms| duration(Duration::from_millis(ms)));
    rows.push(("strategy", format!("{strategy}, T = {t}")));
    rows.push(("sessions", format!("{} up of {}", text(&v["sessions_up"]), text(&v["sessions"]))));
    let attached = match &v["instances_attached"] {
        Value::Null => String::new(),
        n => format!("{} attached of ", text(n)),
    };
    rows.push(("instances", format!("{attached}{}, {} vote", text(&v["instances"]), text(&v["voters"]))));
    rows.push(("updates", format!("{} in, {} out", text(&v["updates_in"]), text(&v["updates_out"]))));
    rows.push(("votes", text(&v["votes"])));
    rows.push(("published", format!("{} routes", text(&v["routes_published"]))));
    let without = v["without_quorum"].as_u64().filter(|n| *n > 0);
    let without = without.map(|n| format!(", {n} prefixes without a majority")).unwrap_or_default();
    rows.push(("disagreements", format!("{} now{without}", text(&v["disagreements_now"]))));
    if v["majority_split"] == true {
        let text = "the majority itself is in doubt: nobody is accused; compare the instances' configurations";
        rows.push(("verdicts", text.to_owned()));
    }
    if let Some(why) = v["event_log"]["failing"].as_str() {
        let lost = match v["event_log"]["lost"].as_u64() {
            Some(n) => format!("; {n} events are not in it"),
            None => String::new(),
        };
        rows.push(("event log", format!("{} cannot be written: {}{lost}", text(&v["event_log"]["file"]), clean(why))));
    }
    if !v["change_us"].is_null() {
        rows.push(("policy", format!("being changed for {}: no verdict ends an instance", micros(&v["change_us"]))));
    }
    let mut out = String::new();
    for (name, value) in rows {
        let _ = writeln!(out, "{name:<15}{value}");
    }
    out
}

/// `virtctl sessions`.
pub fn sessions(v: &Value) -> String {
    let mut table = Table::new(&["PEER", "AS", "STATE", "UP", "HOLD", "IN", "OUT", "FAMILIES", "LEGS"]);
    let list = items(&v["sessions"]);
    for s in list {
        let legs: Vec<String> = items(&s["legs"])
            .iter()
            .map(|leg| {
                let detail = leg["detail"].as_str().filter(|d| !d.is_empty());
                let detail = detail.map(|d| format!(" ({})", clean(d))).unwrap_or_default();
                format!("{} {}{detail}", text(&leg["instance"]), text(&leg["state"]))
            })
            .collect();
        table.row(vec![
            text(&s["peer"]),
            text(&s["asn"]),
            match s["path"].as_str().filter(|path| *path != "up") {
                _ if s["shut"] == true => format!("{} (shut down)", text(&s["state"])),
                Some(cut) => format!("{} ({})", text(&s["state"]), clean(cut)),
                None => text(&s["state"]),
            },
            micros(&s["up_us"]),
            text(&s["hold_time_s"]),
            text(&s["prefixes_in"]),
            text(&s["prefixes_out"]),
            words(&s["families"], ","),
            if legs.is_empty() { "-".into() } else { legs.join(", ") },
        ]);
    }
    table.finish(list.is_empty(), "no session: no peer has connected, and no instance has dialled one")
}

/// `virtctl session PEER`.
pub fn session(v: &Value) -> String {
    let s = &v["session"];
    let mut out = String::new();
    let mut row = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<15}{value}");
    };
    row("peer", format!("{}, AS {}", text(&s["peer"]), text(&s["asn"])));
    let up = match s["up_us"].is_null() {
        true => String::new(),
        false => format!(
            " for {}, {}, hold time {} s",
            micros(&s["up_us"]),
            words(&s["families"], " and "),
            text(&s["hold_time_s"])
        ),
    };
    let shut = if s["shut"] == true { ", shut down by an operator" } else { "" };
    row("state", format!("{}{up}{shut}", text(&s["state"])));
    let ended = &s["ended"];
    if !ended.is_null() {
        let who = match items(&ended["left"]) {
            [] => String::new(),
            _ => format!(" by {}", words(&ended["left"], ", ")),
        };
        let now = if ended["returned"] == true { "; it has come back since" } else { "" };
        row(
            "last ended",
            format!("{} ago{who}, with NOTIFICATION {}{now}", micros(&ended["us"]), text(&ended["said"])),
        );
    }
    let mut table = Table::new(&["INSTANCE", "VOTE", "LEG", "MISSED", "SINCE", "GONE BECAUSE"]);
    let legs = items(&s["legs"]);
    for leg in legs {
        let detail = leg["detail"].as_str().filter(|d| !d.is_empty()).map(|d| format!(" ({})", clean(d)));
        let gone = &leg["gone"];
        let (since, why) = match gone.is_null() {
            true => ("-".to_owned(), "-".to_owned()),
            false => (micros(&gone["us"]), format!("it {}: {}", text(&gone["what"]), text(&gone["how"]))),
        };
        table.row(vec![
            text(&leg["instance"]),
            text(&leg["votes"]),
            format!("{}{}", text(&leg["state"]), detail.unwrap_or_default()),
            match leg["missed_us"].as_u64() {
                None | Some(0) => "-".to_owned(),
                _ => micros(&leg["missed_us"]),
            },
            since,
            why,
        ]);
    }
    out + &table.finish(legs.is_empty(), "no instance")
}

/// `virtctl instances`.
pub fn instances(v: &Value) -> String {
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
    let list = items(&v["instances"]);
    for i in list {
        table.row(vec![
            text(&i["name"]),
            version(i),
            format!("{}{}", text(&i["role"]), if i["pinned"] == true { ", pinned" } else { "" }),
            match items(&i["suspect"]) {
                [] => text(&i["state"]),
                _ => format!("{}, suspect: {}", text(&i["state"]), words(&i["suspect"], ", ")),
            },
            format!("{}/{}", text(&i["legs_up"]), text(&i["legs"])),
            text(&i["dissents_now"]),
            text(&i["dissents_total"]),
            i["cpu_percent"].as_f64().map_or_else(|| "-".into(), |percent| format!("{percent:.0}%")),
            i["memory_kib"].as_u64().map_or_else(|| "-".into(), |kib| format!("{}M", kib / 1024)),
            words(&i["pids"], " "),
            text(&i["last_fault"]),
        ]);
    }
    table.finish(list.is_empty(), "no instance")
}

/// Kind and version of an instance, as far as virtd knows either: it does of what it starts by its kind.
fn version(instance: &Value) -> String {
    let known = [&instance["kind"], &instance["version"]].into_iter().filter_map(Value::as_str).collect::<Vec<_>>();
    if known.is_empty() { "-".into() } else { known.join(" ") }
}

/// `virtctl fib`: the whole, or entries.
pub fn fib(v: &Value) -> String {
    if !v["entries"].is_null() {
        return fib_entries(v);
    }
    let mut out = String::new();
    let mut row = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<15}{value}");
    };
    row("routes", format!("{} chosen, {} the kernel does not take", text(&v["routes"]), text(&v["failed"])));
    let without = v["without_quorum"].as_u64().unwrap_or(0);
    row("disagreements", format!("{without} entries without a majority"));
    let ahead = format!("{} answered ahead, {} taken back", text(&v["answered_ahead"]), text(&v["taken_back"]));
    row("requests", format!("{} taken, {} refused; {ahead}", text(&v["requests"]), text(&v["refused"])));
    let kernel = &v["kernel"];
    if !kernel.is_null() {
        row(
            "kernel",
            format!(
                "{} written, {} removed, {} repaired",
                text(&kernel["written"]),
                text(&kernel["removed"]),
                text(&kernel["repaired"])
            ),
        );
    }
    let mut table = Table::new(&["INSTANCE", "STATE", "ROUTES", "DISSENTS", "SOCKETS"]);
    let list = items(&v["instances"]);
    for i in list {
        table.row(["name", "state", "routes", "dissents", "sockets"].iter().map(|k| text(&i[*k])).collect());
    }
    out + &table.finish(list.is_empty(), "no instance")
}

fn fib_entries(v: &Value) -> String {
    let (list, mut out) = (items(&v["entries"]), String::new());
    if list.is_empty() {
        return "no such entry: nobody writes it, or nobody differs\n".into();
    }
    for e in list {
        let _ = writeln!(out, "{}: {}", text(&e["key"]), text(&e["route"]));
        if let Some(why) = e["failed"].as_str() {
            let _ = writeln!(out, "    not in the kernel: {}", clean(why));
        }
        let said = items(&e["said"]);
        let width = said.iter().map(|x| text(&x["instance"]).chars().count()).max().unwrap_or(0);
        for x in said {
            let mark = match (x["counted"].as_bool(), x["route"] == e["route"]) {
                (Some(false), _) => " ",
                (_, true) => "+",
                (_, false) => "!",
            };
            let _ = writeln!(out, "  {mark} {:<width$} {}", text(&x["instance"]), text(&x["route"]));
        }
    }
    if v["more"] == true {
        out.push_str("... and more: ask for one prefix\n");
    }
    out
}

/// `virtctl diversity`.
pub fn diversity(v: &Value) -> String {
    let pairs = items(&v["pairs"]);
    let mut out = pair_table(pairs).finish(pairs.is_empty(), "no two instances");
    if let Some(reading) = v["reading"].as_str() {
        let _ = writeln!(out, "\n{}", clean(reading));
    }
    for s in items(&v["sessions"]) {
        let _ = write!(out, "\n{}\n{}", text(&s["peer"]), pair_table(items(&s["pairs"])).finish(false, ""));
    }
    out
}

/// Kinds of differences shown of a pair; `--json` has them all.
const SHOWN_ATTRIBUTES: usize = 3;

fn pair_table(pairs: &[Value]) -> Table {
    let mut table =
        Table::new(&["PAIR", "COMPARED", "DISAGREED", "SHARE", "TOGETHER", "WRONG TOGETHER", "ALIKE", "DIFFERED IN"]);
    let of = |part: &Value, whole: &Value| match whole.as_u64() {
        Some(1..) => format!("{} of {}", text(part), text(whole)),
        _ => "-".to_owned(),
    };
    for p in pairs {
        let attributes = items(&p["attributes"]).iter().take(SHOWN_ATTRIBUTES);
        let attributes: Vec<_> = attributes.map(|a| format!("{} {}", text(&a["name"]), text(&a["votes"]))).collect();
        let verdicts = &p["verdicts"];
        table.row(vec![
            words(&p["instances"], ", "),
            text(&p["compared"]),
            text(&p["disagreed"]),
            p["share"].as_f64().map_or_else(|| "-".into(), percent),
            of(&p["together"], &p["contested"]),
            of(&verdicts["common"], &verdicts["either"]),
            of(&verdicts["alike"], &verdicts["common"]),
            if attributes.is_empty() { "-".into() } else { attributes.join(", ") },
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
pub fn reload(v: &Value) -> String {
    let (done, later) = (items(&v["done"]), items(&v["later"]));
    let dry = v["dry_run"] == true;
    let mut out = String::new();
    match (done.is_empty(), dry) {
        (true, _) => out.push_str("nothing to do\n"),
        (false, true) => out.push_str("would be done:\n"),
        (false, false) => {}
    }
    for line in done {
        let _ = writeln!(out, "{}{}", if dry { "  " } else { "" }, text(line));
    }
    if !later.is_empty() {
        let _ = writeln!(out, "needs a restart of virtd, and is left as it was: {}", words(&v["later"], ", "));
    }
    out
}

/// What a command has done.
pub fn done(v: &Value) -> String {
    format!("{}\n", text(&v["done"]))
}

/// `virtctl routes PREFIX`.
pub fn routes(v: &Value) -> String {
    if let (Some(asked), true) = (v["asked"].as_str(), v["prefix"].is_null()) {
        return format!("{}\n  no prefix has it of which anybody has said anything\n", clean(asked));
    }
    let asked = v["asked"].as_str().map(|asked| format!(" (the longest that has {})", clean(asked)));
    let mut out = format!("{}{}\n", text(&v["prefix"]), asked.unwrap_or_default());
    let received = items(&v["received"]);
    let told = items(&v["sessions"]);
    if received.is_empty() && told.is_empty() {
        out.push_str("  nobody has said anything about it\n");
        return out;
    }
    for r in received {
        let _ = writeln!(out, "  from {}: {}", text(&r["peer"]), route(&r["route"]));
    }
    for s in told {
        let _ = writeln!(out, "  to {}: {}", text(&s["peer"]), route(&s["published"]));
        if s["winner"] != s["published"] {
            let _ = writeln!(out, "    the winner, not published yet: {}", route(&s["winner"]));
        }
        if let Some(why) = s["why"].as_str().filter(|w| !w.is_empty()) {
            let _ = writeln!(out, "    because {}", clean(why));
        }
        let said = items(&s["said"]);
        let width = said.iter().map(|x| text(&x["instance"]).chars().count()).max().unwrap_or(0);
        for x in said {
            // Equal in meaning is with the winner, in whatever form.
            let agrees = x["agrees"].as_bool().unwrap_or_else(|| x["route"] == s["winner"]);
            let mark = match (x["counted"].as_bool(), agrees) {
                (Some(true), true) => '=',
                (Some(true), false) => '!',
                _ => ' ',
            };
            let note = x["note"].as_str().filter(|n| !n.is_empty());
            let note = note.map(|n| format!("  [{}]", clean(n))).unwrap_or_default();
            let _ = writeln!(out, "    {mark} {:<width$}  {}{note}", text(&x["instance"]), route(&x["route"]));
        }
    }
    out
}

/// `virtctl differs`.
pub fn differs(v: &Value) -> String {
    let list = items(&v["differs"]);
    let mut table = Table::new(&["PEER", "PREFIX", "INSTANCE", "DIFFERS IN"]);
    for d in list {
        let lost = if d["majority"] == false { " (no majority)" } else { "" };
        for x in items(&d["instances"]) {
            let note = if x["counted"] == false { " (not counted)" } else { lost };
            let aspects = format!("{}{note}", words(&x["in"], ", "));
            table.row(vec![text(&d["peer"]), text(&d["prefix"]), text(&x["instance"]), aspects]);
        }
    }
    let mut out = table.finish(list.is_empty(), "nobody has differed for T or longer");
    if let Some(more) = v["more"].as_u64().filter(|n| *n > 0) {
        let _ = writeln!(out, "... and {more} more");
    }
    if v["all_were_looked_at"] == false {
        let without = text(&v["without_majority"]);
        let _ = writeln!(out, "... and others of the {without} prefixes without a majority: not all were looked at");
    }
    out
}

/// `virtctl events`.
pub fn events(v: &Value) -> String {
    let list = items(&v["events"]);
    if list.is_empty() {
        return "no such event\n".into();
    }
    list.iter().map(event).collect()
}

/// One event, with what every instance said below it.
pub fn event(v: &Value) -> String {
    if let Some(missed) = v["missed"].as_u64() {
        return format!("({missed} events came faster than they could be shown)\n");
    }
    let severity = match v["severity"].as_str() {
        Some("alarm") => "ALARM",
        Some("warning") => "warning",
        _ => "info",
    };
    let what = text(&v["text"]);
    // Most texts speak of "this session".
    let session = v["session"].as_str().map(clean).filter(|s| !what.contains(s.as_str()));
    let session = session.map(|s| format!("{s}: ")).unwrap_or_default();
    let mut out = format!("{} {severity:<7} {:<20} {session}{what}\n", text(&v["time"]), text(&v["kind"]));
    for said in items(&v["said"]) {
        let counted = if said["counted"].as_bool() == Some(false) { "  [not counted]" } else { "" };
        let _ = writeln!(out, "    {:<12} {}{counted}", text(&said["instance"]), text(&said["route"]));
    }
    out
}

/// A route in one line; `null` is none.
fn route(v: &Value) -> String {
    let Value::Object(_) = v else { return if v.is_null() { "none".into() } else { text(v) } };
    let mut out = format!("via {}", text(&v["next_hop"]));
    if !v["link_local"].is_null() {
        let _ = write!(out, " ({})", text(&v["link_local"]));
    }
    let path = text(&v["as_path"]);
    let _ = write!(out, ", path {}", if path.is_empty() { "empty".into() } else { path });
    let _ = write!(out, ", {}", text(&v["origin"]));
    for (name, key) in [("MED", "med"), ("local preference", "local_pref")] {
        if !v[key].is_null() {
            let _ = write!(out, ", {name} {}", text(&v[key]));
        }
    }
    for (name, key) in [("communities", "communities"), ("large communities", "large_communities"), ("and", "other")] {
        if !items(&v[key]).is_empty() {
            let _ = write!(out, ", {name} {}", words(&v[key], " "));
        }
    }
    out
}

/// A plain value; absent is `-`.
fn text(v: &Value) -> String {
    match v {
        Value::Null => "-".into(),
        Value::String(s) => clean(s),
        Value::Bool(b) => if *b { "yes" } else { "no" }.into(),
        other => clean(&other.to_string()),
    }
}

/// Control characters cannot leave.
fn clean(s: &str) -> String {
    s.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn items(v: &Value) -> &[Value] {
    v.as_array().map_or(&[], Vec::as_slice)
}

fn words(v: &Value, between: &str) -> String {
    match items(v) {
        [] => "-".into(),
        list => list.iter().map(text).collect::<Vec<_>>().join(between),
    }
}

fn micros(v: &Value) -> String {
    v.as_u64().map_or_else(|| "-".into(), |us| duration(Duration::from_micros(us)))
}

/// `850ms`, `9s`, `4m05s`, `3h20m`, `12d04h`.
fn duration(d: Duration) -> String {
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
