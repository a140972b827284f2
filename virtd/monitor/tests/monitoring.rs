//! examples/monitoring: the alerts say something of every condition of `virtctl health`, Prometheus
//! takes them, and all that is named in them and in the dashboard is a metric of ours.

use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use untested::not_tested;
use virtd::ctl::health::CONDITIONS;
use virtd_monitor::metrics::all;

fn example(name: &str) -> (PathBuf, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/monitoring").join(name);
    let text = std::fs::read_to_string(&path).expect("an example");
    (path, text)
}

/// Words in it that begin as our metrics do.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("virtd_")).collect()
}

fn assert_known(text: &str) {
    let known: BTreeSet<String> = all().map(|m| m.name()).collect();
    let unknown: Vec<&str> = named(text).into_iter().filter(|name| !known.contains(*name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn the_dashboard_is_json_and_names_metrics_that_there_are() {
    let (_, text) = example("virtd-dashboard.json");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    assert!(panels.len() > 20);
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64()), "{}", panel["title"]);
        let targets = panel["targets"].as_array().expect("targets");
        for target in targets {
            let expression = target["expr"].as_str().expect("an expression");
            assert!(!named(expression).is_empty(), "{expression}");
        }
        assert!(!targets.is_empty());
    }
    assert_known(&text);
}

/// The alerts' names, each with the condition and the level that it looks at.
fn alerts(text: &str) -> Vec<(&str, &str, &str)> {
    let parts = text.split("- alert: ").skip(1);
    let value = |part: &str, key: &str| -> Option<(usize, usize)> {
        let begin = part.find(key)? + key.len();
        Some((begin, begin + part.get(begin..)?.find('"')?))
    };
    parts
        .filter_map(|part| {
            let condition = value(part, "virtd_problems{condition=\"")?;
            let level = value(part, "level=\"")?;
            Some((part.lines().next()?, &part[condition.0..condition.1], &part[level.0..level.1]))
        })
        .collect()
}

#[test]
fn every_condition_has_an_alert() {
    let (_, text) = example("virtd-alerts.yml");
    let told: BTreeSet<&str> = alerts(&text).into_iter().map(|(_, condition, _)| condition).collect();
    assert_eq!(told, BTreeSet::from(CONDITIONS));
    assert_known(&text);
}

#[test]
fn prometheus_takes_the_alerts_and_each_fires() {
    let (path, text) = example("virtd-alerts.yml");
    if Command::new("promtool").arg("--version").output().is_err() {
        return not_tested("the alerts by promtool", "promtool is not installed");
    }
    let mut tests = format!("rule_files: [{:?}]\nevaluation_interval: 1m\ntests:\n", path.display().to_string());
    for (alert, condition, level) in alerts(&text) {
        let series = format!("virtd_problems{{condition=\"{condition}\",level=\"{level}\",job=\"virtd\"}}");
        // Nothing for ten minutes, then the condition for two hours. Writing to a String cannot
        // fail.
        let _ = write!(
            tests,
            "- interval: 1m\n  input_series: [{{series: '{series}', values: '0x10 1x120'}}]\n  promql_expr_test:\n\
             \x20 - {{expr: 'count(ALERTS)', eval_time: 10m, exp_samples: []}}\n\
             \x20 - {{expr: 'count(ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"}})', eval_time: 100m, \
             exp_samples: [{{labels: '{{}}', value: 1}}]}}\n"
        );
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tests.yml");
    std::fs::write(&file, &tests).expect("written");
    for arguments in [["check", "rules"].as_slice(), &["test", "rules"]] {
        let file = if arguments.contains(&"check") { &path } else { &file };
        let out = Command::new("promtool").args(arguments).arg(file).output().expect("promtool");
        let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{said}\n{tests}");
    }
}
