//! Calls on buckets.

use serde_json::{Map, Value, json};

use crate::{
    api::{field_selector::select_fields, state::EmulatorState},
    buckets::{
        base::BucketBase,
        config::BucketConfig,
        stored::{BucketSettings, StoredBucket},
    },
    checksum::base64,
    http::{reply::Reply, request::ReceivedRequest},
    locks::{read, write},
    naming::{check_bucket_name, is_storage_class},
    refusal::Refusal,
    timestamp,
};

/// The number of the project that owns all buckets.
const PROJECT_NUMBER: &str = "123456789012";

/// The JSON resource of a bucket.
fn resource(bucket: &StoredBucket, endpoint: &str) -> Value {
    let settings = read(&bucket.settings);
    let BucketSettings { config, metageneration, updated, extra } = &*settings;
    let created = timestamp::rfc3339(bucket.created);
    let name = &bucket.name;
    let location_type = &config.location_type;
    let mut value = json!({
        "kind": "storage#bucket",
        "id": name,
        "selfLink": format!("{endpoint}/storage/v1/b/{name}"),
        "projectNumber": PROJECT_NUMBER,
        "name": name,
        "location": config.location,
        "locationType": location_type,
        "storageClass": config.storage_class,
        "metageneration": metageneration.to_string(),
        "etag": base64(&metageneration.to_be_bytes()),
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

/// Applies a resource to the settings. Fields that the emulator does not act on are stored unchanged.
fn apply_resource(settings: &mut BucketSettings, resource: &Map<String, Value>) -> Result<(), Refusal> {
    let text = |key: &str, value: &Value| {
        value.as_str().map(str::to_owned).ok_or_else(|| Refusal::invalid(format!("Invalid value for {key}.")))
    };
    // 64-bit numbers come as strings, or from some clients as numbers.
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

fn bucket_reply(bucket: &StoredBucket, state: &EmulatorState, request: &ReceivedRequest) -> Result<Reply, Refusal> {
    Ok(Reply::json_value(&select_fields(resource(bucket, &state.endpoint), &request.query)?))
}

pub(crate) fn insert(state: &EmulatorState, request: &ReceivedRequest) -> Result<Reply, Refusal> {
    let resource = request.json()?;
    let name = resource.get("name").and_then(Value::as_str).ok_or_else(|| Refusal::invalid("Required: name"))?;
    check_bucket_name(name).map_err(Refusal::invalid)?;

    // The defaults of the service for a request that names no location.
    let config =
        BucketConfig { location: "US".to_owned(), location_type: "multi-region".to_owned(), ..BucketConfig::default() };
    let bucket = StoredBucket::new(name, config, BucketBase::Empty);
    apply_resource(&mut write(&bucket.settings), &resource)?;
    if !state.buckets.add(bucket) {
        let message = "Your previous request to create the named bucket succeeded and you already own it.";
        return Err(Refusal::new(409, "conflict", message));
    }
    bucket_reply(&*state.bucket(name)?, state, request)
}

pub(crate) fn get(state: &EmulatorState, bucket: &str, request: &ReceivedRequest) -> Result<Reply, Refusal> {
    let bucket = state.billed_bucket(bucket, request)?;
    bucket.check_permission("storage.buckets.get", request.caller())?;
    bucket_reply(&bucket, state, request)
}

pub(crate) fn list(state: &EmulatorState, request: &ReceivedRequest) -> Result<Reply, Refusal> {
    let prefix = request.query.get("prefix").unwrap_or_default();
    let items: Vec<Value> = state
        .buckets
        .all()
        .iter()
        .filter(|bucket| bucket.name.starts_with(prefix))
        .map(|bucket| resource(bucket, &state.endpoint))
        .collect();

    let mut value = json!({ "kind": "storage#buckets" });
    if !items.is_empty() {
        value["items"] = items.into();
    }
    Ok(Reply::json_value(&select_fields(value, &request.query)?))
}

pub(crate) fn patch(state: &EmulatorState, bucket: &str, request: &ReceivedRequest) -> Result<Reply, Refusal> {
    let bucket = state.billed_bucket(bucket, request)?;
    bucket.check_permission("storage.buckets.update", request.caller())?;
    {
        let mut settings = write(&bucket.settings);
        let wanted = request.query.integer("ifMetagenerationMatch")?;
        if wanted.is_some_and(|wanted| wanted as u64 != settings.metageneration) {
            return Err(Refusal::precondition("If-Match"));
        }

        // Applied to a copy, so that a refusal changes nothing.
        let mut changed = settings.clone();
        changed.metageneration += 1;
        changed.updated = timestamp::now();
        apply_resource(&mut changed, &request.json()?)?;
        *settings = changed;
    }
    bucket_reply(&bucket, state, request)
}

pub(crate) fn delete(state: &EmulatorState, bucket: &str, request: &ReceivedRequest) -> Result<Reply, Refusal> {
    state.bucket(bucket)?.check_permission("storage.buckets.delete", request.caller())?;
    state.buckets.remove(bucket)?;
    Ok(Reply::empty(204))
}

pub(crate) fn test_permissions(
    state: &EmulatorState,
    bucket: &str,
    request: &ReceivedRequest,
) -> Result<Reply, Refusal> {
    let bucket = state.billed_bucket(bucket, request)?;
    let caller = request.caller();
    let held: Vec<&str> = request
        .query
        .all("permissions")
        .filter(|permission| bucket.check_permission(permission, caller).is_ok())
        .collect();

    let mut value = json!({ "kind": "storage#testIamPermissionsResponse" });
    if !held.is_empty() {
        value["permissions"] = held.into();
    }
    Ok(Reply::json_value(&value))
}
