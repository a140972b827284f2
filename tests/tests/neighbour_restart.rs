//! Daemons that virtd has started are asked, by their own control programs, to begin their session
//! with one neighbour anew.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use std::net::IpAddr;
use std::time::Duration;
use tests::daemons::Daemon;
use tests::kinds::Kinds;
use tests::lab::{Lab, wait_for};
use tests::replayer::Replayer;
use tests::router::Options;
use tests::versions::Version;
use virtd_config::{Instance, Kind};
use virtd_linux::instances::neighbour;
use virtd_linux::kinds::folder_beside;

const UP: Duration = Duration::from_secs(90);

/// A daemon of the scenario as virtd knows it.
struct Asked {
    instance: Instance,
    folder: std::path::PathBuf,
}

impl Asked {
    fn new(lab: &Lab, name: &str, daemon: Daemon, version: Option<Version>) -> Result<Asked> {
        let kind = match daemon {
            Daemon::Frr => Kind::Frr,
            Daemon::Bird => Kind::Bird,
            Daemon::OpenBgpd => Kind::OpenBgpd,
        };
        let root = version.map(Version::needed).transpose()?.map(|root| root.path);
        let instance = Instance { name: name.to_owned(), kind: Some(kind), root, ..Instance::default() };
        let folder = folder_beside(&lab.folder("virtd")?.join("hv.sock"), name);
        Ok(Asked { instance, folder })
    }

    fn restart(&self, peer: IpAddr) -> Result<(), String> {
        neighbour::restart(&self.instance, &self.folder, peer)
    }
}

/// How often an instance's leg of a session has come: each time but the first, the one before has
/// ended.
fn legs(kinds: &Kinds, instance: &str, peer: IpAddr) -> usize {
    let all = kinds.router.events("leg-up").into_iter();
    all.filter(|e| e["instance"] == instance && e["session"] == peer.to_string()).count()
}

/// The leg with that neighbour ends and comes back; the other one stays, and neighbours notice
/// nothing.
fn each_begins_anew(name: &str, versions: Vec<Option<Version>>) -> Result<()> {
    let mut lab = Lab::new(name)?;
    let star = lab.star(2)?;
    let options = Options { versions: versions.clone(), ..Options::default() };
    if !options.there()? {
        return Ok(());
    }
    let kinds = Kinds::start(&lab, &star, &options, |_| String::new())?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", "50"])?;
    let mut other = Replayer::dial(&lab, &star.sites[1], false, &["--monitor"])?;
    feed.wait_event("feed-done", UP)?;
    kinds.wait_voting(UP)?;
    let (peer, bystander) = (IpAddr::from(star.sites[0].v4), IpAddr::from(star.sites[1].v4));
    for (i, (name, daemon)) in options.names().into_iter().zip(options.daemons).enumerate() {
        let asked = Asked::new(&lab, &name, daemon, versions.get(i).copied().flatten())?;
        wait_for(&format!("{name} to have both legs"), UP, || {
            legs(&kinds, &name, peer) > 0 && legs(&kinds, &name, bystander) > 0
        })?;
        let (before, beside) = (legs(&kinds, &name, peer), legs(&kinds, &name, bystander));
        asked.restart(peer).map_err(anyhow::Error::msg).with_context(|| format!("asking {name}"))?;
        wait_for(&format!("the leg of {name} to end and come back"), UP, || legs(&kinds, &name, peer) > before)?;
        kinds.router.wait_state(&name, "voting", UP)?;
        ensure!(legs(&kinds, &name, bystander) == beside, "the other session of {name} was not asked about");

        let unknown = asked.restart("10.9.9.9".parse()?).err().with_context(|| format!("{name} knows no 10.9.9.9"))?;
        println!("{name}: {unknown}");
        ensure!(unknown.to_lowercase().contains("neighbor"), "{name} says what is wrong: {unknown}");
        ensure!(kinds.exits(&name).is_empty(), "{:?}", kinds.exits(&name));
    }
    feed.finish()?.check_quiet()?;
    other.finish()?.check_quiet()?;
    lab.passed();
    Ok(())
}

#[test]
fn a_session_with_one_neighbour_begins_anew() -> Result<()> {
    each_begins_anew("neighbour-restart", Vec::new())
}

#[test]
fn it_does_in_another_root_too() -> Result<()> {
    let versions = [Version::FRR_13, Version::BIRD_11, Version::OPENBGPD_13];
    each_begins_anew("neighbour-restart-root", versions.map(Some).to_vec())
}

/// What an operator has disabled stays so, and a daemon that hangs does not hold up who asks.
#[test]
fn who_cannot_or_must_not_is_left_alone() -> Result<()> {
    let mut lab = Lab::new("neighbour-no-restart")?;
    let star = lab.star(1)?;
    // Longer than is waited for an answer, or virtd would end the one that hangs.
    let timers = "leg_hold_s = 200\n".to_owned();
    let options = Options { daemons: vec![Daemon::Bird], timers, ..Options::default() };
    let kinds = Kinds::start(&lab, &star, &options, |_| String::new())?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", "5"])?;
    feed.wait_event("feed-done", UP)?;
    kinds.wait_voting(UP)?;
    let (asked, peer) = (Asked::new(&lab, "bird", Daemon::Bird, None)?, IpAddr::from(star.sites[0].v4));
    let bird = kinds.leader("bird")?;
    kill(bird, Signal::SIGSTOP)?;
    let hung = asked.restart(peer);
    kill(bird, Signal::SIGCONT)?;
    let hung = hung.err().context("a stopped BIRD answers nobody")?;
    ensure!(hung.contains("was killed"), "{hung}");

    let said = kinds.router.show(&["exec", "bird", "disable", "all"])?;
    ensure!(said.contains("disabled"), "{said}");
    let disabled = asked.restart(peer).err().context("it is disabled")?;
    ensure!(disabled.contains("already disabled"), "{disabled}");
    let state = kinds.router.show(&["exec", "bird", "show", "protocols"])?;
    ensure!(!state.contains("Established"), "{state}");
    lab.passed();
    Ok(())
}
