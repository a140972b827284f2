//! What has to hold at the end of a row: nobody accused, and nobody outside who noticed what they
//! should not.

use super::Told;
use super::scene::{Scene, THRESHOLD};
use anyhow::{Result, bail, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Events that accuse an instance, or say that something was done to it for it.
const ACCUSATIONS: [&str; 8] = [
    "instance-faulty",
    "instance-restart",
    "instance-given-up",
    "instance-promoted",
    "poison-suspected",
    "poison",
    "poison-again",
    "instance-exited",
];

impl Scene {
    /// Nobody was accused of anything so far, suspected, or restarted; `ended` were ended by the
    /// row itself.
    ///
    /// # Errors
    /// Somebody was.
    pub fn nobody_accused(&self, ended: &[&str]) -> Result<()> {
        let excused = |e: &Value| {
            let ends =
                ["instance-exited", "instance-restart", "instance-promoted"].iter().any(|kind| e["kind"] == *kind);
            let poison = e["kind"].as_str().is_some_and(|kind| kind.starts_with("poison"));
            (ends && ended.iter().any(|name| e["instance"] == *name)) || (poison && self.poison_expected)
        };
        let all = self.events();
        let accused = all.iter().find(|e| ACCUSATIONS.iter().any(|kind| e["kind"] == *kind) && !excused(e));
        match accused {
            None => Ok(()),
            Some(e) => {
                bail!("accused: {} {}", e["kind"].as_str().unwrap_or_default(), e["text"].as_str().unwrap_or_default())
            }
        }
    }

    /// Lets the fault threshold pass, and some, and sees that nobody is accused meanwhile.
    ///
    /// # Errors
    /// Somebody was.
    pub fn nobody_accused_for_long(&self, ended: &[&str]) -> Result<()> {
        if self.stage.made.is_alone() {
            return Ok(());
        }
        let until = Instant::now() + THRESHOLD + Duration::from_secs(2);
        while Instant::now() < until {
            self.nobody_accused(ended)?;
            std::thread::sleep(Duration::from_millis(100));
        }
        self.nobody_accused(ended)
    }

    /// The first neighbour has had its one session all the time, and the second one all its routes.
    ///
    /// # Errors
    /// It has not.
    pub fn stayed(&mut self, announced: u32) -> Result<()> {
        let seen = self.outside();
        ensure!(seen.ends.is_empty(), "the first neighbour's session has ended: {:?}", seen.ends);
        self.watcher.look()?;
        ensure!(self.known() == announced, "the second neighbour knows {} routes and not {announced}", self.known());
        let lost = self.watcher.changes.iter().find(|c| c.route.is_none() && c.prefix.starts_with("198.19."));
        ensure!(lost.is_none(), "the second neighbour lost a route for a while: {lost:?}");
        Ok(())
    }

    /// The other two neighbours have noticed nothing but routes: one session each, no NOTIFICATION.
    ///
    /// # Errors
    /// They have.
    pub fn bystanders_unmoved(&mut self) -> Result<()> {
        self.watcher.check_session()?;
        self.bird.check_quiet()
    }

    /// The end of a row: nobody is accused for long, and the other neighbours have noticed nothing.
    ///
    /// # Errors
    /// Somebody was, or they have.
    pub fn ends_calmly(mut self, told: Told) -> Result<Told> {
        self.nobody_accused_for_long(&[])?;
        self.bystanders_unmoved()?;
        self.passed();
        Ok(told)
    }
}
