//! Where a command prints, in which colours, and how it ends.
//!
//! Commands must not reach for stdout themselves: tests give them a buffer. Styles are always written; whoever made the
//! writers strips them where no terminal is.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use fusebox_api::status::State;

/// Bad news.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
/// News to keep an eye on.
pub(crate) const CARE: Style = AnsiColor::Yellow.on_default();
/// Good news.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// What explains the rest.
pub(crate) const FAINT: Style = Style::new().dimmed();
/// Headings.
pub(crate) const STRONG: Style = Style::new().bold();

/// The writers of one command.
pub struct Terminal {
    /// Results.
    pub out: Box<dyn Write + Send>,
    /// Errors and progress.
    pub err: Box<dyn Write + Send>,
    /// Whether `out` is a screen that can be drawn anew.
    pub redraws: bool,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done; a check found nothing.
    Done,
    /// 1: it failed, or a check found mistakes.
    Failed,
    /// 2: the command line, or a file named in it, can't be used.
    Usage,
    /// 3: it was asked for, but not seen to happen in time.
    Unconfirmed,
}

/// Text in a style, for `{}`.
pub(crate) struct Styled<T>(pub(crate) Style, pub(crate) T);

impl Terminal {
    /// Prints an error.
    pub fn error(&mut self, message: &str) {
        // When even stderr is gone there is nobody left to tell.
        let _ = writeln!(self.err, "{} {message}", Styled(BAD, "error:"));
    }

    /// Prints one line of progress.
    pub(crate) fn progress(&mut self, message: impl fmt::Display) -> io::Result<()> {
        writeln!(self.err, "{}", Styled(FAINT, message))
    }

    /// Prints clap's own message, which is help where help was asked for.
    pub(crate) fn usage(&mut self, error: &clap::Error) -> Exit {
        let text = error.render().ansi().to_string();
        if error.use_stderr() {
            let _ = write!(self.err, "{text}");
            Exit::Usage
        } else {
            let _ = write!(self.out, "{text}");
            Exit::Done
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Unconfirmed => 3,
        })
    }
}

impl<T: fmt::Display> fmt::Display for Styled<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(style, text) = self;
        write!(formatter, "{style}{text}{style:#}")
    }
}

/// The colour of a fleet's state.
pub(crate) fn state_style(state: State) -> Style {
    match state {
        State::Open => BAD,
        State::PartiallyOpen | State::HalfOpen => CARE,
        State::Closed => GOOD,
        State::Unknown => FAINT,
    }
}
