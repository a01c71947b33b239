//! A small HTTP client: any status is an answer, and it neither follows redirects nor decompresses.

use std::io::Read;

use dataflux_emulator::Emulator;
use serde_json::Value;

/// An answer of the emulator.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: ureq::http::HeaderMap,
    pub(crate) body: Vec<u8>,
    /// The error that the body ended with, if any.
    pub(crate) broken: Option<std::io::Error>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn reason(&self) -> String {
        self.json()["error"]["errors"][0]["reason"].as_str().unwrap().to_owned()
    }

    /// The status and reason of a refusal. Its body must have the service's form.
    pub(crate) fn refusal(&self) -> (u16, String) {
        let error = &self.json()["error"];
        assert_eq!(error["code"], self.status);
        assert_eq!(error["message"], error["errors"][0]["message"]);
        assert!(error["errors"][0]["domain"].is_string());
        (self.status, self.reason())
    }
}

/// Sends one request on a connection of its own. `target` is a path, or a whole URL of the emulator.
pub(crate) fn try_send(
    emulator: &Emulator,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Answer, ureq::Error> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .build()
        .into();
    let url = if target.starts_with("http") { target.to_owned() } else { format!("{}{target}", emulator.endpoint()) };
    let mut request = ureq::http::Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut response = if matches!(method, "GET" | "HEAD" | "DELETE") {
        agent.run(request.body(()).unwrap())?
    } else {
        agent.run(request.body(body.to_vec()).unwrap())?
    };
    let mut bytes = Vec::new();
    let broken = response.body_mut().as_reader().read_to_end(&mut bytes).err();
    Ok(Answer { status: response.status().as_u16(), headers: response.headers().clone(), body: bytes, broken })
}

pub(crate) fn send(emulator: &Emulator, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    try_send(emulator, method, target, headers, body).unwrap()
}

pub(crate) fn get(emulator: &Emulator, target: &str) -> Answer {
    send(emulator, "GET", target, &[], b"")
}

pub(crate) fn post(emulator: &Emulator, target: &str, body: &Value) -> Answer {
    send(emulator, "POST", target, &[("content-type", "application/json")], body.to_string().as_bytes())
}

pub(crate) fn delete(emulator: &Emulator, target: &str) -> Answer {
    send(emulator, "DELETE", target, &[], b"")
}
