//! `/metrics` for Prometheus and `/healthz`, made from the records that every sink gets.

mod exported;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{
        HeaderValue, StatusCode,
        header::{CONNECTION, CONTENT_TYPE},
    },
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};

use super::{
    control::{Command, Control},
    queue::Reader,
    spec::SinkSpec,
};
use exported::Metrics;

/// Where to listen, and how often heartbeats come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsSpec {
    /// The address.
    pub listen: SocketAddr,
    /// Without a heartbeat for three times as long the daemon is ill.
    pub heartbeat_every: Duration,
}

/// The listener, before its thread runs.
#[derive(Debug)]
pub(super) struct Server {
    listener: TcpListener,
    shared: Arc<Mutex<Metrics>>,
}

impl Server {
    pub(super) fn bind(spec: MetricsSpec) -> io::Result<Self> {
        let listener = TcpListener::bind(spec.listen)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, shared: Arc::new(Mutex::new(Metrics::new(spec.heartbeat_every))) })
    }

    /// Serves until it is told to end.
    pub(super) async fn run(self, mut control: Control, reader: Reader) {
        let shared = Arc::clone(&self.shared);
        let stop = async {
            loop {
                match control.commands.recv().await {
                    Some(Command::Change(SinkSpec::Metrics(spec))) => {
                        lock(&shared).come_every(spec.heartbeat_every);
                    }
                    // It ends with the records.
                    Some(Command::Change(_) | Command::Collector(_) | Command::Reopen | Command::Finish) => {}
                    Some(Command::Stop) | None => return,
                }
            }
        };
        tokio::select! {
            result = self.serve(reader) => if let Err(error) = result {
                control.health.take(&control.spec, Err(error.to_string()));
            },
            () = stop => {}
        }
    }

    /// Serves until there are no more records, or the task is ended.
    async fn serve(self, mut records: Reader) -> io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let listener = Few { listener, free: Arc::new(Semaphore::new(MOST_CONNECTIONS)) };
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(healthz))
            .layer(map_response(close_after))
            .with_state(Arc::clone(&self.shared));
        let take = async {
            while let Some(next) = records.next().await {
                lock(&self.shared).take(&next.entry.record);
                records.counts().add_written();
            }
        };
        tokio::select! {
            result = async { axum::serve(listener, router).await } => result,
            () = take => Ok(()),
        }
    }
}

/// Connections at once: whoever may connect may hold as many open, and the process has only so many descriptors.
const MOST_CONNECTIONS: usize = 32;

/// A connection ends then, whatever has come of it: else whoever holds so many open keeps everybody out. A request and its answer take
/// some round trips; Kubernetes waits five seconds for it (`service/daemonset.yaml`), and Prometheus ten.
const LONGEST_CONNECTION: Duration = Duration::from_secs(2);

/// A listener that accepts only so many connections at once.
struct Few {
    listener: tokio::net::TcpListener,
    free: Arc<Semaphore>,
}

impl axum::serve::Listener for Few {
    type Io = Accepted;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Accepted, SocketAddr) {
        // The semaphore is never closed.
        let place = Arc::clone(&self.free).acquire_owned().await.ok();
        let (stream, address) = axum::serve::Listener::accept(&mut self.listener).await;
        (Accepted { stream, end: Box::pin(sleep(LONGEST_CONNECTION)), _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection, how long it may take, and its place among them.
struct Accepted {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Accepted {
    /// The stream, while it may take longer; what waits for it is woken when it may not.
    fn stream(&mut self, cx: &mut Context<'_>) -> io::Result<Pin<&mut TcpStream>> {
        match self.end.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(Pin::new(&mut self.stream)),
        }
    }
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream(cx)?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream(cx)?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream(cx)?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream(cx)?.poll_shutdown(cx)
    }
}

/// One request a connection: the next scrape would come upon its end.
async fn close_after(mut response: Response) -> Response {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

fn lock(shared: &Mutex<Metrics>) -> MutexGuard<'_, Metrics> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn metrics(State(shared): State<Arc<Mutex<Metrics>>>) -> impl IntoResponse {
    let text = lock(&shared).text();
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}

async fn healthz(State(shared): State<Arc<Mutex<Metrics>>>) -> impl IntoResponse {
    match lock(&shared).ill() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}
