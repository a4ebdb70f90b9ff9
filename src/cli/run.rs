//! `cupbearer run -- CMD`.
