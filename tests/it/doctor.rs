//! `release doctor`: what it finds, and that it says what to do.

use std::fs;

use crate::support::Lab;
use crate::support::Said;
use crate::support::project;

/// The grade of a line, by what it is about.
fn grade(said: &Said, what: &str) -> String {
    let findings: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    let findings = findings["findings"].as_array().unwrap();
    let found: Vec<&serde_json::Value> = findings.iter().filter(|finding| finding["what"] == what).collect();
    assert!(!found.is_empty(), "nothing about {what}: {findings:?}");
    for finding in &found {
        assert_eq!(finding["grade"] == "good", finding["fix"].is_null(), "{finding}");
    }
    found[0]["grade"].as_str().unwrap().to_owned()
}

fn examine(lab: &Lab) -> Said {
    let said = lab.runs(&["doctor", "--json"]);
    let is_bad = said.out.contains("\"grade\":\"bad\"");
    assert_eq!(said.code, Some(i32::from(is_bad)), "{said:?}");
    said
}

#[test]
fn it_says_what_is_wrong_and_what_to_do() {
    let mut lab = Lab::released();
    let before = fs::read(lab.path("home/journal.jsonl")).unwrap();
    // Without a network of others there is nobody to listen for.
    lab.start_through(&["unshare", "--net"]);
    let said = examine(&lab);
    for what in
        ["image", "user", "modules", "swap", "sockets", "programs", "firewall", "tokens", "clock", "disk", "expiry"]
    {
        grade(&said, what);
    }
    assert_eq!(grade(&said, "sockets"), "good");
    assert_eq!((grade(&said, "clock"), grade(&said, "programs")), ("good".into(), "good".into()));
    assert_eq!(grade(&said, "firewall"), "care", "terminal.toml has none");
    let said = lab.runs(&["doctor"]).says("terminal.toml has no [window]").says("Keep the terminal off the network");
    assert!(said.out.lines().all(|line| line.len() <= 80), "{}", said.out);

    // Somebody listens, to others and to this machine alone.
    let listen = "import os, socket, sys\ns = socket.create_server((sys.argv[1], 4711))\nos.set_inheritable(s.fileno(), True)\n\
                  os.execvp(sys.argv[2], sys.argv[2:])";
    let up = "ip link set lo up; exec \"$@\"";
    for (address, expected) in [("0.0.0.0", "bad"), ("127.0.0.1", "good")] {
        lab.start_through(&["unshare", "--net", "sh", "-c", up, "sh", "/usr/bin/python3", "-c", listen, address]);
        let said = examine(&lab);
        assert_eq!(grade(&said, "sockets"), expected, "{said:?}");
        assert_eq!(said.has("0.0.0.0:4711/tcp"), expected == "bad");
    }

    // A firewall that is asked for and not there.
    lab.start_through(&["unshare", "--net"]);
    let text = String::from_utf8(lab.read("home/terminal.toml")).unwrap();
    lab.write("home/terminal.toml", format!("{text}\n[window]\nuser = \"0\"\n"));
    assert_eq!(grade(&examine(&lab), "firewall"), "bad");
    lab.write("home/terminal.toml", &text);

    // Later, and earlier.
    lab.travel("+46d");
    let said = examine(&lab).says("release refresh").says("the next release asks for today's date");
    assert_eq!((grade(&said, "clock"), grade(&said, "expiry")), ("care".into(), "bad".into()));
    lab.travel("-2d");
    assert_eq!(grade(&examine(&lab), "clock"), "bad");
    assert_eq!(fs::read(lab.path("home/journal.jsonl")).unwrap(), before, "it changed something");
    // What it names is there.
    let manual = fs::read_to_string(project("RELEASING.md")).unwrap();
    for title in ["## Keep the terminal off the network", "## Make space"] {
        assert!(manual.contains(title), "{title}");
    }
}
