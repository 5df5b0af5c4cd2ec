//! HTTP/1.1 on raw bytes: the client that sends one small GET at a time, and the upstream that answers it.
//!
//! It must not be lenient: any answer but the expected one ends the measurement. Requests and answers are constants,
//! because what the load spends is missing on the core it shares with the upstream.

use std::time::Instant;

use super::Wrong;

/// The GET of every run.
const REQUEST: &[u8] =
    b"GET /bench HTTP/1.1\r\nhost: upstream.bench\r\nuser-agent: fusebox-bench\r\naccept: */*\r\n\r\n";
const REQUEST_LINE: &[u8] = b"GET /bench HTTP/1.1\r\n";
const BODY: &[u8; 64] = b"{\"id\":4711,\"item\":\"one small answer\",\"price\":1250,\"stock\":true}\n";
const ANSWER_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 64\r\n\
    date: Thu, 01 Jan 2026 00:00:00 GMT\r\nserver: upstream\r\n\r\n";
const REFUSAL: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
const END_OF_HEAD: &[u8] = b"\r\n\r\n";
/// How much of an unexpected answer is shown.
const SHOWN: usize = 300;

/// The client's end of one connection: one request in flight at most.
#[derive(Debug, Default)]
pub(super) struct Client {
    intended: Option<Instant>,
}

impl Client {
    /// Sends a request that should have gone out at `intended`.
    pub(super) fn start(&mut self, intended: Instant, output: &mut Vec<u8>) {
        self.intended = Some(intended);
        output.extend_from_slice(REQUEST);
    }

    /// Reads what came, tells of completed requests, and returns how many bytes are done with.
    ///
    /// # Errors
    /// An answer that is not exactly the upstream's.
    pub(super) fn receive(&mut self, input: &[u8], mut completed: impl FnMut(Instant)) -> Result<usize, Wrong> {
        let Some(head_end) = end_of_head(input) else { return Ok(0) };
        let head = &input[..head_end];
        if !head.starts_with(b"HTTP/1.1 200") || content_length(head) != Some(BODY.len()) {
            return Err(Wrong(format!("expected 200 with 64 bytes, got: {}", shown(input))));
        }
        let Some(body) = input.get(head_end..head_end + BODY.len()) else { return Ok(0) };
        if body != BODY {
            return Err(Wrong(format!("the body is not the upstream's: {}", shown(input))));
        }
        let intended = self.intended.take().ok_or_else(|| Wrong("an answer without a request".to_owned()))?;
        completed(intended);
        Ok(head_end + BODY.len())
    }
}

/// Answers every whole request head in `input`, and returns how many bytes are done with.
pub(super) fn answer(input: &[u8], output: &mut Vec<u8>) -> usize {
    let mut done = 0;
    while let Some(length) = end_of_head(&input[done..]) {
        if input[done..].starts_with(REQUEST_LINE) {
            output.extend_from_slice(ANSWER_HEAD);
            output.extend_from_slice(BODY);
        } else {
            output.extend_from_slice(REFUSAL);
        }
        done += length;
    }
    done
}

/// Where the head ends. Nearly always all of `input` is one head, or a head and the body: both are tried first.
fn end_of_head(input: &[u8]) -> Option<usize> {
    if input.ends_with(END_OF_HEAD) && input.starts_with(REQUEST_LINE) && input.len() < 2 * REQUEST.len() {
        return Some(input.len());
    }
    let body_start = input.len().checked_sub(BODY.len());
    if let Some(start) = body_start.filter(|start| input[..*start].ends_with(END_OF_HEAD)) {
        return Some(start);
    }
    input.windows(END_OF_HEAD.len()).position(|window| window == END_OF_HEAD).map(|at| at + END_OF_HEAD.len())
}

fn content_length(head: &[u8]) -> Option<usize> {
    let value = head.split(|&byte| byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(b"content-length:".len())?;
        name.eq_ignore_ascii_case(b"content-length:").then_some(value)
    })?;
    std::str::from_utf8(value.trim_ascii()).ok()?.parse().ok()
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]).escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(client: &mut Client, input: &[u8]) -> Result<(usize, u32), String> {
        let mut count = 0;
        let done = client.receive(input, |_| count += 1).map_err(|wrong| wrong.to_string())?;
        Ok((done, count))
    }

    fn started() -> Client {
        let mut client = Client::default();
        client.start(Instant::now(), &mut Vec::new());
        client
    }

    #[test]
    fn the_upstreams_answer_completes_a_request() {
        let (mut output, mut client) = (Vec::new(), started());
        assert_eq!(answer(REQUEST, &mut output), REQUEST.len());
        assert_eq!(received(&mut client, &output[..output.len() - 1]), Ok((0, 0)), "the last byte is missing");
        assert_eq!(received(&mut client, &output), Ok((output.len(), 1)));
    }

    #[test]
    fn requests_in_one_read_are_all_answered_and_a_broken_one_waits() {
        let (mut output, input) = (Vec::new(), [REQUEST, REQUEST, &REQUEST[..9]].concat());
        assert_eq!(answer(&input, &mut output), 2 * REQUEST.len());
        assert_eq!(output.len(), 2 * (ANSWER_HEAD.len() + BODY.len()));
    }

    #[test]
    fn headers_that_a_proxy_adds_do_no_harm() {
        let answer = [b"HTTP/1.1 200 OK\r\nContent-Length: 64\r\nvia: 1.1 x\r\n\r\n", &BODY[..]].concat();
        assert_eq!(received(&mut started(), &answer), Ok((answer.len(), 1)));
    }

    #[test]
    fn another_status_body_or_length_is_wrong() {
        let refused = received(&mut started(), b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 64\r\n\r\n");
        assert!(refused.unwrap_err().contains("503 Service Unavailable"));
        let other = [b"HTTP/1.1 200 OK\r\ncontent-length: 64\r\n\r\n", &[b'x'; 64][..]].concat();
        assert!(received(&mut started(), &other).unwrap_err().contains("not the upstream's"));
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert!(received(&mut started(), chunked).is_err());
    }

    #[test]
    fn an_answer_without_a_request_is_wrong() {
        let mut output = Vec::new();
        answer(REQUEST, &mut output);
        assert!(received(&mut Client::default(), &output).is_err());
    }
}
