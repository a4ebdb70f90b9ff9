//! The running proxy, asked through its admin API.

use anyhow::anyhow;
use reqwest::Method;
use serde_json::Value;

use crate::{
    admin,
    config::Settings,
    primitives::{CredentialName, ListenAddress},
};

use super::{Failure, Result, output};

/// Why there is no answer.
pub(super) enum Silence {
    /// The config has no admin listener.
    NoAdmin,
    /// Nobody listens there.
    Nobody(anyhow::Error),
    /// It says why.
    Refused {
        detail: String,
        hint: Option<String>,
    },
    Broken(anyhow::Error),
}

/// One request below `/api/v1`.
pub(super) async fn ask(settings: &Settings, method: Method, path: &str) -> std::result::Result<Value, Silence> {
    let admin = settings.admin.as_ref().ok_or(Silence::NoAdmin)?;
    let broken = |error: anyhow::Error, what: &'static str| Silence::Broken(error.context(what));
    let key =
        admin::load_or_create_key(&settings.state).map_err(|error| broken(error.into(), "can't read the admin key"))?;
    // Never through a proxy, and least of all through ourselves.
    let client = reqwest::Client::builder().no_proxy();
    let (client, host) = match &admin.listen {
        ListenAddress::Tcp(address) => (client, address.to_string()),
        ListenAddress::Unix(socket) => (client.unix_socket(&*socket.path), "localhost".to_owned()),
    };
    let url = format!("http://{host}/api/v1/{path}");
    let client = client.build();
    let client = client.map_err(|error| broken(error.into(), "can't make an HTTP client"))?;
    let response = client.request(method, &url).bearer_auth(key.expose()).send().await.map_err(|error| {
        let nobody = format!("no proxy answers at {}; is `cupbearer serve` running?", admin.listen);
        Silence::Nobody(anyhow!(error.without_url()).context(nobody))
    })?;
    let status = response.status();
    let body: Value =
        response.json().await.map_err(|error| broken(error.into(), "the admin API's answer isn't JSON"))?;
    if status.is_success() {
        return Ok(body);
    }
    let text = |name: &str| body[name].as_str().map(str::to_owned);
    Err(Silence::Refused { detail: text("detail").unwrap_or_else(|| "no reason given".to_owned()), hint: text("hint") })
}

impl From<Silence> for Failure {
    fn from(silence: Silence) -> Self {
        match silence {
            Silence::NoAdmin => {
                let missing = "the config has no [admin] table, through which a running proxy is asked";
                Self::NotStarted(anyhow!(missing))
            }
            Silence::Nobody(error) | Silence::Broken(error) => Self::Failed(error),
            Silence::Refused { detail, hint: Some(hint) } => Self::Failed(anyhow!("{detail} (hint: {hint})")),
            Silence::Refused { detail, hint: None } => Self::Failed(anyhow!("{detail}")),
        }
    }
}

/// Tells a proxy that somebody logged in or out, so that it doesn't go on with what it has. One
/// that isn't running finds it out when it starts.
pub(super) async fn tell(settings: &Settings, name: &CredentialName, logged_in: bool) -> Result<()> {
    // Without the key, no proxy has been started on this state directory.
    if !settings.state.join(admin::key::KEY_FILE).exists() {
        return Ok(());
    }
    let told = async {
        ask(settings, Method::POST, &format!("tokens/{name}/forget")).await?;
        if logged_in {
            ask(settings, Method::POST, &format!("tokens/{name}/refresh")).await?;
        }
        Ok(())
    };
    match told.await {
        Ok(()) => output::note(format_args!("the running proxy knows of it")),
        Err(Silence::NoAdmin | Silence::Nobody(_)) => {}
        Err(Silence::Refused { detail, .. }) => {
            output::note(format_args!("warning: the running proxy answered: {}", output::plain(&detail)));
        }
        Err(Silence::Broken(error)) => {
            output::note(format_args!("warning: the running proxy doesn't know of it: {error:#}"));
        }
    }
    Ok(())
}
