//! Tests of the room as a whole: `slots` with a token source in memory and paused time,
//! `servers` and `discovery` against a scripted server over TLS;
//! `sessions` are refresh tokens and what is kept on the disk; `grants` every other way to a token,
//! `retries` what is tried again;
//! `notes` reads what the room tells the record and the log.

mod discovery;
mod grants;
mod notes;
mod retries;
mod servers;
mod sessions;
mod slots;
