//! The command-line options of a program that runs an emulator.

use std::io::Write;

use crate::{
    builder::FolderBucket,
    emulator::Emulator,
    error::Error,
    objects::virtual_namespace::VirtualSpec,
    traffic::{fault::Faults, profile::Profile},
};

/// The command-line options that set up an emulator. `dataflux emulate` and the `dataflux-emulator` binary share them.
#[derive(Clone, Debug, clap::Args)]
pub struct EmulatorArgs {
    /// Port to listen on; 0 takes any free one
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// Delays and rate limits: `fast` or `gcs`, with settings such as `gcs,list_ms=20,limits=off,scale=0.2`
    #[arg(long, default_value = "fast", value_name = "PROFILE")]
    pub profile: Profile,
    /// Bucket of computed objects: `BUCKET:n=N[,pattern=P][,size=S][,class=C][,prefix=TEXT][,seed=X]`
    #[arg(long = "virtual", value_name = "SPEC")]
    pub virtuals: Vec<VirtualSpec>,
    /// Bucket of the files of a directory, which is never written to: `BUCKET=DIR`
    #[arg(long = "folder", value_name = "BUCKET=DIR", value_parser = parse_folder)]
    pub folders: Vec<FolderBucket>,
    /// Empty bucket
    #[arg(long = "bucket", value_name = "NAME")]
    pub buckets: Vec<String>,
    /// Probabilities of faults:
    /// `error=0.05,429=0.02,reset=0.02,stall=0.01,stall_ms=30000,short=0.02,cut=0.02,flip=0.01,lost=0.05`
    #[arg(long, default_value = "", value_name = "SPEC")]
    pub faults: Faults,
    /// Seed of the faults and of the jitter of delays
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Number of threads that serve
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Print `{"endpoint":"http://127.0.0.1:PORT"}` as the first line on standard output
    #[arg(long)]
    pub json: bool,
}

fn parse_folder(text: &str) -> Result<FolderBucket, Error> {
    let (bucket, directory) = text
        .split_once('=')
        .filter(|(bucket, directory)| !bucket.is_empty() && !directory.is_empty())
        .ok_or_else(|| Error::spec("folder", text, "wanted BUCKET=DIR"))?;
    Ok(FolderBucket { bucket: bucket.to_owned(), directory: directory.into() })
}

impl EmulatorArgs {
    /// Starts the emulator that the options describe.
    ///
    /// # Errors
    /// As [`EmulatorBuilder::start`](crate::EmulatorBuilder::start).
    pub fn start(self) -> Result<Emulator, Error> {
        let mut builder = Emulator::builder()
            .host(self.host)
            .port(self.port)
            .threads(self.threads)
            .profile(self.profile)
            .faults(self.faults)
            .seed(self.seed);
        for spec in self.virtuals {
            builder = builder.virtual_namespace(spec);
        }
        for FolderBucket { bucket, directory } in self.folders {
            builder = builder.folder(bucket, directory);
        }
        for bucket in self.buckets {
            builder = builder.bucket(bucket);
        }
        builder.start()
    }

    /// Starts the emulator, writes its endpoint to `out`, and serves until SIGINT or SIGTERM.
    ///
    /// # Errors
    /// As [`start`](Self::start), and when `out` cannot be written or the signals cannot be watched.
    pub fn run(self, out: &mut dyn Write) -> Result<(), Error> {
        let json = self.json;
        let emulator = self.start()?;
        // Watched before the endpoint is written, because its reader may stop the process at once.
        let signals = emulator.watch_signals()?;
        let endpoint = emulator.endpoint();
        let line = if json {
            serde_json::json!({ "endpoint": endpoint }).to_string()
        } else {
            format!("Serving at {endpoint}\nUse it with: export STORAGE_EMULATOR_HOST={endpoint}\nInterrupt to stop.")
        };
        writeln!(out, "{line}").and_then(|()| out.flush()).map_err(Error::Runtime)?;
        signals.wait();
        Ok(())
    }
}
