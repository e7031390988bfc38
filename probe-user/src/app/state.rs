//! What a daemon leaves behind for the next one on this boot: its open findings, each in a file of its own.
//!
//! A file is renewed after a change of its finding and removed after its end, within seconds, so that whatever ends the daemon, the next finds
//! what was told a moment before. Of another boot nothing is kept: its connections have ended with it. That is why nothing is ever synced to a disk.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, DirEntry, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow, ensure};
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::case::{Finding, FindingId};

/// Name and version of what is in a file.
const FORMAT: &str = "connprobe-state/1";
/// Of a file that is whole.
const SUFFIX: &str = "json";
/// Of one that is being written.
const UNFINISHED: &str = "new";
/// Files written at a time, some 20 ms on a disk in memory: the event loop waits for them.
const MOST_AT_ONCE: usize = 256;

/// One file.
#[derive(Serialize, Deserialize)]
struct Kept<F> {
    format: String,
    finding: F,
}

/// The folder of this boot.
#[derive(Debug)]
pub struct State {
    folder: PathBuf,
    /// Told since they were last written.
    changed: BTreeMap<FindingId, Finding>,
    /// Whether the last attempt to write failed: that is told once.
    is_failing: bool,
}

impl State {
    /// Makes `folder` where it is missing, before anything is written below it.
    ///
    /// # Errors
    ///
    /// When it cannot be made, or when others than root and this user may put something there.
    pub fn make_folder(folder: &Path) -> anyhow::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(|| cannot(folder))?;
        let found = fs::metadata(folder).with_context(|| cannot(folder))?;
        ensure!(
            is_safe(found.uid(), found.mode(), Uid::effective()),
            "{}: others may write there, for it belongs to user {} and its mode is {:04o}; make it this user's alone by chown and \
             `chmod go-w`, or give another by --state-dir",
            cannot(folder),
            found.uid(),
            found.mode() & 0o7777,
        );
        Ok(())
    }

    /// Opens `folder`, makes it where it is missing, and reads what the run before has left open. What is of other boots is removed, and so is
    /// what cannot be read, with a warning.
    ///
    /// # Errors
    ///
    /// When the folder cannot be made, read or written to.
    pub fn open(folder: &Path, boot_id: Uuid) -> anyhow::Result<(Self, Vec<Finding>)> {
        let cannot = || cannot(folder);
        let own = folder.join(boot_id.to_string());
        Self::make_folder(folder)?;
        Self::make_folder(&own)?;
        for entry in fs::read_dir(folder).with_context(cannot)? {
            let entry = entry.with_context(cannot)?;
            let is_of_a_boot = entry.file_name().to_str().is_some_and(|name| Uuid::try_parse(name).is_ok());
            if is_of_a_boot && entry.path() != own {
                forget_boot(&entry.path()).with_context(cannot)?;
            }
        }
        let mut findings = Vec::new();
        for entry in fs::read_dir(&own).with_context(cannot)? {
            findings.extend(take(&entry.with_context(cannot)?).with_context(cannot)?);
        }
        findings.sort_by_key(|finding| (finding.id.opened_at, finding.id));
        let probe = own.join("probe").with_extension(UNFINISHED);
        write(&probe, b"").and_then(|()| fs::remove_file(&probe)).with_context(cannot)?;
        Ok((Self { folder: own, changed: BTreeMap::new(), is_failing: false }, findings))
    }

    /// Takes in a change of a finding that was told.
    pub(super) fn keep(&mut self, finding: &Finding) {
        self.changed.insert(finding.id, finding.clone());
    }

    /// Takes in that a finding is not gone on with.
    pub(super) fn forget(&self, id: &FindingId) {
        // What is left of it is refused again by the next run.
        let _ = remove(&self.path(id));
    }

    /// Writes what has changed, most of it the next time where it is much.
    pub(super) fn write_some(&mut self) {
        for _ in 0..MOST_AT_ONCE {
            let Some((id, finding)) = self.changed.pop_first() else { return };
            let path = self.path(&id);
            if finding.is_over() {
                let _ = remove(&path);
                continue;
            }
            match renew(&path, &finding) {
                Ok(()) => self.is_failing = false,
                Err(error) if !self.is_failing => {
                    self.is_failing = true;
                    let path = path.display();
                    tracing::warn!(%error, "what is open cannot be kept for the next run: {path}");
                }
                Err(_) => {}
            }
        }
    }

    /// Writes all that has changed.
    pub(super) fn write_all(&mut self) {
        while !self.changed.is_empty() {
            self.write_some();
        }
    }

    fn path(&self, id: &FindingId) -> PathBuf {
        // No two findings of a run have the same number, and no two runs open one at the same moment.
        self.folder.join(format!("{}-{}", id.opened_at.as_ns(), id.case)).with_extension(SUFFIX)
    }
}

fn cannot(folder: &Path) -> String {
    format!("the state in {} cannot be kept", folder.display())
}

/// Whether only root and this user may put files into a folder, or take them away. In one with a sticky bit others may put theirs.
fn is_safe(owner: u32, mode: u32, us: Uid) -> bool {
    const WRITABLE_BY_OTHERS: u32 = 0o022;
    let owner = Uid::from_raw(owner);
    (owner.is_root() || owner == us) && mode & WRITABLE_BY_OTHERS == 0
}

/// What is in a file; it is removed where it is no use.
fn take(entry: &DirEntry) -> io::Result<Option<Finding>> {
    let path = entry.path();
    if path.extension().is_none_or(|extension| extension != SUFFIX) {
        // Another run was ended while it wrote.
        return remove(&path).map(|()| None);
    }
    match read(&path) {
        Ok(finding) => Ok(Some(finding)),
        Err(error) => {
            let path_shown = path.display();
            tracing::warn!(
                "a finding that was open is not known any more, and will be opened anew: {path_shown}: {error:#}"
            );
            remove(&path).map(|()| None)
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Finding> {
    let bytes = fs::read(path)?;
    // The version first: what a later one holds need not be a finding of this one.
    let Kept { format, finding } = serde_json::from_slice::<Kept<serde_json::Value>>(&bytes)?;
    if format != FORMAT {
        return Err(anyhow!("its format is {format:?}, and this connprobe reads {FORMAT:?}"));
    }
    Ok(serde_json::from_value(finding)?)
}

fn renew(path: &Path, finding: &Finding) -> io::Result<()> {
    let unfinished = path.with_extension(UNFINISHED);
    let bytes = serde_json::to_vec(&Kept { format: FORMAT.to_owned(), finding })?;
    let written = write(&unfinished, &bytes).and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        // On a full disk it is in the way.
        let _ = fs::remove_file(&unfinished);
    }
    written
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)?
        .write_all(bytes)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes what a run on another boot has left; nothing that it has not made.
fn forget_boot(folder: &Path) -> io::Result<()> {
    let mut count = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == SUFFIX || extension == UNFINISHED) {
            remove(&path)?;
            count += 1;
        }
    }
    tracing::info!("{count} findings that were open have ended with the boot before");
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt as _};

    use super::*;
    use crate::{
        app::findings::tests::finding,
        case::{FindingState, Outcome},
        judge::Verdict,
    };

    const BOOT: Uuid = Uuid::from_u128(1);

    fn open(number: u64) -> Finding {
        finding(number, FindingState::Opened, Verdict::HalfOpen)
    }

    #[test]
    fn what_is_open_is_there_for_the_next_run_and_what_is_over_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/state");
        let (mut state, before) = State::open(&path, BOOT).unwrap();
        assert!(before.is_empty());
        state.keep(&open(1));
        state.keep(&open(2));
        state.keep(&finding(2, FindingState::Updated, Verdict::RetransmitStalled));
        state.keep(&open(3));
        state.keep(&finding(3, FindingState::Closed(Outcome::Reset), Verdict::HalfOpen));
        // Over before it was ever kept.
        state.keep(&finding(4, FindingState::Closed(Outcome::Reset), Verdict::HalfOpen));
        state.write_all();
        let (_, left) = State::open(&path, BOOT).unwrap();
        assert_eq!(left, [open(1), finding(2, FindingState::Updated, Verdict::RetransmitStalled)]);
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&state.folder), mode(&state.path(&open(1).id))), (0o700, 0o600));
    }

    #[test]
    fn another_boot_leaves_nothing_and_what_is_not_ours_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (mut state, _) = State::open(folder.path(), BOOT).unwrap();
        state.keep(&open(1));
        state.write_all();
        fs::write(folder.path().join("lock"), "7").unwrap();
        let (_, left) = State::open(folder.path(), Uuid::from_u128(2)).unwrap();
        assert!(left.is_empty());
        assert!(!state.folder.exists() && folder.path().join("lock").exists());
    }

    #[test]
    fn what_cannot_be_read_is_left_out_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (mut state, _) = State::open(folder.path(), BOOT).unwrap();
        for number in 1..=4 {
            state.keep(&open(number));
        }
        state.write_all();
        let file = |number| state.path(&open(number).id);
        let whole = fs::read_to_string(file(1)).unwrap();
        fs::write(file(1), &whole[..whole.len() / 2]).unwrap();
        fs::write(file(2), whole.replace(FORMAT, "connprobe-state/2")).unwrap();
        fs::write(file(3), whole.replace("half_open", "half_shut").replace("HalfOpen", "HalfShut")).unwrap();
        fs::write(file(4).with_extension(UNFINISHED), "").unwrap();
        assert_eq!(State::open(folder.path(), BOOT).unwrap().1, [open(4)]);
        assert_eq!(fs::read_dir(&state.folder).unwrap().count(), 1, "they are not read again");
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused_before_anything_is_read_from_it() {
        let folder = tempfile::tempdir().unwrap();
        let (mut state, _) = State::open(folder.path(), BOOT).unwrap();
        state.keep(&open(1));
        state.write_all();
        for path in [folder.path(), &state.folder] {
            for mode in [0o770, 0o702, 0o1777] {
                fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
                let error = format!("{:#}", State::open(folder.path(), BOOT).unwrap_err());
                assert!(error.contains(&format!("{mode:04o}")) && error.contains("--state-dir"), "{error}");
            }
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
            assert_eq!(State::open(folder.path(), BOOT).unwrap().1, [open(1)]);
        }
        let [root, daemon, other] = [0, 999, 1_000].map(Uid::from_raw);
        assert!(is_safe(0, 0o40_755, daemon) && is_safe(999, 0o40_700, daemon) && is_safe(0, 0o40_700, root));
        assert!(!is_safe(other.as_raw(), 0o40_700, daemon) && !is_safe(other.as_raw(), 0o40_700, root));
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = format!("{:#}", State::open(&file, BOOT).unwrap_err());
        assert!(error.contains(&file.display().to_string()), "{error}");
    }
}
