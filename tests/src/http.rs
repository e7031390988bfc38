//! What an HTTP server of ours says: enough for its metrics.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Status line and body of the answer to a request for this path.
///
/// # Errors
/// When nobody listens, or no whole answer comes within 20 s.
pub fn get(address: SocketAddr, path: &str) -> Result<(String, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no answer")?;
    Ok((head.lines().next().unwrap_or_default().to_owned(), body.to_owned()))
}

/// The sum of a metric over all those of its labels that contain `label`, in the text that Prometheus reads; `None` where there is none.
#[must_use]
pub fn metric(text: &str, name: &str, label: &str) -> Option<f64> {
    let is_it =
        |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']) && rest.contains(label));
    let values = text.lines().filter(is_it).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.reduce(|sum, one| sum + one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_the_sum_over_its_labels() {
        let text = "# TYPE a counter\na_total{x=\"1\"} 2\na_total{x=\"2\"} 3.5\na_total_more 7\nb 1\n";
        assert_eq!(metric(text, "a_total", ""), Some(5.5));
        assert_eq!(metric(text, "a_total", "x=\"2\""), Some(3.5));
        assert_eq!(metric(text, "b", ""), Some(1.0));
        assert_eq!(metric(text, "a", ""), None);
    }
}
