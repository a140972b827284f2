//! Plays the timelines of tests/tables/*.txt; README.txt there says how to read and write them.

use std::collections::BTreeMap;
use std::path::Path;
use voter::*;

/// Where t=0 lies: late enough that nothing of before still counts as unrest.
const START: Millis = 1_000_000_000;

/// Values are indexes into this list of words; `A%1` is route A with a link-local next hop of its
/// own.
struct Words(Vec<String>);

impl Words {
    fn id(&mut self, word: &str) -> usize {
        self.0.iter().position(|known| known == word).unwrap_or_else(|| {
            self.0.push(word.to_owned());
            self.0.len() - 1
        })
    }
}

impl Agreement<usize> for Words {
    fn agrees(&self, a: usize, b: usize) -> bool {
        let split = |id: usize| self.0[id].split_once('%').unwrap_or((&self.0[id], ""));
        let ((route_a, local_a), (route_b, local_b)) = (split(a), split(b));
        route_a == route_b && (local_a == local_b || local_a.is_empty() || local_b.is_empty())
    }
    fn prefers(&self, a: usize, b: usize) -> bool {
        self.0[a].contains('%') && !self.0[b].contains('%')
    }
}

struct Case {
    words: Words,
    names: Vec<String>,
    rules: Rules,
    candidates: Vec<usize>,
    electorate: Members,
    watched: Members,
    master_line: Vec<u8>,
    winner: usize,
    overruled: Option<usize>,
    /// Who was found apart by the last steady verdict, and has not been with a majority since.
    marked: Members,
    restless: bool,
    disturbed: (Millis, Millis),
    due: Option<Millis>,
    now: Millis,
}

fn millis(text: &str) -> Result<Millis, String> {
    let (number, unit) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 1.0),
        (None, Some(number)) => (number, 1000.0),
        (None, None) => (text, 1000.0),
    };
    let number: f64 = number.parse().map_err(|_| format!("`{text}` is not a time"))?;
    Ok((number * unit).round() as Millis)
}

fn rules(text: &str) -> Result<Rules, String> {
    let mut words = text.split_whitespace();
    let name = words.next().unwrap_or_default();
    let mut values: BTreeMap<&str, &str> = words.filter_map(|word| word.split_once('=')).collect();
    let mut take = |key: &str, default| values.remove(key).unwrap_or(default).to_owned();
    let small = |text: String| text.parse::<u8>().map_err(|_| format!("`{text}` is no count"));
    let (steady_ms, flap_cap_ms) = (millis(&take("T", "10s"))?, millis(&take("cap", "60s"))?);
    let min_voters = small(take("min_voters", "1"))?;
    let strategy = match name {
        "wait-for-consensus" => Strategy::WaitForConsensus { k: small(take("k", ""))? },
        "first-k" => Strategy::FirstK { k: small(take("k", ""))? },
        "continuous-majority" => Strategy::ContinuousMajority,
        "master-slave" => Strategy::MasterSlave,
        other => return Err(format!("unknown strategy `{other}`")),
    };
    if let Some(key) = values.keys().next() {
        return Err(format!("unknown setting `{key}`"));
    }
    Ok(Rules { strategy, steady_ms, flap_cap_ms, min_voters })
}

impl Case {
    fn new() -> Case {
        Case {
            words: Words(vec!["none".to_owned()]),
            names: Vec::new(),
            rules: rules("continuous-majority").unwrap(),
            candidates: Vec::new(),
            electorate: Members::EMPTY,
            watched: Members::EMPTY,
            master_line: Vec::new(),
            winner: 0,
            overruled: None,
            marked: Members::EMPTY,
            restless: false,
            disturbed: (0, 0),
            due: None,
            now: 0,
        }
    }

    fn instance(&self, name: &str) -> Result<u8, String> {
        let index = self.names.iter().position(|known| known == name);
        index.map(|index| index as u8).ok_or_else(|| format!("who is `{name}`?"))
    }

    fn header(&mut self, key: &str, text: &str) -> Result<(), String> {
        match key {
            "rules" => self.rules = rules(text)?,
            "voters" | "observers" => {
                for name in text.split_whitespace() {
                    let index = self.names.len() as u8;
                    self.names.push(name.to_owned());
                    self.candidates.push(0);
                    self.master_line.push(index);
                    let role = if key == "voters" { &mut self.electorate } else { &mut self.watched };
                    role.insert(index);
                }
            }
            "masters" => {
                let line = text.split_whitespace().map(|name| self.instance(name));
                self.master_line = line.collect::<Result<_, _>>()?;
            }
            "before" => {
                self.winner = self.words.id(text.trim());
                self.candidates.fill(self.winner);
            }
            other => return Err(format!("unknown line `{other}:`")),
        }
        Ok(())
    }

    /// What happens at one point of time: `frr: A`, `frr: leaves`, `frr: joins`, `input`,
    /// `restless`, `rested`.
    fn happens(&mut self, text: &str) -> Result<(), String> {
        let mut disturbed = false;
        let mut words = text.split_whitespace();
        while let Some(word) = words.next() {
            if word == "input" {
                disturbed = true;
                continue;
            }
            // The caller counts what the master says; here the case says when it is too much.
            if word == "restless" || word == "rested" {
                self.restless = word == "restless";
                continue;
            }
            let name = word.strip_suffix(':').ok_or_else(|| format!("`{word}`?"))?;
            let index = self.instance(name)?;
            match words.next().ok_or("what does it say?")? {
                "leaves" => self.electorate.remove(index),
                "joins" => self.electorate.insert(index),
                word => {
                    let value = self.words.id(word);
                    let said = &mut self.candidates[usize::from(index)];
                    disturbed |= *said != value;
                    *said = value;
                }
            }
        }
        if disturbed {
            let (first, last) = self.disturbed;
            self.disturbed = self.rules.disturb(first, last, self.now);
        }
        Ok(())
    }

    fn decide(&mut self) -> String {
        let ballot = Ballot {
            candidates: &self.candidates,
            electorate: self.electorate,
            master_line: &self.master_line,
            winner: self.winner,
            overruled: self.overruled,
            restless: self.restless,
            first_disturbed: self.disturbed.0,
            last_disturbed: self.disturbed.1,
        };
        let outcome = decide(&self.rules, &ballot, self.watched, &self.words, self.now);
        self.overruled = outcome.overruled;
        self.due = outcome.recheck_at;
        let mut said = match outcome.decision {
            Decision::Keep => "keep".to_owned(),
            Decision::Publish(value) => {
                self.winner = value;
                format!("publish {}", self.words.0[value])
            }
        };
        if !outcome.dissent.is_empty() {
            said += ", dissent";
            outcome.dissent.iter().for_each(|i| said = format!("{said} {}", self.names[i as usize]));
        }
        if outcome.lost_quorum {
            said += ", quorum lost";
        }
        let back = self.marked.intersect(outcome.with);
        self.marked = if outcome.steady { outcome.dissent } else { self.marked.minus(outcome.with) };
        if !outcome.steady && !back.is_empty() {
            said += ", back";
            back.iter().for_each(|i| said = format!("{said} {}", self.names[i as usize]));
        }
        said
    }

    fn step(&mut self, line: &str) -> Result<(), String> {
        let (left, expected) = line.split_once("->").ok_or("no `->`")?;
        let (time, events) = left.trim().split_once(char::is_whitespace).unwrap_or((left.trim(), ""));
        let at = START + millis(time.strip_prefix("t=").ok_or("no `t=`")?)?;
        if at < self.now {
            return Err("time goes backwards".to_owned());
        }
        self.nothing_due_before(at)?;
        self.now = at;
        self.happens(events)?;
        let (expected, again) = match expected.split_once(", again at ") {
            Some((expected, again)) => (expected, Some(START + millis(again.trim())?)),
            None => (expected, None),
        };
        let said = self.decide();
        if said != expected.split_whitespace().collect::<Vec<_>>().join(" ") {
            return Err(format!("the voter says `{said}`"));
        }
        if again.is_some() && again != self.due {
            return Err(format!("again at {:?} ms", self.due.map(|due| due - START)));
        }
        Ok(())
    }

    fn nothing_due_before(&self, at: Millis) -> Result<(), String> {
        match self.due {
            Some(due) if due < at => {
                Err(format!("a line is missing: the voter wants to be asked at {} ms", due - START))
            }
            _ => Ok(()),
        }
    }
}

/// Plays one file; returns the number of cases and what went wrong.
fn play(path: &Path) -> (usize, Vec<String>) {
    let (mut cases, mut errors) = (0, Vec::new());
    let mut case = Case::new();
    let text = std::fs::read_to_string(path).unwrap();
    for (number, line) in text.lines().chain(["case: end"]).enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let result = match line.split_once(':') {
            _ if line.is_empty() => continue,
            _ if line.starts_with("t=") => case.step(line),
            Some(("case", _)) => {
                cases += 1;
                let result = case.nothing_due_before(Millis::MAX);
                case = Case::new();
                result
            }
            Some((key, text)) => case.header(key, text),
            None => Err("what is this?".to_owned()),
        };
        if let Err(error) = result {
            errors.push(format!("{}:{}: {line}\n      {error}", path.display(), number + 1));
        }
    }
    (cases - 1, errors)
}

#[test]
fn tables() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tables");
    let (mut cases, mut errors) = (0, Vec::new());
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.file_name().is_some_and(|name| name != "README.txt") {
            let (played, wrong) = play(&path);
            assert!(played > 0, "{} has no case", path.display());
            cases += played;
            errors.extend(wrong);
        }
    }
    println!("{cases} cases");
    assert!(errors.is_empty(), "\n{}", errors.join("\n"));
}
