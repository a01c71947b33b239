//! Other Rust clients for reading a bucket, each set up as in its documentation and pointed at an emulator.

use anyhow::Result;
use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder};
use object_store::{ClientOptions, RetryConfig};
use opendal::Operator;
use opendal::layers::RetryLayer;

/// Makes ring the process's provider of cryptography, which the clients need even if nothing is encrypted.
pub fn install_provider() {
    // An error means that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The client of the crate `object_store`, which reads and lists by the XML API.
///
/// # Errors
/// Those of the builder.
pub fn object_store(endpoint: &str, bucket: &str, retry: RetryConfig) -> Result<GoogleCloudStorage> {
    install_provider();
    let builder = GoogleCloudStorageBuilder::new().with_base_url(endpoint).with_bucket_name(bucket);
    let options = ClientOptions::new().with_allow_http(true);
    Ok(builder.with_skip_signature(true).with_client_options(options).with_retry(retry).build()?)
}

/// The client of the crate `opendal`, which reads and lists by the JSON API.
///
/// # Errors
/// Those of the builder.
pub fn opendal(endpoint: &str, bucket: &str) -> Result<Operator> {
    install_provider();
    opendal_http_transport_reqwest::install_default();
    let builder = opendal::services::Gcs::default().endpoint(endpoint).bucket(bucket).skip_signature();
    Ok(Operator::new(builder)?.layer(RetryLayer::default()))
}

/// The client of the crate `google-cloud-storage`.
///
/// # Errors
/// Those of the builder.
#[cfg(feature = "google")]
pub async fn google(endpoint: &str) -> Result<google_cloud_storage::client::Storage> {
    install_provider();
    let credentials = google_cloud_auth::credentials::anonymous::Builder::new().build();
    Ok(google_cloud_storage::client::Storage::builder()
        .with_endpoint(endpoint)
        .with_credentials(credentials)
        .build()
        .await?)
}
