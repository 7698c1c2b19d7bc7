//! Addresses of files: `https://`, `http://`, `file:`, `hf://` and `s3://`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use impasto_core::files::folder_of;
use impasto_core::name::is_plain;

use crate::disk::Disk;
use crate::error::FetchError;
use crate::http::Http;
use crate::hub::HubFile;
use crate::options::Options;
use crate::remote::Remote;
use crate::url::{Url, shown};

/// Looks up a variable of the environment.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Looks up a variable in the environment of the process; one that is empty is not there.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Where a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// On an HTTP server.
    Http(Url),
    /// In a repository of the Hugging Face hub.
    Hub(HubFile),
    /// In a bucket of S3, or of a service with the same interface.
    #[cfg(feature = "s3")]
    S3(crate::s3::Object),
    /// On this machine.
    File(PathBuf),
}

impl Address {
    /// Parses an address.
    ///
    /// # Errors
    /// [`FetchError::Address`].
    pub fn parse(text: &str) -> Result<Address, FetchError> {
        let wrong = |rule: &str| FetchError::Address { address: shown(text), rule: rule.to_owned() };
        let (scheme, rest) = text.split_once(':').unwrap_or(("", text));
        match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => Url::parse(text).map(Address::Http),
            "hf" => HubFile::parse(rest.strip_prefix("//").unwrap_or(rest)).map(Address::Hub).map_err(wrong),
            #[cfg(feature = "s3")]
            "s3" => crate::s3::Object::parse(rest).map(Address::S3).map_err(wrong),
            #[cfg(not(feature = "s3"))]
            "s3" => Err(wrong("this program was built without the feature `s3`")),
            "file" => {
                let path = rest.strip_prefix("//localhost/").map(|path| format!("/{path}"));
                let path = path.unwrap_or_else(|| rest.strip_prefix("//").unwrap_or(rest).to_owned());
                let path = decode(&path).filter(|path| !path.is_empty());
                path.map(|path| Address::File(path.into())).ok_or_else(|| wrong("not the path of a file"))
            }
            _ => Err(wrong("an address begins with https://, http://, hf://, s3:// or file:")),
        }
    }

    /// Returns the address of a mirror that the delta at this address names: a URL, or a path from its folder.
    ///
    /// # Errors
    /// [`FetchError::Address`] if the mirror is not valid, or names a file on this machine: only a path below the folder of the
    /// delta may do that.
    pub fn mirror(&self, mirror: &str) -> Result<Address, FetchError> {
        let wrong = |rule: &str| FetchError::Address { address: shown(mirror), rule: rule.to_owned() };
        if mirror.contains(':') {
            let address = Address::parse(mirror)?;
            return match address {
                Address::File(_) => Err(wrong("a mirror cannot be a file of this machine")),
                address => Ok(address),
            };
        }
        if !is_plain(mirror) {
            return Err(wrong("neither a URL nor a path below the folder of the delta"));
        }
        match self {
            Address::Http(url) => url.join(&crate::url::encode(mirror, "/")).map(Address::Http),
            Address::Hub(file) => Ok(Address::Hub(file.beside(mirror))),
            #[cfg(feature = "s3")]
            Address::S3(object) => Ok(Address::S3(object.beside(mirror))),
            Address::File(path) => Ok(Address::File(folder_of(path).join(mirror))),
        }
    }

    /// Returns what reads the file. Nothing is asked for yet.
    ///
    /// # Errors
    /// If an option, a variable or a certificate is not valid, or a token would go over http.
    pub fn remote(&self, options: &Options, environment: Environment<'_>) -> Result<Arc<dyn Remote>, FetchError> {
        let shown = self.to_string();
        Ok(match self {
            Address::Http(url) => {
                let url = url.clone();
                Arc::new(Http::new(shown, Box::new(move || Ok(url.clone())), options, options.token.clone())?)
            }
            Address::Hub(file) => {
                let url = file.url(environment)?;
                let token = match &options.token {
                    Some(token) => Some(token.clone()),
                    None => crate::hub::token(environment)?,
                };
                Arc::new(Http::new(shown, Box::new(move || Ok(url.clone())), options, token)?)
            }
            #[cfg(feature = "s3")]
            Address::S3(object) => {
                let signer = object.signer(environment)?;
                Arc::new(Http::new(shown, Box::new(move || signer.url(std::time::SystemTime::now())), options, None)?)
            }
            Address::File(path) => Arc::new(Disk::new(path)),
        })
    }

    /// Returns whether what gives access to one of them is meant for the other, too.
    pub(crate) fn shares_host(&self, other: &Address) -> bool {
        match (self, other) {
            (Address::Http(a), Address::Http(b)) => a.has_origin_of(b),
            (Address::Hub(_), Address::Hub(_)) => true,
            _ => false,
        }
    }

    /// Returns the path, if it is a file of this machine.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Address::File(path) => Some(path),
            _ => None,
        }
    }
}

/// Shows the address without its query.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Http(url) => f.write_str(&shown(url.as_str())),
            Address::Hub(file) => write!(f, "{file}"),
            #[cfg(feature = "s3")]
            Address::S3(object) => write!(f, "{object}"),
            Address::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// Undoes percent-encoding; `None` if it is not valid, or the result is not UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digits = [char::from(bytes.next()?), char::from(bytes.next()?)];
        let [high, low] = [digits[0].to_digit(16)?, digits[1].to_digit(16)?];
        out.push((high * 16 + low) as u8);
    }
    String::from_utf8(out).ok().filter(|text| !text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn schemes() {
        let parsed = |text: &str| Address::parse(text).unwrap().to_string();
        assert_eq!(parsed("https://h/f?sig=x"), "https://h/f");
        assert_eq!(parsed("file:///tmp/a%20b"), "file:/tmp/a b");
        assert_eq!(parsed("file:a"), "file:a");
        assert_eq!(parsed("hf://o/r/f@v1"), "hf://o/r/f@v1");
        for bad in ["", "f", "/tmp/f", "ftp://h/f", "file:", "file:%zz", "http://", "hf://o/r", "file:a%00"] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mirrors() {
        let of = |delta: &str, mirror: &str| {
            Address::parse(delta).unwrap().mirror(mirror).map(|address| address.to_string()).map_err(|e| e.to_string())
        };
        assert_eq!(of("https://h/d/f?q", "base.impasto").unwrap(), "https://h/d/base.impasto");
        assert_eq!(of("https://h/d/f", "a b/c").unwrap(), "https://h/d/a%20b/c");
        assert_eq!(of("https://h/d/f", "https://other/x").unwrap(), "https://other/x");
        assert_eq!(of("hf://o/r/d/f@v1", "base").unwrap(), "hf://o/r/d/base@v1");
        assert_eq!(of("file:/d/f", "base").unwrap(), "file:/d/base");
        for mirror in ["file:///etc/passwd", "/etc/passwd", "../x", ".ssh/id", "ftp://h/x", "//h/x"] {
            assert!(of("https://h/d/f", mirror).is_err(), "{mirror}");
            assert!(of("file:/d/f", mirror).is_err(), "{mirror}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "(hf://|s3://|https://|file:|)\\PC{0,40}", mirror in "\\PC{0,30}") {
            if let Ok(address) = Address::parse(&text) {
                let shown = address.to_string();
                prop_assert!(!shown.contains('\n') || shown.starts_with("file:"));
                let _ = address.mirror(&mirror);
            }
        }

        #[test]
        fn addresses_of_the_hub_lead_to_its_host(text in "[a-z]{1,5}/[a-z]{1,5}/[\\PC]{1,20}") {
            if let Ok(Address::Hub(file)) = Address::parse(&format!("hf://{text}")) {
                let url = file.url(&|_| None).unwrap();
                prop_assert!(url.has_origin_of(&Url::parse("https://huggingface.co/").unwrap()));
                prop_assert!(url.as_str().contains("/resolve/"), "{}", url.as_str());
            }
        }
    }
}
