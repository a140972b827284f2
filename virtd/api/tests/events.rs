//! What the operators' list of events has to have.

use std::path::Path;
use virtd_api::kinds;

#[test]
fn whatever_is_no_mere_news_says_what_to_do() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/EVENTS.md");
    let text = std::fs::read_to_string(path).expect("the list");
    let rows: Vec<Vec<&str>> = text.lines().filter(|line| line.starts_with("| `")).map(cells).collect();
    let named: Vec<&str> = rows.iter().flat_map(|row| row[0].split('`').skip(1).step_by(2)).collect();
    assert_eq!(named, kinds().collect::<Vec<_>>());
    for row in rows {
        let [kind, severity, when, to_do] = row.as_slice() else { panic!("{row:?} has not four cells") };
        assert!(!when.is_empty(), "{kind}");
        let bad = severity.contains("warning") || severity.contains("alarm");
        assert!(!bad || !to_do.is_empty(), "what is to be done on {kind}?");
    }
}

fn cells(line: &str) -> Vec<&str> {
    line.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_end_matches('|').trim()).collect()
}
