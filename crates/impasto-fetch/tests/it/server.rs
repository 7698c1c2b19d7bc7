//! A server for tests: it answers as a script says, and remembers what it was asked.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// A request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its number, from 0.
    pub number: usize,
    /// Path and query.
    pub path: String,
    headers: Vec<(String, String)>,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The bytes that are asked for, if it is a request for a range.
    pub fn range(&self) -> Option<Range<usize>> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some(first.parse().ok()?..last.parse::<usize>().ok()? + 1)
    }
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Bytes of the body after which the connection is closed.
    pub cut: Option<usize>,
    /// A wait before the answer.
    pub delay: Duration,
    /// Bytes that are sent at once, and the wait after each.
    pub pace: Option<(usize, Duration)>,
    /// Whether the headers, too, are sent at that pace.
    pub slow_headers: bool,
}

impl Reply {
    pub fn status(status: u16) -> Reply {
        Reply { status, ..Reply::default() }
    }

    /// The whole of a file.
    pub fn whole(data: &[u8]) -> Reply {
        Reply { status: 200, body: data.to_vec(), ..Reply::default() }
    }

    /// What a good server answers: the range that is asked for, or the whole file; with an ETag.
    pub fn file(data: &[u8], asked: &Asked) -> Reply {
        Reply::version(data, asked, "\"one\"")
    }

    /// The same with this ETag, under which `If-Range` is minded.
    pub fn version(data: &[u8], asked: &Asked, etag: &str) -> Reply {
        let is_same = asked.header("if-range").is_none_or(|condition| condition == etag);
        let reply = match asked.range().filter(|_| is_same) {
            None => Reply::whole(data),
            Some(range) if range.start >= data.len() => {
                Reply::status(416).with("Content-Range", &format!("bytes */{}", data.len()))
            }
            Some(range) => Reply::part(data, range.start..range.end.min(data.len())),
        };
        reply.with("ETag", etag)
    }

    /// A part of a file.
    pub fn part(data: &[u8], range: Range<usize>) -> Reply {
        let reply = Reply { status: 206, body: data[range.clone()].to_vec(), ..Reply::default() };
        reply.with("Content-Range", &format!("bytes {}-{}/{}", range.start, range.end - 1, data.len()))
    }

    pub fn redirect(to: &str) -> Reply {
        Reply::status(302).with("Location", to)
    }

    pub fn with(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn cut(self, at: usize) -> Reply {
        Reply { cut: Some(at), ..self }
    }

    pub fn paced(self, bytes: usize, wait: Duration) -> Reply {
        Reply { pace: Some((bytes, wait)), ..self }
    }
}

type Script = dyn Fn(&Asked) -> Reply + Send + Sync;

/// A server, until it is dropped.
pub struct Server {
    address: SocketAddr,
    scheme: &'static str,
    asked: Arc<Mutex<Vec<Asked>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Wraps a connection, as TLS does.
pub type Wrap = Arc<dyn Fn(TcpStream) -> io::Result<Box<dyn Stream>> + Send + Sync>;

pub trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

impl Server {
    pub fn start(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Server {
        Server::wrapped("http", Arc::new(|stream| Ok(Box::new(stream))), script)
    }

    pub fn wrapped(
        scheme: &'static str,
        wrap: Wrap,
        script: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, is_over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (log, over, script): (_, _, Arc<Script>) = (asked.clone(), is_over.clone(), Arc::new(script));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (log, script, wrap, over) = (log.clone(), script.clone(), wrap.clone(), over.clone());
                std::thread::spawn(move || {
                    let Ok(stream) = stream else { return };
                    let _ = stream.set_nodelay(true);
                    let Ok(socket) = stream.try_clone() else { return };
                    let _ = wrap(stream).and_then(|stream| serve(stream, &log, &*script, &over));
                    let _ = socket.shutdown(Shutdown::Both);
                });
            }
        });
        Server { address, scheme, asked, is_over, thread: Some(thread) }
    }

    /// A server of one file.
    pub fn of(data: &[u8]) -> Server {
        let data = data.to_vec();
        Server::start(move |asked| Reply::file(&data, asked))
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.host())
    }

    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Answers the requests of a connection.
fn serve(stream: Box<dyn Stream>, log: &Mutex<Vec<Asked>>, script: &Script, over: &AtomicBool) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Ok(());
            }
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let line = lines.first().cloned().unwrap_or_default();
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let header = |line: &String| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
        let asked = {
            let mut log = log.lock().unwrap();
            let asked = Asked { number: log.len(), path, headers: lines.iter().skip(1).filter_map(header).collect() };
            log.push(asked.clone());
            asked
        };
        let reply = script(&asked);
        std::thread::sleep(reply.delay);
        let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
        let has = |name: &str| reply.headers.iter().any(|(key, _)| key.eq_ignore_ascii_case(name));
        if !has("content-length") && !has("transfer-encoding") {
            head += &format!("Content-Length: {}\r\n", reply.body.len());
        }
        reply.headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        head += "\r\n";
        let stream = stream.get_mut();
        send(stream, head.as_bytes(), reply.pace.filter(|_| reply.slow_headers), over)?;
        let body = &reply.body[..reply.cut.unwrap_or(reply.body.len()).min(reply.body.len())];
        send(stream, body, reply.pace, over)?;
        if reply.cut.is_some() {
            return Ok(());
        }
    }
}

fn send(stream: &mut dyn Stream, bytes: &[u8], pace: Option<(usize, Duration)>, over: &AtomicBool) -> io::Result<()> {
    let (count, wait) = pace.unwrap_or((usize::MAX, Duration::ZERO));
    for piece in bytes.chunks(count.min(bytes.len().max(1))) {
        stream.write_all(piece)?;
        stream.flush()?;
        if over.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        std::thread::sleep(wait);
    }
    Ok(())
}
