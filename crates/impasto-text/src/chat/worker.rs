//! Rendering in a process of its own, whose memory, stack and time the system limits.
//!
//! A template is a stranger's program, and its interpreter counts instructions, but neither bytes nor stack. A process
//! can be limited whatever the template tries, and its end does no harm.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::engine::{Job, MAX_OUTPUT};
use super::limits;
use crate::{Result, TextError};

/// Longest time until the answer, on the clock. It is above [`limits::SECONDS`], since a loaded machine lets a process wait.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a worker ends with, besides its text on standard output.
mod code {
    /// The text is the rendered conversation.
    pub(super) const RENDERED: u8 = 0;
    /// The text is a message: the template failed.
    pub(super) const FAILED: u8 = 10;
    /// The text is a message: the template exceeded a limit of its text.
    pub(super) const EXCEEDED: u8 = 11;
    /// The text is a message: the worker failed.
    pub(super) const SYSTEM: u8 = 12;
}

/// A command that parses and renders templates, one per process: its main function calls [`TemplateWorker::serve`].
///
/// On Unix, the process is limited to 64 MiB of memory (plus sixteen times the conversation), a stack of 16 MiB within
/// that, and one second of processor time. (Darwin ignores limits of memory.) Everywhere it is stopped after five seconds
/// on the clock, and what happens to it does not harm its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateWorker {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl TemplateWorker {
    /// Names the command and its arguments.
    pub fn new<A: Into<OsString>>(program: impl Into<PathBuf>, arguments: impl IntoIterator<Item = A>) -> Self {
        Self { program: program.into(), arguments: arguments.into_iter().map(Into::into).collect() }
    }

    /// Does a worker's work: reads a job from standard input, limits this process, and writes the answer to standard
    /// output. The result is the exit code of the process, which must have no other threads.
    pub fn serve() -> u8 {
        let answer = read().and_then(|(job, bytes)| {
            limits::apply(bytes).map_err(TextError::system("cannot limit the process"))?;
            job.run()
        });
        let (code, text) = match answer {
            Ok(text) => (code::RENDERED, text),
            Err(TextError::Chat(message)) => (code::FAILED, message),
            Err(TextError::ChatLimit(message)) => (code::EXCEEDED, message),
            Err(error) => (code::SYSTEM, error.to_string()),
        };
        // A caller that has stopped reading does not need the answer.
        let _ = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
        code
    }

    /// Does a job in a new process.
    ///
    /// # Errors
    /// Those of [`Job::run`], [`TextError::ChatLimit`] if the process exceeds a limit, [`TextError::System`] if it cannot
    /// be started or ends for another reason.
    pub(super) fn run(&self, job: &Job) -> Result<String> {
        let system = || TextError::system("cannot run the template in a process of its own");
        let request = serde_json::to_vec(job).map_err(|e| system()(e.into()))?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(system())?;
        let answer = talk(&mut child, &request);
        if answer.is_err() {
            let _ = child.kill().and_then(|()| child.wait());
        }
        let (text, end) = answer.map_err(system())?;
        let message = || String::from_utf8_lossy(&text).into_owned();
        match end {
            End::Late => Err(TextError::ChatLimit(format!("no answer within the limit of {} s", PATIENCE.as_secs()))),
            End::Itself(status) => match status.code().and_then(|code| u8::try_from(code).ok()) {
                Some(code::RENDERED) => String::from_utf8(text).map_err(|e| TextError::Chat(e.to_string())),
                Some(code::FAILED) => Err(TextError::Chat(message())),
                Some(code::EXCEEDED) => Err(TextError::ChatLimit(message())),
                Some(code::SYSTEM) => Err(system()(io::Error::other(message()))),
                _ => Err(match limits::exceeded(status) {
                    Some(limit) => TextError::ChatLimit(limit),
                    None => system()(io::Error::other(status.to_string())),
                }),
            },
        }
    }
}

/// Reads a job, and the number of its bytes.
fn read() -> Result<(Job, usize)> {
    let failed = TextError::system("cannot read the job of a template worker");
    let mut request = Vec::new();
    let read = io::stdin().read_to_end(&mut request).and_then(|_| Ok(serde_json::from_slice(&request)?));
    Ok((read.map_err(failed)?, request.len()))
}

/// How a worker ended.
enum End {
    Itself(ExitStatus),
    /// It was stopped.
    Late,
}

/// Sends the request to a worker, waits for its end, and returns its answer.
fn talk(child: &mut Child, request: &[u8]) -> io::Result<(Vec<u8>, End)> {
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (done, wait) = mpsc::channel::<()>();
    let watch = move || {
        let late = wait.recv_timeout(PATIENCE).is_err();
        if late {
            child.kill()?;
        }
        let status = child.wait()?;
        Ok(if late { End::Late } else { End::Itself(status) })
    };
    thread::scope(|scope| {
        let watching = thread::Builder::new().name("template".to_owned()).spawn_scoped(scope, watch)?;
        let mut text = Vec::new();
        // A worker that ends early closes both pipes; its status tells why.
        let _ = stdin.map_or(Ok(()), |mut pipe| pipe.write_all(request));
        let read = stdout.map_or(Ok(0), |pipe| pipe.take(MAX_OUTPUT as u64).read_to_end(&mut text));
        let _ = done.send(());
        let end = watching.join().unwrap_or_else(|_| Err(io::Error::other("the watch over the process panicked")))?;
        read.map(|_| (text, end))
    })
}
