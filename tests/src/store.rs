//! ClickHouse's own engine (chDB), unpacked by `cargo xtask test` below `target/chdb`, with the tables and views that are shipped.

use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{child::ManagedChild, unpacked::target};

/// What is shipped for the store of a fleet.
pub const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/fleet");

/// Loading half a gigabyte of program takes a second where the disk is fast.
const STARTING: Duration = Duration::from_secs(60);

fn tree() -> Result<PathBuf> {
    Ok(target()?.join("chdb/python"))
}

/// Whether the engine is there.
pub(crate) fn check() -> Result<()> {
    let module = tree()?.join("chdb/__init__.py");
    ensure!(module.exists(), "there is no {}", module.display());
    Ok(())
}

/// The engine at work, empty at first, with one connection at a time. Dropping it ends it.
#[derive(Debug)]
pub struct Store {
    socket: PathBuf,
    _child: ManagedChild,
}

impl Store {
    /// Starts it with its data in `folder`.
    ///
    /// # Errors
    /// When it is not there or does not start.
    pub fn start(folder: &Path) -> Result<Self> {
        let socket = folder.join("store");
        let errors = folder.join("store.errors");
        let mut command = Command::new("python3");
        command.args(["-c", include_str!("store.py")]).arg(folder.join("data")).arg(&socket);
        command.env("PYTHONPATH", tree()?).env("PYTHONDONTWRITEBYTECODE", "1");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&errors)?);
        let child = ManagedChild::spawn(command)?;
        let end = Instant::now() + STARTING;
        while !socket.exists() {
            let ended = child.try_wait()?;
            if ended.is_some() || Instant::now() > end {
                bail!("ClickHouse's engine does not start: {}", std::fs::read_to_string(&errors)?);
            }
            sleep(Duration::from_millis(50));
        }
        Ok(Self { socket, _child: child })
    }

    /// Sets up what is shipped, as on a single server; a second time changes nothing.
    ///
    /// # Errors
    /// With the engine's message.
    pub fn set_up(&self) -> Result<()> {
        for file in ["schema.sql", "views.sql"] {
            let mut sed = Command::new("sed");
            sed.args(["-f", "single-node.sed", file]).current_dir(SHIPPED);
            let output = sed.output().context("cannot start sed")?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            self.rows(&String::from_utf8(output.stdout)?).with_context(|| file.to_owned())?;
        }
        Ok(())
    }

    /// The rows that one query, or the last of several, answers with.
    ///
    /// # Errors
    /// With the engine's message.
    pub fn rows(&self, query: &str) -> Result<Vec<Value>> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.write_all(query.as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let answer: Value = serde_json::from_str(&answer).context("ClickHouse's engine has died")?;
        if let Some(error) = answer.get("error").and_then(Value::as_str) {
            bail!("{error}\n{query}");
        }
        Ok(answer.get("rows").and_then(Value::as_array).cloned().unwrap_or_default())
    }

    /// Takes in lines as `load.sh` does.
    ///
    /// # Errors
    /// With the engine's message.
    pub fn insert(&self, lines: &[String]) -> Result<()> {
        let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
        self.rows(&format!("INSERT INTO connprobe.incoming FORMAT LineAsString\n{lines}")).map(drop)
    }

    /// Runs the loader that is shipped on a collector's folder.
    ///
    /// # Errors
    /// When it fails.
    pub fn load(&self, spool: &Path) -> Result<()> {
        const INSERT: &str = "import json, os, socket, sys\n\
            s = socket.socket(socket.AF_UNIX)\n\
            s.connect(os.environ['STORE'])\n\
            s.sendall(sys.argv[1].encode() + b'\\n' + sys.stdin.buffer.read())\n\
            s.shutdown(socket.SHUT_WR)\n\
            answer = json.loads(s.makefile().read())\n\
            sys.exit(answer.get('error'))\n";
        let script = spool.join("insert.py");
        std::fs::write(&script, INSERT)?;
        let mut command = Command::new(Path::new(SHIPPED).join("load.sh"));
        command.arg(spool).env("STORE", &self.socket);
        command.env("CONNPROBE_INSERT", format!("python3 {}", script.display()));
        // Files as old as this are as good as a minute old: their writer has been stopped, or is idle.
        let output = command.env("CONNPROBE_SETTLED", "0").output().context("cannot start load.sh")?;
        ensure!(output.status.success(), "load.sh: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}
