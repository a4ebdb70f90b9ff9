//! Parsed newtypes that every other room builds on. The only place where hosts
//! and paths are normalised and where secrets are wrapped. Knows no I/O.

pub mod boxed;
pub mod clock;
pub mod cloud;
pub mod digest;
pub mod hint;
pub mod host;
pub mod listen;
pub mod names;
pub mod path;
pub mod request_id;
pub mod secret;
pub mod shared;
pub mod trace;

pub use boxed::boxed;
pub use clock::{Clock, SystemClock};
pub use cloud::is_metadata_service;
pub use digest::sha256;
pub use hint::Hint;
pub use host::{Authority, Host, HostError};
pub use listen::ListenAddress;
pub use names::{AgentName, AuthorizationServerName, CredentialName, ListenerName, NameError, RouteName};
pub use path::{CanonicalPath, PathError};
pub use request_id::{RequestId, RequestIds};
pub use secret::{Fingerprint, Secret};
pub use shared::Shared;
pub use trace::Trace;
