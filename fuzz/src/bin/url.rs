//! What a web server answers, and where it redirects to.

#![no_main]

use std::io::Read;
use std::sync::Mutex;

use libfuzzer_sys::fuzz_target;
use release::transport::Files;
use release::transport::Patience;
use release::transport::Url;
use ureq::Agent;
use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::ResolvedSocketAddrs;
use ureq::unversioned::resolver::Resolver;
use ureq::unversioned::transport::Buffers;
use ureq::unversioned::transport::ConnectionDetails;
use ureq::unversioned::transport::Connector;
use ureq::unversioned::transport::LazyBuffers;
use ureq::unversioned::transport::NextTimeout;
use ureq::unversioned::transport::Transport;

/// More than this of a file is not read.
const MAX: u64 = 2000;

/// A server that answers every request with what is left of its answers.
#[derive(Debug)]
struct Server(std::sync::Arc<Mutex<Vec<u8>>>);

/// A connection to it.
#[derive(Debug)]
struct Connection {
    answers: std::sync::Arc<Mutex<Vec<u8>>>,
    buffers: LazyBuffers,
}

impl Resolver for Server {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let mut addresses = self.empty();
        addresses.push(([127, 0, 0, 1], 80).into());
        Ok(addresses)
    }
}

impl Connector for Server {
    type Out = Connection;

    fn connect(&self, _: &ConnectionDetails, _: Option<()>) -> Result<Option<Connection>, Error> {
        Ok(Some(Connection { answers: self.0.clone(), buffers: LazyBuffers::new(8192, 1024) }))
    }
}

impl Transport for Connection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, _: usize, _: NextTimeout) -> Result<(), Error> {
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, Error> {
        let mut answers = self.answers.lock().unwrap();
        let room = self.buffers.input_append_buf();
        let count = answers.len().min(room.len()).min(500);
        room[..count].copy_from_slice(&answers[..count]);
        answers.drain(..count);
        self.buffers.input_appended(count);
        Ok(count > 0)
    }

    fn is_open(&mut self) -> bool {
        false
    }
}

fuzz_target!(|data: &[u8]| {
    let answers = std::sync::Arc::new(Mutex::new(data.to_vec()));
    let (connector, resolver) = (Server(answers.clone()), Server(answers));
    let make = |config| Agent::with_parts(config, connector, resolver);
    let url = Url::with_agent("http://mirror.example", Patience::default(), make);
    if let Ok(Some(mut opened)) = url.open("metadata/timestamp.json") {
        let mut content = Vec::new();
        let read = opened.content.by_ref().take(MAX).read_to_end(&mut content);
        assert!(content.len() <= data.len(), "no more than the server sent");
        if let (Ok(_), Some(length)) = (read, opened.length) {
            assert_eq!(content.len() as u64, length.min(MAX), "what is cut off is an error");
        }
    }
});
