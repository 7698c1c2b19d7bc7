//! Files that arrive: written by another program, or fetched from an address meanwhile.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use impasto::format::GrowingSource;
#[cfg(feature = "fetch")]
use impasto_fetch::Fetch;

use crate::args::{Args, Streaming};
use crate::exit::UsageError;

/// A file that arrives.
pub struct Incoming {
    pub source: Arc<GrowingSource>,
    /// Where it is.
    #[cfg_attr(not(feature = "serve"), expect(dead_code, reason = "only the server reads it again"))]
    pub file: PathBuf,
    #[cfg(feature = "fetch")]
    fetch: Option<Fetch>,
}

/// Returns an error if a model that does not arrive is an address, or has options that are for one.
pub fn refuse_what_needs_an_address(model: &Path, streaming: &Streaming) -> Result<(), UsageError> {
    if is_address(model) {
        return Err(UsageError("an address needs --stream, or `impasto fetch` first"));
    }
    #[cfg(feature = "fetch")]
    if streaming.link.is_given() {
        return Err(UsageError("options for fetching need --stream and an address"));
    }
    _ = streaming;
    Ok(())
}

/// The name of a model in messages: of an address, without the query, which may hold a secret.
pub fn name_of(model: &Path) -> String {
    let name = model.display().to_string();
    match is_address(model) {
        true => name.split(['?', '#']).next().unwrap_or_default().to_owned(),
        false => name,
    }
}

/// Whether the name of a model is an address, such as https://example.org/m.impasto.
pub fn is_address(model: &Path) -> bool {
    let scheme = model.to_str().and_then(|text| text.split_once("://"));
    scheme.is_some_and(|(scheme, _)| !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        && !model.exists()
}

impl Incoming {
    /// Opens a file that is being written, or begins to fetch one.
    pub fn begin(args: &Args, model: &Path, streaming: &Streaming) -> anyhow::Result<Incoming> {
        if is_address(model) {
            return Incoming::fetch(args, model, streaming);
        }
        #[cfg(feature = "fetch")]
        if streaming.save.is_some() || streaming.link.is_given() {
            return Err(UsageError("--save and options for fetching need an address").into());
        }
        let source = Arc::new(GrowingSource::open(model).with_context(|| model.display().to_string())?);
        Ok(Incoming {
            source,
            file: model.to_owned(),
            #[cfg(feature = "fetch")]
            fetch: None,
        })
    }

    #[cfg(not(feature = "fetch"))]
    fn fetch(_args: &Args, _model: &Path, _streaming: &Streaming) -> anyhow::Result<Incoming> {
        Err(UsageError("this program was built without the feature `fetch`, which addresses need").into())
    }

    #[cfg(feature = "fetch")]
    fn fetch(args: &Args, model: &Path, streaming: &Streaming) -> anyhow::Result<Incoming> {
        use impasto_fetch::{Address, Request};

        let text = model.to_str().context("an address is UTF-8")?;
        let address = Address::parse(text)?;
        let (file, force) = match &streaming.save {
            Some(file) => (file.clone(), false),
            // Of a file of the cache, only the newest is of use.
            None => (cached(text)?, true),
        };
        if !args.quiet {
            eprintln!("fetching to {}", file.display());
        }
        let place = file.clone();
        let request = Request { force, options: streaming.link.options()?, ..Request::new(address, file) };
        let fetch = Fetch::start(request, Arc::new(()))?;
        match fetch.source() {
            Some(source) => Ok(Incoming { source, file: place, fetch: Some(fetch) }),
            None => {
                fetch.join()?;
                anyhow::bail!("{}: nothing came", name_of(model))
            }
        }
    }

    /// Returns whether another program writes the file, so that nobody knows whether more will come.
    pub fn is_written_by_others(&self) -> bool {
        #[cfg(feature = "fetch")]
        return self.fetch.is_none();
        #[cfg(not(feature = "fetch"))]
        true
    }

    /// Returns whether nothing more will come.
    pub fn is_over(&self) -> bool {
        #[cfg(feature = "fetch")]
        return self.fetch.as_ref().is_some_and(|fetch| fetch.progress().is_over);
        #[cfg(not(feature = "fetch"))]
        false
    }

    /// Waits until nothing more will come.
    ///
    /// # Errors
    /// Why not all came.
    pub fn join(&mut self) -> anyhow::Result<()> {
        #[cfg(feature = "fetch")]
        if let Some(fetch) = self.fetch.take() {
            fetch.join()?;
        }
        Ok(())
    }

    /// Gives up what is still arriving. Returns a line about that, or about what went wrong.
    pub fn end(mut self) -> Option<String> {
        if self.is_over() {
            return self.join().err().map(|error| format!("not all of the file came: {error:#}"));
        }
        #[cfg(feature = "fetch")]
        if let Some(fetch) = self.fetch.take() {
            let progress = fetch.progress();
            let of = progress.goal.map_or(0, |goal| goal.bytes);
            let [there, of] = [progress.bytes, of].map(crate::output::bytes);
            return Some(format!("{there} of {of} are there; the next fetch of the same address continues"));
        }
        None
    }
}

/// Returns the file of the cache for an address.
#[cfg(feature = "fetch")]
pub fn cached(address: &str) -> anyhow::Result<PathBuf> {
    let bases = impasto::Bases::cache_folder();
    let folder = bases.as_deref().and_then(Path::parent).map(|folder| folder.join("files"));
    let folder =
        folder.context("there is no cache folder: neither XDG_CACHE_HOME nor HOME is set; name a file with --save")?;
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let hash = blake3::hash(address.as_bytes()).to_hex();
    let last = address.split(['?', '#']).next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    let plain: String = last.chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).take(80).collect();
    Ok(folder.join(format!("{}-{plain}", &hash[..16])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        assert_eq!(name_of(Path::new("https://a.example/b?signature=x")), "https://a.example/b");
        assert_eq!(name_of(Path::new("what?.impasto")), "what?.impasto");
    }

    #[test]
    fn addresses_are_told_from_paths() {
        for address in ["https://a.example/b", "hf://owner/repo/file@main", "s3://bucket/key"] {
            assert!(is_address(Path::new(address)), "{address}");
        }
        for path in ["model.impasto", "./a://b", "://b", "C:/a", "a/b"] {
            assert!(!is_address(Path::new(path)), "{path}");
        }
    }
}
