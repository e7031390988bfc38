//! A socket at which any number of readers get the records from when they connect.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::oneshot,
    task::JoinSet,
};

use super::{
    control::{Command, Control},
    queue::{Counts, Queue, Reader},
};

/// For its owner and group.
const MODE: u32 = 0o660;
/// More readers are turned away.
const MOST_READERS: usize = 256;

/// The socket, which is removed when this goes.
#[derive(Debug)]
pub(super) struct Listener {
    path: PathBuf,
    listener: UnixListener,
}

impl Listener {
    /// Makes the socket. One that nobody listens at any more is replaced.
    pub(super) fn bind(path: PathBuf) -> io::Result<Self> {
        if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
            match UnixStream::connect(&path) {
                Ok(_) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(&path)?,
                Err(error) => return Err(error),
            }
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(MODE))?;
        listener.set_nonblocking(true)?;
        Ok(Self { path, listener })
    }

    /// Serves until it is told to end.
    pub(super) async fn run(self, mut control: Control, queue: Queue) {
        let (finish, finished) = oneshot::channel::<()>();
        let mut finish = Some(finish);
        let counts = Arc::clone(&control.health.counts);
        let serve = self.serve(queue, counts, async { finished.await.unwrap_or_default() });
        let stop = async {
            loop {
                match control.commands.recv().await {
                    Some(Command::Reopen | Command::Change(_) | Command::Collector(_)) => {}
                    Some(Command::Finish) => drop(finish.take()),
                    Some(Command::Stop) | None => return,
                }
            }
        };
        tokio::select! {
            result = serve => if let Err(error) = result {
                control.health.take(&control.spec, Err(error.to_string()));
            },
            () = stop => {}
        }
    }

    /// Serves readers until it is told to stop; then those that are connected get what there is for them already, and `queue` is
    /// closed.
    async fn serve(self, queue: Queue, counts: Arc<Counts>, stop: impl Future<Output = ()>) -> io::Result<()> {
        let socket = Socket(self.path);
        let listener = tokio::net::UnixListener::from_std(self.listener)?;
        let mut stop = pin!(stop);
        let mut readers = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = &mut stop => break,
                Some(_) = readers.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // As many descriptors as the process may have: some will be closed.
                    tracing::warn!(%error, "a reader of the socket could not be accepted");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                    continue;
                }
            };
            if readers.len() >= MOST_READERS {
                tracing::warn!("more than {MOST_READERS} readers at the socket: one is turned away");
                continue;
            }
            readers.spawn(serve_one(stream, queue.reader(&counts)));
        }
        drop((queue, socket));
        while readers.join_next().await.is_some() {}
        Ok(())
    }
}

/// Writes to one reader until it goes away.
async fn serve_one(stream: tokio::net::UnixStream, mut records: Reader) {
    let (mut input, mut output) = stream.into_split();
    // One that will say nothing, and has told so, may go on reading: whether it has gone is seen when it is written to.
    let gone = async {
        let mut ignored = [0; 64];
        while let Ok(bytes) = input.read(&mut ignored).await {
            if bytes == 0 {
                std::future::pending::<()>().await;
            }
        }
    };
    let write = async {
        while let Some(next) = records.next().await {
            if output.write_all(next.lines().as_bytes()).await.is_err() {
                return;
            }
            records.counts().add_written();
        }
    };
    tokio::select! {
        () = gone => {}
        () = write => {}
    }
}

struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::debug!(%error, path = %path.display(), "the socket could not be removed");
    }
}
