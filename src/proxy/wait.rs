//! `fusebox-proxy wait`: ends when the sidecar beside it is ready.
//!
//! The kubelet runs it in the sidecar right after the start and starts the application when it ends: a probe would be asked
//! once a second only, and the pod would wait for it. It must need no runtime and nothing but the loopback.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use clap::Args;

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(10);

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a ready proxy's answer begins with.
const READY: &[u8] = b"HTTP/1.1 200 ";

/// How to wait.
#[derive(Clone, Debug, Args)]
pub struct Wait {
    /// The admin address of the sidecar.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15020")]
    pub admin: SocketAddr,
    /// How long to wait at most, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub timeout: u64,
}

/// The sidecar did not become ready in time.
#[derive(Debug, thiserror::Error)]
#[error("the proxy at {admin} is not ready after {seconds} s: {last}; its own log says why")]
pub struct NotReady {
    /// Where it was asked.
    pub admin: SocketAddr,
    /// For how long.
    pub seconds: u64,
    /// What came of the last question.
    pub last: String,
}

impl Wait {
    /// Returns once the sidecar is ready.
    ///
    /// # Errors
    /// [`NotReady`] when it is not in time.
    pub fn until_ready(&self) -> Result<(), NotReady> {
        let deadline = Instant::now() + Duration::from_secs(self.timeout);
        loop {
            let last = match self.ask() {
                Ok(answer) if answer == READY => return Ok(()),
                Ok(answer) => format!("it answers {:?}", String::from_utf8_lossy(&answer)),
                Err(error) => error.to_string(),
            };
            if Instant::now() >= deadline {
                return Err(NotReady { admin: self.admin, seconds: self.timeout, last });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// The first bytes of the answer, as many as decide.
    fn ask(&self) -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&self.admin, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // At once: whoever answers the first part of a request and closes would be told of as a broken pipe.
        let request = format!("GET /health/ready HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.admin);
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(READY.len() as u64).read_to_end(&mut answer)?;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn server(answers: &'static [&'static str]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 1024]).unwrap();
                stream.write_all(format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n").as_bytes()).unwrap();
            }
        });
        address
    }

    #[test]
    fn waiting_ends_with_the_first_answer_that_says_ready() {
        let admin = server(&["503 Service Unavailable", "503 Service Unavailable", "200 OK"]);
        Wait { admin, timeout: 60 }.until_ready().unwrap();
    }

    #[test]
    fn a_proxy_that_never_is_ready_is_told_of_with_its_last_answer() {
        let admin = server(&["503 Service Unavailable"]);
        let error = Wait { admin, timeout: 0 }.until_ready().unwrap_err();
        assert!(error.to_string().contains("503"), "{error}");
        let nobody = Wait { admin: "127.0.0.1:1".parse().unwrap(), timeout: 0 };
        assert!(nobody.until_ready().unwrap_err().to_string().contains("refused"));
    }
}
