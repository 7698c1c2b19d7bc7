//! Servers that do what they should not, one test for each.

use std::time::{Duration, Instant};

use impasto_fetch::{FetchError, Options, Request};

use crate::files::{Place, impatient, layered, open, quick, request, run, run_told};
use crate::server::{Asked, Reply, Server};

/// Fetches from a server, and checks that the file is whole.
fn succeeds(data: &[u8], script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> (Server, impasto_fetch::Done) {
    let server = Server::start(script);
    let at = Place::new();
    let (done, told) = run_told(&request(&server.url("/m"), &at.path("f")));
    let done = done.unwrap_or_else(|error| panic!("{error}: {:?}", told.errors.lock().unwrap()));
    assert_eq!(at.holds(data), data.len());
    (server, done)
}

/// Fetches from a server, and returns the error. What is there then is a prefix, or nothing.
fn fails(data: &[u8], script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> (Server, FetchError) {
    let server = Server::start(script);
    let at = Place::new();
    let error = run(&request(&server.url("/m"), &at.path("f"))).unwrap_err();
    if at.path("f").exists() {
        at.holds(data);
    }
    (server, error)
}

#[test]
fn no_ranges_falls_back_to_one_stream() {
    let data = layered(30, 40, 3000);
    let copy = data.clone();
    let (server, done) = succeeds(&data, move |_| Reply::whole(&copy));
    assert_eq!((server.asked().len(), done.received), (1, data.len() as u64));
}

#[test]
fn no_ranges_after_the_first_answer_falls_back_to_one_stream() {
    let data = layered(31, 40, 3000);
    let copy = data.clone();
    let (server, done) = succeeds(&data, move |asked| {
        if asked.number == 0 { Reply::file(&copy, asked) } else { Reply::whole(&copy).with("ETag", "\"one\"") }
    });
    assert!(server.asked().len() <= 6, "{}", server.asked().len());
    assert!(done.received < data.len() as u64 + (1 << 17), "the bodies of all but one are not read: {}", done.received);
}

#[test]
fn a_stream_that_breaks_off_begins_again() {
    let data = layered(32, 40, 3000);
    let copy = data.clone();
    let (_, done) = succeeds(&data, move |asked| match asked.number {
        n @ 0..8 => Reply::whole(&copy).cut(70_000 + 20_000 * n),
        _ => Reply::whole(&copy),
    });
    assert!(done.retries >= 8, "each time it got further: {done:?}");
}

#[test]
fn the_rest_of_a_file_from_a_server_without_ranges() {
    let data = layered(33, 40, 3000);
    let (copy, at) = (data.clone(), Place::new());
    std::fs::write(at.path("f"), &data[..150_000]).unwrap();
    let server = Server::start(move |_| Reply::whole(&copy));
    run(&request(&server.url("/m"), &at.path("f"))).unwrap();
    assert_eq!((at.holds(&data), server.asked().len()), (data.len(), 1));
}

#[test]
fn a_stream_with_a_damaged_unit() {
    let data = layered(34, 40, 3000);
    let mut bad = data.clone();
    bad[100_000] ^= 1;
    let (copy, worse) = (data.clone(), bad.clone());
    succeeds(&data, move |asked| Reply::whole(if asked.number == 0 { &worse } else { &copy }));
    let (server, error) = fails(&data, move |_| Reply::whole(&bad));
    assert!(matches!(error, FetchError::Damaged { tries: 3, .. }), "{error}");
    assert!(server.asked().len() < 8);
}

#[test]
fn a_wrong_range() {
    let data = layered(35, 40, 3000);
    let copy = data.clone();
    // Once in a while the answer is another part of the file.
    let (_, done) = succeeds(&data, move |asked| {
        let range = asked.range().unwrap();
        match asked.number % 4 {
            2 => Reply::part(&copy, range.start + 1..range.end.min(copy.len())),
            3 => Reply::part(&copy, range.start..(range.end + 1).min(copy.len())).with("X", "y"),
            _ => Reply::file(&copy, asked),
        }
    });
    assert!(done.retries > 2, "{done:?}");
    let copy = data.clone();
    let (server, error) = fails(&data, move |_| Reply::part(&copy, 10..20));
    assert!(
        error.to_string().contains("bytes 0 to 65536 were asked for, but the answer is Content-Range: bytes 10-19/"),
        "{error}"
    );
    assert_eq!(server.asked().len(), 6);
}

#[test]
fn a_part_that_does_not_say_which() {
    let data = layered(36, 4, 300);
    let (_, error) = fails(&data, |_| Reply { status: 206, body: vec![1; 100], ..Reply::default() });
    assert!(error.to_string().contains("does not say which"), "{error}");
}

#[test]
fn shorter_parts_than_asked_for() {
    let data = layered(37, 40, 3000);
    let copy = data.clone();
    succeeds(&data, move |asked| {
        let range = asked.range().unwrap();
        Reply::part(&copy, range.start..range.end.min(copy.len()).min(range.start + 7000))
    });
}

#[test]
fn a_file_that_changes_midway() {
    let (one, two) = (layered(38, 40, 3000), layered(39, 40, 3000));
    // Nothing is kept yet: it is begun anew.
    let (old, new) = (one.clone(), two.clone());
    succeeds(&two, move |asked| {
        if asked.number == 0 {
            // All of it but the manifest is missing.
            let length = open(&old).header().manifest_end() as usize;
            return Reply::part(&old, 0..length).with("ETag", "\"one\"");
        }
        Reply::version(&new, asked, "\"two\"")
    });
    // Units are kept: it is refused.
    let (old, new) = (one.clone(), two.clone());
    let (_, error) = fails(&one, move |asked| {
        if asked.number < 3 { Reply::version(&old, asked, "\"one\"") } else { Reply::version(&new, asked, "\"two\"") }
    });
    assert!(matches!(error, FetchError::Changed { .. }) && error.to_string().contains("units of"), "{error}");
    // A server that has only If-Match semantics, so to speak.
    let (old, new) = (one.clone(), two.clone());
    let (_, error) = fails(&one, move |asked| match asked.number {
        0..3 => Reply::version(&old, asked, "\"one\""),
        _ if asked.header("if-range").is_some() => Reply::status(412),
        _ => Reply::version(&new, asked, "\"two\""),
    });
    assert!(matches!(error, FetchError::Changed { .. }), "{error}");
    // No versions at all: hashes notice it.
    let (old, new) = (one.clone(), two.clone());
    let (_, error) = fails(&one, move |asked| {
        let range = asked.range().unwrap();
        let data = if asked.number < 3 { &old } else { &new };
        Reply::part(data, range.start..range.end.min(data.len()))
    });
    assert!(matches!(error, FetchError::Changed { .. }), "{error}");
}

#[test]
fn a_file_that_changes_on_a_server_without_ranges() {
    let (one, two) = (layered(58, 40, 3000), layered(59, 40, 3000));
    let (old, new) = (one.clone(), two.clone());
    let (_, error) = fails(&one, move |asked| match asked.number {
        0 => Reply::whole(&old).with("ETag", "\"one\"").cut(150_000),
        _ => Reply::whole(&new).with("ETag", "\"two\""),
    });
    assert!(matches!(error, FetchError::Changed { .. }) && error.to_string().contains("units of"), "{error}");
    let (old, new) = (one.clone(), two.clone());
    let manifest = open(&one).header().manifest_end() as usize;
    succeeds(&two, move |asked| match asked.number {
        0 => Reply::whole(&old).with("ETag", "\"one\"").cut(manifest + 10),
        _ => Reply::whole(&new).with("ETag", "\"two\""),
    });
}

#[test]
fn another_version_of_the_same_file() {
    // As from a farm of servers, which disagree about the ETag.
    let data = layered(40, 40, 3000);
    let copy = data.clone();
    succeeds(&data, move |asked| Reply::version(&copy, asked, &format!("\"{}\"", asked.number % 3)));
}

#[test]
fn a_damaged_unit_is_fetched_again_and_then_named() {
    let data = layered(41, 40, 3000);
    let bad = |data: &[u8]| {
        let mut bytes = data.to_vec();
        bytes[200_000] ^= 1;
        bytes
    };
    let (good, copy) = (data.clone(), bad(&data));
    let unit = (0..82).find(|unit| open(&data).unit_range(*unit).unwrap().contains(&200_000)).unwrap();
    let place = open(&data).unit_range(unit).unwrap();
    let (server, _) = succeeds(&data, move |asked| {
        let is_first = asked.range().unwrap().len() > 5000;
        Reply::file(if is_first { &copy } else { &good }, asked)
    });
    let again =
        server.asked().iter().filter(|asked| asked.range() == Some(place.start as usize..place.end as usize)).count();
    assert_eq!(again, 1, "only the unit is fetched again");
    let copy = bad(&data);
    let (_, error) = fails(&data, move |asked| Reply::file(&copy, asked));
    assert!(matches!(error, FetchError::Damaged { tries: 3, .. }), "{error}");
    assert!(
        error.to_string().contains(&open(&data).unit_place(unit)) && error.to_string().contains("of \"w\""),
        "{error}"
    );
}

#[test]
fn a_damaged_manifest_is_fetched_again() {
    let data = layered(42, 40, 3000);
    let copy = data.clone();
    let bad = move |data: &[u8]| {
        let mut bytes = data.to_vec();
        bytes[100] ^= 1;
        bytes
    };
    succeeds(&data, move |asked| Reply::file(&if asked.number == 0 { bad(&copy) } else { copy.clone() }, asked));
    let copy = bad(&data);
    let (server, error) = fails(&data, move |asked| Reply::file(&copy, asked));
    assert!(error.to_string().contains("SPEC 2.3"), "{error}");
    assert_eq!(server.asked().len(), 3);
}

#[test]
fn redirects_in_a_circle() {
    let data = layered(43, 4, 300);
    let (_, error) = fails(&data, |asked| Reply::redirect(if asked.path == "/a" { "/b" } else { "/a" }));
    assert!(matches!(error, FetchError::RedirectLoop { .. }), "{error}");
}

#[test]
fn redirects_without_end() {
    let data = layered(44, 4, 300);
    let (server, error) = fails(&data, |asked| Reply::redirect(&format!("/{}?secret", asked.number)));
    assert!(matches!(error, FetchError::Redirects { .. }) && !error.to_string().contains("secret"), "{error}");
    assert_eq!(server.asked().len(), 11);
}

#[test]
fn redirects_to_where_they_must_not_lead() {
    let data = layered(45, 4, 300);
    for to in ["file:///etc/passwd", "ftp://h/x", "http://user:secret@h/x", ""] {
        let (_, error) = fails(&data, move |_| if to.is_empty() { Reply::status(302) } else { Reply::redirect(to) });
        let text = error.to_string();
        assert!(matches!(error, FetchError::Redirect { .. }) && !text.contains("secret"), "{text}");
    }
}

#[test]
fn a_redirect_that_expires() {
    let data = layered(46, 40, 3000);
    let copy = data.clone();
    let valid = std::sync::atomic::AtomicUsize::new(0);
    let (server, _) = succeeds(&data, move |asked| {
        use std::sync::atomic::Ordering::SeqCst;
        if asked.path == "/m" {
            valid.store(asked.number, SeqCst);
            return Reply::redirect(&format!("/signed-{}", asked.number));
        }
        let is_old = asked.number > valid.load(SeqCst) + 5;
        if is_old { Reply::status(403) } else { Reply::file(&copy, asked) }
    });
    assert!(server.asked().iter().filter(|asked| asked.path == "/m").count() > 1);
}

#[test]
fn a_slow_loris_of_a_body() {
    let data = layered(47, 4, 300);
    let copy = data.clone();
    let begun = Instant::now();
    let server = Server::start(move |asked| Reply::file(&copy, asked).paced(1, Duration::from_millis(40)));
    let at = Place::new();
    let asked = request(&server.url("/m"), &at.path("f"));
    let error = run(&Request { options: Options { tries: 2, least_rate: 100, ..impatient() }, ..asked }).unwrap_err();
    assert!(error.to_string().contains("too slow"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_byte_for_each_request() {
    let data = layered(57, 40, 3000);
    let copy = data.clone();
    let (server, error) = fails(&data, move |asked| {
        let reply = Reply::file(&copy, asked);
        if asked.number == 0 { reply } else { reply.cut(1) }
    });
    assert!(matches!(error, FetchError::GaveUp { tries: 6, .. }), "{error}");
    assert!(server.asked().len() < 30);
}

#[test]
fn a_slow_loris_of_headers() {
    let data = layered(48, 4, 300);
    let copy = data.clone();
    let server = Server::start(move |asked| Reply {
        slow_headers: true,
        ..Reply::file(&copy, asked).paced(1, Duration::from_millis(40))
    });
    let at = Place::new();
    let asked = request(&server.url("/m"), &at.path("f"));
    let error = run(&Request { options: Options { tries: 1, ..impatient() }, ..asked }).unwrap_err();
    assert!(matches!(&error, FetchError::Timeout { phase, .. } if phase.contains("answer")), "{error}");
}

#[test]
fn a_body_that_stalls() {
    let data = layered(49, 40, 3000);
    let copy = data.clone();
    let server = Server::start(move |asked| {
        let reply = Reply::file(&copy, asked);
        if asked.number == 3 { reply.paced(10_000, Duration::from_millis(900)) } else { reply }
    });
    let at = Place::new();
    let done = run(&Request { options: impatient(), ..request(&server.url("/m"), &at.path("f")) }).unwrap();
    assert!(done.retries >= 1, "{done:?}");
    assert_eq!(at.holds(&data), data.len());
}

#[test]
fn no_answer() {
    let data = layered(50, 4, 300);
    let server = Server::start(|_| Reply { delay: Duration::from_millis(900), ..Reply::status(200) });
    let at = Place::new();
    let asked = request(&server.url("/m"), &at.path("f"));
    let error = run(&Request { options: Options { tries: 1, ..impatient() }, ..asked }).unwrap_err();
    assert!(matches!(&error, FetchError::Timeout { .. }), "{error}");
    assert!(!at.path("f").exists() && !data.is_empty());
    // Nobody listens.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let asked = request(&format!("http://{free}/m"), &at.path("f"));
    let (result, told) = run_told(&asked);
    let error = result.unwrap_err();
    assert!(
        matches!(&error, FetchError::GaveUp { tries: 6, .. }) && error.to_string().contains("cannot connect"),
        "{error}"
    );
    assert_eq!(told.errors.lock().unwrap().len(), 5);
}

#[test]
fn too_many_requests_with_a_time_to_wait() {
    let data = layered(51, 40, 3000);
    let copy = data.clone();
    let server = Server::start(move |asked| match asked.number {
        0 | 3 => Reply::status(429).with("Retry-After", "0"),
        1 => Reply::status(503).with("Retry-After", "7000"),
        2 => Reply::status(500),
        _ => Reply::file(&copy, asked),
    });
    let at = Place::new();
    let (done, told) = run_told(&request(&server.url("/m"), &at.path("f")));
    assert_eq!((done.unwrap().retries, at.holds(&data)), (4, data.len()));
    let waits = told.waits.lock().unwrap();
    assert_eq!(waits[1], quick().longest_wait, "what is asked for is done, up to a bound");
    assert!(told.errors.lock().unwrap()[0].contains("429"));
}

#[test]
fn errors_that_stay() {
    let data = layered(52, 4, 300);
    for (status, says) in
        [(401, "token"), (403, "token"), (404, "no such file"), (410, "no such file"), (400, "400"), (304, "304")]
    {
        let (server, error) = fails(&data, move |_| Reply::status(status));
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(server.asked().len(), 1, "{status}");
    }
    let (server, error) = fails(&data, |_| Reply::status(500));
    assert!(matches!(error, FetchError::GaveUp { .. }), "{error}");
    assert_eq!(server.asked().len(), 6);
}

#[test]
fn coded_answers() {
    let data = layered(53, 4, 300);
    let copy = data.clone();
    let (server, error) = fails(&data, move |asked| Reply::file(&copy, asked).with("Content-Encoding", "gzip"));
    assert!(matches!(&error, FetchError::Coding { coding, .. } if coding == "gzip"), "{error}");
    assert_eq!(server.asked().len(), 1);
    let copy = data.clone();
    succeeds(&data, move |asked| Reply::file(&copy, asked).with("Content-Encoding", "identity"));
}

#[test]
fn hostile_lengths() {
    let data = layered(54, 4, 300);
    // A manifest that would fill memory.
    let mut bytes = data.clone();
    bytes[16..24].copy_from_slice(&(1u64 << 32).to_le_bytes());
    let copy = bytes.clone();
    let (_, error) = fails(&data, move |asked| Reply::file(&copy, asked));
    assert!(error.to_string().contains("over the limit"), "{error}");
    // A manifest that is longer than the file, and a total that is a lie.
    bytes[16..24].copy_from_slice(&(1u64 << 27).to_le_bytes());
    let copy = bytes.clone();
    let (_, error) = fails(&data, move |asked| Reply::file(&copy, asked));
    assert!(matches!(error, FetchError::Short { .. }), "{error}");
    let (_, error) = fails(&data, move |_| {
        let reply = Reply { status: 206, body: bytes.clone(), ..Reply::default() };
        reply.with("Content-Range", &format!("bytes 0-{}/{}", bytes.len() - 1, 1u64 << 40))
    });
    assert!(matches!(error, FetchError::GaveUp { .. }), "{error}");
    // An endless body.
    let copy = data.clone();
    let (_, error) = fails(&data, move |_| Reply { status: 200, body: vec![b'x'; 1 << 20], ..Reply::whole(&copy) });
    assert!(error.to_string().contains("not an Impasto file"), "{error}");
    let copy = data.clone();
    succeeds(&data, move |_| Reply::whole(&[&copy[..], &[0; 1 << 20]].concat()).with("Content-Length", "9999999999"));
}

#[test]
fn a_file_that_is_cut_on_the_server() {
    let data = layered(55, 40, 3000);
    let copy = data[..200_000].to_vec();
    let server = Server::start(move |asked| Reply::file(&copy, asked));
    let at = Place::new();
    let error = run(&request(&server.url("/m"), &at.path("f"))).unwrap_err();
    assert!(matches!(error, FetchError::Short { has: 200_000, .. }), "{error}");
    assert!(at.holds(&data) > 195_000, "what is there was fetched");
}

#[test]
fn other_files() {
    let data = layered(56, 4, 300);
    let (_, error) = fails(&data, |_| Reply::whole(b"<html>Please log in.</html>"));
    assert!(error.to_string().contains("not an Impasto file"), "{error}");
    let (_, error) = fails(&data, |_| Reply::whole(b""));
    assert!(error.to_string().contains("ends at byte 0"), "{error}");
}
