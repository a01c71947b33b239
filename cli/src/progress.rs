//! Standard error: progress on a terminal, and what else is said there without tearing it.

use std::fmt;
use std::io::{self, Write};
use std::sync::LazyLock;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressFinish, ProgressState, ProgressStyle};

static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// How often the clock of a bar moves on while nothing else does.
const TICK: Duration = Duration::from_millis(200);

/// Something whose progress can't be told. Not shown unless standard error is a terminal.
pub(crate) fn wait(what: &'static str) -> ProgressBar {
    show(ProgressBar::new_spinner(), "{spinner} {prefix} ({elapsed})", what)
}

/// Objects of a number that isn't known yet. Not shown unless standard error is a terminal.
pub(crate) fn objects(what: &'static str) -> ProgressBar {
    show(ProgressBar::new_spinner(), "{spinner} {prefix}: {human_pos} objects, {rate} ({elapsed})", what)
}

/// Samples out of `total`. Not shown unless standard error is a terminal.
pub(crate) fn samples(what: &'static str, total: u64) -> ProgressBar {
    let template = "{prefix} {wide_bar} {human_pos}/{human_len} samples, {rate} (left: {eta})";
    show(ProgressBar::new(total), template, what)
}

fn show(bar: ProgressBar, template: &str, what: &'static str) -> ProgressBar {
    let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
        // A bar has no way to fail.
        let _ = write!(out, "{:.0}/s", state.per_sec());
    };
    let style = ProgressStyle::with_template(template).expect("the template is a constant and tested");
    let bar = bar.with_finish(ProgressFinish::AndClear).with_style(style.with_key("rate", rate)).with_prefix(what);
    let bar = BARS.add(bar);
    bar.enable_steady_tick(TICK);
    bar
}

/// Writes to standard error between two drawings of the bars. That it can't be written is nobody's to tell.
pub(crate) fn aside(text: &str) {
    let _ = Aside.write_all(text.as_bytes());
}

/// Standard error for logs.
pub(crate) struct Aside;

impl Write for Aside {
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
        wait("cleaning").finish();
        objects("listing").finish();
        samples("epochs", 3).finish();
    }
}
