//! A service manager that watches virtd: told when it serves, fed by the worker's loop and by nothing
//! else, and never in need of a restart because a worker hangs or dies.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use nix::unistd::Pid;
use std::io::IoSliceMut;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};
use tests::lab::{Lab, wait_for, wait_until};
use tests::replayer::Replayer;
use tests::router::{Options, Router};

const UP: Duration = Duration::from_secs(90);
/// WatchdogSec: a loop that says nothing for half of it hangs.
const LIMIT: Duration = Duration::from_secs(8);
const ROUTES: &str = "100";

/// The service manager's end of NOTIFY_SOCKET.
struct Manager(UnixDatagram);

/// One notification, who sent it, and when it was read.
#[derive(Debug)]
struct Notice {
    text: String,
    pid: i32,
    at: Instant,
}

impl Manager {
    fn new(lab: &Lab) -> Result<(Manager, String)> {
        let path = lab.directory().join("notify.sock");
        let socket = UnixDatagram::bind(&path)?;
        // As systemd does, which takes notices of the main process alone.
        setsockopt(&socket, sockopt::PassCred, &true)?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        Ok((Manager(socket), path.display().to_string()))
    }

    /// The next notice, if one comes soon.
    fn hear(&self) -> Result<Option<Notice>> {
        let (mut octets, mut room) = ([0; 4096], nix::cmsg_space!(nix::libc::ucred));
        let mut parts = [IoSliceMut::new(&mut octets)];
        let flags = MsgFlags::empty();
        let (n, pid) = match recvmsg::<SockaddrStorage>(self.0.as_raw_fd(), &mut parts, Some(&mut room), flags) {
            Err(nix::errno::Errno::EAGAIN) => return Ok(None),
            Err(e) => return Err(e.into()),
            Ok(received) => {
                let sender = received.cmsgs()?.find_map(|c| match c {
                    ControlMessageOwned::ScmCredentials(c) => Some(c.pid()),
                    _ => None,
                });
                (received.bytes, sender.context("who has sent it?")?)
            }
        };
        let text = String::from_utf8(octets.get(..n).unwrap_or_default().to_vec())?;
        Ok(Some(Notice { text, pid, at: Instant::now() }))
    }

    /// All that has come and comes until `text` does, `text` included.
    fn until(&self, text: &str) -> Result<Vec<Notice>> {
        let mut all = Vec::new();
        wait_until(&format!("{text:?}"), UP, || match self.hear() {
            Ok(Some(notice)) => {
                let found = notice.text == text;
                all.push(notice);
                if found { Ok(()) } else { Err("something else has come".to_owned()) }
            }
            Ok(None) => Err(format!("{all:?}")),
            Err(e) => Err(format!("{e:#}")),
        })?;
        Ok(all)
    }

    /// What has come so far.
    fn drain(&self) -> Result<Vec<Notice>> {
        std::iter::from_fn(|| self.hear().transpose()).collect()
    }

    /// That it is fed `times` more, and told nothing else, by the master alone.
    fn is_fed(&self, times: usize, master: i32) -> Result<()> {
        for _ in 0..times {
            let notices = self.until("WATCHDOG=1")?;
            ensure!(notices.iter().all(|n| n.text == "WATCHDOG=1" && n.pid == master), "{notices:?}");
        }
        Ok(())
    }
}

fn worker_of(router: &Router, other_than: i32) -> Result<i32> {
    wait_until("the worker to answer", UP, || match i32::try_from(router.worker()) {
        Ok(pid) if pid != 0 && pid != other_than => Ok(pid),
        other => Err(format!("{other:?}")),
    })
}

/// virtd.toml with the users that daemons become, as which they come back to another worker.
fn with_users(text: String) -> String {
    [("frr", "frr"), ("openbgpd", "_openbgpd")].into_iter().fold(text, |text, (name, user)| {
        let line = format!("name = {name:?}\n");
        text.replace(&line, &format!("{line}user = {user:?}\n"))
    })
}

#[test]
fn the_loop_feeds_the_watchdog_and_a_hung_worker_is_replaced() -> Result<()> {
    let mut lab = Lab::new("watchdog")?;
    let star = lab.star(1)?;
    let (manager, path) = Manager::new(&lab)?;
    // The options want names that live for ever.
    let environment = vec![("NOTIFY_SOCKET", &*path.leak()), ("WATCHDOG_USEC", &*LIMIT.as_micros().to_string().leak())];
    let options = Options { environment, ..Options::default() };
    let mut router = Router::with_toml(&lab, &star, &options, with_users)?;
    router.launch(&lab, &star, &options)?;
    let master = router.virtd.pid().as_raw();
    let told = manager.until("READY=1")?;
    ensure!(told.len() == 1 && told[0].pid == master, "{told:?}");
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", ROUTES])?;
    feed.wait_event("session-up", UP)?;
    router.wait_voting(UP)?;
    // A router at rest turns all the same.
    manager.is_fed(3, master)?;

    // A loop that stands still feeds nothing; its worker is replaced, and the next one feeds.
    let worker = worker_of(&router, 0)?;
    kill(Pid::from_raw(worker), Signal::SIGSTOP)?;
    let stopped = Instant::now();
    // What it had said before may still be on its way.
    std::thread::sleep(Duration::from_secs(1));
    manager.drain()?;
    let next = manager.until("WATCHDOG=1")?;
    ensure!(next.len() == 1 && next[0].at >= stopped + LIMIT / 2 - Duration::from_secs(1), "{next:?}, {stopped:?}");
    let other = worker_of(&router, worker)?;
    manager.is_fed(3, master)?;
    wait_for("the sessions to be taken over", UP, || router.events("taken-over").len() == 1)?;
    let died = router.events("worker-died");
    ensure!(died.len() == 1 && router.virtd.log().contains(&format!("(process {worker}) hangs")), "{died:?}");

    // So it goes on after one that is killed, and after an upgrade.
    kill(Pid::from_raw(other), Signal::SIGKILL)?;
    let third = worker_of(&router, other)?;
    manager.is_fed(3, master)?;
    router.wait_voting(UP)?;
    wait_until("an upgrade", UP, || router.show(&["upgrade"]).map_err(|e| format!("{e:#}")))?;
    worker_of(&router, third)?;
    manager.is_fed(3, master)?;

    // A reload has a beginning and an end, one that fails too.
    manager.drain()?;
    for text in ["", "[no-such]\n"] {
        router.edit_toml(|old| old + text)?;
        let done = router.show(&["reload"]).is_ok();
        ensure!(done == text.is_empty());
        let notices = manager.until("READY=1")?;
        let begun = notices.iter().find(|n| n.text.starts_with("RELOADING=1\nMONOTONIC_USEC="));
        ensure!(begun.is_some_and(|n| n.pid == master), "{notices:?}");
    }

    ensure!(feed.count("session-down") == 0, "the neighbour has noticed");
    feed.finish()?;
    manager.drain()?;
    router.virtd.signal(Signal::SIGTERM)?;
    manager.until("STOPPING=1")?;
    ensure!(router.virtd.wait(UP)?.success());
    lab.passed();
    Ok(())
}
