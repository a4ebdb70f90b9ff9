//! The authorization code grant of a program on this machine: RFC 6749 §4.1 with PKCE (RFC
//! 7636), by a loopback redirect (RFC 8252 §7.3), guarded against mix-up (RFC 9207).

use aws_lc_rs::{digest, rand};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::Url;
use zeroize::Zeroizing;

use crate::{
    credential::{
        error::{Failure, Fault, Misbehaviour, SettingsError},
        exchange::{Question, Reached},
        grant::Redirect,
        metadata::{EndpointKind, Metadata},
        request::{self, TokenRequest},
    },
    primitives::Secret,
};

use super::{
    Page, Prompt, Way,
    callback::{Answer, Callback, Limits},
};

const CHALLENGE_METHOD: &str = "S256";

/// Longest words of a server's that are shown, in characters.
const MAX_CODE: usize = 64;
const MAX_DETAIL: usize = 200;

/// What only we know of a login that is under way.
struct Secrets {
    /// Tells our answer from any other: 256 bits.
    state: Secret,
    /// RFC 7636 §4.1: 43 characters, 256 bits.
    verifier: Secret,
}

impl Way<'_> {
    /// A code by the browser, and what the token endpoint gives for it.
    pub(super) async fn by_browser(&self, redirect: &Redirect, prompt: &dyn Prompt) -> Result<Reached, Fault> {
        let metadata = self.exchange.endpoint(self.at.number)?.metadata().await?;
        check_challenge_methods(&metadata)?;
        let endpoint = metadata
            .url(EndpointKind::Authorization, false)
            .ok_or_else(|| Fault::protocol(Misbehaviour::NoEndpoint(EndpointKind::Authorization.as_str())))?;
        let callback = Callback::bind(redirect, self.exchange.name()).await;
        let callback = callback.map_err(|error| Fault::terminal(Failure::Callback(error)))?;
        let secrets = Secrets::generate()?;
        let redirect_uri = callback.uri();
        let url = self.request_url(endpoint.clone(), &redirect_uri, &secrets);
        let limits = Limits::default();
        prompt.browse(&Page { url: url.into(), redirect_uri: redirect_uri.clone(), expires_in: limits.login });
        let answer = callback.answer(&secrets.state, limits).await;
        let answer = answer.ok_or_else(|| Fault::terminal(Failure::NotApproved("no answer in time")))?;
        let code = judge(&answer, &metadata)?;
        self.redeem(&code, &redirect_uri, &secrets).await
    }

    /// RFC 6749 §4.1.1. A query that the endpoint has already is kept (§3.1).
    fn request_url(&self, mut url: Url, redirect_uri: &str, secrets: &Secrets) -> Url {
        let step = self.at.step;
        let scope = self.scopes.join(" ");
        let challenge = secrets.challenge();
        {
            let mut query = url.query_pairs_mut();
            query.append_pair("response_type", "code");
            query.append_pair("client_id", &step.client.id);
            query.append_pair("redirect_uri", redirect_uri);
            if !scope.is_empty() {
                query.append_pair("scope", &scope);
            }
            query.append_pair("state", secrets.state.expose());
            query.append_pair("code_challenge", &challenge);
            query.append_pair("code_challenge_method", CHALLENGE_METHOD);
            for resource in &step.ask.resource {
                query.append_pair("resource", resource);
            }
            // What is given anew replaces what the credential asks for.
            if !self.params.iter().any(|(name, _)| name == "audience") {
                for audience in &step.ask.audience {
                    query.append_pair("audience", audience);
                }
            }
            if let Some(prover) = self.prover {
                query.append_pair("dpop_jkt", prover.thumbprint());
            }
            for (name, value) in self.params {
                query.append_pair(name, value);
            }
        }
        url
    }

    /// RFC 6749 §4.1.3, with the verifier (RFC 7636 §4.5) and the same `resource`.
    async fn redeem(&self, code: &Secret, redirect_uri: &str, secrets: &Secrets) -> Result<Reached, Fault> {
        let step = self.at.step;
        let question =
            Question { number: self.at.number, step, kind: EndpointKind::Token, scopes: &[], prover: self.prover };
        let make = || {
            let mut request = TokenRequest::new("authorization_code", step.ask.body, http::Method::POST);
            request.set_secret("code", code).map_err(Fault::settings)?;
            request.set("redirect_uri", redirect_uri).map_err(Fault::settings)?;
            request.set_secret("code_verifier", &secrets.verifier).map_err(Fault::settings)?;
            step.ask.fill(&mut request, &[]).map_err(Fault::settings)?;
            Ok(request)
        };
        self.exchange.ask_for_token(question, &make).await
    }
}

/// Metadata that names methods and not ours means that the server would ignore the challenge,
/// or take `plain` only.
fn check_challenge_methods(metadata: &Metadata) -> Result<(), Fault> {
    match &metadata.code_challenge_methods {
        Some(methods) if !methods.iter().any(|method| method == CHALLENGE_METHOD) => {
            Err(Fault::settings(SettingsError::NoPkce))
        }
        Some(_) | None => Ok(()),
    }
}

/// The code, if the answer is one and our server's. Its `state` is ours already. Whose it is
/// comes before what it says: a forged error shows nobody its words.
fn judge(answer: &Answer, metadata: &Metadata) -> Result<Secret, Fault> {
    if answer.repeated {
        return Err(Fault::protocol(Misbehaviour::Redirected("it names a parameter twice")));
    }
    let promised = metadata.names_its_issuer;
    check_issuer(metadata.issuer.as_deref(), promised, answer.iss.as_deref()).map_err(Fault::protocol)?;
    if let Some(code) = &answer.error {
        let detail = answer.error_description.as_deref().unwrap_or_default();
        let (code, detail) = (request::printable(code, MAX_CODE), request::printable(detail, MAX_DETAIL));
        return Err(Fault::terminal(Failure::Refused { code, detail }));
    }
    answer.code.clone().ok_or_else(|| Fault::protocol(Misbehaviour::Redirected("it has no `code`")))
}

/// RFC 9207 §2.4: compared as they stand, with no normalisation. Where no issuer is
/// configured there is nothing to compare with; the redirect's path, which no other credential
/// has, is the guard then (RFC 9700 §4.4.2.2).
fn check_issuer(ours: Option<&str>, promised: bool, theirs: Option<&str>) -> Result<(), Misbehaviour> {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if ours != theirs => {
            Err(Misbehaviour::Redirected("its `iss` isn't the issuer that was asked"))
        }
        (_, None) if promised => {
            Err(Misbehaviour::Redirected("it has no `iss`, which the server's metadata promises (RFC 9207)"))
        }
        (_, Some(_) | None) => Ok(()),
    }
}

// === impl Secrets ===

impl Secrets {
    fn generate() -> Result<Self, Fault> {
        Ok(Self { state: random()?, verifier: random()? })
    }

    /// RFC 7636 §4.2.
    fn challenge(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, self.verifier.expose().as_bytes()))
    }
}

/// 256 bits as 43 characters.
fn random() -> Result<Secret, Fault> {
    let mut bytes = Zeroizing::new([0; 32]);
    rand::fill(&mut *bytes).map_err(|_| Fault::settings(SettingsError::NoRandomness))?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(*bytes)))
}
