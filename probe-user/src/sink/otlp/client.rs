//! OTLP over HTTP with protobuf bodies, as the specification has it (opentelemetry.io/docs/specs/otlp, "OTLP/HTTP").

use std::{
    error::Error,
    io,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT},
};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use prost::Message as _;
use rustls::{ClientConfig, RootCertStore};

use super::{retry::retry_after, spec::OtlpSpec};
use crate::error::chain;

/// How long a connection is kept for the next batch.
const IDLE: Duration = Duration::from_secs(30);
/// More of a response is not read.
const LONGEST_RESPONSE: usize = 64 << 10;
/// More of what a response says is not told.
const LONGEST_MESSAGE: usize = 200;

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was taken, but for so many of its log records, of which the collector says why.
    Accepted { rejected: u64, message: String },
    /// The collector cannot take it now; it may have said when.
    Later { why: String, asked_for: Option<Duration> },
    /// The collector does not want it: it must not be sent again.
    Refused { why: String },
}

/// Speaks to one collector.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    spec: OtlpSpec,
    http: HttpClient<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Client {
    /// Fails where there are no certificates that an encrypted connection could be verified with.
    pub(crate) fn new(spec: OtlpSpec) -> io::Result<Self> {
        let tls = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let tls = match spec.endpoint.is_encrypted() {
            true => tls.with_native_roots().map_err(|error| {
                let why = "there are no certificates to verify the collector's with: install ca-certificates, or set SSL_CERT_FILE";
                io::Error::new(error.kind(), format!("{why} ({error})"))
            })?,
            false => tls.with_root_certificates(RootCertStore::empty()),
        };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(spec.timeout));
        let tls = HttpsConnectorBuilder::new().with_tls_config(tls.with_no_client_auth());
        let connector = tls.https_or_http().enable_http1().wrap_connector(tcp);
        let http = HttpClient::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Ok(Self { spec, http })
    }

    /// Posts log records, encoded as they are to be sent.
    pub(super) async fn send(self, body: Bytes) -> Outcome {
        let timeout = self.spec.timeout;
        match tokio::time::timeout(timeout, self.exchange(body)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => later(chain(&*error)),
            Err(_) => later(format!("no response within {}", humantime::format_duration(timeout))),
        }
    }

    async fn exchange(&self, body: Bytes) -> Result<Outcome, Box<dyn Error + Send + Sync>> {
        let mut request = Request::post(self.spec.endpoint.uri()).body(Full::new(body))?;
        *request.headers_mut() = headers(&self.spec);
        let (head, body) = self.http.request(request).await?.into_parts();
        let asked_for = head.headers.get(RETRY_AFTER).and_then(|field| field.to_str().ok());
        let asked_for = asked_for.and_then(|field| retry_after(field, SystemTime::now()));
        // What cannot be read of an answer changes nothing about its status.
        let body = Limited::new(body, LONGEST_RESPONSE).collect().await;
        let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        Ok(outcome(head.status, asked_for, &body))
    }
}

/// What is configured, each field as often as it is there, and what is not configured of that which is wanted.
fn headers(spec: &OtlpSpec) -> HeaderMap {
    let mut headers = spec.headers.clone();
    for (name, value) in
        [(CONTENT_TYPE, "application/x-protobuf"), (USER_AGENT, concat!("connprobe/", env!("CARGO_PKG_VERSION")))]
    {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    headers
}

/// What a response means.
fn outcome(status: StatusCode, asked_for: Option<Duration>, body: &[u8]) -> Outcome {
    match status {
        status if status.is_success() => {
            let partial =
                ExportLogsServiceResponse::decode(body).unwrap_or_default().partial_success.unwrap_or_default();
            let rejected = u64::try_from(partial.rejected_log_records).unwrap_or(0);
            Outcome::Accepted { rejected, message: printable(&partial.error_message) }
        }
        // "Retryable Response Codes".
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Outcome::Later { why: answer(status, body), asked_for },
        status => Outcome::Refused { why: answer(status, body) },
    }
}

fn later(why: String) -> Outcome {
    Outcome::Later { why, asked_for: None }
}

/// A status and what else was said: a `google.rpc.Status` in protobuf, of whose fields `message` is the second, or just text.
fn answer(status: StatusCode, body: &[u8]) -> String {
    #[derive(prost::Message)]
    struct Status {
        #[prost(int32, tag = "1")]
        code: i32,
        #[prost(string, tag = "2")]
        message: String,
    }
    let message = match Status::decode(body) {
        Ok(status) => printable(&status.message),
        Err(_) => printable(&String::from_utf8_lossy(body)),
    };
    let separator = if message.is_empty() { "" } else { ": " };
    format!("the collector says {status}{separator}{message}")
}

/// One line of it, and not too much: it is from outside.
fn printable(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(LONGEST_MESSAGE).collect()
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsPartialSuccess;

    use super::*;

    #[test]
    fn a_field_that_is_there_twice_is_sent_twice_and_one_of_ours_once() {
        let mut configured = HeaderMap::new();
        for (name, value) in [("x-scope", "one"), ("x-scope", "other"), ("user-agent", "ours")] {
            configured.append(name, HeaderValue::from_static(value));
        }
        let endpoint = "http://collector:4318".parse().unwrap();
        let sent = headers(&OtlpSpec { endpoint, headers: configured, timeout: IDLE });
        let all = |name: &str| sent.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(all("x-scope"), ["one", "other"]);
        assert_eq!((all("user-agent"), all("content-type")), (vec!["ours"], vec!["application/x-protobuf"]));
    }

    #[test]
    fn only_what_the_specification_lists_is_sent_again() {
        for code in 300..600 {
            let outcome = outcome(StatusCode::from_u16(code).unwrap(), None, b"");
            assert_eq!(matches!(outcome, Outcome::Later { .. }), [429, 502, 503, 504].contains(&code), "{code}");
            assert_eq!(matches!(outcome, Outcome::Refused { .. }), ![429, 502, 503, 504].contains(&code), "{code}");
        }
    }

    #[test]
    fn what_a_collector_rejects_of_a_batch_is_read() {
        let whole = Outcome::Accepted { rejected: 0, message: String::new() };
        assert_eq!(outcome(StatusCode::OK, None, b""), whole);
        assert_eq!(outcome(StatusCode::OK, None, b"{}"), whole);
        let partial = ExportLogsPartialSuccess { rejected_log_records: 3, error_message: "too\nold".to_owned() };
        let body = ExportLogsServiceResponse { partial_success: Some(partial) }.encode_to_vec();
        let accepted = Outcome::Accepted { rejected: 3, message: "tooold".to_owned() };
        assert_eq!(outcome(StatusCode::OK, None, &body), accepted);
    }

    #[test]
    fn an_error_is_told_in_the_collectors_words_whether_they_are_protobuf_or_text() {
        let why = |body: &[u8]| match outcome(StatusCode::BAD_REQUEST, None, body) {
            Outcome::Refused { why } => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(why(b"\x08\x03\x12\x07no room"), "the collector says 400 Bad Request: no room");
        assert_eq!(why(b"<html>no</html>\n"), "the collector says 400 Bad Request: <html>no</html>");
        assert_eq!(why(b""), "the collector says 400 Bad Request");
        assert!(why(&[b'a'; 5000]).len() < 300);
    }
}
