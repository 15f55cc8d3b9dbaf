//! `release mirror`: the mirrors of this terminal.

use std::net::IpAddr;
use std::path::Path;

use jiff::Timestamp;
use serde_json::json;

use super::cut::report_mirrors;
use super::error;
use super::error::CommandError;
use super::ui::Ui;
use super::ui::counted;
use super::ui::size;
use crate::enrol;
use crate::enrol::DeployRequest;
use crate::home;
use crate::home::Base;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::atomic;
use crate::key::piv::Tokens;
use crate::manifest::Class;
use crate::manifest::MirrorName;
use crate::manifest::Slot;
use crate::policy::DeployKey;
use crate::policy::Destination;
use crate::policy::MirrorEntry;
use crate::policy::Place;
use crate::policy::Policy;
use crate::policy::SftpEntry;
use crate::policy::Terminal;
use crate::publish;
use crate::publish::Account;
use crate::publish::Compared;
use crate::publish::DeployKeys;
use crate::publish::Finding;
use crate::publish::PublishError;
use crate::repository::Pending;
use crate::repository::State;
use crate::repository::layout;
use crate::window::Window;

/// The mirrors of this terminal
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List the mirrors that terminal.toml names
    List,
    /// Add a mirror to terminal.toml
    ///
    /// Makes a deploy key for each of its two accounts in a token, on the token itself,
    /// and checks where it comes from. A push needs the token and its PIN, and no
    /// touch.
    ///
    /// If it was interrupted, run the same command again.
    #[command(after_long_help = "\
Examples:
  On the mirror, its host key is shown by:
      cat /etc/ssh/ssh_host_ed25519_key.pub

  On the terminal:
      release mirror add eu1 --url http://eu1.example.org \\
          --address 192.0.2.10 --port 2222 --host-key 'ssh-ed25519 AAAA...' \\
          --token 15237804")]
    Add(Add),
    /// Try whether a mirror can be pushed to
    ///
    /// Logs in to both accounts, looks for the folders that a push needs, and
    /// writes where no reader sees it.
    Check {
        /// The mirror, as terminal.toml names it
        name: MirrorName,
    },
    /// Compare all that a mirror has with what was published
    ///
    /// Reads every file as readers get it, lists what is on the mirror's disk, and
    /// compares what the mirror says about itself (accounts, keys, settings, units)
    /// with what was recorded by --accept. Prints a line for each thing that differs;
    /// exit 3 if there is any. A mirror whose administrator is not honest can lie about
    /// its disk and itself, and give others other bytes: let somebody verify it from
    /// elsewhere, too.
    Audit {
        /// The mirror, as terminal.toml names it
        name: MirrorName,
        /// Read only so many files, chosen at random; list all of them
        #[arg(long, value_name = "N")]
        sample: Option<usize>,
        /// Record what the mirror says about itself as what it should say
        #[arg(long, conflicts_with = "sample")]
        accept: bool,
    },
    /// Bring a mirror up to date, and look at every file that it should have
    ///
    /// `release publish` looks only at what is new. This puts back what a mirror has
    /// lost, and replaces what does not belong there. Needs no key but the deploy
    /// keys, and no quorum.
    CatchUp {
        /// The mirror, as terminal.toml names it
        name: MirrorName,
    },
    /// Print what scripts/mirror needs to set a mirror up
    Layout {
        /// The mirror, as terminal.toml names it
        name: MirrorName,
    },
}

/// The arguments of `release mirror add`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("keys").required(true).args(["token", "software_keys"]))]
pub struct Add {
    /// A name for the mirror
    name: MirrorName,
    /// Where its readers find it
    #[arg(long)]
    url: String,
    /// Its address; nothing is asked of DNS (can be repeated)
    #[arg(long, required = true)]
    address: Vec<IpAddr>,
    /// The port of its SSH server for deploy keys
    #[arg(long, default_value_t = 2222)]
    port: u16,
    /// The host key of its SSH server
    #[arg(long, value_name = "KEY")]
    host_key: String,
    /// The serial number of the token that gets its deploy keys
    #[arg(long, value_name = "SERIAL")]
    token: Option<u32>,
    /// The slot for the key of the account that adds files [default: a free one, 9a first]
    #[arg(long, value_name = "SLOT", requires = "token")]
    pool_slot: Option<Slot>,
    /// The slot for the key of the account that replaces pointers [default: a free one]
    #[arg(long, value_name = "SLOT", requires = "token")]
    pointer_slot: Option<Slot>,
    /// Keep its deploy keys in files without a passphrase: whoever copies them can push
    #[arg(long)]
    software_keys: bool,
}

/// Runs `release mirror`.
pub fn run(command: &Command, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    // What knows nothing of releases works in a courier's folder as well.
    match command {
        Command::Add(args) => {
            let base = Base::open(home)?;
            // A courier has none.
            let policy = match Home::open(home) {
                Ok(home) => Some(home.policy),
                Err(HomeError::LostConfig { .. } | HomeError::NotAHome { .. }) => None,
                Err(error) => return Err(error.into()),
            };
            add(base, policy.as_ref(), args, ui)?;
        }
        Command::List => list(&Base::open(home)?, ui),
        Command::Audit { name, accept: true, .. } => accept(&Home::open(home)?, name, ui)?,
        Command::Audit { name, sample, .. } => audit(&Home::open(home)?, name, *sample, ui)?,
        Command::CatchUp { name } => catch_up(&Home::open(home)?, name, ui)?,
        Command::Check { name } => check(&Base::open(home)?, name, ui)?,
        Command::Layout { name } => print_layout(&Base::open(home)?, name, ui)?,
    }
    Ok(0)
}

fn add(mut home: Base, policy: Option<&Policy>, args: &Add, ui: &Ui) -> Result<(), CommandError> {
    let _lock = home.lock("release mirror add")?;
    let name = &args.name;
    if home.terminal.mirrors.contains_key(name) {
        return Err(CommandError::usage(format!("terminal.toml has a mirror `{name}`; nothing was changed"))
            .hint("to add it anew, take its entry out first: up to the next line that begins with `[`"));
    }
    let path = home.folder().join("terminal.toml");
    let before = home::read_text(&path)?.unwrap_or_default();
    let parse = |text: &str| {
        Terminal::parse(&path, text.to_owned()).map_err(|error| {
            CommandError::usage(error.to_string()).hint("this is what terminal.toml would say; nothing was changed")
        })
    };
    let names = DeployKey::names(name).map_err(|error| CommandError::usage(error.to_string()))?;
    let files = names.each_ref().map(|name| Place::File(format!("keys/{name}").into()));
    let mut text = with_entry(&before, args, &files);
    // All else is checked before anybody gives a PIN.
    let mut terminal = parse(&text)?;
    if let Some(serial) = args.token {
        let [pool, pointer] = names;
        let keys = [(pool, args.pool_slot), (pointer, args.pointer_slot)];
        let request = DeployRequest { base: &home, policy, serial, keys };
        let slots = enrol::make_deploy_keys(&request, ui, Timestamp::now())?;
        text = with_entry(&before, args, &slots.map(|slot| Place::Slot { serial, slot }));
        terminal = parse(&text)?;
    }
    home.terminal = terminal;
    let entry = server(&home, name)?;
    publish::make_deploy_key_files(&home, entry, ui)?;
    publish::public_deploy_keys(&home, entry, ui)?;
    atomic::write(&path, text.as_bytes())?;
    let keys = match args.token {
        Some(serial) => format!("in token {serial}"),
        None => format!("files in {}", home.folder().join("keys").display()),
    };
    ui.say(&format!("Added mirror {name} to terminal.toml. Its deploy keys are {keys}."));
    if ui.json {
        ui.data(&json!({ "version": 1, "mirror": name }).to_string());
    }
    Ok(())
}

/// What `terminal.toml` says with one mirror more.
fn with_entry(before: &str, args: &Add, [pool, pointer]: &[Place; 2]) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    // A comment at the end is not part of a key.
    let host_key = args.host_key.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    let mut table = toml::Table::new();
    for (key, value) in [
        ("url", args.url.clone().into()),
        ("address", args.address.iter().map(IpAddr::to_string).collect::<Vec<_>>().into()),
        ("port", i64::from(args.port).into()),
        ("host-key", host_key.into()),
        ("pool-key", pool.to_string().into()),
        ("pointer-key", pointer.to_string().into()),
    ] {
        let value: toml::Value = value;
        table.insert(key.to_owned(), value);
    }
    let name = args.name.as_str();
    // A dot would begin another table.
    let name = if name.contains('.') { quoted(name) } else { name.to_owned() };
    format!("{}\n\n[mirror.{name}]\n{}\n", before.trim_end(), table.to_string().trim_end())
}

fn list(home: &Base, ui: &Ui) {
    let mut all = Vec::new();
    for (name, entry) in &home.terminal.mirrors {
        let (at, addresses) = match entry {
            MirrorEntry::Folder(path) => (home.resolve(path).display().to_string(), None),
            MirrorEntry::Sftp(entry) => (entry.url.clone(), Some(addresses(entry))),
            MirrorEntry::Courier => ("reached by a courier".to_owned(), None),
        };
        if !ui.json {
            let over = addresses.as_ref().map_or_else(String::new, |all| format!(", over SSH to {}", all.join(", ")));
            ui.data(&format!("  {name}  {at}{over}"));
        }
        all.push(json!({ "mirror": name, "at": at, "addresses": addresses }));
    }
    if ui.json {
        ui.data(&json!({ "version": 1, "mirrors": all }).to_string());
    } else if all.is_empty() {
        ui.say("terminal.toml has no mirror.");
    }
}

fn addresses(entry: &SftpEntry) -> Vec<String> {
    entry.addresses.iter().map(|address| std::net::SocketAddr::new(*address, entry.port).to_string()).collect()
}

/// The server behind a mirror's name.
fn server<'h>(home: &'h Base, name: &MirrorName) -> Result<&'h SftpEntry, CommandError> {
    match home.terminal.mirrors.get(name) {
        Some(MirrorEntry::Sftp(entry)) => Ok(entry),
        Some(MirrorEntry::Folder(path)) => Err(CommandError::usage(format!(
            "mirror `{name}` is the local folder {}; there is nothing to set up",
            home.resolve(path).display()
        ))),
        Some(MirrorEntry::Courier) => Err(carried(name)
            .hint("on the courier's machine, his folder has the entry of this mirror: name it with --home")),
        None => Err(unknown(name)),
    }
}

fn carried(name: &MirrorName) -> CommandError {
    CommandError::usage(format!("mirror `{name}` is reached by a courier, not from here"))
}

/// An audit takes the home and the mirror in one place.
fn not_audited(name: &MirrorName) -> CommandError {
    carried(name).hint("nothing was compared; let somebody who reaches it run `release verify` with its URL")
}

fn catch_up(home: &Home, name: &MirrorName, ui: &Ui) -> Result<(), CommandError> {
    let _lock = home.lock("release mirror catch-up")?;
    match home.terminal.mirrors.get(name) {
        None => return Err(unknown(name)),
        Some(MirrorEntry::Courier) => {
            return Err(carried(name).hint_command(
                "have him bring it all that was published; write that using:",
                &["export", "DIR", "--all"],
            ));
        }
        Some(_) => {}
    }
    Pending::finish_interrupted(home)?;
    let state = State::load(&home.repository())?;
    let tokens = Tokens::new(ui);
    let keys = DeployKeys::of(home, &tokens);
    let window = Window::of(home, ui, &Timestamp::now);
    let outcomes = window.through(Destination::Mirrors, &mut home.journal()?, |_| {
        Ok::<_, CommandError>(publish::catch_up(home, name, state.newest_root()?, Timestamp::now(), &keys)?)
    })?;
    let again = ["mirror", "catch-up", name.as_str()];
    report_mirrors(home, &outcomes, json!({ "version": 1, "serial": state.serial() }), &again, ui)
}

fn audit(home: &Home, name: &MirrorName, sample: Option<usize>, ui: &Ui) -> Result<(), CommandError> {
    if matches!(home.terminal.mirrors.get(name), Some(MirrorEntry::Courier)) {
        return Err(not_audited(name));
    }
    let state = State::load(&home.repository())?;
    let tokens = Tokens::new(ui);
    let keys = DeployKeys::of(home, &tokens);
    let audit = publish::audit(home, name, state.newest_root()?, sample, Timestamp::now(), &keys)?
        .ok_or_else(|| unknown(name))?;
    let recorded = match audit.facts {
        Compared::All => true,
        Compared::NotRecorded => {
            ui.warn(&format!(
                "what mirror `{name}` should say about itself was not recorded; look at it, and say `release mirror \
                 audit {name} --accept`"
            ));
            false
        }
        Compared::Nothing => false,
    };
    let facts = json!({
        "version": 1, "mirror": name, "serial": audit.serial, "files": audit.files, "read": audit.read,
        "facts_compared": recorded, "findings": findings_json(&audit.findings),
    });
    if audit.findings.is_empty() {
        let all = match audit.read {
            read if read == audit.files => counted(audit.files, "file"),
            read => format!("{read} of {}", counted(audit.files, "file")),
        };
        let text = format!("  {name}  publication {}, {all} as published, and nothing else", audit.serial);
        ui.data(&if ui.json { facts.to_string() } else { text });
        return Ok(());
    }
    if !ui.json {
        print_findings(&audit.findings, ui);
    }
    let count = counted(audit.findings.len(), "finding");
    let mirror = name.to_string();
    let mut result = CommandError::new(error::REJECTED, format!("mirror `{name}` is not as it should be: {count}"))
        .facts(facts)
        .hint("find out who did it, and when: the log of its SSH server names the key of each login");
    if audit.findings.iter().any(|finding| finding.path().is_some()) {
        result = result
            .hint_command("put back what is missing, and replace pointers, using:", &["mirror", "catch-up", &mirror]);
    }
    if audit.findings.iter().any(|finding| finding.path().is_none()) {
        result = result.hint_command(
            "where its operator has changed the machine, and says why, record what it says now using:",
            &["mirror", "audit", &mirror, "--accept"],
        );
    }
    Err(result)
}

fn accept(home: &Home, name: &MirrorName, ui: &Ui) -> Result<(), CommandError> {
    let _lock = home.lock("release mirror audit")?;
    if matches!(home.terminal.mirrors.get(name), Some(MirrorEntry::Courier)) {
        return Err(not_audited(name));
    }
    server(home, name)?;
    let tokens = Tokens::new(ui);
    let keys = DeployKeys::of(home, &tokens);
    let accepted = publish::accept(home, name, Timestamp::now(), &keys).map_err(|error| match error {
        PublishError::NoFacts(_) => CommandError::from(error)
            .hint("have its operator run scripts/mirror again, and release-mirror-facts after it"),
        other => other.into(),
    })?;
    let accepted = accepted.ok_or_else(|| unknown(name))?;
    if ui.json {
        let value = json!({
            "version": 1, "mirror": name, "facts": accepted.facts, "sha256": accepted.sha256,
            "changes": findings_json(&accepted.changes),
        });
        ui.data(&value.to_string());
        return Ok(());
    }
    print_findings(&accepted.changes, ui);
    let count = counted(accepted.facts, "fact");
    ui.say(&format!(
        "Recorded {count} that mirror {name} says about itself, with the SHA-256\n\n    {}\n",
        accepted.sha256
    ));
    ui.say("On its console, `tail -n +3 /srv/mirror/meta-root/facts | sha256sum` says the same.");
    Ok(())
}

fn print_findings(findings: &[Finding], ui: &Ui) {
    for finding in findings {
        ui.data(&format!("  {:<10}  {finding}", finding.kind()));
    }
}

fn findings_json(findings: &[Finding]) -> Vec<serde_json::Value> {
    let line =
        |finding: &Finding| json!({ "kind": finding.kind(), "path": finding.path(), "finding": finding.to_string() });
    findings.iter().map(line).collect()
}

fn unknown(name: &MirrorName) -> CommandError {
    CommandError::usage(format!("terminal.toml has no mirror `{name}`"))
        .hint_command("see which there are using:", &["mirror", "list"])
}

fn check(home: &Base, name: &MirrorName, ui: &Ui) -> Result<(), CommandError> {
    let entry = server(home, name)?;
    publish::public_deploy_keys(home, entry, ui)?;
    let tokens = Tokens::new(ui);
    let keys = DeployKeys::new(home, None, &tokens);
    let mut facts = json!({ "version": 1, "mirror": name, "accounts": [] });
    let mut missing = Vec::new();
    for class in [Class::WriteOnce, Class::Pointer] {
        let checked = publish::check(&keys, entry, Account::of(class), layout::folders(class))?;
        if !ui.json {
            ui.data(&format!("  {}  logs in, {} free", checked.account, size(checked.free)));
        }
        facts["accounts"].as_array_mut().into_iter().for_each(|all| {
            all.push(json!({ "account": checked.account.to_string(), "free": checked.free }));
        });
        missing.extend(checked.missing);
    }
    if missing.is_empty() {
        if ui.json {
            ui.data(&facts.to_string());
        }
        return Ok(());
    }
    let name = name.to_string();
    Err(CommandError::failed(format!("mirror `{name}` lacks folders: {}", missing.join(", ")))
        .hint_command("have its operator run scripts/mirror with what this prints:", &["mirror", "layout", &name]))
}

fn print_layout(home: &Base, name: &MirrorName, ui: &Ui) -> Result<(), CommandError> {
    let entry = server(home, name)?;
    let keys = publish::public_deploy_keys(home, entry, ui)?;
    let (pool, meta) = (folders(Class::WriteOnce), folders(Class::Pointer));
    let (pool_urls, meta_urls) = (urls(Class::WriteOnce), urls(Class::Pointer));
    if ui.json {
        let keys: Vec<&String> = keys.iter().map(|(_, key)| key).collect();
        let value = json!({
            "version": 1, "mirror": name, "port": entry.port, "pool_folders": pool, "meta_folders": meta,
            "pool_urls": pool_urls, "meta_urls": meta_urls, "keys": keys,
        });
        ui.data(&value.to_string());
        return Ok(());
    }
    let mut lines = vec!["release-mirror-layout 1".to_owned(), format!("port {}", entry.port)];
    lines.extend(pool.iter().map(|folder| format!("folder pool {folder}")));
    lines.extend(meta.iter().map(|folder| format!("folder meta {folder}")));
    lines.extend(pool_urls.iter().map(|url| format!("url pool {url}")));
    lines.extend(meta_urls.iter().map(|url| format!("url meta {url}")));
    for (account, key) in keys {
        let account = if account == Account::Pool { "pool" } else { "meta" };
        lines.push(format!("key {account} {key}"));
    }
    ui.script(&lines.join("\n"));
    Ok(())
}

fn folders(class: Class) -> Vec<&'static str> {
    layout::folders(class).collect()
}

fn urls(class: Class) -> Vec<&'static str> {
    layout::urls(class).collect()
}
