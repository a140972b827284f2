use super::*;

/// The rows of a table: what is left of comments and empty lines, by columns.
fn rows(text: &str, columns: usize) -> Vec<Vec<&str>> {
    let lines = text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty());
    let rows: Vec<Vec<&str>> = lines.map(|l| l.split('|').map(str::trim).collect()).collect();
    assert!(rows.len() > 5 && rows.iter().all(|r| r.len() == columns), "{rows:?}");
    rows
}

fn notification(words: &str) -> Notification {
    let numbers = |text: &str| {
        let (code, subcode) = text.split_once('/').expect("CODE/SUBCODE");
        (code.parse().expect("a code"), subcode.parse().expect("a subcode"))
    };
    let (outer, inner) = words.split_once(':').map_or((words, None), |(o, i)| (o, Some(i)));
    let (code, subcode) = numbers(outer);
    let data = inner.map(numbers).map(|(code, subcode): (u8, u8)| vec![code, subcode]);
    Notification { data: data.unwrap_or_default(), ..Notification::new(code, subcode) }
}

fn said(words: &str) -> Option<Notification> {
    (words != "closed").then(|| plain(notification(words)))
}

fn micros(text: &str) -> Micros {
    match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(ms), _) => ms.parse::<Micros>().expect("a number") * 1_000,
        (None, Some(s)) => s.parse::<Micros>().expect("a number") * 1_000_000,
        (None, None) => panic!("{text} is no time"),
    }
}

#[test]
fn the_end_of_a_leg_means_what_the_table_says() {
    for row in rows(include_str!("leaving/meaning.txt"), 3) {
        let mut e = Ending { said: said(row[0]), ..Ending::default() };
        for known in row[1].split(", ").filter(|k| !k.is_empty()) {
            match known {
                "several" => e.several = true,
                "ours" => e.ours = true,
                "reborn" => e.reborn = true,
                "process ended" => e.process_ended = true,
                "supervised" => e.supervised = true,
                "in order" => e.death = Some(Death::InOrder),
                "by exit" => e.death = Some(Death::Exit),
                "from outside" => e.death = Some(Death::FromOutside),
                "by crash" => e.death = Some(Death::Crash),
                "by memory" => e.death = Some(Death::OutOfMemory),
                "listeners closed" => e.listeners_closed = true,
                "moved" => e.moved = true,
                "update" => e.update_in_reach = true,
                "cleared" => e.cleared = true,
                _ => e.age = micros(known.strip_prefix("after ").expect("a known circumstance")),
            }
        }
        let want = match row[2] {
            "leave" => Meaning::Leave,
            "wait" => Meaning::Wait,
            "own end" => Meaning::OwnEnd,
            "ended" => Meaning::Ended,
            "died" => Meaning::Died,
            "poison" => Meaning::Poison,
            "ours" => Meaning::Ours,
            "fault" => Meaning::Fault,
            other => panic!("{other} is no meaning"),
        };
        assert_eq!(meaning(&e), want, "{row:?}");
    }
}

#[test]
fn leaves_are_counted_as_the_table_says() {
    for row in rows(include_str!("leaving/count.txt"), 4) {
        let mut names: Vec<&str> = Vec::new();
        let mut members = |text: &'static str| -> Members {
            let mut set = Members::default();
            for name in text.split_whitespace().filter(|n| *n != "-") {
                let at = names.iter().position(|n| *n == name).unwrap_or_else(|| {
                    names.push(name);
                    names.len() - 1
                });
                set.insert(at as u8);
            }
            set
        };
        let (electorate, left) = (members(row[0]), members(row[1]));
        let want = match row[3] {
            "ends" => Count::Ends,
            "tie" => Count::Tie,
            "stays" => Count::Stays,
            other => panic!("{other} is no count"),
        };
        assert_eq!(count(electorate, left, row[2] == "cut"), want, "{row:?}");
    }
}

#[test]
fn the_peer_is_told_what_most_gave() {
    for row in rows(include_str!("leaving/farewell.txt"), 2) {
        let list: Vec<Option<Notification>> = row[0].split_whitespace().map(said).collect();
        let told = farewell(list.iter().map(Option::as_ref));
        assert_eq!(told, notification(row[1]), "{row:?}");
    }
}

#[test]
fn a_hard_reset_keeps_the_data_of_what_it_is_about() {
    let inner = Notification { data: vec![4, b'b', b'y', b'e'], ..Notification::new(6, 2) };
    let hard = Notification { data: vec![6, 2, 4, b'b', b'y', b'e'], ..Notification::new(6, 9) };
    assert_eq!(plain(hard), inner);
}
