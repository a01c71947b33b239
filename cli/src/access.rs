//! Options for reaching a bucket.

use std::sync::Arc;

use dataflux::list::Prefix;
use dataflux::store::{Client, Credentials, GcsConfig, GcsStore, Scheme};

use crate::failure::Usage;

#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Access")]
pub(crate) struct AccessArgs {
    /// Bill this project for the calls, as requester-pays buckets demand
    #[arg(long, value_name = "PROJECT", value_parser = project)]
    project: Option<String>,

    /// Send no credentials; public buckets need none
    #[arg(long)]
    anonymous: bool,
}

impl AccessArgs {
    /// A client of the store that `prefix` is in, which can only read.
    pub(crate) fn reader(&self, prefix: &Prefix) -> anyhow::Result<Client> {
        self.client(prefix, self.config().read_only())
    }

    /// The same, which can also compose and delete.
    pub(crate) fn writer(&self, prefix: &Prefix) -> anyhow::Result<Client> {
        self.client(prefix, self.config())
    }

    fn client(&self, prefix: &Prefix, config: GcsConfig) -> anyhow::Result<Client> {
        if prefix.scheme == Scheme::Gs {
            return Ok(Client::new(Arc::new(GcsStore::new(config)?)));
        }
        let options = [("--project", self.project.is_some()), ("--anonymous", self.anonymous)];
        if let Some((option, _)) = options.iter().find(|(_, is_set)| *is_set) {
            return Err(Usage(format!("{option} is for gs:// and does nothing for {prefix}: leave it out")).into());
        }
        Ok(Client::open(&prefix.to_uri())?)
    }

    fn config(&self) -> GcsConfig {
        let mut config = GcsConfig::from_env();
        if let Some(project) = &self.project {
            config = config.user_project(project);
        }
        if self.anonymous { config.credentials(Credentials::Anonymous) } else { config }
    }
}

/// Parses the ID or the number of a project.
fn project(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':');
    if text.is_empty() || !text.chars().all(fits) {
        return Err("it must be the ID or the number of a project, such as my-project-123".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};

    use super::*;

    #[test]
    fn options_become_settings() {
        let config = |args: &[&str]| {
            let command = AccessArgs::augment_args(clap::Command::new("access")).no_binary_name(true);
            let matches = command.try_get_matches_from(args).unwrap();
            format!("{:?}", AccessArgs::from_arg_matches(&matches).unwrap().config())
        };
        assert!(config(&["--anonymous"]).contains("credentials: Anonymous"));
        assert!(config(&["--project", "p-1"]).contains("user_project: Some(\"p-1\")"));
        assert!(config(&[]).contains("user_project: None"));
    }

    #[test]
    fn projects() {
        for text in ["my-project-123", "123456789012", "example.com:my-project"] {
            assert_eq!(project(text).as_deref(), Ok(text));
        }
        for text in ["", "my project", "a\nb", "ü"] {
            assert!(project(text).unwrap_err().contains("my-project-123"), "{text}");
        }
    }
}
