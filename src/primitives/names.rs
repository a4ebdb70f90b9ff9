//! Names that the operator gives to things. Each role is its own type, because
//! handing an agent's name where a route's is wanted is the mix-up to prevent.

use std::{borrow::Borrow, fmt, sync::Arc};

use super::shared::Shared;

/// Why a name was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    #[error("a name can't be empty")]
    Empty,
    #[error("a name has at most 64 characters")]
    TooLong,
    #[error("a name holds only letters, digits, `-`, `_` and `.`")]
    Character,
}

fn validate(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > 64 {
        return Err(NameError::TooLong);
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if text.bytes().all(allowed) { Ok(()) } else { Err(NameError::Character) }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl $type {
            pub fn parse(text: &str) -> Result<Self, NameError> {
                validate(text).map(|()| Self(text.into()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Shared for $type {
            fn is_same(&self, other: &Self) -> bool {
                Arc::ptr_eq(&self.0, &other.0)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// Who asks: the table name under `[agents]`.
    AgentName
}
name! {
    /// A rule: `name` in `[[routes]]`.
    RouteName
}
name! {
    /// How a token is got: the table name under `[credentials]`.
    CredentialName
}
name! {
    /// The table name under `[authorization_servers]`.
    AuthorizationServerName
}
name! {
    /// Which door a request came through, as records and metrics show it.
    ListenerName
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        assert!(AgentName::parse("researcher-2.eu_west").is_ok());
        assert_eq!(AgentName::parse(""), Err(NameError::Empty));
        assert_eq!(AgentName::parse("a:b"), Err(NameError::Character));
        assert_eq!(AgentName::parse("a\r\nb"), Err(NameError::Character));
        assert_eq!(AgentName::parse(&"a".repeat(65)), Err(NameError::TooLong));
    }

    #[test]
    fn only_a_clone_is_the_same() {
        let name = AgentName::parse("researcher").unwrap();
        assert!(name.is_same(&name.clone()));
        assert!(!name.is_same(&AgentName::parse("researcher").unwrap()));
    }
}
