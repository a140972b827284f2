//! Whether a next hop can be used, and over which interface (fib_check_nh, fib6_nh_init).

use super::super::system::{LOOPBACK, Nature, System};
use super::info::Hop;
use super::lookup::WayV4;
use super::{Refusal, VirtualKernel};
use std::net::{IpAddr, Ipv6Addr};
use wire::netlink::consts::*;

pub(super) const INVALID_GATEWAY: &str = "Nexthop has invalid gateway";

/// The scope that a gateway must have at least.
fn gateway_scope(scope: u8) -> u8 {
    scope.saturating_add(1).max(RT_SCOPE_LINK)
}

impl VirtualKernel {
    /// The next hop of an IPv4 route or nexthop object, its interface filled in.
    pub(super) fn check_v4(&self, mut hop: Hop, table: u32, scope: u8, system: &System) -> Result<Hop, Refusal> {
        match hop.gateway {
            Some(gateway @ IpAddr::V4(_)) if hop.flags & RTNH_F_ONLINK != 0 => onlink_v4(&hop, gateway, scope, system)?,
            Some(gateway @ IpAddr::V4(_)) => {
                let look = || self.way_to_v4(gateway, hop.oif, table, scope, system);
                hop.oif = self.known_way((gateway, hop.oif, table, scope), system, look)?.0;
            }
            Some(IpAddr::V6(_)) => return self.check_v6(hop, table, false, system),
            None => {
                if hop.flags & RTNH_F_ONLINK != 0 {
                    return Err(Refusal::invalid("Invalid flags for nexthop - PERVASIVE and ONLINK can not be set"));
                }
                let link = system.link(hop.oif).ok_or(Refusal::new(libc::ENODEV, ""))?;
                if !link.up {
                    return Err(Refusal::new(libc::ENETDOWN, "Device for nexthop is not up"));
                }
            }
        }
        Ok(hop)
    }

    /// The interface that an IPv4 gateway is reached over, and the scope of the route there.
    pub(super) fn way_to_v4(
        &self,
        gateway: IpAddr,
        oif: u32,
        table: u32,
        scope: u8,
        system: &System,
    ) -> Result<(u32, u8), Refusal> {
        let on = Some(oif).filter(|&oif| oif != 0);
        let least = gateway_scope(scope);
        let usable = |way: WayV4| match way.kind {
            RTN_UNICAST | RTN_LOCAL if system.is_up(way.oif) => Ok((way.oif, way.scope)),
            RTN_UNICAST | RTN_LOCAL => Err(Refusal::new(libc::ENETDOWN, "")),
            _ => Err(Refusal::invalid(INVALID_GATEWAY)),
        };
        // The route's own table first, then local and main.
        if table != RT_TABLE_MAIN
            && let Ok(Some(way)) = self.lookup_v4(gateway, on, table, least, system)
        {
            return usable(way);
        }
        match system.nature(gateway, on) {
            // Strange, and Linux takes it.
            Nature::Local(index) if least <= RT_SCOPE_HOST => return Ok((index, RT_SCOPE_HOST)),
            Nature::Broadcast(_) if least <= RT_SCOPE_LINK => return Err(Refusal::invalid(INVALID_GATEWAY)),
            _ => {}
        }
        match (self.lookup_v4(gateway, on, RT_TABLE_MAIN, least, system)?, on) {
            (Some(way), _) => usable(way),
            // Over a route that is not known here, maybe.
            (None, Some(oif)) if !system.is_certain() && !gateway.is_multicast() && system.is_up(oif) => {
                Ok((oif, RT_SCOPE_LINK))
            }
            _ => Err(Refusal::new(libc::ENETUNREACH, INVALID_GATEWAY)),
        }
    }

    /// The next hop of an IPv6 route or nexthop object, its interface filled in. `reject`: the
    /// route drops.
    pub(super) fn check_v6(&self, mut hop: Hop, table: u32, reject: bool, system: &System) -> Result<Hop, Refusal> {
        let on = Some(hop.oif).filter(|&oif| oif != 0);
        let link = on.map(|oif| system.link(oif).ok_or(Refusal::new(libc::ENODEV, ""))).transpose()?;
        if hop.flags & RTNH_F_ONLINK != 0 {
            let link = link.ok_or(Refusal::new(libc::ENODEV, "Nexthop device required for onlink"))?;
            if !link.up {
                return Err(Refusal::new(libc::ENETDOWN, "Nexthop device is down"));
            }
        }
        if reject {
            return Ok(Hop { gateway: None, oif: LOOPBACK, encap: None, ..hop });
        }
        if let Some(IpAddr::V6(gateway)) = hop.gateway {
            hop.oif = self.validate_v6(gateway, &hop, table, system)?;
        }
        if hop.oif == 0 {
            return Err(Refusal::new(libc::ENODEV, ""));
        }
        if !system.is_up(hop.oif) {
            return Err(Refusal::new(libc::ENETDOWN, "Nexthop device is down"));
        }
        Ok(hop)
    }

    /// ip6_validate_gw.
    fn validate_v6(&self, gateway: Ipv6Addr, hop: &Hop, table: u32, system: &System) -> Result<u32, Refusal> {
        let local = || Refusal::invalid("Gateway can not be a local address");
        let address = IpAddr::V6(gateway);
        let link_local = gateway.is_unicast_link_local();
        let on = Some(hop.oif).filter(|&oif| oif != 0);
        let is_local = |index: u32| system.has_address(address, Some(index).filter(|_| link_local));
        if on.is_some_and(is_local) {
            return Err(local());
        }
        let mut oif = on;
        if !link_local {
            if gateway.is_multicast() || gateway.is_unspecified() {
                return Err(Refusal::invalid("Invalid gateway address"));
            }
            match on {
                // The address of another link of ours is reached over that one.
                None if system.has_address(address, None) => return Err(local()),
                Some(index) if hop.flags & RTNH_F_ONLINK != 0 => self.onlink_v6(address, index, system)?,
                _ => {
                    let look = || self.way_to_v6(address, on, table, system).map(|oif| (oif, 0));
                    oif = Some(self.known_way((address, hop.oif, table, 0), system, look)?.0);
                }
            }
        }
        match oif {
            None => Err(Refusal::invalid("Egress device not specified")),
            Some(index) if index == LOOPBACK => {
                Err(Refusal::invalid("Egress device can not be loopback device for this route"))
            }
            Some(index) if on.is_none() && is_local(index) => Err(local()),
            Some(index) => Ok(index),
        }
    }

    /// ip6_route_check_nh: the longest match must be a route without a gateway, over that interface
    /// if there is one.
    fn way_to_v6(&self, gateway: IpAddr, on: Option<u32>, table: u32, system: &System) -> Result<u32, Refusal> {
        let unreachable = Refusal::new(libc::EHOSTUNREACH, "");
        // The route's own table first, then main.
        if table != RT_TABLE_MAIN
            && let Some(Some(oif)) = self.own_way_v6(gateway, on, table, system)
        {
            return Ok(oif);
        }
        match self.own_way_v6(gateway, on, RT_TABLE_MAIN, system) {
            Some(Some(oif)) => Ok(oif),
            _ if !system.is_certain() => on.ok_or(unreachable),
            _ => Err(unreachable),
        }
    }

    /// Where the longest match in one table leads: `Some(None)` for a gateway or a route that
    /// drops.
    fn own_way_v6(&self, gateway: IpAddr, on: Option<u32>, table: u32, system: &System) -> Option<Option<u32>> {
        let way = self.lookup_v6(gateway, on, table, true, system)?;
        Some((!way.rejects && !way.gateway).then_some(way.oif))
    }

    /// ip6_route_check_nh_onlink: what the address matches must not lead over another interface.
    fn onlink_v6(&self, gateway: IpAddr, oif: u32, system: &System) -> Result<(), Refusal> {
        match self.lookup_v6(gateway, Some(oif), RT_TABLE_MAIN, false, system) {
            Some(way) if !way.rejects && !way.default && (way.kind != RTN_UNICAST || way.oif != oif) => {
                Err(Refusal::invalid("Nexthop has invalid gateway or device mismatch"))
            }
            _ => Ok(()),
        }
    }
}

fn onlink_v4(hop: &Hop, gateway: IpAddr, scope: u8, system: &System) -> Result<(), Refusal> {
    if scope >= RT_SCOPE_LINK {
        return Err(Refusal::invalid("Nexthop has invalid scope"));
    }
    let link = system.link(hop.oif).ok_or(Refusal::new(libc::ENODEV, "Nexthop device required for onlink"))?;
    if !link.up {
        return Err(Refusal::new(libc::ENETDOWN, "Nexthop device is down"));
    }
    let IpAddr::V4(v4) = gateway else { return Ok(()) };
    let ours = system.nature(gateway, None) != Nature::Other;
    if ours || v4.is_multicast() || v4.is_broadcast() || v4.octets().first() == Some(&0) {
        return Err(Refusal::invalid(INVALID_GATEWAY));
    }
    Ok(())
}
