//! What a model card says: the front matter of `README.md`.

/// The asset that holds the card.
pub const CARD: &str = "README.md";

/// Returns the licence that a model card names.
pub fn license(card: &str) -> Option<String> {
    field(card, "license")
}

/// Returns the value of a field in the front matter of a model card: the text after `key:`, without quotes.
///
/// The front matter is YAML between two lines of `---`. Only a plain value on the line of its key is read, which is how
/// cards spell licences and base models; a list counts as its first item.
pub fn field(card: &str, key: &str) -> Option<String> {
    let matter = card.trim_start_matches('\u{feff}').strip_prefix("---")?;
    let mut lines = matter.lines().skip(1).take_while(|line| line.trim_end() != "---");
    let after = lines.by_ref().find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix(':'))?;
    let value = match after.trim() {
        "" => lines.next()?.trim_start().strip_prefix('-')?.trim(),
        value => value,
    };
    let plain = value.trim_start_matches('[').split([',', ']', '#']).next()?.trim();
    let plain = plain.trim_matches(|c| c == '"' || c == '\'');
    (!plain.is_empty()).then(|| plain.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn front_matter() {
        let card = "---\nlanguage: en\nlicense: \"apache-2.0\" # as the base\nbase_model:\n  - org/name\ntags: [a, b]\n---\nlicense: mit\n";
        assert_eq!(license(card).as_deref(), Some("apache-2.0"));
        assert_eq!(field(card, "base_model").as_deref(), Some("org/name"));
        assert_eq!(field(card, "tags").as_deref(), Some("a"));
        assert_eq!(field(card, "datasets"), None);
        for bad in ["", "license: mit", "---\nno: x\n---\nlicense: mit", "---\nlicense:\n---\n", "---", "---\nlicense"]
        {
            assert_eq!(license(bad), None, "{bad:?}");
        }
    }
}
