//! Which path a cgroup has of which a socket tells only the number.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::{DirEntryExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::cgroup;
use crate::model::Cgroup;

/// Where the unified hierarchy is mounted: alone, or beside the older ones.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// A walk reads every folder, some microseconds each: not more often than this for cgroups that are new,
const WALK_EVERY: Duration = Duration::from_secs(1);
/// and not for more than a fiftieth of the time.
const REST_AFTER_WALK: u32 = 49;
/// Cgroups that are remembered; beyond this, all are forgotten and looked up anew.
const MOST_REMEMBERED: usize = 20_000;

/// Finds paths of cgroups, and remembers them: those of cgroups that are gone are still wanted for a while.
#[derive(Debug, Default)]
pub struct Cgroups {
    /// `None` for those that were gone before they were looked for: numbers are not used again.
    known: HashMap<u64, Option<Cgroup>>,
    next_walk: Option<Instant>,
}

impl Cgroups {
    /// The cgroup with this inode number; `None` where it was gone before it was looked for, or there is no unified hierarchy.
    pub fn of(&mut self, id: u64, now: Instant) -> Option<&Cgroup> {
        if !self.known.contains_key(&id) && self.next_walk.is_none_or(|next| now >= next) {
            self.walk();
            self.known.entry(id).or_default();
            self.next_walk = Some(now + WALK_EVERY.max(now.elapsed() * REST_AFTER_WALK));
        }
        self.known.get(&id)?.as_ref()
    }

    fn walk(&mut self) {
        if self.known.len() > MOST_REMEMBERED {
            self.known.clear();
        }
        // A folder of the unified hierarchy has this file, and so tells that one from what is mounted for the older ones.
        let is_unified = |mount: &&Path| mount.join("cgroup.controllers").exists();
        let Some(mount) = MOUNTS.iter().map(Path::new).find(is_unified) else { return };
        let Ok(root) = fs::metadata(mount) else { return };
        let mut folders: Vec<(u64, PathBuf)> = vec![(root.ino(), mount.to_owned())];
        while let Some((id, folder)) = folders.pop() {
            let below = fs::read_dir(&folder).into_iter().flatten().flatten();
            let is_folder = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
            folders.extend(below.filter(is_folder).map(|entry| (entry.ino(), entry.path())));
            let path = folder.strip_prefix(mount).unwrap_or(&folder);
            let path = format!("/{}", path.to_string_lossy());
            let place = cgroup::place(&path);
            self.known.insert(id, Some(Cgroup { path, place }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_cgroup_is_not_looked_for_at_once_again() {
        let mut cgroups = Cgroups::default();
        let now = Instant::now();
        assert_eq!(cgroups.of(u64::MAX, now), None);
        cgroups.known.clear();
        assert_eq!(cgroups.of(1, now), None);
        assert!(cgroups.known.is_empty());
    }
}
