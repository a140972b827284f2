//! The same odd UPDATE, different answers: what FRR, BIRD and OpenBGPD make of it one by one
//! differs in almost every case, and what the router made of the three tells its second neighbour
//! does not. Nor does it with the three of another suite, of which some answer otherwise. [`CASES`]
//! is the table to read.

use anyhow::{Context, Result, bail, ensure};
use std::time::Duration;
use tests::daemons::Daemon;
use tests::faults::watch::{Table, Watch};
use tests::lab::{Lab, Star, wait_until};
use tests::odd::{octets, update};
use tests::operate::control;
use tests::router::{Options, Router};
use tests::versions::Version;
use virtd_api::{Candidate, Instances};
use wire::bgp::hex;

/// For everything that is waited for: the machine may have other things to do, and OpenBGPD takes
/// its time after a reset.
const SETTLE: Duration = Duration::from_secs(60);
/// Nothing moves for so long: at rest.
const QUIET: Duration = Duration::from_millis(700);
/// Prefixes of the third neighbour, which has no part in it.
const BYSTANDERS: usize = 20;
/// The odd UPDATE and the good one before it are told apart by their community: 65001:2989 (fde9
/// 0bad) and this.
const ODD_COMMUNITY: &str = "65001:2989";
const GOOD_COMMUNITY: &str = "65001:1";

/// The case on which FRR and BIRD differ without either being wrong.
const LABEL_INDEX: &str = "PREFIX_SID with a valid Label-Index";

/// What reaches the second neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The odd route, with this attribute in it as it was sent (as hv-replay prints it; empty:
    /// there is none to look for).
    Relayed(&'static str),
    /// The odd route, without this attribute.
    Discarded(&'static str),
    /// The route that was there before is withdrawn.
    Withdrawn,
    /// What was there before stays.
    Unchanged,
    /// The sender's session ends with this NOTIFICATION; its routes go, and come as they were with
    /// its next session.
    Reset(u8, u8),
}
use Outcome::{Discarded, Relayed, Reset, Unchanged, Withdrawn};

/// One UPDATE.
struct Case {
    name: &'static str,
    /// The path attributes, in hexadecimal.
    attributes: &'static str,
    /// What stands there instead of the prefix of the case, in hexadecimal; empty: the prefix.
    nlri: &'static str,
    /// What must reach the second neighbour with `inbound = "rfc7606"` and with `"opaque"`.
    cleaned: Outcome,
    opaque: Outcome,
    /// What FRR, BIRD and OpenBGPD do each on its own, those of Debian 12 and those of Debian 13
    /// ([`Suite`]): P passed on, D attribute discarded, W treated as withdraw, U ignored, what was
    /// there before stays, R session reset. Where they do other than that, the test says so and
    /// goes on: packages change.
    alone: [&'static str; 2],
    /// Where that is written.
    why: &'static str,
}

/// Every UPDATE comes from AS 65001 (fde9) at 10.0.1.2 (0a000102). Well-formed, with the community,
/// its attributes are `40010100 40020602010000fde9 4003040a000102 c00804fde90bad`: ORIGIN IGP,
/// AS_PATH 65001, NEXT_HOP, COMMUNITIES 65001:2989.
///
/// "opaque" has the same outcome where the RFCs name one: the instances get the odd bytes, but what
/// they say goes through virtd's hygiene too, and an instance that has reset its leg is fed the
/// mended form when it comes back.
const CASES: [Case; 18] = [
    Case {
        name: "ORIGIN = 3",
        attributes: "40010103 40020602010000fde9 4003040a000102 c00804fde90bad",
        nlri: "",
        cleaned: Withdrawn,
        opaque: Withdrawn,
        alone: ["R3/10 W R3/6", "W W U (OpenBGPD 8.8 logs that it withdraws, and does not)"],
        why: "RFC 7606 section 7.1",
    },
    Case {
        name: "ORIGIN missing",
        attributes: "40020602010000fde9 4003040a000102 c00804fde90bad",
        nlri: "",
        cleaned: Withdrawn,
        opaque: Withdrawn,
        alone: ["W W R3/3", "W W R3/3"],
        why: "RFC 7606 section 3.d",
    },
    Case {
        name: "AS_PATH segment overruns",
        attributes: "40010100 40020602050000fde9 4003040a000102 c00804fde90bad",
        nlri: "",
        cleaned: Withdrawn,
        opaque: Withdrawn,
        alone: ["R3/10 W R3/11", "W W R3/11"],
        why: "RFC 7606 section 7.2",
    },
    Case {
        name: "AS_PATH contains AS 0",
        attributes: "40010100 40020a02020000fde900000000 4003040a000102 c00804fde90bad",
        nlri: "",
        cleaned: Withdrawn,
        opaque: Withdrawn,
        alone: ["W P W", "W P W"],
        why: "RFC 7607 section 2",
    },
    Case {
        name: "first AS is not the peer's",
        attributes: "40010100 40020602010000fdf3 4003040a000102 c00804fde90bad",
        nlri: "",
        cleaned: Relayed(""),
        opaque: Relayed(""),
        alone: ["P P P (OpenBGPD with enforce neighbor-as no)", "W P P (FRR 10 checks it unless told otherwise)"],
        why: "RFC 4271 section 6.3: MAY be checked; the configurations do not (route servers)",
    },
    Case {
        name: "NEXT_HOP 0.0.0.0",
        attributes: "40010100 40020602010000fde9 40030400000000 c00804fde90bad",
        nlri: "",
        cleaned: Withdrawn,
        opaque: Withdrawn,
        alone: ["R3/8 W P", "R3/8 W W"],
        why: "RFC 4271 section 6.3 (no host address), with RFC 7606 section 3.e",
    },
    Case {
        name: "next hop off the subnet, and nobody knows the way to it",
        attributes: "40010100 40020602010000fde9 400304c0000263 c00804fde90bad",
        nlri: "",
        cleaned: Withdrawn,
        opaque: Withdrawn,
        alone: ["W W P (FRR without zebra: P)", "W W W"],
        why: "RFC 4271 section 6.3: the route SHOULD be ignored; the instances know the subnet, and two of the three do so",
    },
    Case {
        name: "MED twice",
        attributes: "40010100 40020602010000fde9 4003040a000102 80040400000007 80040400000008 c00804fde90bad",
        nlri: "",
        // MED never goes on to a second eBGP neighbour; the route does.
        cleaned: Relayed(""),
        opaque: Relayed(""),
        alone: ["R3/1 D R3/1", "D D R3/1"],
        why: "RFC 7606 section 3.g: all but the first are discarded",
    },
    Case {
        name: "COMMUNITIES of 5 octets, then another attribute",
        attributes: "40010100 40020602010000fde9 4003040a000102 c00805fde90bad00 c0200c0000fde90000000100000002",
        nlri: "",
        cleaned: Withdrawn,
        opaque: Withdrawn,
        alone: ["R3/10 W R3/5", "W W W"],
        why: "RFC 7606 section 7.8",
    },
    Case {
        name: "LARGE_COMMUNITY of 11 octets, then another attribute",
        attributes: "40010100 40020602010000fde9 4003040a000102 c0200b0000fde900000001000000 c00804fde90bad",
        nlri: "",
        cleaned: Withdrawn,
        opaque: Withdrawn,
        alone: ["R3/10 W R3/5", "W W W"],
        why: "RFC 8092 section 6",
    },
    Case {
        name: "TUNNEL_ENCAP with a sub-TLV past its end (CVE-2023-38802)",
        attributes: "40010100 40020602010000fde9 4003040a000102 c00804fde90bad c01708000100040aff0000",
        nlri: "",
        cleaned: Withdrawn,
        opaque: Withdrawn,
        alone: ["W P P", "W P P"],
        why: "RFC 9012 section 13",
    },
    Case {
        name: LABEL_INDEX,
        attributes: "40010100 40020602010000fde9 4003040a000102 c00804fde90bad c0280a01000700000000000064",
        nlri: "",
        cleaned: Relayed("PREFIX_SID 01000700000000000064"),
        opaque: Relayed("PREFIX_SID 01000700000000000064"),
        alone: ["D P P", "D P P"],
        why: "well-formed (RFC 8669 section 3.1); optional transitive, and the majority passes it on",
    },
    Case {
        name: "PREFIX_SID with a TLV longer than the attribute",
        attributes: "40010100 40020602010000fde9 4003040a000102 c00804fde90bad c0280a01006300000000000064",
        nlri: "",
        cleaned: Discarded("PREFIX_SID"),
        opaque: Discarded("PREFIX_SID"),
        alone: ["R3/1 P P", "D P P"],
        why: "RFC 8669 section 6",
    },
    Case {
        name: "PREFIX_SID of zero octets",
        attributes: "40010100 40020602010000fde9 4003040a000102 c00804fde90bad c02800",
        nlri: "",
        cleaned: Discarded("PREFIX_SID"),
        opaque: Discarded("PREFIX_SID"),
        alone: ["D P P", "D P P"],
        why: "RFC 8669 section 6",
    },
    Case {
        name: "two stray octets after the attributes",
        attributes: "40010100 40020602010000fde9 4003040a000102 c00804fde90bad c008",
        nlri: "",
        cleaned: Withdrawn,
        opaque: Withdrawn,
        alone: ["R3/5 W R3/5", "R3/10 W R3/1"],
        why: "RFC 7606 section 4",
    },
    Case {
        name: "NLRI /33",
        attributes: "40010100 40020602010000fde9 4003040a000102 c00804fde90bad",
        nlri: "21c633640000",
        cleaned: Reset(3, 10),
        opaque: Reset(3, 10),
        alone: ["R3/10 R3/10 R3/10", "not tried: no instance ever sees it"],
        why: "RFC 7606 section 5.3, RFC 4271 section 6.3",
    },
    Case {
        name: "MP_REACH_NLRI twice",
        attributes: "40010100 40020602010000fde9 4003040a000102 c00804fde90bad \
                     800e0e000101040a00010200 18c63364 00 800e0e000101040a00010200 18c63364 00",
        nlri: "",
        cleaned: Reset(3, 1),
        opaque: Reset(3, 1),
        alone: ["not tried: no instance ever sees it", "not tried: no instance ever sees it"],
        why: "RFC 7606 section 3.g",
    },
    Case {
        name: "MP_UNREACH_NLRI twice",
        attributes: "40010100 40020602010000fde9 4003040a000102 c00804fde90bad 800f03000201 800f03000201",
        nlri: "",
        cleaned: Reset(3, 1),
        opaque: Reset(3, 1),
        alone: ["not tried: no instance ever sees it", "not tried: no instance ever sees it"],
        why: "RFC 7606 section 3.g",
    },
];

/// Which FRR, BIRD and OpenBGPD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Suite {
    /// The installed ones: FRR 8.4.4, BIRD 2.0.12, OpenBGPD 7.7.
    Debian12,
    /// FRR 10.3, BIRD 2.17.5, OpenBGPD 8.8.
    Debian13,
}

impl Suite {
    fn versions(self) -> Vec<Option<Version>> {
        match self {
            Suite::Debian12 => Vec::new(),
            Suite::Debian13 => [Version::FRR_13, Version::BIRD_13, Version::OPENBGPD_13].map(Some).to_vec(),
        }
    }
}

/// A router of three daemons; a neighbour that says odd things (the first), one that watches, and a
/// bystander that announces.
struct Scene {
    suite: Suite,
    inbound: &'static str,
    lab: Lab,
    star: Star,
    router: Router,
    sender: Watch,
    second: Watch,
    bystander: Watch,
    /// What the second neighbour knew of the bystander at the start.
    reference: Table,
    /// Sessions of the sender so far.
    sessions: usize,
    /// Prefixes used so far: each case has its own.
    used: u8,
}

impl Scene {
    fn new(suite: Suite, inbound: &'static str) -> Result<Scene> {
        let mut lab = Lab::new(&format!("odd-{suite:?}-{inbound}"))?;
        let star = lab.star(3)?;
        // A case costs an instance its leg, case after case: that is what is tested, not a reason
        // to find it flapping.
        let timers = "grace_s = 600\n[faults]\nleg_losses = 200\n".to_owned();
        let router =
            Router::start(&lab, &star, &Options { inbound, timers, versions: suite.versions(), ..Options::default() })?;
        let [first, second, third] = &star.sites[..] else { bail!("a star of three") };
        let sender = Watch::dial(&lab, first, &[])?;
        let second = Watch::dial(&lab, second, &["--monitor"])?;
        let bystander = Watch::dial(&lab, third, &["--generate", &BYSTANDERS.to_string()])?;
        let mut scene = Scene {
            suite,
            inbound,
            lab,
            router,
            sender,
            second,
            bystander,
            star,
            reference: Table::new(),
            sessions: 1,
            used: 0,
        };
        scene.wait_second("the bystander's routes", |table| table.len() == BYSTANDERS)?;
        scene.wait_calm()?;
        scene.reference = scene.second.table.clone();
        Ok(scene)
    }

    /// Waits until the second neighbour's table is as it should be.
    fn wait_second(&mut self, what: &str, good: impl Fn(&Table) -> bool) -> Result<()> {
        let second = &mut self.second;
        wait_until(what, SETTLE, || {
            second.look().map_err(|e| format!("{e:#}"))?;
            if good(&second.table) { Ok(()) } else { Err(format!("{:?}", second.table.keys())) }
        })
    }

    /// Waits until all three have all legs, vote and agree, and nothing moves. OpenBGPD doubles its
    /// pause with each reset; its operator would not wait for it either.
    fn wait_calm(&self) -> Result<()> {
        let peers = self.star.sites.len();
        wait_until("all instances to vote on all sessions", SETTLE, || {
            let Instances { instances } = self.router.ctl(&["instances"]).map_err(|e| format!("{e:#}"))?;
            if instances.iter().all(|i| i.state == "voting" && i.legs_up == peers) {
                return Ok(());
            }
            self.restart_openbgpds_sessions().map_err(|e| format!("{e:#}"))?;
            std::thread::sleep(QUIET);
            Err(format!("{instances:?}"))
        })?;
        self.router.wait_quiet(QUIET, SETTLE).map(|_| ())
    }

    fn restart_openbgpds_sessions(&self) -> Result<()> {
        for instance in self.router.instances.iter().filter(|i| i.daemon == Daemon::OpenBgpd) {
            let up = instance.established()?;
            for site in self.star.sites.iter().filter(|site| !up.contains(&site.v4.into())) {
                control(instance, &self.star.router, &format!("neighbor {} up", site.v4))?;
            }
        }
        Ok(())
    }

    /// Waits until every instance has read everything that the sender said so far: a route sent
    /// last is said and counted by all.
    fn wait_read(&mut self) -> Result<()> {
        let prefix = format!("198.18.{}.0/24", self.used);
        self.sender.say(&format!("announce {prefix}"))?;
        wait_until("all instances to have read the UPDATE", SETTLE, || {
            let said = self.said(&prefix).map_err(|e| format!("{e:#}"))?;
            if said.len() == self.router.instances.len() && said.iter().all(|s| s.route.is_some() && s.counted) {
                return Ok(());
            }
            self.restart_openbgpds_sessions().map_err(|e| format!("{e:#}"))?;
            std::thread::sleep(QUIET);
            Err(format!("{said:?}"))
        })?;
        self.sender.say(&format!("withdraw {prefix}"))
    }

    /// What each instance says of a prefix to the second neighbour.
    fn said(&self, prefix: &str) -> Result<Vec<Candidate>> {
        self.router.said(prefix, &self.second.site.v4.to_string())
    }

    /// Plays one UPDATE and returns what each instance did, in words.
    fn play(&mut self, case: &Case) -> Result<String> {
        let expected = if self.inbound == "opaque" { case.opaque } else { case.cleaned };
        self.used += 1;
        let prefix = format!("198.51.{}.0/24", self.used);
        self.sender.say(&format!("announce {prefix} community {GOOD_COMMUNITY}"))?;
        self.wait_second(&format!("the good route to {prefix}"), |table| table.contains_key(&prefix))?;
        self.wait_calm()?;
        let (changes, told) = (self.second.changes.len(), self.router.events("malformed-update").len());
        let before = self.lost_legs();
        let nlri = if case.nlri.is_empty() { vec![24, 198, 51, self.used] } else { octets(case.nlri)? };
        self.sender.say(&format!("raw {}", hex(&update(&octets(case.attributes)?, &nlri))))?;
        if let Reset(code, subcode) = expected {
            self.check_reset(code, subcode)?;
        } else {
            self.wait_read()?;
        }
        let reached = self.wait_second("the outcome", |table| reached(table, &prefix, expected));
        reached.with_context(|| format!("{expected:?}, not {:?}", self.second.table.get(&prefix)))?;
        self.wait_calm()?;
        self.check_outcome(&prefix, expected, changes)?;
        let said = self.said(&prefix)?;
        let findings = self.router.events("malformed-update");
        let mended = findings.get(told..).unwrap_or_default();
        let lost = self.lost_legs().get(before.len()..).unwrap_or_default().join(", ");
        self.check_others(expected, &lost)?;
        self.sender.say(&format!("withdraw {prefix}"))?;
        self.wait_second("the end of the case", |table| !table.contains_key(&prefix))?;
        self.router.wait_agreement(0, SETTLE)?;
        let mended: Vec<&str> = mended.iter().filter_map(|e| e["text"].as_str()).collect();
        let note = self.unlike_alone(case, expected, &lost, &said);
        Ok(format!("{expected:?}; instances: [{lost}]{note}; {}", mended.join(" | ")))
    }

    /// The events that say there is no majority on what the second neighbour hears of a prefix.
    fn undecided(&self, prefix: &str) -> Vec<serde_json::Value> {
        let second = self.second.site.v4.to_string();
        let ours = |e: &serde_json::Value| e["prefix"] == prefix && e["session"] == second.as_str();
        self.router.events("no-quorum").into_iter().filter(ours).collect()
    }

    /// The instances' own resets so far.
    fn lost_legs(&self) -> Vec<String> {
        let kinds = ["leg-notification", "leg-closed", "leg-fault", "instance-malformed", "instance-gone"];
        let mut events: Vec<_> = kinds.iter().flat_map(|kind| self.router.events(kind)).collect();
        events.sort_by_key(|e| e["seq"].as_u64());
        events.iter().filter_map(|e| e["text"].as_str().map(str::to_owned)).collect()
    }

    /// What to say where the instances, given the UPDATE as it came, did not do what the table has;
    /// empty where they did. Which attribute they discarded is not looked at: what they say wrongly
    /// is mended before it counts.
    fn unlike_alone(&self, case: &Case, expected: Outcome, lost: &str, said: &[Candidate]) -> String {
        if self.inbound != "opaque" || matches!(expected, Reset(..)) {
            return String::new();
        }
        let differs = |(name, alone): (&str, &str)| {
            let route = said.iter().find(|s| s.instance == name).and_then(|s| s.route.as_ref());
            let (route, none) = (format!("{route:?}"), route.is_none());
            let odd = route.contains(ODD_COMMUNITY);
            let answered = lost.contains(&format!("{name} answered"));
            let malformed = lost.contains(&format!("{name} sent a malformed UPDATE"));
            let as_listed = match alone.split_at(1) {
                ("R", code) => lost.contains(&format!("{name} answered with NOTIFICATION {code} ")),
                ("U", _) => !answered && !malformed && route.contains(GOOD_COMMUNITY) && !odd,
                ("W", _) => !answered && !malformed && none,
                ("D", _) => !answered && !malformed && odd,
                _ => !answered && (malformed || odd),
            };
            (!as_listed).then(|| format!(" NOT AS LISTED: {name} ({alone}), which says {route}"))
        };
        let alone = case.alone[self.suite as usize].split_whitespace();
        ["frr", "bird", "openbgpd"].into_iter().zip(alone).filter_map(differs).collect()
    }

    /// The sender's session ended as it should, and stands again.
    fn check_reset(&mut self, code: u8, subcode: u8) -> Result<()> {
        self.sessions += 1;
        let (sender, sessions) = (&mut self.sender, self.sessions);
        wait_until("the sender's session to be reset and to come back", SETTLE, || {
            sender.look().map_err(|e| format!("{e:#}"))?;
            if sender.ups == sessions { Ok(()) } else { Err(format!("{:?}", sender.downs)) }
        })?;
        let why = sender.downs.last().cloned().unwrap_or_default();
        ensure!(why.contains(&format!("{code}/{subcode}")), "reset, but not with {code}/{subcode}: {why}");
        Ok(())
    }

    /// The second neighbour was told once, and no more, and only of this prefix.
    fn check_outcome(&mut self, prefix: &str, expected: Outcome, changes: usize) -> Result<()> {
        let probe = format!("198.18.{}.0/24", self.used);
        let since = self.second.changes.get(changes..).unwrap_or_default();
        let (own, other): (Vec<_>, Vec<_>) =
            since.iter().filter(|c| c.prefix != probe).partition(|c| c.prefix == prefix);
        ensure!(other.is_empty(), "other routes moved: {other:?}");
        let wanted = match expected {
            Unchanged => 0,
            Reset(..) => 2,
            _ => 1,
        };
        ensure!(own.len() == wanted, "{} messages about {prefix} instead of {wanted}: {own:?}", own.len());
        if matches!(expected, Reset(..)) {
            ensure!(own.first().is_some_and(|c| c.route.is_none()), "not withdrawn: {own:?}");
        }
        ensure!(reached(&self.second.table, prefix, expected), "it did not stay so: {own:?}");
        Ok(())
    }

    /// Nobody else noticed.
    fn check_others(&mut self, expected: Outcome, lost: &str) -> Result<()> {
        for watch in [&mut self.second, &mut self.bystander] {
            watch.check_session()?;
        }
        self.sender.look()?;
        let resets = self.sessions - 1;
        ensure!(self.sender.downs.len() == resets, "the sender's session was reset: {:?}", self.sender.downs);
        for (prefix, route) in &self.reference {
            ensure!(self.second.table.get(prefix) == Some(route), "{prefix} of the bystander has changed");
        }
        // What the peers' UPDATEs look like after hygiene is no reason for any instance to reset.
        let clean = self.inbound != "opaque" || matches!(expected, Reset(..));
        ensure!(!clean || lost.is_empty(), "instances saw what they should not have: {lost}");
        Ok(())
    }

    /// Two voters, two answers: FRR leaves PREFIX_SID out, BIRD does not. Then OpenBGPD's vote
    /// decides.
    fn without_majority(&mut self) -> Result<()> {
        let case = CASES.iter().find(|case| case.name == LABEL_INDEX).context("no such case")?;
        self.used += 1;
        let prefix = format!("198.51.{}.0/24", self.used);
        self.sender.say(&format!("announce {prefix} community {GOOD_COMMUNITY}"))?;
        self.wait_second("the good route", |table| table.contains_key(&prefix))?;
        self.wait_calm()?;
        self.router.show(&["instance", "openbgpd", "drain"])?;
        let changes = self.second.changes.len();
        let odd = update(&octets(case.attributes)?, &[24, 198, 51, self.used]);
        self.sender.say(&format!("raw {}", hex(&odd)))?;
        wait_until("the event that says there is no majority", SETTLE, || {
            if self.undecided(&prefix).is_empty() { Err(String::new()) } else { Ok(()) }
        })?;
        self.router.wait_quiet(QUIET, SETTLE)?;
        self.second.look()?;
        self.check_outcome(&prefix, Unchanged, changes)?;
        self.router.show(&["instance", "openbgpd", "enable"])?;
        self.wait_second("OpenBGPD's vote to decide", |table| reached(table, &prefix, case.opaque))?;
        self.wait_calm()?;
        self.check_outcome(&prefix, case.opaque, changes)?;
        self.check_others(case.opaque, "")
    }

    fn finish(mut self) -> Result<()> {
        for instance in &mut self.router.instances {
            ensure!(instance.running(), "{} has died", instance.name);
        }
        ensure!(self.router.virtd.running(), "virtd has died");
        self.lab.passed();
        Ok(())
    }
}

/// Whether this is what the second neighbour knows.
fn reached(table: &Table, prefix: &str, outcome: Outcome) -> bool {
    let route = table.get(prefix);
    let lists = |route: &serde_json::Value, key: &str, text: &str| {
        route[key].as_array().into_iter().flatten().filter_map(|v| v.as_str()).any(|v| v.starts_with(text))
    };
    match outcome {
        Withdrawn => route.is_none(),
        Unchanged | Reset(..) => route.is_some_and(|r| lists(r, "communities", GOOD_COMMUNITY)),
        Relayed(attribute) => route.is_some_and(|r| {
            lists(r, "communities", ODD_COMMUNITY) && (attribute.is_empty() || lists(r, "other", attribute))
        }),
        Discarded(attribute) => {
            route.is_some_and(|r| lists(r, "communities", ODD_COMMUNITY) && !lists(r, "other", attribute))
        }
    }
}

fn play_all(suite: Suite, inbound: &'static str) -> Result<()> {
    if !(Options { versions: suite.versions(), ..Options::default() }).there()? {
        return Ok(());
    }
    let mut scene = Scene::new(suite, inbound)?;
    for case in &CASES {
        let what = format!("{suite:?}, {inbound}, {}", case.name);
        let notes = scene.play(case).with_context(|| format!("{what} ({})", case.why))?;
        println!("{what}: {notes} (alone: {}; {})", case.alone[suite as usize], case.why);
    }
    scene.without_majority().context("two voters, two answers")?;
    scene.finish()
}

#[test]
fn cleaned_every_odd_update_has_the_answer_of_the_rfcs() -> Result<()> {
    play_all(Suite::Debian12, "rfc7606")
}

#[test]
fn taken_raw_the_second_neighbour_gets_the_same_answers() -> Result<()> {
    play_all(Suite::Debian12, "opaque")
}

#[test]
fn cleaned_the_daemons_of_debian_13_change_nothing() -> Result<()> {
    play_all(Suite::Debian13, "rfc7606")
}

#[test]
fn taken_raw_the_daemons_of_debian_13_change_nothing() -> Result<()> {
    play_all(Suite::Debian13, "opaque")
}
