//! Speaking to the terminal: one place that prints, colours and escapes.
//!
//! Results go to standard output, everything else to standard error. Text from data files is escaped, so an item's name
//! cannot move the cursor. A reader that hangs up (`| head`) ends the program quietly and successfully.

use std::io::{self, IsTerminal, Write};

use crate::error::{Error, Result};

/// Prints a result and a newline to standard output.
pub fn out(text: &str) -> Result<()> {
    let line = format!("{text}\n");
    Output
        .write_all(line.as_bytes())
        .and_then(|()| Output.flush())
        .map_err(|e| Error::io("writing to", std::path::Path::new("standard output"), &e))
}

/// Standard output for writers; a reader that hangs up ends the program quietly.
pub struct Output;

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match io::stdout().lock().write(bytes) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
            other => other,
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        match io::stdout().lock().flush() {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
            other => other,
        }
    }
}

/// Says a line on standard error. A closed terminal is no reason to stop working.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", escape(text));
}

/// Says an error, with its headline coloured on a terminal.
pub fn say_error(error: &Error) {
    let text = escape(&error.to_string());
    match text.split_once(']').filter(|_| colours()) {
        Some((head, rest)) => {
            let _ = writeln!(io::stderr().lock(), "\x1b[1;31m{head}]\x1b[0m{rest}");
        }
        None => {
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }
}

/// Colour only for people: a terminal, and no `NO_COLOR`.
fn colours() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Control characters other than newline and tab, written visibly.
pub fn escape(text: &str) -> String {
    let hidden = |c: char| c.is_control() && c != '\n' && c != '\t';
    text.chars().fold(String::with_capacity(text.len()), |mut to, c| {
        if hidden(c) {
            to.extend(c.escape_default())
        } else {
            to.push(c)
        }
        to
    })
}

/// Columns aligned with two blanks between: the first to the left, the others to the right.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row
            .iter()
            .enumerate()
            .map(|(c, cell)| if c == 0 { format!("{cell:<w$}", w = widths[c]) } else { format!("{cell:>w$}", w = widths[c]) })
            .collect();
        cells.join("  ").trim_end().to_string() + "\n"
    };
    rows.iter().map(line).collect()
}

/// `1234567` as `1,234,567`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_become_visible() {
        assert_eq!(escape("a\x1b[31mb\nc\td\u{9b}"), "a\\u{1b}[31mb\nc\td\\u{9b}");
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([0, 12, 999, 1000, 1234567].map(grouped).join(" "), "0 12 999 1,000 1,234,567");
    }

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["a".to_string(), "1".into()], vec!["bcd".into(), "22".into()]];
        assert_eq!(table(&rows), "a     1\nbcd  22\n");
    }
}
