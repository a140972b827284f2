//! The file format as tables: what is good, and for what is bad the very words (testdata/bad.txt).

use super::diagnostic::nearest;
use super::parse::parse;
use super::summary::{masked, quorum_line, summary};
use super::*;
use std::fmt::Write;
use std::path::Path;

const BAD: &str = include_str!("testdata/bad.txt");
const GOOD: &str = "[router]\naccept_any = true\n[[instance]]\nname = \"frr\"\n";

fn good(text: &str) -> Config {
    parse(Path::new("virtd.toml"), text).unwrap_or_else(|e| panic!("{e}"))
}

/// With VIRTD_BLESS=1 in the environment the table is rewritten with what is said now, for a person
/// to review.
#[test]
fn bad_files_are_named_exactly() {
    let mut now = String::new();
    let mut cases = 0;
    for (i, part) in BAD.split("=== ").enumerate() {
        let Some((name, rest)) = part.split_once('\n').filter(|_| i > 0) else {
            now.push_str(part);
            continue;
        };
        let (file, _) = rest.split_once("---\n").expect("every case has its ---");
        let error = parse(Path::new("virtd.toml"), file).expect_err(name);
        let _ = write!(now, "=== {name}\n{file}---\n{error}\n\n");
        cases += 1;
    }
    if std::env::var_os("VIRTD_BLESS").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/testdata/bad.txt");
        std::fs::write(path, &now).unwrap();
        return;
    }
    assert!(cases > 20, "the table was not read");
    assert!(now == BAD, "the messages changed; they are now:\n{now}");
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let c = good(GOOD);
    assert_eq!((c.port, c.control_mode, c.listen.len()), (179, 0o660, 2));
    assert_eq!(c.shim_socket, Path::new("/run/virtd/hv.sock"));
    assert_eq!(c.control_socket, Path::new("/run/virtd/control.sock"));
    assert_eq!((c.open, c.inbound), (OpenMode::Voted, Inbound::Rfc7606));
    assert_eq!(
        (c.vote.strategy, c.vote.k, c.vote.t_ms, c.vote.min_voters),
        (Strategy::WaitForConsensus, None, 10_000, 1)
    );
    let t = c.timers;
    assert_eq!((t.open_wait_ms, t.grace_ms, t.leg_hold_s, t.fault_threshold_ms), (5_000, 120_000, 9, 60_000));
    assert_eq!((c.asn, c.router_id, c.event_log, c.control_group), (None, None, None, None));
    assert_eq!((c.user, c.group), (None, None));
}

#[test]
fn every_key_is_read() {
    let c = good(
        r#"
        [router]
        asn = 4200000000
        router_id = "192.0.2.255"
        port = 1790
        listen = ["192.0.2.10", "2001:db8::10"]
        user = "router"
        group = "routers"
        shim_socket = "/tmp/hv"
        control_socket = "/tmp/control"
        control_mode = "0600"
        control_group = "adm"
        event_log = "/var/log/virtd.jsonl"
        open = "voted"
        inbound = "opaque"
        accept_any = true
        allow_own_as = true
        allow_reserved_ranges = true
        confederation = 65000
        confederation_members = [65001, 4200000001]
        native_ports = [323, 3323]
        ignore_attributes = ["med", "LARGE-COMMUNITY", 8, "COMMUNITIES"]
        [vote]
        strategy = "first-k"
        k = 2
        t_ms = 2500
        min_voters = 2
        [timers]
        open_wait_s = 1
        grace_s = 30
        leg_hold_s = 3
        fault_threshold_s = 10
        [fib]
        [[instance]]
        name = "frr"
        command = ["bgpd", "", "-Z"]
        env = { A = "b" }
        user = "frr"
        limit = { sessions = ["2001:db8::1"], families = ["ipv6-unicast"], prefixes = ["2001:db8::/32"] }
        [[instance]]
        name = "bird"
        role = "voter"
        kind = "bird"
        config = "/etc/virtd/bird.conf"
        env = { TZ = "UTC" }
        environment = { malloc_perturb = 165, stack_offset = 4096, aslr = false, cpus = [1, 0], nice = 5 }
        user = "bird"
        [[instance]]
        name = "watch.1"
        role = "observer"
        diversity = { delay_ms = [1, 10], distribution = "exponential", seed = 7, connect_delay_ms = [0, 50], connect_order = "shuffled", readvertise_s = [30, 120], reconnect_s = 3600, link_reset_ms = 5, blocks = ["0.0.0.0/2"] }
        [[peer]]
        address = "2001:db8::1"
        port = 1791
        asn = 65001
        description = "transit"
        allow_own_as = true
        bfd = "bird"
        "#,
    );
    let ports = ["2001:db8::1", "127.0.0.1"].map(|a| c.port_of(a.parse().unwrap()));
    assert_eq!(ports, [1791, 1790]);
    assert_eq!((c.asn, c.router_id, c.port), (Some(4_200_000_000), Some(Ipv4Addr::new(192, 0, 2, 255)), 1790));
    assert_eq!(c.listen.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.10", "2001:db8::10"]);
    assert_eq!((c.control_mode, c.control_group.as_deref()), (0o600, Some("adm")));
    assert_eq!((c.user.as_deref(), c.group.as_deref()), (Some("router"), Some("routers")));
    assert_eq!(c.event_log.as_deref(), Some(Path::new("/var/log/virtd.jsonl")));
    assert_eq!((c.inbound, c.accept_any, c.ignore_attributes.clone()), (Inbound::Opaque, true, vec![4, 8, 32]));
    assert_eq!((c.allow_own_as, c.allow_reserved_ranges), (true, true));
    let confederation = Confederation { identifier: 65000, members: vec![65001, 4_200_000_001] };
    assert_eq!(c.confederation, Some(confederation));
    assert_eq!((c.vote.strategy, c.vote.k, c.vote.t_ms, c.vote.min_voters), (Strategy::FirstK, Some(2), 2500, 2));
    assert_eq!((c.timers.open_wait_ms, c.timers.grace_ms, c.timers.leg_hold_s), (1000, 30_000, 3));
    let frr = &c.instances[0];
    assert_eq!((frr.command.len(), frr.env["A"].as_str(), frr.user.as_deref()), (3, "b", Some("frr")));
    assert_eq!((frr.limit_sessions.len(), frr.limit_families.len(), frr.limit_prefixes.len()), (1, 1, 1));
    let bird = &c.instances[1];
    assert_eq!((bird.kind, bird.config_file.as_deref()), (Some(Kind::Bird), Some(Path::new("/etc/virtd/bird.conf"))));
    assert_eq!(c.instances.iter().map(Instance::is_ours).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(c.instances.iter().map(|i| i.observer).collect::<Vec<_>>(), [false, false, true]);
    let delay = Delay { min_ms: 1, max_ms: 10, distribution: Distribution::Exponential };
    assert_eq!(
        c.instances[2].diversity,
        Some(Diversity {
            seed: 7,
            delay: Some(delay),
            connect_delay_ms: Some((0, 50)),
            connect_order: ConnectOrder::Shuffled,
            readvertise_s: Some((30, 120)),
            reconnect_s: Some((3600, 3600)),
            link_reset_ms: Some((5, 5)),
            blocks: vec!["0.0.0.0/2".parse().unwrap()],
        })
    );
    assert_eq!(c.instances[0].diversity, None);
    let environment =
        Environment { malloc_perturb: Some(165), stack_offset: 4096, fixed_layout: true, cpus: vec![0, 1], nice: 5 };
    assert_eq!((&bird.environment, &frr.environment), (&environment, &Environment::default()));
    let peer = &c.peers[0];
    assert_eq!((peer.asn, peer.description.as_deref(), peer.allow_own_as), (Some(65001), Some("transit"), true));
    assert_eq!((c.native_ports.as_slice(), peer.port), ([323, 3323].as_slice(), Some(1791)));

    assert_eq!(peer.bfd.as_deref(), Some("bird"));
}

/// What is commented out in the complete example is a key too, and stands there with its default or
/// a good value.
#[test]
fn the_examples_are_good() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    for name in ["virtd.toml", "native.toml"] {
        let text = std::fs::read_to_string(examples.join(name)).unwrap();
        let with_all: String = text
            .lines()
            .map(|l| {
                l.strip_prefix("# ").filter(|l| l.split_once(" = ").is_some_and(|(k, _)| !k.contains(' '))).unwrap_or(l)
            })
            .flat_map(|l| [l, "\n"])
            .collect();
        for text in [&text, &with_all] {
            parse(Path::new(name), text).unwrap_or_else(|e| panic!("{e}"));
        }
        if name == "virtd.toml" {
            let keys = super::names::SECTIONS.iter().flat_map(|(_, keys)| keys.iter());
            for key in keys
                .chain(super::names::LIMIT_KEYS)
                .chain(super::names::DIVERSITY_KEYS)
                .chain(super::names::ENVIRONMENT_KEYS)
                .chain(super::names::ACTION_KEYS)
            {
                assert!(with_all.contains(&format!("{key} = ")), "{name} does not show {key}");
            }
        }
    }
}

/// The reference lists every key; so nobody adds one in silence.
#[test]
fn the_documentation_has_every_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/CONFIGURATION.md");
    let text = std::fs::read_to_string(path).unwrap();
    for (section, keys) in super::names::SECTIONS {
        for key in keys
            .iter()
            .chain(super::names::LIMIT_KEYS)
            .chain(super::names::DIVERSITY_KEYS)
            .chain(super::names::ENVIRONMENT_KEYS)
            .chain(super::names::ACTION_KEYS)
        {
            assert!(text.contains(&format!("`{key}`")), "docs/CONFIGURATION.md does not list {key} of {section}");
        }
    }
}

#[test]
fn what_follows_from_a_fault_is_set_for_all_kinds_or_by_kind() {
    let file = |action: &str| format!("{GOOD}[faults]\naction = {action}\n");
    let reported = |action: &str| good(&file(action)).faults.action.reported().join(" ");
    assert_eq!(Fault::ALL.map(Fault::name).as_slice(), super::names::ACTION_KEYS);
    assert_eq!((reported("\"restart\""), reported("{}")), (String::new(), String::new()));
    assert_eq!(reported("\"report\""), "wrong silent absent flapping large flooding");
    let some = "{ wrong = \"report\", silent = \"restart\", large = \"report\" }";
    assert_eq!(reported(some), "wrong large");
    let line =
        |action: &str| summary(&good(&file(action))).lines().find(|l| l.starts_with("faults ")).map(str::to_owned);
    let restarted = "started again after 1 s to 60 s, at most 10 times within 600 s";
    assert!(
        line(some).is_some_and(|l| l.ends_with(&format!("{restarted}; reported only where wrong, large"))),
        "{:?}",
        line(some)
    );
    assert!(line("\"report\"").is_some_and(|l| l.ends_with(": reported only")));
    assert!(line("\"restart\"").is_some_and(|l| l.ends_with(restarted)));
}

#[test]
fn toml_has_octal_numbers_too() {
    let c = good("[router]\naccept_any = true\ncontrol_mode = 0o640\n[[instance]]\nname = \"frr\"\n");
    assert_eq!(c.control_mode, 0o640);
}

#[test]
fn at_most_31_instances() {
    let mut text = String::from("[router]\naccept_any = true\n");
    for i in 0..31 {
        let _ = write!(text, "[[instance]]\nname = \"i{i}\"\n");
    }
    assert_eq!(good(&text).instances.len(), 31);
    text.push_str("[[instance]]\nname = \"i31\"\n");
    let error = parse(Path::new("virtd.toml"), &text).unwrap_err().to_string();
    assert!(error.starts_with("virtd.toml:65:1: 32 instances are too many\n"), "{error}");
}

#[test]
fn the_arithmetic_of_quorums() {
    let table = [
        // strategy, voters, k, faults masked, of those without delay
        (Strategy::WaitForConsensus, 1, None, 0, 0),
        (Strategy::WaitForConsensus, 2, None, 0, 0),
        (Strategy::WaitForConsensus, 3, None, 1, 1),
        (Strategy::WaitForConsensus, 3, Some(2), 1, 1),
        (Strategy::WaitForConsensus, 3, Some(3), 1, 0),
        (Strategy::WaitForConsensus, 3, Some(1), 1, 1),
        (Strategy::WaitForConsensus, 5, None, 2, 2),
        (Strategy::WaitForConsensus, 5, Some(4), 2, 1),
        (Strategy::ContinuousMajority, 4, None, 1, 1),
        (Strategy::ContinuousMajority, 5, None, 2, 2),
        (Strategy::FirstK, 5, Some(2), 1, 1),
        (Strategy::FirstK, 5, Some(1), 1, 1),
        (Strategy::FirstK, 5, Some(3), 2, 2),
        (Strategy::FirstK, 2, Some(1), 0, 0),
        (Strategy::MasterSlave, 3, None, 0, 0),
    ];
    for (strategy, voters, k, faults, at_once) in table {
        let mut c = Config { instances: vec![Instance::default(); voters], ..Config::default() };
        c.vote.strategy = strategy;
        c.vote.k = k;
        let m = masked(&c);
        assert_eq!((m.faults, m.at_once), (faults, at_once), "{strategy:?} {voters} {k:?}");
    }
    let mut c = Config { instances: vec![Instance::default(); 3], ..Config::default() };
    assert_eq!(quorum_line(&c), "3 voters, k=2: masks 1 fault");
    c.vote.k = Some(3);
    assert_eq!(quorum_line(&c), "3 voters, k=3: masks 1 fault (more than 0 of them delay new routes by T = 10 s)");
}

#[test]
fn the_summary_names_everything() {
    let text = summary(&good(GOOD));
    for part in
        ["0.0.0.0:179, [::]:179", "/run/virtd/hv.sock", "mode 0660", "wait-for-consensus, T = 10 s", "frr (voter)"]
    {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn suggestions_are_near() {
    let table = [
        ("rooter", Some("router")),
        ("router-id", Some("router_id")),
        ("ROUTER_ID", Some("router_id")),
        ("zebra", None),
        ("", None),
    ];
    for (given, expected) in table {
        assert_eq!(nearest(given, ["router", "router_id", "peer"]), expected, "{given}");
    }
}

proptest::proptest! {
    /// Whatever the file holds, there is an answer, and an error can be printed.
    #[test]
    fn any_text_is_answered(text in "(\\PC|\n|\\[|\"|=|é){0,200}") {
        if let Err(e) = parse(Path::new("f"), &text) {
            proptest::prop_assert!(!e.to_string().is_empty());
        }
    }

    /// Nor do cuts and insertions in a good file make it fall over.
    #[test]
    fn a_mangled_file_is_answered(at in 0usize..60, cut in 0usize..60, junk in "\\PC{0,4}") {
        let mut text: Vec<char> = GOOD.chars().collect();
        let at = at.min(text.len());
        let end = (at + cut).min(text.len());
        text.splice(at..end, junk.chars());
        let text: String = text.into_iter().collect();
        if let Err(e) = parse(Path::new("f"), &text) {
            proptest::prop_assert!(!e.to_string().is_empty());
        }
    }
}

#[test]
fn a_version_is_a_root_with_a_name() {
    let table = [
        // kind, version, root, what brings it
        ("frr", "trixie", "/v/trixie/frr", Some("hv-versions --folder /v fetch trixie/frr")),
        ("bird", "bullseye", "/v/bullseye/bird2", Some("hv-versions --folder /v fetch bullseye/bird2")),
        ("bird", "trixie/bird3", "/v/trixie/bird3", Some("hv-versions --folder /v fetch trixie/bird3")),
        ("openbgpd", "13.1", "/v/13.1/openbgpd", Some("hv-versions --folder /v fetch 13.1/openbgpd")),
        ("bird", "/opt/bird", "/opt/bird", None),
    ];
    let file = |kind: &str, version: &str| {
        format!(
            "[router]\naccept_any = true\nversions = \"/v\"\n[[instance]]\nname = \"x\"\nkind = {kind:?}\nconfig = \"/c/x\"\nversion = {version:?}\n"
        )
    };
    for (kind, version, root, command) in table {
        let c = good(&file(kind, version));
        assert_eq!(c.instances[0].root.as_deref(), Some(Path::new(root)), "{kind} {version}");
        assert_eq!(version::fetch_command(&c, &c.instances[0]).as_deref(), command);
        assert!(summary(&c).contains(&format!("version {version}, in the root {root}")), "{}", summary(&c));
    }
    let usual = good(&file("bird", "trixie").replace("versions = \"/v\"\n", ""));
    assert_eq!(usual.instances[0].root.as_deref(), Some(Path::new("/var/lib/virtd/versions/trixie/bird2")));
    let command = version::fetch_command(&usual, &usual.instances[0]);
    assert_eq!(command.as_deref(), Some("hv-versions fetch trixie/bird2"));
    for bad in ["", ".", "..", "a/..", "a/b/c", "a//b", "/", "//", "-x", "a b", "a;b", "\u{e9}"] {
        assert!(parse(Path::new("f"), &file("bird", bad)).is_err(), "{bad:?}");
    }
}

#[test]
fn what_the_router_says_of_own_ases_is_the_peers_default() {
    let router = |keys: &str| {
        good(&format!(
            "[router]\naccept_any = true\n{keys}\n[[instance]]\nname = \"x\"\n[[peer]]\naddress = \"192.0.2.1\"\n[[peer]]\naddress = \"192.0.2.2\"\nallow_own_as = false\n"
        ))
    };
    let of = |c: &Config| [1, 2, 3].map(|n| c.allows_own_as([192, 0, 2, n].into()));
    assert_eq!(of(&router("")), [false; 3]);
    assert_eq!(of(&router("allow_own_as = true")), [true, false, true], "a peer's own word, else the router's");
}

#[test]
fn members_of_no_confederation_are_a_mistake() {
    let text = "[router]\naccept_any = true\nconfederation_members = [65001]\n[[instance]]\nname = \"x\"\n";
    let problems = parse(Path::new("virtd.toml"), text).expect_err("a mistake").to_string();
    assert!(problems.contains("members of no confederation"), "{problems}");
    let text =
        "[router]\naccept_any = true\nconfederation = 65000\nconfederation_members = [0]\n[[instance]]\nname = \"x\"\n";
    let problems = parse(Path::new("virtd.toml"), text).expect_err("a mistake").to_string();
    assert!(problems.contains("not an AS number"), "{problems}");
}

#[test]
fn where_the_monitor_serves() {
    let listen = |section: &str| good(&format!("{GOOD}{section}")).http.map(|http| http.listen);
    let address = |text: &str| text.parse::<std::net::SocketAddr>().unwrap();
    assert_eq!(listen(""), None);
    assert_eq!(listen("[http]\n"), Some(vec![address("127.0.0.1:9180")]));
    assert_eq!(listen("[http]\nlisten = \"[::1]:80\"\n"), Some(vec![address("[::1]:80")]));
    let two = "[http]\nlisten = [\"192.0.2.1:80\", \"[::1]:80\"]\n";
    assert_eq!(listen(two), Some(vec![address("192.0.2.1:80"), address("[::1]:80")]));
    let said = summary(&good(&format!("{GOOD}{two}")));
    assert!(said.contains("virtd-monitor   serves HTTP on 192.0.2.1:80, [::1]:80\n"), "{said}");
}

#[test]
fn collectors() {
    let with = |sections: &str| format!("{GOOD}{sections}");
    let one = "[[bmp]]\ncollector = \"192.0.2.9:5000\"\n";
    let config = good(&with(&format!(
        "{one}[[bmp]]\ncollector = \"[2001:db8::9]:11019\"\nsource = \"2001:db8::1\"\ninstances = true\nstatistics_s = 0\n"
    )));
    let short = |c: &Collector| (c.address.to_string(), c.source.is_some(), c.instances, c.statistics_s);
    let wanted = [("192.0.2.9:5000".to_owned(), false, false, 60), ("[2001:db8::9]:11019".to_owned(), true, true, 0)];
    assert_eq!(config.bmp.iter().map(short).collect::<Vec<_>>(), wanted);
    let said = summary(&config);
    assert!(said.contains("virtd-monitor tells [2001:db8::9]:11019 the tables of peers and instances\n"), "{said}");
    let wrong = |sections: &str| parse(Path::new("virtd.toml"), &with(sections)).expect_err("a mistake").to_string();
    for (sections, problem) in [
        ("[[bmp]]\n".to_owned(), "[[bmp]] has no `collector`"),
        ("[bmp]\ncollector = \"192.0.2.9:5000\"\n".to_owned(), "write [[bmp]] with double brackets"),
        (one.replace(":5000", ""), "is not where a collector listens"),
        (one.replace("192.0.2.9", "0.0.0.0"), "is not where a collector listens"),
        (format!("{one}{one}"), "192.0.2.9:5000 is listed twice"),
        (format!("{one}source = \"2001:db8::1\"\n"), "of another family than `collector`"),
        (format!("{one}statistics_s = -1\n"), "`statistics_s` is out of range"),
        (format!("{one}instance = true\n"), "unknown key `instance` in [[bmp]]"),
        ((1..=9).map(|n| one.replace(".9:", &format!(".{n}:"))).collect(), "more than 8 collectors"),
    ] {
        let said = wrong(&sections);
        assert!(said.contains(problem), "{sections}: {said}");
    }
}
