//! Many short, healthy connections.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use crate::arguments::Churn;
use crate::event;

/// How long one step of one connection may take.
const STEP_LIMIT: Duration = Duration::from_secs(10);

/// Makes the connections and tells how many failed, by error number.
pub(crate) fn churn(arguments: &Churn) -> Result<()> {
    let start = Instant::now();
    let address = arguments.end.address();
    let mut buffer = vec![b'.'; arguments.bytes];
    // Errors without a number (such as an early end of file) count under 0.
    let mut errors: BTreeMap<String, u64> = BTreeMap::new();
    let mut failed = 0_u64;
    for _ in 0..arguments.count {
        if let Err(error) = exchange(address, &mut buffer) {
            failed += 1;
            *errors.entry(error.raw_os_error().unwrap_or(0).to_string()).or_default() += 1;
        }
    }
    let elapsed_s = start.elapsed().as_secs_f64();
    let counts = json!({ "count": arguments.count, "failed": failed, "errors": errors, "elapsed_s": elapsed_s });
    event::emit("churned", counts)
}

fn exchange(address: SocketAddr, buffer: &mut [u8]) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, STEP_LIMIT)?;
    stream.set_read_timeout(Some(STEP_LIMIT))?;
    stream.set_write_timeout(Some(STEP_LIMIT))?;
    stream.write_all(buffer)?;
    stream.read_exact(buffer)
}
