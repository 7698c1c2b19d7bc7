//! The facade: open, read, verify and decode .impasto files.
