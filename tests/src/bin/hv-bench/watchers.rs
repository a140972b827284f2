//! All that may watch a router at once: a hundred readers of the page, a scrape each second, and a
//! BMP collector that reads little.

use crate::places::Place;
use anyhow::{Context, Result};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;
use tests::lab::{Lab, Process, built, wait_until};

/// Readers of the page.
const VIEWERS: usize = 100;
/// Octets that the collector takes each time, and how often.
const SIPS: (usize, Duration) = (16 << 10, Duration::from_millis(200));
const UP: Duration = Duration::from_secs(20);

/// virtd-monitor beside a router, and who watches by it.
pub struct Watchers {
    monitor: Process,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// Octets that they were shown.
    pub seen: Arc<AtomicU64>,
    lab: Lab,
}

impl Watchers {
    /// Starts all of them.
    pub fn start(place: &Place) -> Result<Watchers> {
        let router = place.router().context("nothing to watch")?;
        let lab = Lab::new("bench-watchers")?;
        let (stop, seen) = (Arc::new(AtomicBool::default()), Arc::new(AtomicU64::default()));
        let collector = TcpListener::bind("127.0.0.1:0")?;
        let text = fs::read_to_string(router.control_socket().with_file_name("virtd.toml"))?;
        let file = lab.directory().join("virtd.toml");
        fs::write(&file, format!("{text}\n[[bmp]]\ncollector = \"{}\"\ninstances = true\n", collector.local_addr()?))?;
        let mut command = Command::new(built("virtd-monitor")?);
        let monitor =
            lab.spawn("virtd-monitor", command.arg("--config").arg(&file).args(["--listen", "127.0.0.1:0"]))?;
        let address: SocketAddr = wait_until("virtd-monitor to serve", UP, || {
            let log = monitor.log();
            let address = log.split("http://").nth(1).and_then(|rest| rest.split('/').next()?.parse().ok());
            address.ok_or(log)
        })?;
        let mut watchers = Watchers { monitor, stop, threads: Vec::new(), seen, lab };
        for _ in 0..VIEWERS {
            let mut stream = ask(address, "/live")?;
            watchers.thread(move |stop, seen| {
                let mut octets = [0; 4096];
                while !stop.load(Ordering::Relaxed) {
                    seen.fetch_add(stream.read(&mut octets).unwrap_or(0) as u64, Ordering::Relaxed);
                }
            });
        }
        watchers.thread(move |stop, seen| {
            while !stop.load(Ordering::Relaxed) {
                let mut text = Vec::new();
                let read = ask(address, "/metrics").map(|mut stream| stream.read_to_end(&mut text));
                seen.fetch_add(if read.is_ok() { text.len() as u64 } else { 0 }, Ordering::Relaxed);
                sleep(Duration::from_secs(1));
            }
        });
        let (mut bmp, _) = collector.accept().context("the collector")?;
        bmp.set_read_timeout(Some(UP))?;
        watchers.thread(move |stop, seen| {
            let mut octets = vec![0; SIPS.0];
            while !stop.load(Ordering::Relaxed) {
                seen.fetch_add(bmp.read(&mut octets).unwrap_or(0) as u64, Ordering::Relaxed);
                sleep(SIPS.1);
            }
        });
        Ok(watchers)
    }

    fn thread(&mut self, watch: impl FnOnce(&AtomicBool, &AtomicU64) + Send + 'static) {
        let (stop, seen) = (self.stop.clone(), self.seen.clone());
        self.threads.push(std::thread::spawn(move || watch(&stop, &seen)));
    }

    /// Ends them.
    pub fn done(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.monitor.stop();
        for thread in std::mem::take(&mut self.threads) {
            let _ = thread.join();
        }
        self.lab.passed();
    }
}

/// A request whose answer is read from what is returned.
fn ask(address: SocketAddr, path: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(UP))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: monitor\r\nConnection: close\r\n\r\n")?;
    Ok(stream)
}
