//! One run of a guest: QEMU as a child, its output streamed and kept, its end understood.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Accelerator, Architecture};
use crate::run;

/// RAM of a guest. Everything it writes lives there, too.
const MEMORY_MIB: u32 = 1024;

/// What is booted.
pub(crate) struct Machine<'a> {
    pub(crate) kernel: &'a Path,
    pub(crate) initramfs: &'a Path,
    pub(crate) accelerator: Accelerator,
    pub(crate) architecture: Architecture,
    /// Whether a person sits at the terminal: then its bytes go straight to the guest, and nothing but the kernel's log
    /// is kept.
    pub(crate) interactive: bool,
    /// After that the guest is ended.
    pub(crate) limit: Duration,
    /// Files of this run: `kernel.log`, `output.log`, `result`.
    pub(crate) folder: &'a Path,
}

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The command ended with this code.
    Command(i32),
    /// The kernel panicked: the line that says so.
    Panic(String),
    /// It was still running at the limit and was ended.
    Hung,
    /// QEMU ended, and the guest said neither a result nor why.
    Unknown(String),
}

/// A guest's output file and how it ended.
pub(crate) struct Run {
    pub(crate) end: End,
    pub(crate) kernel_log: PathBuf,
}

impl Machine<'_> {
    /// Boots, hands every piece of the command's output to `output`, waits for the end.
    pub(crate) fn run(&self, output: &mut dyn Write) -> Result<Run> {
        let kernel_log = self.folder.join("kernel.log");
        let result = self.folder.join("result");
        for stale in [&kernel_log, &result] {
            if stale.exists() {
                std::fs::remove_file(stale).with_context(|| format!("cannot remove {}", stale.display()))?;
            }
        }
        let mut command = self.command(&kernel_log, &result);
        run::announce(&command);
        let mut child = command.spawn().context("cannot start QEMU")?;
        let stream = child.stdout.take();
        let watch = Watch { child, deadline: Instant::now() + self.limit };
        let watcher = thread::spawn(move || watch.wait());
        if let Some(stream) = stream {
            copy(stream, &self.folder.join("output.log"), output)?;
        }
        let status = match watcher.join() {
            Ok(status) => status?,
            Err(payload) => std::panic::resume_unwind(payload),
        };
        let end = self.end(status, &kernel_log, &result);
        Ok(Run { end, kernel_log })
    }

    fn end(&self, status: Option<ExitStatus>, kernel_log: &Path, result: &Path) -> End {
        let Some(status) = status else { return End::Hung };
        let read = |path: &Path| std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        if let Some(code) = read(result).ok().and_then(|text| text.trim().parse().ok()) {
            return End::Command(code);
        }
        let log = read(kernel_log).unwrap_or_default();
        match panic_line(&log) {
            Some(line) => End::Panic(line.to_owned()),
            None => End::Unknown(format!("QEMU ended ({status}) before the command did")),
        }
    }

    fn command(&self, kernel_log: &Path, result: &Path) -> Command {
        // If this process is killed, the kernel ends QEMU with it.
        let mut command = Command::new("setpriv");
        let (program, machine) = self.architecture.qemu();
        command.args(["--pdeathsig", "KILL", program]).args(machine);
        // More than one processor under TCG: the guest panics when its kernel patches itself, as attaching a kprobe does.
        command.args(["-accel", self.accelerator.name(), "-smp", "1"]);
        command.args(["-cpu", self.accelerator.processor(self.architecture)]);
        command.args([
            "-m",
            &MEMORY_MIB.to_string(),
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]);
        command.arg("-kernel").arg(self.kernel).arg("-initrd").arg(self.initramfs);
        let console = self.architecture.console();
        command.args(["-append", &format!("console={console} quiet panic=-1 oops=panic")]);
        command.args(["-serial", &format!("file:{}", escaped(kernel_log))]);
        command.args(["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]);
        command.args(["-chardev", "stdio,id=console,signal=off", "-device", "virtconsole,chardev=console"]);
        command.args(["-chardev", &format!("file,id=result,path={}", escaped(result))]);
        command.args(["-device", "virtserialport,chardev=result,name=result"]);
        command.args(["-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"]);
        command.args(["-device", "virtio-9p-pci,fsdev=host,mount_tag=host"]);
        if !self.interactive {
            command.stdin(Stdio::null()).stdout(Stdio::piped());
        }
        command
    }
}

/// A comma separates QEMU's options; a doubled one is itself.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// The line in which a kernel says why it gave up.
fn panic_line(log: &str) -> Option<&str> {
    log.lines().find(|line| line.contains("Kernel panic")).map(str::trim)
}

fn copy(mut stream: ChildStdout, log: &Path, output: &mut dyn Write) -> Result<()> {
    let mut log = std::fs::File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).context("cannot read the guest's output")?;
        let Some(piece) = buffer.get(..count).filter(|piece| !piece.is_empty()) else { break };
        log.write_all(piece).context("cannot write the log of the guest's output")?;
        output.write_all(piece).context("the guest's output cannot be written")?;
    }
    output.flush().context("the guest's output cannot be written")
}

/// QEMU and when it must have ended. Dropped early, it ends QEMU.
struct Watch {
    child: Child,
    deadline: Instant,
}

impl Watch {
    /// How QEMU ended; `None` if it had to be ended.
    fn wait(mut self) -> Result<Option<ExitStatus>> {
        const STEP: Duration = Duration::from_millis(50);
        loop {
            if let Some(status) = self.child.try_wait().context("cannot wait for QEMU")? {
                return Ok(Some(status));
            }
            if Instant::now() >= self.deadline {
                return Ok(None);
            }
            thread::sleep(STEP);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It has ended already, or is ended now; there is nobody to tell of an error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_found_in_the_kernels_log() {
        let log =
            "[    1.0] Run /init as init process\n[    1.5] Kernel panic - not syncing: Attempted to kill init!\n";
        assert!(panic_line(log).unwrap().ends_with("Attempted to kill init!"));
        assert_eq!(panic_line("[    1.0] reboot: Power down\n"), None);
    }

    #[test]
    fn a_comma_in_a_path_is_no_option_of_qemu() {
        assert_eq!(escaped(Path::new("/a,b/c")), "/a,,b/c");
    }
}
