//! `virtctl top`: the router as it is now, on a terminal, until somebody has seen enough.
//!
//! A thread asks virtd ([`poll`]) and may wait for it; this one draws ([`draw`]) what it was told
//! ([`view`]) and hears the keys, so that a virtd that hangs takes nothing from whoever looks.

mod draw;
pub mod view;

use super::ask::ask;
use crossbeam_channel::{Receiver, Sender};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll as poll_files};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use view::{Polled, View};
use virtd_api::{Events, Instances, Request, Sessions, Status};

/// How soon a signal, or news of virtd, shows.
const LOOK: Duration = Duration::from_millis(100);
/// A picture is made anew so often though nothing has come: for how long nothing has stands in it.
const REDRAW: Duration = Duration::from_secs(1);
/// So long virtd may take: longer than it takes to answer, shorter than whoever looks has patience.
const PATIENCE: Duration = Duration::from_secs(5);
/// Events that are asked for: more than a terminal has lines.
const EVENTS: u64 = 200;

/// Exit status after a panic, as Rust's own.
const PANICKED: i32 = 101;

/// How it is to look, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Between two questions.
    pub every: Duration,
    /// With colours.
    pub coloured: bool,
}

/// Shows it until a key or a signal ends it. The terminal is then as before.
///
/// # Errors
/// There is no terminal, or it is gone.
pub fn run(socket: &Path, manner: Manner) -> Result<(), String> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err("top needs a terminal; `virtctl status` and `virtctl --json sessions` do without".to_owned());
    }
    let words = |e: io::Error| format!("the terminal: {e}");
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, ended.clone()).map_err(words)?;
    }
    let (tell, told) = crossbeam_channel::bounded(1);
    let socket = socket.to_owned();
    let ask = move || poll(&socket, manner.every, &tell);
    std::thread::Builder::new().name("poll".into()).spawn(ask).map_err(words)?;
    std::thread::Builder::new().name("terminal".into()).spawn(end_with_terminal).map_err(words)?;
    let _screen = Screen::take().map_err(words)?;
    watch(&told, &ended, manner.coloured).map_err(words)
}

/// Ends the process when the terminal is gone. crossterm would read its end for ever, and no signal
/// would be heard.
fn end_with_terminal() {
    let stdin = io::stdin();
    loop {
        // Nothing is asked for but what always is told: that it has been hung up.
        match poll_files(&mut [PollFd::new(stdin.as_fd(), PollFlags::empty())], PollTimeout::NONE) {
            Ok(_) => std::process::exit(0),
            Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

fn watch(told: &Receiver<Result<Polled, String>>, ended: &AtomicBool, coloured: bool) -> io::Result<()> {
    let mut terminal = Terminal::new(CrosstermBackend::new(io::stdout()))?;
    let mut view = View::new(coloured);
    let begun = Instant::now();
    let mut drawn = None;
    while !ended.load(Ordering::Acquire) {
        let mut changed = drawn.is_none_or(|at: Instant| at.elapsed() >= REDRAW);
        for news in told.try_iter() {
            view.take(news, begun.elapsed());
            changed = true;
        }
        // What is typed meanwhile is heard first; one picture for all of it.
        let mut patience = if changed { Duration::ZERO } else { LOOK };
        while event::poll(patience)? {
            patience = Duration::ZERO;
            changed = true;
            if let Event::Key(key) = event::read()?
                && view.key(key)
            {
                return Ok(());
            }
        }
        if changed {
            view.now = begun.elapsed();
            terminal.draw(|frame| draw::draw(frame, &mut view))?;
            drawn = Some(Instant::now());
        }
    }
    Ok(())
}

/// The terminal as we need it; as it was when this is dropped, or the process dies of itself.
struct Screen;

impl Screen {
    fn take() -> io::Result<Screen> {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            Screen::give_back();
            before(info);
            // Nobody draws on what is not ours any more.
            std::process::exit(PANICKED);
        }));
        enable_raw_mode()?;
        let screen = Screen;
        execute!(io::stdout(), EnterAlternateScreen)?;
        Ok(screen)
    }

    fn give_back() {
        let _ = disable_raw_mode();
        let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        Screen::give_back();
    }
}

/// Asks, and asks again, until nobody wants to know.
fn poll(socket: &Path, every: Duration, tell: &Sender<Result<Polled, String>>) {
    // A test has it die as a fault would have it.
    #[cfg(debug_assertions)]
    if std::env::var_os("HV_TEST_TOP_PANICS").is_some() {
        std::thread::sleep(every);
        panic!("a test wants it");
    }
    while tell.send(question(socket)).is_ok() {
        std::thread::sleep(every);
    }
}

fn question(socket: &Path) -> Result<Polled, String> {
    let status: Status = ask(socket, &Request::Status, PATIENCE)?;
    let Sessions { sessions } = ask(socket, &Request::Sessions, PATIENCE)?;
    let Instances { instances } = ask(socket, &Request::Instances { exec: None }, PATIENCE)?;
    let request = Request::Events { follow: false, n: Some(EVENTS), kind: None };
    let Events { events } = ask(socket, &request, PATIENCE)?;
    Ok(Polled { status, sessions, instances, events })
}

#[cfg(test)]
mod tests;
