//! A web server as a tree of static files.
//!
//! Authenticity and freshness come from signed metadata. A TLS break therefore
//! costs no more than plain http; no verdict depends on it.

use std::io::Read;
use std::time::Duration;

use super::Files;
use super::Opened;
use super::TransportError;

/// How long a connection and each read may take before the server counts as
/// down.
const PATIENCE: Duration = Duration::from_secs(30);

/// A URL below which a repository is served.
#[derive(Debug, Clone)]
pub struct Url {
    base: String,
    agent: ureq::Agent,
}

impl Url {
    /// The tree below `base`, an `http://` or `https://` URL.
    pub fn new(base: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .user_agent(concat!("release/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .http_status_as_error(false)
            .max_redirects(4)
            .timeout_connect(Some(PATIENCE))
            .timeout_send_request(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE));
        #[cfg(feature = "https")]
        let config = config
            .tls_config(ureq::tls::TlsConfig::builder().root_certs(ureq::tls::RootCerts::PlatformVerifier).build());
        Self { base: base.trim_end_matches('/').to_owned(), agent: config.build().into() }
    }

    /// Whether `text` looks like a URL that this can read.
    pub fn is_url(text: &str) -> bool {
        text.starts_with("http://") || text.starts_with("https://")
    }
}

impl Files for Url {
    fn open(&self, path: &str) -> Result<Option<Opened>, TransportError> {
        let place = if path.is_empty() { self.base.clone() } else { format!("{}/{path}", self.base) };
        if place.starts_with("https://") && cfg!(not(feature = "https")) {
            let reason = "this build has no TLS; use http:// (verdicts never depend on TLS) or a build with `https`";
            return Err(TransportError::Fetch { place, reason: reason.to_owned() });
        }
        let response = match self.agent.get(&place).call() {
            Ok(response) => response,
            Err(error) => return Err(TransportError::Fetch { place, reason: error.to_string() }),
        };
        match response.status().as_u16() {
            200 => {
                let body = response.into_body();
                let length = body.content_length();
                let content: Box<dyn Read + Send> = Box::new(body.into_reader());
                Ok(Some(Opened { content, length }))
            }
            // Object stores answer 403 for what is not there.
            403 | 404 | 410 => Ok(None),
            status => Err(TransportError::Status { place, status }),
        }
    }

    fn place(&self) -> String {
        self.base.clone()
    }
}
