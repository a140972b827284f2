//! An exchange: every neighbour of a route server gets the routes of all others, from BIRD alone and
//! with virtd in front of it.

use anyhow::{Result, ensure};
use std::time::Duration;
use tests::daemons::{Attach, Daemon, Instance};
use tests::exchange::Exchange;
use tests::lab::Lab;
use tests::router::{Options, Router};

const NEIGHBOURS: u32 = 20;
const ROUTES: u32 = 10;
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts the route server and lets all come.
fn fills(name: &str, virtd: bool) -> Result<()> {
    let mut lab = Lab::new(name)?;
    let exchange = Exchange::new(&mut lab, NEIGHBOURS)?;
    let options = Options { daemons: vec![Daemon::Bird], peers: exchange.peers(), ..Options::default() };
    let ns = &exchange.star.router;
    let (router, alone) = if virtd {
        (Some(Router::start(&lab, &exchange.star, &options)?), None)
    } else {
        let spec = options.spec(&[]);
        (None, Some(Instance::start(&lab, ns, Daemon::Bird, "bird", &spec, &Attach::Native)?))
    };
    let mut players = exchange.play(&lab, ROUTES, PATIENCE)?;
    ensure!(players.filled()?, "not complete in time: {}", players.finish()?);
    if let Some(router) = &router {
        let published = u64::from(NEIGHBOURS * (NEIGHBOURS - 1) * ROUTES);
        let status = router.status()?;
        let measured = status.longest_turn.is_some_and(|turn| turn.us > 0);
        ensure!(status.routes_published == published && measured, "virtd says otherwise: {status:?}");
    }
    let report = players.finish()?;
    let count = |part: &str, what: &str| report[part][what].as_u64();
    ensure!(report["neighbours_complete"] == NEIGHBOURS && report["sessions_up"] == NEIGHBOURS, "{report}");
    for part in ["filling", "stay"] {
        for what in ["sessions_lost", "withdrawals", "malformed", "foreign"] {
            ensure!(count(part, what) == Some(0), "{what} in {part}: {report}");
        }
    }
    drop((router, alone));
    lab.passed();
    Ok(())
}

#[test]
fn bird_alone_tells_everybody_everything() -> Result<()> {
    fills("exchange-bird", false)
}

#[test]
fn with_virtd_in_front_everybody_is_told_the_same() -> Result<()> {
    fills("exchange-virtd", true)
}
