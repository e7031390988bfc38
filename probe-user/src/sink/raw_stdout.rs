//! Standard output as a sink: whole lines, without a buffer that would hold what could not be written.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::AsFd as _,
};

#[derive(Debug)]
pub(super) struct RawStdout {
    file: File,
    /// Whether a line was written in part.
    is_cut: bool,
}

impl RawStdout {
    pub(super) fn open() -> io::Result<Self> {
        let descriptor = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Self { file: File::from(descriptor), is_cut: false })
    }

    /// Writes whole lines. One that could be written in part only is ended before the next.
    pub(super) fn write(&mut self, lines: &str) -> io::Result<()> {
        if self.is_cut {
            self.file.write_all(b"\n")?;
            self.is_cut = false;
        }
        let mut rest = lines.as_bytes();
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => rest = rest.get(bytes..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.is_cut = rest.len() < lines.len();
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}
