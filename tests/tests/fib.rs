//! The FIB path with real daemons: each believes that the kernel is its own, and the kernel holds what the vote says.

use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tests::daemons::Daemon;
use tests::fib::{believes, by_protocol, kernel, wait_routes, wait_state};
use tests::lab::{Lab, Star, wait_until};
use tests::replayer::Replayer;
use tests::router::{Options, Router};
use tests::versions::Version;

const UP: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(120);
const ROUTES: usize = 200;

/// FRR 8.4.4, BIRD 2.0.12 and a third code base or version that writes routes on Linux.
fn options() -> Options {
    Options {
        daemons: vec![Daemon::Frr, Daemon::Bird, Daemon::OpenBgpd],
        versions: vec![None, None, Some(Version::OPENBGPD_13)],
        fib: true,
        ..Options::default()
    }
}

struct Scene {
    lab: Lab,
    star: Star,
    router: Router,
    feed: Replayer,
}

impl Scene {
    fn new(name: &str, options: &Options) -> Result<Scene> {
        let mut lab = Lab::new(name)?;
        let star = lab.star(2)?;
        let router = Router::start(&lab, &star, options)?;
        let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", &ROUTES.to_string()])?;
        feed.wait_event("feed-done", UP)?;
        wait_routes(&star.router, ROUTES, SETTLE)?;
        Ok(Scene { lab, star, router, feed })
    }

    /// All of virtd's routes go to the first neighbour.
    fn all_to_the_feed(&self) -> Result<()> {
        let gateway = self.star.sites[0].v4.to_string();
        let routes = kernel(&self.star.router)?;
        ensure!(routes.len() == ROUTES, "{} routes in the kernel", routes.len());
        for (prefix, hops) in routes {
            ensure!(hops.len() == 1 && hops[0].0.as_deref() == Some(&gateway), "{prefix}: {hops:?}");
        }
        Ok(())
    }

    fn passed(mut self) -> Result<()> {
        self.feed.finish()?.check_quiet()?;
        self.lab.passed();
        Ok(())
    }
}

#[test]
fn one_fib_out_of_three_and_each_believes_that_it_is_its_own() -> Result<()> {
    let mut scene = Scene::new("fib", &options())?;
    scene.all_to_the_feed()?;
    let ns = scene.star.router.clone();
    for protocol in ["bgp", "bird", "openbgpd"] {
        // Names that this system's rt_protos does not know are no routes of anybody's.
        let own = by_protocol(&ns, protocol).unwrap_or_default();
        ensure!(own.is_empty(), "{protocol} has routes of its own in the kernel: {own:?}");
    }
    for name in ["frr", "bird"] {
        let instance = scene.router.instance(name)?;
        wait_until(&format!("{name} to believe that its routes are in the kernel"), UP, || {
            match believes(instance, &ns) {
                Ok((ROUTES, 0)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })?;
    }
    for name in ["frr", "bird", "openbgpd"] {
        wait_state(&scene.router, name, "voting", SETTLE)?;
    }
    let fib = scene.router.ctl(&["fib", "--diff"])?;
    ensure!(fib["entries"].as_array().is_some_and(Vec::is_empty), "{fib}");

    // Each dies and comes back; the kernel's routes stay where they are.
    for name in ["frr", "bird", "openbgpd"] {
        scene.router.instance(name)?.crash();
        wait_state(&scene.router, name, "absent", UP)?;
        scene.all_to_the_feed()?;
        scene.router.instance(name)?.launch(&scene.lab)?;
        wait_state(&scene.router, name, "voting", SETTLE).with_context(|| scene.router.show(&["fib"]).unwrap_or_default())?;
        scene.all_to_the_feed()?;
    }
    // What is withdrawn leaves the kernel.
    scene.feed.finish()?.check_quiet()?;
    wait_routes(&ns, 0, SETTLE)?;
    scene.lab.passed();
    Ok(())
}
