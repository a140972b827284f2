//! XORP 814: "the asynchronous event handler did not fairly allocate its resources when processing
//! events from the various file descriptors", so that "a single peer sending a long burst of
//! updates could cause other sessions to time out due to missed keepalives". BIRD with an event
//! loop that serves a peer's burst to its end before anybody else; what it reads in one turn costs
//! it so long that the burst lasts.

use super::*;
use std::time::Instant;
use virtd_api::Sessions;

/// What the first neighbour announces at once.
const ROUTES: usize = 30_000;
/// What BIRD takes for what it reads in one turn, 4 KiB or so: a processor on which that burst
/// lasts longer than hold times.
const TURN_MS: u32 = 50;
/// The second neighbour's hold time, the least there is, in seconds.
const HOLD_S: &str = "3";
/// virtd's own: how soon it takes a leg for dead, and how long a session stands without any. The
/// bug is to be seen in a burst that a test can wait for.
const TIMERS: &str = "leg_hold_s = 3\ngrace_s = 3\nfault_threshold_s = 3600\n";
/// Waiting for all of a burst, three times over.
const LONG: Duration = Duration::from_secs(300);

fn starving() -> Result<Wrapper> {
    let mut wrapper = wrapper(Some("starve"), |text| text)?;
    wrapper.variables.push(("HV_BUG_TURN_MS", TURN_MS.to_string()));
    Ok(wrapper)
}

/// The first neighbour, which sends the burst, and the second, which listens, when the second has
/// all of it or its session has ended.
fn burst(scene: &Scene) -> Result<(Watch, Watch)> {
    let mut second = scene.dial(1, &["--monitor", "--hold-time", HOLD_S])?;
    wait("the session", &mut second, |w| w.ups == 1)?;
    if let Middle::Behind(router) = &scene.middle {
        wait_until("everybody to have a leg", SETTLE, || {
            let Sessions { sessions } = router.ctl(&["sessions"]).map_err(|e| format!("{e:#}"))?;
            let states = sessions.iter().flat_map(|s| s.legs.iter().map(|leg| &leg.state).chain([&s.state]));
            if states.filter(|s| *s == "Established").count() >= 4 { Ok(()) } else { Err(format!("{sessions:?}")) }
        })?;
    }
    let start = Instant::now();
    let mut first = scene.dial(0, &["--generate", &ROUTES.to_string()])?;
    wait_until("all routes, or the session to end", LONG, || {
        first.look().and_then(|()| second.look()).map_err(|e| format!("{e:#}"))?;
        let done = second.table.len() == ROUTES || !second.downs.is_empty();
        if done { Ok(()) } else { Err(format!("{} routes", second.table.len())) }
    })?;
    println!("burst: {:?}, {} routes, ended {:?}", start.elapsed(), second.table.len(), second.downs);
    first.check_session()?;
    Ok((first, second))
}

#[test]
fn xorp_814_a_burst_starves_the_other_sessions() -> Result<()> {
    let with_bug = |second: Wrapper, third: Wrapper, t_ms: u32| -> Result<Options> {
        let timers = TIMERS.to_owned();
        Ok(Options { timers, t_ms, ..three(Daemon::Bird, [starving()?, second, third]) })
    };
    let all = with_bug(starving()?, starving()?, 5_000)?;

    let scene = Scene::alone("t1-814-sound", 2, &all, Wrapper::default())?;
    burst(&scene)?.1.check_session()?;
    scene.lab.passed();
    let scene = Scene::alone("t1-814-alone", 2, &all, starving()?)?;
    ensure!(!burst(&scene)?.1.downs.is_empty(), "BIRD alone keeps the second session through the burst");
    scene.lab.passed();
    let scene = Scene::behind("t1-814-three", 2, &all, &[])?;
    ensure!(!burst(&scene)?.1.downs.is_empty(), "three of them keep the second session through the burst");
    scene.lab.passed();

    // Version diversity: the bug is in one of them.
    let scene = Scene::behind("t1-814-versions", 2, &with_bug(Wrapper::default(), Wrapper::default(), 5_000)?, &[])?;
    burst(&scene)?.1.check_session()?;
    scene.lab.passed();
    Ok(())
}

/// The table's own diversity is a delay of 1 to 10 ms. Here a flood is held back no longer than one
/// message: it stays the burst that it is.
#[test]
fn xorp_814_a_burst_some_milliseconds_later_is_a_burst() -> Result<()> {
    let timers = TIMERS.to_owned();
    let all = Options { timers, ..three(Daemon::Bird, [starving()?, starving()?, starving()?]) };
    let short = ["bird", "bird2", "bird3"].map(|name| (name, "{ delay_ms = [1, 10] }"));
    let scene = Scene::behind("t1-814-short", 2, &all, &short)?;
    ensure!(!burst(&scene)?.1.downs.is_empty(), "delays of 1 to 10 ms keep the second session");
    scene.lab.passed();
    Ok(())
}

/// The burst comes to one of them when the others have it behind them: somebody is always there for
/// the second neighbour.
#[test]
fn xorp_814_a_burst_that_comes_later_to_one_starves_nobody_outside() -> Result<()> {
    let timers = TIMERS.to_owned();
    let all = Options { timers, t_ms: 81_000, ..three(Daemon::Bird, [starving()?, starving()?, starving()?]) };
    let scene = Scene::behind("t1-814-later", 2, &all, &[("bird2", "{ delay_ms = 40000 }")])?;
    let (_first, mut second) = burst(&scene)?;
    second.check_session()?;
    // Then it is this one's turn to serve nobody else, and the session goes on.
    let router = scene.router()?;
    wait_until("the one that is told later to have its own burst behind it", LONG, || {
        let answer = router.show(&["instances"]).map_err(|e| format!("{e:#}"))?;
        let losses = router.events("leg-fault").into_iter().filter(|e| e["instance"] == "bird2").count();
        let back = router.wait_voting(Duration::from_secs(1)).is_ok();
        if losses > 0 && back { Ok(()) } else { Err(answer) }
    })?;
    second.check_session()?;
    ensure!(second.table.len() == ROUTES, "{} routes are left", second.table.len());
    scene.lab.passed();
    Ok(())
}
