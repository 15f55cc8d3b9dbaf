//! What has the right to change the firewall, and does no more than open, close and look.
//!
//! `release util window-helper` runs once for each connection to [`SOCKET`], which is its
//! standard input and output: systemd accepts connections (`packaging/terminal/`). It
//! has no right but `CAP_NET_ADMIN`, and takes whoever connects for hostile:
//!
//! ```text
//! open source 1200      open the window to the hosts of source for 1200 seconds
//! open mirrors 1200     the same to the mirrors; what was open is closed
//! close
//! status
//! ```
//!
//! One line comes, and one goes: `{"state":{…},"version":1}` or `{"error":"…","version":1}`.
//! No address comes from outside, nor anything else that reaches nft.

use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use super::WindowError;
use super::rules;
use crate::manifest::Sha256;
use crate::manifest::json;
use crate::manifest::json::JsonError;
use crate::policy::Destination;
use crate::process::ProcessError;
use crate::process::Program;
use crate::progress::Progress;

/// Where the helper is reached.
pub const SOCKET: &str = "/run/release/window";
/// No window is open for longer, in seconds.
pub const MAX_SECONDS: u64 = 60 * 60;
/// Longer requests are refused, in bytes.
const MAX_REQUEST: u64 = 32;
/// Longer answers are refused, in bytes.
const MAX_ANSWER: u64 = 4 << 10;
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(10);
/// The version of answers.
const VERSION: u32 = 1;

/// All that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Open the window, for so many seconds from now.
    Open(Destination, u64),
    /// Close it.
    Close,
    /// Say how it is.
    Status,
}

impl Request {
    /// Reads a line.
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.strip_suffix('\n')?.split(' ').collect();
        match words.as_slice() {
            ["open", to, seconds] => {
                let number: u64 = seconds.parse().ok().filter(|number: &u64| number.to_string() == *seconds)?;
                (1..=MAX_SECONDS).contains(&number).then_some(())?;
                Some(Self::Open(to.parse().ok()?, number))
            }
            ["close"] => Some(Self::Close),
            ["status"] => Some(Self::Status),
            _ => None,
        }
    }

    fn to_line(self) -> String {
        match self {
            Self::Open(to, seconds) => format!("open {to} {seconds}\n"),
            Self::Close => "close\n".to_owned(),
            Self::Status => "status\n".to_owned(),
        }
    }
}

/// What the kernel's firewall does now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Digest of its rules; `None` if there are none.
    pub rules: Option<Sha256>,
    /// Where an open window leads, and for how many seconds from now.
    pub open: Option<(Destination, u64)>,
    /// How many packets it has refused since the rules were loaded: those that went
    /// out, and those that came in.
    pub refused: (u64, u64),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    State(State),
    Error(String),
}

/// Asks the helper.
///
/// # Errors
/// It is not there, is somebody else, refuses, or does not know.
pub(super) fn ask(request: Request) -> Result<State, WindowError> {
    let talk = || {
        let mut stream = UnixStream::connect(SOCKET)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // What it says is evidence.
        if !socket_peercred(&stream)?.uid.is_root() {
            return Ok(None);
        }
        stream.write_all(request.to_line().as_bytes())?;
        let mut line = Vec::new();
        BufReader::new(&stream).take(MAX_ANSWER).read_until(b'\n', &mut line)?;
        Ok(Some(line))
    };
    let line = talk().map_err(WindowError::Helper)?.ok_or(WindowError::Stranger)?;
    let unknown = |error: JsonError| WindowError::Answer(error.to_string());
    let mut value = json::from_slice_strict(line.strip_suffix(b"\n").unwrap_or(&line)).map_err(unknown)?;
    match value.as_object_mut().and_then(|members| members.remove("version")) {
        Some(version) if version == VERSION => {}
        _ => return Err(WindowError::Answer("it is of another version".to_owned())),
    }
    match json::typed(value).map_err(unknown)? {
        Answer::State(state) => Ok(state),
        Answer::Error(reason) => Err(WindowError::Refused(reason)),
    }
}

/// Serves one connection, and says what was done for whom.
///
/// # Errors
/// The peer was refused, is not heard or not answered; nft failed. It was told, where
/// that was possible.
pub fn serve(mut stream: UnixStream, progress: &dyn Progress) -> Result<String, WindowError> {
    stream.set_read_timeout(Some(PATIENCE)).map_err(WindowError::Helper)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(WindowError::Helper)?;
    let served = take(&stream).and_then(|(peer, request)| Ok((peer, request, act(request, progress)?)));
    let answer = match &served {
        Ok((.., state)) => Answer::State(state.clone()),
        Err(error) => Answer::Error(error.to_string()),
    };
    let mut line = serde_json::to_value(&answer).map_err(JsonError::from)?;
    line["version"] = json!(VERSION);
    let mut line = json::to_vec(&line)?;
    line.push(b'\n');
    let told = stream.write_all(&line).map_err(WindowError::Helper);
    let (peer, request, _) = served?;
    told?;
    Ok(format!("user {peer}: {}", request.to_line().trim_end()))
}

/// Who asks for what. Only root may, and the owner of the socket.
fn take(stream: &UnixStream) -> Result<(u32, Request), WindowError> {
    let peer = socket_peercred(stream).map_err(|error| WindowError::Helper(error.into()))?.uid;
    let socket = stream.local_addr().map_err(WindowError::Helper)?;
    let path = socket.as_pathname().ok_or(WindowError::Peer(peer.as_raw()))?;
    let owner = path.metadata().map_err(WindowError::Helper)?.uid();
    if !peer.is_root() && peer.as_raw() != owner {
        return Err(WindowError::Peer(peer.as_raw()));
    }
    let mut line = String::new();
    // What is no text is no request either.
    BufReader::new(stream.take(MAX_REQUEST)).read_line(&mut line).map_err(WindowError::Helper)?;
    Ok((peer.as_raw(), Request::parse(&line).ok_or(WindowError::Request)?))
}

fn act(request: Request, progress: &dyn Progress) -> Result<State, WindowError> {
    let set = format!("{} {}", rules::TABLE, rules::WINDOW);
    // One transaction. To add what is there already would change nothing on Linux 6.1,
    // and say nothing.
    let script = match request {
        Request::Open(to, seconds) => {
            format!("flush set {set}\nadd element {set} {{ {} timeout {seconds}s }}\n", rules::mark(to))
        }
        Request::Close => format!("flush set {set}\n"),
        Request::Status => return state(progress),
    };
    let before = state(progress)?;
    if before.rules.is_none() {
        return Err(WindowError::NotLoaded);
    }
    nft(["-f", "-"]).feed(script.as_bytes(), progress)?;
    let state = state(progress)?;
    let is_so = match (request, state.open) {
        // A second or two have passed.
        (Request::Open(to, asked), Some((led, left))) => led == to && left <= asked && left + 5 >= asked,
        (Request::Open(..), None) => false,
        (_, open) => open.is_none(),
    };
    if is_so { Ok(state) } else { Err(WindowError::NotDone) }
}

fn nft<const N: usize>(arguments: [&str; N]) -> Program {
    Program::new("nft").args(arguments)
}

/// How the firewall is.
fn state(progress: &dyn Progress) -> Result<State, WindowError> {
    let list = nft(["--json", "list", "table"]).args(rules::TABLE.split(' '));
    let listed = match list.run(progress) {
        Ok(listed) => listed,
        Err(ProcessError::Failed { complaint, .. }) if complaint.contains("No such file or directory") => {
            return Ok(State { rules: None, open: None, refused: (0, 0) });
        }
        Err(error) => return Err(error.into()),
    };
    let listed = json::from_slice(&listed)?;
    read_state(&listed)
}

fn read_state(listed: &Value) -> Result<State, WindowError> {
    let entries = listed["nftables"].as_array().map_or(&[][..], Vec::as_slice);
    let counter = |name: &str| {
        let found = entries.iter().map(|entry| &entry["counter"]).find(|counter| counter["name"] == name);
        found.and_then(|counter| counter["packets"].as_u64()).unwrap_or(0)
    };
    let window = entries.iter().map(|entry| &entry["set"]).find(|set| set["name"] == rules::WINDOW);
    let elements = window.and_then(|set| set["elem"].as_array()).map_or(&[][..], Vec::as_slice);
    let open = elements.iter().find_map(|element| {
        let element = &element["elem"];
        let to = Destination::ALL.into_iter().find(|to| element["val"] == rules::mark(*to))?;
        // Without an end it would be open for ever.
        Some((to, element["expires"].as_u64().unwrap_or(u64::MAX)))
    });
    Ok(State { rules: Some(rules::digest(listed)?), open, refused: (counter("refused_out"), counter("refused_in")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_of_four_lines() {
        for request in [
            Request::Open(Destination::Source, 1),
            Request::Open(Destination::Mirrors, MAX_SECONDS),
            Request::Close,
            Request::Status,
        ] {
            assert_eq!(Request::parse(&request.to_line()), Some(request));
            assert!(request.to_line().len() as u64 <= MAX_REQUEST);
        }
        for line in [
            "",
            "\n",
            "close",
            "close\n\n",
            " close\n",
            "CLOSE\n",
            "open source\n",
            "open source 0\n",
            "open source 3601\n",
            "open source 01\n",
            "open source +1\n",
            "open source -1\n",
            "open source 1s\n",
            "open source 1 \n",
            "open  source 1\n",
            "open internet 1\n",
            "open 192.0.2.1 1\n",
            "open source 1; flush ruleset\n",
            "open source 99999999999999999999\n",
        ] {
            assert_eq!(Request::parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn the_state_is_what_nft_lists() {
        let set = |elements: Value| {
            json!({ "nftables": [
            { "counter": { "name": "refused_out", "packets": 7 } },
            { "counter": { "name": "refused_in", "packets": 9 } },
            { "set": { "name": "window", "elem": elements } },
        ] })
        };
        let closed = read_state(&set(json!([]))).unwrap();
        assert_eq!((closed.open, closed.refused), (None, (7, 9)));
        let open = read_state(&set(json!([{ "elem": { "val": 2, "timeout": 60, "expires": 59 } }]))).unwrap();
        assert_eq!((open.open, open.rules), (Some((Destination::Mirrors, 59)), closed.rules));
        let forever = read_state(&set(json!([{ "elem": { "val": 1 } }]))).unwrap();
        assert_eq!(forever.open, Some((Destination::Source, u64::MAX)));
    }
}
