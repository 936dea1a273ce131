//! Commands from another terminal: a Unix socket in the lab's directory, one command and one answer per connection,
//! each a line of JSON.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::super::command::Action;
use super::super::{LabError, io_error};
use super::claim;
use super::wan::Controls;

/// The socket's name in the lab's directory.
const SOCKET: &str = "control.sock";

/// How long either side waits for the other.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The answer, or what is wrong with the command.
type Answer = Result<String, String>;

/// Takes commands until the process ends. Dropping it removes the socket.
#[derive(Debug)]
pub(super) struct Control {
    path: PathBuf,
}

impl Control {
    /// Listens in `directory`.
    pub(super) fn listen(directory: &Path, controls: Controls) -> Result<Control, LabError> {
        let path = directory.join(SOCKET);
        let what = || io_error(format!("commands cannot be taken at {}", path.display()));
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(what()(error));
        }
        let listener = UnixListener::bind(&path).map_err(what())?;
        let serve = move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away or talks nonsense harms only itself.
                let _ = answer(&stream, &controls);
            }
        };
        thread::Builder::new().name("control".into()).spawn(serve).map_err(what())?;
        Ok(Control { path })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn answer(stream: &UnixStream, controls: &Controls) -> io::Result<()> {
    let line = read_line(stream)?;
    let answer: Answer = match serde_json::from_str(&line) {
        Ok(action) => controls.apply(&action),
        Err(error) => Err(format!("this is no command: {error}")),
    };
    write_line(stream, &serde_json::to_string(&answer)?)
}

/// Sends a command to the lab in `directory`, or to the only one that runs; returns its answer.
pub(in super::super) fn send(directory: Option<&Path>, action: &Action) -> Result<String, LabError> {
    super::require_root("a lab with network stacks belongs to root and takes commands from root only")?;
    let directory = match directory {
        Some(directory) => directory.to_owned(),
        None => only_lab()?,
    };
    let socket = directory.join(SOCKET);
    let what = || io_error(format!("no lab with --netns answers at {}", socket.display()));
    let stream = UnixStream::connect(&socket).map_err(what())?;
    write_line(&stream, &serde_json::to_string(action).map_err(|error| what()(error.into()))?).map_err(what())?;
    let line = read_line(&stream).map_err(what())?;
    let answer: Answer = serde_json::from_str(&line).map_err(|error| what()(error.into()))?;
    answer.map_err(LabError::Failed)
}

fn only_lab() -> Result<PathBuf, LabError> {
    let mut labs = claim::running()?;
    match (labs.pop(), labs.is_empty()) {
        (Some(lab), true) => Ok(lab),
        (None, _) => {
            Err(LabError::Failed("no lab with network stacks runs here; `godwit lab --netns` starts one".into()))
        }
        (Some(lab), false) => {
            labs.push(lab);
            let list: Vec<String> = labs.iter().map(|lab| lab.display().to_string()).collect();
            Err(LabError::Failed(format!("several labs run; choose one with --dir: {}", list.join(", "))))
        }
    }
}

fn read_line(stream: &UnixStream) -> io::Result<String> {
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}

fn write_line(mut stream: &UnixStream, line: &str) -> io::Result<()> {
    stream.set_write_timeout(Some(ANSWER_WITHIN))?;
    stream.write_all(format!("{line}\n").as_bytes())
}
