//! How records go to an OpenTelemetry collector.

use std::{
    fs::{self, File},
    io::Read as _,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
};

use crate::{
    cli::values::Period,
    sink::{OtlpEndpoint, OtlpSpec, SinkSpec},
};

/// As the specification of OpenTelemetry's exporters (`OTEL_EXPORTER_OTLP_TIMEOUT`).
const TIMEOUT: Duration = Duration::from_secs(10);
/// What header fields may take at most: more than any server takes (nginx and Apache some 8 KiB a field).
const MOST_BYTES: u64 = 64 << 10;

/// The sink, if there is to be one.
pub(super) fn sink(
    endpoint: Option<&str>,
    headers_file: Option<&Path>,
    timeout: Option<Period>,
) -> anyhow::Result<Option<SinkSpec>> {
    let Some(endpoint) = endpoint else {
        if headers_file.is_some() || timeout.is_some() {
            bail!("otlp_headers_file and otlp_timeout say how records are sent to `otlp_endpoint`: name that, too");
        }
        return Ok(None);
    };
    let endpoint: OtlpEndpoint = endpoint.parse().map_err(|why| anyhow!("otlp_endpoint: {why}"))?;
    if endpoint.may_be_secret() {
        bail!(
            "otlp_endpoint has a password or a query, which would be told with it: write it as a header field to otlp_headers_file"
        );
    }
    let headers = headers_file.map(read_headers).transpose()?.unwrap_or_default();
    let timeout = timeout.map_or(TIMEOUT, |timeout| timeout.0);
    Ok(Some(SinkSpec::Otlp(OtlpSpec { endpoint, headers, timeout })))
}

/// Header fields, one a line. They are secrets: what is wrong is told without repeating it.
fn read_headers(path: &Path) -> anyhow::Result<HeaderMap> {
    let text = read_text(path).with_context(|| format!("otlp_headers_file {} cannot be read", path.display()))?;
    let mut headers = HeaderMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let place = || format!("in otlp_headers_file {}, line {number}", path.display());
        let (name, value) = header(line).with_context(place)?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// Reads a file, but no device and no pipe, which may have no end.
fn read_text(path: &Path) -> anyhow::Result<String> {
    if !fs::metadata(path)?.is_file() {
        bail!("it is no regular file");
    }
    let mut text = String::new();
    File::open(path)?.take(MOST_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MOST_BYTES {
        bail!("it has more than {} KiB: name a file of header fields", MOST_BYTES >> 10);
    }
    Ok(text)
}

fn header(line: &str) -> anyhow::Result<(HeaderName, HeaderValue)> {
    const SHAPE: &str = "give for example `Authorization: Bearer TOKEN`";
    let (name, value) = line.split_once(':').with_context(|| format!("not a header field; {SHAPE}"))?;
    let name: HeaderName = name.trim().parse().map_err(|_| anyhow!("not the name of a header field; {SHAPE}"))?;
    // Another value than the request's own would make another request of it (RFC 9112, sections 3.2 and 6).
    if [CONTENT_LENGTH, TRANSFER_ENCODING, HOST].contains(&name) {
        bail!("`{name}` is written by what sends the request: take it out");
    }
    let mut value: HeaderValue = value
        .trim()
        .parse()
        .map_err(|_| anyhow!("the value of `{name}` has characters that no header field may have"))?;
    value.set_sensitive(true);
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> anyhow::Result<HeaderMap> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("headers");
        fs::write(&path, text).unwrap();
        read_headers(&path)
    }

    #[test]
    fn secrets_are_read_from_a_file_and_never_told() {
        let headers = read("# who we are\nAuthorization: Bearer s:ecret\n\n X-Scope : tenant\n").unwrap();
        assert_eq!(headers["authorization"], "Bearer s:ecret");
        assert_eq!(headers["x-scope"], "tenant");
        assert!(!format!("{headers:?}").contains("ecret"), "{headers:?}");
        assert_eq!(read("a: b\nA: c\n").unwrap().get_all("a").iter().collect::<Vec<_>>(), ["b", "c"]);
        for (text, what) in [
            ("Content-Length: 7\n", "line 1: `content-length` is written by"),
            ("transfer-encoding: chunked\n", "`transfer-encoding` is written by"),
            ("HOST: secret\n", "`host` is written by"),
            ("a: b\nsecret\n", "line 2: not a header field"),
            ("se cret: secret\n", "line 1: not the name of"),
            ("Authorization: secret\u{7}\n", "the value of `authorization`"),
        ] {
            let error = format!("{:#}", read(text).unwrap_err());
            assert!(error.contains(what) && error.contains("headers") && !error.contains("cret"), "{error}");
        }
        assert!(format!("{:#}", read_headers(Path::new("/nowhere")).unwrap_err()).contains("/nowhere cannot be read"));
    }

    #[test]
    fn what_has_no_end_is_not_read() {
        let error = format!("{:#}", read_headers(Path::new("/dev/zero")).unwrap_err());
        assert_eq!(error, "otlp_headers_file /dev/zero cannot be read: it is no regular file");
        let most = "a: b\n".repeat(20_000);
        let (fits, more) = most.split_at(65_536 / 5 * 5);
        assert_eq!(read(fits).unwrap().len(), 13_107);
        assert!(format!("{:#}", read(&format!("{fits}{more}")).unwrap_err()).contains("more than 64 KiB"));
    }
}
