//! The network window, on a network of its own: what passes when, what ends with it, who
//! can open it, and what a release writes down about it.

use std::fs;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use std::time::Instant;

use crate::remote::fetching;
use crate::support::Lab;
use crate::support::Said;
use crate::support::mirror::MACHINE;
use crate::support::network::MACHINES;
use crate::support::network::Network;
use crate::support::program;
use crate::support::project;
use crate::support::run;
use crate::support::server::GIT_HOST;
use crate::support::server::Sshd;

const FAILED: i32 = 1;

/// Who runs the program on the terminal: nobody that this machine knows.
const USER: u32 = 4242;
/// Any host key.
const HOST_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";

/// What `terminal.toml` says of the network, with ports on which echoes answer.
fn entries(user: u32) -> String {
    format!(
        "[[source]]\nhost = \"{GIT_HOST}\"\naddress = [\"10.99.0.10\", \"fd99::10\"]\nhost-key = \"{HOST_KEY}\"\n\
         key = \"file:keys/git\"\n\
         [window]\nuser = \"{user}\"\nprobe = [\"10.99.0.30:443\", \"[fd99::30]:443\"]\n\
         [mirror.eu1]\nurl = \"http://eu1.example:8\"\naddress = [\"10.99.0.20\", \"fd99::20\"]\n\
         host-key = \"{HOST_KEY}\"\npool-key = \"file:keys/a\"\npointer-key = \"file:keys/b\"\n"
    )
}

/// A terminal whose user is not root, with its rules loaded and its helper running.
struct Terminal {
    lab: Lab,
    network: Network,
}

impl Terminal {
    fn new() -> Self {
        let lab = fetching(Lab::new(), &format!("ssh://git@{GIT_HOST}:22/kestrel.git"), &entries(USER));
        let mut network = Network::new();
        for (machine, _) in MACHINES {
            network.serve(machine, &[8, 22, 80, 443]);
        }
        network.start_helper(USER);
        let owner = format!("{USER}:{USER}");
        run(program("chown").args(["-R", &owner]).arg(lab.path(""))).exits(0);
        Self { lab, network }
    }

    /// Loads the rules, as root does it.
    #[track_caller]
    fn load(&self) {
        let rules = self.release(USER, &["window", "rules"]).exits(0).out;
        fs::write(self.network.path("/run/terminal.nft"), rules).unwrap();
        self.network.on("terminal", "nft -f /run/terminal.nft").exits(0);
    }

    #[track_caller]
    fn release(&self, user: u32, arguments: &[&str]) -> Said {
        run(&mut self.command(user, arguments))
    }

    /// The program under test.
    fn command(&self, user: u32, arguments: &[&str]) -> std::process::Command {
        let mut command = self.network.program("terminal", user, self.network.release().to_str().unwrap());
        command.args(arguments).env("RELEASE_HOME", self.lab.path("home")).env("TMPDIR", self.lab.path(""));
        command
    }

    #[track_caller]
    fn open(&self, to: &str, time: &str) -> Said {
        self.release(USER, &["window", "open", "--to", to, "--for", time]).exits(0)
    }

    /// Demands that of all ports of all machines, over both families, the user reaches
    /// these alone.
    #[track_caller]
    fn reaches_only(&self, user: u32, wanted: &[&str]) {
        let others = MACHINES.iter().filter(|(name, _)| *name != "terminal");
        let addresses = others.flat_map(|(_, number)| [format!("10.99.0.{number}"), format!("fd99::{number}")]);
        let targets: Vec<String> = addresses
            .flat_map(|at| {
                [format!("tcp,{at},22"), format!("tcp,{at},80"), format!("tcp,{at},443"), format!("udp,{at},53")]
            })
            .collect();
        let mut reached = self.network.reach("terminal", user, &targets);
        // The kernel itself says no, at once.
        for (target, how) in &reached {
            assert!(matches!(how.as_str(), "open" | "EHOSTUNREACH" | "EACCES" | "EPERM"), "{target} {how}");
        }
        reached.retain(|(_, how)| how == "open");
        let reached: Vec<&str> = reached.iter().map(|(target, _)| target.as_str()).collect();
        assert_eq!(reached, wanted);
    }

    /// Demands that nobody reaches the terminal.
    #[track_caller]
    fn lets_nobody_in(&self) {
        let targets: Vec<String> =
            ["tcp,10.99.0.2,22", "tcp,fd99::2,22", "udp,10.99.0.2,53", "udp,fd99::2,53"].map(str::to_owned).into();
        for (machine, _) in MACHINES.iter().filter(|(name, _)| *name != "terminal") {
            for (target, how) in self.network.reach(machine, 0, &targets) {
                assert!(matches!(how.as_str(), "silent" | "EHOSTUNREACH"), "{machine} {target} {how}");
            }
        }
    }

    fn journal(&self) -> String {
        String::from_utf8(self.lab.read("home/journal.jsonl")).unwrap()
    }
}

/// What a window to source leads to.
const SOURCE: [&str; 2] = ["tcp,10.99.0.10,22", "tcp,fd99::10,22"];
/// What a window to mirrors leads to; their web server is on port 8, which is silent.
const MIRRORS: [&str; 2] = ["tcp,10.99.0.20,22", "tcp,fd99::20,22"];

#[test]
fn a_window_leads_where_it_should_and_nowhere_else() {
    let terminal = Terminal::new();
    // Without rules all of this is open: what follows is their work.
    let all: Vec<String> =
        ["tcp,10.99.0.30,443", "tcp,fd99::30,443", "tcp,10.99.0.20,22", "udp,fd99::30,53"].map(str::to_owned).into();
    assert!(terminal.network.reach("terminal", USER, &all).iter().all(|(_, how)| how == "open"));
    let inward = ["tcp,10.99.0.2,22".to_owned(), "tcp,fd99::2,22".to_owned()];
    assert!(terminal.network.reach("internet", 0, &inward).iter().all(|(_, how)| how == "open"));
    let refused = terminal.release(USER, &["window", "open", "--to", "source"]).exits(FAILED);
    refused.says("the kernel has no firewall of ours").says("systemctl restart release-firewall");

    terminal.load();
    terminal.reaches_only(USER, &[]);
    terminal.reaches_only(0, &[]);
    terminal.lets_nobody_in();
    terminal.release(USER, &["window", "status"]).exits(0).says("network  closed");

    terminal.open("source", "2m").says("Opened  the network to source").says("open to source, for");
    terminal.reaches_only(USER, &SOURCE);
    terminal.reaches_only(0, &[]);
    terminal.reaches_only(USER + 1, &[]);
    terminal.lets_nobody_in();

    // One way at a time.
    terminal.open("mirrors", "2m").says("open to mirrors, for 1");
    terminal.reaches_only(USER, &MIRRORS);
    terminal.lets_nobody_in();
    // Where nothing is pinned, no window leads, whatever root adds to it.
    terminal.network.on("terminal", "nft add element inet release_terminal window '{ 3 timeout 60s }'").exits(0);
    terminal.reaches_only(USER, &MIRRORS);

    terminal.release(USER, &["window", "close"]).exits(0).says("Closed  the network").says("network  closed");
    terminal.reaches_only(USER, &[]);

    // What was tried, and by which rules it was refused.
    let status = terminal.release(USER, &["window", "status", "--json"]).exits(0).out;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let rules = status["rules"].as_str().unwrap();
    assert!(status["refused"]["out"].as_u64().unwrap() > 30 && status["refused"]["in"].as_u64().unwrap() > 8);
    let journal = terminal.journal();
    let lines: Vec<serde_json::Value> = journal.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of =
        |kind: &str| lines.iter().map(|line| &line["event"]).filter(|event| event["kind"] == kind).collect::<Vec<_>>();
    let (opened, closed) = (of("window-opened"), of("window-closed"));
    assert_eq!((opened.len(), closed.len()), (2, 1), "{journal}");
    assert_eq!((&opened[0]["to"], &opened[0]["seconds"]), (&"source".into(), &120.into()));
    for event in opened.iter().chain(&closed) {
        assert_eq!(event["rules"], rules);
        for host in ["10.99.0.30:443", "[fd99::30]:443", "192.0.2.1:443", "[2001:db8::1]:443"] {
            assert!(event["refused"].as_array().unwrap().contains(&host.into()), "{event}");
        }
    }
    assert!(opened[0]["refused"].as_array().unwrap().contains(&"10.99.0.20:22".into()));
    assert!(opened[0]["refused"].as_array().unwrap().contains(&"10.99.0.10:9".into()));
    assert!(!opened[0]["refused"].as_array().unwrap().contains(&"10.99.0.10:22".into()));
    assert!(closed[0]["refused"].as_array().unwrap().contains(&"10.99.0.10:22".into()));
}

#[test]
fn what_is_connected_ends_with_the_window() {
    let terminal = Terminal::new();
    terminal.load();
    // It ends by itself, over both families.
    for host in ["10.99.0.10", "fd99::10"] {
        let begun = Instant::now();
        terminal.open("source", "5s");
        let opened = begun.elapsed().as_secs_f64();
        let lasted = terminal.network.talk(USER, host, 22).lasted();
        assert!(lasted > 0.5 && lasted <= 5.5, "{host}: {lasted}");
        assert!(opened + lasted < begun.elapsed().as_secs_f64());
        terminal.reaches_only(USER, &[]);
    }
    // Opened again, it lasts longer, and to another time it is shorter.
    terminal.open("source", "6s");
    let mut talk = terminal.network.talk(USER, "10.99.0.10", 22);
    terminal.open("source", "20s");
    std::thread::sleep(Duration::from_secs(8));
    assert!(talk.goes_on(), "it was not extended");
    terminal.open("source", "2s");
    assert!(talk.lasted() < 18.0, "it was not shortened");

    // Closing ends it at once, and so does loading the rules again, or opening it to elsewhere.
    let close = || drop(terminal.release(USER, &["window", "close"]).exits(0));
    let reload = || terminal.load();
    let turn = || drop(terminal.open("mirrors", "60s"));
    let ends: [(&str, &dyn Fn()); 3] = [("close", &close), ("reload", &reload), ("turn", &turn)];
    for (name, end) in ends {
        terminal.open("source", "60s");
        let mut talk = terminal.network.talk(USER, "fd99::10", 22);
        std::thread::sleep(Duration::from_secs(1));
        assert!(talk.goes_on());
        let begun = Instant::now();
        end();
        assert!(talk.lasted() < 50.0 && begun.elapsed() < Duration::from_secs(30), "{name}");
    }
}

#[test]
fn a_killed_command_leaves_a_window_that_closes_by_itself() {
    let terminal = Terminal::new();
    terminal.load();
    // The mirror's web server says nothing for 20 seconds. A lease of 40 is renewed every
    // 10.
    let mut publish = terminal.command(USER, &["publish"]).env("RELEASE_PATIENCE", "40").spawn().unwrap();
    let left = || {
        let status = terminal.release(USER, &["window", "status", "--json"]).exits(0).out;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status["open"]["seconds"].as_u64()
    };
    let begun = Instant::now();
    let mut wait = || {
        assert!(publish.try_wait().unwrap().is_none(), "it did not wait for the mirror");
        assert!(begun.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(200));
    };
    while left().is_none() {
        wait();
    }
    let talk = terminal.network.talk(USER, "10.99.0.20", 22);
    let mut last = left();
    loop {
        wait();
        let now = left();
        assert!(now.is_some(), "it was closed");
        if now > last {
            break;
        }
        last = now;
    }
    // What was started has become the program.
    publish.kill().unwrap();
    let killed = Instant::now();
    publish.wait().unwrap();
    assert!(left().is_some(), "nobody has closed it");
    let lasted = talk.lasted();
    assert!(killed.elapsed() < Duration::from_secs(50), "{lasted}, {:?}", killed.elapsed());
    assert_eq!(left(), None);
    terminal.reaches_only(USER, &[]);
    // What was opened stands in the journal, and goes on from there.
    let journal = terminal.journal();
    assert!(journal.contains("window-opened") && !journal.contains("window-closed"), "{journal}");
    terminal.open("mirrors", "5s");
}

#[test]
fn the_helper_takes_whoever_connects_for_hostile() {
    let terminal = Terminal::new();
    let socket = terminal.network.path("/run/release/window");
    let says = |request: &[u8]| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        // It may have heard enough before all is written.
        let _ = stream.write_all(request);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut line = String::new();
        let _ = BufReader::new(stream.take(1 << 20)).read_line(&mut line);
        line
    };
    let said = says(b"open source 60\n");
    assert!(said.contains("the kernel has no firewall of ours"), "{said}");
    terminal.load();
    let closed = says(b"status\n");
    assert!(closed.contains("\"open\":null") && closed.contains("\"version\":1"), "{closed}");
    let long = vec![b'a'; 1 << 20];
    let bad: [&[u8]; 12] = [
        b"",
        b"\n",
        b"open\n",
        b"open source 3601\n",
        b"open source 60",
        b"open source 60 \n",
        b"open internet 60\n",
        b"open 10.99.0.30 60\n",
        b"open source 60; nft flush ruleset\n",
        b"open source 60\0\n",
        b"\xff\xfe\n",
        &long,
    ];
    for request in bad {
        let said = says(request);
        // Of what is too long the answer may be lost, with what was not read.
        assert!(said.contains("\"error\":") || request.len() > 1000, "{said}");
        assert!(says(b"status\n").contains("\"open\":null"));
    }
    // A second line is nobody's request.
    assert!(says(b"close\nopen source 60\n").contains("\"open\":null"));
    assert!(says(b"status\n").contains("\"open\":null"));
    // Who says nothing holds up nobody.
    let silent = UnixStream::connect(&socket).unwrap();
    assert!(says(b"open source 60\n").contains("\"open\":[\"source\","));
    drop(silent);
    assert!(says(b"close\n").contains("\"open\":null"));

    // Nobody else may ask, even where the socket lets everybody in.
    let other = terminal.release(USER + 1, &["window", "status"]).exits(FAILED);
    other.says("cannot talk over /run/release/window").says("Permission denied");
    terminal.network.on("terminal", "chmod 666 /run/release/window").exits(0);
    let other = terminal.release(USER + 1, &["window", "status"]).exits(FAILED);
    other.says(&format!("user {} may not use the window", USER + 1));
    terminal.release(USER, &["window", "status"]).exits(0);

    // And nobody else answers.
    terminal.network.on("terminal", "rm /run/release/window; chmod 777 /run/release").exits(0);
    let listen = "import socket\ns = socket.socket(socket.AF_UNIX)\ns.bind('/run/release/window')\ns.listen()\n\
                  print('ready', flush=True)\ns.accept()[0].recv(100)\n";
    let mut terminal = terminal;
    terminal.network.start("terminal", USER, &["/usr/bin/python3", "-c", listen]);
    let said = terminal.release(USER, &["window", "status"]).exits(FAILED);
    said.says("/run/release/window is not served by root");
}

#[test]
fn a_window_is_not_opened_where_the_firewall_is_not_ours() {
    let terminal = Terminal::new();
    let refused = |why: &str| {
        let said = terminal.release(USER, &["window", "open", "--to", "source"]).exits(FAILED).says(why);
        terminal.release(USER, &["window", "status"]).exits(0).says("network  closed");
        assert!(!terminal.journal().contains("window-opened"));
        said
    };
    terminal.load();
    // Somebody lets himself out.
    terminal.network.on("terminal", "nft insert rule inet release_terminal output accept").exits(0);
    refused("is not the one of this home").says("find out who changed");
    terminal.load();
    terminal.network.on("terminal", "nft add element inet release_terminal source '{ 10.99.0.30 . 443 }'").exits(0);
    refused("is not the one of this home");
    terminal.load();
    // The home names what root has not loaded.
    let text = String::from_utf8(terminal.lab.read("home/terminal.toml")).unwrap();
    terminal.lab.write("home/terminal.toml", text.replace("\"fd99::20\"", "\"fd99::30\""));
    refused("is not the one of this home").says("release window rules");
    // Something is reached that must not be.
    terminal.lab.write("home/terminal.toml", text.replace("[fd99::30]:443", "127.0.0.1:443"));
    refused("127.0.0.1:443 can be reached from this terminal").says("the window was closed");
    terminal.lab.write("home/terminal.toml", &text);
    // Somebody else refuses, for as long as he likes.
    let other = "nft 'add table inet other; add chain inet other output { type filter hook output priority -10; }; \
                 add rule inet other output oifname eth0 reject with icmpx admin-prohibited'";
    terminal.network.on("terminal", other).exits(0);
    refused("but the firewall of this terminal refused").says("nft list ruleset");
    terminal.network.on("terminal", "nft delete table inet other").exits(0);
    terminal.open("source", "5s");

    // Names are never asked for.
    let without = text.replace("address = [\"10.99.0.10\", \"fd99::10\"]\n", "");
    terminal.lab.write("home/terminal.toml", without);
    terminal.release(USER, &["window", "rules"]).exits(FAILED).says(&format!("no `address` for the host {GIT_HOST}"));
    terminal.lab.write("home/terminal.toml", text.replace("[window]", "[windows]"));
    terminal.release(USER, &["window", "rules"]).exits(FAILED).says("did you mean `window`?");
}

/// Serves the laboratory's source on `source`, and a mirror on `mirror`.
fn serve_both(lab: &Lab, network: &mut Network) {
    lab.write("served.sh", "exec git upload-pack \"$(dirname \"$0\")/source.git\"\n");
    lab.write(
        "sshd_config",
        format!(
            "Port 22\nHostKey {0}/host\nPidFile none\nAuthorizedKeysFile {0}/deploy.pub\nStrictModes no\nUsePAM no\n\
             PermitRootLogin prohibit-password\nAcceptEnv GIT_PROTOCOL\nForceCommand /bin/sh {0}/served.sh\n",
            lab.path("").display()
        ),
    );
    let config = lab.path("sshd_config");
    let script = "/usr/sbin/sshd -D -f \"$0\" -E \"$0.log\" & until : <>/dev/tcp/127.0.0.1/22; do sleep 0.1; done \
                  2>/dev/null; echo ready; wait";
    network.start("source", 0, &["bash", "-c", script, config.to_str().unwrap()]);
    let layout = lab.runs(&["mirror", "layout", "eu1"]).exits(0).out;
    lab.write("eu1.layout", layout);
    fs::create_dir_all(lab.path("eu1")).unwrap();
    let script = "export LAB=\"$0\" SCRIPT=\"$1\" NAME=eu1 ADDRESS=10.99.0.20 HTTP=80; \
                  bash -c \"$2\" 2>\"$0/eu1/machine.log\" & \
                  until : <>/dev/tcp/10.99.0.20/80 && : <>/dev/tcp/10.99.0.20/2222; do sleep 0.1; done 2>/dev/null; \
                  echo ready; wait";
    let (folder, set_up) = (lab.path(""), project("scripts/mirror"));
    let arguments = [script, folder.to_str().unwrap(), set_up.to_str().unwrap(), MACHINE];
    network.start("mirror", 0, &[&["bash", "-c"], &arguments[..]].concat());
}

#[test]
fn a_release_opens_the_window_and_closes_it_and_says_so() {
    let lab = Lab::new();
    lab.tag("1.0");
    let host_key = Sshd::key(&lab, "host");
    Sshd::key(&lab, "deploy");
    // Builds need control groups of their own, which root makes for itself here.
    let lines = format!(
        "[[source]]\nhost = \"{GIT_HOST}\"\naddress = [\"10.99.0.10\"]\nhost-key = \"{host_key}\"\n\
         key = \"file:../deploy\"\n[window]\nuser = \"0\"\n"
    );
    let mut lab = fetching(lab, &format!("ssh://{}@{GIT_HOST}/source.git", Sshd::user()), &lines);
    run(program("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(lab.path("eu1.host")))
        .exits(0);
    let host_key = String::from_utf8(lab.read("eu1.host.pub")).unwrap();
    let add = ["mirror", "add", "eu1", "--url", "http://eu1.invalid", "--address", "10.99.0.20", "--software-keys"];
    lab.runs(&[&add[..], &["--host-key", host_key.trim()]].concat()).exits(0);
    let mut network = Network::new();
    serve_both(&lab, &mut network);
    network.serve("internet", &[443]);
    network.start_helper(0);
    let through = network.through("terminal", 0);
    let through: Vec<String> =
        through.iter().map(|word| word.replace("--wd=/", &format!("--wd={}", lab.path("").display()))).collect();
    lab.start_through(&through.iter().map(String::as_str).collect::<Vec<_>>());

    // There is no firewall: a release refuses to use the network at all.
    lab.cut("1.0").exits(FAILED).says("the kernel has no firewall of ours");
    let rules = lab.runs(&["window", "rules"]).exits(0).out;
    fs::write(network.path("/run/terminal.nft"), rules).unwrap();
    network.on("terminal", "nft -f /run/terminal.nft").exits(0);

    lab.runs(&["cut", "kestrel", "1.0", "--dry-run"]).exits(0).says("Opened  the network to source");
    let said = lab.cut("1.0").exits(0).says("Opened  the network to source").says("Opened  the network to mirrors");
    said.says("Published  publication 2 to mirror eu1").says("Closed  the network");
    network.on("internet", "curl -sf http://10.99.0.20/releases/kestrel/1.0/SHA256SUMS").exits(0).says("kestrel-1.0");
    let reached = network.reach("terminal", 0, &["tcp,10.99.0.20,80".to_owned(), "tcp,10.99.0.10,22".to_owned()]);
    assert!(reached.iter().all(|(_, how)| how == "EHOSTUNREACH"), "{reached:?}");

    // Each fetch and each push lies between an opening and a closing.
    let journal = String::from_utf8(lab.read("home/journal.jsonl")).unwrap();
    let kinds: Vec<String> = journal
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["event"].clone())
        .map(|event| {
            format!(
                "{}{}",
                event["kind"].as_str().unwrap(),
                event["to"].as_str().map_or(String::new(), |to| format!(" {to}"))
            )
        })
        .collect();
    let (to_mirrors, to_source, closed) = ("window-opened mirrors", "window-opened source", "window-closed");
    let dry_run = [to_mirrors, closed, to_source, closed];
    let until_pinned = [to_mirrors, closed, to_source, closed, "pin"];
    let begun = kinds.iter().skip_while(|kind| *kind != "init").skip(1).take(9);
    let begun: Vec<&str> = begun.map(String::as_str).collect();
    assert_eq!(begun, [&dry_run[..], &until_pinned].concat(), "{kinds:?}");
    let end: Vec<&str> = kinds.iter().rev().take(5).rev().map(String::as_str).collect();
    assert_eq!(end, ["seal", to_mirrors, closed, "publish", "publish"], "{kinds:?}");

    // A refresh and a push by hand open it as well; a fetch that fails closes it.
    lab.with_keys(&["refresh"]).exits(0).says("Opened  the network to mirrors");
    lab.runs(&["publish"]).exits(0).says("Opened  the network to mirrors").says("Closed  the network");
    lab.with_keys(&["cut", "kestrel", "2.0", "--yes=2.0"]).exits(3).says("has no tag").says("Closed  the network");
    lab.runs(&["window", "status"]).exits(0).says("network  closed");
    // What only looks is told how.
    lab.runs(&["status"]).exits(0).says("release window open --to mirrors");
    lab.runs(&["window", "open", "--to", "mirrors", "--for", "1m"]).exits(0);
    lab.runs(&["status"]).exits(0).says("up to date");
}
