use super::*;
use std::collections::BTreeSet;
use std::process::Command;
use virtd_config::Config;
use virtd_config::parse::parse;

const DAY: &str = "2026-01-02";

fn page(name: &str) -> String {
    let pages = pages(DAY).expect("pages");
    let found = pages.into_iter().find(|(file, _)| file == name);
    found.unwrap_or_else(|| panic!("there is no {name}")).1
}

#[test]
fn every_program_and_every_command_has_a_page() {
    let pages = pages(DAY).expect("pages");
    let names: BTreeSet<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names.len(), pages.len());
    for name in [
        "virtd.8",
        "virtctl.8",
        "virtd-monitor.8",
        "virtctl-routes.8",
        "virtctl-events.8",
        "hv-replay.1",
        "hv-versions.1",
        "virtd.toml.5",
    ] {
        assert!(names.contains(name), "{name} is not among {names:?}");
    }
    assert!(page("virtctl.8").contains("virtctl\\-routes(8)"));
    let routes = page("virtctl-routes.8");
    for part in ["\\-\\-socket", "virtctl routes 192.0.2.0/24", "An exact prefix"] {
        assert!(routes.contains(part), "{part} is not in\n{routes}");
    }
    assert!(!page("virtd.8").contains("\\-\\-worker"), "what is virtd's own is not for people");
    assert!(page("hv-versions.1").contains("\\fBfetch\\fR"));
}

#[test]
fn the_page_of_the_configuration_has_every_key() {
    let page = page("virtd.toml.5");
    for (section, keys) in virtd_config::names::SECTIONS {
        for key in *keys {
            assert!(page.contains(&format!("\\fB{key}\\fR")), "{key} of {section}");
        }
    }
    assert!(page.contains(".TP\n\\fBt_ms\\fR (default: 10000; ms, 10 to 600000)\nT: a prefix"), "{page}");
}

/// A default as it would stand in the file; `None` where it is none, or words.
fn literal(default: &str) -> Option<String> {
    if let Some(quoted) = default.strip_prefix('`').and_then(|d| d.strip_suffix('`')) {
        return Some(quoted.to_owned());
    }
    if default.starts_with('/') {
        return Some(format!("\"{default}\""));
    }
    default.parse::<u32>().map(|n| n.to_string()).or_else(|_| default.parse::<bool>().map(|b| b.to_string())).ok()
}

fn read(section: &str, inner: &str, line: &str) -> Config {
    let at = |name: &str| if name == section && inner.is_empty() { line } else { "" };
    // The way of the delays is nothing without delays.
    let needs = if inner == "diversity" { "delay_ms = 5" } else { "" };
    let both: Vec<&str> = [needs, line].into_iter().filter(|l| !l.is_empty()).collect();
    let table =
        |name: &str| if name == inner { format!("{name} = {{ {} }}\n", both.join(", ")) } else { String::new() };
    let text = format!(
        "[router]\n{}\n[vote]\n{}\n[timers]\n{}\n[faults]\n{}\n[recorder]\nfolder = \"/r\"\n{}\n[fib]\n{}\n\
         [[instance]]\nname = \"a\"\ncommand = [\"/a\"]\n{}\n{}{}[[instance]]\nname = \"b\"\n[[peer]]\naddress = \"192.0.2.1\"\n{}\n[[bmp]]\ncollector = \"192.0.2.9:5000\"\n{}\n",
        at("router"),
        at("vote"),
        at("timers"),
        at("faults"),
        at("recorder"),
        at("fib"),
        at("instance"),
        table("diversity"),
        table("environment"),
        at("peer"),
        at("bmp"),
    );
    parse(Path::new("virtd.toml"), &text).unwrap_or_else(|e| panic!("{e}"))
}

/// What the page says is the default changes nothing where it is said.
#[test]
fn the_defaults_are_those_of_the_program() {
    let mut tried = 0;
    for (section, keys) in virtd_config::names::SECTIONS {
        for row in configuration::rows(section).expect("rows") {
            let defaults: Vec<&str> = row.default.split(", ").collect();
            // One for each, or one that has a comma itself.
            let defaults = if row.keys.len() == 1 { vec![row.default] } else { defaults };
            assert_eq!(row.keys.len(), defaults.len(), "{row:?}");
            for (key, default) in row.keys.iter().zip(defaults) {
                let inner = match key {
                    key if keys.contains(key) => "",
                    key if virtd_config::names::DIVERSITY_KEYS.contains(key) => "diversity",
                    _ => "environment",
                };
                // 0 is what it is without the key, and no value of it.
                let Some(value) = literal(default).filter(|_| *key != "stack_offset") else { continue };
                let with = format!("{:?}", read(section, inner, &format!("{key} = {value}")));
                let without = format!("{:?}", read("", inner, ""));
                assert_eq!(with, without, "the default of {key} of {section} is not {value}");
                tried += 1;
            }
        }
    }
    assert!(tried > 40, "{tried}");
}

/// What troff says of the pages: nothing.
#[test]
fn troff_and_mandoc_have_nothing_to_say() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), DAY).expect("pages");
    let files: Vec<_> = std::fs::read_dir(folder.path()).expect("it").flatten().map(|e| e.path()).collect();
    assert!(files.len() > 10);
    for (tool, words) in [
        ("groff", &["-man", "-Tutf8", "-ww", "-z"][..]),
        ("man", &["-l", "--warnings", "-E", "UTF-8", "-P", "cat"]),
        ("mandoc", &["-T", "lint", "-W", "warning"]),
    ] {
        for file in &files {
            match Command::new(tool).args(words).arg(file).env("MANWIDTH", "80").env("LC_ALL", "C.UTF-8").output() {
                Err(_) => {
                    untested::not_tested(&format!("the manual pages with {tool}"), &format!("there is no {tool}"));
                    break;
                }
                Ok(said) => {
                    let all =
                        [said.stdout.clone(), said.stderr.clone()].map(|o| String::from_utf8_lossy(&o).into_owned());
                    let words = if tool == "mandoc" { &all[0] } else { &all[1] };
                    assert!(said.status.success() && words.trim().is_empty(), "{tool} {}: {words}", file.display());
                    if tool == "man" {
                        assert!(all[0].contains("NAME"), "man shows nothing of {}", file.display());
                    }
                }
            }
        }
    }
}
