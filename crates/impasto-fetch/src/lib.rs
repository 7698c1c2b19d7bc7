//! Fetches `.impasto` files: header and manifest first, then units in the order of the file, several ranges at once.
//!
//! The file that is written is at every moment a prefix of the remote one that ends with a verified unit. It can be used as it is, and
//! the next fetch continues it, whatever ended the last one. Nothing else is written, since the file itself says what is there.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use impasto_container::{Limits, Reader};
//! use impasto_fetch::{Address, Extent, Fetch, Request};
//!
//! let address = Address::parse("https://example.org/model.impasto")?;
//! let request = Request { extent: Extent::Layer(2), ..Request::new(address, "model.impasto") };
//! let fetch = Fetch::start(request, Arc::new(()))?;
//! // Units can be read while others arrive.
//! if let Some(source) = fetch.source() {
//!     let mut reader = Reader::open(source, "model.impasto", &Limits::default())?;
//!     reader.refresh()?;
//! }
//! println!("{} units", fetch.join()?.units);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod address;
pub mod answer;
mod assemble;
mod bases;
mod date;
mod disk;
mod error;
mod extent;
mod fetch;
mod get;
mod head;
mod http;
mod hub;
mod job;
mod options;
mod part;
pub mod remote;
#[cfg(feature = "s3")]
mod s3;
mod url;
mod wait;
mod window;

pub use address::{Address, Environment, environment};
pub use bases::{BaseFile, Bringer, bring_bases};
pub use error::FetchError;
pub use extent::{Extent, Prefix};
pub use fetch::{Done, Fetch, Goal, Progress, Request, Watch, fetch};
pub use hub::HubFile;
pub use options::{Header, Options, Secret};
#[cfg(feature = "s3")]
pub use s3::Object as S3Object;
pub use url::Url;
pub use wait::Cancel;
