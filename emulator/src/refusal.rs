//! Refusals: the errors that the emulator answers over HTTP.

use std::io;

use serde_json::json;

/// An error answer: the status, reason and message of the service's JSON error body.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) domain: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) location: Option<RefusalLocation>,
    /// The size of the object in bytes, where the requested range starts past its end.
    pub(crate) object_size: Option<u64>,
}

/// The part of a request that a refusal blames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusalLocation {
    Header(&'static str),
    Parameter(&'static str),
}

impl RefusalLocation {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Header(name) | Self::Parameter(name) => name,
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Header(_) => "header",
            Self::Parameter(_) => "parameter",
        }
    }
}

impl Refusal {
    pub(crate) fn new(status: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { status, domain: "global", reason, message: message.into(), location: None, object_size: None }
    }

    pub(crate) fn at(self, location: RefusalLocation) -> Self {
        Self { location: Some(location), ..self }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "invalid", message)
    }

    pub(crate) fn parameter(name: &'static str, message: impl Into<String>) -> Self {
        Self::new(400, "invalidParameter", message).at(RefusalLocation::Parameter(name))
    }

    pub(crate) fn no_route() -> Self {
        Self::new(404, "notFound", "Not Found")
    }

    pub(crate) fn no_bucket() -> Self {
        Self::new(404, "notFound", "The specified bucket does not exist.")
    }

    pub(crate) fn no_object(bucket: &str, name: &str) -> Self {
        Self::new(404, "notFound", format!("No such object: {bucket}/{name}"))
    }

    pub(crate) fn precondition(header: &'static str) -> Self {
        let message = "At least one of the pre-conditions you specified did not hold.";
        Self::new(412, "conditionNotMet", message).at(RefusalLocation::Header(header))
    }

    pub(crate) fn not_modified() -> Self {
        Self::new(304, "notModified", "Not Modified")
    }

    /// The answer to a caller that has credentials and lacks `permission`.
    pub(crate) fn denied(permission: &str) -> Self {
        Self::new(403, "forbidden", permission_message("emulator@dataflux.iam.gserviceaccount.com", permission))
    }

    /// The answer to a caller that has no credentials and lacks `permission`.
    pub(crate) fn denied_anonymous(permission: &str) -> Self {
        Self::new(401, "required", permission_message("Anonymous caller", permission))
            .at(RefusalLocation::Header("Authorization"))
    }

    pub(crate) fn rate_limited(message: impl Into<String>) -> Self {
        Self { domain: "usageLimits", ..Self::new(429, "rateLimitExceeded", message) }
    }

    pub(crate) fn unavailable() -> Self {
        Self::new(503, "backendError", "We encountered an internal error. Please try again.")
    }

    /// The answer for an object whose file has changed since the emulator started.
    pub(crate) fn changed_file(name: &str, why: &io::Error) -> Self {
        Self::new(500, "internalError", format!("The file behind '{name}' cannot be served as it was found: {why}."))
    }

    /// The JSON error body; empty for 304, which has none.
    pub(crate) fn body(&self) -> Vec<u8> {
        if self.status == 304 {
            return Vec::new();
        }

        let mut detail = json!({ "message": self.message, "domain": self.domain, "reason": self.reason });
        if let Some(location) = self.location {
            detail["locationType"] = location.kind().into();
            detail["location"] = location.name().into();
        }

        json!({ "error": { "code": self.status, "message": self.message, "errors": [detail] } })
            .to_string()
            .into_bytes()
    }
}

fn permission_message(caller: &str, permission: &str) -> String {
    let resource = if permission.starts_with("storage.buckets") { "bucket" } else { "object" };
    format!(
        "{caller} does not have {permission} access to the Google Cloud Storage {resource}. Permission '{permission}' \
         denied on resource (or it may not exist)."
    )
}
