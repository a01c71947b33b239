//! Credentials as users have them: what is found where, what is retried, and what is said without any.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::harness::{Scratch, command, contains, eventually};

/// A key that opens nothing.
const KEY: &str = include_str!("../../../src/store/gcs/testdata/key.b64");

/// A listing of one object.
const LISTING: &str = r#"{"items":[{"name":"a","size":"1","generation":"1","storageClass":"STANDARD"}]}"#;

const TOKEN: &str = r#"{"access_token":"the-token","expires_in":3599,"token_type":"Bearer"}"#;

/// Token server, metadata server, storage service and proxy in one, which answers as `answer` says to a request's first
/// line and the number of requests before it.
struct Server {
    address: String,
    /// Heads of requests and their bodies.
    requests: Arc<Mutex<Vec<String>>>,
}

type Answer = fn(&str, usize) -> Option<(u16, &'static str)>;

impl Server {
    fn start(answer: Answer) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), answer)
    }

    fn on(listener: TcpListener, answer: Answer) -> Self {
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                serve(&stream, &seen, answer);
            }
        });
        Self { address, requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// The requests whose first line has this.
    fn asked(&self, what: &str) -> Vec<String> {
        self.requests().into_iter().filter(|request| request.lines().next().unwrap().contains(what)).collect()
    }
}

/// Answers one request and ends the connection.
fn serve(stream: &TcpStream, requests: &Mutex<Vec<String>>, answer: Answer) {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        head += &line;
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let nth = {
        let mut requests = requests.lock().unwrap();
        requests.push(head.clone() + &String::from_utf8(body).unwrap());
        requests.len() - 1
    };
    let (status, body) = answer(head.lines().next().unwrap(), nth).unwrap_or((200, LISTING));
    let mut stream = stream;
    let _ = write!(
        stream,
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
}

/// `dataflux` with these arguments in a home folder of its own, without a proxy, a metadata server or the `gcloud`
/// command. The service is at `storage`.
fn at_home(home: &Scratch, storage: &str, args: &[&str]) -> Command {
    let mut command = command("", args);
    for name in ["GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG", "KUBERNETES_SERVICE_HOST", "GCE_METADATA_HOST"] {
        command.env_remove(name);
    }
    for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        command.env_remove(name);
    }
    command.env("HOME", home.path("")).env("PATH", home.path("")).env("NO_GCE_CHECK", "true");
    command.env("CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE", format!("http://{storage}/storage/v1/"));
    command
}

/// Writes a credentials file that asks `server` for tokens.
fn key_file(home: &Scratch, server: &str) -> String {
    let file = home.path("key.json");
    let pem = KEY.trim().replace('\n', "\\n");
    let pem = format!("-----BEGIN PRIVATE KEY-----\\n{pem}\\n-----END PRIVATE KEY-----\\n");
    let text = format!(
        r#"{{"type":"service_account","client_email":"me@test","private_key":"{pem}","token_uri":"{server}"}}"#
    );
    std::fs::write(&file, text).unwrap();
    file
}

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(mut command: Command) -> Ended {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Five warnings of a dependency came before it.
#[test]
fn without_credentials_there_is_one_line_that_says_what_to_do() {
    let home = Scratch::new("no-credentials");
    let storage = Server::start(|_, _| None);
    let ended = run(at_home(&home, &storage.address, &["ls", "gs://train"]));
    assert_eq!((ended.code, &*ended.stdout), (Some(1), ""));
    assert_eq!(ended.stderr.trim_end().lines().count(), 1, "{}", ended.stderr);
    contains(
        &ended.stderr,
        &[
            "error: ",
            "gs://train",
            "GOOGLE_APPLICATION_CREDENTIALS is not set",
            "application_default_credentials.json",
            "metadata server",
            "gcloud command",
            "gcloud auth application-default login",
            "--anonymous",
        ],
    );
    assert_eq!(storage.requests(), [""; 0], "nothing was asked without a token");
}

/// A private endpoint could not be had from the environment together with credentials.
#[test]
fn a_private_endpoint_from_the_environment_gets_the_users_token() {
    let home = Scratch::new("private-endpoint");
    let server = Server::start(|line, _| line.contains(" /token").then_some((200, TOKEN)));
    let folder = home.path(".config/gcloud");
    std::fs::create_dir_all(&folder).unwrap();
    let login = r#"{"type":"authorized_user","client_id":"id","client_secret":"s","refresh_token":"r","token_uri":"#;
    let login = format!("{login}\"http://{}/token\"}}", server.address);
    std::fs::write(format!("{folder}/application_default_credentials.json"), login).unwrap();
    let ended = run(at_home(&home, &server.address, &["ls", "gs://train", "--json"]));
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""));
    let lists = server.asked("GET /storage/v1/b/train/o?");
    assert!(!lists.is_empty(), "{:?}", server.requests());
    assert!(lists.iter().all(|list| list.contains("authorization: Bearer the-token")), "{lists:?}");
    contains(
        &server.asked("POST /token")[0],
        &["grant_type=refresh_token&client_id=id&client_secret=s&refresh_token=r"],
    );
}

/// A 429 or 503 of the token server ended the run.
#[test]
fn a_busy_token_server_is_asked_again() {
    let home = Scratch::new("busy-token-server");
    let server = Server::start(|line, nth| match nth {
        _ if !line.contains(" /token") => None,
        0 => Some((429, "")),
        1 => Some((503, "")),
        _ => Some((200, TOKEN)),
    });
    let mut command = at_home(&home, &server.address, &["ls", "gs://train", "--json"]);
    let key = key_file(&home, &format!("http://{}/token", server.address));
    let ended = run({
        command.env("GOOGLE_APPLICATION_CREDENTIALS", key);
        command
    });
    // If the machine is so busy that this takes ten seconds, warnings on stderr report the retries, and an answer that
    // comes too late for the client is asked for once more.
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(server.asked("POST /token").len() >= 3, "{:?}", server.requests());
    contains(&server.asked("POST /token")[0], &["jwt-bearer&assertion=ey"]);
    contains(&server.asked("GET /storage/v1/b/train/o")[0], &["authorization: Bearer the-token"]);
}

#[test]
fn a_token_server_that_refuses_ends_it_and_is_quoted() {
    let home = Scratch::new("refusing-token-server");
    let server = Server::start(|line, _| line.contains(" /token").then_some((400, r#"{"error":"invalid_grant"}"#)));
    let mut command = at_home(&home, &server.address, &["ls", "gs://train"]);
    command.env("GOOGLE_APPLICATION_CREDENTIALS", key_file(&home, &format!("http://{}/token", server.address)));
    let ended = run(command);
    assert_eq!(ended.code, Some(1));
    contains(&ended.stderr, &["key.json", "invalid_grant", "revoked"]);
    assert_eq!(server.requests().len(), 1);
}

/// One refused connection was taken for "no metadata server"; that of a new pod refuses for seconds.
#[test]
fn a_metadata_server_that_is_not_up_yet_is_waited_for() {
    let home = Scratch::new("late-metadata");
    let reserved = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let storage = Server::start(|_, _| None);
    let mut command = at_home(&home, &storage.address, &["ls", "gs://train", "--json"]);
    command.env_remove("NO_GCE_CHECK").env("GCE_METADATA_HOST", address.to_string());
    let child = command.spawn().unwrap();
    // Longer than a first try takes, and shorter than it is waited for.
    std::thread::sleep(Duration::from_millis(1_500));
    let metadata = Server::on(TcpListener::bind(address).unwrap(), |_, _| Some((200, TOKEN)));
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    contains(&metadata.requests()[0], &["/computeMetadata/v1/instance/service-accounts/default/token", "Google"]);
    contains(&storage.requests()[0], &["authorization: Bearer the-token"]);
}

/// `HTTPS_PROXY` held for the service and not for tokens.
#[test]
fn tokens_are_fetched_by_way_of_the_proxy() {
    let home = Scratch::new("token-proxy");
    let proxy = Server::start(|_, _| Some((502, "")));
    let mut command = at_home(&home, &proxy.address, &["ls", "gs://train"]);
    command.env("HTTPS_PROXY", format!("http://{}", proxy.address));
    command.env("GOOGLE_APPLICATION_CREDENTIALS", key_file(&home, "https://oauth2.invalid/token"));
    let mut child = command.spawn().unwrap();
    eventually("the proxy is asked", || !proxy.asked("CONNECT oauth2.invalid:443").is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
}
