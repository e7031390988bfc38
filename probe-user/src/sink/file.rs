//! A file of records, which turns itself over at a size, or is turned over by `logrotate`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// Readable by its owner and group: records name addresses and processes.
const MODE: u32 = 0o640;

/// Where to, and when to turn it over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSpec {
    /// The file.
    pub path: PathBuf,
    /// At which size it is turned over; `None` for never.
    pub max_bytes: Option<u64>,
    /// How many older ones are kept, as `PATH.1` (the latest) and so on.
    pub keep: u32,
}

/// The file, open.
#[derive(Debug)]
pub(super) struct Lines {
    spec: FileSpec,
    file: File,
    /// Its size, with whole lines only.
    bytes: u64,
    /// Whether it could not be opened anew, and must be before more is written.
    is_moved: bool,
}

impl Lines {
    pub(super) fn open(spec: FileSpec) -> io::Result<Self> {
        let (file, bytes) = open(&spec.path)?;
        Ok(Self { spec, file, bytes, is_moved: false })
    }

    /// Somebody has moved the file away: before more is written, it is made anew.
    pub(super) fn reopen(&mut self) {
        self.is_moved = true;
    }

    /// It is turned over in another way from now on.
    pub(super) fn turn_over_at(&mut self, spec: FileSpec) {
        self.spec = spec;
    }

    /// Writes whole lines: what could be written in part only, as on a full disk, is taken back.
    pub(super) fn write(&mut self, lines: &str) -> io::Result<()> {
        let more = lines.len() as u64;
        if self.is_moved {
            (self.file, self.bytes) = open(&self.spec.path)?;
            self.is_moved = false;
        }
        let is_full = self.bytes > 0 && self.spec.max_bytes.is_some_and(|max| self.bytes + more > max);
        if is_full && self.is_turned_over() {
            self.turn_over()?;
        }
        if let Err(error) = self.file.write_all(lines.as_bytes()) {
            let _ = self.file.set_len(self.bytes);
            return Err(error);
        }
        self.bytes += more;
        Ok(())
    }

    /// Whether it is a file with a name of its own: no pipe, no device, no link to another.
    fn is_turned_over(&self) -> bool {
        let is_regular = self.file.metadata().is_ok_and(|metadata| metadata.is_file());
        is_regular && !fs::symlink_metadata(&self.spec.path).is_ok_and(|metadata| metadata.is_symlink())
    }

    fn turn_over(&mut self) -> io::Result<()> {
        let older = |number: u32| PathBuf::from(format!("{}.{number}", self.spec.path.display()));
        if self.spec.keep == 0 {
            self.file.set_len(0)?;
            self.bytes = 0;
            return Ok(());
        }
        // Where it is gone, there is nothing to keep.
        if fs::exists(&self.spec.path)? {
            for number in (1..self.spec.keep).rev() {
                rename(&older(number), &older(number + 1))?;
            }
            rename(&self.spec.path, &older(1))?;
        }
        // From here on it is not done again, whatever fails.
        self.is_moved = true;
        (self.file, self.bytes) = open(&self.spec.path)?;
        self.is_moved = false;
        Ok(())
    }
}

/// Renames a file, if it is there.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new().append(true).create(true).read(true).mode(MODE).open(path)?;
    let bytes = end_last_line(&mut file)?;
    Ok((file, bytes))
}

/// Ends a line that was written in part when the program was killed, so that the next is whole. Gives the size.
fn end_last_line(file: &mut File) -> io::Result<u64> {
    use std::os::unix::fs::FileExt as _;
    let bytes = file.metadata()?.len();
    let mut last = [b'\n'];
    if bytes > 0 && file.metadata()?.is_file() {
        file.read_exact_at(&mut last, bytes - 1)?;
    }
    if last == *b"\n" {
        return Ok(bytes);
    }
    file.write_all(b"\n")?;
    Ok(bytes + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(folder: &tempfile::TempDir, max_bytes: Option<u64>, keep: u32) -> FileSpec {
        FileSpec { path: folder.path().join("events"), max_bytes, keep }
    }

    fn read(path: &Path, suffix: &str) -> Option<String> {
        fs::read_to_string(format!("{}{suffix}", path.display())).ok()
    }

    #[test]
    fn it_is_turned_over_before_it_would_grow_beyond_its_size_and_so_many_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let spec = spec(&folder, Some(10), 2);
        let mut file = Lines::open(spec.clone()).unwrap();
        for number in 0..7 {
            file.write(&format!("{number}234\n")).unwrap();
        }
        assert_eq!(read(&spec.path, "").unwrap(), "6234\n");
        assert_eq!(read(&spec.path, ".1").unwrap(), "4234\n5234\n");
        assert_eq!(read(&spec.path, ".2").unwrap(), "2234\n3234\n");
        assert_eq!(read(&spec.path, ".3"), None);
        file.write("a line that is longer than the whole file\n").unwrap();
        assert_eq!(read(&spec.path, "").unwrap(), "a line that is longer than the whole file\n");
    }

    #[test]
    fn a_failure_while_it_is_turned_over_destroys_no_older_one_and_is_made_good() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let spec = FileSpec { path: inner.join("events"), max_bytes: Some(10), keep: 3 };
        let mut file = Lines::open(spec.clone()).unwrap();
        (0..4).for_each(|number| file.write(&format!("{number}234\n")).unwrap());
        // Its folder is gone for a while.
        let away = folder.path().join("away");
        fs::rename(&inner, &away).unwrap();
        (0..5).for_each(|_| file.write("5234\n").unwrap_err().to_string().clear());
        fs::rename(&away, &inner).unwrap();
        file.write("6234\n").unwrap();
        assert_eq!(read(&spec.path, ".2").unwrap(), "0234\n1234\n");
        assert_eq!(read(&spec.path, ".1").unwrap(), "2234\n3234\n");
        assert_eq!(read(&spec.path, "").unwrap(), "6234\n");
    }

    #[test]
    fn what_is_no_file_of_its_own_is_not_turned_over() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("events"));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let mut file = Lines::open(FileSpec { path: link, max_bytes: Some(10), keep: 3 }).unwrap();
        (0..9).for_each(|_| file.write("1234\n").unwrap());
        assert_eq!(fs::read_to_string(&target).unwrap().lines().count(), 9);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn none_is_kept_where_none_is_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let spec = spec(&folder, Some(10), 0);
        let mut file = Lines::open(spec.clone()).unwrap();
        (0..3).for_each(|_| file.write("1234\n").unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(read(&spec.path, "").unwrap(), "1234\n");
    }

    #[test]
    fn one_that_was_moved_away_is_made_anew_and_a_line_that_was_cut_off_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let spec = spec(&folder, None, 0);
        fs::write(&spec.path, "half a li").unwrap();
        let mut file = Lines::open(spec.clone()).unwrap();
        file.write("1\n").unwrap();
        fs::rename(&spec.path, folder.path().join("moved")).unwrap();
        file.write("2\n").unwrap();
        file.reopen();
        file.write("3\n").unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("moved")).unwrap(), "half a li\n1\n2\n");
        assert_eq!(read(&spec.path, "").unwrap(), "3\n");
    }
}
