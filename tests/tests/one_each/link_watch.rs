//! Without `[fib]`: virtd sees which links and addresses its sessions lose, and of which session
//! that is. OpenBGPD is the instance, since it looks at neither: the sessions stay until their hold
//! time is over.

use anyhow::{Result, ensure};
use std::time::Duration;
use tests::daemons::Daemon;
use tests::lab::{Lab, wait_until};
use tests::replayer::Replayer;
use tests::router::{Options, Router};

const UP: Duration = Duration::from_secs(60);

fn wait_path(router: &Router, peer: &str, path: &str) -> Result<()> {
    wait_until(&format!("the path to {peer} to be: {path}"), UP, || match router.session(peer) {
        Ok(s) if s.path.as_deref() == Some(path) && s.state == "Established" => Ok(()),
        Ok(s) => Err(format!("{:?}, {}", s.path, s.state)),
        Err(e) => Err(format!("{e:#}")),
    })
}

#[test]
fn each_session_loses_its_own_link_and_address() -> Result<()> {
    let mut lab = Lab::new("link-watch")?;
    let star = lab.star(2)?;
    let options = Options { daemons: vec![Daemon::OpenBgpd], ..Options::default() };
    let router = Router::start(&lab, &star, &options)?;
    let _monitors = [
        Replayer::dial(&lab, &star.sites[0], false, &["--monitor"])?,
        Replayer::dial(&lab, &star.sites[1], false, &["--monitor"])?,
    ];
    let ip = |words: &str| star.router.run("ip", &words.split(' ').collect::<Vec<_>>()).map(|_| ());
    for peer in ["10.0.1.2", "10.0.2.2"] {
        wait_path(&router, peer, "up")?;
        let changed = router.session(peer)?.path_changed_us;
        ensure!(changed.is_none(), "what was there from the start has not changed: {changed:?}");
    }
    let untouched = |peer: &str| -> Result<()> {
        let s = router.session(peer)?;
        let untouched = s.path.as_deref() == Some("up") && s.path_changed_us.is_none();
        ensure!(untouched, "another one's link is none of its business: {s:?}");
        Ok(())
    };

    ip("link set n1 down")?;
    wait_path(&router, "10.0.1.2", "the link n1 is down")?;
    untouched("10.0.2.2")?;
    let shown = router.show(&["sessions"])?;
    ensure!(shown.contains("Established (the link n1 is down)"), "{shown}");
    ip("link set n1 up")?;
    wait_path(&router, "10.0.1.2", "up")?;
    ensure!(router.session("10.0.1.2")?.path_changed_us.is_some(), "it has been down");

    star.sites[0].ns.run("ip", &["link", "set", "r0", "down"])?;
    wait_path(&router, "10.0.1.2", "the link n1 has no carrier")?;
    star.sites[0].ns.run("ip", &["link", "set", "r0", "up"])?;
    wait_path(&router, "10.0.1.2", "up")?;
    untouched("10.0.2.2")?;

    ip("addr del 10.0.2.1/24 dev n2")?;
    wait_path(&router, "10.0.2.2", "no interface has 10.0.2.1 any more")?;
    wait_path(&router, "10.0.1.2", "up")?;
    ip("addr add 10.0.2.1/24 dev n2")?;
    wait_path(&router, "10.0.2.2", "up")?;
    ip("link del n2")?;
    wait_path(&router, "10.0.2.2", "the link n2 is gone")?;
    wait_path(&router, "10.0.1.2", "up")?;
    lab.passed();
    Ok(())
}
