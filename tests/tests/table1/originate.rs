//! A real equivalent of Quagga 370, a version in which default-originate "does not work properly"
//! and an older one in which it does. A neighbour has been told of a default route that another one
//! announces; `neighbor X default-originate` gives it the router's own in its place, and is taken
//! back: FRR 7.5.1 and 8.4.4 then tell it of the other's again, FRR 10.3 and 10.7.1 tell it of
//! none.

use super::*;
use tests::operate::control;
use tests::router::ASN;
use tests::untested::not_tested;
use tests::versions::Version;

/// FRR of these versions.
fn options(versions: [Option<Version>; 3]) -> Options {
    Options {
        versions: versions.to_vec(),
        ..three(Daemon::Frr, [Wrapper::default(), Wrapper::default(), Wrapper::default()])
    }
}

/// The line that is given and taken back.
const LINE: &str = "neighbor 10.0.2.2 default-originate";

/// The first neighbour has a default route, of which the second is told; the operator gives the
/// line to every instance, and takes it back.
fn taken_back(scene: &Scene) -> Result<(Watch, Watch)> {
    let mut first = scene.dial(0, &[])?;
    let mut second = scene.dial(1, &["--monitor"])?;
    wait("the first session", &mut first, |w| w.ups == 1)?;
    wait("the second session", &mut second, |w| w.ups == 1)?;
    if let Middle::Behind(router) = &scene.middle {
        router.wait_voting(SETTLE)?;
    }
    first.say(&format!("announce {DEFAULT}"))?;
    wait("the neighbour's default", &mut second, theirs)?;
    configure(scene, LINE)?;
    wait("the router's own default", &mut second, |w| path(w).as_deref() == Some("65000"))?;
    // All instances have said it.
    if let Middle::Behind(router) = &scene.middle {
        router.wait_agreement(0, SETTLE)?;
    }
    configure(scene, &format!("no {LINE}"))?;
    wait("the router's own default to be gone", &mut second, |w| path(w).as_deref() != Some("65000"))?;
    Ok((first, second))
}

fn configure(scene: &Scene, line: &str) -> Result<()> {
    let instances = match &scene.middle {
        Middle::Alone { daemon } => std::slice::from_ref(daemon),
        Middle::Behind(router) => &router.instances,
    };
    let lines = format!("configure terminal\nrouter bgp {ASN}\naddress-family ipv4 unicast\n{line}");
    instances.iter().try_for_each(|frr| control(frr, &scene.star.router, &lines).map(|_| ()))
}

/// The default route is the first neighbour's.
fn theirs(watch: &Watch) -> bool {
    path(watch).as_deref() == Some("65000 65001")
}

/// The path of the default route.
fn path(watch: &Watch) -> Option<String> {
    watch.table.get(DEFAULT)?["as_path"].as_str().map(str::to_owned)
}

#[test]
fn quagga_370_for_real_a_default_route_is_lost_with_the_line() -> Result<()> {
    let newer = Some(Version::FRR_13);
    let Some(root) = Version::FRR_13.root()? else { return Ok(()) };

    let scene = Scene::alone("t1-370r-older", 2, &options([None; 3]), Wrapper::default())?;
    wait("the neighbour's default", &mut taken_back(&scene)?.1, theirs)?;
    scene.lab.passed();
    let scene = Scene::alone_in("t1-370r-newer", 2, &options([None; 3]), (Some(root), Wrapper::default()))?;
    let (_first, mut second) = taken_back(&scene)?;
    if wait_until("the neighbour's default", LULL, || {
        second.look().map_err(|e| format!("{e:#}"))?;
        if theirs(&second) { Ok(()) } else { Err("not there".to_owned()) }
    })
    .is_ok()
    {
        not_tested("the default route that frr of trixie loses with default-originate", "it loses none");
        scene.lab.passed();
        return Ok(());
    }
    scene.lab.passed();
    let scene = Scene::behind("t1-370r-three", 2, &options([newer; 3]), &[])?;
    let (_first, mut second) = taken_back(&scene)?;
    never("the neighbour's default", &mut second, theirs)?;
    scene.lab.passed();

    let scene = Scene::behind("t1-370r-versions", 2, &options([newer, None, None]), &[])?;
    let (mut first, mut second) = taken_back(&scene)?;
    wait("the neighbour's default", &mut second, theirs)?;
    newer_is_named(scene.router()?)?;
    first.check_session()?;
    second.check_session()?;
    scene.lab.passed();
    Ok(())
}
