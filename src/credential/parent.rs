//! The parent proxy, for token requests, and the login there for whoever goes through it.

use std::sync::{Arc, Mutex, PoisonError};

use reqwest::Url;

use zeroize::Zeroizing;

use crate::{
    primitives::{Authority, Host, Secret},
    route::parent::{Parent, ParentProtocol},
};

use super::{Source, SourceError, source::Secrets};

/// `[upstream]`: where it is, and who we are there.
#[derive(Clone, Debug)]
pub struct ParentProxy {
    pub parent: Arc<Parent>,
    pub login: Option<Arc<ParentLogin>>,
}

/// User and password. The password is read for each connection, so that a change counts.
#[derive(Debug)]
pub struct ParentLogin {
    pub user: String,
    password: Option<Source>,
    secrets: Secrets,
    /// For reqwest, which asks without waiting.
    last: Mutex<Option<Secret>>,
}

impl ParentLogin {
    pub fn new(user: String, password: Option<Source>) -> Self {
        Self { user, password, secrets: Secrets::default(), last: Mutex::default() }
    }

    /// Where the password is.
    pub fn source(&self) -> Option<&Source> {
        self.password.as_ref()
    }

    /// Reads the password now; `None`: there is none.
    ///
    /// # Errors
    /// It isn't where the config says.
    pub async fn read(&self) -> Result<Option<Secret>, SourceError> {
        let Some(source) = &self.password else { return Ok(None) };
        let secret = self.secrets.read(source).await?;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(secret.clone());
        Ok(Some(secret))
    }

    /// The parent refused it: the next read asks again what is kept for a while.
    pub fn refused(&self) {
        if let Some(source) = &self.password {
            self.secrets.forget(source);
        }
    }
}

impl ParentProxy {
    /// The same decision for token requests.
    pub(super) fn for_requests(&self) -> reqwest::Proxy {
        let this = self.clone();
        reqwest::Proxy::custom(move |url| this.on_the_way_to(url))
    }

    /// What `on_the_way_to` will need.
    pub(super) async fn prepare(&self) -> Result<(), SourceError> {
        match &self.login {
            Some(login) => login.read().await.map(drop),
            None => Ok(()),
        }
    }

    fn on_the_way_to(&self, url: &Url) -> Option<Url> {
        let host = Host::parse(url.host_str()?).ok()?;
        if !self.parent.covers(&Authority::new(host, url.port_or_known_default()?)) {
            return None;
        }
        let scheme = match self.parent.protocol {
            ParentProtocol::Http => "http",
            ParentProtocol::Socks5 => "socks5h",
        };
        let mut proxy = Url::parse(&format!("{scheme}://{}", self.parent.authority)).ok()?;
        if let Some(login) = &self.login {
            let last = login.last.lock().unwrap_or_else(PoisonError::into_inner);
            proxy.set_username(&escaped(&login.user)).ok()?;
            let password = last.as_ref().map(|secret| Zeroizing::new(escaped(secret.expose())));
            proxy.set_password(password.as_ref().map(|text| text.as_str())).ok()?;
        }
        Some(proxy)
    }
}

/// `Url` escapes all but the escape itself.
fn escaped(text: &str) -> String {
    text.replace('%', "%25")
}
