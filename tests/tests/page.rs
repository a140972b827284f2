//! virtd-monitor's page in a real browser, of a router of three kinds: what is on it, that it is live
//! with and without JavaScript, and that it fits a telephone, light and dark.
//!
//! With HV_PAGE_PICTURES=FOLDER it leaves pictures there as NAME.png.base64 (those in docs/ are made
//! of them).

use anyhow::{Result, ensure};
use serde_json::json;
use std::process::Command;
use std::time::{Duration, Instant};
use tests::browser::Browser;
use tests::daemons::{Daemon, Lie};
use tests::lab::{Lab, Process, Star, built, wait_for, wait_until};
use tests::neighbours::{Kind, Neighbour, NeighbourSpec, prefixes};
use tests::replayer::Replayer;
use tests::router::{ASN, Options, Router};
use tests::untested::not_tested;

const UP: Duration = Duration::from_secs(120);
const ROUTES: usize = 300;
const TELEPHONE: (u32, u32) = (390, 844);
const DESKTOP: (u32, u32) = (1280, 900);
/// The prefix that is lied about.
const LIED: &str = "198.51.100.0/24";

struct Scene {
    lab: Lab,
    router: Router,
    browser: Browser,
    url: String,
    /// Kept for their ends.
    _outside: (Process, Replayer, Neighbour),
}

/// A router of three kinds with two neighbours, its page and a browser. None where there is no
/// browser.
fn start(name: &str) -> Result<Option<Scene>> {
    if !Browser::installed() {
        not_tested("the page in a browser", "there is no chromium");
        return Ok(None);
    }
    let mut lab = Lab::new(name)?;
    let star = lab.star(2)?;
    let router = Router::start(&lab, &star, &Options { fib: true, ..Options::default() })?;
    let feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", &ROUTES.to_string(), "--reconnect"])?;
    let other = neighbour(&lab, &star)?;
    router.wait_voting(UP)?;
    // The other one has a prefix of its own.
    wait_until("all routes outside", UP, || match router.prefixes_out("10.0.1.2") {
        Ok(1) if router.prefixes_out("10.0.2.2").is_ok_and(|n| n == ROUTES as u64) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    router.wait_quiet(Duration::from_secs(2), UP)?;
    let mut command = Command::new(built("virtd-monitor")?);
    command.arg("--control").arg(router.control_socket()).args(["--listen", "127.0.0.1:0"]);
    let monitor = lab.spawn("virtd-monitor", &mut command)?;
    let url = wait_until("virtd-monitor to serve", UP, || {
        let log = monitor.log();
        let address = log.split("http://").nth(1).and_then(|rest| rest.split('/').next()).map(str::to_owned);
        address.map(|a| format!("http://{a}/")).ok_or(log)
    })?;
    let browser = Browser::start(&lab)?;
    Ok(Some(Scene { lab, router, browser, url, _outside: (monitor, feed, other) }))
}

fn neighbour(lab: &Lab, star: &Star) -> Result<Neighbour> {
    let networks = prefixes(&[LIED])?;
    let spec = NeighbourSpec { router_asn: ASN, v6: false, passive: false, password: None, networks };
    let neighbour = Neighbour::start(lab, &star.sites[1], Kind::Daemon(Daemon::Bird), &spec)?;
    neighbour.wait_established(UP)?;
    Ok(neighbour)
}

impl Scene {
    /// BIRD begins to say another thing than the others.
    fn lie(&mut self) -> Result<()> {
        let lie = Lie { prefix: prefixes(&[LIED])?[0], community: (65000, 666) };
        self.router.instance("bird")?.set_lie(Some(lie))
    }

    /// Looks as a picture, for docs/, where those are wanted.
    fn picture(&mut self, name: &str, whole: bool) -> Result<()> {
        let Ok(folder) = std::env::var("HV_PAGE_PICTURES") else { return Ok(()) };
        let picture = self.browser.screenshot(whole)?;
        Ok(std::fs::write(format!("{folder}/{name}.png.base64"), picture)?)
    }

    /// Nothing is wider than the window, and only tables scroll by themselves. A telephone's
    /// `innerWidth` grows with what it shows, so the width is the one that was asked for.
    fn fits(&mut self, what: &str, width: u32) -> Result<()> {
        let wide = format!(
            "[...document.querySelectorAll('body *')].filter(e => !e.closest('.wide table') && \
             e.getBoundingClientRect().right > {width} + 1).map(e => e.outerHTML.slice(0, 100))"
        );
        let too_wide = self.browser.evaluate(&wide)?;
        ensure!(too_wide == json!([]), "{what}: wider than the window: {too_wide}");
        let all = self.browser.evaluate("document.documentElement.scrollWidth")?;
        ensure!(all.as_u64() <= Some(width.into()), "{what}: the page is {all} wide");
        Ok(())
    }

    /// Every text stands out from what is behind it (WCAG 2.1, 1.4.3: 4.5 to 1).
    fn can_be_read(&mut self, what: &str) -> Result<()> {
        let weak = self.browser.evaluate(include_str!("page/contrast.js"))?;
        ensure!(weak == json!([]), "{what}: hard to read: {weak}");
        Ok(())
    }
}

#[test]
fn in_a_browser_it_is_live_and_shows_what_each_said() -> Result<()> {
    let Some(mut scene) = start("page")? else { return Ok(()) };
    let url = scene.url.clone();
    let looks = [("light", DESKTOP, false), ("dark", DESKTOP, true), ("telephone", TELEPHONE, false)];
    scene.browser.look(DESKTOP.0, DESKTOP.1, false)?;
    scene.browser.open(&url)?;
    scene.browser.wait("it to be live", "document.getElementById('live').textContent.startsWith('live')")?;
    let text = scene.browser.text()?;
    let parts = ["Instances", "Sessions", "Agreement", "FIB", "Last faults", "10.0.1.2", "10.0.2.2", "openbgpd", "OK"];
    for part in parts {
        ensure!(text.contains(part), "{part:?} is not on the page: {text}");
    }
    ensure!(!text.contains("65000:666"), "{text}");

    // The same page, still open, shows a fault after its verdict, with what each has said.
    scene.browser.evaluate("window.stays = true")?;
    scene.lie()?;
    wait_for("the verdict", UP, || !scene.router.events("disagreement").is_empty())?;
    let verdict = Instant::now();
    let fault = "[...document.querySelectorAll('ol.events > li')].some(li => li.textContent.includes('disagreement') && \
                 ['frr', 'bird', 'openbgpd', '65000:666'].every(word => li.textContent.includes(word)))";
    scene.browser.wait("the fault with what each said", fault)?;
    println!("the fault is on the page {} ms after its verdict", verdict.elapsed().as_millis());
    ensure!(scene.browser.evaluate("window.stays")? == true, "the page was loaded again");
    for (name, (width, height), dark) in looks {
        scene.browser.look(width, height, dark)?;
        scene.fits(name, width)?;
        scene.can_be_read(name)?;
        scene.picture(&format!("page-{name}"), name != "telephone")?;
    }
    let foreign =
        "performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith(location.origin))";
    ensure!(scene.browser.evaluate(foreign)? == json!([]), "something is from elsewhere");

    // A prefix, by the form.
    let asked = "document.getElementById('q').value = '198.51.100.7'; document.forms[0].submit()";
    scene.browser.evaluate(asked)?;
    scene
        .browser
        .wait("the prefix", &format!("document.querySelector('h2')?.textContent.includes({LIED:?}) ?? false"))?;
    let text = scene.browser.text()?;
    ensure!(text.contains("! bird") && text.contains("= frr") && text.contains("65000:666"), "{text}");
    for (name, (width, height), dark) in looks {
        scene.browser.look(width, height, dark)?;
        scene.fits(name, width)?;
        scene.can_be_read(name)?;
        scene.picture(&format!("prefix-{name}"), true)?;
    }
    scene.lab.passed();
    Ok(())
}

#[test]
fn without_javascript_it_is_the_same_and_loaded_again() -> Result<()> {
    let Some(mut scene) = start("page-plain")? else { return Ok(()) };
    scene.browser.call("Emulation.setScriptExecutionDisabled", json!({"value": true}))?;
    scene.browser.look(TELEPHONE.0, TELEPHONE.1, true)?;
    let url = scene.url.clone();
    scene.browser.open(&url)?;
    let text = scene.browser.text()?;
    for part in ["10.0.1.2", "10.0.2.2", "frr", "bird", "openbgpd", "voting", "Established"] {
        ensure!(text.contains(part), "{part:?} is not on the page: {text}");
    }
    let script = scene.browser.evaluate("document.getElementById('live').textContent")?;
    ensure!(script.as_str().is_some_and(|said| !said.starts_with("live")), "JavaScript is on: {script}");
    scene.lie()?;
    wait_for("the verdict", UP, || !scene.router.events("disagreement").is_empty())?;
    let verdict = Instant::now();
    scene.browser.wait("the fault", "document.body.innerText.includes('65000:666')")?;
    println!("without JavaScript the fault is on the page {} ms after its verdict", verdict.elapsed().as_millis());
    scene.fits("without JavaScript", TELEPHONE.0)?;
    scene.picture("page-plain", true)?;
    scene.lab.passed();
    Ok(())
}
