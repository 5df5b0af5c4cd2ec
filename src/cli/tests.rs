//! The command as its users meet it: arguments in, text and exit code out.
//!
//! Offline commands are held in golden files, `run` carries real traffic, and the others talk to a real API server.

mod cluster;
mod documentation;
mod offline;
mod running;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use anstream::adapter::strip_bytes;

use crate::{Exit, Terminal, execute};

/// What a command printed; it can be read while the command runs.
#[derive(Clone, Default)]
pub(crate) struct Printed(Arc<Mutex<Vec<u8>>>);

impl Printed {
    /// All of it, without colours.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(strip_bytes(&self.0.lock().unwrap()).into_vec()).unwrap()
    }
}

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A terminal that keeps results and errors.
pub(crate) fn terminal() -> (Terminal, Printed, Printed) {
    let (out, err) = (Printed::default(), Printed::default());
    let terminal = Terminal { out: Box::new(out.clone()), err: Box::new(err.clone()), redraws: false };
    (terminal, out, err)
}

/// Runs a command line and returns how it ended, its results and its errors.
pub(crate) async fn fusebox(arguments: &[&str]) -> (Exit, String, String) {
    let (mut terminal, out, err) = terminal();
    let words = ["fusebox"].iter().chain(arguments).map(Into::into);
    let exit = execute(words, &mut terminal).await;
    (exit, out.text(), err.text())
}
