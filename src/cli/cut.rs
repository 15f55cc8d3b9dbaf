//! `release cut`: fetch, build, sign, seal, publish.

use std::collections::BTreeSet;
use std::path::Path;

use jiff::Timestamp;
use jiff::civil::Date;
use serde_json::Value;
use serde_json::json;
use zeroize::Zeroizing;

use super::error;
use super::error::CommandError;
use super::error::Stop;
use super::ui::Paint;
use super::ui::Ui;
use super::ui::counted;
use super::ui::size;
use crate::amend::Amending;
use crate::approve::Request;
use crate::cut::Approving;
use crate::cut::Calendar;
use crate::cut::Cut;
use crate::cut::Operator;
use crate::cut::Outcome;
use crate::cut::Preview;
use crate::cut::Review;
use crate::cut::Stopped;
use crate::cut::Waiting;
use crate::cut::Withdrawing;
use crate::home::Base;
use crate::home::Home;
use crate::key::KeyError;
use crate::key::Secrets;
use crate::key::piv::Secret;
use crate::key::piv::TokenName;
use crate::manifest::Artifact;
use crate::manifest::Holder;
use crate::manifest::KeyName;
use crate::manifest::Product;
use crate::manifest::Sha256;
use crate::manifest::Version;
use crate::manifest::names::printable;
use crate::policy::MirrorEntry;
use crate::progress::Event;
use crate::progress::Progress;
use crate::publish;
use crate::publish::PublishError;

/// Fetch, build, sign, seal and publish a release
///
/// Builds what enrolled maintainers have tagged, in a sandbox without network,
/// twice; shows what will be signed and asks once; signs, verifies the result
/// as users will, and publishes it.
///
/// To resume an interrupted cut, run the same command again. From the first
/// signature on, the bytes of a cut are final.
#[derive(Debug, clap::Args)]
#[command(
    allow_missing_positional = true,
    after_long_help = "\
Examples:
  See what would be released:
      release cut kestrel 2.4.0 --dry-run

  Release it, without a terminal:
      release cut kestrel 2.4.0 --yes=2.4.0 --pin-fd 3"
)]
pub struct Args {
    /// The product; may be left out when there is one
    product: Option<Product>,
    /// The version
    version: Version,
    /// Fetch and show the plan; build, sign and push nothing
    #[arg(long)]
    dry_run: bool,
    /// Put source and inputs beside a request, for terminals without a network
    #[arg(long)]
    with_source: bool,
    /// Do not ask: this is the version to sign
    #[arg(long, value_name = "VERSION")]
    yes: Option<Version>,
    #[command(flatten)]
    today: Today,
}

/// The date, for a terminal that was long unused.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Today {
    /// Today's date, YYYY-MM-DD: asked for 45 days after the terminal was last used
    #[arg(long, value_name = "DATE")]
    pub today: Option<Date>,
}

/// Runs `release cut`.
pub fn run(args: &Args, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    let home = Home::open(home)?;
    let (product, version) = (&product_of(args.product.as_ref(), &home)?, &args.version);
    if !args.dry_run || args.yes.is_some() {
        check_yes(args.yes.as_ref(), version, "nothing was fetched, built or signed", ui)?;
    }
    let operator = AtTerminal { ui, yes: args.yes.is_some(), today: args.today.today };
    let (now, with_source) = (&Timestamp::now, args.with_source);
    let cut = Cut { home: &home, product, version, with_source, operator: &operator, now };
    let same = ["cut", product.as_str(), version.as_str(), "--dry-run"];
    let again = if args.dry_run { &same[..] } else { &same[..3] };
    let stop = Stop { home: &home, product, version, again, is_answer: false };
    let mut facts = json!({ "version": 1, "product": product, "release": version });
    if args.dry_run {
        let pin = cut.dry_run().map_err(|error| stop.explain(error))?;
        ui.say("Dry run requested: nothing was built, signed or pushed.");
        if ui.json {
            facts["dry_run"] = json!({ "pin": pin });
            ui.data(&facts.to_string());
        }
        return Ok(0);
    }
    let summary = match cut.run().map_err(|error| stop.explain(error))? {
        Outcome::Released(summary) => summary,
        Outcome::Waiting(waiting) => {
            let why = "when their answers are in the inbox (`release import`), release it using:";
            return Ok(report_waiting(&waiting, facts, why, again, ui));
        }
    };
    facts["serial"] = json!(summary.serial);
    report_mirrors(&home, &summary.mirrors, facts, again, ui)?;
    ui.say(&format!("Released {product} {version}."));
    Ok(0)
}

/// The product of a command line; it may be left out when there is one.
pub fn product_of(named: Option<&Product>, home: &Home) -> Result<Product, CommandError> {
    let products: Vec<&Product> = home.policy.products.keys().collect();
    let unknown = match (named, products.as_slice()) {
        (Some(name), known) if known.contains(&name) => return Ok(name.clone()),
        (None, [only]) => return Ok(Product::clone(only)),
        (Some(name), _) => format!("the policy has no product `{name}`"),
        (None, _) => "name a product and a version".to_owned(),
    };
    let names: Vec<&str> = products.iter().map(|product| product.as_str()).collect();
    let known = format!("the policy has {}: {}", counted(products.len(), "product"), names.join(", "));
    Err(CommandError::usage(unknown).hint(known))
}

/// Finds out before anything is done whether somebody can confirm: at the
/// terminal, or by `--yes`. `nothing` says what was not done.
pub fn check_yes(yes: Option<&Version>, version: &Version, nothing: &str, ui: &Ui) -> Result<(), CommandError> {
    match yes {
        Some(yes) if yes == version => Ok(()),
        Some(yes) => {
            Err(CommandError::usage(format!("--yes names version {yes}, the command line {version}; {nothing}")))
        }
        None if ui.can_ask() => Ok(()),
        None => Err(CommandError::usage(format!("there is no terminal to confirm on; {nothing}"))
            .hint(format!("confirm on the command line, by `--yes={version}`"))),
    }
}

/// The same for a number.
pub fn check_number(yes: Option<u64>, number: u64, ui: &Ui) -> Result<(), CommandError> {
    let nothing = "nothing was signed";
    match yes {
        Some(yes) if yes == number => Ok(()),
        Some(yes) => {
            Err(CommandError::usage(format!("--yes names number {yes}, and the next one is {number}; {nothing}")))
        }
        None if ui.can_ask() => Ok(()),
        None => Err(CommandError::usage(format!("there is no terminal to confirm on; {nothing}"))
            .hint(format!("confirm on the command line, by `--yes={number}`"))),
    }
}

/// Prints how mirrors fared, and `facts` for machines. Gives exit 4 as an error
/// where one failed; `again` is the command that goes on. Mirrors of couriers have
/// their own.
pub fn report_mirrors(
    base: &Base,
    outcomes: &[publish::Outcome],
    mut facts: Value,
    again: &[&str],
    ui: &Ui,
) -> Result<(), CommandError> {
    facts["mirrors"] = mirrors_json(outcomes);
    let failed: Vec<(&publish::Outcome, &PublishError)> =
        outcomes.iter().filter_map(|outcome| Some((outcome, outcome.result.as_ref().err()?))).collect();
    let is_carried = |entry: &&MirrorEntry| matches!(entry, MirrorEntry::Courier);
    let carried = base.terminal.mirrors.values().filter(is_carried).count();
    if carried > 0 {
        let names = counted(carried, "mirror");
        ui.say(&format!("A courier brings it to {names}: write what he carries with `release export DIR`."));
    }
    if failed.is_empty() {
        if outcomes.is_empty() && carried == 0 {
            ui.warn("terminal.toml has no mirror; nothing was published");
        }
        if ui.json {
            ui.data(&facts.to_string());
        }
        return Ok(());
    }
    for outcome in outcomes.iter().filter(|_| !ui.json) {
        let (word, paint) = match outcome.result {
            Ok(_) => ("published ", Paint::Good),
            Err(_) => ("not pushed", Paint::Bad),
        };
        ui.data(&format!("  {}  {}", ui.paint(word, paint), outcome.mirror));
    }
    let mut result = CommandError::new(
        error::PARTIAL,
        format!("{} of {} could not be brought up to date", failed.len(), counted(outcomes.len(), "mirror")),
    );
    for (outcome, error) in failed {
        let error = error::with_publish_hint(CommandError::from_error(error::PARTIAL, error), error);
        let causes = error.causes().iter().map(String::as_str);
        let all = std::iter::once(error.message()).chain(causes).collect::<Vec<_>>().join(": ");
        result = result.cause(format!("mirror `{}`: {all}", outcome.mirror)).remedy_of(&error).hints_of(&error);
    }
    Err(result
        .facts(facts)
        .hint("such a mirror keeps its old, whole state")
        .hint_command("when it is right again, go on without signing again using:", again))
}

/// Prints what to carry to whom. Gives exit 6.
pub fn report_waiting(waiting: &Waiting, mut facts: Value, why: &str, again: &[&str], ui: &Ui) -> u8 {
    facts["waiting"] = json!({
        "request": waiting.request,
        "files": waiting.files,
        "signers": waiting.signers,
        "signers_needed": waiting.signers_needed,
        "builders": waiting.builders,
        "builders_needed": waiting.builders_needed,
    });
    let list = |people: &BTreeSet<Holder>| match people.len() {
        0 => "nobody yet".to_owned(),
        _ => people.iter().map(Holder::as_str).collect::<Vec<_>>().join(", "),
    };
    ui.say(&format!(
        "WAITING for other people\n  signs     {} ({} of {} needed)\n  built     {} ({} of {} needed)\n  request   {}",
        list(&waiting.signers),
        waiting.signers.len(),
        waiting.signers_needed,
        list(&waiting.builders),
        waiting.builders.len(),
        waiting.builders_needed,
        waiting.request,
    ));
    if ui.json {
        ui.data(&facts.to_string());
    } else {
        for file in &waiting.files {
            ui.data(&file.display().to_string());
        }
    }
    let again = format!("    release {}", again.join(" "));
    ui.say(&format!("Carry these files to them; {why}\n\n{again}"));
    error::WAITING
}

/// Outcomes for machines.
fn mirrors_json(outcomes: &[publish::Outcome]) -> Value {
    outcomes
        .iter()
        .map(|outcome| {
            let error = outcome.result.as_ref().err().map(ToString::to_string);
            json!({
                "mirror": outcome.mirror, "new_files": outcome.result.as_ref().ok(), "error": error,
            })
        })
        .collect()
}

/// The person at the terminal, or `--yes` and `--today`.
pub struct AtTerminal<'a> {
    /// How to ask.
    pub ui: &'a Ui,
    /// Whether the command line has confirmed the version.
    pub yes: bool,
    /// What the command line says of today.
    pub today: Option<Date>,
}

impl Calendar for AtTerminal<'_> {
    fn today(&self, now: Timestamp, last: Timestamp) -> Option<Date> {
        if self.today.is_some() {
            return self.today;
        }
        let day = |at: Timestamp| at.strftime("%Y-%m-%d").to_string();
        self.ui.say(&format!("The clock says {}; this terminal was last used on {}.", day(now), day(last)));
        self.ui.ask("Look at a calendar, and type today's date (YYYY-MM-DD): ").ok()?.trim().parse().ok()
    }
}

impl Progress for AtTerminal<'_> {
    fn event(&self, event: Event<'_>) {
        self.ui.event(event);
    }
}

impl Secrets for AtTerminal<'_> {
    fn passphrase(&self, key: &KeyName, holder: Option<&Holder>, again: bool) -> Result<Zeroizing<String>, KeyError> {
        self.ui.passphrase(key, holder, again)
    }

    fn new_passphrase(&self, key: &KeyName, holder: Option<&Holder>) -> Result<Zeroizing<String>, KeyError> {
        self.ui.new_passphrase(key, holder)
    }

    fn pin(&self, token: &TokenName, which: Secret, tries: u8) -> Result<Zeroizing<String>, KeyError> {
        self.ui.pin(token, which, tries)
    }

    fn new_pin(&self, token: &TokenName, which: Secret) -> Result<Zeroizing<String>, KeyError> {
        self.ui.new_pin(token, which)
    }

    fn last_try(&self, token: &TokenName, which: Secret) -> bool {
        self.ui.last_try(token, which)
    }
}

impl Operator for AtTerminal<'_> {
    fn plan(&self, preview: &Preview<'_>) {
        let Preview { product, version, plan, .. } = preview;
        let holders: Vec<&str> = plan.release.iter().map(|(_, holder)| holder.as_str()).collect();
        let verb = if preview.resumes { "Resuming release" } else { "Release" };
        let mut lines = vec![format!("{verb} {version} of {product}")];
        lines.push(match preview.pin {
            Some(pin) => {
                let signers: Vec<String> = pin.tags.iter().map(|tag| printable(&tag.signer)).collect();
                format!(
                    "  source    {} at {}, tag signed by {}",
                    printable(&pin.branch),
                    pin.commit.short(),
                    signers.join(", ")
                )
            }
            None => format!("  source    tag {} of {}", printable(preview.tag), printable(&preview.source.to_string())),
        });
        if let Some(bundle) = &preview.bundle {
            lines.push(format!("  brought   by a medium: {}, not fetched from {}", bundle.display(), preview.source));
        }
        lines.push(match preview.previous {
            Some(previous) => format!("  previous  {previous}"),
            None => "  previous  none: this is the first release".to_owned(),
        });
        lines.push("  build     in a sandbox without network".to_owned());
        lines.push(format!("  sign      {} of {} release managers: {}", holders.len(), plan.of, holders.join(", ")));
        let missing = (plan.need as usize).saturating_sub(holders.len());
        if missing > 0 {
            lines.push(format!("  wait      for {} by other release managers", counted(missing, "approval")));
        }
        if plan.rebuilds > 0 {
            let rebuilds = counted(plan.rebuilds as usize, "rebuild");
            lines.push(format!("  rebuilds  {rebuilds} by other people, on other terminals"));
        }
        if plan.rebuilds == 0 {
            lines.push("  rebuilds  none: nobody else checks what this terminal built".to_owned());
        }
        lines.push(format!("  publish   {}: {}", counted(preview.mirrors.len(), "mirror"), preview.mirrors.join(", ")));
        self.ui.say(&lines.join("\n"));
        if !preview.insecure.is_empty() {
            self.ui.warn(&format!("demonstration only: the policy allows {}", preview.insecure.join(" and ")));
        }
    }

    fn confirm(&self, review: &Review<'_>) -> Result<(), Stopped> {
        let Review { product, version, changes, plan, .. } = review;
        let mut lines = vec![format!("\nTo be signed: manifest {} of {product}", review.number)];
        lines.push(match &changes.previous {
            Some(previous) => format!(
                "  keeps     {} as {} before, up to {previous}",
                counted(changes.unchanged, "release"),
                if changes.unchanged == 1 { "it was" } else { "they were" }
            ),
            None => "  keeps     nothing: this is the first release".to_owned(),
        });
        lines.push(format!("  adds      {version}, {}:", counted(changes.added.len(), "file")));
        lines.extend(list_files(&changes.added));
        lines.push(format!("  from      {}", review.pin.commit));
        lines.push(format!("  digest    {}", review.digest));
        let holders: Vec<&str> = plan.release.iter().map(|(_, holder)| holder.as_str()).collect();
        lines.push(format!("  by        {}", holders.join(", ")));
        self.ui.say(&lines.join("\n"));
        self.ask_for("version", version.as_str())
    }

    fn requested(&self, request: &Request, sha256: Sha256) {
        let signers: Vec<String> = request.pin.tags.iter().map(|tag| printable(&tag.signer)).collect();
        self.ui.say(&format!(
            "Request of {} to release {} of {}\n  request   {sha256}\n  source    {} at {}, tag signed by {}\n  build     \
             in a sandbox without network; the environment is that of {}",
            request.starter,
            request.release,
            request.product,
            printable(&request.pin.branch),
            request.pin.commit.short(),
            signers.join(", "),
            request.starter,
        ));
    }

    fn confirm_approval(&self, approving: &Approving<'_>) -> Result<(), Stopped> {
        let Approving { request, plan, .. } = approving;
        let signs = !plan.release.is_empty();
        let mut lines = vec![if signs {
            format!("\nTo be signed: manifest {} of {}", approving.number, request.product)
        } else {
            format!("\nTo be claimed: what was built of {}", request.product)
        }];
        lines.push(format!("  asked by  {} ({})", request.starter, approving.sha256.short()));
        lines.push(format!("  adds      {}, {}:", request.release, counted(approving.files.len(), "file")));
        lines.extend(list_files(approving.files));
        lines.push(format!("  from      {}", request.pin.commit));
        lines.extend(describe_since(approving));
        lines.push(format!("  digest    {}", approving.digest));
        lines.push(format!("  by        {}", plan.builder));
        self.ui.say(&lines.join("\n"));
        self.ask_for("version", request.release.as_str())
    }

    fn confirm_withdrawal(&self, withdrawing: &Withdrawing<'_>) -> Result<(), Stopped> {
        let Withdrawing { product, entry, plan, .. } = withdrawing;
        let mut lines = vec![format!("\nTo be signed: manifest {} of {product}", withdrawing.number)];
        lines.push(format!("  withdraws {}", entry.version));
        lines.push(format!("  reason    {}", printable(entry.reason.as_str())));
        lines.push(match &entry.successor {
            Some(successor) => format!("  instead   {successor}"),
            None => "  instead   nothing is named".to_owned(),
        });
        lines.push(format!("  digest    {}", withdrawing.digest));
        let holders: Vec<&str> = plan.release.iter().map(|(_, holder)| holder.as_str()).collect();
        lines.push(format!("  by        {}", holders.join(", ")));
        self.ui.say(&lines.join("\n"));
        self.ask_for("version", entry.version.as_str())
    }

    fn confirm_amendment(&self, amending: &Amending<'_>) -> Result<(), Stopped> {
        let Amending { amendment, lines: changed, roles, keys } = amending;
        let roles: Vec<String> = roles.iter().map(|(role, number)| format!("{role} {number}")).collect();
        let mut lines = vec![format!("\nTo be signed: {}", roles.join(", "))];
        lines.push(format!("  asked by  {}: {}", amendment.starter, amendment.change));
        lines.push("  changes   policy.toml:".to_owned());
        lines.extend(changed.iter().take(POLICY_SHOWN).map(|line| format!("    {line}")));
        match changed.len() {
            0 => lines.push("    nothing: only dates are new".to_owned()),
            count if count > POLICY_SHOWN => lines.push(format!("    and {} more lines", count - POLICY_SHOWN)),
            _ => {}
        }
        for (role, digest) in &amendment.roles {
            lines.push(format!("  digest    {digest} of {}", printable(role)));
        }
        lines.push(format!("  by        {}", keys.iter().map(KeyName::as_str).collect::<Vec<_>>().join(", ")));
        self.ui.say(&lines.join("\n"));
        self.ask_for("number of targets", &amendment.number.to_string())
    }
}

impl AtTerminal<'_> {
    /// Has a person type a version or a number.
    fn ask_for(&self, what: &str, wanted: &str) -> Result<(), Stopped> {
        if self.yes {
            return Ok(());
        }
        match self.ui.ask(&format!("To sign, type the {what} (empty line stops): ")) {
            Ok(answer) if answer.trim() == wanted => Ok(()),
            Ok(_) => Err(Stopped),
            Err(error) => {
                self.ui.warn(error.message());
                Err(Stopped)
            }
        }
    }
}

/// The first of the files of a release.
fn list_files(files: &[Artifact]) -> Vec<String> {
    let line = |file: &Artifact| format!("    {}  {:>9}  {}", file.sha256.short(), size(file.length), file.name);
    let mut lines: Vec<String> = files.iter().take(SHOWN).map(line).collect();
    if files.len() > SHOWN {
        lines.push(format!("    and {} more", files.len() - SHOWN));
    }
    lines
}

/// What has changed in the source since the release before.
fn describe_since(approving: &Approving<'_>) -> Vec<String> {
    let Some((previous, since)) = approving.since else {
        return vec!["  since     nothing: this is the first release".to_owned()];
    };
    let Some(since) = since else {
        return vec![format!("  since     {previous}: this home does not know its commit, or it is on another branch")];
    };
    let (commits, files) = (counted(since.commit_count, "commit"), counted(since.file_count, "changed file"));
    let mut lines = vec![format!("  since     {previous}: {commits}, {files}")];
    for (shown, count) in [(&since.commits, since.commit_count), (&since.files, since.file_count)] {
        lines.extend(shown.iter().map(|line| format!("    {line}")));
        if count > shown.len() {
            lines.push(format!("    and {} more", count - shown.len()));
        }
    }
    lines
}

/// How many lines of the policy are listed before "and N more".
const POLICY_SHOWN: usize = 60;
/// How many files are listed before "and N more".
const SHOWN: usize = 12;
