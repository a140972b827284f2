//! `[fib]`, and whose routes an instance writes.

/// `[fib]`: docs/DECISIONS.md, "A virtual kernel for each instance". Its presence redirects the
/// instances' NETLINK_ROUTE sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fib {
    /// `protocol` = 245: rtm_protocol of the routes that virtd writes, by which it knows them
    /// again.
    pub protocol: u8,
    /// `metric` = 20: their metric (RTA_PRIORITY).
    pub metric: u32,
    /// `on_exit = "keep" | "remove"`: what becomes of them when virtd ends.
    pub on_exit: OnExit,
    /// `sweep_s` = 120: routes of an earlier virtd that no vote has confirmed by then are removed.
    /// Milliseconds.
    pub sweep_ms: u32,
    /// `reconcile_s` = 60: how often the kernel is read again as a whole. Milliseconds.
    pub reconcile_ms: u32,
    /// `answer_ahead` = true: a daemon that waits for the answer to each route is not made to wait
    /// for those that are known.
    pub answer_ahead: bool,
}

impl Fib {
    /// The least protocol number that may be virtd's: those before are the kernel's and well-known
    /// daemons'.
    pub const PROTOCOLS_FROM: u8 = 64;
}

impl Default for Fib {
    fn default() -> Fib {
        Fib {
            protocol: 245,
            metric: 20,
            on_exit: OnExit::Keep,
            sweep_ms: 120_000,
            reconcile_ms: 60_000,
            answer_ahead: true,
        }
    }
}

/// `on_exit` of `[fib]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnExit {
    /// The routes stay, and the next virtd adopts them.
    Keep,
    /// They are removed.
    Remove,
}

/// The kinds of routing protocols whose routes an instance writes to the FIB (`fib_scope`,
/// docs/DECISIONS.md, "A virtual kernel for each instance"): a set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FibScope(pub u8);

impl FibScope {
    /// Writes no FIB at all: it always abstains there.
    pub const NONE: FibScope = FibScope(0);
    /// BGP.
    pub const BGP: FibScope = FibScope(1);
    /// OSPF, IS-IS, RIP, Babel, EIGRP: interior protocols, which may stand in for each other.
    pub const IGP: FibScope = FibScope(2);
    /// Static routes.
    pub const STATIC: FibScope = FibScope(4);
    /// All of them.
    pub const ALL: FibScope = FibScope(7);

    /// Those in either.
    #[must_use]
    pub const fn union(self, other: FibScope) -> FibScope {
        FibScope(self.0 | other.0)
    }

    /// Whether they have one in common.
    pub const fn meets(self, other: FibScope) -> bool {
        self.0 & other.0 != 0
    }
}

impl Default for FibScope {
    fn default() -> FibScope {
        FibScope::ALL
    }
}
