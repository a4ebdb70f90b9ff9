//! Discovery and the token request itself.
