//! Progress on stderr: a bar if it is a terminal, otherwise a line from time to time.

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

use crate::args::Args;

/// The time between two lines where stderr is no terminal. Short jobs write none.
const BETWEEN_LINES: Duration = Duration::from_secs(30);
/// Lines are cut at this width.
const WIDTH: u16 = 160;

/// A step of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What the job does.
    pub stage: &'static str,
    /// How much of that is done, in passes, blocks, tensors or bytes.
    pub done: u64,
    /// How much there is of it; 0 if nobody knows.
    pub of: u64,
    /// The step in words.
    pub message: String,
}

impl Step {
    pub(crate) fn new(stage: &'static str, [done, of]: [usize; 2], message: impl Into<String>) -> Step {
        Step { stage, done: done as u64, of: of as u64, message: message.into() }
    }
}

/// Is told the steps of a job before they begin, from any thread. `Break` cancels the job.
pub trait Watcher: Sync {
    /// A step begins.
    fn step(&self, step: Step) -> ControlFlow<()>;
}

impl Watcher for ProgressBar {
    fn step(&self, step: Step) -> ControlFlow<()> {
        self.set_message(step.message);
        ControlFlow::Continue(())
    }
}

/// Returns a bar over `total` steps, or a spinner if `total` is 0.
pub fn bar(args: &Args, total: u64) -> ProgressBar {
    let bar = if total == 0 { ProgressBar::new_spinner() } else { ProgressBar::new(total) };
    if args.quiet {
        bar.set_draw_target(ProgressDrawTarget::hidden());
        return bar;
    }
    show(&bar, if total == 0 { "{spinner} {elapsed} {msg}" } else { "{elapsed} [{bar:24}] {pos}/{len} {msg}" });
    bar
}

/// Returns a bar over `total` bytes, with the rate and the time left.
#[cfg(feature = "fetch")]
pub fn bytes_bar(is_quiet: bool, total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    match is_quiet {
        true => bar.set_draw_target(ProgressDrawTarget::hidden()),
        false => show(
            &bar,
            "{elapsed} [{bar:24}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}, {eta} left {msg}",
        ),
    }
    bar
}

fn show(bar: &ProgressBar, form: &str) {
    // A log needs no picture of a bar, nor a spinner.
    let is_terminal = io::stderr().is_terminal();
    let form = if is_terminal { form.to_owned() } else { form.replace("{spinner} ", "").replace("[{bar:24}] ", "") };
    if let Ok(style) = ProgressStyle::with_template(&form) {
        bar.set_style(style);
    }
    // The ticks come from a thread. Where none can start, the bar would panic.
    if std::thread::Builder::new().spawn(|| ()).is_err() {
        return;
    }
    if is_terminal {
        bar.enable_steady_tick(Duration::from_millis(200));
    } else {
        bar.set_draw_target(ProgressDrawTarget::term_like_with_hz(Box::new(Log::new(io::stderr(), BETWEEN_LINES)), 1));
        bar.enable_steady_tick(Duration::from_secs(1));
    }
}

/// A terminal that is a log: of what a bar draws, it writes a line from time to time.
struct Log<W> {
    between: Duration,
    state: Mutex<State<W>>,
}

struct State<W> {
    output: W,
    /// What was drawn since the last flush.
    drawn: String,
    last: Instant,
}

impl<W: Write> Log<W> {
    fn new(output: W, between: Duration) -> Self {
        Log { between, state: Mutex::new(State { output, drawn: String::new(), last: Instant::now() }) }
    }

    fn with<T>(&self, work: impl FnOnce(&mut State<W>) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<W> std::fmt::Debug for Log<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("between", &self.between).finish_non_exhaustive()
    }
}

impl<W: Write + Send> TermLike for Log<W> {
    fn width(&self) -> u16 {
        WIDTH
    }

    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn write_line(&self, s: &str) -> io::Result<()> {
        self.write_str(s)
    }

    fn write_str(&self, s: &str) -> io::Result<()> {
        self.with(|state| state.drawn.push_str(s));
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.with(|state| state.drawn.clear());
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.with(|state| {
            let drawn = std::mem::take(&mut state.drawn);
            let line = drawn.trim();
            if line.is_empty() || state.last.elapsed() < self.between {
                return Ok(());
            }
            state.last = Instant::now();
            writeln!(state.output, "{line}")
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn drawn(between: Duration) -> String {
        let (output, bar) = (Shared::default(), ProgressBar::new(7));
        bar.set_style(ProgressStyle::with_template("{pos}/{len} {msg}").expect("a template"));
        bar.set_draw_target(ProgressDrawTarget::term_like(Box::new(Log::new(output.clone(), between))));
        bar.set_message("coding");
        bar.set_position(3);
        bar.tick();
        bar.finish_and_clear();
        let bytes = output.0.lock().expect("no panic").clone();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn a_log_has_whole_lines_and_short_jobs_write_none() {
        let text = drawn(Duration::ZERO);
        assert!(text.lines().any(|line| line == "3/7 coding"), "{text:?}");
        assert!(text.ends_with('\n') && !text.contains('\x1b'), "{text:?}");
        assert_eq!(drawn(Duration::from_secs(3600)), "");
    }
}
