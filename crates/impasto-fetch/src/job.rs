//! Fetching a file: from what is there to what is wanted.

use std::time::Instant;

use impasto_container::Source;

use crate::assemble::Assembler;
use crate::error::FetchError;
use crate::extent::Prefix;
use crate::fetch::{Done, Goal, Request, Shared};
use crate::get::{Getter, STEP, Tries};
use crate::head::Head;
use crate::part::{Found, Locked, Part};
use crate::remote::Body;
use crate::wait::Pace;
use crate::window;

/// Most times that a file may change on the server, or its version.
const MOST_CHANGES: u32 = 3;

/// Fetches a file.
pub fn run(request: &Request, getter: &Getter, shared: &Shared) -> Result<Done, FetchError> {
    let begun = Instant::now();
    let mut found = Part::find(&request.file, &request.limits, &getter.cancel)?;
    let mut before = None;
    let mut changes = 0;
    loop {
        let mut head = Head::get(getter, &request.limits)?;
        let root = head.reader.root();
        if let Some(wanted) = request.root.filter(|wanted| wanted != root) {
            let (found, wanted) = (hex(root), hex(&wanted));
            return Err(FetchError::WrongRoot { url: getter.shown(), found, wanted });
        }
        let wanted = Prefix::of(&head.reader, request.extent)?;
        let mut part = take(request, getter, &head, found)?;
        let before = *before.get_or_insert(part.length());
        // A file that is cut there has no more to give.
        let has = head.total.map_or(wanted.units, |total| head.reader.units_within(total));
        let until = Prefix::of_units(&head.reader, wanted.units.min(has).max(part.units()));
        shared.begun(&part, Goal { units: until.units, bytes: until.bytes, header: head.reader.header().clone() });
        match bring(getter, &mut head, &mut part, shared, until) {
            Ok(()) => {
                part.sync()?;
                if part.units() < wanted.units {
                    let (url, has) = (getter.shown(), head.total.unwrap_or(0));
                    return Err(FetchError::Short { url, has, wants: wanted.bytes });
                }
                return Ok(done(getter, &head, &part, before, begun));
            }
            Err(FetchError::Changed { what, .. }) if changes < MOST_CHANGES => {
                changes += 1;
                // Whoever reads the file already would wait for units that never come.
                let is_free = part.units() == 0 && !shared.is_read();
                found = Found::Changed { part, is_free, what };
            }
            Err(error) => {
                // What is there is worth keeping, whatever happened.
                let _ = part.sync();
                return Err(error);
            }
        }
    }
}

fn done(getter: &Getter, head: &Head, part: &Part, bytes_before: u64, begun: Instant) -> Done {
    let (received, retries) = getter.counts();
    let marks = head.reader.marks();
    Done {
        url: getter.shown(),
        root: *part.root(),
        units: part.units(),
        units_of: head.reader.units().len() as u32,
        bytes: part.length(),
        bytes_of: head.reader.header().file_length,
        bytes_before,
        layers: marks.iter().filter(|mark| mark.units <= part.units()).count(),
        layers_of: marks.len(),
        base: head.reader.base().cloned(),
        received,
        requests: getter.remote.requests(),
        retries,
        time: begun.elapsed(),
    }
}

/// Continues the file that was found, or begins one.
fn take(request: &Request, getter: &Getter, head: &Head, found: Found) -> Result<Part, FetchError> {
    let root = head.reader.root();
    let file = || request.file.display().to_string();
    let anew = |locked: &Locked| Part::create(&request.file, head, Some(locked));
    match found {
        Found::Nothing => Part::create(&request.file, head, None),
        Found::Part(part) if part.root() == root => Ok(part),
        Found::Part(part) if request.force => anew(&part.into_file()),
        Found::Part(part) => {
            let (url, has, root) = (getter.shown(), hex(part.root()), hex(root));
            Err(FetchError::OtherFile { file: file(), url, has, root })
        }
        // Servers may disagree about the version of the same file. From now on, only hashes count.
        Found::Changed { part, .. } if part.root() == root => {
            getter.ignore_versions();
            Ok(part)
        }
        Found::Changed { part, is_free: true, .. } => anew(&part.into_file()),
        Found::Changed { part, what, .. } => {
            let (now, has, units) = (hex(root), hex(part.root()), part.units());
            let what = format!("{what}; the root is {now} now, and {units} units of {has} are kept in {}", file());
            Err(FetchError::Changed { url: getter.shown(), what })
        }
        // One that ends within its manifest holds no unit.
        Found::Other(locked, _) if request.force || locked.is_beginning_of(&head.bytes) => anew(&locked),
        Found::Other(_, rule) => Err(FetchError::Occupied { file: file(), rule }),
    }
}

/// Brings the units that are missing.
fn bring(getter: &Getter, head: &mut Head, part: &mut Part, shared: &Shared, until: Prefix) -> Result<(), FetchError> {
    if part.units() >= until.units {
        return Ok(());
    }
    part.cut()?;
    let mut rest = std::mem::take(&mut head.rest);
    let after = head.bytes.len();
    let stream = head.stream.take().map(|body| Stream { body, at: after + rest.len() as u64 });
    let mut assembler = Assembler::new(getter, &head.reader, part, shared, until);
    if let Some(skip) = assembler.at().checked_sub(after).filter(|skip| *skip < rest.len() as u64) {
        rest.drain(..skip as usize);
        assembler.push(&rest)?;
    } else {
        // There may be units without bytes.
        assembler.push(&[])?;
    }
    if assembler.is_done() {
        return Ok(());
    }
    if stream.is_some() {
        return one_stream(getter, &mut assembler, stream);
    }
    let at = assembler.at();
    let cut = |at, size| window::cut(&head.reader, at, size, until.bytes);
    match window::fetch(getter, at..until.bytes, &cut, &mut |piece| assembler.push(piece)) {
        Err(FetchError::NoRanges { .. }) => {
            assembler.rewind();
            one_stream(getter, &mut assembler, None)
        }
        done => done,
    }
}

/// The rest of an answer with the whole file.
struct Stream {
    body: Box<dyn Body>,
    /// The position of its next byte.
    at: u64,
}

/// Brings the units from a server that only answers with the whole file. After a failure it must be read from its beginning.
fn one_stream<S: Source>(
    getter: &Getter,
    assembler: &mut Assembler<'_, S>,
    mut stream: Option<Stream>,
) -> Result<(), FetchError> {
    let mut tries = Tries::new(getter);
    let mut furthest = assembler.at();
    while !assembler.is_done() {
        let read = read_stream(getter, assembler, stream.take());
        match read {
            Ok(()) if assembler.is_done() => {}
            Ok(()) => {
                tries.again(FetchError::Broken { url: getter.shown(), reason: "it ended too early".to_owned() })?;
            }
            // A damaged unit cannot be fetched alone. The assembler counts how often.
            Err(FetchError::NoRanges { .. }) => {}
            Err(error) => {
                if assembler.at() >= furthest + STEP && !matches!(error, FetchError::Slow { .. }) {
                    furthest = assembler.at();
                    tries.progress();
                }
                tries.again(error)?;
            }
        }
        if !assembler.is_done() {
            assembler.rewind();
        }
    }
    Ok(())
}

/// Reads an answer with the whole file, a new one if there is none, up to the units that are wanted.
fn read_stream<S: Source>(
    getter: &Getter,
    assembler: &mut Assembler<'_, S>,
    stream: Option<Stream>,
) -> Result<(), FetchError> {
    let mut stream = match stream {
        Some(stream) => stream,
        None => Stream { body: getter.open(None)?.body, at: 0 },
    };
    let (mut pace, mut buffer) = (Pace::new(), vec![0; 1 << 16]);
    while !assembler.is_done() {
        let count = getter.read(&mut *stream.body, &mut pace, &mut buffer)?;
        if count == 0 {
            break;
        }
        let skip = assembler.at().saturating_sub(stream.at).min(count as u64);
        stream.at += count as u64;
        assembler.push(&buffer[skip as usize..count])?;
    }
    Ok(())
}

/// Returns a hash as text.
pub fn hex(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
