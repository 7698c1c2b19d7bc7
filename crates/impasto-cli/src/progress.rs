//! Progress on stderr: a bar if it is a terminal, otherwise nothing.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::args::Args;

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
    if let Ok(style) = ProgressStyle::with_template(form) {
        bar.set_style(style);
    }
    // The ticks come from a thread. Nobody sees them if stderr is no terminal, and where no thread can start, the bar panics.
    if !bar.is_hidden() && std::thread::Builder::new().spawn(|| ()).is_ok() {
        bar.enable_steady_tick(Duration::from_millis(200));
    }
}
