//! Events reach those who are to be told: commands, an HTTP server, syslog and journald; and one who
//! hangs or is away holds up nobody else.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tests::daemons::Daemon;
use tests::lab::{Lab, Process, Star, built, run, wait_for, wait_until};
use tests::router::{Options, Router};

const UP: Duration = Duration::from_secs(60);
/// What is left out is told when a minute is over.
const MINUTE: Duration = Duration::from_secs(90);
/// `at_most` of the command.
const AT_MOST: usize = 3;

/// Says on which port it listens, answers the first POST with 503, and writes down each.
const SERVER: &str = r#"
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    tries = 0
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        Handler.tries += 1
        status = 503 if Handler.tries == 1 else 204
        with open(sys.argv[1], "a") as out:
            out.write(json.dumps([status, self.path, self.headers["Content-Type"], json.loads(body)]) + "\n")
        self.send_response(status)
        self.end_headers()
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print("port", server.server_port, flush=True)
server.serve_forever()
"#;

fn script(lab: &Lab, name: &str, text: &str) -> Result<PathBuf> {
    let path = lab.directory().join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// A router of one BIRD.
fn router(lab: &Lab, star: &Star, sections: &str) -> Result<Router> {
    let options = Options { daemons: vec![Daemon::Bird], ..Options::default() };
    let mut router = Router::with_toml(lab, star, &options, |text| text + sections)?;
    router.launch(lab, star, &options)?;
    wait_until("bird to be there", UP, || match router.known("bird") {
        Ok(bird) if bird.attached => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    Ok(router)
}

/// virtd-monitor with what is in this file, and where it serves.
fn monitor(lab: &Lab, name: &str, config: &Path, more: &[&str]) -> Result<(Process, String)> {
    let mut command = Command::new(built("virtd-monitor")?);
    command.arg("--config").arg(config).args(["--listen", "127.0.0.1:0"]).args(more);
    let process = lab.spawn(&format!("monitor-{name}"), &mut command)?;
    let address = wait_until("virtd-monitor to serve", UP, || {
        let log = process.log();
        log.split("http://127.0.0.1:")
            .last()
            .and_then(|rest| rest.split_once("/ shows"))
            .map_or_else(|| Err(log.clone()), |(port, _)| Ok(format!("127.0.0.1:{port}")))
    })?;
    Ok((process, address))
}

/// Makes an event of the kind `operator`.
fn order(router: &Router, action: &str) -> Result<()> {
    router.show(&["instance", "bird", action]).map(drop)
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// journald, as far as the protocol goes: each datagram is an entry.
struct Journal {
    socket: UnixDatagram,
    entries: Vec<BTreeMap<String, String>>,
}

impl Journal {
    fn new(path: &Path) -> Result<Journal> {
        let socket = UnixDatagram::bind(path)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        Ok(Journal { socket, entries: Vec::new() })
    }

    fn read(&mut self) -> Result<&[BTreeMap<String, String>]> {
        let mut octets = vec![0; 1 << 20];
        while let Ok(n) = self.socket.recv(&mut octets) {
            let mut rest = octets.get(..n).unwrap_or_default();
            let mut fields = BTreeMap::new();
            while !rest.is_empty() {
                let end = rest.iter().position(|c| *c == b'\n').context("a line")?;
                let (line, after) = (&rest[..end], &rest[end + 1..]);
                let (name, value, after) = match line.iter().position(|c| *c == b'=') {
                    Some(at) => (&line[..at], &line[at + 1..], after),
                    None => {
                        let (length, after) = after.split_first_chunk::<8>().context("a length")?;
                        let length = usize::try_from(u64::from_le_bytes(*length))?;
                        (line, after.get(..length).context("a value")?, after.get(length + 1..).unwrap_or_default())
                    }
                };
                fields.insert(String::from_utf8(name.to_vec())?, String::from_utf8(value.to_vec())?);
                rest = after;
            }
            self.entries.push(fields);
        }
        Ok(&self.entries)
    }

    /// Waits for so many entries of a kind.
    fn wait(&mut self, kind: &str, count: usize) -> Result<()> {
        wait_until(&format!("{count} entries of {kind}"), UP, || {
            let all = self.read().map_err(|e| format!("{e:#}"))?;
            let found = all.iter().filter(|e| e.get("VIRTD_KIND").is_some_and(|k| k == kind)).count();
            if found >= count { Ok(()) } else { Err(format!("{all:?}")) }
        })
    }
}

#[test]
fn who_is_to_be_told_is_and_who_hangs_holds_up_nobody() -> Result<()> {
    let mut lab = Lab::new("alerts")?;
    let star = lab.star(1)?;
    let file = |name: &str| lab.directory().join(name);
    let page = script(
        &lab,
        "page",
        &format!(
            "cat >>{0}/paged; printf '%s' \"$1:$VIRTD_KIND:$VIRTD_INSTANCE\" >{0}/variables",
            lab.directory().display()
        ),
    )?;
    let hangs = script(&lab, "hangs", &format!("sleep 1000 & echo $! >>{}/hung; wait", lab.directory().display()))?;
    let mut python = Command::new("python3");
    let server = lab.spawn("server", python.args(["-c", SERVER]).arg(file("posted")))?;
    let port = wait_until("the HTTP server", UP, || {
        let log = server.log();
        let port = log.split("port ").nth(1).and_then(|rest| rest.split('\n').next()).map(str::to_owned);
        port.ok_or(log)
    })?;
    let mut journal = Journal::new(&file("journal.sock"))?;
    let sections = format!(
        "\n[[alert]]\nevents = [\"operator\"]\ncommand = [{page:?}, \"noc\"]\nat_most = {AT_MOST}\n\
         [[alert]]\nevents = [\"operator\", \"worker-died\"]\nurl = \"http://127.0.0.1:{port}/hook?to=noc\"\nat_most = 600\n\
         [[alert]]\nseverity = \"info\"\ncommand = [{hangs:?}]\ntimeout_s = 1\n\
         [[alert]]\nseverity = \"info\"\nurl = \"http://127.0.0.1:1/\"\n\
         [[alert]]\nevents = [\"operator\"]\ncommand = [\"/no/such/program\"]\n\
         [journald]\nsocket = {:?}\n",
        file("journal.sock")
    );
    let router = router(&lab, &star, &sections)?;
    let config = lab.folder("virtd")?.join("virtd.toml");
    let said = run(built("virtd")?, &["--check", "--config", &config.display().to_string()])?;
    ensure!(said.contains(&format!("operator: runs {}, at most {AT_MOST} a minute", page.display())), "{said}");
    let position = file("position").display().to_string();
    let (mut process, address) = monitor(&lab, "first", &config, &["--position", &position])?;
    // What has happened before is nothing that it tells.
    order(&router, "pin")?;
    journal.wait("operator", 1)?;
    for action in ["unpin", "pin", "unpin", "pin"] {
        order(&router, action)?;
    }
    journal.wait("operator", 5)?;
    let first = &journal.entries[0];
    ensure!(
        first["VIRTD_KIND"] == "operator" && first["SYSLOG_IDENTIFIER"] == "virtd" && first["PRIORITY"] == "6",
        "{first:?}"
    );
    let event: Value = serde_json::from_str(&first["VIRTD_EVENT"])?;
    ensure!(
        event["text"] == first["MESSAGE"].as_str() && event["seq"].as_u64() == first["VIRTD_SEQ"].parse().ok(),
        "{first:?}"
    );

    // The command: no more than it may have, each as JSON and in its variables.
    wait_for("the command to be run", UP, || lines(&file("paged")).len() >= AT_MOST)?;
    ensure!(fs::read_to_string(file("variables"))? == "noc:operator:bird");
    let told = lines(&file("paged"));
    ensure!(told.len() == AT_MOST && told[0] == event, "{told:?}");
    // The server: all of them, the first one twice, since it was told to come again.
    wait_for("all to be posted", UP, || lines(&file("posted")).len() == 6)?;
    let posted = lines(&file("posted"));
    ensure!(posted[0] == json!([503, "/hook?to=noc", "application/json", event]), "{posted:?}");
    ensure!(posted[1] == json!([204, "/hook?to=noc", "application/json", event]), "{posted:?}");
    ensure!(posted.iter().skip(1).all(|p| p[0] == 204 && p[3]["kind"] == "operator"), "{posted:?}");
    // What hangs is ended with all that it has started, and what cannot be run or reached is named.
    wait_for("the hanging command to have been run again", UP, || {
        fs::read_to_string(file("hung")).unwrap_or_default().lines().count() >= 2
    })?;
    let hung = fs::read_to_string(file("hung"))?;
    let first: i32 = hung.lines().next().context("a process")?.parse()?;
    wait_for("its process to be gone", UP, || kill(Pid::from_raw(first), None).is_err())?;
    for words in [
        format!("{} has not ended within 1 s and is killed", hangs.display()),
        "/no/such/program cannot be run: No such file or directory".to_owned(),
        "http://127.0.0.1:1/: Connection refused".to_owned(),
    ] {
        wait_until(&words, UP, || if process.log().contains(&words) { Ok(()) } else { Err(process.log()) })?;
    }
    let page = run(
        "python3",
        &["-c", &format!("import urllib.request as u; print(u.urlopen('http://{address}/metrics').read().decode())")],
    )?;
    ensure!(page.contains("\nvirtd_up 1\n"), "{page}");

    // Another worker's numbers begin anew, and all of its events are told.
    kill(Pid::from_raw(i32::try_from(router.worker())?), Signal::SIGKILL)?;
    journal.wait("worker-died", 1)?;
    wait_for("the server to be told", UP, || lines(&file("posted")).iter().any(|p| p[3]["kind"] == "worker-died"))?;

    // What happens while it is away is told when it is back, and nothing twice.
    wait_for("virtd to answer", UP, || router.status().is_ok())?;
    wait_for("its position to be written", UP, || Path::new(&position).exists())?;
    // It is written a second after the last event.
    std::thread::sleep(Duration::from_secs(3));
    process.stop();
    order(&router, "unpin")?;
    let (mut again, _) = monitor(&lab, "again", &config, &["--position", &position])?;
    journal.wait("operator", 6)?;
    let mut seen = BTreeSet::new();
    let own = |kind: &str| kind.starts_with("events-");
    let twice: Vec<_> = journal
        .entries
        .iter()
        .filter(|e| !own(&e["VIRTD_KIND"]) && !seen.insert((&e["VIRTD_TIME"], &e["VIRTD_SEQ"])))
        .collect();
    ensure!(twice.is_empty(), "{twice:?}");

    // The limit begins anew with it; what is more is told in one when the minute is over.
    for action in ["pin", "unpin", "pin", "unpin"] {
        order(&router, action)?;
    }
    let summary = wait_until("what was left out", MINUTE, || {
        let told = lines(&file("paged"));
        told.iter().find(|e| e["kind"] == "events-left-out").cloned().ok_or_else(|| format!("{told:?}"))
    })?;
    ensure!(summary["left_out"] == json!({"operator": 2}), "{summary}");
    ensure!(lines(&file("paged")).len() == 2 * AT_MOST + 1 && again.running(), "{}", again.log());
    lab.passed();
    Ok(())
}

/// A configuration for virtd-monitor alone.
fn only(lab: &Lab, router: &Router, name: &str, section: &str) -> Result<PathBuf> {
    let path = lab.directory().join(format!("{name}.toml"));
    let head = format!("[router]\naccept_any = true\ncontrol_socket = {:?}\n", router.control_socket());
    fs::write(&path, format!("{head}[[instance]]\nname = \"bird\"\n{section}\n"))?;
    Ok(path)
}

#[test]
fn syslog_understands_what_it_is_told() -> Result<()> {
    let mut lab = Lab::new("alerts-syslog")?;
    let star = lab.star(1)?;
    let router = router(&lab, &star, "")?;
    let file = |name: &str| lab.directory().join(name);

    // Over UDP, as it is on the wire.
    let udp = UdpSocket::bind("127.0.0.1:0")?;
    udp.set_read_timeout(Some(UP))?;
    let section = format!("[syslog]\ntarget = \"udp://{}\"\nfacility = \"local3\"", udp.local_addr()?);
    let (_udp, _) = monitor(&lab, "udp", &only(&lab, &router, "udp", &section)?, &[])?;
    // It tells of what comes after its start, which may be a moment before it reads events.
    order(&router, "pin")?;
    let mut octets = vec![0; 1 << 16];
    let n = udp.recv(&mut octets).context("no datagram")?;
    let text = String::from_utf8(octets.get(..n).unwrap_or_default().to_vec())?;
    let words: Vec<&str> = text.splitn(8, ' ').collect();
    ensure!(words.len() == 8 && words[0] == "<158>1" && words[3] == "virtd" && words[5] == "operator", "{text}");
    ensure!(words[6] == "[virtd@32473" && words[7].contains("instance=\"bird\""), "{text}");

    // Over TCP and a local socket, to rsyslog.
    if run("rsyslogd", &["-v"]).is_err() {
        untested::not_tested("what rsyslog makes of our messages", "there is no rsyslogd");
        lab.passed();
        return Ok(());
    }
    let template = "%app-name%~%msgid%~%syslogfacility-text%~%syslogseverity-text%~%structured-data%~%msg%\\n";
    let text = format!(
        "global(workDirectory={0:?})\nmodule(load=\"imtcp\")\nmodule(load=\"imuxsock\" SysSock.Use=\"off\")\n\
         input(type=\"imtcp\" address=\"127.0.0.1\" port=\"0\" listenPortFileName=\"{1}\")\n\
         input(type=\"imuxsock\" Socket=\"{2}\" UseSpecialParser=\"off\")\n\
         template(name=\"ours\" type=\"string\" string={3:?})\naction(type=\"omfile\" file=\"{4}\" template=\"ours\")\n",
        lab.directory(),
        file("port").display(),
        file("log.sock").display(),
        template.replace("\\n", "\n"),
        file("messages").display(),
    );
    fs::write(file("rsyslog.conf"), text)?;
    let mut command = Command::new("rsyslogd");
    command.args(["-n", "-i", "NONE", "-f"]).arg(file("rsyslog.conf"));
    let mut rsyslog = lab.spawn("rsyslogd", &mut command)?;
    let port = wait_until("rsyslog to listen", UP, || match fs::read_to_string(file("port")) {
        Ok(port) if !port.trim().is_empty() && file("log.sock").exists() => Ok(port.trim().to_owned()),
        _ => Err(rsyslog.log()),
    })?;
    let tcp = only(&lab, &router, "tcp", &format!("[syslog]\ntarget = \"tcp://127.0.0.1:{port}\""))?;
    let (_tcp, _) = monitor(&lab, "tcp", &tcp, &[])?;
    let local = only(&lab, &router, "local", &format!("[syslog]\ntarget = {:?}", file("log.sock")))?;
    let (local, _) = monitor(&lab, "local", &local, &[])?;
    order(&router, "unpin")?;
    let messages = || fs::read_to_string(file("messages")).unwrap_or_default();
    let wanted = |from: &str| {
        let wanted = "virtd~operator~daemon~info~[virtd@32473 seq=";
        messages()
            .lines()
            .filter(|l| l.starts_with(wanted) && l.contains("instance=\"bird\"") && l.contains(from))
            .count()
    };
    wait_until("both to arrive", UP, || if wanted("not pinned any more") == 2 { Ok(()) } else { Err(messages()) })?;

    // One that is away is no trouble, and is found again.
    rsyslog.stop();
    order(&router, "pin")?;
    wait_until("that it is away", UP, || {
        let log = local.log();
        if log.contains("events are not told there until it works again") { Ok(()) } else { Err(log) }
    })?;
    let _ = fs::remove_file(file("log.sock"));
    let _ = fs::remove_file(file("port"));
    let mut command = Command::new("rsyslogd");
    command.args(["-n", "-i", "NONE", "-f"]).arg(file("rsyslog.conf"));
    let _rsyslog = lab.spawn("rsyslogd", &mut command)?;
    wait_for("rsyslog to be back", UP, || file("log.sock").exists())?;
    order(&router, "unpin")?;
    wait_until("what was lost, as a number", UP, || {
        let messages = messages();
        if messages.contains("virtd~events-missed~daemon~warning~") { Ok(()) } else { Err(messages) }
    })?;
    lab.passed();
    Ok(())
}
