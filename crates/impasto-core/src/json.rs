//! JSON as Python writes it.

use std::borrow::Cow;

/// The numbers that Python writes although JSON does not have them.
const NON_FINITE: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];

/// Returns JSON with `null` in place of the `NaN`, `Infinity` and `-Infinity` that Python writes, so that a field with one
/// of them counts as not given. Strings do not change.
///
/// ```
/// use impasto_core::json::finite;
///
/// assert_eq!(&*finite(br#"{"NaN": [0.5, -Infinity]}"#), br#"{"NaN": [0.5, null]}"#);
/// ```
pub fn finite(json: &[u8]) -> Cow<'_, [u8]> {
    let (mut out, mut copied) = (Vec::new(), 0);
    let (mut at, mut in_string) = (0, false);
    while let Some(&byte) = json.get(at) {
        let number = NON_FINITE.iter().find(|number| !in_string && json[at..].starts_with(number));
        match (byte, number) {
            (_, Some(number)) => {
                out.extend_from_slice(&json[copied..at]);
                out.extend_from_slice(b"null");
                at += number.len();
                copied = at;
            }
            (b'\\', None) if in_string => at += 2,
            _ => {
                in_string ^= byte == b'"';
                at += 1;
            }
        }
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    out.extend_from_slice(&json[copied..]);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_json_lacks_become_null() {
        for (json, expected) in [
            (&br#"[NaN,Infinity, -Infinity]"#[..], &b"[null,null, null]"[..]),
            (br#"{"a\"NaN": "Infinity\\", "b": NaN}"#, br#"{"a\"NaN": "Infinity\\", "b": null}"#),
            (b"NaN", b"null"),
            (b"[-1, null, true]", b"[-1, null, true]"),
            (b"", b""),
            // Text that is no JSON stays such.
            (b"\"NaN", b"\"NaN"),
            (b"\"\\", b"\"\\"),
            (b"Nan", b"Nan"),
        ] {
            assert_eq!(&*finite(json), expected, "{:?}", String::from_utf8_lossy(json));
        }
        assert!(matches!(finite(br#"{"NaN": 1}"#), Cow::Borrowed(_)));
    }
}
