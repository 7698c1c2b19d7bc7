//! A file that is read while it arrives.

use std::sync::Arc;
use std::time::Duration;

use impasto_container::{Limits, Reader, Source, UnitState};
use impasto_fetch::{Fetch, FetchError};

use crate::files::{Place, layered, open, request};
use crate::server::{Reply, Server};

#[test]
fn units_appear() {
    let data = layered(60, 40, 3000);
    let copy = data.clone();
    // 3,000 bytes every few milliseconds, on each connection.
    let server = Server::start(move |asked| {
        let reply = Reply::file(&copy, asked);
        if asked.number == 0 { reply } else { reply.paced(3000, Duration::from_millis(5)) }
    });
    let at = Place::new();
    let fetch = Fetch::start(request(&server.url("/m"), &at.path("f")), Arc::new(())).unwrap();
    let source = fetch.source().unwrap();
    let limits = Limits { allow_expansion: true, ..Limits::default() };
    let mut reader = Reader::open(source.clone(), "f", &limits).unwrap();
    let whole = open(&data);
    let units = whole.units().len() as u32;
    let mut seen = Vec::new();
    loop {
        let progress = fetch.wait(Duration::from_secs(5), |now| Some(&now.units) > seen.last());
        reader.refresh().unwrap();
        let there =
            (0..units).take_while(|unit| reader.unit_state(*unit).unwrap() == UnitState::Present).count() as u32;
        assert!(there >= progress.units, "a unit that was told of is there");
        (0..there).for_each(|unit| assert_eq!(reader.read_unit(unit).unwrap(), whole.read_unit(unit).unwrap()));
        assert!(source.read_at(source.len(), 1 << 20).is_err(), "nothing past the prefix is read");
        seen.push(there);
        if there == units {
            break;
        }
    }
    assert!(seen.len() > 3, "{seen:?}");
    assert_eq!(fetch.join().unwrap().units, units);
    assert!(!reader.is_cut());
    assert_eq!(at.holds(&data), data.len());
}

#[test]
fn errors_and_cancelling() {
    let data = layered(61, 40, 3000);
    let copy = data.clone();
    let server = Server::start(move |asked| {
        let delay = Duration::from_secs(if asked.number == 0 { 0 } else { 20 });
        Reply { delay, ..Reply::file(&copy, asked) }
    });
    let at = Place::new();
    let mut slow = request(&server.url("/m"), &at.path("f"));
    slow.options.answer = Duration::from_secs(60);
    slow.options.stall = Duration::from_secs(60);
    let fetch = Fetch::start(slow.clone(), Arc::new(())).unwrap();
    assert!(fetch.source().is_some());
    let begun = std::time::Instant::now();
    fetch.canceller().cancel();
    assert!(matches!(fetch.join().unwrap_err(), FetchError::Cancelled));
    drop(Fetch::start(slow, Arc::new(())).unwrap());
    assert!(begun.elapsed() < Duration::from_secs(5), "requests are interrupted");
    at.holds(&data);

    let server = Server::start(|_| Reply::status(404));
    let fetch = Fetch::start(request(&server.url("/m"), &at.path("g")), Arc::new(())).unwrap();
    assert!(fetch.source().is_none());
    assert!(fetch.wait(Duration::from_secs(5), |_| false).is_over);
    assert!(matches!(fetch.join().unwrap_err(), FetchError::Status { status: 404, .. }));
}

#[test]
fn a_file_that_is_read_is_not_begun_anew() {
    let (one, two) = (layered(62, 40, 3000), layered(63, 40, 3000));
    let (old, new) = (one.clone(), two);
    let server = Server::start(move |asked| {
        if asked.number == 0 {
            let length = open(&old).header().manifest_end() as usize;
            return Reply::part(&old, 0..length).with("ETag", "\"one\"");
        }
        Reply { delay: Duration::from_millis(200), ..Reply::version(&new, asked, "\"two\"") }
    });
    let at = Place::new();
    let fetch = Fetch::start(request(&server.url("/m"), &at.path("f")), Arc::new(())).unwrap();
    fetch.source().unwrap();
    assert!(matches!(fetch.join().unwrap_err(), FetchError::Changed { .. }));
    at.holds(&one);
}

/// A watch that fails ends the work, and nobody waits for it.
#[test]
fn a_watch_that_panics() {
    struct Panics;
    impl impasto_fetch::Watch for Panics {
        fn arrived(&self, units: u32, _bytes: u64) {
            assert!(units < 50, "as this test wants it");
        }
    }
    let data = layered(64, 40, 3000);
    let server = Server::of(&data);
    let at = Place::new();
    let fetch = Fetch::start(request(&server.url("/m"), &at.path("f")), Arc::new(Panics)).unwrap();
    assert!(matches!(fetch.join().unwrap_err(), FetchError::Threads { .. }));
    assert_eq!(at.holds(&data) as u64, open(&data).prefix_length(50));
}
