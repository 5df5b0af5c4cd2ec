//! Shows that something long is still going on: a coloured spinner on a terminal, a plain line every ten seconds elsewhere.
//!
//! It must not write to standard output, which belongs to the result of a command.
//! A first build takes minutes; silence would be taken for a hang.

use std::io::{IsTerminal as _, Write as _};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};

const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
const REDRAW_EVERY: Duration = Duration::from_millis(100);
const PLAIN_LINE_EVERY: Duration = Duration::from_secs(10);

/// A running display. Dropping it clears the line.
#[derive(Debug)]
pub(crate) struct Progress {
    phases: Option<Sender<String>>,
    painter: Option<JoinHandle<()>>,
}

impl Progress {
    /// Starts the display. `label` stands in front of every line.
    #[must_use]
    pub(crate) fn start(label: &str) -> Self {
        let (phases, incoming) = mpsc::channel();
        let label = label.to_owned();
        let painter = std::thread::spawn(move || paint(&label, &incoming));
        Self { phases: Some(phases), painter: Some(painter) }
    }

    /// Says what is being done now.
    pub(crate) fn phase(&self, phase: impl Into<String>) {
        if let Some(phases) = &self.phases {
            phases.send(phase.into()).ok();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.phases.take());
        if let Some(painter) = self.painter.take() {
            painter.join().ok();
        }
    }
}

/// Runs until the sender is dropped. Write errors are ignored: nobody is there to read them.
fn paint(label: &str, phases: &mpsc::Receiver<String>) {
    let terminal = std::io::stderr().is_terminal();
    let colour = terminal && std::env::var_os("NO_COLOR").is_none();
    let every = if terminal { REDRAW_EVERY } else { PLAIN_LINE_EVERY };
    let started = Instant::now();
    let (mut phase, mut frame, mut next) = (String::new(), 0, started);
    loop {
        match phases.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(changed) => {
                // The first phase is shown at once, so that it is clear what the wait is for.
                let first = phase.is_empty();
                phase = changed;
                if !first {
                    continue;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        next = Instant::now() + every;
        if phase.is_empty() {
            continue;
        }
        let spinner = terminal.then(|| SPINNER[frame % SPINNER.len()]);
        draw(&line(label, &phase, started.elapsed()), spinner, colour);
        frame += 1;
    }
    if terminal {
        write!(std::io::stderr(), "\r\x1b[2K").ok();
    }
}

fn draw(line: &str, spinner: Option<&str>, colour: bool) {
    let mut stderr = std::io::stderr().lock();
    let style = if colour { Style::new().fg_color(Some(AnsiColor::Cyan.into())) } else { Style::new() };
    match spinner {
        Some(spinner) => write!(stderr, "\r\x1b[2K{style}{spinner}{style:#} {line}").ok(),
        None => writeln!(stderr, "{line}").ok(),
    };
    stderr.flush().ok();
}

fn line(label: &str, phase: &str, elapsed: Duration) -> String {
    format!("{label}: {phase} ({} s)", elapsed.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_label_phase_and_elapsed_seconds() {
        let text = line("cluster", "compiling, 12 packages so far", Duration::from_millis(3_900));
        assert_eq!(text, "cluster: compiling, 12 packages so far (3 s)");
    }
}
