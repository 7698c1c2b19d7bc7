//! Integration tests, all in one program.

mod addresses;
mod bases;
mod files;
mod growing;
mod misbehaving;
mod nginx;
mod plain;
mod resume;
mod server;
mod tls;
