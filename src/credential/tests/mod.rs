//! Tests of the room as a whole: `slots` with a token source in memory and paused time,
//! `servers` and `discovery` against a scripted server over TLS.

mod discovery;
mod servers;
mod slots;
