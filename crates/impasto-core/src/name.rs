//! Names and texts that come from a file of a stranger.

use std::fmt::{self, Display, Formatter, Write};

/// Whether a name is that of a file in a folder on every system (SPEC 3.4.4): parts separated by `/`, of which none is empty,
/// begins with a dot, or contains a backslash, a colon or a control character. Names with a dot belong to the system and to
/// other programs, as `.ssh/config` and `..` do.
pub fn is_plain(name: &str) -> bool {
    let is_good = |c: char| !matches!(c, '\\' | ':') && !c.is_control();
    name.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && part.chars().all(is_good))
}

/// Whether a character must not reach a terminal as it is: a control character, or one that changes the order or lines of the
/// text around it.
pub fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Formats a text for a message of one line: [unsafe](is_unsafe) characters, line breaks included, are escaped.
///
/// ```
/// use impasto_core::name::shown;
/// assert_eq!(shown("two\nlines, \u{1b}[31mred").to_string(), "two\\nlines, \\u{1b}[31mred");
/// ```
pub fn shown(text: &(impl AsRef<str> + ?Sized)) -> impl Display + '_ {
    Shown(text.as_ref())
}

struct Shown<'a>(&'a str);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            c if is_unsafe(c) => write!(f, "{}", c.escape_default()),
            c => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names() {
        for name in
            ["config.json", "1_Pooling/config.json", "a..b/c", "model.safetensors#header", "é/ü x.txt", "-", "~"]
        {
            assert!(is_plain(name), "{name}");
        }
        for name in [
            "",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "../x",
            "a/../b",
            "./x",
            ".git/config",
            "a/.ssh/b",
            ".bashrc",
            "..a",
            "a\\b",
            "C:x",
            "a\0b",
            "a\u{1b}[31m",
            "a\n",
            "\u{7f}",
            "\u{9b}31m",
        ] {
            assert!(!is_plain(name), "{name:?}");
        }
    }

    #[test]
    fn unsafe_characters() {
        assert!("\0\n\u{1b}\u{7f}\u{9b}\u{202e}\u{2066}\u{2028}".chars().all(is_unsafe));
        assert!(!"aé \u{200d}𝄞".chars().any(is_unsafe));
    }
}
