//! One slot a credential: the current token, the flight, the backoff.
