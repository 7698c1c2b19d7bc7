//! Deltas, and their bases from mirrors.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use impasto_container::Base;
use impasto_fetch::{BaseFile, Bringer, Cancel, FetchError, bring_bases};

use crate::files::{Place, delta, layered, open, quick, request, run};
use crate::server::{Reply, Server};

fn nowhere(_: &Path, _: &Base) -> Option<PathBuf> {
    None
}

/// Fetches a delta and its bases; those go to the folder `cache`.
fn bring(at: &Place, url: &str) -> Result<Vec<BaseFile>, FetchError> {
    let asked = request(url, &at.path("delta"));
    run(&asked)?;
    let bringer = Bringer {
        folder: at.path("cache"),
        find: &nowhere,
        limits: asked.limits.clone(),
        options: quick(),
        cancel: Cancel::default(),
        watch: &|_| Arc::new(()),
    };
    bring_bases(&at.path("delta"), &asked.address, &bringer)
}

/// A server of several files.
fn serve(files: Vec<(&str, Vec<u8>)>) -> Server {
    let files: Vec<(String, Vec<u8>)> = files.into_iter().map(|(name, data)| (format!("/{name}"), data)).collect();
    Server::start(move |asked| {
        let found = files.iter().find(|(name, _)| *name == asked.path);
        found.map_or_else(|| Reply::status(404), |(_, data)| Reply::file(data, asked))
    })
}

fn name_in_cache(data: &[u8]) -> String {
    format!("{}.impasto", open(data).root().iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

#[test]
fn a_base_from_a_mirror_once() {
    let base = layered(90, 10, 500);
    // The first mirrors are not there, not allowed, or another file.
    let other = layered(91, 10, 500);
    let mirrors = ["http://127.0.0.1:9/x", "file:///etc/hostname", "other", "sub/base"];
    let server = serve(vec![("d", delta(&base, Some(1), &mirrors)), ("sub/base", base.clone()), ("other", other)]);
    let at = Place::new();
    let bases = bring(&at, &server.url("/d")).unwrap();
    assert_eq!((bases.len(), bases[0].name.as_str(), &bases[0].root), (1, "base", open(&base).root()));
    assert_eq!(bases[0].path, at.path("cache").join(name_in_cache(&base)));
    assert_eq!(std::fs::read(&bases[0].path).unwrap(), base);
    assert!(bases[0].fetched.is_some());
    let before = server.asked().len();
    let bases = bring(&at, &server.url("/d")).unwrap();
    assert!(bases[0].fetched.is_none());
    assert_eq!(server.asked().len(), before + 1, "only the delta is looked at");
}

#[test]
fn as_much_of_a_base_as_is_needed() {
    let base = layered(92, 10, 500);
    let low = delta(&base, Some(0), &["base"]);
    let (high, adapter) = (delta(&base, Some(1), &["base"]), delta(&base, None, &["base"]));
    let server = serve(vec![("low", low), ("high", high), ("adapter", adapter), ("base", base.clone())]);
    let at = Place::new();
    let units = |name: &str| {
        std::fs::remove_file(at.path("delta")).ok();
        bring(&at, &server.url(name)).unwrap()[0].fetched.as_ref().map(|done| done.units)
    };
    assert_eq!((units("/low"), units("/low")), (Some(11), None));
    assert_eq!((units("/high"), units("/adapter")), (Some(22), None), "the file in the cache is continued");
}

#[test]
fn a_chain() {
    let base = layered(93, 10, 500);
    let middle = delta(&base, Some(1), &["base"]);
    let top = delta_of_delta(&middle);
    let server = serve(vec![("d", top), ("middle", middle), ("base", base)]);
    let at = Place::new();
    let bases = bring(&at, &server.url("/d")).unwrap();
    assert_eq!(bases.len(), 2);
    let again = bring(&at, &server.url("/d")).unwrap();
    assert!(again.iter().all(|base| base.fetched.is_none()));
}

/// An adapter of a delta.
fn delta_of_delta(of: &[u8]) -> Vec<u8> {
    // Its object 0 is an asset, so the tensor is not used.
    delta(of, None, &["middle"])
}

#[test]
fn a_chain_without_end() {
    let mut files = vec![("0".to_owned(), layered(94, 2, 50))];
    for n in 1..20 {
        let before = format!("{}", n - 1);
        let data = delta(&files[n - 1].1, None, &[&before]);
        files.push((n.to_string(), data));
    }
    let server = serve(files.iter().map(|(name, data)| (name.as_str(), data.clone())).collect());
    let error = bring(&Place::new(), &server.url("/19")).unwrap_err();
    assert!(matches!(error, FetchError::Depth { most: 16, .. }), "{error}");
    assert_eq!(bring(&Place::new(), &server.url("/15")).unwrap().len(), 15);
}

#[test]
fn no_mirror_has_it() {
    let base = layered(95, 4, 100);
    let server = serve(vec![("d", delta(&base, Some(1), &["gone", "/etc/passwd"])), ("e", delta(&base, Some(1), &[]))]);
    let error = bring(&Place::new(), &server.url("/d")).unwrap_err().to_string();
    for says in ["\"base\"", &name_in_cache(&base)[..64], "404", "neither a URL nor a path"] {
        assert!(error.contains(says), "{error}");
    }
    assert!(bring(&Place::new(), &server.url("/e")).unwrap_err().to_string().contains("no mirrors"));
}

#[test]
fn what_opens_the_delta_is_not_for_its_mirrors() {
    let base = layered(96, 4, 100);
    let mirror = serve(vec![("base", base.clone())]);
    let server = serve(vec![("d", delta(&base, Some(1), &[&mirror.url("/base")]))]);
    let at = Place::new();
    let mut asked = request(&server.url("/d"), &at.path("delta"));
    asked.options.token = Some(impasto_fetch::Secret::new("secret", "here").unwrap());
    asked.options.headers = vec![impasto_fetch::Header::parse("X-Key: secret").unwrap()];
    run(&asked).unwrap();
    let bringer = Bringer {
        folder: at.path("cache"),
        find: &nowhere,
        limits: asked.limits.clone(),
        options: asked.options.clone(),
        cancel: Cancel::default(),
        watch: &|_| Arc::new(()),
    };
    assert_eq!(bring_bases(&at.path("delta"), &asked.address, &bringer).unwrap().len(), 1);
    assert!(server.asked()[0].header("authorization").is_some());
    let open = mirror.asked().iter().any(|asked| asked.header("authorization").or(asked.header("x-key")).is_some());
    assert!(!open && !mirror.asked().is_empty());
}
