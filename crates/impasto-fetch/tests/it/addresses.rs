//! Addresses of the hub and of S3, with local servers in their places.

use std::collections::BTreeMap;
use std::sync::Arc;

use impasto_fetch::remote::Wanted;
use impasto_fetch::{Address, Options};

use crate::files::{layered, quick};
use crate::server::{Reply, Server};

/// Reads the first bytes at an address, with these variables in the environment.
fn first(address: &str, variables: &[(&str, String)], options: &Options) -> Result<Vec<u8>, String> {
    let variables: BTreeMap<&str, String> = variables.iter().cloned().collect();
    let remote =
        Address::parse(address).and_then(|address| address.remote(options, &|name| variables.get(name).cloned()));
    let remote = remote.map_err(|error| error.to_string())?;
    let mut answer = remote.open(&Wanted { range: Some(0..100), version: None }).map_err(|error| error.to_string())?;
    let mut bytes = vec![0; 100];
    let mut have = 0;
    while have < bytes.len() {
        match answer.body.read(&mut bytes[have..]).map_err(|error| error.to_string())? {
            0 => break,
            count => have += count,
        }
    }
    bytes.truncate(have);
    Ok(bytes)
}

/// As the hub answers: a redirect to another host, with the ETag of the file there.
#[test]
fn the_hub() {
    let data = Arc::new(layered(80, 4, 300));
    let storage = {
        let data = data.clone();
        Server::start(move |asked| Reply::file(&data, asked))
    };
    let to = storage.url("/repos/o/r/hash?X-Amz-Signature=secret");
    let hub = Server::start(move |asked| {
        let is_private = asked.path.starts_with("/o/private/");
        if is_private && asked.header("authorization") != Some("Bearer hf_token") {
            return Reply::status(401).with("X-Error-Code", "RepoNotFound");
        }
        match asked.path.as_str() {
            "/o/r/resolve/main/m.impasto"
            | "/datasets/o/r/resolve/refs%2Fpr%2F1/a/m.impasto"
            | "/o/private/resolve/v1/m.impasto" => Reply::redirect(&to)
                .with("X-Linked-ETag", "\"hash\"")
                .with("X-Linked-Size", "1000")
                .with("ETag", "\"x\""),
            _ => Reply::status(404).with("X-Error-Code", "EntryNotFound"),
        }
    });
    let endpoint = ("HF_ENDPOINT", hub.url("/"));
    let token = ("HF_TOKEN", "hf_token".to_owned());
    let get = |address: &str, variables: &[(&str, String)]| first(address, variables, &quick());
    assert_eq!(get("hf://o/r/m.impasto", std::slice::from_ref(&endpoint)).unwrap(), &data[..100]);
    assert_eq!(get("hf://datasets/o/r/a/m.impasto@refs/pr/1", std::slice::from_ref(&endpoint)).unwrap(), &data[..100]);
    let error = get("hf://o/private/m.impasto@v1", std::slice::from_ref(&endpoint)).unwrap_err();
    assert!(error.contains("401") && error.contains("token"), "{error}");
    assert_eq!(get("hf://o/private/m.impasto@v1", &[endpoint.clone(), token]).unwrap(), &data[..100]);
    assert!(get("hf://o/r/other", std::slice::from_ref(&endpoint)).unwrap_err().contains("404"));
    assert!(storage.asked().iter().all(|asked| asked.header("authorization").is_none()), "no token for the storage");
    // A token is not sent over http to another machine, wherever it was found.
    let far = ("HF_ENDPOINT", "http://192.0.2.1".to_owned());
    let error = get("hf://o/r/m.impasto", &[far, ("HF_TOKEN", "hf_token".to_owned())]).unwrap_err();
    assert!(error.contains("https") && !error.contains("hf_token"), "{error}");
}

#[cfg(feature = "s3")]
#[test]
fn s3() {
    let data = Arc::new(layered(81, 4, 300));
    let copy = data.clone();
    let server = Server::start(move |asked| Reply::file(&copy, asked));
    let endpoint = ("AWS_ENDPOINT_URL", server.url(""));
    let keys = [("AWS_ACCESS_KEY_ID", "id".to_owned()), ("AWS_SECRET_ACCESS_KEY", "very-secret".to_owned())];
    assert_eq!(first("s3://bucket/a b", std::slice::from_ref(&endpoint), &quick()).unwrap(), &data[..100]);
    let [id, secret] = keys;
    assert_eq!(first("s3://bucket/a b", &[endpoint, id, secret], &quick()).unwrap(), &data[..100]);
    let paths: Vec<String> = server.asked().iter().map(|asked| asked.path.clone()).collect();
    assert_eq!(paths[0], "/bucket/a%20b");
    assert!(paths[1].starts_with("/bucket/a%20b?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=id%2F"), "{paths:?}");
    assert!(!paths[1].contains("very-secret"));
}

#[cfg(not(feature = "s3"))]
#[test]
fn s3_is_refused_by_name() {
    assert!(first("s3://bucket/key", &[], &quick()).unwrap_err().contains("feature"));
}
