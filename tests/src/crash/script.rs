//! What the neighbours say while virtd dies, word by word, and the neighbours that say it.

use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

/// The numbers that make one word differ from the next: AS numbers for private use (RFC 6996).
pub const FIRST_NUMBER: u32 = 4_200_000_000;
/// From here on they are those of the last words, one for each prefix.
pub const LAST_WORDS: u32 = 4_290_000_000;
/// Prefixes of each neighbour that change.
pub const CHANGING: u32 = 64;
/// Prefixes to a line of a flood.
const FLOOD: u32 = 32;
/// How long the neighbours are silent between two words.
const PAUSE: Duration = Duration::from_millis(40);
/// BIRD's routes go or come with every so many of these.
const BIRD_EVERY: u32 = 60;

/// Microseconds since 1970, as in the neighbours' logs.
pub fn now_us() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// What was said of a prefix: the number in its path; `None`: that it is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Word {
    /// With a number.
    Route(u32),
    /// As it always is.
    Plain,
    /// No more.
    Gone,
}

/// All words so far, by prefix. They stand here before they are said.
#[derive(Debug, Default)]
pub struct Words(Mutex<HashMap<String, Vec<Word>>>);

impl Words {
    /// Of one prefix; none: nobody changes it.
    pub fn of<T>(&self, prefix: &str, look: impl FnOnce(Option<&[Word]>) -> T) -> T {
        look(self.0.lock().unwrap_or_else(PoisonError::into_inner).get(prefix).map(Vec::as_slice))
    }

    /// What was last said of each.
    pub fn last(&self) -> Vec<(String, Word)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(|(prefix, words)| Some((prefix.clone(), *words.last()?))).collect()
    }

    pub(super) fn add(&self, prefix: &str, word: Word) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(prefix.to_owned()).or_default().push(word);
    }
}

/// A neighbour that says what the script has for it.
#[derive(Debug)]
pub struct Speaker {
    asn: u32,
    /// 198.18.0.0/15 is for tests (RFC 2544); each speaker has a part of it.
    net: u32,
    lines: File,
}

impl Speaker {
    /// The neighbour with this AS number, the `number`th that speaks.
    pub fn new(asn: u32, number: u32, lines: File) -> Speaker {
        Speaker { asn, net: (198 << 24) + (18 << 16) + (number << 15), lines }
    }

    fn prefix(&self, n: u32) -> String {
        format!("{}/28", std::net::Ipv4Addr::from(self.net + (n << 4)))
    }

    fn say(&mut self, line: &str) -> Result<()> {
        writeln!(self.lines, "{line}").context("telling a neighbour what to say")
    }

    fn announce(&mut self, which: &[u32], number: u32, words: &Words) -> Result<()> {
        let prefixes: Vec<String> = which.iter().map(|n| self.prefix(*n)).collect();
        prefixes.iter().for_each(|p| words.add(p, Word::Route(number)));
        let asn = self.asn;
        self.say(&format!("announce {} as-path {asn} {number}", prefixes.join(",")))
    }

    fn withdraw(&mut self, n: u32, words: &Words) -> Result<()> {
        let prefix = self.prefix(n);
        words.add(&prefix, Word::Gone);
        self.say(&format!("withdraw {prefix}"))
    }

    /// Its last words: what it has when all is over.
    fn end(&mut self, words: &Words) -> Result<()> {
        (0..CHANGING).try_for_each(|n| self.announce(&[n], LAST_WORDS + n, words))
    }
}

/// A BIRD whose static routes come and go.
#[derive(Debug)]
pub struct Bird {
    /// Where it is asked.
    pub socket: PathBuf,
    /// Its routes.
    pub prefixes: Vec<String>,
    /// They are there.
    pub there: bool,
}

impl Bird {
    fn turn(&mut self, there: bool, words: &Words) -> Result<()> {
        if there != self.there {
            self.there = there;
            self.prefixes.iter().for_each(|p| words.add(p, if there { Word::Plain } else { Word::Gone }));
            let word = if there { "enable" } else { "disable" };
            let mut birdc = Command::new("birdc");
            birdc.arg("-s").arg(&self.socket).args([word, "own_ipv4"]).stdin(Stdio::null()).stdout(Stdio::null());
            anyhow::ensure!(birdc.status().context("birdc")?.success(), "birdc {word} fails");
        }
        Ok(())
    }
}

/// How much is said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
enum Tempo {
    Silent,
    Steady,
    Flood,
    Last,
}

/// The neighbours' voices, on a thread.
#[derive(Debug)]
pub struct Script {
    /// What was said.
    pub words: Arc<Words>,
    tempo: Arc<AtomicU32>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Script {
    /// They begin to talk, all that `seed` gives them to say.
    pub fn begin(seed: u64, mut speakers: Vec<Speaker>, mut bird: Bird) -> Script {
        let (words, tempo) = (Arc::new(Words::default()), Arc::new(AtomicU32::new(Tempo::Silent as u32)));
        bird.prefixes.iter().for_each(|p| words.add(p, Word::Plain));
        let (said, pace) = (words.clone(), tempo.clone());
        let thread = std::thread::spawn(move || talk(seed, &mut speakers, &mut bird, &said, &pace));
        Script { words, tempo, thread: Some(thread) }
    }

    fn set(&self, tempo: Tempo) {
        self.tempo.store(tempo as u32, Ordering::SeqCst);
    }

    /// They talk on.
    pub fn talk(&self) {
        self.set(Tempo::Steady);
    }

    /// They say as much as they can.
    pub fn flood(&self) {
        self.set(Tempo::Flood);
    }

    /// They say their last words.
    ///
    /// # Errors
    /// A neighbour could not be told what to say.
    pub fn end(&mut self) -> Result<()> {
        self.set(Tempo::Last);
        let done = self.thread.take().map(JoinHandle::join);
        done.unwrap_or(Ok(Ok(()))).unwrap_or_else(|_| Err(anyhow::anyhow!("the script has panicked")))
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

fn talk(seed: u64, speakers: &mut [Speaker], bird: &mut Bird, words: &Words, tempo: &AtomicU32) -> Result<()> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut number = FIRST_NUMBER;
    let mut since_bird = 0;
    loop {
        number += 1;
        let who = rng.random_range(0..speakers.len());
        let n = rng.random_range(0..CHANGING);
        let Some(speaker) = speakers.get_mut(who) else { return Ok(()) };
        match tempo.load(Ordering::SeqCst) {
            t if t == Tempo::Silent as u32 => {}
            t if t == Tempo::Steady as u32 => match rng.random_range(0..4) {
                0 => speaker.withdraw(n, words)?,
                // A flap within a moment.
                1 => {
                    speaker.announce(&[n], number, words)?;
                    speaker.withdraw(n, words)?;
                    number += 1;
                    speaker.announce(&[n], number, words)?;
                }
                _ => speaker.announce(&[n], number, words)?,
            },
            t if t == Tempo::Flood as u32 => {
                let from = rng.random_range(0..2) * FLOOD;
                speaker.announce(&(from..from + FLOOD).collect::<Vec<_>>(), number, words)?;
                std::thread::sleep(PAUSE / 20);
                continue;
            }
            _ => break,
        }
        since_bird += 1;
        if since_bird >= BIRD_EVERY && tempo.load(Ordering::SeqCst) == Tempo::Steady as u32 {
            since_bird = 0;
            bird.turn(!bird.there, words)?;
        }
        std::thread::sleep(PAUSE.mul_f64(rng.random_range(0.2..1.8)));
    }
    bird.turn(true, words)?;
    speakers.iter_mut().try_for_each(|s| s.end(words))
}
