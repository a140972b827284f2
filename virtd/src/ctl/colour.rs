//! Modest colours: what is an alarm is red, what is a warning yellow, the rest as it is. Only where
//! somebody sees them.

use super::arguments::Command;
use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use clap::ColorChoice;
use std::io;

const RED: Style = AnsiColor::Red.on_default().bold();
const YELLOW: Style = AnsiColor::Yellow.on_default();

/// Whether to colour: as was said, or where that is `auto` on a terminal that is not dumb, unless
/// NO_COLOR (no-color.org) or CLICOLOR says otherwise.
pub fn wanted(choice: ColorChoice) -> bool {
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never,
    }
}

/// What a command prints, with colours. Only lines and places that are ours decide: what a peer or
/// a daemon has put into a text cannot.
pub fn paint(command: &Command, text: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| match style(command, line) {
            None => line.to_owned(),
            Some(style) => {
                let words = line.trim_end_matches('\n');
                format!("{style}{words}{style:#}{}", line.get(words.len()..).unwrap_or_default())
            }
        })
        .collect()
}

fn style(command: &Command, line: &str) -> Option<Style> {
    let starts = |start: &str| line.trim_start().starts_with(start);
    let cells = || line.split("  ").map(str::trim).filter(|cell| !cell.is_empty());
    let cell = |n: usize| cells().nth(n).unwrap_or_default();
    match command {
        // Behind the time.
        Command::Events { .. } => severity(line.split(' ').nth(1)?),
        Command::Status => match cell(0) {
            "verdicts" | "event log" => Some(RED),
            "policy" | "worker" => Some(YELLOW),
            _ if starts("disagreements") && !line.trim_end().ends_with(" 0 now") => Some(YELLOW),
            _ => None,
        },
        Command::Sessions => match cell(2) {
            "STATE" | "Established" | "native" | "" => None,
            state if state.ends_with("(shut down)") => None,
            _ => Some(RED),
        },
        Command::Instances => match (cell(2), cell(3), cell(5)) {
            ("ROLE", ..) => None,
            (role, "absent", _) if role.starts_with("voter") => Some(RED),
            ("standby", ..) => None,
            (_, "absent" | "attached" | "catching-up" | "drained", _) => Some(YELLOW),
            (_, state, _) if state.contains(", suspect: ") => Some(YELLOW),
            (.., dissents) => (dissents.parse::<u64>().ok()? > 0).then_some(YELLOW),
        },
        Command::Why { .. } | Command::Routes { .. } | Command::Fib { .. } => {
            if starts("NOT IN THE KERNEL")
                || starts("not in the kernel")
                || starts("because  NO MAJORITY")
                || starts("because no majority")
            {
                Some(RED)
            } else if starts("! ") || starts("because  only one instance") || starts("the winner, not published yet") {
                Some(YELLOW)
            } else {
                // Events at the end of `why`.
                line.strip_prefix("  ").and_then(|l| severity(l.split(' ').nth(1)?))
            }
        }
        Command::Differs { .. } => line.trim_end().ends_with(" (no majority)").then_some(RED),
        Command::Health { .. } => match line.split(' ').next()? {
            "CRITICAL" | "UNKNOWN" => Some(RED),
            "WARNING" => Some(YELLOW),
            _ => None,
        },
        _ => None,
    }
}

fn severity(word: &str) -> Option<Style> {
    match word {
        "ALARM" => Some(RED),
        "warning" => Some(YELLOW),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::arguments::Arguments;
    use clap::Parser;

    /// As a command shows its line: `r` red, `y` yellow, `-` plain.
    fn colours(words: &[&str], text: &str) -> String {
        let arguments = Arguments::try_parse_from([&["virtctl"], words].concat()).expect("arguments");
        let painted = paint(&arguments.command, text);
        let plain = anstream::adapter::strip_str(&painted).to_string();
        assert_eq!(plain, text, "colours change no word");
        let of = |line: &str| match line.strip_prefix('\u{1b}') {
            None => '-',
            Some(codes) if codes.contains("[31m") => 'r',
            Some(_) => 'y',
        };
        painted.lines().map(of).collect()
    }

    #[test]
    fn alarms_are_red_warnings_yellow_and_the_rest_plain() {
        let events = "T ALARM   no-quorum   text\nT warning disagreement   text\n    frr   via ALARM\nT info    session-up   ALARM\n";
        assert_eq!(colours(&["events"], events), "ry--");
        let status = "up for         1h\ndisagreements  0 now\ndisagreements  2 now\nverdicts       the majority\n";
        assert_eq!(colours(&["status"], status), "--yr");
        let sessions = "PEER       AS  STATE        UP\n192.0.2.1  1   Established  9s\n192.0.2.2  -   Connect      -\n192.0.2.3  -   Idle (shut down)  -\n";
        assert_eq!(colours(&["sessions"], sessions), "--r-");
        let instances = "INSTANCE  VERSION  ROLE   STATE   LEGS  DISSENTS\nfrr       frr 8  voter  absent  0/2   0\nbird      -      voter  voting  2/2   3\nx         -      voter  voting  2/2   0\n";
        assert_eq!(colours(&["instances"], instances), "-ry-");
        let routes = "P\n    because no majority: x\n    = frr  via x\n    ! bird via x\n";
        assert_eq!(colours(&["routes", "10.0.0.0/8"], routes), "-r-y");
        let why = "P\n    because  NO MAJORITY, x\n    ! bird: none\n  T warning disagreement  x\n  from x: via y\n";
        assert_eq!(colours(&["why", "10.0.0.0/8"], why), "-ryy-");
        assert_eq!(colours(&["health"], "CRITICAL - x\n"), "r");
        assert_eq!(colours(&["health"], "WARNING - x\n"), "y");
        assert_eq!(colours(&["health"], "OK - ALARM\n"), "-");
        assert_eq!(colours(&["differs"], "PEER\nx  y  z  AS_PATH (no majority)\nx  y  z  AS_PATH\n"), "-r-");
    }

    #[test]
    fn what_was_said_decides() {
        assert!(wanted(ColorChoice::Always) && !wanted(ColorChoice::Never));
    }
}
