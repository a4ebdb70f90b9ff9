//! A login on another device (RFC 8628): a code that a human enters there, and polls here.

use std::time::Duration;

use reqwest::Url;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    credential::{
        error::{Fault, Misbehaviour},
        exchange::{Pending, Question, Reached},
        metadata::EndpointKind,
        request::{self, TokenRequest},
    },
    primitives::Secret,
};

use super::{Prompt, UserCode, Way};

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// Longest code that is shown, in characters.
const MAX_CODE: usize = 64;

/// RFC 8628 §3.2; `verification_url` is Google's name.
#[derive(Deserialize)]
struct Begun {
    device_code: String,
    user_code: String,
    #[serde(alias = "verification_url")]
    verification_uri: String,
    #[serde(alias = "verification_url_complete")]
    verification_uri_complete: Option<String>,
    expires_in: Option<Value>,
    interval: Option<Value>,
}

impl Way<'_> {
    pub(super) async fn by_device(&self, prompt: &dyn Prompt) -> Result<Reached, Fault> {
        let begun = self.begin().await?;
        let pending = Pending::new(begun.interval.as_ref(), begun.expires_in.as_ref());
        prompt.enter(&begun.shown(pending.patience())?);
        let code = Secret::new(begun.device_code);
        let step = self.at.step;
        let question =
            Question { number: self.at.number, step, kind: EndpointKind::Token, scopes: &[], prover: self.prover };
        let make = || {
            let mut request = TokenRequest::new(GRANT_TYPE, step.ask.body, http::Method::POST);
            request.set_secret("device_code", &code).map_err(Fault::settings)?;
            step.ask.fill(&mut request, &[]).map_err(Fault::settings)?;
            Ok(request)
        };
        pending.poll(|| self.exchange.ask_for_token(question, &make)).await
    }

    /// RFC 8628 §3.1, with client authentication and all that the token is to be for.
    async fn begin(&self) -> Result<Begun, Fault> {
        let step = self.at.step;
        let kind = EndpointKind::DeviceAuthorization;
        let question = Question { number: self.at.number, step, kind, scopes: &[], prover: None };
        // What is given anew replaces what the credential asks for.
        let given = |name: &str| self.params.iter().any(|(given, _)| given == name);
        let mut ask = step.ask.clone();
        ask.audience.retain(|_| !given("audience"));
        ask.params.retain(|(name, _)| !given(name));
        ask.params.extend_from_slice(self.params);
        let make = || {
            let mut request = TokenRequest::new("", ask.body, http::Method::POST);
            ask.fill(&mut request, self.scopes).map_err(Fault::settings)?;
            Ok(request)
        };
        let begun = self.exchange.question(question, &make, |heard, request, wall| {
            let begun: Option<Begun> = heard.json(request, wall)?;
            let begun = begun.filter(|begun| !begun.device_code.is_empty() && !begun.user_code.is_empty());
            begun.ok_or_else(|| Fault::protocol(Misbehaviour::Lacks("device_code")))
        });
        begun.await.map(|(begun, _)| begun)
    }
}

impl Begun {
    fn shown(&self, expires_in: Duration) -> Result<UserCode, Fault> {
        let lacks = || Fault::protocol(Misbehaviour::Lacks("verification_uri"));
        Ok(UserCode {
            url: page(&self.verification_uri).ok_or_else(lacks)?,
            code: request::printable(&self.user_code, MAX_CODE),
            complete_url: self.verification_uri_complete.as_deref().and_then(page),
            expires_in,
        })
    }
}

/// A page that a human may be sent to: as a URL is written, nothing in it moves a cursor.
fn page(text: &str) -> Option<String> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "https" | "http"))?;
    Some(url.into())
}
