//! Standard error: progress on a terminal, and what else is said there without tearing it.

use std::io::{self, Write};
use std::sync::LazyLock;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressFinish, ProgressStyle};

static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// How often the clock of a bar moves on while nothing else does.
const TICK: Duration = Duration::from_millis(200);

/// Progress towards an unknown end. Not shown unless standard error is a terminal.
pub(crate) fn spinner(what: &'static str) -> ProgressBar {
    show(ProgressBar::new_spinner(), "{spinner} {prefix}: {human_pos} objects, {per_sec} ({elapsed})", what)
}

/// Progress towards `total` samples. Not shown unless standard error is a terminal.
pub(crate) fn bar(what: &'static str, total: u64) -> ProgressBar {
    let template = "{prefix} {wide_bar} {human_pos}/{human_len} samples, {per_sec} (left: {eta})";
    show(ProgressBar::new(total), template, what)
}

fn show(bar: ProgressBar, template: &str, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("the template is a constant and tested");
    let bar = BARS.add(bar.with_finish(ProgressFinish::AndClear)).with_style(style).with_prefix(what);
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
        spinner("listing").finish();
        bar("epochs", 3).finish();
    }
}
