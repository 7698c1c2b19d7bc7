//! Servers with TLS, and certificates that nobody else trusts.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use impasto_fetch::{FetchError, Options, Request};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::files::{Place, layered, quick, request, run};
use crate::server::{Asked, Reply, Server, Wrap};

/// A certificate authority, and a server with a certificate of it.
pub struct Authority {
    /// The certificate to trust.
    pub pem: String,
    /// The certificate of the server and its key.
    pub leaf_pem: String,
    pub key_pem: String,
    config: Arc<ServerConfig>,
}

pub fn authority() -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&leaf_key, &issuer).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key).unwrap();
    let (leaf_pem, key_pem) = (leaf.pem(), leaf_key.serialize_pem());
    Authority { pem: root.pem(), leaf_pem, key_pem, config: Arc::new(config) }
}

fn serve(authority: &Authority, script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Server {
    let config = authority.config.clone();
    let wrap: Wrap = Arc::new(move |stream: TcpStream| {
        let connection = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
        Ok(Box::new(StreamOwned::new(connection, stream)))
    });
    Server::wrapped("https", wrap, script)
}

#[test]
fn a_certificate_that_is_trusted_or_not() {
    let data = layered(70, 40, 3000);
    let (authority, copy) = (authority(), data.clone());
    let server = serve(&authority, move |asked| Reply::file(&copy, asked));
    let (at, certificates) = (Place::new(), Place::new());
    let asked = request(&server.url("/m"), &at.path("f"));
    let error = run(&asked).unwrap_err();
    assert!(matches!(error, FetchError::Tls { .. }) && error.to_string().contains("--ca-file"), "{error}");
    assert!(!at.path("f").exists());
    let with = |name: &str| {
        let options = Options { ca_file: Some(certificates.path(name)), ..quick() };
        run(&Request { options, ..asked.clone() })
    };
    assert!(matches!(with("none").unwrap_err(), FetchError::Io { .. }));
    std::fs::write(certificates.path("empty"), "nothing").unwrap();
    assert!(with("empty").unwrap_err().to_string().contains("no certificate"));
    std::fs::write(certificates.path("ca"), &authority.pem).unwrap();
    with("ca").unwrap();
    assert_eq!(at.holds(&data), data.len());
}

#[test]
fn https_does_not_become_http() {
    let data = layered(71, 4, 300);
    let plain = Server::of(&data);
    let (authority, to) = (authority(), plain.url("/m"));
    let server = serve(&authority, move |_| Reply::redirect(&to));
    let (at, certificates) = (Place::new(), Place::new());
    std::fs::write(certificates.path("ca"), &authority.pem).unwrap();
    let options = Options { ca_file: Some(certificates.path("ca")), ..quick() };
    let error = run(&Request { options, ..request(&server.url("/m"), &at.path("f")) }).unwrap_err();
    assert!(matches!(error, FetchError::Redirect { .. }) && plain.asked().is_empty(), "{error}");
}

/// Ends the connection after some bytes, as the network may: without the goodbye of TLS, within a record.
struct Truncated(TcpStream, usize);

impl Read for Truncated {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Write for Truncated {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.1 == 0 {
            let _ = self.0.shutdown(std::net::Shutdown::Both);
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let count = self.0.write(&bytes[..bytes.len().min(self.1)])?;
        self.1 -= count;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[test]
fn truncated_tls() {
    let data = layered(72, 40, 3000);
    let (authority, copy) = (authority(), data.clone());
    let config = authority.config.clone();
    let wrap: Wrap = Arc::new(move |stream: TcpStream| {
        let connection = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
        Ok(Box::new(StreamOwned::new(connection, Truncated(stream, 30_003))))
    });
    let has_length = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let of_server = has_length.clone();
    let server = Server::wrapped("https", wrap, move |asked| {
        let reply = Reply::file(&copy, asked);
        // Without a length, only TLS can say where the body ends.
        let has_length = of_server.load(std::sync::atomic::Ordering::SeqCst);
        if has_length { reply } else { reply.with("Transfer-Encoding", "identity").with("Connection", "close") }
    });
    let (at, certificates) = (Place::new(), Place::new());
    std::fs::write(certificates.path("ca"), &authority.pem).unwrap();
    let options = Options { ca_file: Some(certificates.path("ca")), ..quick() };
    let asked = Request { options, ..request(&server.url("/m"), &at.path("f")) };
    let done = run(&asked).unwrap();
    assert!(done.retries > 0, "{done:?}");
    assert_eq!(at.holds(&data), data.len());
    std::fs::remove_file(at.path("f")).unwrap();
    has_length.store(false, std::sync::atomic::Ordering::SeqCst);
    run(&asked).unwrap();
    assert_eq!(at.holds(&data), data.len());
}
