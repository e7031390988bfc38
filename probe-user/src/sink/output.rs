//! Sinks that take one record after the other: standard output, a file and the journal.

use std::{io, sync::atomic::Ordering};

use super::{
    control::{Command, Control},
    file::Lines,
    journald,
    queue::{Next, Reader},
    raw_stdout::RawStdout,
    spec::SinkSpec,
};

/// Where one writes.
pub(super) enum Output {
    Stdout(RawStdout),
    File(Lines),
    Journald,
}

impl Output {
    /// Writes until it is told to end.
    pub(super) async fn run(mut self, mut control: Control, mut reader: Reader) {
        loop {
            let next = tokio::select! {
                biased;
                command = control.commands.recv() => match command {
                    Some(Command::Reopen) => {
                        if let Self::File(lines) = &mut self {
                            lines.reopen();
                        }
                        continue;
                    }
                    Some(Command::Change(spec)) => {
                        if let (Self::File(lines), SinkSpec::File(file)) = (&mut self, &spec) {
                            lines.turn_over_at(file.clone());
                        }
                        control.spec = spec;
                        continue;
                    }
                    Some(Command::Collector(_)) => continue,
                    Some(Command::Finish) => break,
                    Some(Command::Stop) | None => {
                        while let Some(next) = reader.next_at_hand() {
                            self.take(&control, &mut reader, next);
                        }
                        return;
                    }
                },
                next = reader.next() => next,
            };
            let Some(next) = next else { return };
            self.take(&control, &mut reader, next);
        }
        while let Some(next) = reader.next().await {
            self.take(&control, &mut reader, next);
        }
    }

    fn take(&mut self, control: &Control, reader: &mut Reader, mut next: Next) {
        let has_ended = &control.health.has_ended;
        if has_ended.load(Ordering::Relaxed) {
            reader.give_up(&next);
            return;
        }
        match self.write(&mut next) {
            Ok(()) => {
                control.health.counts.add_written();
                control.health.take(&control.spec, Ok(()));
            }
            Err(error) => {
                reader.give_up(&next);
                has_ended.store(error.kind() == io::ErrorKind::BrokenPipe, Ordering::Relaxed);
                control.fails(error.to_string());
            }
        }
    }

    fn write(&mut self, next: &mut Next) -> io::Result<()> {
        match self {
            Self::Stdout(stdout) => stdout.write(&next.lines()),
            Self::File(lines) => lines.write(&next.lines()),
            Self::Journald => journald::write(next),
        }
    }
}
