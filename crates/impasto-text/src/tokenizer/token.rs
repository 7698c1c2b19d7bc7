//! The bytes and the text of single tokens.

use super::Tokenizer;

/// A common token, after which the bytes of others are looked at.
const COMMON: [&str; 4] = ["a", "e", "0", "."];

impl Tokenizer {
    /// Returns the bytes that a token adds to a text, not at its start, where decoders may leave out a space. They may be
    /// part of a character. `None` if there is no such token.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let token = self.0.id_to_token(id)?;
        let text = self.text_after(self.common(), id)?;
        if !text.contains(char::REPLACEMENT_CHARACTER) {
            return Some(text.into_bytes());
        }
        // Either the token is not whole characters, or it has this character.
        let bytes = byte_fallback(&token).or_else(|| byte_level(&token));
        Some(bytes.filter(|bytes| String::from_utf8_lossy(bytes) == text).unwrap_or_else(|| text.into_bytes()))
    }

    /// Returns the text that a token adds to a text, not at its start. Bytes that are not UTF-8 become U+FFFD. `None` if
    /// there is no such token.
    pub fn token_text(&self, id: u32) -> Option<String> {
        self.token_bytes(id).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Whether a token is special: it has a meaning of its own, such as the end of a turn, and is no part of the text.
    pub fn is_special(&self, id: u32) -> bool {
        let added = self.0.get_added_vocabulary();
        self.0.id_to_token(id).is_some_and(|token| added.is_special_token(&token))
    }

    /// A token whose text is whole characters.
    pub(crate) fn common(&self) -> Option<u32> {
        COMMON.into_iter().find_map(|token| self.token_to_id(token))
    }

    /// Returns what `id` adds to the text of another token.
    fn text_after(&self, before: Option<u32>, id: u32) -> Option<String> {
        let first: Vec<u32> = before.into_iter().collect();
        let both: Vec<u32> = first.iter().copied().chain([id]).collect();
        let (first, both) = (self.decode(&first, false).ok()?, self.decode(&both, false).ok()?);
        both.strip_prefix(&first).map(str::to_owned)
    }
}

/// The byte of a token such as `<0x0A>`.
fn byte_fallback(token: &str) -> Option<Vec<u8>> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok().map(|byte| vec![byte]))?
}

/// The bytes of a token in which each byte is a character, as in GPT-2.
fn byte_level(token: &str) -> Option<Vec<u8>> {
    token.chars().map(byte_of).collect()
}

/// The byte of a character: printable ones of Latin-1 are themselves, the others follow from U+0100 on, in order.
fn byte_of(c: char) -> Option<u8> {
    let is_itself = |code: u32| matches!(code, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(c) {
        code if is_itself(code) => u8::try_from(code).ok(),
        code => (0..=255u8).filter(|&byte| !is_itself(byte.into())).nth(code.checked_sub(0x100)? as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_stand_for_bytes() {
        assert_eq!(byte_level("\u{120}a").unwrap(), b" a");
        assert_eq!(byte_level("\u{10a}").unwrap(), b"\n");
        assert_eq!(byte_level("\u{143}").unwrap(), [0xad]);
        assert_eq!(byte_level("\u{144}"), None);
        assert_eq!(byte_fallback("<0xE2>").unwrap(), [0xe2]);
        assert_eq!(byte_fallback("<0x+2>"), None);
    }
}
