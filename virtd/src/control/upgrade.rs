//! `virtctl upgrade`: the thread that asks has the loop write an image and the master try the
//! program; once the answer has left, the master is told to go on.

use super::*;
use virtd_master::message::Named;

impl ControlQueue {
    /// With a loop that writes images.
    #[must_use]
    pub fn with_images(self, images: Sender<WantsImage>) -> ControlQueue {
        ControlQueue { images: Some(images), ..self }
    }

    /// Has another program tried. The answer, and by which number [`ControlQueue::upgrade`] knows it.
    ///
    /// # Errors
    /// Why it cannot take over.
    pub(super) fn try_program(&self, to: Option<PathBuf>, dry_run: bool, by: &Asker) -> Result<(u64, Upgrade), String> {
        let ours = nix::unistd::geteuid().as_raw();
        if !by.uid.is_some_and(|uid| uid == 0 || uid == ours) {
            return Err(format!("only root can have virtd upgraded, not {}", by.user));
        }
        let (reloader, images) =
            self.reloader.as_ref().zip(self.images.as_ref()).ok_or("there is nobody to try a program")?;
        // One at a time, and none while the configuration changes.
        let master = reloader.lock().unwrap_or_else(PoisonError::into_inner);
        let (wants, given) = crossbeam_channel::bounded(1);
        images.try_send(wants).map_err(|_full_or_gone| "virtd is busy, or about to end".to_owned())?;
        if let Some(Err(e)) = self.waker.as_ref().map(|w| w.wake()) {
            return Err(format!("the driver cannot be woken: {e}"));
        }
        let image =
            given.recv_timeout(CORE_PATIENCE).map_err(|_| "virtd writes no image of its sessions".to_owned())?;
        let (image, census) = image?.written()?;
        let (id, from, to) = master.attempt(to, census, image)?;
        let broker::adopt::Census { sessions, heard, told } = census;
        let pid = std::process::id();
        let (from, to) = (named(from), named(to));
        Ok((id, Upgrade { from, to, sessions, heard, told, dry_run, worker: pid }))
    }

    /// The program that was tried takes over.
    pub(super) fn upgrade(&self, id: u64) {
        if let Some(reloader) = &self.reloader {
            reloader.lock().unwrap_or_else(PoisonError::into_inner).upgrade(id);
        }
    }
}

fn named(Named { version, path }: Named) -> virtd_api::Program {
    virtd_api::Program { version, path }
}
