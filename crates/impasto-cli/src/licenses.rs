//! Whether a fine-tune may have the licence that its model card names, given that of its base.
//!
//! The table says what holds for licences that hubs know by an identifier (those of SPDX in small letters, and those of model
//! families). It is help for people who forgot to look, not advice of a lawyer.

/// One licence in a line: its identifier; the identifiers that what is derived may have, where `*` stands for any characters;
/// and the clause that says so.
const TABLE: &str = include_str!("../assets/licenses.csv");

/// What is known about the licence of a fine-tune.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The licence of the base allows it.
    Fine,
    /// One of them is not named, or not in the table.
    Unknown,
    /// The licence of the base does not allow it, by this clause.
    Incompatible(&'static str),
}

/// Compares the licence of a fine-tune with that of its base; an empty one is not known.
pub fn check(base: &str, derived: &str) -> Verdict {
    let [base, derived] = [base, derived].map(|name| name.trim().to_lowercase());
    let Some((allowed, clause)) = find(&base) else { return Verdict::Unknown };
    if find(&derived).is_none() {
        return Verdict::Unknown;
    }
    if allowed.split_whitespace().any(|pattern| matches(pattern, &derived)) {
        Verdict::Fine
    } else {
        Verdict::Incompatible(clause)
    }
}

/// Returns what may be derived, and the clause.
fn find(name: &str) -> Option<(&'static str, &'static str)> {
    rows().find(|(licence, ..)| *licence == name).map(|(_, allowed, clause)| (allowed, clause))
}

fn rows() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    TABLE.lines().skip(1).filter_map(|line| {
        let (licence, rest) = line.split_once(';')?;
        let (allowed, clause) = rest.split_once(';')?;
        Some((licence, allowed, clause))
    })
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound() {
        let rows: Vec<_> = rows().collect();
        assert_eq!(rows.len(), TABLE.lines().count() - 1, "each line has three fields");
        for (n, (licence, allowed, clause)) in rows.iter().enumerate() {
            assert!(!licence.is_empty() && *licence == licence.to_lowercase() && !clause.is_empty(), "{licence}");
            assert!(rows[..n].iter().all(|(other, ..)| other != licence), "{licence} is there twice");
            for pattern in allowed.split_whitespace() {
                assert!(rows.iter().any(|(other, ..)| matches(pattern, other)), "{licence}: {pattern} is no licence");
            }
            let expected = if allowed.is_empty() { Verdict::Incompatible(clause) } else { Verdict::Fine };
            assert_eq!(check(licence, licence), expected, "{licence} of itself");
        }
    }

    #[test]
    fn pairs() {
        for (base, derived) in [
            ("apache-2.0", "mit"),
            ("MIT", "llama3"),
            ("cc-by-nc-4.0", "cc-by-nc-sa-4.0"),
            ("gpl-3.0", "agpl-3.0"),
            ("llama3.1", "llama3.1"),
        ] {
            assert_eq!(check(base, derived), Verdict::Fine, "{base} {derived}");
        }
        for (base, derived, clause) in [
            ("llama3", "apache-2.0", "1.b.i"),
            ("llama3", "llama3.1", "1.b.i"),
            ("gemma", "mit", "3.1"),
            ("cc-by-nc-4.0", "apache-2.0", "NonCommercial"),
            ("cc-by-nd-4.0", "cc-by-nd-4.0", "not to be shared"),
            ("gpl-3.0", "mit", "5(c)"),
        ] {
            assert!(
                matches!(check(base, derived), Verdict::Incompatible(why) if why.contains(clause)),
                "{base} {derived}"
            );
        }
        for (base, derived) in [("other", "mit"), ("mit", "other"), ("", "mit"), ("llama3", "")] {
            assert_eq!(check(base, derived), Verdict::Unknown, "{base} {derived}");
        }
    }
}
