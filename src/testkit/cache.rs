//! Where built tools are kept between runs, and how they are made only once.
//!
//! Owns the cache folder's place and the lock around each entry. It must not know what an entry is made of.
//! The cache lies outside the checkout, because a build of four minutes must outlive `git clean`.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::progress::Progress;

/// The folder of everything Fusebox caches: `FUSEBOX_CACHE`, else `XDG_CACHE_HOME/fusebox`, else `~/.cache/fusebox`.
///
/// # Errors
/// When none of the three variables is set.
pub(crate) fn root() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = variable("FUSEBOX_CACHE") {
        return std::path::absolute(&path)
            .with_context(|| format!("FUSEBOX_CACHE={} is not a usable path", path.display()));
    }
    if let Some(path) = variable("XDG_CACHE_HOME") {
        return Ok(path.join("fusebox"));
    }
    match variable("HOME") {
        Some(home) => Ok(home.join(".cache/fusebox")),
        None => bail!("no cache folder: set FUSEBOX_CACHE to a folder that can be written"),
    }
}

/// Makes the folder `entry` by calling `make` with an empty folder beside it, which is then renamed into place.
///
/// Of several processes that want the same entry one makes it and the others wait; an entry is never seen half made.
///
/// # Errors
/// When `make` fails, or the cache cannot be written. Nothing is left of the failed attempt.
pub(crate) fn make_once(entry: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if entry.exists() {
        return Ok(());
    }
    let parent = entry.parent().with_context(|| format!("cache entry {} has no parent folder", entry.display()))?;
    fs::create_dir_all(parent).with_context(|| format!("cannot create the cache folder {}", parent.display()))?;
    let lock_path = entry.with_added_extension("lock");
    let lock = File::create(&lock_path).with_context(|| format!("cannot create the lock {}", lock_path.display()))?;
    wait_for(&lock, entry)?;
    if entry.exists() {
        return Ok(());
    }
    let draft = entry.with_added_extension("draft");
    if draft.exists() {
        fs::remove_dir_all(&draft).with_context(|| format!("cannot clear {}", draft.display()))?;
    }
    fs::create_dir(&draft).with_context(|| format!("cannot create {}", draft.display()))?;
    let made = make(&draft).and_then(|()| {
        fs::rename(&draft, entry).with_context(|| format!("cannot move {} into place", draft.display()))
    });
    if made.is_err() {
        fs::remove_dir_all(&draft).ok();
    }
    made
}

fn wait_for(lock: &File, entry: &Path) -> Result<()> {
    match lock.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let progress = Progress::start("waiting");
            progress.phase(format!("another process makes {}", entry.display()));
            lock.lock().with_context(|| format!("cannot lock the cache entry {}", entry.display()))
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock the cache entry {}", entry.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn an_entry_wanted_by_many_is_made_once() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let entry = folder.path().join("entry");
        let made = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    make_once(&entry, |draft| {
                        made.fetch_add(1, Ordering::SeqCst);
                        Ok(fs::write(draft.join("file"), "content")?)
                    })
                });
            }
        });
        assert_eq!(made.load(Ordering::SeqCst), 1);
        assert_eq!(fs::read_to_string(entry.join("file"))?, "content");
        Ok(())
    }

    #[test]
    fn a_failed_attempt_leaves_no_entry_and_the_next_one_succeeds() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let entry = folder.path().join("entry");
        let failed = make_once(&entry, |draft| {
            fs::write(draft.join("half"), "")?;
            bail!("network is down")
        });
        assert!(failed.is_err_and(|error| error.to_string().contains("network is down")));
        assert!(!entry.exists());
        make_once(&entry, |_| Ok(()))?;
        assert!(!entry.join("half").exists(), "the second attempt started from an empty folder");
        Ok(())
    }
}
