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

use ureq::Body;
use ureq::config::Config;
use ureq::http::Response;
use ureq::http::Uri;
use ureq::unversioned::resolver::ResolvedSocketAddrs;
use ureq::unversioned::resolver::Resolver;
use ureq::unversioned::transport::DefaultConnector;
use ureq::unversioned::transport::NextTimeout;

use super::Files;
use super::Opened;
use super::TransportError;
use crate::manifest::names::quoted;

/// More redirections than this, one after the other, are refused.
const MAX_REDIRECTS: usize = 4;

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
    pub fn pinned(base: &str, addresses: &[IpAddr], patience: Patience) -> Self {
        let resolver = Pinned(addresses.to_vec());
        let make = |config| ureq::Agent::with_parts(config, DefaultConnector::default(), resolver);
        Self::with_agent(base, patience, make)
    }

    /// The same, over other connections: those of the agent that `make` makes.
    pub fn with_agent(base: &str, patience: Patience, make: impl FnOnce(Config) -> ureq::Agent) -> Self {
        let step = Some(patience.step);
        let config = ureq::Agent::config_builder()
            .user_agent(concat!("release/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(step)
            .timeout_send_request(step)
            .timeout_recv_response(step)
            .timeout_per_read(step);
        #[cfg(feature = "https")]
        let config = config
            .tls_config(ureq::tls::TlsConfig::builder().root_certs(ureq::tls::RootCerts::PlatformVerifier).build());
        Self { base: base.trim_end_matches('/').to_owned(), agent: make(config.build()), patience }
    }

    /// Asks for a file, and goes where the server sends us. ureq would do that too,
    /// but panics where the body of a redirection breaks off (3.5.2).
    fn ask(&self, place: &str) -> Result<Response<Body>, String> {
        let mut place = place.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.agent.get(&place).call().map_err(|error| error.to_string())?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let location = response.headers().get("location").and_then(|value| value.to_str().ok()).unwrap_or_default();
            place = resolve(&place, location)
                .ok_or_else(|| format!("it sends us to {}, which is no place on the web", quoted(location)))?;
        }
        Err(format!("it sends us on more than {MAX_REDIRECTS} times"))
    }

    /// Whether `text` looks like a URL that this can read.
    pub fn is_url(text: &str) -> bool {
        text.starts_with("http://") || text.starts_with("https://")
    }
}

/// Where a redirection leads from `place`: a URL, a path on the same host, or a
/// path beside the file (RFC 3986 section 4.2, without dot segments).
fn resolve(place: &str, location: &str) -> Option<String> {
    if Url::is_url(location) {
        return Some(location.to_owned());
    }
    let host = place.find("://")? + "://".len();
    let root = place[host..].find('/').map_or(place.len(), |at| host + at);
    let plain = !location.is_empty() && !location.starts_with("//") && !location.split('/').any(|it| it.contains(':'));
    let folder = place[root..].rfind('/').map_or(root, |at| root + at);
    match location.strip_prefix('/') {
        _ if !plain => None,
        Some(path) => Some(format!("{}/{path}", &place[..root])),
        None => Some(format!("{}/{location}", &place[..folder])),
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
        let response = match self.ask(&place) {
            Ok(response) => response,
            Err(reason) => return Err(TransportError::Fetch { place, reason }),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirection_leads_to_the_web_or_nowhere() {
        for (place, location, leads) in [
            ("http://a/b/c", "https://d/e", Some("https://d/e")),
            ("http://a/b/c", "/d/e", Some("http://a/d/e")),
            ("http://a/b/c", "d", Some("http://a/b/d")),
            ("http://a", "d", Some("http://a/d")),
            ("http://a:80", "/", Some("http://a:80/")),
            ("http://a/b", "", None),
            ("http://a/b", "//c/d", None),
            ("http://a/b", "file:///c", None),
            ("http://a/b", "ftp:c", None),
        ] {
            assert_eq!(resolve(place, location).as_deref(), leads, "{place} {location}");
        }
    }
}
