//! Console blocks of the documents: each is run, and prints what it says.
//!
//! `[..]` stands for anything within a line, a line `...` for any lines. `? N`
//! after a command is its exit code; without it the command succeeds. A command that
//! ends in `\` goes on in the next line, behind `> `.

use std::fs;

use crate::support::Lab;
use crate::support::project;
use crate::support::terminal::at_a_terminal;
use crate::support::tokens::PIN;
use crate::support::tokens::PUK;
use crate::support::tokens::TokenLab;

/// A command of a console block with what it should print.
#[derive(Debug)]
struct Step {
    command: String,
    code: i32,
    output: Vec<String>,
}

fn steps(document: &str) -> Vec<Vec<Step>> {
    steps_with(document, "")
}

/// The steps of blocks whose fence says ` what` behind `console`.
fn steps_with(document: &str, what: &str) -> Vec<Vec<Step>> {
    let text = fs::read_to_string(project(document)).unwrap();
    let opens = format!("```console{what}");
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(fence) = lines.by_ref().find(|line| line.trim() == opens) {
        // Blocks in lists are indented as their fence is.
        let indent = fence.len() - fence.trim_start().len();
        let mut steps: Vec<Step> = Vec::new();
        for line in lines.by_ref().take_while(|line| line.trim() != "```") {
            let line = line.get(indent..).unwrap_or_default();
            if let Some(command) = line.strip_prefix("$ ") {
                steps.push(Step { command: command.to_owned(), code: 0, output: Vec::new() });
                continue;
            }
            if let Some(step) = steps.last_mut().filter(|step| step.command.ends_with('\\'))
                && let Some(more) = line.strip_prefix("> ")
            {
                step.command.push('\n');
                step.command.push_str(more);
                continue;
            }
            let step = steps.last_mut().unwrap_or_else(|| panic!("{document}: output before a command: {line}"));
            match line.strip_prefix("? ") {
                Some(code) => step.code = code.parse().unwrap(),
                None => step.output.push(line.trim_end().to_owned()),
            }
        }
        blocks.push(steps);
    }
    assert!(!blocks.is_empty(), "{document} has no console block{what}");
    blocks
}

/// Whether a line is as the pattern says.
fn line_matches(pattern: &str, line: &str) -> bool {
    let mut rest = line;
    let parts: Vec<&str> = pattern.split("[..]").collect();
    for (index, part) in parts.iter().enumerate() {
        let found = if index == 0 {
            rest.starts_with(part).then_some(0)
        } else if index == parts.len() - 1 {
            rest.len().checked_sub(part.len()).filter(|at| rest.is_char_boundary(*at) && rest[*at..] == **part)
        } else {
            rest.find(part)
        };
        match found {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty() || parts.len() > 1
}

/// Whether lines are as the patterns say, to the end.
fn matches(patterns: &[String], lines: &[&str]) -> bool {
    match (patterns.split_first(), lines.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first == "..." => (0..=lines.len()).any(|skip| matches(rest, &lines[skip..])),
        (Some((first, rest)), Some((line, others))) => line_matches(first, line) && matches(rest, others),
        _ => false,
    }
}

#[test]
fn the_readme_shows_what_the_quick_start_prints() {
    let path = project("target/quickstart.transcript");
    let transcript = fs::read_to_string(&path)
        .unwrap_or_else(|_| panic!("run `scripts/quickstart >{} 2>&1` first, as scripts/test does", path.display()));
    let lines: Vec<&str> = transcript.lines().map(str::trim_end).collect();
    let mut shown = 0;
    for step in steps("README.md").iter().take(2).flatten() {
        let command = format!("$ {}", step.command);
        let start = lines.iter().position(|line| line_matches(&command, line));
        let start = start.unwrap_or_else(|| panic!("the quick start does not run `{command}`"));
        let rest: Vec<&str> = lines[start + 1..].iter().copied().take_while(|line| !line.starts_with('#')).collect();
        let end = rest.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1);
        assert!(
            matches(&step.output, &rest[..end]),
            "README.md: {command}\nexpected {:#?}\nfound {rest:#?}",
            step.output
        );
        shown += 1;
    }
    assert!(shown >= 2, "the README shows a user and a release manager");
}

#[test]
fn the_readme_shows_what_users_do() {
    let lab = Lab::released();
    lab.copy("trust/root.json", "root.json");
    for name in ["alice.asc", "bob.asc"] {
        lab.copy(&format!("home/keys/{name}"), name);
    }
    for name in ["SHA256SUMS", "SHA256SUMS.asc"] {
        lab.copy(&Lab::mirrored("1.0", name), name);
    }
    let root = release::manifest::Sha256::of(&lab.read("root.json")).to_string();
    for mut step in steps("README.md").into_iter().skip(2).flatten() {
        // The repository of the laboratory.
        step.command = step.command.replace("https://packages.kestrel.example", "mirror");
        happens("README.md", &lab, &step, |_| format!("{}\n", &root[60..]));
    }
}

#[test]
fn releasing_shows_what_happens() {
    let lab = Lab::new();
    fs::remove_dir_all(lab.path("home")).unwrap();
    fs::rename(lab.path("policy/policy.toml"), lab.path("policy.toml")).unwrap();
    fs::rename(lab.path("policy/keys"), lab.path("keys")).unwrap();
    lab.tag("2.4.0");
    lab.tag("2.5.0");
    lab.write("stick/vendor.tar.zst", "vendored\n");
    for step in steps("RELEASING.md").iter().flatten() {
        happens("RELEASING.md", &lab, step, |prompt| answer(prompt, step));
    }
}

#[test]
fn releasing_shows_what_happens_with_tokens() {
    let fresh = TokenLab::fresh();
    fs::rename(fresh.lab.path("policy/policy.toml"), fresh.lab.path("policy.toml")).unwrap();
    fs::rename(fresh.lab.path("policy/keys"), fresh.lab.path("keys")).unwrap();
    let ready = TokenLab::new();
    ready.lab.tag("2.4.0");
    let blocked = TokenLab::new();
    blocked.tokens[0].change(|state| state.pin.left = 0);
    let lost = TokenLab::new();
    lost.pcscd.reader(0).unplug();
    let labs = [(&fresh, " fresh token"), (&ready, " token"), (&blocked, " blocked token"), (&lost, " lost token")];
    for (lab, what) in labs {
        let (name, socket) = lab.pcscd.variable();
        for mut step in steps_with("RELEASING.md", what).into_iter().flatten() {
            step.command = format!("{name}={} {}", socket.display(), step.command);
            let mut last = PIN;
            happens("RELEASING.md", &lab.lab, &step, |prompt| {
                last = match prompt {
                    prompt if prompt.starts_with("The same again") => last,
                    prompt if prompt.contains("PIN of token") => PIN,
                    prompt if prompt.contains("PUK of token") => PUK,
                    prompt => return answer(prompt, &step),
                };
                format!("{last}\n")
            });
        }
    }
}

/// Does what a step says at a terminal, and demands what it shows.
fn happens(document: &str, lab: &Lab, step: &Step, answer: impl FnMut(&str) -> String) {
    let (code, printed) = at_a_terminal(lab, &step.command, answer);
    let lines: Vec<&str> = printed.lines().map(str::trim_end).collect();
    assert_eq!(code, step.code, "{document}: {}\n{printed}", step.command);
    assert!(
        matches(&step.output, &lines),
        "{document}: {}\nexpected\n{}\nfound\n{printed}",
        step.command,
        step.output.join("\n")
    );
}

fn answer(prompt: &str, step: &Step) -> String {
    if prompt.contains("assphrase") || prompt.starts_with("The same again") {
        return "correct horse battery\n".to_owned();
    }
    let shown = step.output.iter().find_map(|line| line.strip_prefix(prompt.trim_end())).map(str::trim_start);
    format!("{}\n", shown.unwrap_or_else(|| panic!("RELEASING.md shows no answer to {prompt:?}")))
}

#[test]
fn patterns_match_what_they_should() {
    assert!(line_matches("a[..]c", "abc") && line_matches("[..]", "") && line_matches("abc", "abc"));
    assert!(!line_matches("a[..]c", "abd") && !line_matches("ab", "abc") && !line_matches("abc[..]x", "abc"));
    let patterns: Vec<String> = ["a", "...", "c"].map(str::to_owned).into();
    assert!(matches(&patterns, &["a", "b", "b", "c"]) && !matches(&patterns, &["a", "b"]));
}
