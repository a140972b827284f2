//! Syslog and journald: an event after the other, and where it does not work, how many were lost.

use super::{Ears, News, journald, syslog};
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How long one message may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Before it is tried again, once.
const PAUSE: Duration = Duration::from_secs(1);

/// Where to.
pub(super) enum To {
    Syslog(syslog::Line),
    /// The socket of journald.
    Journald(PathBuf),
}

impl To {
    async fn send(&mut self, news: &News) -> io::Result<()> {
        let sent = async {
            match self {
                To::Syslog(line) => line.send(news).await,
                To::Journald(socket) => journald::send(socket, news).await,
            }
        };
        timeout(PATIENCE, sent).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    fn name(&self) -> String {
        match self {
            To::Syslog(line) => format!("syslog ({})", line.target()),
            To::Journald(socket) => format!("journald ({})", socket.display()),
        }
    }
}

/// Sends what comes, until nothing can come any more.
pub(super) async fn run(mut to: To, mut ears: Ears) {
    let (mut lost, mut fails) = (0, false);
    while let Some(news) = ears.queue.recv().await {
        lost += ears.lost();
        if lost > 0 && to.send(&News::missed(lost, "they could not be sent when they came")).await.is_ok() {
            lost = 0;
        }
        let mut sent = to.send(&news).await;
        // Where it is known not to work one try is enough, or the queue would fill behind it.
        if sent.is_err() && !fails {
            sleep(PAUSE).await;
            sent = to.send(&news).await;
        }
        match sent {
            Ok(()) if fails => {
                log::info!("{} takes events again", to.name());
                fails = false;
            }
            Ok(()) => {}
            Err(e) => {
                lost += 1;
                if !fails {
                    log::warn!("{}: {e}; events are not told there until it works again", to.name());
                    fails = true;
                }
            }
        }
    }
}
