//! Web servers that misbehave.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use release::progress::Silent;
use release::transport::Files;
use release::transport::Patience;
use release::transport::Url;
use release::verify::VerifyError;
use release::verify::repository;
use release::verify::repository::Extent;

use crate::support::Lab;

const REJECTED: i32 = 3;

/// How a server answers a request for one path.
#[derive(Clone)]
enum Answer {
    /// The file of the mirror.
    File,
    /// These bytes as they are, header and all; then the connection is closed.
    Raw(Vec<u8>),
    /// A good header for ever more bytes.
    Endless,
    /// A byte at a time, with pauses.
    Slow(Duration),
    /// Nothing at all.
    Silence,
}

type Choose = dyn Fn(&str) -> Answer + Send + Sync;

/// A web server on loopback that answers as it is told.
struct Server {
    url: String,
    stop: Arc<AtomicBool>,
}

impl Server {
    fn start(folder: PathBuf, choose: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, choose) = (Arc::clone(&stop), Arc::new(choose));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (folder, choose) = (folder.clone(), Arc::clone(&choose));
                std::thread::spawn(move || answer(stream, &folder, choose.as_ref()));
            }
        });
        Self { url, stop }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.url.trim_start_matches("http://"));
    }
}

/// Answers one request and closes the connection. Errors are the client's leaving.
fn answer(mut stream: TcpStream, folder: &Path, choose: &Choose) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.trim_start_matches('/').to_owned();
    while !lines.next()?.ok()?.is_empty() {}
    let header = |length: usize| format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    match choose(&path) {
        Answer::File => match std::fs::read(folder.join(&path)) {
            Ok(bytes) => {
                stream.write_all(header(bytes.len()).as_bytes()).ok()?;
                stream.write_all(&bytes).ok()
            }
            Err(_) => {
                stream.write_all(b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").ok()
            }
        },
        Answer::Raw(bytes) => stream.write_all(&bytes).ok(),
        Answer::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").ok()?;
            loop {
                stream.write_all(&[b' '; 8 << 10]).ok()?;
            }
        }
        Answer::Slow(pause) => {
            stream.write_all(header(1 << 20).as_bytes()).ok()?;
            loop {
                stream.write_all(b" ").ok()?;
                std::thread::sleep(pause);
            }
        }
        Answer::Silence => stream.read(&mut [0]).ok().map(|_| ()),
    }
}

/// The files that a client reads to verify the laboratory's release.
const READ: [&str; 6] = [
    "metadata/timestamp.json",
    "metadata/2.snapshot.json",
    "metadata/1.targets.json",
    "metadata/1.kestrel.json",
    "releases/kestrel/1.0/kestrel-1.0",
    "bundles/kestrel.bundle.json",
];

fn raw(status: &str, header: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\n{header}\r\n{body}").into_bytes()
}

#[test]
fn a_server_that_lies_is_never_believed() {
    let lab = Lab::released();
    let long = "9".repeat(30);
    let answers = [
        ("500", raw("500 Internal Server Error", "Content-Length: 0\r\n", "")),
        ("304", raw("304 Not Modified", "", "")),
        ("206", raw("206 Partial Content", "Content-Length: 1\r\n", "{")),
        ("204", raw("204 No Content", "", "")),
        ("cut off", raw("200 OK", "Content-Length: 5000\r\n", "{\"signatures\":")),
        ("no length", raw("200 OK", "", "{\"signatures\":")),
        ("absurd length", raw("200 OK", &format!("Content-Length: {long}\r\n"), "{}")),
        ("negative length", raw("200 OK", "Content-Length: -1\r\n", "{}")),
        ("two lengths", raw("200 OK", "Content-Length: 2\r\nContent-Length: 3\r\n", "{}!")),
        ("packed", raw("200 OK", "Content-Encoding: gzip\r\nContent-Length: 2\r\n", "{}")),
        ("broken chunks", raw("200 OK", "Transfer-Encoding: chunked\r\n", "zz\r\n{}\r\n")),
        ("redirect to itself", raw("302 Found", "Location: /metadata/timestamp.json\r\nContent-Length: 0\r\n", "")),
        ("redirect to a file", raw("302 Found", "Location: file:///etc/passwd\r\nContent-Length: 0\r\n", "")),
        ("redirect to TLS", raw("302 Found", "Location: https://127.0.0.1:1/x\r\nContent-Length: 0\r\n", "")),
        ("redirect to the next", raw("307 Go", "Location: x/x\r\nContent-Length: 0\r\n", "")),
        (
            "redirect that breaks off",
            raw("302 Found", "Location: /x\r\nTransfer-Encoding: chunked\r\n", "0\r\n;}\r\n0\r\n/x y\r\n"),
        ),
        ("redirect nowhere", raw("301 Moved", "Content-Length: 0\r\n", "")),
        ("not HTTP", b"SSH-2.0-OpenSSH\r\n".to_vec()),
        ("nothing", Vec::new()),
        ("a page", raw("200 OK", "Content-Length: 13\r\n", "<html></html>")),
        ("missing", raw("404 Not Found", "Content-Length: 0\r\n", "")),
    ];
    for path in READ {
        for (what, bytes) in &answers {
            let bytes = bytes.clone();
            let server = Server::start(lab.path("mirror"), move |asked| {
                if asked == path { Answer::Raw(bytes.clone()) } else { Answer::File }
            });
            let said = lab.verify(&[&server.url]);
            assert!(matches!(said.code, Some(1 | REJECTED)), "{path} {what}: {said:?}");
            assert!(!said.out.contains("VERIFIED"), "{path} {what}: {said:?}");
        }
    }
    // Nothing of all that is remembered.
    lab.verify(&["mirror"]).exits(0);
}

#[test]
fn a_wrong_length_is_a_wrong_file() {
    let lab = Lab::released();
    for path in READ {
        let file = lab.read(&format!("mirror/{path}"));
        // What is said to be shorter than it is, and what is longer.
        let cut = file.len() - 1;
        let more = [file.as_slice(), b"}"].concat();
        for (length, body) in [(cut, &file), (cut, &file[..cut].to_vec()), (more.len(), &more)] {
            let answer = [raw("200 OK", &format!("Content-Length: {length}\r\n"), ""), body.clone()].concat();
            let server = Server::start(lab.path("mirror"), move |asked| {
                if asked == path { Answer::Raw(answer.clone()) } else { Answer::File }
            });
            let said = lab.verify(&[&server.url]).exits(REJECTED);
            assert!(!said.out.contains("VERIFIED"), "{path}: {said:?}");
        }
    }
    // No address of a file is a place to read from.
    let mirror = format!("file://{}", lab.path("mirror").display());
    lab.verify(&[&mirror]).exits(1).says("there is no file");
    let file = lab.download("1.0", "kestrel-1.0");
    lab.verify(&["--repository", &mirror, &file]).exits(1).says("there is no folder");
    lab.verify(&["mirror"]).exits(0);
}

#[test]
fn endless_files_are_read_no_further_than_they_may_be_long() {
    let lab = Lab::released();
    for path in READ {
        let server =
            Server::start(lab.path("mirror"), move |asked| if asked == path { Answer::Endless } else { Answer::File });
        lab.verify(&[&server.url]).exits(REJECTED).does_not_say("VERIFIED");
    }
}

#[test]
fn a_mirror_that_mixes_two_releases_is_rejected() {
    let lab = Lab::released();
    lab.copy("mirror", "old");
    lab.release_next("1.1");
    let old = lab.path("old");
    for path in ["metadata/timestamp.json", "bundles/kestrel.bundle.json", "releases/kestrel/1.0/SHA256SUMS"] {
        let stale = std::fs::read(old.join(path)).unwrap();
        let answer = [
            format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", stale.len()).into_bytes(),
            stale,
        ]
        .concat();
        let server =
            Server::start(
                lab.path("mirror"),
                move |asked| {
                    if asked == path { Answer::Raw(answer.clone()) } else { Answer::File }
                },
            );
        let said = lab.verify(&[&server.url]);
        // An old timestamp with all that it names is an old, whole state to who
        // has seen nothing, and a rollback to who has.
        if path == "metadata/timestamp.json" {
            said.exits(0).says("kestrel 1.0: 5 files").does_not_say("kestrel 1.1");
            lab.verify(&["mirror"]).exits(0).says("kestrel 1.1: 5 files");
            lab.verify(&[&server.url]).exits(REJECTED).says("was seen before");
        } else if path == "bundles/kestrel.bundle.json" {
            said.exits(REJECTED).says("serves bundles/kestrel.bundle.json number 2");
        } else {
            said.exits(0);
        }
    }
}

#[test]
fn a_slow_or_silent_server_counts_as_down() {
    let lab = Lab::released();
    let root = lab.read("trust/root.json");
    let patience = Patience { step: Duration::from_millis(400), grace: Duration::from_millis(800), rate: 1000 };
    release::tuf::install_crypto();
    for answer in [Answer::Silence, Answer::Slow(Duration::from_millis(100)), Answer::Slow(Duration::from_secs(5))] {
        let server = Server::start(lab.path("mirror"), move |asked| {
            if asked == "metadata/2.snapshot.json" { answer.clone() } else { Answer::File }
        });
        let files: Arc<dyn Files> = Arc::new(Url::with_patience(&server.url, patience));
        let now = jiff::Timestamp::now();
        let result = repository::check(&files, &root, &[], Extent::Metadata, now, &Silent);
        assert!(matches!(result, Err(VerifyError::Transport(_))), "{result:?}");
    }
}
