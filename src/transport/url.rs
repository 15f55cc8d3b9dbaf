//! A web server as a tree of static files.
//!
//! Authenticity and freshness come from signed metadata. A TLS break therefore
//! costs no more than plain http; no verdict depends on it.

use std::io;
use std::io::Read;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::ResolvedSocketAddrs;
use ureq::unversioned::resolver::Resolver;
use ureq::unversioned::transport::DefaultConnector;
use ureq::unversioned::transport::NextTimeout;

use super::Files;
use super::Opened;
use super::TransportError;

/// When a server counts as down.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long a connection and each read may take.
    pub step: Duration,
    /// How long a file may come slower than [`Self::rate`].
    pub grace: Duration,
    /// The least rate in bytes per second, on average: a server that gives a byte
    /// now and then must not hold a user up for ever (TUF's slow retrieval).
    pub rate: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self { step: Duration::from_secs(30), grace: Duration::from_secs(60), rate: 1000 }
    }
}

/// A URL below which a repository is served.
#[derive(Debug, Clone)]
pub struct Url {
    base: String,
    agent: ureq::Agent,
    patience: Patience,
}

impl Url {
    /// The tree below `base`, an `http://` or `https://` URL.
    pub fn new(base: &str) -> Self {
        Self::with_patience(base, Patience::default())
    }

    /// The same, with other limits of time.
    pub fn with_patience(base: &str, patience: Patience) -> Self {
        Self::with_agent(base, patience, ureq::Agent::from)
    }

    /// The tree below `base`, asked at these addresses whatever its host is called:
    /// nothing is asked of DNS, and a redirection leads nowhere else.
    pub fn pinned(base: &str, addresses: &[IpAddr]) -> Self {
        let resolver = Pinned(addresses.to_vec());
        let make = |config| ureq::Agent::with_parts(config, DefaultConnector::default(), resolver);
        Self::with_agent(base, Patience::default(), make)
    }

    /// The same, over other connections: those of the agent that `make` makes.
    pub fn with_agent(base: &str, patience: Patience, make: impl FnOnce(Config) -> ureq::Agent) -> Self {
        let step = Some(patience.step);
        let config = ureq::Agent::config_builder()
            .user_agent(concat!("release/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .http_status_as_error(false)
            .max_redirects(4)
            .timeout_connect(step)
            .timeout_send_request(step)
            .timeout_recv_response(step)
            .timeout_per_read(step);
        #[cfg(feature = "https")]
        let config = config
            .tls_config(ureq::tls::TlsConfig::builder().root_certs(ureq::tls::RootCerts::PlatformVerifier).build());
        Self { base: base.trim_end_matches('/').to_owned(), agent: make(config.build()), patience }
    }

    /// Whether `text` looks like a URL that this can read.
    pub fn is_url(text: &str) -> bool {
        text.starts_with("http://") || text.starts_with("https://")
    }
}

/// Gives the same addresses for every host.
#[derive(Debug)]
struct Pinned(Vec<IpAddr>);

impl Resolver for Pinned {
    fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(default);
        let mut found = self.empty();
        // More than there is room for are not configured (`policy::mirror`).
        for address in self.0.iter().take(8) {
            found.push(SocketAddr::new(*address, port));
        }
        if found.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(found) }
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
                let content: Box<dyn Read + Send> = Box::new(Paced::new(body.into_reader(), self.patience));
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

/// A body that must not come too slowly.
struct Paced<R> {
    inner: R,
    patience: Patience,
    begun: Instant,
    received: u64,
}

impl<R> Paced<R> {
    fn new(inner: R, patience: Patience) -> Self {
        Self { inner, patience, begun: Instant::now(), received: 0 }
    }
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.received += count as u64;
        let elapsed = self.begun.elapsed();
        if elapsed > self.patience.grace && self.received < self.patience.rate.saturating_mul(elapsed.as_secs()) {
            let reason = format!("it came slower than {} bytes per second", self.patience.rate);
            return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
        }
        Ok(count)
    }
}
