//! Fetches that end early, and are continued.

use std::sync::Arc;

use impasto_fetch::{Cancel, FetchError, Options, Request, fetch};

use crate::files::{Place, layered, open, request, run};
use crate::server::{Reply, Server};

/// Whatever was left of a file, by us or by another program, the next fetch gives the whole one.
#[test]
fn a_file_that_was_cut_at_any_byte_is_continued() {
    let data = layered(20, 12, 400);
    let server = Server::of(&data);
    let at = Place::new();
    let asked = Request {
        options: Options { connections: 2, ..request("file:x", &at.path("f")).options },
        ..request(&server.url("/m"), &at.path("f"))
    };
    let manifest = open(&data).header().manifest_end() as usize;
    let reader = open(&data);
    let ends = (0..=reader.units().len() as u32).map(|units| reader.prefix_length(units) as usize);
    let near_ends = ends.flat_map(|end| [end.saturating_sub(1), end, end + 1]);
    let cuts = (manifest..data.len()).step_by(67).chain(near_ends).filter(|cut| (manifest..=data.len()).contains(cut));
    for cut in cuts {
        std::fs::write(at.path("f"), &data[..cut]).unwrap();
        let done = run(&asked).unwrap();
        assert!(done.bytes_before <= cut as u64 && done.bytes_before + 500 > cut as u64, "{cut}: {done:?}");
        assert_eq!(at.holds(&data), data.len(), "{cut}");
    }
    // Not even the manifest is whole: it is begun anew.
    for cut in [0, 10, 64, manifest - 1] {
        std::fs::write(at.path("f"), &data[..cut]).unwrap();
        run(&asked).unwrap();
        assert_eq!(at.holds(&data), data.len(), "{cut}");
        // But only if it is the beginning of this file.
        let other = &layered(24, 12, 400)[..cut];
        std::fs::write(at.path("f"), other).unwrap();
        if cut > 16 {
            assert!(matches!(run(&asked).unwrap_err(), FetchError::Occupied { .. }), "{cut}");
            assert_eq!(std::fs::read(at.path("f")).unwrap(), other);
        }
    }
}

#[test]
fn what_is_damaged_in_the_file_is_fetched_again() {
    let data = layered(21, 12, 400);
    let server = Server::of(&data);
    let at = Place::new();
    for byte in [data.len() - 1, data.len() / 2] {
        let mut bytes = data.clone();
        bytes[byte] ^= 1;
        bytes.extend(b"more");
        std::fs::write(at.path("f"), bytes).unwrap();
        run(&request(&server.url("/m"), &at.path("f"))).unwrap();
        assert_eq!(at.holds(&data), data.len());
    }
}

#[test]
fn a_cancelled_fetch_is_continued() {
    struct After(u32, Cancel);
    impl impasto_fetch::Watch for After {
        fn arrived(&self, units: u32, _bytes: u64) {
            if units >= self.0 {
                self.1.cancel();
            }
        }
    }
    let data = layered(22, 30, 3000);
    let server = Server::of(&data);
    let at = Place::new();
    let asked = request(&server.url("/m"), &at.path("f"));
    let mut before = 0;
    for units in [25, 35, 50] {
        let cancel = Cancel::default();
        let error = fetch(&asked, Arc::new(After(units, cancel.clone())), &cancel).unwrap_err();
        assert!(matches!(error, FetchError::Cancelled), "{error}");
        let length = at.holds(&data);
        assert!(length as u64 >= open(&data).prefix_length(units) && length >= before && length < data.len());
        before = length;
    }
    let done = run(&asked).unwrap();
    assert_eq!(done.bytes_before as usize, before);
    assert_eq!(at.holds(&data), data.len());
}

/// The server breaks off every answer after some bytes: what came before is not asked for again.
#[test]
fn answers_that_break_off() {
    let data = layered(23, 40, 3000);
    let copy = data.clone();
    let server = Server::start(move |asked| {
        let reply = Reply::file(&copy, asked);
        if asked.number == 0 { reply } else { reply.cut(5000) }
    });
    let at = Place::new();
    let done = run(&request(&server.url("/m"), &at.path("f"))).unwrap();
    assert_eq!(at.holds(&data), data.len());
    assert!(done.retries > 10, "{done:?}");
    assert_eq!(done.received, data.len() as u64, "no byte came twice");
}
