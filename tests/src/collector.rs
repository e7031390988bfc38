//! A collector of OpenTelemetry's log records, with a decoder of its own: field numbers are those of opentelemetry-proto's
//! `collector/logs/v1/logs_service.proto`, `logs/v1/logs.proto` and `common/v1/common.proto`.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::registry::lock;

mod protobuf;

pub use protobuf::LogRecord;

/// What it does with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Takes all.
    Take,
    /// Takes all but so many, and says why.
    TakeBut(u8, &'static str),
    /// Answers with this status and text, and with more header fields, each with its line's end.
    Status(&'static str, &'static str, &'static str),
    /// Reads and never answers.
    Never,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// When.
    pub at: Instant,
    /// The first line.
    pub line: String,
    /// By name in lower case.
    pub headers: BTreeMap<String, String>,
    /// What it carried.
    pub records: Vec<LogRecord>,
    /// Whether that was taken.
    pub taken: bool,
}

#[derive(Debug)]
struct Shared {
    answer: Mutex<Answer>,
    requests: Mutex<Vec<Request>>,
    /// What went wrong: a request that is not as the protocol wants it.
    wrong: Mutex<Option<String>>,
    connections: Mutex<Vec<TcpStream>>,
}

/// A collector that listens on loopback until it is stopped or dropped.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Collector {
    /// Starts one.
    ///
    /// # Errors
    /// When there is no port left.
    pub fn start() -> Result<Self> {
        let shared = Arc::new(Shared {
            answer: Mutex::new(Answer::Take),
            requests: Mutex::default(),
            wrong: Mutex::default(),
            connections: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut collector = Self { address: listener.local_addr()?, shared, listening: None };
        collector.listen(listener)?;
        Ok(collector)
    }

    /// As `otlp_endpoint` has it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it does with requests from now on.
    pub fn answer(&self, answer: Answer) {
        *lock(&self.shared.answer) = answer;
    }

    /// Listens no more, and ends its connections.
    pub fn stop(&mut self) {
        let Some((stop, thread)) = self.listening.take() else { return };
        stop.store(true, Ordering::Relaxed);
        // A thread that panicked has said so.
        let _ = thread.join();
        for connection in lock(&self.shared.connections).drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Listens again where it did.
    ///
    /// # Errors
    /// When somebody else does.
    pub fn restart(&mut self) -> Result<()> {
        self.stop();
        self.listen(TcpListener::bind(self.address)?)
    }

    /// Everything that has come, in order.
    ///
    /// # Errors
    /// When a request was not as the protocol wants it.
    pub fn requests(&self) -> Result<Vec<Request>> {
        if let Some(wrong) = &*lock(&self.shared.wrong) {
            bail!("a request that is no OTLP: {wrong}");
        }
        Ok(lock(&self.shared.requests).clone())
    }

    /// The log records that were taken, in order.
    ///
    /// # Errors
    /// As [`Collector::requests`].
    pub fn taken(&self) -> Result<Vec<LogRecord>> {
        Ok(self.requests()?.into_iter().filter(|request| request.taken).flat_map(|request| request.records).collect())
    }

    fn listen(&mut self, listener: TcpListener) -> Result<()> {
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (Arc::clone(&self.shared), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let shared = Arc::clone(&shared);
                        thread::spawn(move || shared.serve(&stream));
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(10)),
                    Err(_) => return,
                }
            }
        });
        self.listening = Some((stop, thread));
        Ok(())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn serve(&self, stream: &TcpStream) {
        let kept = stream.set_nonblocking(false).and_then(|()| stream.try_clone());
        let Ok(kept) = kept else { return };
        lock(&self.connections).push(kept);
        let mut input = BufReader::new(stream);
        loop {
            match self.serve_one(stream, &mut input) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    lock(&self.wrong).get_or_insert_with(|| format!("{error:#}"));
                    return;
                }
            }
        }
    }

    /// One request. Whether there may be another.
    fn serve_one(&self, mut stream: &TcpStream, input: &mut BufReader<&TcpStream>) -> Result<bool> {
        let mut line = String::new();
        // The other end, or this one, has ended the connection.
        if input.read_line(&mut line).map_or(true, |bytes| bytes == 0) {
            return Ok(false);
        }
        let mut headers = BTreeMap::new();
        loop {
            let mut field = String::new();
            input.read_line(&mut field)?;
            let Some((name, value)) = field.trim().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").context("no content-length")?.parse()?;
        ensure!(headers.get("content-type").is_some_and(|kind| kind == "application/x-protobuf"), "{headers:?}");
        let mut body = vec![0; length];
        input.read_exact(&mut body)?;
        let records = protobuf::logs(&body).context("in a body")?;
        let answer = lock(&self.answer).clone();
        let taken = matches!(answer, Answer::Take | Answer::TakeBut(..));
        lock(&self.requests).push(Request {
            at: Instant::now(),
            line: line.trim().to_owned(),
            headers,
            records,
            taken,
        });
        let (status, more, body) = match answer {
            Answer::Take => ("200 OK", "", Vec::new()),
            Answer::TakeBut(rejected, why) => ("200 OK", "", protobuf::partial_success(rejected, why)),
            Answer::Status(status, text, more) => (status, more, text.as_bytes().to_vec()),
            Answer::Never => return Ok(true),
        };
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{more}\r\n", body.len());
        Ok(stream.write_all(&[head.as_bytes(), &body].concat()).is_ok())
    }
}

impl LogRecord {
    /// An attribute, `null` where there is none.
    #[must_use]
    pub fn attribute(&self, name: &str) -> &Value {
        self.attributes.get(name).unwrap_or(&Value::Null)
    }
}
