//! How files are fetched: options shared by `fetch`, `run` and `chat`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use impasto_fetch::{Header, Options, Secret};

/// How to fetch.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "How files are fetched")]
pub struct LinkArgs {
    /// Ranges to fetch at once [default: 4].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    pub connections: Option<u8>,
    /// Tries without progress before the command gives up [default: 6].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub tries: Option<u32>,
    /// Seconds without a byte after which a connection is given up [default: 30].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub timeout: Option<u64>,
    /// Certificates to trust instead of the built-in ones, in a PEM file.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// A header of the requests to the host of the address; may be repeated. It is not sent to other hosts.
    #[arg(long, value_name = "NAME: VALUE")]
    pub header: Vec<String>,
    /// A file with a token for the host of the address, which is sent as `Authorization: Bearer`. It is not sent to other hosts, nor
    /// over http except to this machine.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

impl LinkArgs {
    /// Returns whether any option is given.
    pub fn is_given(&self) -> bool {
        let LinkArgs { connections, tries, timeout, ca_file, header, token_file } = self;
        let numbers = connections.is_some() || tries.is_some() || timeout.is_some();
        numbers || ca_file.is_some() || !header.is_empty() || token_file.is_some()
    }

    /// Returns the options for the library.
    pub fn options(&self) -> anyhow::Result<Options> {
        let headers = self.header.iter().map(|header| Header::parse(header)).collect::<Result<_, _>>()?;
        let token = self.token_file.as_ref().map(|path| -> anyhow::Result<Secret> {
            let place = path.display().to_string();
            let text = std::fs::read_to_string(path).with_context(|| place.clone())?;
            Ok(Secret::new(&text, &place)?)
        });
        let stall = Duration::from_secs(self.timeout.unwrap_or(30));
        Ok(Options {
            connections: self.connections.unwrap_or(4).into(),
            tries: self.tries.unwrap_or(6),
            stall,
            answer: stall,
            patience: stall,
            ca_file: self.ca_file.clone(),
            headers,
            token: token.transpose()?,
            ..Options::default()
        })
    }
}
