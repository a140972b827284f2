//! A real browser: Debian's Chromium without a window, told what to do over the DevTools protocol.
//! It reads JSON from its file descriptor 3 and writes it to 4, a NUL behind each
//! (`--remote-debugging-pipe`), so nothing but two FIFOs is needed.

use crate::lab::{Lab, Process, run, wait_until};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::time::Duration;

/// How long an answer may take. A browser that has just been installed begins slowly.
const PATIENCE: Duration = Duration::from_secs(120);
/// With nothing of its own to tell anybody, and as root, for whom it has no sandbox.
const ARGUMENTS: [&str; 8] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
];

/// A running Chromium with one page.
#[derive(Debug)]
pub struct Browser {
    process: Process,
    to: File,
    from: File,
    /// What has been read and is not a whole message yet.
    read: Vec<u8>,
    /// The number of the last call.
    last: u64,
    /// The session of the page.
    page: Option<String>,
}

impl Browser {
    /// Whether there is one on this machine.
    pub fn installed() -> bool {
        run("chromium", &["--version"]).is_ok()
    }

    /// Starts it with an empty page, in the namespace that we are in.
    ///
    /// # Errors
    /// It does not start, or does not answer.
    pub fn start(lab: &Lab) -> Result<Browser> {
        let folder = lab.folder("chromium")?;
        let fifo = |name: &str| -> Result<File> {
            let path = folder.join(name);
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).context("making a FIFO")?;
            // Open for both, so that neither side waits for the other.
            let open = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&path);
            open.context("opening a FIFO")
        };
        let (to, from) = (fifo("to")?, fifo("from")?);
        let mut command = Command::new("sh");
        command.args(["-c", "exec chromium \"$@\" 3<\"$0/to\" 4>\"$0/from\""]).arg(&folder).args(ARGUMENTS);
        command.arg(format!("--user-data-dir={}", folder.join("profile").display()));
        let process = lab.spawn("chromium", command.env("HOME", &folder))?;
        let mut browser = Browser { process, to, from, read: Vec::new(), last: 0, page: None };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}))?;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach)?;
        browser.page = Some(attached["sessionId"].as_str().context("no session")?.to_owned());
        browser.call("Page.enable", json!({}))?;
        Ok(browser)
    }

    /// One call of the protocol, to the page once there is one, and its result.
    ///
    /// # Errors
    /// Chromium's own, none of an answer, or that it is gone.
    pub fn call(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.last += 1;
        let mut message = json!({"id": self.last, "method": method, "params": parameters});
        if let Some(page) = &self.page {
            message["sessionId"] = json!(page);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).context("asking Chromium")?;
        let answer = wait_until(&format!("Chromium to answer {method}"), PATIENCE, || self.answer())?;
        match answer.get("error") {
            Some(error) => bail!("{method}: {error}"),
            None => Ok(answer["result"].clone()),
        }
    }

    /// The answer to the last call, of what can be read now. Events are passed over.
    fn answer(&mut self) -> Result<Value, String> {
        let mut piece = [0; 64 << 10];
        loop {
            match self.from.read(&mut piece) {
                Ok(n) => self.read.extend_from_slice(piece.get(..n).unwrap_or_default()),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(e.to_string()),
            }
        }
        while let Some(end) = self.read.iter().position(|octet| *octet == 0) {
            let message: Vec<u8> = self.read.drain(..=end).collect();
            let message = message.strip_suffix(b"\0").unwrap_or_default();
            let message: Value = serde_json::from_slice(message).map_err(|e| e.to_string())?;
            if message["id"] == self.last {
                return Ok(message);
            }
        }
        Err(if self.process.running() { String::new() } else { "it has ended".to_owned() })
    }

    /// The value of an expression in the page, which may be a promise.
    ///
    /// # Errors
    /// The expression's own, and as [`Browser::call`].
    pub fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let parameters = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", parameters)?;
        match answer.get("exceptionDetails") {
            Some(e) => bail!("{expression}: {e}"),
            None => Ok(answer["result"]["value"].clone()),
        }
    }

    /// Goes to an address and waits until the page is there.
    ///
    /// # Errors
    /// It does not come.
    pub fn open(&mut self, url: &str) -> Result<()> {
        self.call("Page.navigate", json!({"url": url}))?;
        self.wait("it to be loaded", &format!("document.readyState === 'complete' && location.href === {url:?}"))
    }

    /// Waits until an expression is true.
    ///
    /// # Errors
    /// It does not become so; the error has the text of the page.
    pub fn wait(&mut self, what: &str, expression: &str) -> Result<()> {
        wait_until(&format!("the page: {what}"), PATIENCE, || match self.evaluate(expression) {
            Ok(Value::Bool(true)) => Ok(()),
            Ok(_) => Err(self.text().unwrap_or_default()),
            // A page that is being loaded has no context.
            Err(e) => Err(format!("{e:#}")),
        })
    }

    /// What somebody who looks at the page reads.
    ///
    /// # Errors
    /// As [`Browser::evaluate`].
    pub fn text(&mut self) -> Result<String> {
        let text = self.evaluate("document.body.innerText")?;
        Ok(text.as_str().context("no text")?.to_owned())
    }

    /// The size of the window in CSS pixels, and whether the system is a dark one; a narrow one is a
    /// telephone.
    ///
    /// # Errors
    /// As [`Browser::call`].
    pub fn look(&mut self, width: u32, height: u32, dark: bool) -> Result<()> {
        let mobile = width < 600;
        let size = json!({"width": width, "height": height, "deviceScaleFactor": if mobile { 2 } else { 1 }, "mobile": mobile});
        self.call("Emulation.setDeviceMetricsOverride", size)?;
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", media).map(drop)
    }

    /// What it shows, as base64 of a PNG; with `whole` also what is below the window.
    ///
    /// # Errors
    /// As [`Browser::call`].
    pub fn screenshot(&mut self, whole: bool) -> Result<String> {
        let answer = self.call("Page.captureScreenshot", json!({"captureBeyondViewport": whole}))?;
        Ok(answer["data"].as_str().context("no picture")?.to_owned())
    }
}
