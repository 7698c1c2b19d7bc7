//! Files of the Hugging Face hub.

use std::fmt;
use std::path::PathBuf;

use crate::address::Environment;
use crate::error::FetchError;
use crate::options::Secret;
use crate::url::{Url, encode};

/// A file of a repository of the hub: `hf://[datasets/]OWNER/REPO/PATH[@REVISION]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubFile {
    /// `datasets/`, `spaces/`, or empty for a model.
    kind: &'static str,
    /// Owner and name.
    repo: String,
    path: String,
    /// A branch, a tag or a commit.
    revision: String,
}

impl HubFile {
    /// Parses what follows `hf://`.
    pub(crate) fn parse(text: &str) -> Result<HubFile, &'static str> {
        let kinds = [("datasets/", "datasets/"), ("spaces/", "spaces/"), ("models/", "")];
        let found = kinds.iter().find_map(|(prefix, kind)| Some((*kind, text.strip_prefix(prefix)?)));
        let (kind, rest) = found.unwrap_or(("", text));
        let (whole, revision) = rest.rsplit_once('@').unwrap_or((rest, "main"));
        let mut parts = whole.splitn(3, '/');
        let (Some(owner), Some(repo), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            return Err("an address of the hub is hf://OWNER/REPO/PATH, with @REVISION if it is not main");
        };
        let is_name = |name: &str| {
            !name.is_empty()
                && !name.starts_with('.')
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        };
        if !is_name(owner) || !is_name(repo) {
            return Err("the owner or the name of the repository is not valid");
        }
        let is_good = |text: &str| !text.split('/').any(|part| matches!(part, "" | "." | ".."));
        if !is_good(path) || !is_good(revision) || text.chars().any(char::is_control) {
            return Err("the path or the revision is not valid");
        }
        Ok(HubFile { kind, repo: format!("{owner}/{repo}"), path: path.to_owned(), revision: revision.to_owned() })
    }

    /// Returns the file at a path from the folder of this one.
    pub(crate) fn beside(&self, path: &str) -> HubFile {
        let folder = self.path.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        HubFile { path: format!("{folder}{path}"), ..self.clone() }
    }

    /// Returns the URL that leads to the file: at `HF_ENDPOINT`, or the public hub.
    pub(crate) fn url(&self, environment: Environment<'_>) -> Result<Url, FetchError> {
        let endpoint = environment("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let HubFile { kind, repo, path, revision } = self;
        let endpoint = endpoint.trim_end_matches('/');
        Url::parse(&format!("{endpoint}/{kind}{repo}/resolve/{}/{}", encode(revision, ""), encode(path, "/")))
    }
}

impl fmt::Display for HubFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HubFile { kind, repo, path, revision } = self;
        write!(f, "hf://{kind}{repo}/{}@{}", impasto_core::name::shown(path), impasto_core::name::shown(revision))
    }
}

/// Returns the token of the hub, from where its own clients look for it: `HF_TOKEN`, then the file `HF_TOKEN_PATH`, then the file
/// `token` in `HF_HOME` (or in `huggingface` in the cache folder).
pub(crate) fn token(environment: Environment<'_>) -> Result<Option<Secret>, FetchError> {
    if let Some(token) = environment("HF_TOKEN") {
        return Secret::new(&token, "HF_TOKEN").map(Some);
    }
    let cache = || {
        let cache = environment("XDG_CACHE_HOME").map(PathBuf::from);
        Some(cache.or_else(|| Some(PathBuf::from(environment("HOME")?).join(".cache")))?.join("huggingface"))
    };
    let home = || environment("HF_HOME").map(PathBuf::from).or_else(cache);
    let path = environment("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(home()?.join("token")));
    // A file that cannot be read is as good as none: most files on the hub need no token.
    let text = path.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
    match (path, text) {
        (Some(path), Some(text)) if !text.trim().is_empty() => {
            Secret::new(&text, &path.display().to_string()).map(Some)
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> String {
        HubFile::parse(text).unwrap().url(&|_| None).unwrap().as_str().to_owned()
    }

    #[test]
    fn addresses() {
        assert_eq!(url("o/r/a/b.impasto"), "https://huggingface.co/o/r/resolve/main/a/b.impasto");
        assert_eq!(url("o/r/b c@v 1"), "https://huggingface.co/o/r/resolve/v%201/b%20c");
        assert_eq!(url("datasets/o/r/b@refs/pr/1"), "https://huggingface.co/datasets/o/r/resolve/refs%2Fpr%2F1/b");
        let mirror =
            HubFile::parse("o/r/b").unwrap().url(&|name| (name == "HF_ENDPOINT").then(|| "http://h:1/".into()));
        assert_eq!(mirror.unwrap().as_str(), "http://h:1/o/r/resolve/main/b");
        for bad in ["", "o", "o/r", "o/r/", "/r/f", "o/../f", "o/r/../f", "o/r/a//f", "o/r/f@", "o r/r/f", "o/r/f@.."] {
            assert!(HubFile::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tokens_are_found_where_the_hub_has_them() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        let found = |variables: &[(&str, String)]| {
            let get = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
            token(&get).unwrap().map(|token| token.bearer().unwrap().value.to_str().unwrap().to_owned())
        };
        let text = |path: PathBuf| path.display().to_string();
        let user = ("HOME", text(home.path().to_owned()));
        assert_eq!(found(&[]), None);
        assert_eq!(found(std::slice::from_ref(&user)), None);
        std::fs::create_dir_all(at(".cache/huggingface")).unwrap();
        std::fs::write(at(".cache/huggingface/token"), "one\n").unwrap();
        assert_eq!(found(std::slice::from_ref(&user)).unwrap(), "Bearer one");
        std::fs::write(at("token"), "two").unwrap();
        let hub = ("HF_HOME", text(home.path().to_owned()));
        assert_eq!(found(&[user.clone(), hub.clone()]).unwrap(), "Bearer two");
        std::fs::write(at("other"), "three").unwrap();
        let path = ("HF_TOKEN_PATH", text(at("other")));
        assert_eq!(found(&[user.clone(), hub.clone(), path.clone()]).unwrap(), "Bearer three");
        assert_eq!(found(&[user, hub, path, ("HF_TOKEN", "four".into())]).unwrap(), "Bearer four");
    }
}
