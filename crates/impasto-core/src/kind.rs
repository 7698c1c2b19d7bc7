//! Detects the type of a file from its first bytes, to say what it is if it is not what a reader expects.

use std::fmt;

/// A type of file that is often found in place of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// An .impasto file.
    Impasto,
    /// A safetensors file.
    Safetensors,
    /// A GGUF file.
    Gguf,
    /// The text that Git LFS keeps in place of a file.
    LfsPointer,
    /// A web page or another XML document, such as the error page of a server.
    WebPage,
    /// A zip archive, such as the checkpoints of `torch.save`.
    Zip,
    /// A Python pickle, such as older checkpoints of PyTorch.
    Pickle,
    /// Other text, such as the error message of a server.
    Text,
}

impl FileKind {
    /// The first bytes of an .impasto file (SPEC 2.1).
    pub const IMPASTO_MAGIC: [u8; 8] = *b"\x89IMP\r\n\x1a\n";
    /// The first bytes of a GGUF file.
    pub const GGUF_MAGIC: [u8; 4] = *b"GGUF";

    /// Returns the kind of a file that begins with these bytes, if it is known. The first 64 bytes suffice.
    pub fn of(begin: &[u8]) -> Option<FileKind> {
        let begin = &begin[..begin.len().min(64)];
        let is_printed = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
        Some(match begin {
            // A header of less than 4 GiB. This comes first, since its length may look like anything.
            [_, _, _, _, 0, 0, 0, 0, b'{', ..] => FileKind::Safetensors,
            _ if begin.starts_with(&FileKind::IMPASTO_MAGIC) => FileKind::Impasto,
            _ if begin.starts_with(&FileKind::GGUF_MAGIC) => FileKind::Gguf,
            [b'P', b'K', 3, 4, ..] => FileKind::Zip,
            [0x80, 2..=5, ..] => FileKind::Pickle,
            _ if begin.starts_with(b"version https://git-lfs") => FileKind::LfsPointer,
            _ if is_markup(begin) => FileKind::WebPage,
            _ if begin.len() >= 8 && begin.iter().all(is_printed) => FileKind::Text,
            _ => return None,
        })
    }

    /// Returns what to do with the file, as the end of a message; may be empty.
    pub fn advice(self) -> &'static str {
        match self {
            FileKind::LfsPointer => ": `git lfs pull` fetches the file",
            FileKind::Zip | FileKind::Pickle => ": convert it to safetensors",
            _ => "",
        }
    }
}

/// Whether text begins like HTML or XML.
fn is_markup(begin: &[u8]) -> bool {
    let text = begin.strip_prefix(b"\xef\xbb\xbf").unwrap_or(begin).trim_ascii_start();
    let starts = |tag: &&[u8]| text.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag));
    [&b"<!doctype"[..], b"<html", b"<?xml"].iter().any(starts)
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            FileKind::Impasto => "an Impasto file",
            FileKind::Safetensors => "a safetensors file",
            FileKind::Gguf => "a GGUF file",
            FileKind::LfsPointer => "a Git LFS pointer",
            FileKind::WebPage => "a web page",
            FileKind::Zip => "a zip archive (PyTorch?)",
            FileKind::Pickle => "a Python pickle (PyTorch?)",
            FileKind::Text => "text",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_apart() {
        for (begin, kind) in [
            (&b"\x89IMP\r\n\x1a\n\x01\0"[..], Some(FileKind::Impasto)),
            (b"\x08\0\0\0\0\0\0\0{\"a\"", Some(FileKind::Safetensors)),
            // The length of this header is spelled like the magic of a zip archive.
            (b"PK\x03\x04\0\0\0\0{", Some(FileKind::Safetensors)),
            (b"GGUF\x03\0\0\0", Some(FileKind::Gguf)),
            (b"PK\x03\x04\0\0\x08\x08", Some(FileKind::Zip)),
            (b"\x80\x02}q\0", Some(FileKind::Pickle)),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", Some(FileKind::LfsPointer)),
            (b"<!DOCTYPE html><html>", Some(FileKind::WebPage)),
            (b"\xef\xbb\xbf\n <HTML lang=en>", Some(FileKind::WebPage)),
            (b"<?xml version='1.0'?><Error>", Some(FileKind::WebPage)),
            (b"{\"error\": \"Access denied\"}", Some(FileKind::Text)),
            (b"Entry not found", Some(FileKind::Text)),
            (b"Entry", None),
            (b"\x01\x02\x03", None),
        ] {
            assert_eq!(FileKind::of(begin), kind, "{begin:?}");
        }
    }
}
