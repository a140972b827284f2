//! Another program of virtd takes over while sessions stand: no neighbour and no daemon notices. One
//! that cannot is refused, or given up, by name.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tests::lab::wait_for;
use tests::operate::{virtd_copy, virtd_script};
use tests::replayer::Replayer;
use tests::scene::{ROUTES, Scene, UP};

/// Upgrades in a row, where HV_UPGRADES does not say another number.
const TIMES: usize = 10;
/// What comes and goes meanwhile.
const FLAPS: &str = "198.18.1.0/24";
/// What changes meanwhile.
const CHANGES: &str = "198.18.2.0/24";

fn copy(scene: &Scene, folder: &str) -> Result<PathBuf> {
    virtd_copy(&scene.lab, folder)
}

fn script(scene: &Scene, name: &str, text: &str) -> Result<PathBuf> {
    virtd_script(&scene.lab, name, text)
}

fn upgrade(scene: &Scene, to: &Path) -> Result<String> {
    scene.kinds.router.show(&["upgrade", "--to", &to.display().to_string()])
}

/// Why it is refused.
fn refused(scene: &Scene, to: &Path) -> Result<String> {
    let said = upgrade(scene, to).err().with_context(|| format!("{} takes over", to.display()))?;
    Ok(format!("{said:#}"))
}

/// The number before ` ms`.
fn pause_ms(said: &str) -> Result<u64> {
    let (before, _) = said.split_once(" ms").with_context(|| format!("no pause in {said}"))?;
    Ok(before.rsplit(' ').next().unwrap_or_default().parse()?)
}

/// What the monitor was told, but for what the churn is about.
fn noticed(monitor: &Replayer) -> Vec<Value> {
    let other = |p: &Value| p != FLAPS && p != CHANGES;
    let has = |v: &Value| v.as_array().is_some_and(|all| all.iter().any(other));
    let told = |e: &Value| {
        let announced = e["announced"].as_array().into_iter().flatten().any(|a| has(&a["prefixes"]));
        announced || has(&e["withdrawn"])
    };
    monitor
        .events()
        .into_iter()
        .filter(|e| ["update", "stale"].contains(&e["event"].as_str().unwrap_or("")))
        .filter(told)
        .collect()
}

/// No session has ended, for nobody.
fn nothing_has_ended(scene: &Scene, before: [usize; 2]) -> Result<()> {
    ensure!(scene.sessions() == before, "sessions began anew: {before:?}, {:?}", scene.sessions());
    for replayer in [&scene.monitor, &scene.feed] {
        ensure!(replayer.count("session-down") == 0, "{:?}", replayer.events());
    }
    let down = scene.kinds.router.events("session-down");
    ensure!(down.is_empty(), "{down:?}");
    Ok(())
}

#[test]
fn several_in_a_row_while_routes_change() -> Result<()> {
    let scene = Scene::new("upgrade-row", 3, ROUTES)?;
    let file = scene.lab.directory().join("churn");
    let mut text = String::new();
    for i in 0..2000 {
        let flap = if i % 2 == 0 { "announce" } else { "withdraw" };
        text.push_str(&format!("{flap} {FLAPS}\nannounce {CHANGES} med {i}\nwait 300ms\n"));
    }
    fs::write(&file, text + "wait 600s\n")?;
    let mut churn =
        Replayer::dial(&scene.lab, &scene.star.sites[2], false, &["--script", &file.display().to_string()])?;
    wait_for("the churn to come through", UP, || {
        scene.monitor.events().iter().any(|e| e.to_string().contains(CHANGES))
    })?;
    let (daemons, before, told) = (scene.daemons()?, scene.sessions(), noticed(&scene.monitor).len());
    let copies = [copy(&scene, "one")?, copy(&scene, "two")?];
    let worker = scene.kinds.router.worker();
    let only = scene.kinds.router.show(&["upgrade", "--dry-run", "--to", &copies[0].display().to_string()])?;
    ensure!(only.contains("3 sessions, 20") && only.contains("could take over"), "{only}");
    ensure!(scene.kinds.router.worker() == worker, "it was only tried");

    let times = std::env::var("HV_UPGRADES").ok().and_then(|n| n.parse().ok()).unwrap_or(TIMES);
    let mut pauses = Vec::new();
    for i in 0..times {
        let worker = scene.kinds.router.worker();
        let start = Instant::now();
        // The last one is that of virtd's own file.
        let said = match copies.get(i % 3) {
            Some(copy) => upgrade(&scene, copy)?,
            None => scene.kinds.router.show(&["upgrade"])?,
        };
        ensure!(scene.kinds.router.worker() != worker, "{said}");
        let (pause, whole) = (pause_ms(&said)?, start.elapsed());
        scene.kinds.wait_voting(UP)?;
        pauses.push((pause, whole.as_millis(), start.elapsed().as_millis()));
        if i % 2 == 1 {
            std::thread::sleep(Duration::from_millis(700));
        }
    }
    println!("pause, whole of virtctl upgrade, until everybody votes again, in ms: {pauses:?}");
    nothing_has_ended(&scene, before)?;
    ensure!(churn.count("session-up") == 1 && churn.count("session-down") == 0 && churn.running());
    ensure!(scene.daemons()? == daemons, "{daemons:?} before, {:?} now", scene.daemons()?);
    let now = noticed(&scene.monitor);
    ensure!(now.len() == told, "told without need: {:?}", &now[told..]);
    let router = &scene.kinds.router;
    ensure!(router.events("upgraded").len() == times && router.events("worker-died").is_empty());
    ensure!(router.status()?.worker.is_some_and(|w| w.restarts == 0), "nobody has died");
    // The changes go on.
    let updates = scene.monitor.count("update");
    wait_for("the next change", UP, || scene.monitor.count("update") > updates + 2)?;
    churn.finish()?;
    scene.end()
}

#[test]
fn who_cannot_take_over_is_refused_and_the_old_one_goes_on() -> Result<()> {
    let scene = Scene::new("upgrade-refused", 2, ROUTES)?;
    let (daemons, before, worker) = (scene.daemons()?, scene.sessions(), scene.kinds.router.worker());
    let tried = |name: &str, text: &str| refused(&scene, &script(&scene, name, text)?);
    let mut said = vec![refused(&scene, Path::new("/bin/true"))?];
    ensure!(said[0].contains("cannot take over: it has exited with status 0"), "{said:?}");
    for (name, text, why) in [
        ("no-virtd", "echo what is --try >&2; exit 2", "what is --try"),
        ("new", "HV_TEST_READS=2-3 exec $virtd \"$@\"", "it is of version 1; this virtd reads 2 to 3"),
        ("old", "HV_TEST_READS=0-0 exec $virtd \"$@\"", "it is of version 1; this virtd reads 0 to 0"),
        ("fault", "HV_TEST_PANICS_ON=any exec $virtd --worker --try --resumed", "cannot be used with"),
    ] {
        let words = tried(name, text)?;
        ensure!(words.contains("cannot take over") && words.contains(why), "{words}");
        said.push(words);
    }
    let writable = copy(&scene, "writable")?;
    fs::set_permissions(&writable, fs::Permissions::from_mode(0o777))?;
    let words = refused(&scene, &writable)?;
    ensure!(words.contains("can be written by others"), "{words}");
    ensure!(scene.kinds.router.worker() == worker, "nobody else has become the worker");
    nothing_has_ended(&scene, before)?;
    ensure!(scene.kinds.router.events("upgrade-failed").is_empty());
    ensure!(scene.daemons()? == daemons, "{daemons:?} before, {:?} now", scene.daemons()?);
    println!("{said:#?}");
    scene.end()
}

#[test]
fn who_does_not_come_to_serve_is_given_up_and_the_old_one_takes_over_again() -> Result<()> {
    let scene = Scene::new("upgrade-back", 2, ROUTES)?;
    let (daemons, before) = (scene.daemons()?, scene.sessions());
    let dies = copy(&scene, "dies")?;
    // The first dies at once, the second does nothing, the third has made its twin before it dies.
    for (i, (text, why)) in [
        ("exit 5", "has exited with status 5 before it served"),
        ("exec sleep 1000", "did not serve within 20 s"),
        ("HV_TEST_DIES=$copy exec $copy \"$@\"", "was ended by SIGABRT"),
    ]
    .iter()
    .enumerate()
    {
        let worker = scene.kinds.router.worker();
        let text = format!("copy={}\ncase \"$*\" in *--try*) exec $virtd \"$@\";; esac\n{text}", dies.display());
        let words = refused(&scene, &script(&scene, &format!("dies{i}"), &text)?)?;
        ensure!(words.contains(why) && words.contains("virtd goes on as"), "{words}");
        println!("{words}");
        let failed = scene.kinds.router.events("upgrade-failed");
        ensure!(failed.len() == i + 1 && failed.iter().all(|e| e["severity"] == "alarm"), "{failed:?}");
        ensure!(scene.kinds.router.worker() != worker, "a worker of the former program is there");
        scene.wait_whole(ROUTES)?;
        nothing_has_ended(&scene, before)?;
    }
    ensure!(scene.kinds.router.events("worker-died").is_empty() && scene.kinds.router.events("upgraded").is_empty());
    let now = scene.daemons()?;
    ensure!(now == daemons, "{daemons:?} before, {now:?} now");
    // It can be upgraded all the same.
    upgrade(&scene, &copy(&scene, "good")?)?;
    scene.wait_whole(ROUTES)?;
    nothing_has_ended(&scene, before)?;
    scene.end()
}

/// For the documentation: how long the pause is with a full table.
#[test]
#[ignore = "takes minutes: a measurement"]
fn pause_with_many_prefixes() -> Result<()> {
    let routes = std::env::var("HV_ROUTES").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000);
    let scene = Scene::new("upgrade-many", 2, routes)?;
    let before = scene.sessions();
    let good = copy(&scene, "good")?;
    for _ in 0..3 {
        let start = Instant::now();
        println!("{}", upgrade(&scene, &good)?);
        println!("virtctl upgrade took {} ms", start.elapsed().as_millis());
        scene.wait_whole(routes)?;
        println!("everybody votes after {} ms", start.elapsed().as_millis());
    }
    nothing_has_ended(&scene, before)?;
    scene.end()
}
