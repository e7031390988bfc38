use std::{fmt, str::FromStr, time::Duration};

use http::{HeaderMap, Uri, uri::Scheme};

/// Where log records go, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpSpec {
    /// The collector.
    pub endpoint: OtlpEndpoint,
    /// What every request says beside what the protocol wants, such as who sends it. The values are marked as sensitive.
    pub headers: HeaderMap,
    /// How long a request may take.
    pub timeout: Duration,
}

/// The URL that logs are posted to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpEndpoint(Uri);

impl OtlpEndpoint {
    pub(super) const fn uri(&self) -> &Uri {
        &self.0
    }

    /// Whether it has what may be a secret: a password, or a query. It must not be told then, also not as the wrong line of a file.
    pub fn may_be_secret(&self) -> bool {
        self.0.query().is_some() || self.0.authority().is_some_and(|authority| authority.as_str().contains('@'))
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.0.scheme() == Some(&Scheme::HTTPS)
    }
}

impl fmt::Display for OtlpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for OtlpEndpoint {
    type Err = String;

    /// The collector's URL, to which the path of logs is added as OTLP/HTTP wants it, unless it is there. It may hold a password, which no
    /// error repeats.
    fn from_str(text: &str) -> Result<Self, String> {
        const LOGS: &str = "/v1/logs";
        const EXAMPLE: &str = "give for example http://127.0.0.1:4318 or https://collector.example:4318";
        let uri: Uri = text.parse().map_err(|_| format!("not a URL; {EXAMPLE}"))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(format!("a URL begins with http:// or https://; {EXAMPLE}"));
        };
        if !["http", "https"].contains(&scheme) {
            return Err(format!("OTLP is spoken over HTTP here, not over gRPC or anything else; {EXAMPLE}"));
        }
        let place = authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, place)| place);
        if authority.host().len() < place.len() && authority.port_u16().is_none_or(|port| port == 0) {
            return Err("a port is a number from 1 to 65535".to_owned());
        }
        let base = uri.path().trim_end_matches('/');
        let base = base.strip_suffix(LOGS).unwrap_or(base);
        let query = uri.query().map_or(String::new(), |query| format!("?{query}"));
        let whole = format!("{scheme}://{authority}{base}{LOGS}{query}");
        whole.parse().map(Self).map_err(|_| format!("not a URL; {EXAMPLE}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_logs_is_added_to_the_collectors_url() {
        for (typed, url) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/logs"),
            ("http://[::1]:4318/", "http://[::1]:4318/v1/logs"),
            ("https://collector.example/otlp/", "https://collector.example/otlp/v1/logs"),
            ("https://collector.example/otlp/v1/logs", "https://collector.example/otlp/v1/logs"),
        ] {
            assert_eq!(typed.parse::<OtlpEndpoint>().unwrap().to_string(), url);
        }
    }

    #[test]
    fn what_is_no_url_of_a_collector_is_refused() {
        for (typed, why) in [
            ("127.0.0.1:4318", "begins with http://"),
            ("collector", "begins with http://"),
            ("grpc://collector:4317", "not over gRPC"),
            ("http://", "not a URL"),
            ("http://collector:99999", "from 1 to 65535"),
            ("http://collector:0", "from 1 to 65535"),
            ("http://me:secret@collector:", "from 1 to 65535"),
            ("secret://collector", "not over gRPC"),
            ("me:secret@collector", "begins with http://"),
            ("http://me:secret@", "not a URL"),
        ] {
            let error = typed.parse::<OtlpEndpoint>().unwrap_err();
            assert!(error.contains(why) && !error.contains("secret"), "{typed}: {error}");
        }
    }

    #[test]
    fn a_password_is_noticed() {
        for (typed, may_be_secret) in [
            ("http://me:secret@collector:4318", true),
            ("https://me:secret@collector.example", true),
            ("https://me:secret@[::1]", true),
            ("https://me:4318@collector.example/otlp", true),
            ("http://collector:4318/?key=secret", true),
            ("http://collector:4318", false),
        ] {
            assert_eq!(typed.parse::<OtlpEndpoint>().unwrap().may_be_secret(), may_be_secret, "{typed}");
        }
    }
}
