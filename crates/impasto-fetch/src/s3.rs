//! Objects of S3 and of services with the same interface: URLs that are signed for an hour (AWS Signature Version 4, in the query).

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use ring::{digest, hmac};

use crate::address::Environment;
use crate::date::date;
use crate::error::FetchError;
use crate::job::hex;
use crate::url::{Url, encode};

/// For how many seconds a URL is signed. Each request has one of its own.
const EXPIRES: u64 = 3600;

/// An object: `s3://BUCKET/KEY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    bucket: String,
    key: String,
}

impl Object {
    /// Parses what follows `s3:`.
    pub(crate) fn parse(text: &str) -> Result<Object, &'static str> {
        let parts = text.strip_prefix("//").and_then(|rest| rest.split_once('/'));
        let (bucket, key) = parts.ok_or("an address of S3 is s3://BUCKET/KEY")?;
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
        let ends = |end: Option<char>| end.is_some_and(|c| c.is_ascii_alphanumeric());
        let is_bucket = (3..=63).contains(&bucket.len())
            && bucket.bytes().all(is_name)
            && ends(bucket.chars().next())
            && ends(bucket.chars().last());
        if !is_bucket {
            return Err("the name of the bucket is not valid");
        }
        if key.is_empty() || key.chars().any(char::is_control) {
            return Err("the key is not valid");
        }
        Ok(Object { bucket: bucket.to_owned(), key: key.to_owned() })
    }

    /// Returns the object at a path from the folder of this one.
    pub(crate) fn beside(&self, path: &str) -> Object {
        let folder = self.key.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        Object { key: format!("{folder}{path}"), bucket: self.bucket.clone() }
    }

    /// Returns what makes URLs, with the credentials and the endpoint of the environment. Without credentials, URLs are not signed.
    pub(crate) fn signer(&self, environment: Environment<'_>) -> Result<Signer, FetchError> {
        let region = environment("AWS_REGION").or_else(|| environment("AWS_DEFAULT_REGION"));
        let region = region.unwrap_or_else(|| "us-east-1".to_owned());
        let endpoint = environment("AWS_ENDPOINT_URL_S3").or_else(|| environment("AWS_ENDPOINT_URL"));
        let Object { bucket, key } = self;
        let root = match endpoint {
            Some(endpoint) => format!("{}/{bucket}", endpoint.trim_end_matches('/')),
            // A certificate of the service does not cover names of hosts with further dots.
            None if bucket.contains('.') => format!("https://s3.{region}.amazonaws.com/{bucket}"),
            None => format!("https://{bucket}.s3.{region}.amazonaws.com"),
        };
        let place = Url::parse(&format!("{root}/{}", encode(key, "/")))?;
        let credentials = environment("AWS_ACCESS_KEY_ID").zip(environment("AWS_SECRET_ACCESS_KEY"));
        let credentials =
            credentials.map(|(id, secret)| Credentials { id, secret, session: environment("AWS_SESSION_TOKEN") });
        Ok(Signer { place, region, credentials })
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, impasto_core::name::shown(&self.key))
    }
}

struct Credentials {
    id: String,
    secret: String,
    session: Option<String>,
}

/// Makes URLs of an object.
pub(crate) struct Signer {
    place: Url,
    region: String,
    credentials: Option<Credentials>,
}

impl Signer {
    /// Returns a URL that is valid from `now` on.
    pub fn url(&self, now: SystemTime) -> Result<Url, FetchError> {
        self.url_for(now, EXPIRES)
    }

    fn url_for(&self, now: SystemTime, expires: u64) -> Result<Url, FetchError> {
        let Some(Credentials { id, secret, session }) = &self.credentials else { return Ok(self.place.clone()) };
        let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let (year, month, day) = date(seconds / 86400);
        let clock = seconds % 86400;
        let day = format!("{year:04}{month:02}{day:02}");
        let time = format!("{day}T{:02}{:02}{:02}Z", clock / 3600, clock / 60 % 60, clock % 60);
        let scope = format!("{day}/{}/s3/aws4_request", self.region);

        // In the order of their names.
        let mut query = vec![
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256".to_owned()),
            ("X-Amz-Credential", format!("{id}/{scope}")),
            ("X-Amz-Date", time.clone()),
            ("X-Amz-Expires", expires.to_string()),
        ];
        query.extend(session.clone().map(|session| ("X-Amz-Security-Token", session)));
        query.push(("X-Amz-SignedHeaders", "host".to_owned()));
        let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={}", encode(value, ""))).collect();
        let query = query.join("&");

        let (_, rest) = self.place.as_str().split_once("://").unwrap_or_default();
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let request = format!("GET\n{path}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD");
        let hash = hex(digest::digest(&digest::SHA256, request.as_bytes()).as_ref());
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{hash}");
        let first = format!("AWS4{secret}").into_bytes();
        let steps = [day.as_str(), &self.region, "s3", "aws4_request", &text];
        let signature = steps.iter().fold(first, |key, step| {
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), step.as_bytes()).as_ref().to_vec()
        });
        Url::parse(&format!("{}?{query}&X-Amz-Signature={}", self.place.as_str(), hex(&signature)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(Object::parse("//bucket/a/b c").unwrap().to_string(), "s3://bucket/a/b c");
        assert_eq!(Object::parse("//bucket/a/b").unwrap().beside("c/d").to_string(), "s3://bucket/a/c/d");
        for bad in
            ["", "bucket/key", "//bucket", "//bucket/", "//b/k", "//Bucket/k", "//-ab/k", "//a_b/k", "//bucket/a\nb"]
        {
            assert!(Object::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn endpoints() {
        let of = |address: &str, variables: &[(&str, &str)]| {
            let get = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, v)| (*v).to_owned());
            Object::parse(address).unwrap().signer(&get).unwrap().url(UNIX_EPOCH).unwrap().as_str().to_owned()
        };
        assert_eq!(of("//bucket/a b", &[]), "https://bucket.s3.us-east-1.amazonaws.com/a%20b");
        assert_eq!(of("//a.b.c/k", &[("AWS_REGION", "eu-1")]), "https://s3.eu-1.amazonaws.com/a.b.c/k");
        assert_eq!(of("//bucket/k", &[("AWS_ENDPOINT_URL", "http://h:9/")]), "http://h:9/bucket/k");
        let signed = of(
            "//bucket/k",
            &[
                ("AWS_ENDPOINT_URL", "http://h:9"),
                ("AWS_ACCESS_KEY_ID", "id"),
                ("AWS_SECRET_ACCESS_KEY", "secret"),
                ("AWS_SESSION_TOKEN", "a+b/c="),
            ],
        );
        assert!(signed.contains("X-Amz-Security-Token=a%2Bb%2Fc%3D&") && !signed.contains("secret"), "{signed}");
    }

    /// The example in "Authenticating Requests: Using Query Parameters" of the S3 API Reference.
    #[test]
    fn the_documented_example() {
        let signer = Signer {
            place: Url::parse("https://examplebucket.s3.amazonaws.com/test.txt").unwrap(),
            region: "us-east-1".to_owned(),
            credentials: Some(Credentials {
                id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
                secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
                session: None,
            }),
        };
        let now = UNIX_EPOCH + Duration::from_secs(1_369_353_600);
        let url = signer.url_for(now, 86400).unwrap();
        let signature = "X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
        assert!(url.as_str().ends_with(signature), "{}", url.as_str());
    }
}
