//! A server that answers by script and records the requests.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The answer to a request.
#[derive(Clone)]
pub(crate) enum Answer {
    /// These bytes; the connection is kept if they are a whole answer.
    Raw(String),
    /// These bytes, and then the connection is closed.
    Last(String),
    /// These bytes, and then nothing.
    Stall(String),
    /// The connection is closed without an answer.
    Close,
    /// The connection is reset without an answer.
    Reset,
}

impl Answer {
    pub(crate) fn of(status: &str, headers: &str, body: &str) -> Self {
        Self::Raw(format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()))
    }

    pub(crate) fn status(status: &str) -> Self {
        Self::of(status, "", "")
    }

    pub(crate) fn json(body: &str) -> Self {
        Self::of("200 OK", "content-type: application/json\r\n", body)
    }

    /// These bytes verbatim, and then the end of the connection.
    pub(crate) fn raw(bytes: &str) -> Self {
        Self::Last(bytes.to_owned())
    }
}

/// A request that the server received.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) line: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

type Handler = Box<dyn FnMut(usize, &Request) -> Answer + Send>;

struct State {
    handler: Handler,
    requests: Vec<Request>,
}

pub(crate) struct Wire {
    pub(crate) endpoint: String,
    state: Arc<Mutex<State>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Wire {
    /// Starts a server with these answers, in order. A request after the last one gets a 400, which is not retried.
    pub(crate) async fn script(answers: impl IntoIterator<Item = Answer>) -> Self {
        let mut answers = answers.into_iter().collect::<Vec<_>>().into_iter();
        Self::serve(move |_, _| answers.next().unwrap_or_else(|| Answer::status("400 Script Is Over"))).await
    }

    /// Starts a server that answers by `handler`, which gets the number of earlier requests.
    pub(crate) async fn serve(handler: impl FnMut(usize, &Request) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State { handler: Box::new(handler), requests: Vec::new() }));
        let shared = state.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(connection(stream, shared.clone()));
            }
        });
        Self { endpoint, state, task }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.state.lock().unwrap().requests.clone()
    }
}

async fn connection(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut buffer = Vec::new();
    while let Some(request) = read(&mut stream, &mut buffer).await {
        let answer = {
            let mut state = state.lock().unwrap();
            let nth = state.requests.len();
            state.requests.push(request.clone());
            (state.handler)(nth, &request)
        };
        let (bytes, kept) = match answer {
            Answer::Raw(bytes) => (bytes, true),
            Answer::Last(bytes) => (bytes, false),
            Answer::Stall(bytes) => {
                let _ = stream.write_all(bytes.as_bytes()).await;
                std::future::pending().await
            }
            Answer::Close => return,
            Answer::Reset => {
                let _ = stream.set_zero_linger();
                return;
            }
        };
        if stream.write_all(bytes.as_bytes()).await.is_err() || !kept {
            return;
        }
    }
}

/// The next request of a connection.
async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Request> {
    let mut request: Option<(Request, usize)> = None;
    loop {
        if request.is_none()
            && let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n")
        {
            let head = String::from_utf8(buffer.drain(..end + 4).collect()).ok()?;
            let mut lines = head.trim_end().split("\r\n");
            let line = lines.next()?.to_owned();
            let headers: Vec<_> = lines
                .filter_map(|line| line.split_once(": "))
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect();
            let parsed = Request { line, headers, body: Vec::new() };
            let length = parsed.header("content-length").map_or(0, |length| length.parse().unwrap());
            request = Some((parsed, length));
        }
        match request.take() {
            Some((mut request, length)) if buffer.len() >= length => {
                request.body = buffer.drain(..length).collect();
                return Some(request);
            }
            unfinished => request = unfinished,
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}
