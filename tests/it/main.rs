//! The one integration test target. Behaviour tests speak HTTP to a running proxy; the
//! module list says where a new test goes.

#![allow(unreachable_pub, reason = "the modules of one test share their helpers")]
#![allow(clippy::print_stderr, reason = "tests of many rounds say what came of them, a line each")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails should say where")]

mod agents;
mod architecture;
mod audit;
mod binary;
mod canary;
mod certificates;
mod cli;
mod crashes;
mod documents;
mod documents_dependencies;
mod documents_threats;
mod doors;
mod dpop;
mod framing;
mod guesses;
mod h2_doors;
mod headers;
mod in_memory;
mod limits;
mod login;
mod main_job;
mod matrix;
mod memory;
mod mortal;
mod off_limits;
mod operations;
mod parent;
mod presets;
mod processes;
mod refresh_on;
mod refusals;
mod replay;
mod restart;
mod review;
mod revoked;
mod rotation;
mod run;
mod scripted;
mod scrub;
mod serve;
mod socks;
mod streaming;
mod support;
mod tokens;
mod tunnels;
mod unix;
mod upgrades;
mod wire;
