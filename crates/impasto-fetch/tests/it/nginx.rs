//! A real server: nginx, if it is installed. With `IMPASTO_REQUIRE_NGINX=1` it must be.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use impasto_fetch::{Extent, FetchError, Options, Request};

use crate::files::{Place, layered, quick, request, run};
use crate::tls::authority;

/// A running nginx, which serves a folder over http and https.
struct Nginx {
    process: Child,
    folder: tempfile::TempDir,
    ports: [u16; 2],
}

impl Nginx {
    /// Starts it; `None` if it is not installed and need not be.
    fn start() -> Option<Nginx> {
        let is_there = Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_ok();
        if !is_there {
            let is_required = std::env::var_os("IMPASTO_REQUIRE_NGINX").is_some_and(|value| value == "1");
            assert!(!is_required, "nginx is not installed");
            println!("SKIPPED: nginx is not installed");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let authority = authority();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        fs::create_dir(folder.path().join("root")).unwrap();
        write("ca.pem", &authority.pem);
        write("leaf.pem", &authority.leaf_pem);
        write("key.pem", &authority.key_pem);
        // Both are free now, and bound again at once.
        let free = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = free.each_ref().map(|listener| listener.local_addr().unwrap().port());
        drop(free);
        let [http, https] = ports;
        let at = folder.path().display();
        let paths =
            ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|what| format!("{what}_temp_path {at}/{what};"));
        write(
            "nginx.conf",
            &format!(
                "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log; events {{}} http {{
                access_log {at}/access.log; {}
                server {{ listen 127.0.0.1:{http}; root {at}/root; location /slow/ {{ alias {at}/root/; limit_rate 400k; }} }}
                server {{ listen 127.0.0.1:{https} ssl; ssl_certificate {at}/leaf.pem; ssl_certificate_key {at}/key.pem;
                root {at}/root; }} }}",
                paths.join(" ")
            ),
        );
        let mut command = Command::new("nginx");
        command.arg("-c").arg(folder.path().join("nginx.conf")).stderr(Stdio::null());
        let process = command.spawn().unwrap();
        let nginx = Nginx { process, folder, ports };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", https)).is_err() {
            let log = || fs::read_to_string(nginx.folder.path().join("error.log")).unwrap_or_default();
            assert!(begun.elapsed() < Duration::from_secs(10), "nginx does not start: {}", log());
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(nginx)
    }

    /// Puts a file where it is served.
    fn serve(&self, name: &str, data: &[u8]) {
        let path = self.folder.path().join("root").join(name);
        fs::write(self.folder.path().join("new"), data).unwrap();
        fs::rename(self.folder.path().join("new"), path).unwrap();
    }

    /// What was asked for, as in its log.
    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("access.log")).unwrap()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn ranges_over_http_and_https() {
    let Some(nginx) = Nginx::start() else { return };
    let data = layered(100, 60, 5000);
    nginx.serve("m", &data);
    let [http, https] = nginx.ports;
    let options = Options { ca_file: Some(nginx.folder.path().join("ca.pem")), ..quick() };
    for url in [format!("http://127.0.0.1:{http}/m"), format!("https://127.0.0.1:{https}/m")] {
        let at = Place::new();
        let asked = Request { options: options.clone(), ..request(&url, &at.path("f")) };
        let base = run(&Request { extent: Extent::Layer(1), ..asked.clone() }).unwrap();
        assert_eq!(at.holds(&data) as u64, base.bytes);
        let rest = run(&asked).unwrap();
        assert_eq!((at.holds(&data), rest.bytes_before, rest.retries), (data.len(), base.bytes, 0));
        assert!(base.received + rest.received < data.len() as u64 + (2 << 16));
    }
    let log = nginx.log();
    assert!(log.lines().count() > 20 && log.lines().all(|line| line.contains(" 206 ")), "{log}");
}

#[test]
fn a_file_that_nginx_cuts_off_is_continued() {
    let Some(mut nginx) = Nginx::start() else { return };
    let data = layered(101, 60, 5000);
    nginx.serve("m", &data);
    let at = Place::new();
    let mut asked = request(&format!("http://127.0.0.1:{}/slow/m", nginx.ports[0]), &at.path("f"));
    asked.options.tries = 2;
    asked.options.connections = 1;
    asked.options.chunk = 1 << 20;
    let fetch = impasto_fetch::Fetch::start(asked.clone(), std::sync::Arc::new(())).unwrap();
    fetch.wait(Duration::from_secs(10), |now| now.units > 25);
    nginx.process.kill().unwrap();
    nginx.process.wait().unwrap();
    fetch.join().unwrap_err();
    let before = at.holds(&data);
    assert!(before > 100_000 && before < data.len(), "{before}");

    let Some(nginx) = Nginx::start() else { return };
    nginx.serve("m", &data);
    let url = format!("http://127.0.0.1:{}/m", nginx.ports[0]);
    let done = run(&request(&url, &at.path("f"))).unwrap();
    assert_eq!((done.bytes_before as usize, at.holds(&data)), (before, data.len()));
}

#[test]
fn a_file_that_is_replaced_midway() {
    let Some(nginx) = Nginx::start() else { return };
    let (one, two) = (layered(102, 60, 5000), layered(103, 60, 5001));
    nginx.serve("m", &one);
    let at = Place::new();
    let mut asked = request(&format!("http://127.0.0.1:{}/slow/m", nginx.ports[0]), &at.path("f"));
    asked.options.connections = 1;
    let fetch = impasto_fetch::Fetch::start(asked, std::sync::Arc::new(())).unwrap();
    fetch.wait(Duration::from_secs(10), |now| now.units > 25);
    nginx.serve("m", &two);
    let error = fetch.join().unwrap_err();
    assert!(matches!(error, FetchError::Changed { .. }), "{error}");
    at.holds(&one);
    // `If-Range` is answered with the whole file, which is not read.
    assert!(nginx.log().lines().any(|line| line.contains(" 200 ")), "{}", nginx.log());
}
