//! Standard error: progress bars on a terminal, and messages that don't tear them.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use dataflux::list::Progress;
use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressFinish, ProgressState, ProgressStyle};

static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// How often the clock of a bar is redrawn while nothing else changes.
const TICK: Duration = Duration::from_millis(200);

/// A spinner for work whose progress is unknown. Shown only if standard error is a terminal.
pub(crate) fn spinner(what: &'static str) -> ProgressBar {
    show(ProgressBar::new_spinner(), "{spinner} {prefix} ({elapsed})", what)
}

/// A spinner for a listing. Shown only if standard error is a terminal.
pub(crate) fn listing(progress: Arc<Progress>) -> ProgressBar {
    let started = Instant::now();
    let listed = move |_: &ProgressState, out: &mut dyn fmt::Write| {
        let (objects, calls) = (progress.objects(), progress.in_flight());
        let rate = objects as f64 / started.elapsed().as_secs_f64().max(1e-3);
        let _ = write!(out, "{} objects, {rate:.0}/s, {calls} calls in flight", HumanCount(objects));
    };
    let style = ProgressStyle::with_template("{spinner} {prefix}: {listed} ({elapsed})");
    let style = style.expect("the template is a constant and tested").with_key("listed", listed);
    add(ProgressBar::new_spinner().with_style(style), "listing")
}

/// A bar of samples out of `total`. Shown only if standard error is a terminal.
pub(crate) fn samples(what: &'static str, total: u64) -> ProgressBar {
    let template = "{prefix} {wide_bar} {human_pos}/{human_len} samples, {rate} (left: {eta})";
    show(ProgressBar::new(total), template, what)
}

fn show(bar: ProgressBar, template: &str, what: &'static str) -> ProgressBar {
    let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
        // A bar can't report an error.
        let _ = write!(out, "{:.0}/s", state.per_sec());
    };
    let style = ProgressStyle::with_template(template).expect("the template is a constant and tested");
    add(bar.with_style(style.with_key("rate", rate)), what)
}

fn add(bar: ProgressBar, what: &'static str) -> ProgressBar {
    let bar = BARS.add(bar.with_finish(ProgressFinish::AndClear).with_prefix(what));
    bar.enable_steady_tick(TICK);
    bar
}

/// Prints to standard error between two drawings of the bars. There is nowhere to report a failure to.
pub(crate) fn print(text: &str) {
    let _ = Stderr.write_all(text.as_bytes());
}

/// Standard error, written between two drawings of the bars.
pub(crate) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        BARS.suspend(|| io::stderr().write_all(buffer)).map(|()| buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_well_formed() {
        spinner("cleaning").finish();
        listing(Arc::default()).finish();
        samples("epochs", 3).finish();
    }
}
