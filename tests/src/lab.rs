//! A scenario's own little network: namespaces joined by veth pairs, processes inside them, and
//! their removal afterwards.
//!
//! Names hold the test process's id (`hvt-PID-N-label`), so that tests run beside each other and
//! what a crashed run left behind is found and removed by the next one.

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

/// First part of every name we make.
const PREFIX: &str = "hvt";
/// A neighbour's AS number is this plus its site's number.
pub const FIRST_ASN: u32 = 65000;
/// How long a process has between SIGTERM and SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(3);
/// Pause between two looks at a condition.
const POLL: Duration = Duration::from_millis(25);
/// Lines of each log that a failure prints.
const TAIL_LINES: usize = 12;
/// Characters of each such line.
const TAIL_COLUMNS: usize = 240;

/// Waits until `condition` holds; the error names `what` and says what the last look found wrong.
pub fn wait_for(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    wait_until(what, timeout, || if condition() { Ok(()) } else { Err(String::new()) })
}

/// Like [`wait_for`], for conditions that can say what is missing or hand back what they found.
pub fn wait_until<T>(what: &str, timeout: Duration, mut look: impl FnMut() -> Result<T, String>) -> Result<T> {
    let start = Instant::now();
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(missing) if start.elapsed() >= timeout => {
                bail!(
                    "waited {:.1} s for {what} in vain{}{missing}",
                    timeout.as_secs_f32(),
                    if missing.is_empty() { "" } else { ": " }
                );
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

/// Runs a command to its end; the error holds its output.
pub fn run(program: impl AsRef<OsStr>, args: &[&str]) -> Result<String> {
    finish(Command::new(program).args(args))
}

/// The same for a command that is made up already.
pub fn finish(command: &mut Command) -> Result<String> {
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("starting {command:?}"))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    if !out.status.success() {
        bail!("{command:?}: {}\n{text}{}", out.status, String::from_utf8_lossy(&out.stderr));
    }
    Ok(text)
}

/// One of this workspace's own programs or libraries, out of the folder this program was built
/// into.
pub fn built(name: &str) -> Result<PathBuf> {
    let this = std::env::current_exe().context("finding the build folder")?;
    let folders = this.ancestors().skip(1).take(2);
    let found = folders.map(|f| f.join(name)).find(|p| p.is_file());
    found.with_context(|| format!("{name} is not built yet: run `cargo build --workspace` (`make test` does)"))
}

/// A file of real BGP data beside the workspace (`../shared/data/mrt`), if it is there.
pub fn data_file(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/mrt").join(name);
    path.is_file().then_some(path)
}

/// The same for a test; where it is not there, that is written down as not tested.
pub fn real_data(name: &str) -> Option<PathBuf> {
    let file = data_file(name);
    if file.is_none() {
        crate::untested::not_tested(&format!("real data, {name}"), "it is not in ../shared/data/mrt");
    }
    file
}

/// A network namespace; removed with its lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Its name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// A command that runs inside; it becomes `program` itself (same pid), environment variables
    /// set on it reach the helper too.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs a command inside, to its end.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let net = format!("--net={}", self.path().display());
        let mut all = vec![net.as_str(), "--", program];
        all.extend_from_slice(args);
        run("nsenter", &all)
    }

    /// Runs `work` on a thread that is inside, for tests that open sockets themselves.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(self.path()).with_context(|| format!("opening namespace {}", self.name))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || setns(&file, CloneFlags::CLONE_NEWNET).map(|()| work()));
            match thread.join() {
                Ok(result) => result.with_context(|| format!("entering namespace {}", self.name)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    fn pids(&self) -> Vec<Pid> {
        let text = run("ip", &["netns", "pids", &self.name]).unwrap_or_default();
        text.split_whitespace().filter_map(|p| p.parse().ok()).map(Pid::from_raw).collect()
    }

    fn remove(&self) {
        for pid in self.pids() {
            // It may have ended meanwhile.
            let _ = kill(pid, Signal::SIGKILL);
        }
        let _ = wait_for("processes of the namespace to end", TERM_GRACE, || self.pids().is_empty());
        let _ = run("ip", &["netns", "del", &self.name]);
    }
}

/// One process of a scenario, in its own process group; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    status: Option<ExitStatus>,
}

impl Process {
    /// What it was called in `spawn`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX))
    }

    /// Where its stdout and stderr go.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Whether it still runs.
    pub fn running(&mut self) -> bool {
        self.poll().is_none()
    }

    fn poll(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    /// Sends a signal to the whole process group.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        killpg(self.pid(), signal).with_context(|| format!("sending {signal} to {}", self.name))
    }

    /// Waits for its end.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        wait_until(&what, timeout, || self.poll().ok_or_else(String::new))
    }

    /// Kills the whole group at once (SIGKILL): a crash.
    pub fn crash(&mut self) {
        let _ = killpg(self.pid(), Signal::SIGKILL);
        let _ = self.wait(TERM_GRACE);
    }

    /// SIGTERM, then SIGKILL for what is left.
    pub fn stop(&mut self) {
        if self.running() {
            let _ = self.signal(Signal::SIGTERM);
            let _ = self.wait(TERM_GRACE);
        }
        self.crash();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.crash();
    }
}

/// Everything one scenario makes, and its removal.
#[derive(Debug)]
pub struct Lab {
    name: String,
    directory: PathBuf,
    namespaces: Vec<Netns>,
    logs: Arc<Mutex<Vec<PathBuf>>>,
    links: u32,
    passed: bool,
}

static NEXT: AtomicU32 = AtomicU32::new(0);
static SWEEP: Once = Once::new();

impl Lab {
    /// A new, empty network. Removes what dead test processes left behind first.
    pub fn new(name: &str) -> Result<Lab> {
        ensure!(nix::unistd::geteuid().is_root(), "network namespaces need root: run this as root (`sudo make test`)");
        SWEEP.call_once(sweep);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("{PREFIX}-{}-{number}-{name}", std::process::id()));
        fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
        // The daemons drop to users of their own and must still reach their files.
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
        Ok(Lab {
            name: format!("{PREFIX}-{}-{number}", std::process::id()),
            directory,
            namespaces: Vec::new(),
            logs: Arc::default(),
            links: 0,
            passed: false,
        })
    }

    /// The scenario's folder.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A folder inside it, made if need be.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(path)
    }

    /// A new namespace with loopback up and without duplicate address detection.
    pub fn namespace(&mut self, label: &str) -> Result<Netns> {
        let ns = Netns { name: format!("{}-{label}", self.name) };
        run("ip", &["netns", "add", &ns.name])?;
        self.namespaces.push(ns.clone());
        ns.enter(|| {
            for scope in ["all", "default"] {
                // Without IPv6 in the kernel there is nothing to switch off.
                let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/accept_dad"), "0");
            }
        })?;
        run("ip", &["-n", &ns.name, "link", "set", "lo", "up"])?;
        Ok(ns)
    }

    /// Joins two namespaces by a veth pair with the addresses of link number `n`, counted from 1.
    pub fn link(&mut self, router: &Netns, neighbour: &Netns) -> Result<Site> {
        self.links += 1;
        let site = Site::new(self.links, neighbour.clone())?;
        let (near, far) = (format!("n{}", site.number), "r0");
        run(
            "ip",
            &[
                "link",
                "add",
                &near,
                "netns",
                &router.name,
                "type",
                "veth",
                "peer",
                "name",
                far,
                "netns",
                &neighbour.name,
            ],
        )?;
        let ends = [(router, near.as_str(), site.router_v4, site.router_v6), (neighbour, far, site.v4, site.v6)];
        for (end, (ns, device, v4, v6)) in ends.into_iter().enumerate() {
            // A fixed MAC makes a fixed link-local address, and that is part of what routers
            // announce.
            let mac = format!("02:00:00:00:{:02x}:{:02x}", site.number, end + 1);
            run("ip", &["-n", &ns.name, "link", "set", device, "address", &mac])?;
            run("ip", &["-n", &ns.name, "address", "add", &format!("{v4}/24"), "dev", device])?;
            run("ip", &["-n", &ns.name, "address", "add", &format!("{v6}/64"), "dev", device, "nodad"])?;
            run("ip", &["-n", &ns.name, "link", "set", device, "up"])?;
        }
        Ok(site)
    }

    /// A router namespace in the middle and one namespace for each neighbour, each on a subnet of
    /// its own.
    pub fn star(&mut self, neighbours: u32) -> Result<Star> {
        let router = self.namespace("r")?;
        let mut sites = Vec::new();
        for number in 1..=neighbours {
            let ns = self.namespace(&format!("n{number}"))?;
            sites.push(self.link(&router, &ns)?);
        }
        Ok(Star { router, sites })
    }

    /// Starts a process; its output goes to `NAME.log` in the scenario's folder.
    pub fn spawn(&self, name: &str, command: &mut Command) -> Result<Process> {
        let log = self.directory.join(format!("{name}.log"));
        let out = fs::OpenOptions::new().create(true).append(true).open(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {name}: {command:?}"))?;
        self.watch_log(&log);
        Ok(Process { name: name.to_owned(), child, log, status: None })
    }

    /// Adds a log file to those whose ends a failure prints.
    pub fn watch_log(&self, path: &Path) {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        if !logs.iter().any(|l| l == path) {
            logs.push(path.to_owned());
        }
    }

    /// The scenario held: nothing is kept.
    pub fn passed(mut self) {
        self.passed = true;
    }

    fn report_failure(&self) {
        let mut text = format!("\n{}: failed; its files are kept in {}\n", self.name, self.directory.display());
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        for log in logs.iter() {
            let all = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
            let lines: Vec<&str> = all.lines().collect();
            let _ = writeln!(text, "--- {} (last of {} lines)", log.display(), lines.len());
            for line in lines.iter().skip(lines.len().saturating_sub(TAIL_LINES)) {
                let cut: String = line.chars().take(TAIL_COLUMNS).collect();
                let _ = writeln!(text, "    {cut}");
            }
        }
        eprint!("{text}");
        let _ = fs::write(self.directory.join("FAILED"), text);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.passed {
            self.report_failure();
        }
        for ns in &self.namespaces {
            ns.remove();
        }
        if self.passed {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

/// On SIGINT or SIGTERM: kills what runs in this process's namespaces, deletes them, and exits.
pub fn clean_up_on_signal() -> Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM])?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            let own = format!("{PREFIX}-{}-", std::process::id());
            for name in file_names(Path::new("/run/netns")).into_iter().filter(|n| n.starts_with(&own)) {
                Netns { name }.remove();
            }
            for name in file_names(&std::env::temp_dir()).into_iter().filter(|n| n.starts_with(&own)) {
                let _ = fs::remove_dir_all(std::env::temp_dir().join(name));
            }
            std::process::exit(130);
        }
    });
    Ok(())
}

/// Removes the namespaces, and the folders of scenarios that did not fail, whose test process lives
/// no more.
fn sweep() {
    for name in file_names(Path::new("/run/netns")).into_iter().filter(|n| owner_is_dead(n)) {
        Netns { name }.remove();
    }
    for name in file_names(&std::env::temp_dir()).into_iter().filter(|n| owner_is_dead(n)) {
        let folder = std::env::temp_dir().join(name);
        if !folder.join("FAILED").exists() {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

fn file_names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).collect()
}

/// Whether this is a name of ours whose maker has ended.
fn owner_is_dead(name: &str) -> bool {
    let mut parts = name.split('-');
    if parts.next() != Some(PREFIX) {
        return false;
    }
    match parts.next().and_then(|pid| pid.parse::<u32>().ok()) {
        Some(pid) => !Path::new(&format!("/proc/{pid}")).exists(),
        None => false,
    }
}

/// A router and the neighbours around it.
#[derive(Debug)]
pub struct Star {
    /// Where the router's processes run.
    pub router: Netns,
    /// The neighbours, in order.
    pub sites: Vec<Site>,
}

/// A neighbour's place: its namespace and both ends' addresses. The AS number is 65000 + the
/// number.
#[derive(Clone, Debug)]
pub struct Site {
    /// Counted from 1.
    pub number: u8,
    /// Its namespace.
    pub ns: Netns,
    /// Its AS number.
    pub asn: u32,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// The router's IPv4 address on this link.
    pub router_v4: Ipv4Addr,
    /// The router's IPv6 address on this link.
    pub router_v6: Ipv6Addr,
}

impl Site {
    fn new(number: u32, ns: Netns) -> Result<Site> {
        let number = u8::try_from(number).context("too many neighbours for the address plan")?;
        let v6 = |host| Ipv6Addr::new(0xfd00, u16::from(number), 0, 0, 0, 0, 0, host);
        Ok(Site {
            number,
            ns,
            asn: FIRST_ASN + u32::from(number),
            v4: Ipv4Addr::new(10, 0, number, 2),
            v6: v6(2),
            router_v4: Ipv4Addr::new(10, 0, number, 1),
            router_v6: v6(1),
        })
    }

    /// Its address and the router's, of one IP version.
    pub fn addresses(&self, v6: bool) -> (IpAddr, IpAddr) {
        if v6 { (self.v6.into(), self.router_v6.into()) } else { (self.v4.into(), self.router_v4.into()) }
    }
}
