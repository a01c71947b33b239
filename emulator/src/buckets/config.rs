//! The configuration of a bucket.

use std::collections::BTreeSet;

/// The configuration of a bucket.
///
/// ```
/// use dataflux_emulator::BucketConfig;
/// let config = BucketConfig { soft_delete_seconds: 0, ..BucketConfig::default() };
/// assert_eq!(config.location, "US-CENTRAL1");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketConfig {
    /// The region; `US-CENTRAL1` by default.
    pub location: String,
    /// `region`, `dual-region` or `multi-region`.
    pub location_type: String,
    /// The storage class of objects that do not name one.
    pub storage_class: String,
    /// How long the service would keep (and bill) deleted objects, in seconds; 0 turns this off. Seven days by default,
    /// as in the service. The emulator only reports the value: it keeps no deleted objects.
    pub soft_delete_seconds: u64,
    /// The age in seconds below which an object can be neither deleted nor overwritten.
    pub retention_seconds: Option<u64>,
    /// Whether new objects have an event-based hold: they cannot be deleted until it is released.
    pub default_event_based_hold: bool,
    /// Whether the bucket has a hierarchical namespace. The emulator only reports the value.
    pub hierarchical_namespace: bool,
    /// Whether requests that name no project to bill are refused.
    pub requester_pays: bool,
    /// Permissions that no caller has, such as `storage.objects.create`. Every caller, even one without credentials,
    /// counts as a known principal and gets 403.
    pub denied: BTreeSet<String>,
    /// Permissions that anonymous callers lack: requests without an `Authorization` header get 401, as in the service.
    /// Takes precedence over `denied`. The emulator does not look at credentials; callers that have any lack only the
    /// permissions in `denied`.
    pub denied_anonymous: BTreeSet<String>,
}

impl Default for BucketConfig {
    fn default() -> Self {
        Self {
            location: "US-CENTRAL1".to_owned(),
            location_type: "region".to_owned(),
            storage_class: "STANDARD".to_owned(),
            soft_delete_seconds: 7 * 24 * 3_600,
            retention_seconds: None,
            default_event_based_hold: false,
            hierarchical_namespace: false,
            requester_pays: false,
            denied: BTreeSet::new(),
            denied_anonymous: BTreeSet::new(),
        }
    }
}
