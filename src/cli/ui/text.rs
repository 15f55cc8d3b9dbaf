//! Text as terminals get it: without what could move the cursor or turn letters
//! around, and no wider than 80 columns.

use crate::manifest::names::is_hidden;

/// How wide lines are, also where no terminal is: logs and mails are read too.
const WIDTH: usize = 80;
/// Lines that begin with this are to be pasted or compared, and stay as they are.
const VERBATIM: &str = "    ";

fn is_harmful(c: char) -> bool {
    is_hidden(c) && c != '\n'
}

/// Escapes what must not reach a terminal; line breaks stay.
pub(super) fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmful(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Our own colours: good, care, bad, and what ends them.
pub(super) const COLOURS: [&str; 4] = ["\u{1b}[1;32m", "\u{1b}[1;33m", "\u{1b}[1;31m", "\u{1b}[0m"];

/// [`clean`] for text with words in our own colours.
pub(super) fn clean_painted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\u{1b}') {
        let colour = COLOURS.into_iter().find(|colour| rest[at..].starts_with(colour));
        let end = at + colour.map_or(1, str::len);
        out.push_str(&clean(&rest[..if colour.is_some() { at } else { end }]));
        out.push_str(colour.unwrap_or_default());
        rest = &rest[end..];
    }
    out.push_str(&clean(rest));
    out
}

/// [`clean`] for JSON, where such characters can stand in strings only.
pub(super) fn clean_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmful(c) {
            out.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            out.push(c);
        }
    }
    out
}

/// Wraps every line that is too long. It goes on where its text begins: behind
/// the indentation, and behind a label that ends in two spaces.
pub(super) fn wrap(text: &str) -> String {
    let wrap = |line: &str| {
        if line.starts_with(VERBATIM) { line.to_owned() } else { wrap_line(line, text_start(line)) }
    };
    text.split('\n').map(wrap).collect::<Vec<_>>().join("\n")
}

/// [`wrap`] for data, of which only indented lines are words for people.
pub(super) fn wrap_indented(text: &str) -> String {
    let wrap = |line: &str| if line.starts_with(' ') { wrap(line) } else { line.to_owned() };
    text.split('\n').map(wrap).collect::<Vec<_>>().join("\n")
}

/// Puts `text` behind `label` and wraps it there.
pub(super) fn labelled(label: &str, text: &str) -> String {
    let (first, rest) = text.split_once('\n').map_or((text, None), |(first, rest)| (first, Some(rest)));
    let first = wrap_line(&format!("{label}{first}"), label.len());
    match rest {
        Some(rest) => format!("{first}\n{}", wrap(rest)),
        None => first,
    }
}

/// The column at which the text of a line begins.
fn text_start(line: &str) -> usize {
    let indent = line.len() - line.trim_start_matches(' ').len();
    match line[indent..].find("  ") {
        Some(end) if indent + end < WIDTH / 2 => {
            let text = line[indent + end..].trim_start_matches(' ');
            line.chars().count() - text.chars().count()
        }
        _ => indent,
    }
}

fn wrap_line(line: &str, start: usize) -> String {
    if line.chars().count() <= WIDTH {
        return line.to_owned();
    }
    let (mut out, mut column, mut gap) = (String::new(), 0, 0);
    for word in words(line) {
        let length = word.chars().count();
        if word.starts_with(' ') {
            gap = length;
            continue;
        }
        if column > start && column + gap + length > WIDTH {
            out.push('\n');
            (column, gap) = (0, start);
        }
        out.push_str(&" ".repeat(gap));
        out.push_str(word);
        column += gap + length;
        gap = 0;
    }
    out
}

/// Splits into words and the spaces between them. What is quoted or in
/// backticks is one word: a name or a command that somebody may paste.
fn words(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let spaces = rest.len() - rest.trim_start_matches(' ').len();
        let end = if spaces > 0 { spaces } else { word_end(rest) };
        let (word, after) = rest.split_at(end);
        found.push(word);
        rest = after;
    }
    found
}

fn word_end(text: &str) -> usize {
    let mut open = None;
    for (at, c) in text.char_indices() {
        match (c, open) {
            (' ', None) => return at,
            ('`' | '"', None) if text[at + 1..].contains(c) => open = Some(c),
            (c, Some(quote)) if c == quote => open = None,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_moves_the_cursor_or_turns_letters_around() {
        let hostile = "a\u{1b}[2Jb\u{9b}31mc\u{202e}d\rz\u{7f}\u{200b}\tend\n\u{feff}é漢";
        let shown = clean(hostile);
        assert_eq!(shown, "a\\u{1b}[2Jb\\u{9b}31mc\\u{202e}d\\rz\\u{7f}\\u{200b}\\tend\n\\u{feff}é漢");
        let painted = format!("{}good{}{}", COLOURS[0], COLOURS[3], hostile);
        assert_eq!(clean_painted(&painted), format!("{}good{}{shown}", COLOURS[0], COLOURS[3]));
        let value = serde_json::json!({ "text": hostile, "tag": "\u{e0041}" });
        let json = clean_json(&value.to_string());
        assert!(!json.chars().any(is_harmful), "{json}");
        assert_eq!(crate::manifest::json::from_slice(json.as_bytes()).unwrap(), value);
    }

    #[test]
    fn long_lines_are_wrapped_on_word_borders_only() {
        let path = format!("/{}", "x".repeat(90));
        let text = format!("cannot use {path} since it is much too long for one line and for two lines as well");
        assert_eq!(
            labelled("error: ", &text),
            format!(
                "error: cannot use\n       {path}\n       since it is much too long for one line and for two lines \
                 as well"
            )
        );
        let command = format!("run it again using:\n\n    release import --from {path} --home a");
        assert_eq!(labelled("hint: ", &command), format!("hint: {command}"));
        let quoted = format!("{} `release abandon kestrel 1.0` and no more", "word ".repeat(12).trim_end());
        assert!(wrap(&quoted).contains("\n`release abandon kestrel 1.0`"), "{}", wrap(&quoted));
        let evidence = format!("release/1 at 0123, tag signed by {}", "mia@example.org, ".repeat(4));
        let lines = labelled("     Fetched  ", &evidence);
        assert!(lines.lines().nth(1).unwrap().starts_with(&format!("{}m", " ".repeat(14))), "{lines}");
        assert!(lines.lines().all(|line| line.chars().count() <= WIDTH), "{lines}");
        let reason = wrap(&format!("  reason      {}", "it is so ".repeat(12)));
        assert!(reason.lines().nth(1).unwrap().starts_with("              is so"), "{reason}");
        for same in ["", "short", "a\n\nb\n", "  two  three"] {
            assert_eq!(wrap(same), same);
        }
    }
}
