//! Writing a recording while the watch goes on: a slow disk never holds up the event loop, and a full one does not end it.

use std::{
    fs::{File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use crate::recording::{Closing, FrameWriter, Hider, Input, header};

/// Inputs that may wait for the disk, about half a kilobyte each. As many come within some seconds of the worst storm.
const MOST_WAITING: usize = 16_384;
/// A crash loses at most what came since.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// How long the end waits for the disk.
const LONGEST_FINISH: Duration = Duration::from_secs(10);

/// Where to record, and how.
#[derive(Clone, Debug)]
pub struct RecordingOptions {
    /// The file.
    pub file: PathBuf,
    /// Whether a file that is there already is written over.
    pub overwrite: bool,
    /// Whether addresses and names are replaced.
    pub anonymize: bool,
}

/// What became of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Inputs in the file.
    pub inputs: u64,
    /// Its size.
    pub bytes: u64,
    /// Inputs that are missing because the disk was too slow.
    pub missed: u64,
    /// Why the recording ends before its end.
    pub error: Option<String>,
}

/// A recording that is being written, by a thread of its own.
#[derive(Debug)]
pub struct Recording {
    sender: SyncSender<Input>,
    written: Receiver<Recorded>,
    /// Missed since the last gap was told.
    gap: u64,
    missed: u64,
}

impl Recording {
    /// Creates the file, which only its owner may read: it tells who talks to whom.
    ///
    /// # Errors
    ///
    /// When it cannot be created or written, or is there already.
    pub fn create(options: &RecordingOptions) -> anyhow::Result<Self> {
        let shown = options.file.display();
        let hider = options.anonymize.then(random_hider).transpose()?;
        let mut open = OpenOptions::new();
        open.write(true).mode(0o600);
        if options.overwrite {
            open.create(true).truncate(true)
        } else {
            open.create_new(true)
        };
        let file = match open.open(&options.file) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                bail!("{shown} is there already; give another name, or --force to write over it")
            }
            opened => opened.with_context(|| format!("{shown} cannot be created"))?,
        };
        // One that is written over may have been anybody's to read.
        if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            let own = file.set_permissions(Permissions::from_mode(0o600));
            own.with_context(|| format!("{shown} cannot be kept from others"))?;
        }
        let mut writer = Writer { file, hider, frames: FrameWriter::default(), done: Recorded::NOTHING };
        writer.append(header().as_bytes()).with_context(|| format!("{shown} cannot be written"))?;
        let (sender, receiver) = sync_channel(MOST_WAITING);
        let (done, written) = sync_channel(1);
        thread::Builder::new()
            .name("recording".to_owned())
            // Nobody listens any more when the end has not been waited for.
            .spawn(move || done.send(writer.run(&receiver)))
            .context("no thread could be started to write the recording")?;
        Ok(Self { sender, written, gap: 0, missed: 0 })
    }

    /// Takes in an input. Without room it is counted, and told as soon as there is room again.
    pub(super) fn put(&mut self, input: Input) {
        if self.gap > 0 && self.sender.try_send(Input::Gap { inputs: self.gap }).is_ok() {
            self.gap = 0;
        }
        if self.gap > 0 || self.sender.try_send(input).is_err() {
            self.gap += 1;
            self.missed += 1;
        }
    }

    /// Writes how the run ended, and waits until everything is written, but not for ever.
    pub(super) fn finish(self, closing: Closing) -> Recorded {
        let until = Instant::now() + LONGEST_FINISH;
        let gap = (self.gap > 0).then_some(Input::Gap { inputs: self.gap });
        for mut input in gap.into_iter().chain([Input::Closing(Box::new(closing))]) {
            while let Err(TrySendError::Full(back)) = self.sender.try_send(input) {
                if Instant::now() >= until {
                    break;
                }
                input = back;
                thread::sleep(Duration::from_millis(10));
            }
        }
        drop(self.sender);
        let written = self.written.recv_timeout(until.saturating_duration_since(Instant::now()));
        let recorded = written.unwrap_or_else(|_| Recorded {
            error: Some(format!("it was not written within {} s", LONGEST_FINISH.as_secs())),
            ..Recorded::NOTHING
        });
        Recorded { missed: self.missed, ..recorded }
    }
}

impl Recorded {
    const NOTHING: Self = Self { inputs: 0, bytes: 0, missed: 0, error: None };
}

fn random_hider() -> anyhow::Result<Hider> {
    let mut secret = [0; Hider::SECRET_BYTES];
    getrandom::fill(&mut secret).context("the kernel gives no random numbers to hide addresses by")?;
    Hider::new(&secret).context("the kernel's random numbers are not random")
}

/// What the thread has.
struct Writer {
    file: File,
    hider: Option<Hider>,
    frames: FrameWriter,
    done: Recorded,
}

impl Writer {
    fn run(mut self, inputs: &Receiver<Input>) -> Recorded {
        if let Err(error) = self.write_all(inputs) {
            tracing::error!("the recording ends here, the watch goes on: {error}");
            self.done.error = Some(error.to_string());
        }
        self.done
    }

    fn write_all(&mut self, inputs: &Receiver<Input>) -> io::Result<()> {
        let mut written = Instant::now();
        loop {
            match inputs.recv_timeout(WRITE_EVERY.saturating_sub(written.elapsed())) {
                Ok(mut input) => {
                    if let Some(hider) = &self.hider {
                        hider.hide(&mut input);
                    }
                    self.frames.add(&input).map_err(io::Error::other)?;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.write_frame()?;
                    // A pipe holds nothing back (fsync(2)).
                    return self.file.sync_all().or_else(|error| match error.kind() {
                        io::ErrorKind::InvalidInput => Ok(()),
                        _ => Err(error),
                    });
                }
            }
            if self.frames.is_full() || written.elapsed() >= WRITE_EVERY {
                self.write_frame()?;
                written = Instant::now();
            }
        }
    }

    fn write_frame(&mut self) -> io::Result<()> {
        if let Some((frame, inputs)) = self.frames.take() {
            self.append(&frame)?;
            self.done.inputs += inputs;
        }
        Ok(())
    }

    /// Appends all of it, or nothing.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all(bytes) {
            // What is no file cannot be shortened; its reader finds the frame incomplete.
            let _ = self.file.set_len(self.done.bytes);
            return Err(error);
        }
        self.done.bytes = self.done.bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::MonoTime, recording::Reader};

    fn timeout(ns: u64) -> Input {
        Input::Timeout { at: MonoTime::from_ns(ns) }
    }

    fn closing() -> Closing {
        let at = MonoTime::from_ns(99);
        Closing { at, clocks: None, watched: Duration::ZERO, hooks: Vec::new(), undecodable: 0, unasked: 0 }
    }

    #[test]
    fn what_has_no_room_is_told_as_a_gap() {
        let (sender, inputs) = sync_channel(2);
        let (done, written) = sync_channel(1);
        let mut recording = Recording { sender, written, gap: 0, missed: 0 };
        (0..5).for_each(|ns| recording.put(timeout(ns)));
        assert_eq!(inputs.try_iter().collect::<Vec<_>>(), [timeout(0), timeout(1)]);
        recording.put(timeout(5));
        assert_eq!(inputs.try_iter().collect::<Vec<_>>(), [Input::Gap { inputs: 3 }, timeout(5)]);
        // The writer comes to the rest when it can.
        (6..10).for_each(|ns| recording.put(timeout(ns)));
        let writer = thread::spawn(move || inputs.iter().collect::<Vec<_>>());
        done.send(Recorded { inputs: 7, ..Recorded::NOTHING }).unwrap();
        let recorded = recording.finish(closing());
        assert_eq!(recorded, Recorded { inputs: 7, missed: 5, ..Recorded::NOTHING });
        let last = [timeout(6), timeout(7), Input::Gap { inputs: 2 }, Input::Closing(Box::new(closing()))];
        assert_eq!(writer.join().unwrap(), last);
    }

    #[test]
    fn a_writer_that_has_ended_holds_nobody_up() {
        let (sender, inputs) = sync_channel(2);
        let (done, written) = sync_channel(1);
        let mut recording = Recording { sender, written, gap: 0, missed: 0 };
        drop(inputs);
        recording.put(timeout(1));
        done.send(Recorded { error: Some("full".to_owned()), ..Recorded::NOTHING }).unwrap();
        let recorded = recording.finish(closing());
        assert_eq!((recorded.error.as_deref(), recorded.missed), (Some("full"), 1));
    }

    #[test]
    fn everything_is_in_the_file_that_only_its_owner_may_read() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run.rec");
        let options = RecordingOptions { file: file.clone(), overwrite: false, anonymize: false };
        let mut recording = Recording::create(&options).unwrap();
        (0..10_000).for_each(|ns| recording.put(timeout(ns)));
        let recorded = recording.finish(closing());
        let bytes = std::fs::read(&file).unwrap();
        assert_eq!((recorded.inputs, recorded.missed, recorded.error), (10_001, 0, None));
        assert_eq!(recorded.bytes, u64::try_from(bytes.len()).unwrap());
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let mut reader = Reader::new(bytes.as_slice()).unwrap();
        while reader.next_frame().unwrap().is_some() {}
        assert_eq!(reader.inputs(), 10_001);
        assert!(Recording::create(&options).unwrap_err().to_string().contains("--force"));
    }
}
