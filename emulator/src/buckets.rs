//! Calls on buckets.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    bucket::{Base, Bucket, BucketConfig, Settings},
    error::Refusal,
    fields::Selector,
    lock::{read, write},
    object::is_storage_class,
    service::{Reply, Request, State},
    timestamp,
};

/// The project that owns everything here.
const PROJECT: &str = "123456789012";

/// What is wrong with a bucket's name.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let edges = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    let longest = if name.contains('.') { 222 } else { 63 };
    let good = (3..=longest).contains(&name.len())
        && name.chars().all(inside)
        && edges(name.chars().next())
        && edges(name.chars().next_back())
        && name.split('.').all(|part| (1..=63).contains(&part.len()));
    if good {
        Ok(())
    } else {
        Err(format!(
            "Invalid bucket name: '{name}': 3 to 63 lower-case letters, digits, dashes, underscores and dots are \
             wanted, beginning and ending with a letter or digit"
        ))
    }
}

fn resource(bucket: &Bucket, endpoint: &str) -> Value {
    let settings = read(&bucket.settings);
    let Settings { config, metageneration, updated, extra } = &*settings;
    let created = timestamp::rfc3339(bucket.created);
    let name = &bucket.name;
    let location_type = &config.location_type;
    let mut value = json!({
        "kind": "storage#bucket",
        "id": name,
        "selfLink": format!("{endpoint}/storage/v1/b/{name}"),
        "projectNumber": PROJECT,
        "name": name,
        "location": config.location,
        "locationType": location_type,
        "storageClass": config.storage_class,
        "metageneration": metageneration.to_string(),
        "etag": crate::checksum::base64(&metageneration.to_be_bytes()),
        "timeCreated": created,
        "updated": timestamp::rfc3339(*updated),
        "iamConfiguration": {
            "uniformBucketLevelAccess": { "enabled": true },
            "bucketPolicyOnly": { "enabled": true },
            "publicAccessPrevention": "inherited",
        },
        "softDeletePolicy": { "retentionDurationSeconds": config.soft_delete_seconds.to_string() },
    });
    if config.soft_delete_seconds > 0 {
        value["softDeletePolicy"]["effectiveTime"] = created.clone().into();
    }
    if let Some(seconds) = config.retention_seconds {
        value["retentionPolicy"] =
            json!({ "retentionPeriod": seconds.to_string(), "effectiveTime": created, "isLocked": false });
    }
    if config.default_event_based_hold {
        value["defaultEventBasedHold"] = true.into();
    }
    if config.hierarchical_namespace {
        value["hierarchicalNamespace"] = json!({ "enabled": true });
    }
    if config.requester_pays {
        value["billing"] = json!({ "requesterPays": true });
    }
    for (key, field) in extra {
        value[key] = field.clone();
    }
    value
}

/// Applies a resource to the settings: what the emulator acts upon, and the rest as it is.
fn apply(settings: &mut Settings, resource: &serde_json::Map<String, Value>) -> Result<(), Refusal> {
    let text = |key: &str, value: &Value| {
        value.as_str().map(str::to_owned).ok_or_else(|| Refusal::invalid(format!("Invalid value for {key}.")))
    };
    // 64-bit numbers come as strings, and from some clients as numbers.
    let seconds = |key: &str, value: &Value| {
        let number = value.as_str().and_then(|text| text.parse::<u64>().ok()).or_else(|| value.as_u64());
        number.ok_or_else(|| Refusal::invalid(format!("Invalid value for {key}: a number of seconds is wanted.")))
    };
    let config = &mut settings.config;
    for (key, value) in resource {
        match key.as_str() {
            "location" => {
                config.location = text(key, value)?.to_ascii_uppercase();
                let location_type = match config.location.as_str() {
                    "US" | "EU" | "ASIA" => "multi-region",
                    "NAM4" | "EUR4" | "EUR5" | "EUR7" | "EUR8" | "ASIA1" => "dual-region",
                    _ => "region",
                };
                location_type.clone_into(&mut config.location_type);
            }
            "storageClass" => {
                let class = text(key, value)?;
                if !is_storage_class(&class) {
                    return Err(Refusal::invalid(format!("Invalid storage class: {class}")));
                }
                config.storage_class = class;
            }
            "softDeletePolicy" => {
                config.soft_delete_seconds = match value.get("retentionDurationSeconds") {
                    Some(value) => seconds(key, value)?,
                    None => 0,
                };
            }
            "retentionPolicy" => {
                config.retention_seconds = value.get("retentionPeriod").map(|value| seconds(key, value)).transpose()?;
            }
            "defaultEventBasedHold" => config.default_event_based_hold = value.as_bool().unwrap_or(false),
            "hierarchicalNamespace" => {
                config.hierarchical_namespace = value.get("enabled").and_then(Value::as_bool).unwrap_or(false);
            }
            "billing" => config.requester_pays = value.get("requesterPays").and_then(Value::as_bool).unwrap_or(false),
            "kind" | "id" | "selfLink" | "projectNumber" | "name" | "locationType" | "metageneration" | "etag"
            | "timeCreated" | "updated" => {}
            _ if value.is_null() => drop(settings.extra.remove(key)),
            _ => drop(settings.extra.insert(key.clone(), value.clone())),
        }
    }
    Ok(())
}

fn reply(bucket: &Bucket, state: &State, request: &Request) -> Result<Reply, Refusal> {
    let mut value = resource(bucket, &state.endpoint);
    if let Some(fields) = request.query.get("fields") {
        value = Selector::parse(fields)?.apply(value);
    }
    Ok(Reply::value(&value))
}

pub(crate) fn insert(state: &State, request: &Request) -> Result<Reply, Refusal> {
    let resource = request.json()?;
    let name = resource.get("name").and_then(Value::as_str).ok_or_else(|| Refusal::invalid("Required: name"))?;
    check_name(name).map_err(Refusal::invalid)?;
    // What the service chooses when a request says nothing.
    let config =
        BucketConfig { location: "US".to_owned(), location_type: "multi-region".to_owned(), ..BucketConfig::default() };
    let bucket = Bucket::new(name, config, Base::Empty);
    apply(&mut write(&bucket.settings), &resource)?;
    if !state.namespace.add(bucket) {
        let message = "Your previous request to create the named bucket succeeded and you already own it.";
        return Err(Refusal::new(409, "conflict", message));
    }
    reply(&*state.bucket(name)?, state, request)
}

pub(crate) fn get(state: &State, bucket: &str, request: &Request) -> Result<Reply, Refusal> {
    let bucket = state.bucket_for(bucket, request)?;
    bucket.allows("storage.buckets.get", request)?;
    reply(&bucket, state, request)
}

pub(crate) fn list(state: &State, request: &Request) -> Result<Reply, Refusal> {
    let prefix = request.query.get("prefix").unwrap_or_default();
    let buckets: Vec<Arc<Bucket>> = state.namespace.all();
    let items: Vec<Value> = buckets
        .iter()
        .filter(|bucket| bucket.name.starts_with(prefix))
        .map(|bucket| resource(bucket, &state.endpoint))
        .collect();
    let mut value = json!({ "kind": "storage#buckets" });
    if !items.is_empty() {
        value["items"] = items.into();
    }
    if let Some(fields) = request.query.get("fields") {
        value = Selector::parse(fields)?.apply(value);
    }
    Ok(Reply::value(&value))
}

pub(crate) fn patch(state: &State, bucket: &str, request: &Request) -> Result<Reply, Refusal> {
    let bucket = state.bucket_for(bucket, request)?;
    bucket.allows("storage.buckets.update", request)?;
    {
        let mut settings = write(&bucket.settings);
        let wanted = request.query.integer("ifMetagenerationMatch")?;
        if wanted.is_some_and(|wanted| wanted as u64 != settings.metageneration) {
            return Err(Refusal::precondition("If-Match"));
        }
        let mut changed = Settings {
            config: settings.config.clone(),
            metageneration: settings.metageneration + 1,
            updated: timestamp::now(),
            extra: settings.extra.clone(),
        };
        apply(&mut changed, &request.json()?)?;
        *settings = changed;
    }
    reply(&bucket, state, request)
}

pub(crate) fn delete(state: &State, bucket: &str, request: &Request) -> Result<Reply, Refusal> {
    state.bucket(bucket)?.allows("storage.buckets.delete", request)?;
    state.namespace.remove(bucket)?;
    Ok(Reply::empty(204))
}

pub(crate) fn test_permissions(state: &State, bucket: &str, request: &Request) -> Result<Reply, Refusal> {
    let bucket = state.bucket_for(bucket, request)?;
    let held: Vec<&str> =
        request.query.all("permissions").filter(|permission| bucket.allows(permission, request).is_ok()).collect();
    let mut value = json!({ "kind": "storage#testIamPermissionsResponse" });
    if !held.is_empty() {
        value["permissions"] = held.into();
    }
    Ok(Reply::value(&value))
}
