//! Servers that do as they should.

use std::time::Duration;

use impasto_fetch::{Extent, FetchError, Header, Options, Request, Secret};

use crate::files::{Place, layered, open, request, run, run_told};
use crate::server::{Reply, Server};

#[test]
fn a_whole_file() {
    let data = layered(1, 60, 5000);
    let server = Server::of(&data);
    let at = Place::new();
    let (done, told) = run_told(&request(&server.url("/m"), &at.path("f")));
    let done = done.unwrap();
    assert_eq!(at.holds(&data), data.len());
    let units = open(&data).units().len() as u32;
    assert_eq!(
        (done.units, done.units_of, done.bytes, done.bytes_of),
        (units, units, data.len() as u64, data.len() as u64)
    );
    assert_eq!((done.layers, done.layers_of, done.retries), (3, 3, 0));
    assert_eq!((done.received, done.requests as usize), (data.len() as u64, server.asked().len()));
    assert_eq!(*told.units.lock().unwrap(), (0..=units).collect::<Vec<_>>(), "every unit is told of, in order");
    assert_eq!(told.goals.lock().unwrap().len(), 1);

    // The manifest comes first; then ranges follow each other. Nothing is asked for twice.
    let mut ranges: Vec<_> = server.asked().iter().map(|asked| asked.range().unwrap()).collect();
    assert_eq!(ranges[0], 0..1 << 16);
    ranges.sort_by_key(|range| range.start);
    assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start), "{ranges:?}");
    assert!(ranges.len() > 8 && ranges.iter().skip(1).all(|range| range.len() < 60_000), "{ranges:?}");
    let ends: Vec<u64> = (0..=units).map(|units| open(&data).prefix_length(units)).collect();
    assert!(ranges[1..].iter().all(|range| ends.contains(&(range.end as u64))), "ranges end where units end");
    // The first request has no version to ask for; the others do.
    let conditions: Vec<_> = server.asked().iter().map(|asked| asked.header("if-range").map(str::to_owned)).collect();
    assert_eq!(conditions[0], None);
    assert!(conditions[1..].iter().all(|condition| condition.as_deref() == Some("\"one\"")));
    assert!(server.asked().iter().all(|asked| asked.header("accept-encoding") == Some("identity")));

    // Again: nothing but the beginning is asked for.
    let before = server.asked().len();
    let again = run(&request(&server.url("/m"), &at.path("f"))).unwrap();
    assert_eq!((server.asked().len() - before, again.bytes_before), (1, data.len() as u64));
}

#[test]
fn ranges_are_in_flight_at_once() {
    let data = layered(2, 60, 5000);
    let (copy, inside) = (data.clone(), std::sync::Arc::new(std::sync::Mutex::new((0, 0))));
    let of_server = inside.clone();
    let server = Server::start(move |asked| {
        let mut count = of_server.lock().unwrap();
        *count = (count.0 + 1, count.1.max(count.0 + 1));
        drop(count);
        std::thread::sleep(Duration::from_millis(20));
        of_server.lock().unwrap().0 -= 1;
        Reply::file(&copy, asked)
    });
    let at = Place::new();
    run(&request(&server.url("/m"), &at.path("f"))).unwrap();
    assert_eq!(at.holds(&data), data.len());
    assert_eq!(inside.lock().unwrap().1, 4);
}

#[test]
fn a_small_file_takes_one_request() {
    let data = layered(3, 3, 100);
    let server = Server::of(&data);
    let at = Place::new();
    assert_eq!(run(&request(&server.url("/m"), &at.path("f"))).unwrap().requests, 1);
    assert_eq!(at.holds(&data), data.len());
}

#[test]
fn a_manifest_that_is_longer_than_the_guess() {
    let data = layered(4, 2000, 40);
    let server = Server::of(&data);
    let at = Place::new();
    assert!(open(&data).header().manifest_end() > 1 << 16);
    run(&request(&server.url("/m"), &at.path("f"))).unwrap();
    assert_eq!(at.holds(&data), data.len());
    assert_eq!(server.asked()[1].range().unwrap(), 1 << 16..open(&data).header().manifest_end() as usize);
}

#[test]
fn units_that_are_longer_than_a_range() {
    let data = layered(5, 4, 150_000);
    let server = Server::of(&data);
    let at = Place::new();
    run(&request(&server.url("/m"), &at.path("f"))).unwrap();
    assert_eq!(at.holds(&data), data.len());
    assert!(server.asked().len() > 20);
}

#[test]
fn a_budget_a_layer_and_bits_per_weight() {
    let data = layered(6, 40, 3000);
    let reader = open(&data);
    let server = Server::of(&data);
    let at = Place::new();
    let fetched = |extent: Extent| run(&Request { extent, ..request(&server.url("/m"), &at.path("f")) });
    let base = reader.prefix_length(41);
    // Too little for the base.
    let error = fetched(Extent::Bytes(base - 1)).unwrap_err();
    assert!(matches!(error, FetchError::Budget { base: needs, .. } if needs == base), "{error}");
    assert!(matches!(fetched(Extent::Layer(4)).unwrap_err(), FetchError::NoLayer { layer: 4, layers: 3, .. }));
    assert!(!at.path("f").exists());
    // Each request takes only what is missing.
    let mut received = 0;
    for (extent, units) in [
        (Extent::Bytes(base), 41),
        (Extent::Layer(1), 41),
        (Extent::Bytes(base + 10_000), 45),
        (Extent::Layer(2), 62),
        (Extent::BitsPerWeight(reader.prefix_length(70) as f64 * 8.0 / reader.weights() as f64 + 1e-6), 70),
        (Extent::Level(0), 70),
        (Extent::Level(1), 82),
        (Extent::Whole, 82),
    ] {
        let done = fetched(extent).unwrap();
        assert_eq!((done.units, done.bytes), (units, reader.prefix_length(units)), "{extent:?}");
        assert_eq!(at.holds(&data) as u64, done.bytes);
        assert_eq!(done.layers, [41, 62, 82].iter().filter(|end| **end <= units).count());
        received += done.received - (1 << 16);
    }
    assert!(received < data.len() as u64, "{received} of {}", data.len());
}

#[test]
fn another_file_is_not_replaced_without_force() {
    let (one, two) = (layered(7, 5, 500), layered(8, 5, 500));
    let (first, second) = (Server::of(&one), Server::of(&two));
    let at = Place::new();
    run(&request(&first.url("/m"), &at.path("f"))).unwrap();
    let other = request(&second.url("/m"), &at.path("f"));
    let error = run(&other).unwrap_err().to_string();
    let hex = |data: &[u8]| open(data).root().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert!(error.contains(&hex(&one)) && error.contains(&hex(&two)) && error.contains("--force"), "{error}");
    assert_eq!(at.holds(&one), one.len());
    run(&Request { force: true, ..other.clone() }).unwrap();
    assert_eq!(at.holds(&two), two.len());
    std::fs::write(at.path("f"), "my notes").unwrap();
    assert!(matches!(run(&other).unwrap_err(), FetchError::Occupied { .. }));
    assert_eq!(std::fs::read(at.path("f")).unwrap(), b"my notes");
    run(&Request { force: true, ..other.clone() }).unwrap();
    assert_eq!(at.holds(&two), two.len());
    // A root that was promised is held to.
    let root = Some([7; 32]);
    assert!(matches!(run(&Request { root, ..other }).unwrap_err(), FetchError::WrongRoot { .. }));
    let folder = Request { file: at.path(""), ..request(&first.url("/m"), &at.path("f")) };
    assert!(run(&folder).unwrap_err().to_string().contains("folder"));
}

#[test]
fn one_fetch_of_a_file_at_a_time() {
    let data = layered(9, 40, 3000);
    let (copy, at) = (data.clone(), Place::new());
    let server = Server::start(move |asked| {
        let wait = Duration::from_millis(if asked.number > 0 { 300 } else { 0 });
        Reply { delay: wait, ..Reply::file(&copy, asked) }
    });
    let asked = request(&server.url("/m"), &at.path("f"));
    let first = impasto_fetch::Fetch::start(asked.clone(), std::sync::Arc::new(())).unwrap();
    first.source().unwrap();
    assert!(matches!(run(&asked).unwrap_err(), FetchError::Busy { .. }));
    assert!(matches!(run(&Request { force: true, ..asked }).unwrap_err(), FetchError::Busy { .. }));
    first.join().unwrap();
    assert_eq!(at.holds(&data), data.len());
}

#[test]
fn headers_and_a_token_go_to_one_host_only() {
    let data = layered(10, 40, 3000);
    let elsewhere = Server::of(&data);
    let to = elsewhere.url("/signed?for=a-minute");
    let server = Server::start(move |_| Reply::redirect(&to));
    let at = Place::new();
    let options = Options {
        headers: vec![Header::parse("X-Key: secret-1").unwrap()],
        token: Some(Secret::new("secret-2", "here").unwrap()),
        ..request("file:x", &at.path("f")).options
    };
    let done = run(&Request { options, ..request(&server.url("/m"), &at.path("f")) }).unwrap();
    assert_eq!(at.holds(&data), data.len());
    // Only the first request is redirected.
    assert_eq!((server.asked().len(), elsewhere.asked().len() as u64), (1, done.requests - 1));
    let first = &server.asked()[0];
    assert_eq!((first.header("x-key"), first.header("authorization")), (Some("secret-1"), Some("Bearer secret-2")));
    for asked in elsewhere.asked() {
        assert_eq!((asked.header("x-key"), asked.header("authorization")), (None, None));
    }
    // Not over http to another machine.
    let options = Options { token: Some(Secret::new("secret-2", "here").unwrap()), ..Options::default() };
    let error = run(&Request { options, ..request("http://192.0.2.1/m", &at.path("g")) }).unwrap_err();
    assert!(matches!(error, FetchError::Plain { .. }), "{error}");
    let options = Options { headers: vec![Header::parse("Authorization: secret").unwrap()], ..Options::default() };
    let error = run(&Request { options, ..request("http://192.0.2.1/m?key=secret", &at.path("g")) }).unwrap_err();
    assert!(matches!(error, FetchError::Plain { .. }) && !error.to_string().contains("secret"), "{error}");
}

#[test]
fn a_file_of_this_machine() {
    let data = layered(11, 40, 3000);
    let (from, at) = (Place::new(), Place::new());
    std::fs::write(from.path("m"), &data).unwrap();
    let url = format!("file:{}", from.path("m").display());
    run(&request(&url, &at.path("f"))).unwrap();
    assert_eq!(at.holds(&data), data.len());
    let missing = format!("file:{}", from.path("n").display());
    assert!(run(&request(&missing, &at.path("g"))).unwrap_err().to_string().contains("No such file"));
}
